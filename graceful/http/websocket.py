"""WebSockets at the drain: each open one is closed in order, whatever the application is doing with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from graceful.http.asgi import Message, Receive, Send

__all__ = ["ClosedByDrainError", "ClosingWebSocket"]

_REASON: Final = "this instance is shutting down"


class ClosedByDrainError(OSError):
    """Sent to an application that sends on where the drain has ended its connection; servers raise OSError as well."""


class ClosingWebSocket:
    """Stands between a server and an application for one WebSocket. In the application's event loop.

    The close is sent by the application's own task, from within `receive` or `send`: from another task it would race
    the application's messages, and hang on granian.

    Args:
        receive: the server's.
        send: the server's.
        code: the close code.
    """

    def __init__(self, receive: Receive, send: Send, *, code: int) -> None:
        self._receive = receive
        self._send = send
        self._code = code
        self._receiving: set[anyio.CancelScope] = set()
        self._ending = False
        self._closed = False
        self.ended = False
        """Whether the drain has ended it, so that what the application makes of that is no error."""

    def end(self) -> None:
        """Close it as soon as the application receives or sends; one that waits for a message is woken."""
        self._ending = True
        for scope in self._receiving:
            scope.cancel()

    async def receive(self) -> Message:
        """The next message of the peer, or a disconnect once the drain has closed the socket."""
        if not self._ending:
            scope = anyio.CancelScope()
            self._receiving.add(scope)
            try:
                with scope:
                    message = await self._receive()
                    self._closed = self._closed or message["type"] == "websocket.disconnect"
                    return message
            finally:
                self._receiving.discard(scope)
        await self._close()
        return {"type": "websocket.disconnect", "code": self._code, "reason": _REASON}

    async def send(self, message: Message) -> None:
        """Send a message of the application's.

        Raises:
            ClosedByDrainError: the drain has closed the socket.
        """
        if self._ending:
            await self._close()
            raise ClosedByDrainError("the WebSocket was closed: " + _REASON)
        await self._send(message)
        # A response that refuses the handshake ends it as a close does.
        self._closed = self._closed or message["type"] in _LAST

    async def _close(self) -> None:
        if not self._closed:
            self._closed = self.ended = True
            await self._send({"type": "websocket.close", "code": self._code, "reason": _REASON})


_LAST: Final = ("websocket.close", "websocket.http.response.start")
