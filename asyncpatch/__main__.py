"""`python -m asyncpatch` is the command `asyncpatch`."""

import sys

from asyncpatch.cli import main

if __name__ == '__main__':
    sys.exit(main())
