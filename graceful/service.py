"""The coordinator as users hold it: its callbacks, their work, their application, and the matching manifest."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import anyio
from anyio.lowlevel import current_token

from graceful.core.callbacks import RegisteredCallback
from graceful.core.leave import Trigger
from graceful.hosting import HostedCoordinator, Mode
from graceful.http.asgi import GracefulMiddleware
from graceful.http.noting import NotingMiddleware
from graceful.http.prestop import PrestopEndpoint
from graceful.http.wsgi import WsgiMiddleware
from graceful.kubernetes.manifest import Snippets
from graceful.tracking import Tracking
from graceful.unusable import SettingsError
from graceful.wire import env_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.eureka.discovery import Discovery
    from graceful.http.asgi import ASGIApp
    from graceful.http.wsgi import WSGIApp

    Function = TypeVar("Function", bound=Callable[[], Any])
    Work = TypeVar("Work", bound=Callable[..., Any])

__all__ = ["Coordinator"]

logger = logging.getLogger("graceful.service")

_LOOK: Final = 0.05


class Coordinator(HostedCoordinator):
    """What `install()` gives: the service's phase, its callbacks, its in-flight work and its manifest.

    Every method may be called from any thread, but `uninstall` of a service whose signals are held: from the main one.
    """

    @property
    def in_flight(self) -> int:
        """How many units of work are in flight now."""
        return len(self.life.in_flight)

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


def _decorator(function: Function | None, timeout: float | None, add: Callable[[RegisteredCallback], None]) -> Any:
    def decorate(decorated: Function) -> Function:
        add(RegisteredCallback.checked(decorated, timeout))
        return decorated

    return decorate if function is None else decorate(function)
