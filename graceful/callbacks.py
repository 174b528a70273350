"""Runs the callbacks of a leave, each within its time, and takes down how it went."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from graceful.core.callbacks import CallbackOutcome
from graceful.stacks import CallUnderWay

if TYPE_CHECKING:
    from graceful.calling import AppCaller
    from graceful.core.callbacks import RegisteredCallback
    from graceful.journal import Journal
    from graceful.witness import Witness

__all__ = ["Callbacks"]

logger = logging.getLogger("graceful.coordinator")

_LEAST_TIME: Final = 0.05
"""Seconds that a callback gets when the phase's time is already over: it runs all the same, exactly once."""


class Callbacks:
    """Runs the callbacks of one life.

    Args:
        journal: of that life.
        caller: calls them where they belong.
        witness: looks at one that did not end in time.
    """

    def __init__(self, journal: Journal, caller: AppCaller, witness: Witness) -> None:
        self._life = journal.life
        self._clock = journal.clock
        self._caller = caller
        self._witness = witness

    async def run(self, kind: str, callback: RegisteredCallback, until: float, default: float) -> None:
        """Run a callback; one that fails or does not end is recorded, and nothing is raised.

        Args:
            kind: the stage that it belongs to, for the report.
            callback: the callback.
            until: the instant at which the stage ends.
            default: seconds for a callback without a timeout of its own.
        """
        own = default if callback.timeout is None else callback.timeout
        began = self._clock()
        with self._life.under_way(CallUnderWay(callback.name), began) as call:
            record = await self._caller.call(callback, max(_LEAST_TIME, min(own, until - began)), call.worker)
        self._life.records.append(record)
        if record.outcome is CallbackOutcome.TIMED_OUT:
            self._life.sightings.append(self._witness.timed_out(kind, record))
        completed = record.outcome is CallbackOutcome.COMPLETED
        logger.log(logging.DEBUG if completed else logging.WARNING, "callback %s", record)
