"""A sleep that ends when nothing is to be announced any more."""

from __future__ import annotations

import asyncio
import logging

import anyio

__all__ = ["Sleeper"]

logger = logging.getLogger("graceful.eureka")


class Sleeper:
    """Sleeps of one task on an asyncio event loop, which any thread can end for good."""

    def __init__(self) -> None:
        self._ended = False
        self._wakeup: tuple[asyncio.AbstractEventLoop, anyio.Event] | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self._ended

    async def sleep(self, seconds: float) -> None:
        """Return after this time, or as soon as `end` is called."""
        if self._wakeup is None:
            self._wakeup = (asyncio.get_running_loop(), anyio.Event())
        # Looked at after the event is there: `end` comes before this line, or finds the event.
        if not self._ended:
            with anyio.move_on_after(seconds):
                await self._wakeup[1].wait()

    def end(self) -> None:
        """End this sleep, and have every later one return at once. Thread-safe, idempotent."""
        self._ended = True
        if self._wakeup is None:
            return
        loop, woken = self._wakeup
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:
            # The loop is closed, and who slept with it.
            logger.debug("ended after the event loop was closed")
