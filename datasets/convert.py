"""`python -m datasets.convert`: see squeezenext/convert/command.py."""

import sys

from squeezenext.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
