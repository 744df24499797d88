"""`python -m squeezenext.doctor`."""

import sys

from squeezenext.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
