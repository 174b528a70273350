"""The drain coordinator: the only place that knows the order of a leave."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio

from graceful.core.budget import Budget
from graceful.core.callbacks import CallbackOutcome
from graceful.core.leave import KUBELET_LAST_CHANCE, Leave, Reaction, Trigger
from graceful.core.pacing import closing_instants
from graceful.core.phases import Event, Phase
from graceful.describing import describe
from graceful.early_end import until_silent
from graceful.intake import Intake
from graceful.life import Changes, DrainVisit, HookVisit, Life
from graceful.recycling import see_who_leaves
from graceful.sharing import RegistryAmongOthers, share
from graceful.stacks import CallUnderWay
from graceful.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from graceful.calling import AppCaller
    from graceful.core.budget import Plan
    from graceful.core.callbacks import RegisteredCallback
    from graceful.core.registry import Registry
    from graceful.core.report import DrainReport
    from graceful.core.silence import EarlyEndRule
    from graceful.readiness import Readiness
    from graceful.sharing import Siblings

__all__ = ["DrainCoordinator"]

logger = logging.getLogger("graceful.coordinator")

_HURRIED_ANNOUNCE: Final = 1.0
"""Seconds for OUT_OF_SERVICE where nobody waits for its effect: the deregistration follows at once."""

_ANSWER_SLACK: Final = 0.25
"""Seconds for the registry to say what came of its time."""

_LEAST_CALLBACK_TIME: Final = 0.05
"""Seconds that a callback gets when the phase's time is already over: it runs all the same, exactly once."""

_TELL_TIMEOUT: Final = 0.5
"""Seconds for telling those who wait for the outcome."""

_LOOK: Final = 0.25
"""Seconds between two looks at the deadline, at most."""

_CLOSING_SHARE: Final = 0.5
"""Of the drain's time, for asking long connections to end; the rest is for what they do to come to their end."""

_CUT_SHARE: Final = 0.8
"""Of the drain's time, after which a long connection that has not come to its end is cut off; its application's own
clean-up has the rest."""


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
        self._random = Random()  # noqa: S311  where a connection's close falls is no secret
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
            if self.phase is Phase.STARTING and not self._announced and not life.in_flight.accepted:
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

    @property
    def _announced(self) -> bool:
        return self._registry is not None and self._registry.announced

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
            self._problem("SIGTERM came while the hook was still waiting: the grace period was cut short")
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
                    both.start_soon(self._guard, "clearing what a former life left", self._registry.start)
                both.start_soon(self._readiness.wait)
            start.cancel_scope.cancel()
        with self._lock:
            if life.leave is not None:
                return
            life.lifecycle.apply(Event.READY, self._clock())
        self._changes.notify()
        logger.info("ready: serving", extra={"phase": Phase.SERVING.value})
        if self._registry is not None:
            await self._guard("announcing", self._registry.serve)

    async def _cancel_on_leave(self, life: Life, scope: anyio.CancelScope) -> None:
        await self._changes.until(lambda: life.leave)
        scope.cancel()

    async def _leave_in_order(self, life: Life, leave: Leave) -> None:
        await self._guard("looking at the other processes", self._see_who_leaves, life, leave)
        if leave.alone:
            self._say(f"leaving because of {leave.reason}, alone: other processes of this pod serve on")
        else:
            self._say(f"leaving because of {leave.reason}: still serving, not ready any more")
        async with anyio.create_task_group() as withdrawal:
            if self._announced and not leave.alone:
                # Guarded by itself: a registry that breaks must not end the wait. It is watched until it is told to
                # forget the instance: what comes back UP in the drain would get requests that are refused.
                withdrawal.start_soon(self._guard, "taking the instance out of service", self._withdraw, life, leave)
            for callback in life.lame_duck_callbacks:
                withdrawal.start_soon(
                    self._call, life, "lame duck", callback, leave.budget.last_call, leave.budget.plan.announce
                )
            lame_duck = self._lame_duck_alone if leave.alone else self._lame_duck
            await self._guard("the lame duck", lame_duck, life, leave)
            self._end_wait(life)
            self._advance(life, Event.WAITED)
            await self._guard("the drain", self._drain, life, leave)
            life.in_flight.close()
            self._advance(life, Event.DRAINED)
            await self._guard("the clean-up", self._clean_up, life, leave)
            withdrawal.cancel_scope.cancel()
        life.finished = True
        await self._guard("the deregistration", self._deregister, life, leave)
        self._advance(life, Event.CLEANED)
        self.report = life.report(self._clock())
        late = self.report.late
        if late.total:
            level = logging.WARNING if late.advice else logging.INFO
            logger.log(level, "%s", late, extra={"late_requests": late.as_dict()})
        level = logging.INFO if self.report.clean else logging.WARNING
        logger.log(level, "%s", self.report, extra={"drain_report": self.report.as_dict()})
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

    async def _see_who_leaves(self, life: Life, leave: Leave) -> None:
        try:
            if self._siblings is not None:
                await see_who_leaves(
                    leave,
                    self._siblings,
                    self._changes,
                    relief_timeout=lambda: 0.0 if life.server_stopped else leave.budget.plan.drain,
                    clock=self._clock,
                )
        finally:
            leave.alone = bool(leave.alone)

    async def _lame_duck_alone(self, life: Life, leave: Leave) -> None:
        """Hand the instance over and have the server stop in its own order: nobody has to forget this instance.

        The siblings accept on the same socket. As long as this process accepts beside them it must not refuse.
        """
        self._end_wait(life)
        if isinstance(self._registry, RegistryAmongOthers):
            self._registry.hand_over()
        until = leave.budget.drain_until(self._clock())
        if not life.server_stopped and self._stop_server is not None:
            life.server_told = await self._stop_server(max(0.0, until - self._clock()))
            await self._changes.until(lambda: life.server_stopped or not life.server_told, until)

    async def _lame_duck(self, life: Life, leave: Leave) -> None:
        began = self._clock()
        if self._announced:
            await self._until_withdrawn(life, leave)
        verified_at = life.withdrawn.first_verified_at if life.withdrawn else None
        since = began if verified_at is None else verified_at
        life.wait_ends = leave.budget.wait_until(began, since=since)
        async with anyio.create_task_group() as meanwhile:
            # Guarded by themselves: what breaks must not end the wait.
            if self._announced:
                meanwhile.start_soon(self._guard, "watching the servers", self._observe, life, leave, since)
            # Where no server verified, nobody was told: their silence would have another reason.
            if self._early_end is not None and (verified_at is not None or not self._announced):
                meanwhile.start_soon(self._guard, "the early end", self._end_early, life, leave, since)
            life.wait_was_whole = await self._until_wait_is_over(life, leave, life.wait_ends)
            meanwhile.cancel_scope.cancel()
        self._end_wait(life)
        # After a hook the kubelet sends SIGTERM, moments later; the app serves until it comes.
        if not await self._changes.until(lambda: leave.may_drain, leave.budget.sigterm_until(self._clock())):
            self._problem(f"no SIGTERM came after {leave.reason}: leaving all the same (was it run by hand?)")

    async def _withdraw(self, life: Life, leave: Leave) -> None:
        if self._registry is None:
            return
        life.withdrawn = await self._registry.withdraw(leave.budget.announce_until(self._clock()))
        verified = all(result.verified for result in life.withdrawn.servers)
        self._say(f"OUT_OF_SERVICE {life.withdrawn}", logging.INFO if verified else logging.WARNING)
        await self._guard("keeping the instance out of service", self._registry.keep_withdrawn)

    async def _until_withdrawn(self, life: Life, leave: Leave) -> None:
        now = self._clock()
        until = leave.budget.announce_until(now)
        # A little longer than the registry has: some servers may have verified when the others' time is over.
        if not await self._changes.until(lambda: life.withdrawn or leave.skip_wait, until + _ANSWER_SLACK):
            self._problem("OUT_OF_SERVICE was not verified in time: serving the whole wait all the same")
        if not life.withdrawn and leave.skip_wait:
            await self._changes.until(lambda: life.withdrawn, min(until, self._clock() + _HURRIED_ANNOUNCE))

    async def _until_wait_is_over(self, life: Life, leave: Leave, ends: float) -> bool:
        """Wait until `life.wait_ends`, which others may bring forward meanwhile; False if the wait was skipped."""
        while await self._changes.until(partial(_ends_otherwise, life, leave, ends), ends):
            if leave.skip_wait or life.wait_ends is None:
                return False
            ends = life.wait_ends
        return True

    async def _observe(self, life: Life, leave: Leave, since: float) -> None:
        """Have the wait for the servers' own cache end when every server is seen to show the change."""
        caches = leave.budget.plan.caches
        if self._registry is None or caches is None or not caches.observed:
            return
        published = await self._registry.until_published()
        ends = leave.budget.wait_once_published(published, since=since)
        if life.wait_ends is not None and ends < life.wait_ends:
            life.published_at = published
            shown = f"every server shows the change after {published - since:.1f} s"
            self._bring_wait_forward(life, ends, f"{shown}: {max(0.0, ends - self._clock()):.0f} s more")

    def _bring_wait_forward(self, life: Life, ends: float, why: str) -> None:
        """End the propagation wait at an earlier instant than planned; a later one changes nothing."""
        if life.wait_ends is not None and ends < life.wait_ends:
            life.wait_ends = ends
            self._say(why)

    async def _end_early(self, life: Life, leave: Leave, since: float) -> None:
        if self._early_end is None:
            return
        wait = leave.budget.plan.propagation
        evidence = await until_silent(life.callers, self._early_end, since=since, wait=wait, clock=self._clock)
        if life.wait_ends is not None and since + evidence.after < life.wait_ends:
            life.early_end = evidence
            self._bring_wait_forward(life, since + evidence.after, str(evidence))

    def _end_wait(self, life: Life) -> None:
        life.wait_is_over = True
        self._changes.notify()

    async def _drain(self, life: Life, leave: Leave) -> None:
        until = life.drain_ends = leave.budget.drain_until(self._clock())
        async with anyio.create_task_group() as ending:
            # Guarded by itself: what is in flight finishes whatever a connection makes of its end.
            ending.start_soon(self._guard, "ending long connections", self._end_long_connections, life, until)
            async with anyio.create_task_group() as tasks:
                for callback in life.drain_callbacks:
                    tasks.start_soon(self._call, life, "on_drain", callback, until, leave.budget.plan.drain)
            # Consumers have been told to stop fetching; what they had in hand came in until here.
            life.in_flight.close()
            # Only now: every idle moment of a serving process would wake this thread.
            life.in_flight.notify_idle(self._wake)
            if not await self._changes.until(lambda: not len(life.in_flight), until):
                life.unfinished = life.in_flight.snapshot()
                life.sightings.append(self._witness.drain_ran_out(life.in_flight))
                self._say(f"{len(life.unfinished)} still in flight when the drain ran out of time", logging.WARNING)
            ending.cancel_scope.cancel()

    async def _end_long_connections(self, life: Life, until: float) -> None:
        """Ask WebSockets and event streams to end, one after the other: their peers come back at once, elsewhere."""
        life.draining.set()
        connections = life.long_connections.all()
        now = self._clock()
        window = (until - now) * _CLOSING_SHARE
        instants = closing_instants(len(connections), now=now, longest=window, random=self._random)
        for instant, connection in zip(instants, connections, strict=True):
            await anyio.sleep_until(instant)
            connection.end()
        await anyio.sleep_until(now + (until - now) * _CUT_SHARE)
        for connection in life.long_connections.all():
            connection.cut()

    async def _clean_up(self, life: Life, leave: Leave) -> None:
        until = leave.budget.cleanup_until(self._clock())
        for callback in life.cleanup_callbacks.drain():
            await self._call(life, "on_cleanup", callback, until, leave.budget.plan.cleanup)

    async def _call(self, life: Life, kind: str, callback: RegisteredCallback, until: float, default: float) -> None:
        own = default if callback.timeout is None else callback.timeout
        began = self._clock()
        with life.under_way(CallUnderWay(callback.name), began) as call:
            record = await self._caller.call(callback, max(_LEAST_CALLBACK_TIME, min(own, until - began)), call.worker)
        life.records.append(record)
        if record.outcome is CallbackOutcome.TIMED_OUT:
            life.sightings.append(self._witness.timed_out(kind, record))
        completed = record.outcome is CallbackOutcome.COMPLETED
        logger.log(logging.DEBUG if completed else logging.WARNING, "callback %s", record)

    async def _deregister(self, life: Life, leave: Leave) -> None:
        if self._registry is not None and self._announced:
            life.deregistered = await self._registry.deregister(leave.budget.deregister_until(self._clock()))

    async def _guard(self, stage: str, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a stage; one that fails is recorded and never skips a later one."""
        try:
            await function(*arguments)
        except Exception as error:
            logger.exception("%s failed", stage)
            self.life.problems.append(f"{stage} failed: {type(error).__name__}: {error}")

    def _advance(self, life: Life, event: Event) -> None:
        with self._lock:
            phase = life.lifecycle.apply(event, self._clock())
        logger.info("phase %s", phase.value, extra={"phase": phase.value, "in_flight": len(life.in_flight)})

    def _say(self, text: str, level: int = logging.INFO) -> None:
        """Log a line, and tell it to the hooks that wait."""
        logger.log(level, "%s", text, extra={"phase": self.phase.value})
        self.life.journal.append(text)
        self._changes.notify()

    def _problem(self, text: str) -> None:
        self.life.problems.append(text)
        self._say(text, logging.WARNING)

    def _exit(self, reason: str) -> None:
        self.life.problems.append(reason)
        self.life.sightings.append(self._witness.the_end(self.life))
        self.report = self.life.report(self._clock(), overdue=True)
        self._exit_process(1, self.report)


def _ends_otherwise(life: Life, leave: Leave, ends: float) -> bool:
    """Whether the wait is over, or ends at another instant than `ends`."""
    return leave.skip_wait or life.wait_ends != ends
