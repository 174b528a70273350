"""One life of a service: its state, from the start-up to the report."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio

from graceful.core.callbacks import CallbackStack
from graceful.core.inflight import InFlight
from graceful.core.ledger import LateLedger
from graceful.core.obstacles import DeadlineReport, spending
from graceful.core.phases import Phase
from graceful.core.report import DrainReport
from graceful.core.silence import Callers
from graceful.draining import Draining, LongConnections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from graceful.core.callbacks import CallbackRecord, RegisteredCallback
    from graceful.core.inflight import Unit, Work
    from graceful.core.leave import Leave
    from graceful.core.ledger import LateRequests
    from graceful.core.obstacles import Sighting
    from graceful.core.phases import Lifecycle
    from graceful.core.registry import Registry, RegistryOutcome
    from graceful.core.silence import EarlyEnd
    from graceful.stacks import CallUnderWay

__all__ = ["Changes", "HookVisit", "Life"]


class Changes:
    """Lets tasks of one event loop wait until a condition holds, whoever changed what it looks at."""

    def __init__(self) -> None:
        # Made when somebody waits: this object may be made inside another event loop, of another kind even.
        self._event: anyio.Event | None = None

    def forget(self) -> None:
        """Forget who waited: they were cancelled, with the event loop that their event belongs to."""
        self._event = None

    def notify(self) -> None:
        """Something has changed. On the event loop only."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def until(self, holds: Callable[[], object], deadline: float | None = None) -> bool:
        """Wait until a condition holds, or the deadline is there.

        Args:
            holds: looked at now and after every change.
            deadline: an instant of the event loop's clock, or None to wait without a limit of its own.

        Returns:
            Whether it holds.
        """
        scope = anyio.CancelScope() if deadline is None else anyio.CancelScope(deadline=deadline)
        with scope:
            while not holds():
                self._event = self._event or anyio.Event()
                await self._event.wait()
        return bool(holds())


@dataclass
class Life:
    """What belongs to one life of the service; a test client may give one process several.

    `lifecycle`, `leave` and `waiting_hooks` change under the coordinator's lock or on its event loop; the rest on its
    event loop only, but for `in_flight`, `ledger`, `callers` and `long_connections`, which the requests themselves
    enter.
    """

    lifecycle: Lifecycle
    registry: Registry | None = None
    lame_duck_callbacks: list[RegisteredCallback] = field(default_factory=list)
    drain_callbacks: list[RegisteredCallback] = field(default_factory=list)
    cleanup_callbacks: CallbackStack = field(default_factory=CallbackStack)
    in_flight: InFlight = field(default_factory=InFlight)
    draining: Draining = field(default_factory=Draining)
    long_connections: LongConnections = field(default_factory=LongConnections)
    leave: Leave | None = None
    ledger: LateLedger = field(default_factory=LateLedger)
    callers: Callers = field(default_factory=Callers)
    early_end: EarlyEnd | None = None
    withdrawn: RegistryOutcome | None = None
    deregistered: RegistryOutcome | None = None
    unfinished: tuple[Work, ...] = ()
    running: dict[int, tuple[Unit, float]] = field(default_factory=dict)
    sightings: list[Sighting] = field(default_factory=list)
    records: list[CallbackRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    waiting_hooks: int = 0
    wait_ends: float | None = None
    published_at: float | None = None
    wait_is_over: bool = False
    wait_was_whole: bool = False
    drain_ends: float | None = None
    server_told: bool = False
    server_stopped: bool = False
    finished: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def under_way(self, call: CallUnderWay, now: float) -> Iterator[CallUnderWay]:
        """Have a callback known while it runs."""
        self.running[id(call)] = call, now
        try:
            yield call
        finally:
            del self.running[id(call)]

    @property
    def hook_waits(self) -> bool:
        """Whether a hook is connected that must not be gone yet: its SIGTERM would be the kubelet giving up on it."""
        return self.waiting_hooks > 0 and not self.wait_is_over

    def late(self) -> LateRequests:
        """Who called after the leave had begun, and what that says about the wait."""
        since, what = self.lifecycle.entered(Phase.LAME_DUCK) or 0.0, "the leave began"
        if self.withdrawn is not None and self.withdrawn.first_verified_at is not None:
            since, what = self.withdrawn.first_verified_at, "OUT_OF_SERVICE"
        late = self.ledger.told(since, what)
        if self.leave is None or self.wait_ends is None or not self.wait_was_whole:
            return late  # a wait that was cut short says nothing about how long it should have been
        wait = max(0.0, self.wait_ends - since)
        if self.early_end is not None:
            return late.judging_early_end(wait)
        published = None if self.published_at is None else self.published_at - since
        return late.judging(wait, self.leave.budget.plan, published=published)

    def report(self, now: float, *, overdue: bool = False) -> DrainReport:
        """How the leave went so far."""
        return DrainReport(
            reason=self.leave.reason if self.leave else "",
            alone=bool(self.leave and self.leave.alone),
            durations=self.lifecycle.durations(now),
            late=self.late(),
            early_end=self.early_end,
            withdrawn=self.withdrawn,
            deregistered=self.deregistered,
            calls=self.registry.calls if self.registry is not None else (),
            unfinished=self.in_flight.snapshot() if overdue else self.unfinished,
            callbacks=tuple(self.records),
            problems=tuple(self.problems),
            deadline=self._deadline(now, overdue=overdue),
            overdue=overdue,
            now=now,
        )

    def _deadline(self, now: float, *, overdue: bool) -> DeadlineReport | None:
        began = self.lifecycle.entered(Phase.LAME_DUCK)
        if self.leave is None or began is None or not (overdue or self.sightings):
            return None
        return DeadlineReport(
            self.leave.reason,
            self.problems[-1] if overdue and self.problems else "",
            self.leave.budget.deadline - began,
            spending(self.lifecycle.durations(now), self.leave.budget.plan),
            tuple(self.sightings),
        )


class HookVisit:
    """One hook that waits for the propagation wait to be over: what the control socket needs of the coordinator."""

    def __init__(self, life: Life, changes: Changes, clock: Callable[[], float]) -> None:
        self._life = life
        self._changes = changes
        life.waiting_hooks += 1
        self.within = self._within(clock())

    def _within(self, now: float) -> float:
        leave = self._life.leave
        if leave is None or self._life.wait_is_over:
            return 0.0
        ends = self._life.wait_ends
        if ends is None:
            plan = leave.budget.plan
            ends = min(now + plan.announce + plan.propagation, leave.budget.latest_wait(now))
        return max(0.0, ends - now)

    async def messages(self) -> AsyncIterator[str]:
        """What has happened since the leave began, and what happens until the wait is over."""
        told = 0
        journal = self._life.journal
        while True:
            for line in journal[told:]:
                yield line
                told += 1
            if self._life.wait_is_over and told == len(journal):
                return
            await self._changes.until(partial(self._has_news, told))

    def _has_news(self, told: int) -> bool:
        return self._life.wait_is_over or len(self._life.journal) > told

    def summary(self) -> tuple[bool, str]:
        """Whether the instance is out of service for sure, and a line that says so."""
        life = self._life
        unverified = life.withdrawn is not None and not all(each.verified for each in life.withdrawn.servers)
        if life.leave is not None and life.leave.alone:
            return True, "this process was leaving alone already; the others of its pod tell for themselves"
        if life.problems or unverified:
            return False, life.problems[0] if life.problems else f"OUT_OF_SERVICE {life.withdrawn}"
        return True, "the wait is over: nobody calls any more, ready for SIGTERM"

    def answered(self) -> None:
        """The hook has its answer."""
        self._life.waiting_hooks -= 1

    def lost(self) -> None:
        """The hook is gone without an answer; its SIGTERM will not mean that the grace period is over."""
        self._life.waiting_hooks -= 1
        self._changes.notify()
