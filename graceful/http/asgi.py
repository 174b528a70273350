"""One pure-ASGI middleware: in-flight requests, late requests, closing, probes, and the lifespan's two ends.

No framework is imported: an ASGI application is a callable, its messages are dictionaries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from graceful.core.inflight import NotAcceptingError
from graceful.core.ledger import name_caller, name_route
from graceful.http.answering import answer, closing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from graceful.core.phases import Phase

    Scope: TypeAlias = MutableMapping[str, Any]
    Message: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["KUBELET", "GracefulMiddleware", "Service"]

_RESTARTED = 1012
"""WebSocket close code "Service Restart" (IANA registry of RFC 6455)."""
KUBELET = b"kube-probe/"
"""How the User-Agent of a kubelet's HTTP probes begins (kubernetes, `pkg/probe/http`)."""


class Service(Protocol):
    """What the middleware needs of the service it stands in front of."""

    @property
    def phase(self) -> Phase:
        """The phase of the lifecycle."""
        ...

    def enter(self, *what: str) -> int:
        """Take a request in; raises `NotAcceptingError` from the drain on."""
        ...

    def leave(self, key: int) -> None:
        """A request has ended."""
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
        prestop_path: str = "/graceful/prestop",
        prestop: ASGIApp | None = None,
    ) -> None:
        self.app = app
        self.service = service
        self._livez = livez_path
        # Answered here in every phase, and neither counted as in flight nor as a caller.
        self._own: dict[str, ASGIApp] = {path: self._probe for path in (livez_path, readyz_path) if path is not None}
        if prestop is not None:
            self._own[prestop_path] = prestop
        # Whole seconds, RFC 9110 10.2.3.
        self._retry_after = (b"retry-after", str(max(0, round(retry_after))).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the ASGI kind that `scope` names."""
        kind = scope["type"]
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
        if path in self._own:
            await self._own[path](scope, receive, send)
            return
        phase = service.phase
        if not phase.accepts_work:
            await self._refuse(scope, send)
            return
        try:
            key = service.enter(scope["method"], path)
        except NotAcceptingError:
            await self._refuse(scope, send)
            return
        if phase.leaving:
            self._enter_late(scope, scope["method"], served=True)

        def send_closing(message: Message) -> Awaitable[None]:
            # Decided when the response starts, not when the request came: the leave may have begun in between.
            if message["type"] == "http.response.start" and service.phase.leaving:
                message = {**message, "headers": closing(scope, message.get("headers", ()))}
            return send(message)  # no coroutine of its own: this is on the way of every message

        try:
            await self.app(scope, receive, send_closing)
        finally:
            service.leave(key)

    async def _probe(self, scope: Scope, _receive: Receive, send: Send) -> None:
        reason = None if scope["path"] == self._livez else await self.service.reason_not_ready()
        text = f"not ready: {reason}" if reason else "ok"
        await answer(scope, send, 503 if reason else 200, text, close=self.service.phase.leaving)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        phase = self.service.phase
        if phase.leaving:
            self._enter_late(scope, "WEBSOCKET", served=phase.accepts_work)
        if phase.accepts_work:
            await self.app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": _RESTARTED})

    def _enter_late(self, scope: Scope, method: str, *, served: bool) -> None:
        """Enter who called in the ledger; nothing of this is done for a service that does not leave."""
        agent = next((value for name, value in scope.get("headers", ()) if name == b"user-agent"), b"")
        # A kubelet probes its own pod, whatever the path and until the end: nobody has to tell it.
        if not agent.startswith(KUBELET):
            address, *_ = scope.get("client") or (None,)
            self.service.enter_late(name_caller(address, agent), name_route(method, scope["path"]), served=served)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        self._enter_late(scope, scope["method"], served=False)
        await answer(scope, send, 503, "this instance is shutting down", self._retry_after, close=True)

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
