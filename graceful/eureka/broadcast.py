"""Doing one thing on every server at once, each by itself, until it is seen to be done there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import anyio

from graceful.core.registry import RegistryOutcome, ServerResult
from graceful.eureka.backoff import pauses
from graceful.eureka.rest import Server
from graceful.eureka.trying import trying

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from graceful.core.calls import CallJournal

__all__ = ["Attempt", "everywhere", "once_settled", "try_once"]

Attempt: TypeAlias = Callable[[Server], Awaitable[ServerResult]]
"""One try on one server, and what came of it; raises nothing for a server that fails."""


async def everywhere(
    servers: Iterable[Server],
    operation: str,
    attempt: Attempt,
    deadline: float,
    *,
    journal: CallJournal,
    random: Random,
    came_back: Callable[[Server], Awaitable[bool]] | None = None,
) -> RegistryOutcome:
    """Repeat `attempt` on each server, independently of the others, until it is verified there or `deadline`.

    Args:
        servers: on which.
        operation: its name in the journal.
        attempt: what to do.
        deadline: an instant of the event loop's clock.
        journal: where every try is entered.
        random: shortens the pauses between two attempts.
        came_back: asked about each server that is verified; if it says so, all begins anew there. What was verified
            stands while it is being asked.
    """
    results = {
        server: ServerResult(server.name, verified=False, detail="no answer in time", operation=operation)
        for server in servers
    }
    first_verified_at: float | None = None

    async def until_verified(server: Server) -> None:
        nonlocal first_verified_at
        waits = pauses(random, first=0.1, ceiling=1.0)
        while True:
            results[server] = await try_once(journal, operation, attempt, server)
            if not results[server].verified:
                await anyio.sleep(next(waits))
                continue
            if first_verified_at is None:
                first_verified_at = anyio.current_time()
            if came_back is None or not await came_back(server):
                return

    with anyio.CancelScope(deadline=deadline):
        async with anyio.create_task_group() as tasks:
            for server in results:
                tasks.start_soon(until_verified, server)
    return RegistryOutcome(tuple(results.values()), first_verified_at)


async def try_once(journal: CallJournal, operation: str, attempt: Attempt, server: Server) -> ServerResult:
    """Try it once on one server, and enter in the journal what came of it."""
    with trying(journal, operation, server) as this:
        result = await attempt(server)
        this.ends(result.detail, verified=result.verified)
    return this.result


def once_settled(attempt: Attempt, settled: Callable[[], bool]) -> Attempt:
    """The same attempt, verified only if no registration was on its way when it began.

    What is read before that is not final: the registration may arrive later, and a change of what is absent leaves no
    trace.
    """

    async def attempt_and_ask(server: Server) -> ServerResult:
        final = settled()
        result = await attempt(server)
        if result.verified and not final:
            return ServerResult(server.name, verified=False, detail=f"{result.detail}, a registration on its way")
        return result

    return attempt_and_ask
