"""`python -m squeezenext.evaluate`."""

import sys

from squeezenext.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
