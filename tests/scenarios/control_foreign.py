"""A process of another container tries to make an app leave.

1. It is started in a mount namespace of its own, and is given the abstract name on which the app listens.
2. It connects and asks the app to leave, in the right words.
3. The app must close the connection without a word; then this exits 0.
"""

from __future__ import annotations

import socket
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect("\0" + sys.argv[1])
        try:
            sock.sendall(b"graceful/1 prestop elapsed=0 grace=30\n")
            answer = sock.recv(100)
        except ConnectionError:
            answer = b""
    print(answer or "no answer")
    return 1 if answer else 0


if __name__ == "__main__":
    sys.exit(main())
