"""Seeing to it that an instance which somebody else registers is UP once its service is ready."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING

import anyio

from graceful.core.calls import CallJournal
from graceful.eureka.backoff import pauses
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.eureka.sleeping import Sleeper
from graceful.eureka.status import now_ms
from graceful.eureka.trying import trying

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graceful.eureka.rest import View

__all__ = ["UpWatch", "left_out_of_service"]

logger = logging.getLogger("graceful.eureka")

_PATIENCE = 5.0
"""Seconds that whoever registers the instance may take after it is ready before an alarm is raised."""


class UpWatch:
    """Looks whether an instance is UP, on every server, and clears what a former life left over its head.

    Its connections are its own and are closed for good by `freeze`: a clearing makes the instance UP. All methods but
    `freeze` belong to one asyncio event loop.

    Args:
        servers: every server of the registry, each with connections that nobody else uses.
        app: the application's name.
        instance_id: the instance.
        clear_former: whether an OUT_OF_SERVICE that is found before the first UP is cleared. It is cleared once: one
            that appears later is an operator's.
        interval: seconds between two looks once it is UP; the longest pause until then is 5 s.
        random: for jitter.
        journal: where every clearing is entered.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        app: str,
        instance_id: str,
        *,
        clear_former: bool = True,
        interval: float = 30.0,
        random: Random | None = None,
        journal: CallJournal | None = None,
    ) -> None:
        self._servers = tuple(servers)
        self._app = app
        self._instance_id = instance_id
        self._clear_former = clear_former
        self._interval = interval
        self._random = random or Random()  # noqa: S311 - jitter is no secret
        self._journal = journal or CallJournal()
        self._not_up_yet = set(self._servers)
        self._clearable = set(self._servers) if clear_former else set()
        self._clearing = 0
        self._alarm = ""
        self._sleeper = Sleeper()

    @property
    def seen_up(self) -> bool:
        """Whether a server was seen to have the instance UP."""
        return len(self._not_up_yet) < len(self._servers)

    @property
    def settled(self) -> bool:
        """Whether nothing that makes the instance UP is on its way."""
        return not self._clearing

    def freeze(self) -> None:
        """End watching for good. Thread-safe, idempotent; a call that is being sent just now comes to its end."""
        self._sleeper.end()
        for server in self._servers:
            server.close()

    async def run(self) -> None:
        """Look again and again, until cancelled or frozen."""
        alarm_at = anyio.current_time() + _PATIENCE
        waits = pauses(self._random, first=min(0.5, self._interval), ceiling=min(5.0, self._interval))
        while not self._sleeper.ended:
            findings = await self._look_everywhere()
            if not findings:
                self._report_up()
            elif anyio.current_time() >= alarm_at or self._is_left(findings):
                self._report(findings)
            await self._sleeper.sleep(next(waits) if self._not_up_yet else self._interval)

    async def _look_everywhere(self) -> dict[Server, str]:
        """What each server says instead of UP."""
        findings: dict[Server, str] = {}
        async with anyio.create_task_group() as tasks:
            for server in self._servers:
                tasks.start_soon(self._look, server, findings)
        return {server: findings[server] for server in self._servers if server in findings}

    async def _look(self, server: Server, findings: dict[Server, str]) -> None:
        try:
            view = await server.look(self._app, self._instance_id)
            if view is not None and view.override is Status.OUT_OF_SERVICE and server in self._clearable:
                view = await self._clear(server)
        except EurekaError as error:
            findings[server] = error.reason
            return
        if view is not None and view.status is Status.UP:
            self._not_up_yet.discard(server)
            self._clearable.discard(server)
        else:
            findings[server] = "absent" if view is None else view.status

    async def _clear(self, server: Server) -> View | None:
        """Clear the override and look again; a call that was cut off, or failed, is tried again the next time."""
        with trying(self._journal, "clear override", server) as clearance:
            self._clearing += 1
            try:
                await server.clear_override(self._app, self._instance_id, now_ms())
            finally:
                self._clearing -= 1
            self._clearable.discard(server)
            # Before the look, which a leave may cut off.
            logger.warning(
                "%s was left OUT_OF_SERVICE on %s by a former life: cleared",
                self._instance_id,
                server.name,
                extra={"eureka_operation": "clear_override", "eureka_server": server.name},
            )
            view = await server.look(self._app, self._instance_id)
            status = None if view is None else view.status
            clearance.ends(status or "absent", verified=status is Status.UP)
        return view

    def _is_left(self, findings: dict[Server, str]) -> bool:
        """Whether it was out of service before this life, and stays so on purpose."""
        return not self._clear_former and any(
            server in self._not_up_yet and finding == Status.OUT_OF_SERVICE for server, finding in findings.items()
        )

    def _report_up(self) -> None:
        if self._alarm:
            # As loud as the line that said it was not.
            logger.warning("%s is UP again on every server", self._instance_id, extra=_WATCH)
        self._alarm = ""

    def _report(self, findings: dict[Server, str]) -> None:
        alarm = ", ".join(f"{finding} on {server.name}" for server, finding in findings.items())
        # Frozen in the middle of a round: what it found is the leave's work.
        if alarm == self._alarm or self._sleeper.ended:
            return
        self._alarm = alarm
        if self._is_left(findings):
            names = [server.name for server, finding in findings.items() if finding == Status.OUT_OF_SERVICE]
            why = left_out_of_service(self._app, self._instance_id, names)
        else:
            why = f"{self._instance_id} is {alarm} although the service is ready"
        logger.warning("callers are not sent here: %s", why, extra=_WATCH)


_WATCH = {"eureka_operation": "watch"}


def left_out_of_service(app: str, instance_id: str, servers: Iterable[str]) -> str:
    """Why an instance is not UP where an operator's OUT_OF_SERVICE is respected, and how it is undone.

    Args:
        app: the application's name.
        instance_id: the instance.
        servers: the servers that say so, without credentials.
    """
    first, *_ = names = list(servers)
    return (
        f"{instance_id} was OUT_OF_SERVICE on {', '.join(names)} before this start and stays so, because eureka_stale "
        f"is respect; to undo it: DELETE {first}/apps/{app}/{instance_id}/status?value=UP"
    )
