"""Asks one process of this container a question on its hook's socket, and waits for the answer.

Imported by the postStart hook, so it imports as little as the preStop hook does.
"""

from __future__ import annotations

import select
import socket
import time

from graceful import rendezvous, wire

TYPE_CHECKING = False  # importing typing costs more than this whole module

__all__ = ["ForeignError", "ask"]


class ForeignError(OSError):
    """What listens there is not of this container; the message says why."""


def ask(address: str, verb: str, deadline: float) -> dict[str, str]:
    """Ask a process, and return what it says of itself.

    Args:
        address: where it listens, as `rendezvous.discover` gives it.
        verb: the question, such as `status`.
        deadline: the monotonic instant until which it may answer.

    Raises:
        ForeignError: it is not of this container.
        TimeoutError: it did not answer in time.
        OSError: it is gone, or broke off.
        wire.WireError: it does not understand the question, or its answer cannot be read.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        if refused := rendezvous.refuse_peer(sock, trust_all_as_root=True):
            raise ForeignError(refused)
        sock.send(wire.encode_first(verb))
        return _answer(sock, verb, deadline)


def _answer(sock: socket.socket, verb: str, deadline: float) -> dict[str, str]:
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    reader, lines = wire.LineReader(), []
    while (left := deadline - time.monotonic()) > 0:
        if not poller.poll(left * 1000 + 1):
            continue
        data = sock.recv(65536)
        lines += reader.feed(data)
        answer = wire.decode_status(lines, verb)
        if answer is not None:
            return answer
        if not data:
            raise OSError("it ended before it had answered")
    raise TimeoutError("it did not answer in time")
