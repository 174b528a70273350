"""The user's callbacks: in which order they run, and a record of how each one went."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from graceful.core.obstacles import Frame

    Callback: TypeAlias = Callable[[], Awaitable[Any] | Any]

__all__ = ["CallbackOutcome", "CallbackRecord", "CallbackStack", "RegisteredCallback", "name_of"]


class CallbackOutcome(enum.Enum):
    """How a callback ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class RegisteredCallback:
    """A callback of the user, with its name for reports and its own timeout in seconds (None: the phase's)."""

    function: Callback
    name: str
    timeout: float | None = None

    @classmethod
    def checked(cls, function: Callback, timeout: float | None = None) -> RegisteredCallback:
        """A callback as a user gave it.

        Raises:
            TypeError: if `function` is not callable.
            ValueError: if `timeout` is not more than 0.
        """
        if not callable(function):
            raise TypeError(f"a callback must be callable without arguments, not {function!r}")
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout of {name_of(function)} is {timeout}; expected seconds, more than 0")
        return cls(function, name_of(function), timeout)


@dataclass(frozen=True, slots=True)
class CallbackRecord:
    """How one callback went.

    Attributes:
        name: `module.function`.
        outcome: completed, failed or timed out.
        seconds: its run time.
        error: what it raised, or what it did not do in time; empty if it completed.
        frames: where it was when its time was over, innermost first.
    """

    name: str
    outcome: CallbackOutcome
    seconds: float
    error: str = ""
    frames: tuple[Frame, ...] = ()

    def __str__(self) -> str:
        """`main.close_pool completed in 0.12s`."""
        problem = f": {self.error}" if self.error else ""
        return f"{self.name} {self.outcome.value.replace('_', ' ')} after {self.seconds:.2f}s{problem}"


class CallbackStack:
    """Callbacks in the order they were registered; each is handed out once, last registered first."""

    def __init__(self, callbacks: Iterable[RegisteredCallback] = ()) -> None:
        self._stack = list(callbacks)

    def push(self, callback: RegisteredCallback) -> None:
        """Register a callback."""
        self._stack.append(callback)

    def drain(self) -> Iterator[RegisteredCallback]:
        """Hand out every callback exactly once, last registered first; also those registered meanwhile."""
        while self._stack:
            yield self._stack.pop()

    def timeouts(self) -> float:
        """Seconds that the callbacks with a timeout of their own ask for together."""
        return sum(each.timeout for each in self._stack if each.timeout is not None)

    def copy(self) -> CallbackStack:
        """The same callbacks on a stack of their own."""
        return CallbackStack(self._stack)

    def __len__(self) -> int:
        """Callbacks not handed out yet."""
        return len(self._stack)


def name_of(function: object) -> str:
    """The name of a callable for people: `module.qualified_name`, else its repr."""
    inner = getattr(function, "func", function)  # functools.partial
    name = getattr(inner, "__qualname__", None)
    return f"{getattr(inner, '__module__', '?')}.{name}" if name else repr(function)
