"""`python -m raytransfer` is `raytransfer`."""

import sys

from raytransfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
