"""Event streams at the drain: one that would go on for ever is ended with a clean last chunk."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from graceful.http.websocket import ClosedByDrainError
from graceful.loops import spawn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graceful.http.asgi import Message, Send

__all__ = ["EventStream", "is_event_stream"]

logger = logging.getLogger("graceful.http")

_EVENT_STREAM: Final = b"text/event-stream"


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a response has no end by its nature (HTML standard, 9.2 Server-sent events).

    Any other streamed response may be a file that is only long: cut off cleanly, it would look complete.
    """
    return any(name.lower() == b"content-type" and value.lower().startswith(_EVENT_STREAM) for name, value in headers)


class EventStream:
    """One response of events, from its first chunk on. In the application's event loop.

    Args:
        send: the server's.
        task: the task that runs the application for this request; None on trio.
    """

    def __init__(self, send: Send, task: asyncio.Task[Any] | None) -> None:
        self._send = send
        self._task = task
        self._cancelled = False
        self._sending = 0
        self._ending = False
        self._ended = False
        self.key = -1
        """Under which the service knows it."""

    def ended_with(self, error: BaseException) -> bool:
        """Whether this is what the application made of the stream's end, and no error of its own."""
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled and self._task is not None and not self._task.uncancel()
        if self._ended and isinstance(error, Exception):
            logger.debug("the application took the end of its event stream as an error: %r", error)
            return True
        return False

    async def send(self, message: Message) -> None:
        """Send a chunk of the application's.

        Raises:
            ClosedByDrainError: the drain has ended the stream.
        """
        if self._ended:
            raise ClosedByDrainError("the event stream was ended: this instance is shutting down")
        if self._ending:
            message = {**message, "more_body": False}
        self._sending += 1
        try:
            await self._send(message)
        finally:
            self._sending -= 1
        if not message.get("more_body", False):
            self._ended = self._ending
        elif self._ending and not self._sending:
            await self._finish()

    def end(self) -> None:
        """End it, now if the application sends nothing just then, else with what it sends."""
        self._ending = True
        if not self._sending and not self._ended:
            spawn(self._finish)

    async def _finish(self) -> None:
        """Send the last chunk, and have an application that waits for its next event end too."""
        if self._ended:
            return
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if self._task is not None and self._task is not asyncio.current_task():
            self._cancelled = self._task.cancel()
