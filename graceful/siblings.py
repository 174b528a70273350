"""The processes of this container that serve the same instance: who they are, what they do, and which one owns it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from graceful import rendezvous, wire
from graceful.core.siblings import Sibling
from graceful.listener import owned
from graceful.ownership import Ownership

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Siblings", "starting_workers"]

logger = logging.getLogger("graceful.siblings")

_ANSWER_TIMEOUT: Final = 0.4
"""Seconds for the siblings to say what they are doing: a thread of its own answers, whatever the application does."""


class Siblings:
    """The other processes of this container that serve the same instance. To be used in one event loop.

    Args:
        instance: what they serve: those that describe themselves with the same `instance` are siblings.
        environ: says where the processes of this container meet.
    """

    def __init__(self, instance: str, environ: Mapping[str, str]) -> None:
        self.instance = instance
        self._environ = environ
        self.ownership = Ownership(_owner_address(environ, instance))

    async def look(self) -> list[Sibling]:
        """Ask every sibling what it is doing, all at once.

        One that listens but does not answer is among them, marked as such; so is, as starting, a worker of the same
        parent that has not come as far as listening.
        """
        answers: dict[int, Sibling | None] = {}
        asked = self._addresses()
        with anyio.move_on_after(_ANSWER_TIMEOUT):
            async with anyio.create_task_group() as tasks:
                for pid, address in asked.items():
                    tasks.start_soon(self._ask, pid, address, answers)
        silent = asked.keys() - answers.keys()
        if silent:
            silent &= self._addresses().keys()  # who is gone meanwhile has nothing more to say
        return [
            *(sibling for sibling in answers.values() if sibling is not None),
            *(Sibling(pid=pid, answered=False) for pid in silent),
            *(Sibling(pid=pid) for pid in starting_workers(asked.keys() | {os.getpid()})),
        ]

    def _addresses(self) -> dict[int, str]:
        try:
            addresses = {rendezvous.address_pid(each): each for each in rendezvous.discover(self._environ)}
        except OSError as error:
            logger.debug("the other processes cannot be seen: %s", error)
            return {}
        addresses.pop(os.getpid(), None)
        return addresses

    async def _ask(self, pid: int, address: str, answers: dict[int, Sibling | None]) -> None:
        """Enter what a process answers; None for one that is no sibling. One that breaks off has not answered."""
        with owned(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock, suppress(OSError, ValueError):
            sock.setblocking(False)
            sock.connect(address)
            if rendezvous.refuse_peer(sock):
                answers[pid] = None
                return
            sock.send(wire.encode_first("status"))
            if (words := await _status(sock)) is not None:
                mine = words.get("instance") == self.instance
                answers[pid] = Sibling.described(pid, words) if mine else None


def _owner_address(environ: Mapping[str, str], instance: str) -> str | None:
    try:
        return rendezvous.owner_address(environ, instance)
    except ValueError as error:  # the directory's name is too long: what listens for the hook says so, too
        logger.debug("no name for the owner: %s", error)
        return None


async def _status(sock: socket.socket) -> dict[str, str] | None:
    """Read the answer to `status`; None if the other side broke off.

    Raises:
        OSError: the connection broke.
        wire.WireError: what came is no such answer.
    """
    reader, lines = wire.LineReader(), list[bytes]()
    while True:
        await anyio.wait_readable(sock)
        data = sock.recv(wire.LINE_LIMIT)
        lines += reader.feed(data)
        status = wire.decode_status(lines)
        if status is not None or not data:
            return status


# --- workers that were only just started ----------------------------------------------------------------------------


def starting_workers(known: set[int]) -> Iterator[int]:
    """Yield the processes that our parent started after us, in the same way, and that are not among the known ones.

    A parent that reloads starts new workers and ends the old ones in the same moment: an old one must not take itself
    for the last because the new ones are still importing the application. Only children of a parent that multiplies
    itself are looked at: forked without a new program (gunicorn), or started by `multiprocessing` (uvicorn).
    """
    parent, me = os.getppid(), _looks(os.getpid())
    if me is None or not _is_worker(me.command, parent):
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in known:
            continue
        process = _looks(int(entry.name))
        if process and process.parent == parent and process.began > me.began and process.command == me.command:
            yield int(entry.name)


class _Process:
    """What `/proc` says of a process.

    Attributes:
        parent: the process id of its parent.
        began: its start in clock ticks since boot.
        command: its command line, without the numbers in it, which are descriptors that differ.
    """

    def __init__(self, stat: bytes, command: bytes) -> None:
        fields = stat.rpartition(b")")[2].split()  # the second field, the program's name, may contain spaces
        self.running = fields[0] not in b"ZX"
        self.parent = int(fields[1])
        self.began = int(fields[19])
        self.command = re.sub(rb"\d+", b"", command)


def _looks(pid: int) -> _Process | None:
    """What a process looks like; None if it is gone, or there is no /proc."""
    try:
        directory = Path(f"/proc/{pid}")
        process = _Process((directory / "stat").read_bytes(), (directory / "cmdline").read_bytes())
    except (OSError, ValueError, IndexError):
        return None
    return process if process.running else None


def _is_worker(command: bytes, parent: int) -> bool:
    if multiprocessing.parent_process() is not None:
        return True
    if command.startswith(b"gunicorn: worker"):  # with setproctitle, master and worker name themselves
        return True
    above = _looks(parent)
    return above is not None and above.command == command
