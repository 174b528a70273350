"""The middleware where the wait may end early: it notes every caller too.

A class of its own, chosen when the application is wrapped: a service without the early end has none of this on the way
of its requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from graceful.core.names import LONGEST_NAME
from graceful.http.asgi import GracefulMiddleware, Service
from graceful.http.saying import KUBELET

if TYPE_CHECKING:
    from graceful.http.asgi import ASGIApp, Receive, Scope, Send

__all__ = ["NotingMiddleware", "NotingService"]

_NO_CALLERS: Final = (KUBELET, b"Prometheus/")
"""How the User-Agent of those begins who call this very address until it is gone: no registry tells them to go."""


class NotingService(Service, Protocol):
    """What the middleware needs of a service whose wait may end early."""

    def note_caller(self, name: str | bytes) -> None:
        """A caller has called."""
        ...


class NotingMiddleware(GracefulMiddleware):
    """`GracefulMiddleware` that notes who calls, requests and WebSocket handshakes alike.

    Args:
        app: the application.
        service: the service that it belongs to.
        caller_header: the header that names the caller; where it is unset, missing or empty, the peer's address does.
        **options: those of `GracefulMiddleware`.
    """

    def __init__(
        self, app: ASGIApp, service: NotingService, *, caller_header: str | None = None, **options: Any
    ) -> None:
        super().__init__(app, service, **options)
        self._note_caller = service.note_caller
        self._header = caller_header.lower().encode() if caller_header is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, noting who has opened it."""
        if scope["type"] == "websocket" or (scope["type"] == "http" and scope["path"] not in self._own):
            self._note(scope)
        await super().__call__(scope, receive, send)

    def _note(self, scope: Scope) -> None:
        caller: str | bytes = b""
        for name, value in scope.get("headers", ()):
            if name == b"user-agent" and value.startswith(_NO_CALLERS):
                return
            if name == self._header:
                caller = value[:LONGEST_NAME]
        if not caller:
            client = scope.get("client")
            caller = client[0] if client else ""
        self._note_caller(caller)
