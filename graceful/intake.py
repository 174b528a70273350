"""What a service takes in, from its middlewares, its server and its application: work, connections, callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.core.callbacks import CallbackStack
from graceful.core.phases import Lifecycle, Phase
from graceful.draining import LongConnection
from graceful.life import Life
from graceful.stacks import Job, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.callbacks import RegisteredCallback
    from graceful.core.registry import Registry
    from graceful.draining import Draining
    from graceful.readiness import Readiness

__all__ = ["Intake"]


class Intake:
    """Enters in the life that the service has just now whatever a leave has to reckon with. From any thread.

    Args:
        readiness: tells whether the service is starting up.
        clock: monotonic seconds.
    """

    def __init__(self, readiness: Readiness, clock: Callable[[], float]) -> None:
        self._readiness = readiness
        self._clock = clock
        self._lame_duck_callbacks: list[RegisteredCallback] = []
        self._drain_callbacks: list[RegisteredCallback] = []
        self._cleanup_callbacks = CallbackStack()

    def _begin_life(self, registry: Registry | None) -> None:
        """Begin a life, with the callbacks that belong to every life."""
        self.life = Life(
            Lifecycle(self._clock()),
            registry,
            list(self._lame_duck_callbacks),
            list(self._drain_callbacks),
            self._cleanup_callbacks.copy(),
        )

    @property
    def phase(self) -> Phase:
        """The phase of the lifecycle."""
        return self.life.lifecycle.phase

    @property
    def draining(self) -> Draining:
        """Set when the lame duck is over: what is in hand should come to its end. For any event loop or thread."""
        return self.life.draining

    @property
    def cleanup_timeouts(self) -> float:
        """Seconds that the cleanup callbacks with a timeout of their own ask for together."""
        return self.life.cleanup_callbacks.timeouts()

    @property
    def drain_remaining(self) -> float:
        """Seconds that are left of the drain; 0 where none is under way."""
        until = self.life.drain_ends
        return 0.0 if until is None else max(0.0, until - self._clock())

    def add_lame_duck_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when the leave begins; nothing waits for it."""
        self.life.lame_duck_callbacks.append(callback)
        if not self._readiness.starting:
            self._lame_duck_callbacks.append(callback)

    def add_drain_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when the lame duck is over."""
        self.life.drain_callbacks.append(callback)
        # What is registered from a start-up on belongs to this life: the next start-up registers it again.
        if not self._readiness.starting:
            self._drain_callbacks.append(callback)

    def add_cleanup_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when nothing is in flight any more."""
        self.life.cleanup_callbacks.push(callback)
        if not self._readiness.starting:
            self._cleanup_callbacks.push(callback)

    def enter(self, *what: str) -> int:
        """Take a unit of work in that the task, or the thread, that calls this will do; the key is for `leave`.

        Args:
            what: words that name it.

        Raises:
            NotAcceptingError: if the drain accepts no new work.
        """
        return self.life.in_flight.enter((Job, self._clock(), what, Worker.found_here()))

    def leave(self, key: int) -> None:
        """A unit of work has finished."""
        self.life.in_flight.leave(key)

    def hold_open(self, end: Callable[[], object], cut: Callable[[], object] = lambda: None) -> int:
        """A connection was opened that would never end by itself; the key is for `let_go`.

        Args:
            end: asks it to end, in the drain, when its turn has come. From any thread, without blocking or raising.
            cut: has it end all the same when the drain's time is nearly over. Likewise.
        """
        return self.life.long_connections.add(LongConnection(end, cut))

    def let_go(self, key: int) -> None:
        """Such a connection has ended."""
        self.life.long_connections.remove(key)

    def note_caller(self, name: str | bytes) -> None:
        """A caller has called: needed only where the wait may end early.

        Args:
            name: its address, or what else it is known by, of bounded length; it need not be printable.
        """
        self.life.callers.note(name, self._clock())

    def enter_late(self, caller: str, route: str, *, served: bool) -> None:
        """A request came after the leave had begun: enter who called.

        Args:
            caller: from `name_caller`.
            route: from `name_route`.
            served: False if it was refused.
        """
        self.life.ledger.enter(caller, route, self._clock(), served=served)
