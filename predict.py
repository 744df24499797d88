"""Names what is in images; see squeezenext/predict/command.py."""

import sys

from squeezenext.predict.command import main

if __name__ == "__main__":
    sys.exit(main())
