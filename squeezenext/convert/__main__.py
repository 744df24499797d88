"""`python -m squeezenext.convert`."""

import sys

from squeezenext.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
