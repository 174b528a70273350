"""The event loop that runs here, seen from another thread: asyncio and trio alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from asyncio import current_task as _current_task_of
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import anyio

__all__ = ["Interruption", "after_turns", "current_task", "on_trio", "run_soon_here", "spawn"]


_NO_LOOP: Any = object()
"""Where no event loop of asyncio runs: it has no current task."""


class _Here(threading.local):
    loop: asyncio.AbstractEventLoop = _NO_LOOP
    """The event loop that ran in this thread when it was last looked for."""


_here = _Here()


def current_task() -> Any:
    """The task that runs here, of asyncio or trio; None where none does.

    On the way of every request. To look for the event loop takes longer than all else here, because Python 3.11 asks
    the kernel for the process' number then; so it is remembered. One that has ended has no current task.
    """
    return _current_task_of(_here.loop) or _look_for_task()


def _look_for_task() -> Any:
    try:
        _here.loop = asyncio.get_running_loop()
        return asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio runs here
        _here.loop = _NO_LOOP
        trio: Any = sys.modules.get("trio")
    try:
        return trio.lowlevel.current_task() if trio else None
    except RuntimeError:
        return None


def run_soon_here() -> Callable[[Callable[[], object]], None]:
    """What has a function run in the event loop that runs here, from any thread; nothing happens once it has ended.

    Raises:
        anyio.NoEventLoopError: no event loop runs here.
    """
    loop: Any = current_token().native_token
    # trio's token has this name for the same; its RunFinishedError is a RuntimeError, as that of a closed loop is.
    run_soon = loop.call_soon_threadsafe if isinstance(loop, asyncio.AbstractEventLoop) else loop.run_sync_soon

    def soon(function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):
            run_soon(function)

    return soon


def after_turns(turns: int, function: Callable[[], object]) -> None:
    """Have a function run in the event loop that runs here, once that has turned some times.

    A loop that is stopped meanwhile counts on when it is run again; nothing happens once it has ended.

    Raises:
        anyio.NoEventLoopError: no event loop runs here.
    """
    soon = run_soon_here()

    def turn(left: int) -> None:
        soon(partial(turn, left - 1) if left > 0 else function)

    turn(turns)


def on_trio() -> bool:
    """Whether the event loop that runs here is not one of asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _forget_loop() -> None:
    _here.loop = _NO_LOOP


# A child that was forked within an event loop has a current task there for ever.
os.register_at_fork(after_in_child=_forget_loop)


class Interruption:
    """Cancels what one task runs, for a reason of ours, and tells that cancellation from anybody else's.

    In the event loop of that task, but not from within it: what it cancels must wait for something.

    On asyncio the cancellation is delivered once, so that the application's own clean-up may wait for something; a
    cancel scope would interrupt that too, again and again. trio knows nothing else.

    Args:
        target: the asyncio task, or the scope that surrounds the application on trio; None where there is neither.
    """

    __slots__ = ("_asked", "_over", "_target")

    def __init__(self, target: asyncio.Task[Any] | anyio.CancelScope | None) -> None:
        self._target = target
        self._asked = False
        self._over = False

    def interrupt(self) -> None:
        """Cancel it; nothing happens the second time, or once it is over: the task has gone on to other things."""
        if self._target is not None and not self._over and not self._asked:
            self._asked = True
            self._target.cancel()

    def over(self) -> bool:
        """The application has ended; whether a cancellation that comes out of it is ours alone. In its own task.

        On trio always False: the scope has swallowed its own cancellation.
        """
        asked, self._asked, self._over = self._asked, False, True
        task = current_task()
        if not asked or not isinstance(task, asyncio.Task):
            return False
        if task is self._target:
            task.uncancel()
        # Else it has come here from the task that was cancelled, by waiting for that one. What is left then has been
        # asked for by somebody else (`Task.cancelling`).
        return not task.cancelling()


_spawned: set[asyncio.Task[None]] = set()
"""The event loop has weak references only."""


def spawn(function: Callable[[], Awaitable[None]]) -> None:
    """Start a task in the event loop that runs here, which nobody waits for; it must not raise."""
    if on_trio():
        import trio  # noqa: PLC0415  it is there: its event loop runs

        trio.lowlevel.spawn_system_task(function)
        return

    async def run() -> None:
        await function()

    task = asyncio.create_task(run())
    _spawned.add(task)
    task.add_done_callback(_spawned.discard)
