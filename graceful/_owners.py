"""Who owns a signal: the kinds of owners, and how a server is handed its signals."""

from __future__ import annotations

import asyncio
import functools
import signal
from asyncio import unix_events
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, TypeAlias

__all__ = [
    "Handler",
    "Handover",
    "OwnerAdapter",
    "QueueLibrary",
    "is_loop_handler",
    "is_nobody",
    "runs_in",
]

# What signal.getsignal() returns. None is a handler that was not set from Python.
Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """A signal on its way to its owner.

    Attributes:
        signum: the signal.
        handler: the handler that the owner had installed.
        frame: where the main thread was interrupted.
        remaining: seconds left for what the owner has to do; never negative.
        over_ours: the owner took the signal while we held it, so what it puts back when it is done is ours. False
            when the owner was there first: it puts back what *it* found, and a signal that it raises again goes there.
    """

    signum: int
    handler: Callable[[int, FrameType | None], Any]
    frame: FrameType | None
    remaining: float
    over_ours: bool


class OwnerAdapter(Protocol):
    """How one kind of server takes, and is handed, its signals.

    Every method runs in the main thread, inside a signal handler: quick, no locks, no logging, no exception.
    """

    def owns(self, handler: object) -> bool:
        """Whether this handler is that server's."""

    def release(self, handover: Handover) -> None:
        """Have the server stop, within the time that remains."""

    def stop_accepting(self, handler: object) -> None:
        """Have the server close its listener and nothing else, soon: it serves on over the connections that it has."""

    def serve_on(self, handler: object) -> None:
        """Have the server not stop by itself any more: after so many requests, say."""

    def missed(self, handler: object) -> Collection[int]:
        """The signals that reached the server before we could hold them."""

    def raises_again(self, frame: FrameType | None) -> bool:
        """Whether the server itself, done with its shutdown, raises a signal once more from this frame."""


class QueueLibrary(Protocol):
    """How to recognise a library whose worker must get its signals at once: it stops fetching when it does.

    Every method may be called in any thread, and inside a signal handler.
    """

    @property
    def name(self) -> str:
        """The library's."""

    @property
    def advice(self) -> str:
        """What the user does so that the leave begins with the worker's own stop."""

    def owns(self, handler: object) -> bool:
        """Whether this handler is that library's."""

    def is_stopping(self) -> bool:
        """Whether the worker has been told to stop already."""


def is_nobody(handler: object) -> bool:
    """Whether nobody owns a signal with this handler: it would just end the program.

    `asyncio.Runner` takes SIGINT for the time of its run, only to cancel the main task: that counts as nobody.
    """
    if handler in (signal.SIG_DFL, signal.default_int_handler):
        return True
    return isinstance(handler, functools.partial) and isinstance(
        getattr(handler.func, "__self__", None), asyncio.Runner
    )


def is_loop_handler(handler: object) -> bool:
    """Whether the handler is the stand-in that `loop.add_signal_handler` leaves (asyncio, uvloop).

    Calling it does nothing: the loop acts on the byte that it reads from its wake-up descriptor.
    """
    # asyncio has no public name for its stand-in, and it is bound to nothing. Should a later Python rename it, the
    # loop's signals are held no longer; the tests notice.
    return handler is getattr(unix_events, "_sighandler_noop", None) or isinstance(
        getattr(handler, "__self__", None), asyncio.AbstractEventLoop
    )


def runs_in(handler: object, frame: FrameType | None) -> bool:
    """Whether a handler is running where the main thread was interrupted: one signal handler may interrupt another."""
    code = getattr(handler, "__code__", None)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
