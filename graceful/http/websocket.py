"""WebSockets at the drain: each open one is closed in order, whatever the application is doing with it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio

from graceful.http.saying import SHUTTING_DOWN
from graceful.loops import Interruption, current_task, on_trio

if TYPE_CHECKING:
    from graceful.http.asgi import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ClosedByDrainError", "ClosingWebSocket"]

logger = logging.getLogger("graceful.http")


class ClosedByDrainError(OSError):
    """Raised where an application sends on over a connection that the drain has ended.

    An OSError, as the one that servers raise where the peer is gone (ASGI specification, "Disconnected Client - send
    exception"): what an application does then is right here too.
    """


class ClosingWebSocket:
    """Stands between a server and an application for one WebSocket. Made and run in the application's task.

    The close is sent by the application's own task, from within `receive` or `send`: from another task it would race
    the application's messages, and hang on granian. A handshake under way is left to the application; the socket is
    closed right after it, with the close code instead of an HTTP status.

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
        self._accepted = False
        self._ending = False
        self._closed = False
        self._ended = False
        # trio cancels a scope, asyncio the task.
        self._scope = anyio.CancelScope()
        self._application = Interruption(self._scope if on_trio() else current_task())

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application; what it makes of the drain's end of its socket is no error."""
        error: BaseException | None = None
        try:
            with self._scope:
                await app(scope, self.receive, self.send)
        except (asyncio.CancelledError, Exception) as raised:  # noqa: BLE001  looked at below, and most raised again
            error = raised
        if self._application.over() or self._scope.cancelled_caught:
            await self._close()  # it did neither receive nor send, so that nobody has told the peer yet
        elif isinstance(error, Exception) and self._ended:
            logger.debug("the application took the end of its WebSocket as an error: %r", error)
        elif error is not None:
            raise error

    def cut(self) -> None:
        """Have the application end that does neither receive nor send; the socket is closed then."""
        self._application.interrupt()

    def end(self) -> None:
        """Close it as soon as the application receives or sends; one that waits for a message is woken."""
        self._ending = True
        if self._accepted:
            for scope in self._receiving:
                scope.cancel()

    async def receive(self) -> Message:
        """The next message of the peer, or a disconnect once the drain has closed the socket."""
        if not (self._ending and self._accepted):
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
        return {"type": "websocket.disconnect", "code": self._code, "reason": SHUTTING_DOWN}

    async def send(self, message: Message) -> None:
        """Send a message of the application's; in the drain it is the last one.

        Raises:
            ClosedByDrainError: the drain has closed the socket.
        """
        kind = message["type"]
        if self._ended:
            if kind == "websocket.close":
                return  # which is what has been done
            raise ClosedByDrainError("the WebSocket was closed: " + SHUTTING_DOWN)
        # Before it is sent: another task of the application's must not close it a second time meanwhile.
        self._closed = self._closed or kind == "websocket.close"
        await self._send(message)
        self._accepted = self._accepted or kind == "websocket.accept"
        if self._ending and self._accepted:
            await self._close()

    async def _close(self) -> None:
        """Close it, if neither peer nor application has; in the application's own task."""
        if self._closed:
            return
        self._closed = self._ended = True
        try:
            await self._send({"type": "websocket.close", "code": self._code, "reason": SHUTTING_DOWN})
        except Exception as error:  # noqa: BLE001  servers say in many ways that the peer has gone at this very moment
            logger.debug("a WebSocket could not be closed any more: %r", error)
