"""The deadline report: who was in the way when a leave ran out of time, and where the time went."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from graceful.core.names import printable
from graceful.core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from graceful.core.budget import Plan

__all__ = [
    "LONGEST_REPORT",
    "MOST_LOOKED_AT",
    "DeadlineReport",
    "Frame",
    "Obstacle",
    "Sighting",
    "Spent",
    "spending",
]

LONGEST_REPORT: Final = 32 * 1024
"""Bytes of the longest report, as text and as JSON alike: a log's line has to bear it."""

MOST_LOOKED_AT: Final = 50
"""How many units of work are looked at in one sighting, the oldest; the others are counted by name."""

_STEPS: Final = (MOST_LOOKED_AT, 25, 12, 6, 3, 1, 0)
"""How many of all that was seen are told one by one: the largest number with which the report is short enough."""

_MOST_NAMES: Final = 10
"""How many names of those that are only counted are told."""

_KINDS: Final = ("event loop", "callback", "job", "request")
"""What may be in the way; those of which there are few come first."""


class Frame(NamedTuple):
    """A place in the code: no values, only where.

    Attributes:
        file: its path, of bounded length.
        line: the line that is being executed.
        function: the name of the function, qualified.
        own: whether it is the application's, and of no library.
    """

    file: str
    line: int
    function: str
    own: bool

    def __str__(self) -> str:
        """`orders/api.py:41 in load`."""
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One that was in the way.

    Attributes:
        kind: `request`, `job`, `callback` or `event loop`.
        name: what it is, for people: `GET /orders/7`; bounded and printable.
        seconds: how long it had been under way; None where nobody knows.
        peer: whose request it is: address and port as the server gives them; empty where there is none.
        frames: where it was, innermost first; empty where that could not be seen.
        running: whether it was executing, and did not wait for its event loop: then it blocks that.
    """

    kind: str
    name: str
    seconds: float | None
    peer: str = ""
    frames: tuple[Frame, ...] = ()
    running: bool = False

    @property
    def at(self) -> Frame | None:
        """The innermost place in the application's own code, else the innermost at all."""
        return next((frame for frame in self.frames if frame.own), self.frames[0] if self.frames else None)

    def __str__(self) -> str:
        """`request GET /orders/7 from 10.0.3.7:51234, for 31.2s, at orders/api.py:41 in load`."""
        peer = f" from {self.peer}" if self.peer else ""
        age = "" if self.seconds is None else f", for {self.seconds:.1f}s"
        where = f", at {self.at}" if self.at else ", where is not known"
        return f"{self.kind} {self.name}{peer}{age}{where}{' (running)' if self.running else ''}"


@dataclass(frozen=True, slots=True)
class Sighting:
    """Who was in the way at one instant: looked at then, since a moment later they may be gone.

    Attributes:
        during: what ran out of time: `drain`, `on_drain`, `on_cleanup`, or `the end` where the process was ended;
            that may be after the leave, by a server that does not end.
        obstacles: those looked at, the oldest first.
        others: how many more there were of each name.
    """

    during: str
    obstacles: tuple[Obstacle, ...]
    others: Mapping[str, int]

    @property
    def total(self) -> int:
        """How many were in the way."""
        return len(self.obstacles) + sum(self.others.values())


class Spent(NamedTuple):
    """What a phase had of the budget, and what it took, in seconds."""

    phase: str
    spent: float
    planned: float

    def __str__(self) -> str:
        """`draining 20.0s of 20s`."""
        return f"{self.phase} {self.spent:.1f}s of {self.planned:g}s"


def spending(durations: Mapping[Phase, float], plan: Plan) -> tuple[Spent, ...]:
    """Which phase spent how much of the budget.

    Args:
        durations: seconds spent in each phase entered so far.
        plan: what each was to take.
    """
    planned = {
        Phase.LAME_DUCK: plan.announce + plan.propagation,
        Phase.DRAINING: plan.drain,
        Phase.CLEANUP: plan.cleanup + plan.deregister,
        Phase.STOPPED: plan.margin,
    }
    return tuple(Spent(phase.value, durations[phase], planned[phase]) for phase in planned if phase in durations)


@dataclass(frozen=True, slots=True)
class DeadlineReport:
    """Who was in the way when a leave ran out of time.

    However much was in flight, it is at most 32 KiB, as text and as JSON: the fewer are told one by one, the more are
    counted. No header, no body and no local variable is in it, and no query string unless `deadline_report_query` asks.

    Attributes:
        reason: what began the leave.
        ended_by: why the process was ended; empty where the leave came to its own end.
        granted: seconds that the leave had in all.
        budget: which phase spent how much of it.
        sightings: who was in the way, each time that something ran out of time.
    """

    reason: str
    ended_by: str
    granted: float
    budget: tuple[Spent, ...]
    sightings: tuple[Sighting, ...]

    @property
    def total(self) -> int:
        """How many were in the way; one that was twice counts twice."""
        return sum(sighting.total for sighting in self.sightings)

    def __str__(self) -> str:
        """The report for people: one line for each, and where it was."""
        return _longest_that_fits(self._text)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for `extra=` of a log record."""
        return dict(json.loads(self.as_json()))

    def as_json(self) -> str:
        """The report as one line of JSON."""
        return _longest_that_fits(lambda most: json.dumps(self._values(most)))

    def short(self, longest: int) -> str:
        """A few lines for `kubectl describe`.

        Args:
            longest: how many bytes they may take at most.
        """
        lines = [self._summary(), *(f"{during}: {seen}" for during, seen in self._told(_MOST_NAMES))]
        return "\n".join(lines).encode()[:longest].decode(errors="ignore")

    def _summary(self) -> str:
        ended = f"; the process was ended: {printable(self.ended_by)}" if self.ended_by else ""
        spent = ", ".join(map(str, self.budget))
        took = sum(each.spent for each in self.budget)
        whose = f"{self.total} in the way of the leave after {printable(self.reason)}"
        return f"{whose}{ended}; {spent}; in all {took:.1f}s of {self.granted:g}s"

    def _told(self, most: int) -> list[tuple[str, Obstacle]]:
        """Those told one by one: the kinds of which there are few first, the oldest of each first."""
        seen = [(sighting.during, each) for sighting in self.sightings for each in sighting.obstacles]
        seen.sort(key=lambda each: _KINDS.index(each[1].kind))
        return seen[:most]

    def _counted(self, most: int) -> Counter[str]:
        counts: Counter[str] = Counter()
        for sighting in self.sightings:
            counts.update(sighting.others)
            counts.update(each.name for each in sighting.obstacles)
        counts.subtract(each.name for _, each in self._told(most))
        return +counts

    def _text(self, most: int) -> str:
        lines, stacks = [self._summary()], _Stacks()
        for during, seen in self._told(most):
            number, is_new = stacks.number(seen.frames)
            lines.append(f"  {during}: {seen}" + (f" [stack {number}]" if number else ""))
            lines += [f"      {frame}" for frame in seen.frames if is_new]
        lines += [f"  and {count} more: {name}" for name, count in _named(self._counted(most))]
        return "\n".join(lines)

    def _values(self, most: int) -> dict[str, Any]:
        stacks = _Stacks()
        return {
            "event": "deadline_report",
            "summary": self._summary(),
            "reason": printable(self.reason),
            "ended_by": printable(self.ended_by) or None,
            "granted": round(self.granted, 3),
            "budget": {each.phase: {"spent": round(each.spent, 3), "planned": each.planned} for each in self.budget},
            "total": self.total,
            "in_the_way": [_entry(during, seen, stacks) for during, seen in self._told(most)],
            "stacks": stacks.told,
            "others": dict(_named(self._counted(most))),
        }


class _Stacks:
    """Each stack once: where a thousand requests wait for one lock, they all have the same."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Frame, ...], int] = {}

    def number(self, frames: tuple[Frame, ...]) -> tuple[int, bool]:
        """Its number, from 1, and whether it is new; 0 for one that is empty."""
        if not frames:
            return 0, False
        is_new = frames not in self._numbers
        return self._numbers.setdefault(frames, len(self._numbers) + 1), is_new

    @property
    def told(self) -> dict[str, list[str]]:
        return {str(number): [str(frame) for frame in frames] for frames, number in self._numbers.items()}


def _entry(during: str, seen: Obstacle, stacks: _Stacks) -> dict[str, Any]:
    number, _ = stacks.number(seen.frames)
    return {
        "during": during,
        "kind": seen.kind,
        "name": seen.name,
        "peer": seen.peer or None,
        "seconds": None if seen.seconds is None else round(seen.seconds, 3),
        "at": str(seen.at) if seen.at else None,
        "running": seen.running,
        "stack": str(number) if number else None,
    }


def _named(counts: Counter[str]) -> Iterable[tuple[str, int]]:
    named = counts.most_common(_MOST_NAMES)
    rest = counts.total() - sum(count for _, count in named)
    return [*named, ("(others)", rest)] if rest else named


def _longest_that_fits(render: Callable[[int], str]) -> str:
    text = ""
    for most in _STEPS:
        text = render(most)
        if len(text.encode()) <= LONGEST_REPORT:
            break
    return text
