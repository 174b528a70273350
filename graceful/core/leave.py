"""One leave: what began it, and what each later signal means for it."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from graceful.core.phases import Phase

if TYPE_CHECKING:
    from graceful.core.budget import Budget

__all__ = ["DEBOUNCE", "KUBELET_LAST_CHANCE", "Leave", "Reaction", "Trigger"]

DEBOUNCE: Final = 1.0
"""Signals within this many seconds of the first count as one: dumb-init and a forwarding parent both deliver."""

KUBELET_LAST_CHANCE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL once the hook has used up the grace period (kubelet, `killContainer`:
`minimumGracePeriodInSeconds`)."""


class Trigger(enum.Enum):
    """What begins a leave."""

    HOOK = "the preStop hook"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    PARENT = "the parent process"
    CALL = "drain()"
    SERVER = "the server's own stop"


class Reaction(enum.Enum):
    """What a signal means for a leave that is under way."""

    IGNORED = "ignored"
    PROCEED = "proceed"
    HURRY = "hurry"
    FORCE = "force"


@dataclass(slots=True)
class Leave:
    """One leave, from its trigger on. Pure: instants are arguments.

    Attributes:
        trigger: what began it.
        reason: the same for people.
        budget: its time.
        skip_wait: whether the propagation wait is over before its time.
        may_drain: whether the lame duck ends with the propagation wait; after a hook it goes on until SIGTERM.
        alone: whether this process leaves and its siblings serve on; None while that is not known.
    """

    trigger: Trigger
    reason: str
    budget: Budget
    skip_wait: bool = False
    may_drain: bool = field(init=False)
    alone: bool | None = field(init=False)
    signum: signal.Signals | None = None
    _first_signal_at: float | None = None
    _interrupted: bool = False

    def __post_init__(self) -> None:
        self.may_drain = self.trigger is not Trigger.HOOK
        # A hook runs once a container, and reaches all of its processes.
        self.alone = False if self.trigger is Trigger.HOOK else None
        # A server that stops by itself has closed its listener: nobody can reach us any more.
        self.skip_wait = self.skip_wait or self.trigger in {Trigger.SIGINT, Trigger.SERVER}

    @property
    def hard_deadline(self) -> bool:
        """Whether the process is ended at the deadline; a server that stops by itself leaves that to its owner."""
        return self.trigger is not Trigger.SERVER or self.signum is not None

    def signalled(self, signum: signal.Signals, now: float, phase: Phase, *, hook_waits: bool) -> Reaction:
        """Take note of a signal, the one that began the leave included.

        Args:
            signum: SIGTERM or SIGINT.
            now: the instant it came at.
            phase: the phase it came in.
            hook_waits: whether a hook is connected that has not been answered.

        Returns:
            What to do; `skip_wait`, `may_drain` and the budget have changed accordingly.
        """
        first = self._first_signal_at is None
        if first:
            self._first_signal_at = now
            self.signum = signum
        elif self._first_signal_at is not None and now - self._first_signal_at < DEBOUNCE:
            return Reaction.IGNORED
        if signum == signal.SIGINT:
            return self._interrupted_by_person(phase)
        if self.alone:
            # A parent that wants fewer workers says so every second until they are gone (gunicorn).
            return Reaction.IGNORED
        if phase is not Phase.LAME_DUCK:
            # The first SIGTERM after a hook or a call may well come late, and is no second wish.
            return Reaction.IGNORED if first else Reaction.FORCE
        if hook_waits:
            # The kubelet has given up on the hook: its grace period is over.
            self.budget.shorten(now + KUBELET_LAST_CHANCE)
            return self.hurry()
        self.may_drain = True
        return Reaction.PROCEED if first else Reaction.IGNORED

    def told_to_stop(self, now: float, phase: Phase, *, hook_waits: bool) -> Reaction:
        """Take note that a parent process has told this one to stop, otherwise than by a signal: as of SIGTERM.

        A parent may send that as well, once another of its processes has ended (hypercorn). So it counts as the first.
        """
        reaction = self.signalled(signal.SIGTERM, now, phase, hook_waits=hook_waits)
        self._first_signal_at = None
        return reaction

    def _interrupted_by_person(self, phase: Phase) -> Reaction:
        if self._interrupted:
            return Reaction.FORCE
        self._interrupted = True
        return self.hurry() if phase is Phase.LAME_DUCK else Reaction.IGNORED

    def hurry(self) -> Reaction:
        """End the lame duck now."""
        self.skip_wait = True
        self.may_drain = True
        return Reaction.HURRY
