"""The event loop that runs here, seen from another thread: asyncio and trio alike."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["current_task", "run_soon_here", "spawn"]


def current_task() -> Any:
    """The task that runs here, of asyncio or trio; None where none does."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop of asyncio runs here
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


_spawned: set[asyncio.Task[None]] = set()
"""The event loop has weak references only."""


def spawn(function: Callable[[], Awaitable[None]]) -> None:
    """Start a task in the event loop that runs here, which nobody waits for; it must not raise."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415  it is there: its event loop runs

        trio.lowlevel.spawn_system_task(function)
        return

    async def run() -> None:
        await function()

    task = asyncio.create_task(run())
    _spawned.add(task)
    task.add_done_callback(_spawned.discard)
