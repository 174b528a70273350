"""The drain coordinator: the only place that knows the order of a leave."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio

from graceful.callbacks import Callbacks
from graceful.core.budget import Budget
from graceful.core.leave import KUBELET_LAST_CHANCE, Leave, Reaction, Trigger
from graceful.core.phases import Event, Phase
from graceful.describing import describe
from graceful.drain import Drain
from graceful.intake import Intake
from graceful.journal import Journal
from graceful.lame_duck import LameDuck
from graceful.life import Changes, DrainVisit, HookVisit, Life
from graceful.recycling import leave_to_siblings, see_who_leaves
from graceful.sharing import share
from graceful.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from graceful.calling import AppCaller
    from graceful.core.budget import Plan
    from graceful.core.registry import Registry
    from graceful.core.report import DrainReport
    from graceful.core.silence import EarlyEndRule
    from graceful.readiness import Readiness
    from graceful.sharing import Siblings

__all__ = ["DrainCoordinator"]

logger = logging.getLogger("graceful.coordinator")

_TELL_TIMEOUT: Final = 0.5
"""Seconds for telling those who wait for the outcome."""

_LOOK: Final = 0.25
"""Seconds between two looks at the deadline, at most."""


class DrainCoordinator(Intake):
    """Drives one service through its phases.

    `run`, `signalled` and `prestop` run on graceful's own event loop; everything else may be
    called from any thread.

    Args:
        plan: gives the plan as it stands now; asked once, when a leave begins.
        grace_period: gives the seconds that the platform gives, counted from the first trigger; its argument is what
            the trigger knows of that, or None.
        readiness: tells when the service is ready.
        caller: calls the user's callbacks.
        exit_process: ends the process at once, with a status; given by the caller so that tests survive it.
        make_registry: makes the registry of one life, or None where callers look the service up nowhere.
        make_siblings: finds the other processes that serve what this registry announces, or what this process serves
            without one; gives None for a process that stands for itself.
        stop_server: tells the server to stop before anything else is done, and gives it some seconds; whether it will
            say when its listener is closed and its requests are done (`server_stops`).
        early_end: when the propagation wait may end before its time; None for never.
        query: whether the deadline report may tell query strings.
        tell: is given the report of every leave that comes to its own end, on graceful's event loop.
        clock: monotonic seconds; the clock of the event loop that `run` runs in.
    """

    def __init__(
        self,
        plan: Callable[[], Plan],
        *,
        grace_period: Callable[[float | None], float],
        readiness: Readiness,
        caller: AppCaller,
        exit_process: Callable[[int, DrainReport], object],
        make_registry: Callable[[], Registry] | None = None,
        make_siblings: Callable[[Registry | None], Siblings | None] = lambda _registry: None,
        stop_server: Callable[[float], Awaitable[bool]] | None = None,
        early_end: EarlyEndRule | None = None,
        query: bool = False,
        tell: Callable[[DrainReport], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(readiness, clock)
        self._plan = plan
        self._grace_period = grace_period
        self._caller = caller
        self._make_registry = make_registry
        self._make_siblings = make_siblings
        self._stop_server = stop_server
        self._exit_process = exit_process
        self._early_end = early_end
        self._witness = Witness(lambda: caller.thread, query=query, clock=clock)
        self._tell = tell
        self.new_life()

    def new_life(self) -> None:
        """Begin anew: in the same process after its server stopped by itself, or in a forked child."""
        # Re-entrant: a user's own signal handler may call drain() while this very thread holds it.
        self._lock = threading.RLock()
        self._changes = Changes()
        self._wake: Callable[[], object] = lambda: None
        self._readiness.reset()
        registry = self._make_registry() if self._make_registry is not None else None
        self._siblings = self._make_siblings(registry)
        self._registry = share(registry, self._siblings)
        self.report: DrainReport | None = None
        """How the leave went, once it is over."""
        self._begin_life(self._registry)
        self._journal = Journal(self.life, self._changes, self._clock)

    @property
    def signum(self) -> signal.Signals:
        """The signal to hand to the server when all is done: the one that came, else SIGTERM."""
        leave = self.life.leave
        return (leave.signum if leave else None) or signal.SIGTERM

    @property
    def remaining(self) -> float:
        """Seconds until the process must have ended; infinite while no leave has begun."""
        leave = self.life.leave
        return leave.budget.last_call - self._clock() if leave else math.inf

    @property
    def server_stopped_first(self) -> bool:
        """Whether the leave was begun by the server's own stop, so that there is nobody to release."""
        leave = self.life.leave
        return leave is not None and not leave.hard_deadline

    @property
    def _announced_in(self) -> Registry | None:
        """The registry, if callers may have learned of this instance from it."""
        return self._registry if self._registry is not None and self._registry.announced else None

    # Triggers, from any thread

    def begin(
        self, trigger: Trigger, reason: str = "", *, grace_period: float | None = None, elapsed: float = 0.0
    ) -> bool:
        """Begin the leave. From the return on, the service is not ready and nothing makes it UP again.

        Args:
            trigger: what begins it.
            reason: the same for people.
            grace_period: what the platform gives, as far as the trigger knows.
            elapsed: seconds since the platform began to count.

        Returns:
            Whether this call began it; False if it had begun before.
        """
        with self._lock:
            life = self.life
            if life.leave is not None:
                return False
            now = self._clock()
            grace = self._grace_period(grace_period)
            # However late the hook got through: the kubelet sends SIGTERM before SIGKILL, with two seconds in between.
            left = max(grace - elapsed, min(grace, KUBELET_LAST_CHANCE))
            leave = Leave(trigger, reason or trigger.value, Budget(self._plan(), now + left))
            if self._siblings is None:
                leave.alone = False
            if self.phase is Phase.STARTING and self._announced_in is None and not life.in_flight.accepted:
                leave.skip_wait = True  # never ready, so nobody ever heard of this instance or has to forget it
            life.leave = leave
            life.lifecycle.apply(Event.LEAVE, now)
        if self._registry is not None:
            self._registry.freeze()
        self._wake()
        return True

    def proceed(self) -> None:
        """SIGTERM has come, though not to us: a lame duck that a hook began ends with its wait."""
        if self.life.leave is not None:
            self.life.leave.may_drain = True
            self._wake()

    def server_stops(self) -> threading.Event:
        """The server stops by itself and its listener is closed: leave without a wait. Set when the leave is over."""
        life = self.life
        life.server_stopped = True
        if not self.begin(Trigger.SERVER) and life.leave is not None:
            life.leave.hurry()
            self._wake()
        return life.stopped

    def enforce_deadline(self) -> float:
        """End the process if its deadline is there, whatever still runs. For a thread of its own.

        Returns:
            Seconds until the next look: the deadline can be brought forward meanwhile.
        """
        leave = self.life.leave
        if leave is None or not leave.hard_deadline:
            return _LOOK
        left = leave.budget.last_call - self._clock()
        if left <= 0:
            self._exit("the deadline was there")
        return max(0.0, min(left, _LOOK))

    # Triggers that come on graceful's own event loop

    def signalled(self, signum: signal.Signals) -> None:
        """A signal came: begin the leave, or do what it means for the one under way."""
        self.begin(Trigger.SIGINT if signum == signal.SIGINT else Trigger.SIGTERM)
        life = self.life
        if life.leave is None:  # pragma: no cover  begun one line above
            return
        self._react(life, life.leave.signalled(signum, self._clock(), self.phase, hook_waits=life.hook_waits))

    def told_to_stop(self) -> None:
        """The parent process wants this one to stop, and says so otherwise than by a signal."""
        self.begin(Trigger.PARENT)
        life = self.life
        if life.leave is None:  # pragma: no cover  begun one line above
            return
        self._react(life, life.leave.told_to_stop(self._clock(), self.phase, hook_waits=life.hook_waits))

    def _react(self, life: Life, reaction: Reaction) -> None:
        if reaction is Reaction.FORCE:
            self._exit(f"a second {self.signum.name} forced it")
        elif reaction is Reaction.HURRY and life.hook_waits:
            self._journal.problem("SIGTERM came while the hook was still waiting: the grace period was cut short")
        self._changes.notify()

    def prestop(self, *, elapsed: float, grace: float | None) -> HookVisit:
        """A hook has come: begin the leave or join it; the visit has what the hook waits for."""
        if not self.begin(Trigger.HOOK, grace_period=grace, elapsed=elapsed) and self.life.leave is not None:
            self.life.leave.alone = self.life.leave.alone or False  # the pod leaves, unless this one was gone already
            self._changes.notify()
        return HookVisit(self.life, self._changes, self._clock)

    def drain_by_hand(self, *, pod: bool) -> DrainVisit:
        """Somebody asks for a leave: begin it or join it; the visit has what came of it.

        Args:
            pod: whether every process of the container is asked; else the others show whether they serve on.
        """
        self.begin(Trigger.CALL, "python -m graceful drain")
        if pod and self.life.leave is not None:
            self.life.leave.alone = self.life.leave.alone or False  # as with a hook
        self._changes.notify()
        return DrainVisit(self.life, self._changes, self._clock)

    def describe(self) -> Mapping[str, str]:
        """What this process is doing, for its siblings and for people."""
        return describe(self.life, self._registry, self._siblings, self._clock())

    # The life, on graceful's own event loop

    async def run(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        """Live one life: become ready, serve, leave in order. Ends when everything of ours is done.

        Args:
            call_soon: has a function run on this event loop, from any thread.
        """
        life = self.life
        self._wake = lambda: call_soon(self._changes.notify)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve, life)
            await self._changes.until(lambda: life.leave)
            if life.leave is not None:
                await self._leave_in_order(life, life.leave)
            tasks.cancel_scope.cancel()

    async def _serve(self, life: Life) -> None:
        async with anyio.create_task_group() as start:
            start.start_soon(self._cancel_on_leave, life, start.cancel_scope)
            async with anyio.create_task_group() as both:
                if self._registry is not None:
                    both.start_soon(self._journal.guard, "clearing what a former life left", self._registry.start)
                both.start_soon(self._readiness.wait)
            start.cancel_scope.cancel()
        with self._lock:
            if life.leave is not None:
                return
            life.lifecycle.apply(Event.READY, self._clock())
        self._changes.notify()
        logger.info("ready: serving", extra={"phase": Phase.SERVING.value})
        if self._registry is not None:
            await self._journal.guard("announcing", self._registry.serve)

    async def _cancel_on_leave(self, life: Life, scope: anyio.CancelScope) -> None:
        await self._changes.until(lambda: life.leave)
        scope.cancel()

    async def _leave_in_order(self, life: Life, leave: Leave) -> None:
        journal, guard = self._journal, self._journal.guard
        if self._siblings is not None:
            await guard("looking at the other processes", see_who_leaves, leave, self._siblings, journal)
        leave.alone = bool(leave.alone)
        if leave.alone:
            journal.say(f"leaving because of {leave.reason}, alone: other processes of this pod serve on")
        else:
            journal.say(f"leaving because of {leave.reason}: still serving, not ready any more")
        callbacks = Callbacks(journal, self._caller, self._witness)
        lame_duck = LameDuck(leave, journal, registry=self._announced_in, early_end=self._early_end)
        drain = Drain(leave, journal, callbacks=callbacks, witness=self._witness, wake=self._wake)
        async with anyio.create_task_group() as withdrawal:
            if not leave.alone:
                # Guarded by itself: a registry that breaks must not end the wait. It is watched until it is told to
                # forget the instance: what comes back UP in the drain would get requests that are refused.
                withdrawal.start_soon(guard, "taking the instance out of service", lame_duck.withdraw)
            for callback in life.lame_duck_callbacks:
                withdrawal.start_soon(
                    callbacks.run, "lame duck", callback, leave.budget.last_call, leave.budget.plan.announce
                )
            if leave.alone:
                await guard("the lame duck", leave_to_siblings, leave, journal, self._registry, self._stop_server)
            else:
                await guard("the lame duck", lame_duck.serve)
            journal.end_wait()  # however it went
            self._advance(life, Event.WAITED)
            await guard("the drain", drain.run)
            life.in_flight.close()
            self._advance(life, Event.DRAINED)
            await guard("the clean-up", self._clean_up, life, leave, callbacks)
            withdrawal.cancel_scope.cancel()
        life.finished = True
        await guard("the deregistration", self._deregister, life, leave)
        self._advance(life, Event.CLEANED)
        await self._conclude(life)

    async def _clean_up(self, life: Life, leave: Leave, callbacks: Callbacks) -> None:
        until = leave.budget.cleanup_until(self._clock())
        for callback in life.cleanup_callbacks.drain():
            await callbacks.run("on_cleanup", callback, until, leave.budget.plan.cleanup)

    async def _deregister(self, life: Life, leave: Leave) -> None:
        if (registry := self._announced_in) is not None:
            life.deregistered = await registry.deregister(leave.budget.deregister_until(self._clock()))

    async def _conclude(self, life: Life) -> None:
        self.report = life.report(self._clock())
        self._journal.conclude(self.report)
        try:
            self._tell(self.report)
        except Exception:
            logger.exception("the report could not be told")
        life.sightings.clear()  # told once: what may come now is a server that does not end
        life.outcome = self.report
        life.stopped.set()
        # Whoever waits for the outcome hears it before the server is released: the process may end at once then.
        self._changes.notify()
        await self._changes.until(lambda: not life.watchers, self._clock() + _TELL_TIMEOUT)

    def _advance(self, life: Life, event: Event) -> None:
        with self._lock:
            phase = life.lifecycle.apply(event, self._clock())
        logger.info("phase %s", phase.value, extra={"phase": phase.value, "in_flight": len(life.in_flight)})

    def _exit(self, reason: str) -> None:
        self.life.problems.append(reason)
        self.life.sightings.append(self._witness.the_end(self.life))
        self.report = self.life.report(self._clock(), overdue=True)
        self._exit_process(1, self.report)
