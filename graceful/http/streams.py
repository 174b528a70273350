"""Event streams at the drain: one that would go on for ever is ended with a clean last chunk."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from graceful.http.saying import SHUTTING_DOWN
from graceful.http.websocket import ClosedByDrainError
from graceful.loops import run_soon_here, spawn

if TYPE_CHECKING:
    from graceful.http.asgi import Message, Send
    from graceful.loops import Interruption

__all__ = ["CONTENT_TYPE", "EventStream", "is_event_stream"]

logger = logging.getLogger("graceful.http")

_EVENT_STREAM: Final = b"text/event-stream"
CONTENT_TYPE: Final = frozenset({b"content-type", b"Content-Type"})
"""ASGI has names in lower case; some applications have them as HTTP/1.1 shows them."""


def is_event_stream(content_type: bytes) -> bool:
    """Whether a response has no end by its nature (HTML standard, 9.2 Server-sent events).

    Any other streamed response may be a file that is only long: cut off cleanly, it would look complete.
    """
    return content_type[: len(_EVENT_STREAM)].lower() == _EVENT_STREAM


class EventStream:
    """One response of events, from its headers on. In the application's event loop.

    Args:
        send: the server's.
        application: cancels what runs the application for this request.
    """

    def __init__(self, send: Send, application: Interruption) -> None:
        self._send = send
        self._application = application
        self._soon = run_soon_here()
        self._sending = 0
        self._ending = False
        self._complete = False
        self._ended = False
        self.key = -1
        """Under which the service knows it."""

    async def send(self, message: Message) -> None:
        """Send a message of the application's.

        Raises:
            ClosedByDrainError: the drain has ended the stream.
        """
        if self._ended:
            raise ClosedByDrainError(f"the event stream was ended: {SHUTTING_DOWN}")
        self._sending += 1
        try:
            await self._send(message)
        finally:
            self._sending -= 1
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        elif self._ending:
            await self._finish()

    def end(self) -> None:
        """End it: now, or after what the application is sending just then."""
        self._ending = True
        spawn(self._finish)

    def cut(self) -> None:
        """Have the application end although the last chunk could not be sent: the peer takes nothing any more."""
        if not self._complete:
            self._ended = True
            self._application.interrupt()

    def over(self, error: BaseException | None) -> bool:
        """The application has ended; whether its error, if any, is what it made of the stream's end."""
        ours = self._application.over()
        if isinstance(error, asyncio.CancelledError):
            return ours
        if self._ended and isinstance(error, Exception):
            logger.debug("the application took the end of its event stream as an error: %r", error)
            return True
        return False

    async def _finish(self) -> None:
        """Send the last chunk, and have an application that waits for its next event end too."""
        if self._sending or self._complete or self._ended:
            return
        self._ended = True
        try:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:  # noqa: BLE001  servers say in many ways that the peer has gone at this very moment
            logger.debug("an event stream could not be ended any more: %r", error)
        # Not from here: this may be the application's own task.
        self._soon(self._application.interrupt)
