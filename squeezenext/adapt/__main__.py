"""`python -m squeezenext.adapt`."""

import sys

from squeezenext.adapt.command import main

if __name__ == "__main__":
    sys.exit(main())
