"""Which of a container's processes owns a name: the kernel says it, and forgets it with the process.

The owner listens on the name and never accepts. Whoever else wants it connects, and is told by the end of that
connection that the owner has gone, or has let go: a listener that is closed ends what waits in its queue too. Nobody
polls, and nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from graceful import rendezvous
from graceful.listener import owned

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Ownership"]

logger = logging.getLogger("graceful.siblings")

_BACKLOG: Final = 1024
"""Processes that can wait for one owner; the kernel's own limit is 4096 (`net.core.somaxconn`)."""

_RETRY_DELAY: Final = 0.02
_LONGEST_RETRY_DELAY: Final = 1.0
"""Seconds between two tries while the owner cannot be waited for: it has just gone, or only just come."""


class Ownership:
    """A name that one process at a time has. To be used in one event loop.

    Args:
        address: an abstract name, or the path of a socket file; None where this system has neither. Every process is
            an owner then.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._resources = contextlib.ExitStack()
        self._taken: anyio.Event | None = None
        self._said = False
        self.held = False
        """Whether this process has the name."""

    def take(self) -> bool:
        """Take the name if nobody has it; whether this process has it now."""
        if not self.held:
            try:
                if self._address is None:
                    self._without("this system has no abstract sockets, and GRACEFUL_RUNTIME_DIR is not set")
                else:
                    self._resources.enter_context(_listening(self._address))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EAGAIN):
                    return False
                self._without(f"{rendezvous.show_address(self._address or '')}: {error.strerror}")
            self._have()
        return True

    async def own(self) -> None:
        """Return when this process has the name."""
        pause = _RETRY_DELAY
        while not self.take():
            with owned(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
                sock.setblocking(False)
                if sock.connect_ex(self._address or "") == 0:
                    if refused := rendezvous.refuse_peer(sock):
                        self._without(f"it is taken by a stranger: {refused}")
                        self._have()
                        return
                    await anyio.wait_readable(sock)
                    pause = _RETRY_DELAY
                    continue
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_DELAY)

    async def until_held(self) -> None:
        """Return when this process has the name, for whoever does not ask for it."""
        while not self.held:
            self._taken = self._taken or anyio.Event()
            await self._taken.wait()

    def let_go(self) -> None:
        """Give the name up: one of those that wait for it has it next."""
        self.held = False
        self._resources.close()

    def _have(self) -> None:
        self.held = True
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.set()

    def _without(self, why: str) -> None:
        if not self._said:
            logger.warning("several workers would each register and deregister this instance: %s", why)
        self._said = True


@contextlib.contextmanager
def _listening(address: str) -> Iterator[None]:
    """Listen on the name.

    Raises:
        OSError: with EADDRINUSE or EAGAIN if another process has it.
    """
    with contextlib.ExitStack() as resources:
        if not address.startswith("\0"):
            resources.enter_context(_locked(address))
        sock = resources.enter_context(owned(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)))
        sock.bind(address)
        sock.listen(_BACKLOG)
        yield


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Lock a file beside a socket file, which outlives its process: who has the lock may take the old one's place."""
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with owned(Path(f"{path}.lock").open("wb")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Path(path).unlink(missing_ok=True)
        yield
