"""`python -m squeezenext.export`."""

import sys

from squeezenext.export.command import main

if __name__ == "__main__":
    sys.exit(main())
