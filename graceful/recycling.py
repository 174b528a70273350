"""Whether one process leaves or its whole pod does: the siblings are watched until it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graceful.core.siblings import leaves_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.leave import Leave
    from graceful.life import Changes
    from graceful.sharing import Siblings

__all__ = ["see_who_leaves"]

_LOOK_DELAY: Final = 0.1
"""Seconds between two looks at the siblings while it is not clear what they do."""


async def see_who_leaves(
    leave: Leave,
    siblings: Siblings,
    changes: Changes,
    *,
    relief_timeout: Callable[[], float],
    clock: Callable[[], float],
) -> None:
    """Find out whether this process leaves alone, and enter it in the leave. A hook that comes meanwhile decides it.

    Args:
        leave: the leave.
        siblings: the other processes that serve the same instance.
        changes: is notified when a hook has come.
        relief_timeout: gives the seconds for which this process can serve on for a sibling that is only starting.
        clock: the clock of the event loop.
    """
    since = clock()
    while leave.alone is None:
        alone = leaves_alone(await siblings.look(), clock() - since, relief_timeout())
        if leave.alone is None:
            leave.alone = alone
        await changes.until(lambda: leave.alone is not None, clock() + _LOOK_DELAY)
