"""`python -m graceful`."""

import sys

if not sys.flags.safe_path:
    # `-m` puts the working directory first, where a user's queue.py would be taken for Python's. Last, it still gives
    # what is found nowhere else; the module that a command is about is looked for there first all the same.
    sys.path.append(sys.path.pop(0))

from graceful.cli import exit_with, main

if __name__ == "__main__":
    exit_with(main())
