"""Comparing: several contenders in turns, and what one costs as a multiple of the other."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Comparison", "in_turns", "markdown"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one thing costs against another.

    Attributes:
        measured: what was measured.
        against: what it was measured against.
        cost: seconds that it took, the median: CPU time, except where it says otherwise.
        floor: the same of what it was measured against.
        added: seconds that it took more than the other in the same turn, the median.
        ratio: how many times as long it took as the other in the same turn, the median.
        least: the smallest of these ratios.
        most: the largest of them.
    """

    measured: str
    against: str
    cost: float
    floor: float
    added: float
    ratio: float
    least: float
    most: float

    @classmethod
    def of(cls, measured: str, against: str, times: Mapping[str, Sequence[float]]) -> Comparison:
        """Compare two contenders turn by turn: what disturbs the machine for longer than a turn disturbs both.

        Args:
            measured: the name of the one.
            against: the name of the other.
            times: seconds by name, one for each turn.
        """
        costs, floors = times[measured], times[against]
        pairs = list(zip(costs, floors, strict=True))
        ratios = [cost / floor for cost, floor in pairs]
        return cls(
            measured,
            against,
            cost=statistics.median(costs),
            floor=statistics.median(floors),
            added=statistics.median(cost - floor for cost, floor in pairs),
            ratio=statistics.median(ratios),
            least=min(ratios),
            most=max(ratios),
        )

    def as_dict(self) -> dict[str, str | float]:
        """Everything, for JSON."""
        return asdict(self)


def in_turns(contenders: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Run all contenders in turns.

    Every second turn goes the other way round, so that none always has the caches as the same one left them. The first
    turn is not counted: it compiles, and fills the file system's cache.

    Args:
        contenders: by name, what runs once and returns the seconds it took.
        runs: how many turns are counted.

    Returns:
        Seconds by name, one for each turn.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for turn in range(runs + 1):
        for name in order:
            seconds = contenders[name]()
            if turn:
                times[name].append(seconds)
        order.reverse()
    return times


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as a table in Markdown."""
    rows = [
        "| measured | against | time | of the other | added | ratio | smallest to largest |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    rows += [
        f"| {each.measured} | {each.against} | {_time(each.cost)} | {_time(each.floor)} | {_time(each.added)} "
        f"| **{each.ratio:.2f}** | {each.least:.2f} to {each.most:.2f} |"
        for each in comparisons
    ]
    return "\n".join(rows)


def _time(seconds: float) -> str:
    if abs(seconds) >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if abs(seconds) >= 1e-3 else f"{seconds * 1e6:.2f} µs"
