"""`python -m squeezenext.compress`."""

import sys

from squeezenext.compress.command import main

if __name__ == "__main__":
    sys.exit(main())
