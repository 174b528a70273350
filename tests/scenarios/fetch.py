"""One request from a process of its own. Usage: `-m tests.scenarios.fetch PORT PATH`; prints status, close and body."""

import sys

from tests.children import get

if __name__ == "__main__":
    print(*get(int(sys.argv[1]), sys.argv[2]))
