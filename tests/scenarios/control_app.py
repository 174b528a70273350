"""An app as its preStop hook meets it, told by its first argument how to behave.

1. It listens for its hook and prints `listening`.
2. It prints `prestop <elapsed> <grace>` when a hook asks it to leave, and what became of the hook: `answered`, `lost`.
3. It behaves as told:
   - `leave`: what comes on stdin is said to the hook (`say …`), and ends the wait (`done …`, `failed …`);
   - `refuse`: it has a fault and cannot leave;
   - `deaf`: it never accepts a connection, like a process that is stopped;
   - `mute`: it accepts and never says a word;
   - `trickle`: it says a byte now and then, and never ends a line;
   - `garbage`: it answers in another protocol;
   - `silent`: it says that it leaves within 0.2 s, and nothing after that;
   - `die`: it says that it leaves, and dies.
4. It ends when stdin does.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import anyio
from anyio.from_thread import start_blocking_portal

from graceful import listener, rendezvous
from graceful.control import serve_control

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

TRICKLE_DELAY = 0.05


def tell(*words: object) -> None:
    print(*words, flush=True)


class Leaver:
    """One leave for all hooks; a session for each."""

    def __init__(self, *, fault: bool) -> None:
        self.fault = fault
        self.lines: list[str] = []
        self.changed = anyio.Event()

    def describe(self) -> dict[str, str]:
        return {"phase": "serving", "instance": "orders/a b"}

    def drain_by_hand(self, *, pod: bool) -> Session:
        tell("drain", "pod" if pod else "process")
        return self.prestop(elapsed=0.0, grace=None)

    def prestop(self, *, elapsed: float, grace: float | None) -> Session:
        tell("prestop", elapsed, grace)
        if self.fault:
            raise RuntimeError("a fault of the app")
        return Session(self)

    def hear(self, line: str) -> None:
        self.lines.append(line)
        self.changed.set()
        self.changed = anyio.Event()


class Session:
    within = 60.0

    def __init__(self, leaver: Leaver) -> None:
        self._leaver = leaver

    async def messages(self) -> AsyncIterator[str]:
        told = 0
        while True:
            for line in self._leaver.lines[told:]:
                told += 1
                if not line.startswith("say "):
                    return
                yield line.removeprefix("say ")
            await self._leaver.changed.wait()

    def summary(self) -> tuple[bool, str]:
        kind, _, text = self._leaver.lines[-1].partition(" ")
        return kind == "done", text

    def answered(self) -> None:
        tell("answered")

    def lost(self) -> None:
        tell("lost")


def leave(address: str, *, fault: bool) -> None:
    with start_blocking_portal() as portal:
        leaver = Leaver(fault=fault)
        serving, _ = portal.start_task(
            lambda task_status: serve_control(leaver, address=address, task_status=task_status)
        )
        tell("listening")
        for line in sys.stdin:
            portal.call(leaver.hear, line.strip())
        serving.cancel()


def misbehave(address: str, how: str) -> None:
    """Answer one hook by hand, wrongly."""
    ended = threading.Event()
    with listener.listening(address) as sock:
        sock.setblocking(True)
        tell("listening")
        if how != "deaf":
            threading.Thread(target=answer, args=(sock, how, ended), daemon=True).start()
        sys.stdin.read()
        ended.set()


def answer(sock: socket.socket, how: str, ended: threading.Event) -> None:
    connection, _ = sock.accept()
    tell("prestop", connection.recv(4096).decode().strip())
    if how == "garbage":
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    if how in {"silent", "die"}:
        connection.sendall(b"graceful/1 leaving within=0.200\n")
    if how == "die":
        os._exit(1)
    while how == "trickle" and not ended.wait(TRICKLE_DELAY):
        connection.sendall(b"x")
    ended.wait()


def main() -> None:
    how = sys.argv[1]
    address = rendezvous.own_address(os.environ)
    assert address is not None
    if how in {"leave", "refuse"}:
        leave(address, fault=how == "refuse")
    else:
        misbehave(address, how)


if __name__ == "__main__":
    main()
