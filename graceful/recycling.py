"""One process leaves and its whole pod does not: how that shows, and its lame duck then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graceful.core.siblings import leaves_alone
from graceful.sharing import RegistryAmongOthers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graceful.core.leave import Leave
    from graceful.core.registry import Registry
    from graceful.journal import Journal
    from graceful.sharing import Siblings

__all__ = ["leave_to_siblings", "see_who_leaves"]

_LOOK_DELAY: Final = 0.1
"""Seconds between two looks at the siblings while it is not clear what they do."""


async def see_who_leaves(leave: Leave, siblings: Siblings, journal: Journal) -> None:
    """Find out whether this process leaves alone, and enter it in the leave. A hook that comes meanwhile decides it.

    Args:
        leave: the leave.
        siblings: the other processes that serve the same instance.
        journal: of the life that ends with it.
    """
    since = journal.clock()
    while leave.alone is None:
        others = await siblings.look()
        # A process whose server has stopped cannot serve on for a sibling that is only starting.
        relief_timeout = 0.0 if journal.life.server_stopped else leave.budget.plan.drain
        alone = leaves_alone(others, journal.clock() - since, relief_timeout)
        if leave.alone is None:
            leave.alone = alone
        await journal.changes.until(lambda: leave.alone is not None, journal.clock() + _LOOK_DELAY)


async def leave_to_siblings(
    leave: Leave,
    journal: Journal,
    registry: Registry | None,
    stop_server: Callable[[float], Awaitable[bool]] | None,
) -> None:
    """Hand the instance over and have the server stop in its own order: nobody has to forget this instance.

    The siblings accept on the same socket. As long as this process accepts beside them it must not refuse.

    Args:
        leave: the leave.
        journal: of the life that ends with it.
        registry: what this process shares with them, None where callers look the service up nowhere.
        stop_server: tells the server to stop, and gives it some seconds; whether it will say that it has.
    """
    journal.end_wait()
    if isinstance(registry, RegistryAmongOthers):
        registry.hand_over()
    life, until = journal.life, leave.budget.drain_until(journal.clock())
    if not life.server_stopped and stop_server is not None:
        life.server_told = await stop_server(max(0.0, until - journal.clock()))
        await journal.changes.until(lambda: life.server_stopped or not life.server_told, until)
