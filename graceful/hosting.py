"""The coordinator as it lives in a process: its thread, the server's signals, forks, and the application's lifespan."""

from __future__ import annotations

import enum
import logging
import os
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from graceful.calling import AppCaller
from graceful.control import close_inherited, serve_control
from graceful.coordinator import DrainCoordinator
from graceful.core.phases import Phase
from graceful.exiting import exit_with_report
from graceful.kubernetes.manifest import Snippets
from graceful.loading import Imports
from graceful.loops import after_turns
from graceful.pid_one import report_ancestors
from graceful.readiness import Readiness
from graceful.runtime import Runtime
from graceful.selfcheck import report_environment, report_plan
from graceful.server import Server
from graceful.servers.gunicorn import Arbiter
from graceful.servers.processes import is_parent_of_workers
from graceful.telling import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.budget import Plan
    from graceful.core.registry import Registry
    from graceful.core.report import DrainReport
    from graceful.eureka.discovery import Discovery
    from graceful.servers.hypercorn import StopEvent
    from graceful.settings import Settings
    from graceful.sharing import Siblings
    from graceful.signals import SignalHold

__all__ = ["HostedCoordinator", "Mode"]

logger = logging.getLogger("graceful.hosting")

_STOP_SLACK: Final = 1.0
_LOOK: Final = 0.05
_PROGRAM_LOOK: Final = 0.5
_PROBE_TIMEOUT: Final = 10.0
"""Seconds for all readiness checks together; each has its own, and a kubelet gives up after one second by default."""
_START_TURNS: Final = 10
"""Turns of the application's event loop from its start-up on to a server that serves. granian runs the loop until the
start-up has completed, and again to serve; uvloop takes the signals each time. That the first run ends takes four."""
_STAND_BY: Final = "graceful stand-by"


class Mode(enum.Enum):
    """What `install()` starts."""

    ACTIVE = "everything, at once"
    WAITING = "nothing until an application's lifespan begins, and everything from then on"
    DEFERRED = "nothing until an application's lifespan begins, and never a signal handler or a hard exit"
    INERT = "nothing at all"

    @property
    def whole(self) -> bool:
        """Whether nothing is left out, now or later."""
        return self in {Mode.ACTIVE, Mode.WAITING}


class HostedCoordinator(DrainCoordinator):
    """Drives the service of this process: begins when it serves, keeps its server, and outlives its program's end.

    Args:
        settings: of `install()`.
        mode: what is started, and when.
        make_registry: see `DrainCoordinator`.
        make_siblings: likewise.
        signals: holds the signals; None where they are left to the server.
        find_stop_event: finds the event by which a parent process has this one stop.
        arbiter: gunicorn's, where that runs this process.
        serves_app: whether an application was given.
        make_discovery: makes what finds other services; None without an Eureka.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        mode: Mode,
        make_registry: Callable[[], Registry] | None,
        make_siblings: Callable[[Registry | None], Siblings | None],
        signals: SignalHold | None,
        find_stop_event: Callable[[], StopEvent | None] = lambda: None,
        arbiter: Arbiter | None = None,
        serves_app: bool,
        make_discovery: Callable[[Runtime], Discovery] | None = None,
    ) -> None:
        self.settings = settings
        self._mode = mode
        self._server = Server(signals if mode.whole else None, find_stop_event, arbiter)
        self._parent_heard = False
        self._has_registry = make_registry is not None
        self._uninstalled = threading.Event()
        self._unwire: list[Callable[[], None]] = []
        self._runtime = Runtime(self._main)
        self._discovery = make_discovery(self._runtime) if make_discovery else None
        caller = AppCaller()
        self._teller = Teller(settings)
        hosts = ("127.0.0.1", "::1", *([settings.ip_addr] if settings.ip_addr else []))
        readiness = Readiness(
            caller,
            port=settings.port,
            hosts=hosts,
            serves_app=serves_app,
            check_timeout=settings.readiness_timeout,
        )
        super().__init__(
            lambda: self.plan,
            grace_period=lambda told: settings.effective_grace_period(self.plan, told),
            readiness=readiness,
            caller=caller,
            make_registry=make_registry,
            make_siblings=make_siblings,
            stop_server=self._tell_server,
            exit_process=self._end_process,
            early_end=settings.early_end_rule,
            query=settings.deadline_report_query,
            tell=self._teller.tell,
        )

    @property
    def plan(self) -> Plan:
        """How long each part of the leave may take, with the cleanup callbacks registered so far."""
        return self.settings.plan(registry=self._has_registry, cleanup=self.cleanup_timeouts)

    def _shut_down(self) -> None:
        self._uninstalled.set()
        self._runtime.stop()
        self._server.give_back()

    def _stand_by(self) -> None:
        """Keep the deadline, and keep the process until it has left in order when its program ends.

        For a thread of its own: a user's callback may block our event loop, and the process must end all the same. Not
        a daemon: the interpreter waits for it, and lets our own thread run meanwhile. A daemon's cleanup callbacks
        would be cut off, and the instance would stay in the registry until its lease expires.
        """
        while (thread := _thread_of_program()) is not None:
            if self._uninstalled.is_set():
                return
            thread.join(min(_PROGRAM_LOOK, self.enforce_deadline()))
        # A program that was never ready has nothing to undo: somebody has only imported it.
        if self.phase is Phase.STARTING or not self._runtime.running:
            return
        stopped = self.server_stops()
        until = time.monotonic() + max(0.0, self.remaining) + _STOP_SLACK
        while not stopped.wait(self.enforce_deadline()) and time.monotonic() < until:
            pass
        self._server.finish()

    # For install()

    def activate(self) -> None:
        """Hold the signals and start the thread; in a service that is not active at once, do nothing."""
        if self._mode is not Mode.ACTIVE:
            return
        self._server.hold_signals()
        with suppress(anyio.NoEventLoopError):  # installed at import: the lifespan's loop will be the application's
            self.adopt_loop()
        self._readiness.imports = Imports.under_way()
        self._start()

    def _start(self) -> None:
        self._uninstalled.clear()
        self._server.hold_stop_event(lambda: self._runtime.call_soon(self._parent_tells))
        self._runtime.start()
        running = {thread.name for thread in threading.enumerate()}
        if self._mode.whole and _STAND_BY not in running:
            threading.Thread(target=self._stand_by, name=_STAND_BY, daemon=False).start()

    def adopt_loop(self) -> None:
        """Take the event loop that runs here for the application's."""
        self._caller.adopt(current_token())

    def on_uninstall(self, function: Callable[[], None]) -> None:
        """Have `uninstall` call a function."""
        self._unwire.append(function)

    def stand_back_before_fork(self) -> None:
        """A process that forks before its application has started is a parent of workers, and serves nothing itself.

        (`gunicorn --preload`.) Everything of ours stops in it: the signals are the parent's own, and no thread of ours
        runs while it forks. It begins again where an application's lifespan does: in the workers. Or here, if it was
        only a child of the application's own. WSGI has no lifespan, and nothing would begin again.
        """
        readiness = self._readiness
        starts_later = readiness.serves_app and readiness.has_lifespan and not readiness.starting
        if starts_later and not readiness.by_hand and self.phase is Phase.STARTING and self._runtime.running:
            logger.debug("a process is forked before the application has started: standing back in this one")
            self._shut_down()
            for thread in threading.enumerate():
                if thread.name == _STAND_BY:
                    thread.join(_PROGRAM_LOOK)  # it sees within a look that it is not needed

    def reset_after_fork(self) -> None:
        """In a forked child: nothing of the parent's is ours, until it shows that it serves, too."""
        close_inherited()
        self._runtime.reset_after_fork()
        if self._discovery is not None:
            self._discovery.reset_after_fork()
        self._caller.forget()
        self.new_life()
        arbiter = Arbiter.that_forks()
        self._server.arbiter = arbiter or self._server.arbiter
        if arbiter is not None and self._mode.whole and not self._readiness.has_lifespan:
            # gunicorn --preload: WSGI has no lifespan that would tell when the worker begins.
            self._server.hold_signals()
            self._start()

    # For the middleware

    async def reason_not_ready(self) -> str | None:
        """Why the service must get no new callers now, or None."""
        phase, leave = self.phase, self.life.leave
        # A worker that may be only recycled must not make its pod unready.
        if phase is Phase.SERVING or (phase is Phase.LAME_DUCK and leave is not None and leave.alone is not False):
            return await self._readiness.failing_check()
        if phase is Phase.STARTING and not self._readiness.starting:
            # Without a lifespan a request is what shows that the server has started.
            self._readiness.started = True
        return str(phase.value)

    def reason_not_ready_in_thread(self) -> str | None:
        """As `reason_not_ready`, for a thread that may wait."""
        try:
            return self._runtime.wait_for(self.reason_not_ready, _PROBE_TIMEOUT)
        except TimeoutError as error:
            return str(error) or f"the readiness checks did not end within {_PROBE_TIMEOUT:g}s"

    def lifespan_begins(self) -> None:
        """The application's lifespan begins, in its event loop."""
        if self.life.stopped.is_set() and self.server_stopped_first:
            self.new_life()
        self.adopt_loop()
        self._readiness.starting = True
        if threading.current_thread() is threading.main_thread():
            self._server.hold_signals()
        self._start()

    def lifespan_started(self) -> None:
        """The application's start-up has completed; in its event loop."""
        after_turns(_START_TURNS, self._server_goes_on)

    def _server_goes_on(self) -> None:
        """The server runs its event loop on after the start-up, and has taken its signals by now if it ever does."""
        self._server.hold_signals_still()
        self._readiness.started = True

    def lifespan_unanswered(self) -> None:
        """The application's start-up was neither completed nor failed: the server may go on without a lifespan."""
        self._readiness.starting = self._readiness.has_lifespan = False

    async def lifespan_ends(self) -> None:
        """The server stops; returns when everything that comes before the application's own teardown is done."""
        if not self._runtime.running:
            return
        stopped = self.server_stops()
        limit = max(0.0, self.remaining) + _STOP_SLACK
        if not await to_thread.run_sync(stopped.wait, limit, abandon_on_cancel=True):
            logger.warning("the leave was not over when the application's teardown had to begin")
        if self.server_stopped_first:
            self._shut_down()

    # In the thread

    async def _main(self) -> None:
        self._changes.forget()  # a process that stood back once has run before
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._server.receive_signals, self.signalled)
                tasks.start_soon(partial(serve_control, self, manifest=self._numbers))
                tasks.start_soon(self._report_when_ready)
                tasks.start_soon(self._keep_server)
                tasks.start_soon(self._stand_back_as_parent)
                tasks.start_soon(self._tell_library)
                if self._discovery is not None:
                    tasks.start_soon(self._discovery.run)
                await self.run(self._runtime.call_soon)
                if self.server_stopped_first:
                    tasks.cancel_scope.cancel()
                elif threading.main_thread().is_alive() and not self.life.server_told:
                    self._server.release(self.signum, max(0.0, self.remaining))
                # The thread stays: a later signal must not reach the server.
        except Exception:
            # Nobody would ever release the signals that are held: give them back, and let the server see the next.
            self._server.give_back()
            self.life.stopped.set()
            raise

    def _parent_tells(self) -> None:
        if not self._parent_heard:
            self._parent_heard = True
            self.told_to_stop()

    def _numbers(self) -> str:
        return Snippets(self.settings, self.plan).needs.to_json()

    async def _tell_server(self, within: float) -> bool:
        """Release the server before its time; False where nobody would tell us that it has stopped."""
        return self._readiness.starting and await self._server.release_early(self.signum, within)

    async def _report_when_ready(self) -> None:
        report_environment(os.environ)
        await self._changes.until(lambda: self.phase is not Phase.STARTING)
        if self.phase is Phase.SERVING:
            report_plan(self.settings, self.plan, os.environ)
            if self._mode is Mode.ACTIVE:
                report_ancestors(os.getpid())
            for sentence in self._server.warnings(self.plan):
                logger.warning("%s", sentence)

    async def _stand_back_as_parent(self) -> None:
        """Give everything back in a process that turns out to be the parent of those that serve."""
        while self.phase is Phase.STARTING and not self._readiness.starting:
            if is_parent_of_workers():
                logger.debug("this process is the parent of workers: standing back in it")
                self._shut_down()
                return
            await anyio.sleep(_LOOK)

    async def _keep_server(self) -> None:
        """Have the server not stop in the lame duck for a reason of its own."""
        await self._changes.until(lambda: self.life.leave)
        self._server.serve_on(self.signum)

    async def _tell_library(self) -> None:
        await self.draining.wait()
        self._server.tell_library(self.signum)

    def _end_process(self, status: int, report: DrainReport) -> None:
        if self._mode.whole:
            exit_with_report(status, report, self._teller.tell)
        else:
            logger.error("the process would be ended now: %s", report)
            self._teller.tell(report, logging.ERROR)


def _thread_of_program() -> threading.Thread | None:
    """A thread that the program still runs in: the main one, else one that the interpreter would wait for."""
    for thread in threading.enumerate():
        if thread.is_alive() and not thread.daemon and thread.name != _STAND_BY:
            return thread
    return None
