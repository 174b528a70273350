"""What is in flight: units of work that were accepted and are not finished."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.obstacles import Obstacle

    Entry: TypeAlias = tuple[Callable[..., "Unit"], float, *tuple[Any, ...]]

__all__ = ["Entry", "InFlight", "NotAcceptingError", "Unit", "Work"]


class NotAcceptingError(RuntimeError):
    """New work was refused because the drain has begun."""


class Unit(Protocol):
    """What is in flight, made of its entry when a report is made, and asked about itself then."""

    @property
    def name(self) -> str:
        """What it is, for people: bounded and printable."""
        ...

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        """What it does just now, from any thread; it may fail.

        Args:
            seconds: how long it has been in flight.
            query: whether a query string may be told.
        """
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """One unit of work.

    Attributes:
        name: what it is, for people: `GET /orders/7`, `job 42`.
        since: the instant it was accepted at.
    """

    name: str
    since: float


class InFlight:
    """Counts work in and out, and refuses entry once it was closed. Thread-safe.

    After `close` returned, no work can slip in uncounted.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._accepted = 0
        self._work: dict[int, Entry] = {}
        self._closed = False
        self._on_idle: Callable[[], object] | None = None

    def enter(self, entry: Entry) -> int:
        """Accept a unit of work.

        Args:
            entry: what makes the `Unit` when somebody asks, the instant, and what it makes it of. A plain tuple: this
                is on the way of every request, and even the smallest object costs as much as all else here.

        Returns:
            The key to leave with.

        Raises:
            NotAcceptingError: if the gate was closed before.
        """
        # No lock, since this is on the way of every request: `next` and the entry are atomic, and what is entered
        # before it looks at the gate is seen by whoever closed the gate before it looks at what is left.
        self._accepted = key = next(self._numbers)
        self._work[key] = entry
        if self._closed:
            self.leave(key)
            raise NotAcceptingError(f"{_unit_of(entry).name}: this service is draining and accepts no new work")
        return key

    def leave(self, key: int) -> None:
        """A unit of work has finished; leaving twice with one key changes nothing."""
        # No lock: `pop` is atomic, and whoever waits sets `_on_idle` before looking whether anything is left.
        finished = self._work.pop(key, None)
        if self._on_idle is not None and finished and not self._work:
            self._on_idle()

    def close(self) -> None:
        """Refuse entry from now on."""
        self._closed = True

    def notify_idle(self, on_idle: Callable[[], object]) -> None:
        """Have `on_idle` called whenever the last unit leaves, in its thread; it must neither block nor raise."""
        self._on_idle = on_idle

    def __len__(self) -> int:
        """Units in flight now."""
        return len(self._work)

    @property
    def accepted(self) -> int:
        """Units that came so far: those that were accepted, and those that found the gate closed."""
        return self._accepted

    def units(self) -> tuple[tuple[Unit, float], ...]:
        """What is in flight now and since when, oldest first."""
        return tuple((_unit_of(entry), entry[1]) for entry in self._work.copy().values())  # `copy` is atomic

    def snapshot(self) -> tuple[Work, ...]:
        """The same by name."""
        return tuple(Work(unit.name, since) for unit, since in self.units())


def _unit_of(entry: Entry) -> Unit:
    make, _, *of = entry
    return make(*of)
