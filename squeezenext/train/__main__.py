"""`python -m squeezenext.train`."""

import sys

from squeezenext.train.command import main

if __name__ == "__main__":
    sys.exit(main())
