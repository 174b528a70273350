"""Calls the user's functions where they belong: async ones in the application's event loop, sync ones in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any

import anyio
from anyio import from_thread, to_thread

from graceful.core.callbacks import CallbackOutcome, CallbackRecord
from graceful.stacks import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.lowlevel import EventLoopToken

    from graceful.core.callbacks import Callback, RegisteredCallback

__all__ = ["AppCaller"]


class AppCaller:
    """Knows the application's event loop, and calls the user's functions from graceful's own.

    The application's loop is the one its lifespan runs in, else the one that ran where `install()` was called, else
    graceful's own. Asyncio (uvloop too) and trio alike: a token of anyio stands for either.
    """

    def __init__(self) -> None:
        self._token: EventLoopToken | None = None
        self.thread: int | None = None
        """The thread of the application's event loop, if that is known."""

    def adopt(self, token: EventLoopToken) -> None:
        """Take this event loop, which runs here, for the application's."""
        self._token, self.thread = token, threading.get_ident()

    def adopt_first(self, token: EventLoopToken) -> None:
        """Take this event loop for the application's, where none is known yet."""
        self._token = self._token or token

    def forget(self) -> None:
        """Nobody's event loop is the application's any more: in a forked child."""
        self._token = self.thread = None

    async def call(
        self,
        callback: RegisteredCallback,
        timeout: float,  # noqa: ASYNC109  the record needs it
        worker: Worker | None = None,
    ) -> CallbackRecord:
        """Call a callback and say how it went; it never raises what the callback raises.

        Args:
            callback: what to call.
            timeout: upper bound in seconds. An async callback is cancelled then, a sync one is left behind.
            worker: is told who works on it.
        """
        record, _ = await self.call_for_value(callback, timeout, worker)
        return record

    async def call_for_value(
        self,
        callback: RegisteredCallback,
        timeout: float,  # noqa: ASYNC109  as above
        worker: Worker | None = None,
    ) -> tuple[CallbackRecord, Any]:
        """As `call`, with what the callback returned (None unless it completed)."""
        began = anyio.current_time()
        value, error = None, None
        worker = worker or Worker()
        with anyio.move_on_after(timeout) as scope:
            value, error = await self._outcome_of(callback.function, timeout, worker)
        seconds = anyio.current_time() - began
        if scope.cancelled_caught or isinstance(error, _OverdueError):
            reason = f"did not end within {timeout:.1f}s"
            return CallbackRecord(callback.name, CallbackOutcome.TIMED_OUT, seconds, reason, worker.last_seen()), None
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            return CallbackRecord(callback.name, CallbackOutcome.FAILED, seconds, reason), None
        return CallbackRecord(callback.name, CallbackOutcome.COMPLETED, seconds), value

    async def _outcome_of(
        self,
        function: Callback,
        timeout: float,  # noqa: ASYNC109  as above
        worker: Worker,
    ) -> tuple[Any, BaseException | None]:
        if _is_async(function):
            return await self._in_application(_Call(function, timeout, worker))
        value, error = await _in_thread(functools.partial(_outcome, function, worker))
        if error is None and inspect.isawaitable(value):
            # A sync function that hands back an awaitable: `lambda: pool.close()`.
            awaitable = value
            return await self._in_application(_Call(lambda: awaitable, timeout, worker))
        return value, error

    async def _in_application(self, call: _Call) -> tuple[Any, BaseException | None]:
        if self._token is None or self._token == anyio.lowlevel.current_token():
            return await call.run()
        try:
            return await _in_own_thread(functools.partial(call.run_from_thread, self._token))
        finally:
            call.abandoned = True


class _OverdueError(Exception):
    """A call was cancelled in the application's loop because its time was over."""


class _Call:
    """One call in the application's loop that can be given up before that loop got round to it."""

    def __init__(self, function: Callable[[], Awaitable[Any]], timeout: float, worker: Worker) -> None:
        self.function = function
        self.timeout = timeout
        self.worker = worker
        self.abandoned = False

    async def run(self) -> tuple[Any, BaseException | None]:
        if self.abandoned:
            # It was recorded as timed out while this loop was blocked; starting it now would be a surprise.
            return None, None
        self.worker.is_here()
        # The time limit stands in the loop that runs the call: nobody else could cancel it there.
        with anyio.move_on_after(self.timeout) as scope:
            try:
                return await self.function(), None
            except anyio.get_cancelled_exc_class() as error:
                self.worker.was_at(error.__traceback__)
                if scope.cancel_called:
                    raise
                return None, error
            except Exception as error:  # noqa: BLE001  a callback's failure is a record
                return None, error
        return None, _OverdueError()

    def run_from_thread(self, token: EventLoopToken) -> tuple[Any, BaseException | None]:
        try:
            return from_thread.run(self.run, token=token)
        except anyio.RunFinishedError:
            return None, RuntimeError("the application's event loop has ended, so it could not run")
        except BaseException as error:  # noqa: BLE001  whatever happened there is a record here
            return None, error


async def _in_thread(function: Callable[[], tuple[Any, BaseException | None]]) -> tuple[Any, BaseException | None]:
    # A limiter of its own: calls that were left behind must not use up the default limiter's places.
    limiter = anyio.CapacityLimiter(1)
    try:
        return await to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
    except RuntimeError:
        # Python 3.12.0 and 3.12.1 start no thread any more once the main thread has returned (cpython#113964). The
        # deadline is kept elsewhere.
        return function()


async def _in_own_thread(function: Callable[[], tuple[Any, BaseException | None]]) -> tuple[Any, BaseException | None]:
    """Wait in a thread for another event loop, so that a blocked one cannot block this one.

    Not a worker thread of anyio's: there a cancelled wait would cancel the other loop's task from this thread, and
    tasks are not thread-safe (anyio ties `from_thread.run` to the cancel scope of `to_thread.run_sync`).
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def settle(outcome: tuple[Any, BaseException | None]) -> None:
        if not future.done():
            future.set_result(outcome)

    def work() -> None:
        outcome = function()
        with contextlib.suppress(RuntimeError):  # this loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    try:
        threading.Thread(target=work, name="graceful callback", daemon=True).start()
    except RuntimeError as error:  # none can be started: the program has ended, and its loop with it
        return None, error
    return await future


def _outcome(function: Callable[[], Any], worker: Worker) -> tuple[Any, BaseException | None]:
    worker.is_here()
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001  a callback's failure is a record
        return None, error


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
