"""The lifecycle of a service that leaves in order: one transition table, and a machine that only goes forward."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TRANSITIONS", "Event", "IllegalTransitionError", "Lifecycle", "Phase"]


class Phase(enum.Enum):
    """A stage of the lifecycle, in the order in which they come."""

    STARTING = "starting"
    SERVING = "serving"
    LAME_DUCK = "lame_duck"
    DRAINING = "draining"
    CLEANUP = "cleanup"
    STOPPED = "stopped"

    # Worked out once, because every request asks: on Python 3.11 each look at a member through its class is slow.

    leaving: bool
    """Whether the leave has begun: from the lame duck on."""

    accepts_work: bool
    """Whether new requests are served: until the drain begins."""

    def __init__(self, name: str) -> None:
        self.leaving = name not in ("starting", "serving")
        self.accepts_work = name in ("starting", "serving", "lame_duck")


class Event(enum.Enum):
    """What moves the lifecycle from one phase to the next."""

    READY = "ready"
    LEAVE = "leave"
    WAITED = "waited"
    DRAINED = "drained"
    CLEANED = "cleaned"


TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = MappingProxyType(
    {
        (Phase.STARTING, Event.READY): Phase.SERVING,
        # A service may be told to leave before it was ever ready.
        (Phase.STARTING, Event.LEAVE): Phase.LAME_DUCK,
        (Phase.SERVING, Event.LEAVE): Phase.LAME_DUCK,
        (Phase.LAME_DUCK, Event.WAITED): Phase.DRAINING,
        (Phase.DRAINING, Event.DRAINED): Phase.CLEANUP,
        (Phase.CLEANUP, Event.CLEANED): Phase.STOPPED,
    }
)


class IllegalTransitionError(RuntimeError):
    """An event came in a phase that has no use for it; nothing has changed."""

    def __init__(self, phase: Phase, event: Event) -> None:
        possible = ", ".join(each.name for at, each in TRANSITIONS if at is phase) or "none, it is the last"
        super().__init__(f"event {event.name} is not possible in phase {phase.name} (possible there: {possible})")
        self.phase = phase
        self.event = event


class Lifecycle:
    """One life of a service: the phase it is in, and when it entered each.

    Not thread-safe by itself: one owner applies events. Reading `phase` from any thread is safe (one attribute).
    """

    def __init__(self, now: float) -> None:
        self._entered: dict[Phase, float] = {Phase.STARTING: now}
        self.phase = Phase.STARTING

    def apply(self, event: Event, now: float) -> Phase:
        """Move to the next phase.

        Args:
            event: what happened.
            now: the instant it happened at; never before the instant of the event before it.

        Returns:
            The phase entered.

        Raises:
            IllegalTransitionError: if the event is not possible in this phase. Nothing has changed then.
        """
        try:
            phase = TRANSITIONS[self.phase, event]
        except KeyError:
            raise IllegalTransitionError(self.phase, event) from None
        self._entered[phase] = now
        self.phase = phase
        return phase

    def entered(self, phase: Phase) -> float | None:
        """The instant at which a phase was entered, or None if it was not (yet)."""
        return self._entered.get(phase)

    def durations(self, now: float) -> dict[Phase, float]:
        """Seconds spent in each phase entered so far; the current one counts up to `now`."""
        instants = [*self._entered.values(), now]
        return {phase: instants[index + 1] - instants[index] for index, phase in enumerate(self._entered)}
