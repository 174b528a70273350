"""Which address of this machine others can reach."""

from __future__ import annotations

import socket

__all__ = ["own_address"]

_ELSEWHERE = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)
"""Addresses that nobody has (TEST-NET-1, RFC 5737; the documentation prefix, RFC 3849)."""


def own_address() -> str:
    """The address that this machine would speak to others from; 127.0.0.1 where it has no network.

    IPv4 if it has that, else IPv6. Connecting a UDP socket sends nothing: it only has the kernel choose the route. No
    name is looked up, since a pod's host name may resolve to anything, or hang.
    """
    for family, elsewhere in _ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(elsewhere)
                return str(probe.getsockname()[0])
        except OSError:  # no route, or a kernel without this family
            continue
    return "127.0.0.1"
