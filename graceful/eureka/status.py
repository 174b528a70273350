"""Taking an instance out of Eureka: on every server at once, read back, and retried until it is so.

Nothing here can make an instance UP. It works the same whoever has registered the instance.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from random import Random
from typing import TYPE_CHECKING

import anyio

from graceful.core.calls import CallJournal
from graceful.core.registry import ServerResult, Verdict
from graceful.eureka.backoff import pauses
from graceful.eureka.broadcast import everywhere, once_settled, try_once
from graceful.eureka.published import Publication
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.eureka.trying import trying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from graceful.core.registry import RegistryOutcome
    from graceful.eureka.broadcast import Attempt

__all__ = ["REPLICATION_DELAY", "UNANSWERED_DELAY", "StatusManager", "now_ms"]

logger = logging.getLogger("graceful.eureka")

_WITHDRAWN = frozenset({None, Status.OUT_OF_SERVICE, Status.DOWN})
"""What callers do not send requests to. UNKNOWN and STARTING are not in it: a heartbeat turns them into UP."""

REPLICATION_DELAY = 1.0
"""Seconds after which a peer has heard of a change if it ever will (0.1 to 0.6 s between two real servers)."""

UNANSWERED_DELAY = 5.0
"""Seconds that a server which gave no answer may take to do what it was told: a garbage collection, a full queue."""

_LOOK_INTERVAL = 0.25
"""Seconds between two looks at a server while something may still be on its way to it."""


def now_ms() -> int:
    """The wall clock as Eureka wants it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class StatusManager:
    """The status of one instance on every server.

    No method raises for a server that is down or refuses. All run on one event loop.

    Args:
        servers: every server of the registry.
        app: the application's name.
        instance_id: the instance.
        recheck_interval: the longest pause in seconds between two looks at a server in `keep_withdrawn`.
        cache_interval: of the servers' response cache, in seconds, for `until_published`; None if it is not asked for.
        random: shortens pauses, so that many instances do not retry in step.
        journal: where every try is entered.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        app: str,
        instance_id: str,
        *,
        recheck_interval: float = 5.0,
        cache_interval: float | None = None,
        random: Random | None = None,
        journal: CallJournal | None = None,
    ) -> None:
        if not servers:
            raise ValueError("there is no Eureka server: give at least one URL")
        self.servers = tuple(servers)
        self._app = app
        self._instance_id = instance_id
        self._recheck_interval = recheck_interval
        self._random = random or Random()  # noqa: S311 - jitter is no secret
        self._journal = journal or CallJournal()
        self._withdrawn: set[Server] = set()
        self._publication = Publication(self.servers, app, instance_id, interval=cache_interval, random=self._random)
        self._silent: set[Server] = set()
        self._settled_at = -math.inf

    def unsettle(self, seconds: float = REPLICATION_DELAY) -> None:
        """Reckon for so long with an instance that comes back: `deregister` goes on looking for it.

        Called here when an instance has come back, or a server that gave no answer; by whoever sends registrations and
        heartbeats, after each. It costs a leave no time that lets callers' caches expire: all that was longer ago.

        Args:
            seconds: how long what was sent until now may be on its way; by default, from server to server.
        """
        self._settled_at = max(self._settled_at, anyio.current_time() + seconds)

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of every change so far."""
        return self._journal.told

    async def prepare(self) -> None:
        """Have everything there that a withdrawal needs: for those who change nothing before the leave."""
        async with anyio.create_task_group() as tasks:
            for server in self.servers:
                tasks.start_soon(server.prepare)

    async def withdraw(self, deadline: float, settled: Callable[[], bool] = lambda: True) -> RegistryOutcome:
        """Set OUT_OF_SERVICE on every server and read it back; retry until every server is verified, or `deadline`.

        A server is verified when it reads absent, OUT_OF_SERVICE or DOWN.

        Args:
            deadline: an instant of the event loop's clock.
            settled: whether no registration is on its way any more.
        """
        outcome = await self._everywhere("withdraw", once_settled(self._withdraw_once, settled), deadline)
        self._log("withdraw", "out of service", outcome)
        return outcome

    async def see_withdrawn(self, deadline: float) -> RegistryOutcome:
        """Read until every server has it absent, OUT_OF_SERVICE or DOWN, or `deadline`: another process changes it."""
        return await self._everywhere("see withdrawn", self._see_withdrawal, deadline)

    async def see_absent(self, deadline: float) -> RegistryOutcome:
        """Read until it is absent from every server, or `deadline`: another process deletes it."""
        return await self._everywhere("see absent", self._absence_seen, deadline)

    async def keep_withdrawn(self) -> None:
        """Retry the servers that did not verify, and look after the others, until cancelled.

        A registration that was still on its way, or a peer that had missed the change, can bring the instance back:
        every server is read again, soon at first and then every `recheck_interval`, and withdrawn again if need be.
        """
        async with anyio.create_task_group() as tasks:
            for server in self.servers:
                tasks.start_soon(self._keep_withdrawn_on, server)

    async def until_published(self) -> float:
        """Wait until every server shows the withdrawal to its callers; see `graceful.eureka.published`.

        Beside `keep_withdrawn`, which sees to it that every server has it. Does not return, until cancelled, unless
        that is certain of every server.
        """
        return await self._publication.until_published()

    async def deregister(self, deadline: float, settled: Callable[[], bool] = lambda: True) -> RegistryOutcome:
        """Delete the instance from every server and confirm that it is absent, or give up at `deadline`.

        One DELETE for each server; another only if the first was not answered, or if the instance is still, or again,
        there. Where something may still be on its way (see `unsettle`), the servers are looked at until it must have
        arrived or `deadline`; else this returns with the first confirmation of each.

        Args:
            deadline: an instant of the event loop's clock.
            settled: as of `withdraw`.
        """
        attempt = once_settled(self._deletion(), settled)
        outcome = await self._everywhere("deregister", attempt, deadline, came_back=self._came_back)
        self._log("deregister", "deregistered", outcome)
        return outcome

    async def clear(self, deadline: float, servers: Iterable[Server] | None = None) -> set[Server]:
        """Delete what a former life left behind, and confirm that it is absent; what is absent already is left alone.

        Deleting takes a status override with it, which would otherwise keep a new life out of service for ever. It is
        deleted on one server, and on another only where it is still there when peers must have heard of it: a second
        deletion would be replicated back, and could meet the new registration.

        Args:
            deadline: an instant of the event loop's clock.
            servers: the ones to clear; by default all.

        Returns:
            The servers that did not confirm by then.
        """
        chosen = tuple(self.servers if servers is None else servers)
        outcome = await self._everywhere("clear", self._clearance(), deadline, servers=chosen)
        if outcome.verdict is not Verdict.VERIFIED_ALL:
            self._log("clear", "cleared of what a former life may have left", outcome)
        return {server for server, result in zip(chosen, outcome.servers, strict=True) if not result.verified}

    async def _everywhere(
        self,
        operation: str,
        attempt: Attempt,
        deadline: float,
        *,
        servers: Sequence[Server] | None = None,
        came_back: Callable[[Server], Awaitable[bool]] | None = None,
    ) -> RegistryOutcome:
        return await everywhere(
            self.servers if servers is None else servers,
            operation,
            attempt,
            deadline,
            journal=self._journal,
            random=self._random,
            came_back=came_back,
        )

    async def _read(self, server: Server) -> Status | None:
        """What the server says of the instance; one that was silent may yet do what it was told meanwhile."""
        try:
            status = await server.read(self._app, self._instance_id)
        except EurekaError:
            self._silent.add(server)
            raise
        if server in self._silent:
            self._silent.discard(server)
            self.unsettle()
        return status

    async def _came_back(self, server: Server) -> bool:
        """Look until everything must have arrived; whether the instance is there again."""
        while anyio.current_time() < self._settled_at:
            await anyio.sleep(_LOOK_INTERVAL)
            # No answer is no news: that it was absent still stands.
            with contextlib.suppress(EurekaError):
                if await self._read(server) is not None:
                    return True
        return False

    async def _withdraw_once(self, server: Server) -> ServerResult:
        """One status change, and what the server says afterwards: the change's own answer proves nothing."""
        await self._publication.look_first(server)
        refusal = ""
        try:
            await server.set_status(self._app, self._instance_id, Status.OUT_OF_SERVICE, now_ms())
        except EurekaError as error:
            refusal = f" (the status change: {error.reason})"
        return await self._withdrawal_seen(server, refusal)

    async def _see_withdrawal(self, server: Server) -> ServerResult:
        """One look at what another process changes, and before it at what callers are shown: UP, if it is in time."""
        await self._publication.look_first(server)
        return await self._withdrawal_seen(server)

    async def _withdrawal_seen(self, server: Server, remark: str = "") -> ServerResult:
        try:
            status = await self._read(server)
        except EurekaError as error:
            self._withdrawn.discard(server)
            return ServerResult(server.name, verified=False, detail=error.reason)
        if status in _WITHDRAWN:
            self._withdrawn.add(server)
            self._publication.withdrawn(server)
            return ServerResult(server.name, verified=True, detail=status or "absent")
        self._withdrawn.discard(server)
        return ServerResult(server.name, verified=False, detail=f"{status}{remark}")

    async def _absence_seen(self, server: Server) -> ServerResult:
        try:
            status = await self._read(server)
        except EurekaError as error:
            return ServerResult(server.name, verified=False, detail=error.reason)
        return ServerResult(server.name, verified=status is None, detail=status or "absent")

    async def _keep_withdrawn_on(self, server: Server) -> None:
        waits = self._rechecks()
        while True:
            await anyio.sleep(next(waits))
            if server in self._withdrawn:
                if await self._still_withdrawn(server):
                    continue
                waits = self._rechecks()
            result = await try_once(self._journal, "withdraw again", self._withdraw_once, server)
            if result.verified:
                logger.info(
                    "out of service on %s: %s", server.name, result.detail, extra=_extra("recheck", server.name)
                )

    def _rechecks(self) -> Iterator[float]:
        return pauses(self._random, first=0.5, ceiling=self._recheck_interval)

    async def _still_withdrawn(self, server: Server) -> bool:
        try:
            with trying(self._journal, "look again", server) as this:
                status = await self._read(server)
                this.ends(status or "absent", verified=status in _WITHDRAWN)
        except EurekaError as error:
            # What it said before still stands: a server that cannot be reached tells nobody anything new.
            logger.debug("cannot look again: %s", error, extra=_extra("recheck", server.name))
            return True
        if status in _WITHDRAWN:
            return True
        self.unsettle()
        logger.warning(
            "%s is %s again on %s while leaving: taking it out of service again",
            self._instance_id,
            status,
            server.name,
            extra=_extra("recheck", server.name),
        )
        return False

    def _deletion(self) -> Attempt:
        """Delete and read; delete again only where that was not answered, or where the instance is seen afterwards."""
        deleted: set[Server] = set()

        async def attempt(server: Server) -> ServerResult:
            try:
                if server not in deleted:
                    await server.deregister(self._app, self._instance_id)
                    deleted.add(server)
                status = await self._read(server)
            except EurekaError as error:
                return ServerResult(server.name, verified=False, detail=error.reason)
            if status is None:
                return ServerResult(server.name, verified=True, detail="absent")
            deleted.discard(server)
            self.unsettle()
            self._log_finding("still there, or there again", status, server)
            return ServerResult(server.name, verified=False, detail=status)

        return attempt

    def _clearance(self) -> Attempt:
        """Read, delete on the first server that has it, and on another only where the peers' word does not do it."""
        others_may_delete_at: float | None = None

        async def attempt(server: Server) -> ServerResult:
            nonlocal others_may_delete_at
            deleting = False
            try:
                status = await self._read(server)
                if status is None:
                    return ServerResult(server.name, verified=True, detail="absent")
                now = anyio.current_time()
                if others_may_delete_at is None or now >= others_may_delete_at:
                    others_may_delete_at, deleting = now + REPLICATION_DELAY, True
                    self._log_finding("left behind by a former life", status, server)
                    await server.deregister(self._app, self._instance_id)
            except EurekaError as error:
                others_may_delete_at = None if deleting else others_may_delete_at
                return ServerResult(server.name, verified=False, detail=error.reason)
            return ServerResult(server.name, verified=False, detail=status)

        return attempt

    def _log_finding(self, finding: str, status: Status, server: Server) -> None:
        logger.warning(
            "%s is %s on %s, %s: deleting it",
            self._instance_id,
            status,
            server.name,
            finding,
            extra=_extra("delete", server.name),
        )

    def _log(self, operation: str, what: str, outcome: RegistryOutcome) -> None:
        level = logging.INFO if outcome.verdict is Verdict.VERIFIED_ALL else logging.WARNING
        extra = {"eureka_operation": operation, "eureka_verdict": outcome.verdict.value}
        logger.log(level, "%s %s: %s", self._instance_id, what, outcome, extra=extra)


def _extra(operation: str, server: str) -> dict[str, str]:
    return {"eureka_operation": operation, "eureka_server": server}
