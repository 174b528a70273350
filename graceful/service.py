"""The coordinator as users hold it: the drain coordinator with its thread, its signals, its hook and its manifest."""

from __future__ import annotations

import enum
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from graceful.calling import AppCaller
from graceful.control import close_inherited, serve_control
from graceful.coordinator import DrainCoordinator
from graceful.core.callbacks import RegisteredCallback
from graceful.core.leave import Trigger
from graceful.core.phases import Phase
from graceful.exiting import exit_with_report
from graceful.http.asgi import GracefulMiddleware
from graceful.http.noting import NotingMiddleware
from graceful.http.prestop import PrestopEndpoint
from graceful.http.wsgi import WsgiMiddleware
from graceful.kubernetes.manifest import Snippets
from graceful.loading import Imports
from graceful.loops import after_turns
from graceful.pid_one import report_ancestors
from graceful.readiness import Readiness
from graceful.runtime import Runtime
from graceful.selfcheck import report_environment, report_plan
from graceful.servers.gunicorn import Arbiter
from graceful.servers.processes import is_parent_of_workers
from graceful.telling import Teller
from graceful.tracking import Tracking
from graceful.unusable import SettingsError
from graceful.wire import env_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.budget import Plan
    from graceful.core.registry import Registry
    from graceful.core.report import DrainReport
    from graceful.eureka.discovery import Discovery
    from graceful.http.asgi import ASGIApp
    from graceful.http.wsgi import WSGIApp
    from graceful.servers.hypercorn import StopEvent
    from graceful.settings import Settings
    from graceful.sharing import Siblings
    from graceful.signals import SignalHold

    Function = TypeVar("Function", bound=Callable[[], Any])
    Work = TypeVar("Work", bound=Callable[..., Any])

__all__ = ["Coordinator", "Mode"]

logger = logging.getLogger("graceful.service")

_STOP_SLACK: Final = 1.0
_LOOK: Final = 0.05
_PROGRAM_LOOK: Final = 0.5
_PROBE_TIMEOUT: Final = 10.0
"""Seconds for all readiness checks together; each has its own, and a kubelet gives up after one second by default."""
_FIRST_REQUEST_DELAY: Final = 0.5
"""Seconds for what was accepted last to send its request, before a server stops that would cut it."""
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


class Coordinator(DrainCoordinator):
    """What `install()` gives: the service's phase, its callbacks, its in-flight work and its manifest.

    Every method may be called from any thread, but `uninstall` of a service whose signals are held: from the main one.
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
        self._signals = signals if mode.whole else None
        self._find_stop_event = find_stop_event
        self._stop_event: StopEvent | None = None
        self._arbiter = arbiter
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

    # For users

    @property
    def in_flight(self) -> int:
        """How many units of work are in flight now."""
        return len(self.life.in_flight)

    @property
    def plan(self) -> Plan:
        """How long each part of the leave may take, with the cleanup callbacks registered so far."""
        return self.settings.plan(registry=self._has_registry, cleanup=self.cleanup_timeouts)

    @property
    def eureka(self) -> Discovery:
        """Where other services are: `coordinator.eureka.base_url("payments")`.

        Raises:
            SettingsError: without an Eureka there is nothing to ask.
        """
        if self._discovery is None:
            raise SettingsError(
                "coordinator.eureka needs an Eureka to ask: set eureka_url, in install() or as "
                + " or ".join(env_names("eureka_url"))
            )
        return self._discovery

    @property
    def snippets(self) -> Snippets:
        """The matching Kubernetes manifest: `print(coordinator.snippets.patch)`."""
        return Snippets(self.settings, self.plan)

    @overload
    def on_drain(self, function: Function) -> Function: ...
    @overload
    def on_drain(self, *, timeout: float | None = None) -> Callable[[Function], Function]: ...
    def on_drain(self, function: Function | None = None, *, timeout: float | None = None) -> Any:
        """Have a function called when the lame duck is over: stop consuming, stop fetching.

        All of them run at the same time, while what is in flight finishes. A decorator, bare or with a timeout.

        Args:
            function: sync or async, without arguments. An async one runs in the application's event loop.
            timeout: upper bound in seconds; by default `drain_timeout`.

        Raises:
            TypeError: if `function` is not callable.
            ValueError: if `timeout` is not more than 0.
        """
        return _decorator(function, timeout, self.add_drain_callback)

    @overload
    def on_cleanup(self, function: Function) -> Function: ...
    @overload
    def on_cleanup(self, *, timeout: float | None = None) -> Callable[[Function], Function]: ...
    def on_cleanup(self, function: Function | None = None, *, timeout: float | None = None) -> Any:
        """Have a function called when nothing is in flight any more: close pools, flush.

        One after the other, last registered first; one that fails or hangs does not keep the others from running.
        They run before the application's own teardown. A decorator, bare or with a timeout.

        Args:
            function: sync or async, without arguments. An async one runs in the application's event loop.
            timeout: upper bound in seconds; by default `cleanup_timeout`.

        Raises:
            TypeError: if `function` is not callable.
            ValueError: if `timeout` is not more than 0.
        """
        return _decorator(function, timeout, self.add_cleanup_callback)

    @overload
    def readiness_check(self, function: Function) -> Function: ...
    @overload
    def readiness_check(self, *, timeout: float | None = None) -> Callable[[Function], Function]: ...
    def readiness_check(self, function: Function | None = None, *, timeout: float | None = None) -> Any:
        """Add a check to the readiness: it fails by raising, by returning False, or by taking too long.

        Args:
            function: sync or async, without arguments. An async one runs in the application's event loop.
            timeout: upper bound in seconds; by default `readiness_timeout`.

        Raises:
            TypeError: if `function` is not callable.
            ValueError: if `timeout` is not more than 0.
        """
        return _decorator(function, timeout, self._readiness.checks.append)

    def ready(self) -> None:
        """Say that the service is ready: for one without a port. Its checks must still pass.

        Where no event loop of the application is known yet, the one that this is called in is taken for it: async
        callbacks will run there.
        """
        with suppress(anyio.NoEventLoopError):
            self._caller.adopt_first(current_token())
        self._readiness.by_hand = True

    def drain(self, reason: str = "drain() was called") -> None:
        """Begin to leave, as SIGTERM would; returns at once. It may be called in a signal handler.

        If the leave has begun already nothing happens, but that after a hook no SIGTERM is waited for any more.
        """
        if self._mode is Mode.INERT:
            logger.warning("drain() does nothing: graceful is switched off in this process")
            return
        if not self.begin(Trigger.CALL, reason):
            self.proceed()

    async def wait_stopped(self) -> None:
        """Return when the leave is over: for a `main` that would otherwise return before the cleanup callbacks ran.

        In any event loop. It looks twenty times a second: a thread that waited would outlive a cancelled wait.
        """
        while not self.life.stopped.is_set():  # noqa: ASYNC110  it is set by another thread
            await anyio.sleep(_LOOK)

    @overload
    def track(self, name: Work) -> Work: ...
    @overload
    def track(self, name: str | None = None) -> Tracking: ...
    def track(self, name: Any = None) -> Any:
        """Count a unit of work as in flight: the drain waits for it, and names it if it waits in vain.

        `with coordinator.track("job 42"):`, `async with` alike, or as a decorator, with a name or bare: every run of
        the function counts, of an `async def` and of a generator too, from the first step to the end. A generator that
        is neither exhausted nor closed counts until it is collected.

        Args:
            name: names the work in reports; by default, as a decorator, that of the function.

        Raises:
            NotAcceptingError: when the work begins, from the moment on at which the drain accepts no new work.
            TypeError: `with` without a name, or what is decorated is not a function.
        """
        if name is None or isinstance(name, str):
            return Tracking(self, name)
        return Tracking(self, None)(name)

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """Wrap an ASGI application: serve the result instead of it."""
        if self._mode is Mode.INERT:
            return app
        self._readiness.serves_app = True
        options: dict[str, Any] = {
            "livez_path": self.settings.livez_path if self.settings.probes else None,
            "readyz_path": self.settings.readyz_path if self.settings.probes else None,
            "retry_after": self.settings.retry_after,
            "close_code": self.settings.websocket_close_code,
            "notice": self.settings.scope_notice,
        }
        if self.settings.prestop_token is not None:
            token = self.settings.prestop_token.get_secret_value()
            options["prestop"] = PrestopEndpoint(token, grace=self.settings.grace_period)
            options["prestop_path"] = self.settings.prestop_path
        if self.settings.early_end:
            return NotingMiddleware(app, self, caller_header=self.settings.early_end_caller_header, **options)
        return GracefulMiddleware(app, self, **options)

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """Wrap a WSGI application: serve the result instead of it."""
        if self._mode is Mode.INERT:
            return app
        self._readiness.serves_app, self._readiness.has_lifespan = True, False
        return WsgiMiddleware(
            app,
            self,
            livez_path=self.settings.livez_path if self.settings.probes else None,
            readyz_path=self.settings.readyz_path if self.settings.probes else None,
            retry_after=self.settings.retry_after,
        )

    def wire_aiohttp(self, app: Any) -> Callable[[], None]:
        """Wire an `aiohttp.web.Application` in place; gives what takes the wires out again."""
        if self._mode is Mode.INERT:
            return lambda: None
        from graceful.http.aiohttp import AiohttpWiring  # noqa: PLC0415  aiohttp is there only where such an app is

        self._readiness.serves_app = True
        wiring = AiohttpWiring(
            app,
            self,
            livez_path=self.settings.livez_path if self.settings.probes else None,
            readyz_path=self.settings.readyz_path if self.settings.probes else None,
            retry_after=self.settings.retry_after,
            close_code=self.settings.websocket_close_code,
        )
        return wiring.undo

    def wire_grpc(self, server: Any, *, health: Any = None) -> None:
        """Have a gRPC server leave with this service, and its clients told by its health servicer.

        The servicer says NOT_SERVING from the beginning of the lame duck on, while calls are still served. When the
        drain begins the server is stopped, with what remains of the drain as its grace: new calls are refused, those
        in hand are waited for, and cancelled when that time is over.

        Args:
            server: of `grpc.server()`, or of `grpc.aio.server()`: then in its event loop.
            health: the `HealthServicer` of `grpc_health.v1.health` that was added to it, of the same kind.

        Raises:
            TypeError: for what is no gRPC server, no health servicer, or one of the other kind.
            RuntimeError: for a `grpc.aio` server, outside its event loop.
        """
        from graceful.servers.grpc import wire_grpc  # noqa: PLC0415  only a gRPC service pays for it

        wire_grpc(server, health, self)

    def grpc_interceptor(self) -> Any:
        """An interceptor for `grpc.server(…, interceptors=[…])`, and for `grpc.aio.server` alike.

        With it every call counts as in flight while its handler runs, is named by its method in the report, and those
        that come after the leave has begun are counted as late.
        """
        from graceful.servers.grpc_calls import CallCounter  # noqa: PLC0415  grpc is there only in a gRPC service

        return CallCounter(self)

    def uninstall(self) -> None:
        """Put everything back: the thread, the hook's socket, the signal handlers, the application. No leave begins."""
        self._shut_down()
        while self._unwire:
            self._unwire.pop()()

    def _shut_down(self) -> None:
        self._uninstalled.set()
        self._runtime.stop()
        self._give_back()

    def _give_back(self) -> None:
        """Let the server see what was held back from it."""
        if self._stop_event is not None:
            self._stop_event.give_back()
        if self._signals is not None:
            self._signals.uninstall()

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
        if self._signals is not None:
            self._signals.finish()

    # For install()

    def activate(self) -> None:
        """Hold the signals and start the thread; in a service that is not active at once, do nothing."""
        if self._mode is not Mode.ACTIVE:
            return
        if self._signals is not None:
            self._signals.install()
        with suppress(anyio.NoEventLoopError):  # installed at import: the lifespan's loop will be the application's
            self.adopt_loop()
        self._readiness.imports = Imports.under_way()
        self._start()

    def _start(self) -> None:
        self._uninstalled.clear()
        self._stop_event = self._find_stop_event() if self._signals is not None else None
        if self._stop_event is not None:
            self._stop_event.hold(lambda: self._runtime.call_soon(self._parent_tells))
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
        runs while it forks. It begins again where an application's lifespan does: in the workers.
        """
        starts_later = self._readiness.serves_app and not self._readiness.starting and not self._readiness.by_hand
        if starts_later and self.phase is Phase.STARTING and self._runtime.running:
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
        self._arbiter = arbiter or self._arbiter
        if arbiter is not None and self._mode.whole and not self._readiness.has_lifespan:
            # gunicorn --preload: WSGI has no lifespan that would tell when the worker begins.
            if self._signals is not None:
                self._signals.install()
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
        if self._signals is not None and threading.current_thread() is threading.main_thread():
            self._signals.install()
            self._signals.ensure()
        self._start()

    def lifespan_started(self) -> None:
        """The application's start-up has completed; in its event loop."""
        after_turns(_START_TURNS, self._server_goes_on)

    def _server_goes_on(self) -> None:
        """The server runs its event loop on after the start-up, and has taken its signals by now if it ever does."""
        if self._signals is not None:
            self._signals.ensure()
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
                tasks.start_soon(self._pump_signals)
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
                    self._release(max(0.0, self.remaining))
                # The thread stays: a later signal must not reach the server.
        except Exception:
            # Nobody would ever release the signals that are held: give them back, and let the server see the next.
            self._give_back()
            self.life.stopped.set()
            raise

    def _release(self, remaining: float) -> None:
        """Have the server stop, with what remains of the time."""
        if self._stop_event is not None:
            self._stop_event.release(remaining)
        elif self._signals is not None:
            self._signals.release(self.signum, remaining=remaining)

    def _parent_tells(self) -> None:
        if not self._parent_heard:
            self._parent_heard = True
            self.told_to_stop()

    def _numbers(self) -> str:
        return self.snippets.needs.to_json()

    async def _tell_server(self, within: float) -> bool:
        """Release the server before its time; False where nobody would tell us that it has stopped."""
        if self._signals is None or not self._readiness.starting:
            return False
        self._signals.stop_accepting(self.signum)
        pause = min(_FIRST_REQUEST_DELAY, within)
        await anyio.sleep(pause)
        self._release(within - pause)
        return True

    async def _report_when_ready(self) -> None:
        report_environment(os.environ)
        await self._changes.until(lambda: self.phase is not Phase.STARTING)
        if self.phase is Phase.SERVING:
            report_plan(self.settings, self.plan, os.environ)
            if self._mode is Mode.ACTIVE:
                report_ancestors(os.getpid())
            for sentence in self._arbiter.warnings(self.plan) if self._arbiter is not None else ():
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
        if self._arbiter is not None:
            self._arbiter.serve_on()
        if self._signals is not None:
            self._signals.serve_on(self.signum)

    async def _tell_library(self) -> None:
        await self.draining.wait()
        if self._signals is not None:
            self._signals.tell_library(self.signum)

    async def _pump_signals(self) -> None:
        if self._signals is None:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._signals.watch)
            async for signum in self._signals.receive():
                self.signalled(signal.Signals(signum))

    def _end_process(self, status: int, report: DrainReport) -> None:
        if self._mode.whole:
            exit_with_report(status, report, self._teller.tell)
        else:
            logger.error("the process would be ended now: %s", report)
            self._teller.tell(report, logging.ERROR)


def _decorator(function: Function | None, timeout: float | None, add: Callable[[RegisteredCallback], None]) -> Any:
    def decorate(decorated: Function) -> Function:
        add(RegisteredCallback.checked(decorated, timeout))
        return decorated

    return decorate if function is None else decorate(function)


def _thread_of_program() -> threading.Thread | None:
    """A thread that the program still runs in: the main one, else one that the interpreter would wait for."""
    for thread in threading.enumerate():
        if thread.is_alive() and not thread.daemon and thread.name != _STAND_BY:
            return thread
    return None
