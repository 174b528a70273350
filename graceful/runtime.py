"""The one thread of ours: it runs the coordinator, the control socket, the signal pipe and Eureka.

A thread of its own is what lets a blocked or closed application loop, a sync application and a trio application all
be served by the same asynchronous core.
"""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["Runtime"]

T = TypeVar("T")

logger = logging.getLogger("graceful.runtime")


class Runtime:
    """Runs one coroutine function in an asyncio event loop in a daemon thread. Thread-safe.

    Args:
        main: what to run; it ends by itself, or is cancelled by `stop`.
    """

    def __init__(self, main: Callable[[], Awaitable[None]]) -> None:
        self._main = main
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector: selectors.BaseSelector | None = None
        self._cancel: Callable[[], object] | None = None
        self._stopping = False
        self._pid = os.getpid()

    @property
    def running(self) -> bool:
        """Whether the thread is alive, in this very process."""
        return self._pid == os.getpid() and self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, unless it is running."""
        if self._pid != os.getpid():
            self.reset_after_fork()
        with self._lock:
            if self.running:
                return
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="graceful", daemon=True)
            self._thread.start()

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have `function` run on the event loop soon; nothing happens where the loop is not running."""
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed meanwhile: there is nobody left to tell
            logger.debug("the event loop has ended")

    def wait_for(self, function: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
        """Run a coroutine function on the event loop, and block this other thread until it has ended.

        Raises:
            TimeoutError: it did not end in time, or the loop does not run.
        """
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            raise TimeoutError("graceful's own thread does not run")
        coroutine = function()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop was closed meanwhile
            coroutine.close()
            raise TimeoutError("graceful's own thread has ended") from None
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def stop(self, timeout: float = 5.0) -> None:
        """Cancel what runs and wait for the thread to end, at most `timeout` seconds (not from the thread itself)."""
        thread = self._thread
        if thread is None or not self.running:
            return
        # The flag first: a thread whose loop is only just starting looks at it, one that runs is cancelled.
        self._stopping = True
        if self._cancel is not None:
            self.call_soon(self._cancel)
        if thread is not threading.current_thread():
            thread.join(timeout)

    def reset_after_fork(self) -> None:
        """In a forked child: the thread is gone, its event loop must not be, and it may have held a lock."""
        loop = self._loop
        # A loop that seems to run cannot be closed, and closing it would take the parent's descriptors out of the
        # parent's epoll, which both share: only this process' copies are closed.
        for resource in (self._selector, getattr(loop, "_ssock", None), getattr(loop, "_csock", None)):
            if resource is not None:
                resource.close()
        self._forget()

    def _run(self) -> None:
        try:
            anyio.run(self._supervise, backend_options={"loop_factory": self._new_loop})
        except Exception:
            logger.exception(
                "graceful's own thread ended by an error: the process goes on without it, and leaves as its server does"
            )

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        # Never uvloop, whatever the application's policy is: in a forked child its descriptors could not be closed.
        self._selector = selectors.DefaultSelector()
        return asyncio.SelectorEventLoop(self._selector)

    async def _supervise(self) -> None:
        with anyio.CancelScope() as scope:
            self._cancel = scope.cancel
            self._loop = asyncio.get_running_loop()
            try:
                if not self._stopping:
                    await self._main()
            finally:
                self._loop = None
