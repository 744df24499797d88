"""`python -m datasets.verify`: see squeezenext/convert/verify.py."""

import sys

from squeezenext.convert.verify import main

if __name__ == "__main__":
    sys.exit(main())
