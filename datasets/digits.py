"""`python -m datasets.digits`: see squeezenext/convert/digits.py."""

import sys

from squeezenext.convert.digits import main

if __name__ == "__main__":
    sys.exit(main())
