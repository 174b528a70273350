"""The beginning of the drain, for whoever has to know: an event for the application, an end for long connections."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, NamedTuple

import anyio

from graceful.loops import run_soon_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Draining", "LongConnection", "LongConnections"]


class Draining:
    """An event that is set when the lame duck is over: new work is refused, what is in hand should come to its end.

    Thread-safe; it can be waited for in any event loop, or in a thread.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiters: dict[int, Callable[[], object]] = {}

    def __repr__(self) -> str:
        return f"<Draining {'set' if self.is_set() else 'not set'}>"

    def is_set(self) -> bool:
        """Whether the drain has begun."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the drain has begun. In any event loop, asyncio or trio."""
        soon, begun = run_soon_here(), anyio.Event()
        with self._lock:
            if self._event.is_set():
                return
            number = next(self._numbers)
            self._waiters[number] = lambda: soon(begun.set)
        try:
            await begun.wait()
        finally:
            self._waiters.pop(number, None)

    def wait_in_thread(self, timeout: float | None = None) -> bool:
        """Block this thread until the drain has begun, or `timeout` seconds have passed; whether it has begun.

        Not in a thread that runs an event loop: there is `wait` for that.
        """
        return self._event.wait(timeout)

    def set(self) -> None:
        """The drain begins. For the coordinator."""
        with self._lock:
            self._event.set()
            waiters = list(self._waiters.values())
        for wake in waiters:
            wake()


class LongConnection(NamedTuple):
    """How one connection that would never end by itself is ended: from any thread, at once and without raising.

    Attributes:
        end: asks it to end in order, when its turn has come in the drain.
        cut: has it end all the same, when the drain's time is nearly over.
    """

    end: Callable[[], object]
    cut: Callable[[], object]


class LongConnections:
    """The connections that would never end by themselves. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._open: dict[int, LongConnection] = {}
        self._ending = False

    def add(self, connection: LongConnection) -> int:
        """Take a connection in, and end it at once where the others have been asked already.

        Returns:
            The key for `remove`.
        """
        with self._lock:
            key = next(self._numbers)
            self._open[key] = connection
            ending = self._ending
        if ending:
            connection.end()
        return key

    def remove(self, key: int) -> None:
        """A connection has ended."""
        self._open.pop(key, None)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def all(self) -> list[LongConnection]:
        """Those that are open now; one that is added from now on is ended at once."""
        with self._lock:
            self._ending = True
            return list(self._open.values())
