"""When a service is ready: its start-up is done, its own port accepts connections, and its checks pass.

A port may accept long before anybody serves: a worker of gunicorn has the listening socket from its parent, and callers
wait in its backlog. Where the port accepts at the very first look, `install()` has come after it: the application has
yet to be imported, and to start.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

import anyio

from graceful.core.callbacks import CallbackOutcome
from graceful.loading import Imports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.calling import AppCaller
    from graceful.core.callbacks import RegisteredCallback

__all__ = ["Readiness", "listens_here"]

logger = logging.getLogger("graceful.readiness")

_POLL: Final = 0.05
_SLOWEST_POLL: Final = 1.0
_CONNECT_TIMEOUT: Final = 1.0
_REMINDER: Final = 30.0
_LIFESPAN_PATIENCE: Final = 10.0
"""Seconds from the end of the import to the beginning of the application's start-up, in a server that had its listener
before. One that is told not to run a lifespan (uvicorn's `--lifespan off`) shows by nothing that it serves."""


class Readiness:
    """Tells whether the service is ready.

    Args:
        caller: calls the user's checks.
        port: the service's own port; None where it has none.
        hosts: addresses of this machine on which the port is tried, in order.
        serves_app: whether an application is served, whose start-up counts.
        check_timeout: seconds for a check without a timeout of its own.
    """

    def __init__(
        self,
        caller: AppCaller,
        *,
        port: int | None = None,
        hosts: Sequence[str] = ("127.0.0.1", "::1"),
        serves_app: bool = False,
        check_timeout: float = 1.0,
    ) -> None:
        self._caller = caller
        self._port = port
        self._hosts = tuple(hosts)
        self._check_timeout = check_timeout
        self.serves_app = serves_app
        self.has_lifespan = True
        self.imports = Imports()
        self.checks: list[RegisteredCallback] = []
        self.reset()

    def reset(self) -> None:
        """Begin a new life: nothing has started yet. The checks stay."""
        self.starting = False
        self.started = False
        self.by_hand = False
        self._listened_before: bool | None = None
        self._imported_at: float | None = None

    async def wait(self) -> None:
        """Return once the service is ready. A service that stays unready says why every half a minute."""
        pause, next_reminder = _POLL, anyio.current_time() + _REMINDER
        while (reason := await self.reason_not_ready()) is not None:
            if anyio.current_time() >= next_reminder:
                logger.warning("not ready yet, so not announced: %s", reason)
                next_reminder = anyio.current_time() + _REMINDER
            await anyio.sleep(pause)
            pause = min(pause * 1.2, _SLOWEST_POLL if self.started else _POLL)

    async def reason_not_ready(self) -> str | None:
        """Why the service is not ready, or None when it is."""
        if not self.by_hand:
            if self.starting and not self.started:
                return "the application's start-up has not completed"
            if self._port is not None:
                reason = await self._reason_not_served(self._port)
                if reason is not None:
                    return reason
            elif not (self.serves_app and self.started):
                return "no port was given, so readiness must be said by coordinator.ready()"
        return await self.failing_check()

    async def _reason_not_served(self, port: int) -> str | None:
        reason = await _reason_not_accepting(self._hosts, port)
        if self._listened_before is None:
            self._listened_before = reason is None
        if reason is None and self._listened_before and not self.started:
            return self._reason_not_begun(anyio.current_time())
        return reason

    def _reason_not_begun(self, now: float) -> str | None:
        if not self.imports.over():
            return "the application is still being imported"
        self._imported_at = now if self._imported_at is None else self._imported_at
        if self.serves_app and self.has_lifespan and now < self._imported_at + _LIFESPAN_PATIENCE:
            return "the application's start-up has not begun"
        return None

    async def failing_check(self) -> str | None:
        """The first of the user's checks that fails now, and why; None when all pass."""
        for check in self.checks:
            limit = check.timeout if check.timeout is not None else self._check_timeout
            record, value = await self._caller.call_for_value(check, limit)
            if record.outcome is not CallbackOutcome.COMPLETED:
                return f"readiness check {record}"
            if value is False:
                return f"readiness check {check.name} returned False"
        return None


async def _reason_not_accepting(hosts: Sequence[str], port: int) -> str | None:
    if listens_here(port) is False:
        # Somebody else may accept there (the old process, a neighbour): announcing would send callers to them.
        return f"this process does not listen on port {port}"
    for host in hosts:
        with contextlib.suppress(OSError), anyio.move_on_after(_CONNECT_TIMEOUT):
            stream = await anyio.connect_tcp(host, port)
            await stream.aclose()
            return None
    return f"port {port} does not accept connections on {' or '.join(hosts)}"


def listens_here(port: int) -> bool | None:
    """Whether this very process has a listening TCP socket on a port (Linux), or None where that cannot be seen.

    `/proc/net/tcp` lists the sockets of the network namespace (state 0A is LISTEN, see proc(5)); this process' own
    are among its file descriptors. A worker that was handed its parent's socket has it there too.
    """
    try:
        inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
        if not inodes:
            return False
        mine = set()
        for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208  names only, no paths needed
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as listdir's own is
                mine.add(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
    except OSError:
        return None
    return any(f"socket:[{inode}]" in mine for inode in inodes)


def _listening_inodes(table: str, port: int) -> list[str]:
    suffix = f":{port:04X}"
    try:
        with open(f"/proc/self/net/{table}", encoding="ascii") as lines:  # noqa: PTH123  a few hundred bytes of procfs
            rows = [line.split() for line in lines]
    except FileNotFoundError:
        if table == "tcp6":  # a kernel without IPv6
            return []
        raise
    return [row[9] for row in rows[1:] if row[3] == "0A" and row[1].endswith(suffix)]
