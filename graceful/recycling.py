"""Whether one process leaves or its whole pod does, and what a process that leaves alone waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import anyio

from graceful.core.phases import Phase
from graceful.core.siblings import leaves_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.leave import Leave
    from graceful.life import Changes
    from graceful.sharing import Siblings

__all__ = ["see_who_leaves", "until_relieved"]

_LOOK_DELAY: Final = 0.1
"""Seconds between two looks at the siblings while it is not clear what they do."""


async def see_who_leaves(
    leave: Leave, siblings: Siblings, changes: Changes, clock: Callable[[], float] = time.monotonic
) -> None:
    """Find out whether this process leaves alone, and enter it in the leave. A hook that comes meanwhile decides it.

    Args:
        leave: the leave.
        siblings: the other processes that serve the same instance.
        changes: is notified when a hook has come.
        clock: the clock of the event loop.
    """
    since = clock()
    while leave.alone is None:
        alone = leaves_alone(await siblings.look(), clock() - since)
        if leave.alone is None:
            leave.alone = alone
        await changes.until(lambda: leave.alone is not None, clock() + _LOOK_DELAY)


async def until_relieved(siblings: Siblings, deadline: float) -> None:
    """Wait until one of the siblings serves, or none is about to, or `deadline`.

    A parent that reloads starts new workers and ends the old ones at once. The old ones go on serving until a new one
    does: nobody is refused meanwhile, and the instance is never without a process that stands for it.
    """
    with anyio.CancelScope(deadline=deadline):
        while True:
            staying = [sibling for sibling in await siblings.look() if sibling.stays]
            if not staying or any(sibling.phase is Phase.SERVING for sibling in staying):
                return
            await anyio.sleep(_LOOK_DELAY)
