"""Which address of this machine others can reach."""

from __future__ import annotations

import socket

__all__ = ["own_address"]

_ELSEWHERE = ("192.0.2.1", 9)
"""An address that nobody has (TEST-NET-1, RFC 5737)."""


def own_address() -> str:
    """The address that this machine would speak to others from; 127.0.0.1 where it has no network.

    Connecting a UDP socket sends nothing: it only has the kernel choose the route. No name is looked up, since a
    pod's host name may resolve to anything, or hang.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
