"""One pure-ASGI middleware: in-flight requests, late requests, closing, probes, and the lifespan's two ends.

No framework is imported: an ASGI application is a callable, its messages are dictionaries.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from graceful.core.inflight import NotAcceptingError
from graceful.core.ledger import name_caller, name_route
from graceful.http.connection import Connection
from graceful.http.probes import KUBELET
from graceful.http.streams import EventStream, is_event_stream
from graceful.http.websocket import ClosingWebSocket
from graceful.loops import current_task, run_soon_here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from graceful.core.inflight import Unit
    from graceful.core.phases import Phase
    from graceful.draining import Draining

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["NOTICE", "SERVICE_RESTART", "GracefulMiddleware", "Service"]

logger = logging.getLogger("graceful.http")

_CLOSE = (b"connection", b"close")
SERVICE_RESTART: Final = 1012
"""WebSocket close code "Service Restart" (IANA registry of RFC 6455)."""
NOTICE: Final = "graceful.draining"
"""The key of the ASGI scope under which an application finds the event, if it asked for it."""


class Service(Protocol):
    """What the middleware needs of the service it stands in front of."""

    @property
    def phase(self) -> Phase:
        """The phase of the lifecycle."""
        ...

    @property
    def draining(self) -> Draining:
        """Set when the drain begins."""
        ...

    def enter_unit(self, unit: Unit) -> int:
        """Take a request in; raises `NotAcceptingError` from the drain on."""
        ...

    def leave(self, key: int) -> None:
        """A request has ended."""
        ...

    def hold_open(self, end: Callable[[], object]) -> int:
        """A connection has been opened that would never end by itself; `end` asks it to, from any thread."""
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
    ) -> None:
        self.app = app
        self.service = service
        self._livez = livez_path
        self._probes = {path for path in (livez_path, readyz_path) if path is not None}
        # Whole seconds, RFC 9110 10.2.3.
        self._retry_after = (b"retry-after", str(max(0, round(retry_after))).encode())
        self._close_code = close_code
        self._notice = notice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the ASGI kind that `scope` names."""
        kind = scope["type"]
        if self._notice:
            scope[NOTICE] = self.service.draining
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, path = self.service, scope["path"]
        if path in self._probes:
            await self._probe(scope, path, send)
            return
        phase = service.phase
        if not phase.accepts_work:
            await self._refuse(scope, send)
            return
        sender = _Sender(service, scope, send)
        try:
            key = service.enter_unit(sender)
        except NotAcceptingError:
            await self._refuse(scope, send)
            return
        if phase.leaving:
            self._enter_late(scope, scope["method"], served=True)

        try:
            await self.app(scope, receive, sender)
        except BaseException as error:
            if sender.stream is None or not sender.stream.ended_with(error):
                raise
        finally:
            service.leave(key)
            if sender.stream is not None:
                service.let_go(sender.stream.key)

    async def _probe(self, scope: Scope, path: str, send: Send) -> None:
        reason = None if path == self._livez else await self.service.reason_not_ready()
        text = f"not ready: {reason}" if reason else "ok"
        await _answer(scope, send, 503 if reason else 200, text, self.service.phase.leaving)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, phase = self.service, self.service.phase
        if phase.leaving:
            self._enter_late(scope, "WEBSOCKET", served=phase.accepts_work)
        try:
            key = service.enter_unit(Connection(scope)) if phase.accepts_work else None
        except NotAcceptingError:
            key = None
        if key is None:
            await receive()
            await send({"type": "websocket.close", "code": self._close_code})
            return
        socket, soon = ClosingWebSocket(receive, send, code=self._close_code), run_soon_here()
        held = service.hold_open(lambda: soon(socket.end))
        try:
            await self.app(scope, socket.receive, socket.send)
        except Exception as error:
            if not socket.ended:
                raise
            logger.debug("the application took the end of its WebSocket as an error: %r", error)
        finally:
            service.let_go(held)
            service.leave(key)

    def _enter_late(self, scope: Scope, method: str, *, served: bool) -> None:
        """Enter who called in the ledger; nothing of this is done for a service that does not leave."""
        agent = next((value for name, value in scope.get("headers", ()) if name == b"user-agent"), b"")
        # A kubelet probes its own pod, whatever the path and until the end: nobody has to tell it.
        if not agent.startswith(KUBELET):
            address, *_ = scope.get("client") or (None,)
            self.service.enter_late(name_caller(address, agent), name_route(method, scope["path"]), served=served)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        self._enter_late(scope, scope["method"], served=False)
        await _answer(scope, send, 503, "this instance is shutting down", True, self._retry_after)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.service.lifespan_begins()

        async def receive_after_ours() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.service.lifespan_ends()
            return message

        async def send_noting(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.service.lifespan_started()

        await self.app(scope, receive_after_ours, send_noting)


class _Sender(Connection):
    """What an application sends one response through."""

    __slots__ = ("_headers", "_send", "_service", "stream")

    def __init__(self, service: Service, scope: Scope, send: Send) -> None:
        self._service = service
        self._scope = scope
        self._send = send
        self._task = current_task()
        self._headers: Any = ()
        self.stream: EventStream | None = None

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._headers = message.get("headers", ())
            # Decided when the response starts, not when the request came: the leave may have begun in between.
            if self._service.phase.leaving:
                message = {**message, "headers": _closing(self._scope, self._headers)}
        elif self.stream is not None:
            return self.stream.send(message)
        elif self._headers and message.get("more_body"):
            if is_event_stream(self._headers):
                self.stream = stream = self._hold_open()
                return stream.send(message)
            self._headers = ()  # looked at once
        return self._send(message)  # no coroutine of its own: this is on the way of every message

    def _hold_open(self) -> EventStream:
        task = self._task if isinstance(self._task, asyncio.Task) else None
        stream, soon = EventStream(self._send, task), run_soon_here()
        stream.key = self._service.hold_open(lambda: soon(stream.end))
        return stream


async def _answer(
    scope: Scope,
    send: Send,
    status: int,
    text: str,
    close: bool,
    *headers: tuple[bytes, bytes],
) -> None:
    body = text.encode() + b"\n"
    start = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send(
        {"type": "http.response.start", "status": status, "headers": _closing(scope, start) if close else start},
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _closing(scope: Scope, headers: Any) -> list[tuple[bytes, bytes]]:
    """The headers with `Connection: close`; HTTP/2 and later have no such header (RFC 9113 8.2.2)."""
    kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return [*kept, _CLOSE] if scope.get("http_version", "1.1").startswith("1") else list(headers)
