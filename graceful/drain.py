"""The drain: what is in hand comes to its end, and nothing new is taken in."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING, Final

import anyio

from graceful.core.pacing import closing_instants

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.callbacks import Callbacks
    from graceful.core.leave import Leave
    from graceful.journal import Journal
    from graceful.witness import Witness

__all__ = ["Drain"]

_CLOSING_SHARE: Final = 0.5
"""Of the drain's time, for asking long connections to end; the rest is for what they do to come to their end."""

_CUT_SHARE: Final = 0.8
"""Of the drain's time, after which a long connection that has not come to its end is cut off; its application's own
clean-up has the rest."""


class Drain:
    """The drain of one leave.

    Args:
        leave: the leave.
        journal: of the life that ends with it.
        callbacks: runs those that were registered for the drain.
        witness: looks at what is still in flight when the time is over.
        wake: has the journal's `changes` notified, from any thread.
    """

    def __init__(
        self, leave: Leave, journal: Journal, *, callbacks: Callbacks, witness: Witness, wake: Callable[[], object]
    ) -> None:
        self._leave = leave
        self._journal = journal
        self._life = journal.life
        self._callbacks = callbacks
        self._witness = witness
        self._wake = wake

    async def run(self) -> None:
        """Return when nothing is in flight any more, or the drain's time is over."""
        life, budget = self._life, self._leave.budget
        until = life.drain_ends = budget.drain_until(self._journal.clock())
        async with anyio.create_task_group() as ending:
            # Guarded by itself: what is in flight finishes whatever a connection makes of its end.
            ending.start_soon(self._journal.guard, "ending long connections", self._end_long_connections, until)
            async with anyio.create_task_group() as tasks:
                for callback in life.drain_callbacks:
                    tasks.start_soon(self._callbacks.run, "on_drain", callback, until, budget.plan.drain)
            # Consumers have been told to stop fetching; what they had in hand came in until here.
            life.in_flight.close()
            # Only now: every idle moment of a serving process would wake this thread.
            life.in_flight.notify_idle(self._wake)
            if not await self._journal.changes.until(lambda: not len(life.in_flight), until):
                life.unfinished = life.in_flight.snapshot()
                life.sightings.append(self._witness.drain_ran_out(life.in_flight))
                text = f"{len(life.unfinished)} still in flight when the drain ran out of time"
                self._journal.say(text, logging.WARNING)
            ending.cancel_scope.cancel()

    async def _end_long_connections(self, until: float) -> None:
        """Ask WebSockets and event streams to end, one after the other: their peers come back at once, elsewhere."""
        self._life.draining.set()
        connections = self._life.long_connections.all()
        now = self._journal.clock()
        window = (until - now) * _CLOSING_SHARE
        random = Random()  # noqa: S311  where a connection's close falls is no secret
        instants = closing_instants(len(connections), now=now, longest=window, random=random)
        for instant, connection in zip(instants, connections, strict=True):
            await anyio.sleep_until(instant)
            connection.end()
        await anyio.sleep_until(now + (until - now) * _CUT_SHARE)
        for connection in self._life.long_connections.all():
            connection.cut()
