"""One pure-ASGI middleware: in-flight requests, late requests, closing, probes, and the lifespan's two ends.

No framework is imported: an ASGI application is a callable, its messages are dictionaries.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import anyio

from graceful.core.inflight import NotAcceptingError
from graceful.core.ledger import name_caller, name_route
from graceful.core.phases import Phase
from graceful.http.answering import answer, closing
from graceful.http.connection import Connection
from graceful.http.lifespan import Lifespan
from graceful.http.saying import KUBELET, SHUTTING_DOWN
from graceful.http.streams import CONTENT_TYPE, EventStream, is_event_stream
from graceful.http.websocket import ClosingWebSocket
from graceful.loops import Interruption, current_task, on_trio, run_soon_here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from graceful.draining import Draining
    from graceful.life import Life

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["NOTICE", "SERVICE_RESTART", "GracefulMiddleware", "Service"]

logger = logging.getLogger("graceful.http")

_SERVING: Final = Phase.SERVING
SERVICE_RESTART: Final = 1012
"""WebSocket close code "Service Restart" (IANA registry of RFC 6455)."""
NOTICE: Final = "graceful.draining"
"""The key of the ASGI scope under which an application finds the event, if it asked for it."""

_cancel_scope: ContextVar[anyio.CancelScope | None] = ContextVar("graceful_cancel_scope", default=None)
"""What surrounds the application on trio; the tasks that it starts have it too."""


class Service(Protocol):
    """What the middleware needs of the service it stands in front of."""

    @property
    def life(self) -> Life:
        """What it lives just now. Its parts are used as they are: every call in between would cost each request."""
        ...

    @property
    def phase(self) -> Phase:
        """The phase of the lifecycle."""
        ...

    @property
    def draining(self) -> Draining:
        """Set when the drain begins."""
        ...

    def hold_open(self, end: Callable[[], object], cut: Callable[[], object]) -> int:
        """A connection was opened that would never end by itself; `end` asks it to, `cut` has it, from any thread."""
        ...

    def let_go(self, key: int) -> None:
        """Such a connection has ended."""
        ...

    def enter_late(self, caller: str, route: str, *, served: bool) -> None:
        """A request came after the leave had begun."""
        ...

    async def reason_not_ready(self) -> str | None:
        """Why the service must get no new callers now, or None."""
        ...

    def lifespan_begins(self) -> None:
        """The application's lifespan begins, in its event loop."""
        ...

    def lifespan_started(self) -> None:
        """The application's start-up has completed."""
        ...

    def lifespan_unanswered(self) -> None:
        """The application has neither completed its start-up nor failed it; the server may go on without a lifespan."""
        ...

    async def lifespan_ends(self) -> None:
        """The server stops; returns when everything that comes before the application's own teardown is done."""
        ...


class GracefulMiddleware:
    """Wraps an ASGI application; outermost, so that it sees every request and the lifespan.

    Args:
        app: the application.
        service: the service that it belongs to.
        livez_path: answered with 200 for as long as the process runs; None to leave the path to the application.
        readyz_path: answered with 200 when ready, else 503; None to leave the path to the application.
        retry_after: seconds for `Retry-After` of the 503 that is answered from the drain on.
        close_code: what an open WebSocket is closed with at the drain.
        notice: whether the application finds the service's `draining` event in the scope, as `graceful.draining`.
        prestop_path: answered by `prestop`, where that is given.
        prestop: the pre-stop endpoint, an ASGI application; None where there is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        *,
        livez_path: str | None = "/livez",
        readyz_path: str | None = "/readyz",
        retry_after: float = 1.0,
        close_code: int = SERVICE_RESTART,
        notice: bool = False,
        prestop_path: str = "/graceful/prestop",
        prestop: ASGIApp | None = None,
    ) -> None:
        self.app = app if not notice else _noticing(app, service)
        self.service = service
        self._livez = livez_path
        # Answered here in every phase, and neither counted as in flight nor as a caller.
        self._own: dict[str, ASGIApp] = {path: self._probe for path in (livez_path, readyz_path) if path is not None}
        if prestop is not None:
            self._own[prestop_path] = prestop
        # Whole seconds, RFC 9110 10.2.3.
        self._retry_after = (b"retry-after", str(max(0, round(retry_after))).encode())
        self._close_code = close_code
        self._others: dict[str, ASGIApp] = {"lifespan": self._lifespan, "websocket": self._websocket}
        self._run = self.app

    async def __call__(  # noqa: C901  in one coroutine, and as little as can be: this is on the way of every request
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve one connection of the ASGI kind that `scope` names."""
        if scope["type"] != "http":
            await self._others.get(scope["type"], self.app)(scope, receive, send)
            return
        life = self.service.life
        lifecycle, in_flight = life.lifecycle, life.in_flight
        phase = lifecycle.phase
        if scope["path"] in self._own or (phase is not _SERVING and not phase.accepts_work):
            await self._answer_alone(scope, receive, send)
            return
        task = current_task()
        try:
            key = in_flight.enter((Connection, monotonic(), scope, task))
        except NotAcceptingError:
            await self._refuse(scope, send)
            return
        if phase is not _SERVING and phase.leaving:
            self._enter_late(scope, scope["method"], served=True)
        stream: EventStream | None = None

        def forward(message: Message) -> Awaitable[None]:
            nonlocal stream
            if message["type"] != "http.response.start":
                return send(message) if stream is None else stream.send(message)
            headers = message.get("headers", ())
            # Decided when the response starts, not when the request came: the leave may have begun in between.
            phase = lifecycle.phase
            if phase is not _SERVING and phase.leaving:
                message = {**message, "headers": (headers := closing(scope, headers))}
            elif type(headers) is not list:
                message = {**message, "headers": (headers := list(headers))}  # it may be read once only
            for name, value in headers:
                if name in CONTENT_TYPE:
                    if is_event_stream(value):
                        stream = self._hold_open(send, task)
                        return stream.send(message)
                    break
            return send(message)

        try:
            await self._run(scope, receive, forward)
        except BaseException as error:
            if stream is None or not stream.over(error):
                raise
        finally:
            in_flight.leave(key)
            if stream is not None:
                self._let_go(stream)

    async def _run_in_cancel_scope(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on trio, where a task can be cancelled in no other way."""
        with anyio.CancelScope() as cancel_scope:
            _cancel_scope.set(cancel_scope)
            await self.app(scope, receive, send)

    def _hold_open(self, send: Send, task: Any) -> EventStream:
        application = Interruption(_cancel_scope.get() if on_trio() else task)
        stream, soon = EventStream(send, application), run_soon_here()
        stream.key = self.service.hold_open(lambda: soon(stream.end), lambda: soon(stream.cut))
        return stream

    def _let_go(self, stream: EventStream) -> None:
        self.service.let_go(stream.key)
        stream.over(None)

    async def _answer_alone(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own.get(scope["path"])
        if own is None:
            await self._refuse(scope, send)
        else:
            await own(scope, receive, send)

    async def _probe(self, scope: Scope, _receive: Receive, send: Send) -> None:
        reason = None if scope["path"] == self._livez else await self.service.reason_not_ready()
        text = f"not ready: {reason}" if reason else "ok"
        await answer(scope, send, 503 if reason else 200, text, close=self.service.phase.leaving)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, life = self.service, self.service.life
        phase = life.lifecycle.phase
        if phase.leaving:
            self._enter_late(scope, "WEBSOCKET", served=phase.accepts_work)
        entry = (Connection, monotonic(), scope, current_task())
        try:
            key = life.in_flight.enter(entry) if phase.accepts_work else None
        except NotAcceptingError:
            key = None
        if key is None:
            await self._refuse_websocket(scope, receive, send)
            return
        soon, socket = run_soon_here(), ClosingWebSocket(receive, send, code=self._close_code)
        held = service.hold_open(lambda: soon(socket.end), lambda: soon(socket.cut))
        try:
            await socket.run(self.app, scope)
        finally:
            service.let_go(held)
            life.in_flight.leave(key)

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """503 where the server can answer a handshake so (ASGI, "Websocket Denial Response"); elsewhere it says 403."""
        await receive()
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": self._close_code})
            return
        headers = [(b"content-length", b"0"), self._retry_after]
        await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})

    def _enter_late(self, scope: Scope, method: str, *, served: bool) -> None:
        """Enter who called in the ledger; nothing of this is done for a service that does not leave."""
        agent = next((value for name, value in scope.get("headers", ()) if name == b"user-agent"), b"")
        # A kubelet probes its own pod, whatever the path and until the end: nobody has to tell it.
        if not agent.startswith(KUBELET):
            address, *_ = scope.get("client") or (None,)
            self.service.enter_late(name_caller(address, agent), name_route(method, scope["path"]), served=served)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        self._enter_late(scope, scope["method"], served=False)
        await answer(scope, send, 503, SHUTTING_DOWN, self._retry_after, close=True)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if on_trio():
            self._run = self._run_in_cancel_scope
        await Lifespan(self.service, receive, send).run(self.app, scope)


def _noticing(app: ASGIApp, service: Service) -> ASGIApp:
    """An application that finds the service's `draining` event in the scope."""

    def noticing(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope[NOTICE] = service.draining
        return app(scope, receive, send)

    return noticing
