"""The server that runs here, as far as it can be told anything: by signals, by its parent's event, by its arbiter."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.budget import Plan
    from graceful.servers.gunicorn import Arbiter
    from graceful.servers.hypercorn import StopEvent
    from graceful.signals import SignalHold

__all__ = ["Server"]

_FIRST_REQUEST_DELAY: Final = 0.5
"""Seconds for what was accepted last to send its request, before a server stops that would cut it."""


class Server:
    """Whoever serves in this process: kept from stopping, and told to when its time has come.

    Args:
        signals: holds the signals back; None where they are not held, and nobody can be told anything.
        find_stop_event: finds the event by which a parent process has this one stop.
        arbiter: gunicorn's, where that runs this process.
    """

    def __init__(
        self, signals: SignalHold | None, find_stop_event: Callable[[], StopEvent | None], arbiter: Arbiter | None
    ) -> None:
        self._signals = signals
        self._find_stop_event = find_stop_event
        self._stop_event: StopEvent | None = None
        self.arbiter = arbiter

    def hold_signals(self) -> None:
        """Take the signals, or take them back. In the main thread."""
        if self._signals is not None:
            self._signals.install()
            self._signals.ensure()

    def hold_signals_still(self) -> None:
        """Take back what the server took since. In any thread; in another than the main one it is done soon."""
        if self._signals is not None:
            self._signals.ensure()

    def hold_stop_event(self, told: Callable[[], object]) -> None:
        """Hold back what the parent process may set, and hear of it; `told` is called in another thread."""
        self._stop_event = self._find_stop_event() if self._signals is not None else None
        if self._stop_event is not None:
            self._stop_event.hold(told)

    def give_back(self) -> None:
        """Let the server see what was held back from it, and what comes from now on."""
        if self._stop_event is not None:
            self._stop_event.give_back()
        if self._signals is not None:
            self._signals.uninstall()

    async def receive_signals(self, signalled: Callable[[signal.Signals], None]) -> None:
        """Call a function for each signal that comes, for as long as they are held."""
        if self._signals is None:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._signals.watch)
            async for signum in self._signals.receive():
                signalled(signal.Signals(signum))

    def serve_on(self, signum: int) -> None:
        """Have the server not stop in the lame duck for a reason of its own."""
        if self.arbiter is not None:
            self.arbiter.serve_on()
        if self._signals is not None:
            self._signals.serve_on(signum)

    def tell_library(self, signum: int) -> None:
        """Have the worker of a queue library fetch no more."""
        if self._signals is not None:
            self._signals.tell_library(signum)

    def release(self, signum: int, remaining: float) -> None:
        """Have the server stop, with what remains of the time."""
        if self._stop_event is not None:
            self._stop_event.release(remaining)
        elif self._signals is not None:
            self._signals.release(signum, remaining=remaining)

    async def release_early(self, signum: int, within: float) -> bool:
        """Have the server stop in its own order; False where it cannot be told."""
        if self._signals is None:
            return False
        self._signals.stop_accepting(signum)
        pause = min(_FIRST_REQUEST_DELAY, within)
        await anyio.sleep(pause)
        self.release(signum, within - pause)
        return True

    def finish(self) -> None:
        """The program has ended by itself, and in order: what signal comes now must not change its exit code."""
        if self._signals is not None:
            self._signals.finish()

    def warnings(self, plan: Plan) -> tuple[str, ...]:
        """What of the server's own settings does not go with a plan."""
        return tuple(self.arbiter.warnings(plan)) if self.arbiter is not None else ()
