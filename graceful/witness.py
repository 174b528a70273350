"""Looks at who is in the way, at the moment when something runs out of time.

Nothing here raises: a report that fails must keep neither the leave nor the process.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from graceful.core.names import printable
from graceful.core.obstacles import MOST_LOOKED_AT, Obstacle, Sighting
from graceful.core.phases import Phase
from graceful.stacks import stack_of_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from graceful.core.callbacks import CallbackRecord
    from graceful.core.inflight import InFlight, Unit
    from graceful.life import Life

    _Since: TypeAlias = tuple[Unit, float]

__all__ = ["Witness"]


class Witness:
    """Looks at what is in flight and at the callbacks under way. From any thread.

    Args:
        loop_thread: gives the thread of the application's event loop, if one is known.
        query: whether query strings may be told.
        clock: monotonic seconds.
    """

    def __init__(
        self, loop_thread: Callable[[], int | None], *, query: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop_thread = loop_thread
        self._query = query
        self._clock = clock

    def drain_ran_out(self, in_flight: InFlight) -> Sighting:
        """What is in flight when the drain's time is over."""
        return self._sighting("drain", [], in_flight.units())

    def timed_out(self, during: str, record: CallbackRecord) -> Sighting:
        """A callback that did not end in time."""
        seen = Obstacle("callback", printable(record.name), record.seconds, "", record.frames)
        # One that could not even begin waits for an event loop that is blocked.
        return Sighting(during, (seen, *(() if record.frames else self._busy_loop())), {})

    def the_end(self, life: Life) -> Sighting:
        """Everything that is under way when the process is ended."""
        # In the clean-up, what is in flight was seen when the drain ended, and is still to be told.
        seen_before = life.lifecycle.phase is Phase.CLEANUP
        return self._sighting("the end", life.running.copy().values(), () if seen_before else life.in_flight.units())

    def _sighting(self, during: str, callbacks: Iterable[_Since], work: Sequence[_Since]) -> Sighting:
        looked_at = (*callbacks, *work[:MOST_LOOKED_AT])
        obstacles = (*self._busy_loop(), *(self._look(unit, since) for unit, since in looked_at))
        return Sighting(during, obstacles, Counter(unit.name for unit, _ in work[MOST_LOOKED_AT:]))

    def _look(self, unit: Unit, since: float) -> Obstacle:
        seconds = self._clock() - since
        try:
            return unit.look(seconds, query=self._query)
        except Exception:  # noqa: BLE001  it may have ended just now, and its name is worth having all the same
            return Obstacle("job", unit.name, seconds)

    def _busy_loop(self) -> Iterable[Obstacle]:
        """The application's event loop, if it executes something: whoever blocks it is in everybody's way."""
        frames = stack_of_loop(self._loop_thread())
        return [Obstacle("event loop", "of the application", None, "", frames, running=True)] if frames else []
