"""The demo's result: one row for each run, as a table, as Markdown or as JSON."""

from __future__ import annotations

import dataclasses
import json
import signal
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from graceful.rehearsal.exchange import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graceful.rehearsal.callers import Tally
    from graceful.rehearsal.kubelet import Departure

__all__ = ["FORMATS", "Row"]

_HEADER: Final = (
    "run",
    "Eureka",
    "sent",
    "answered",
    "refused",
    "cut",
    "5xx",
    "lost",
    "left: median (max)",
    "exit codes",
)
_NUMBERS: Final = range(2, 9)  # set flush right


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one run.

    Attributes:
        name: the way of leaving.
        fault: whether Eureka failed for a moment as each pod was told to leave.
        tally: the requests.
        departures: how each pod left.
        ghosts: pods that were gone and that some caller still believed in at the end.
    """

    name: str
    fault: bool
    tally: Tally
    departures: Sequence[Departure]
    ghosts: int

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and every pod ended by itself with exit code 0."""
        return self.tally.lost == 0 and all(left.exit_code == 0 and not left.killed for left in self.departures)

    def cells(self) -> tuple[str, ...]:
        """The row's texts, in the header's order."""
        seconds = [departure.seconds for departure in self.departures]
        tally = self.tally
        lost = (tally.outcomes[kind] for kind in (Outcome.REFUSED, Outcome.CUT, Outcome.SERVER_ERROR))
        return (
            self.name,
            "503 for a moment" if self.fault else "well",
            *(str(number) for number in (tally.sent, tally.answered, *lost, tally.lost)),
            f"{statistics.median(seconds):.1f} s ({max(seconds):.1f} s)",
            _exit_codes(self.departures),
        )

    def as_json(self) -> dict[str, Any]:
        """The row for a program."""
        return {
            "run": self.name,
            "fault": self.fault,
            "sent": self.tally.sent,
            **{str(kind): self.tally.outcomes[kind] for kind in Outcome},
            "lost": self.tally.lost,
            "reasons": dict(self.tally.reasons),
            "ghosts": self.ghosts,
            "departures": [dataclasses.asdict(departure) for departure in self.departures],
        }


def _exit_codes(departures: Sequence[Departure]) -> str:
    """`3 x 0`; a process that a signal ended has the signal's name."""
    codes = Counter(departure.exit_code for departure in departures)
    return ", ".join(
        f"{count} x {code if code >= 0 else signal.Signals(-code).name}" for code, count in sorted(codes.items())
    )


def _columns(rows: Sequence[Row]) -> list[list[str]]:
    lines = [_HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        [
            text.rjust(width) if place in _NUMBERS else text.ljust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]


def as_table(rows: Sequence[Row]) -> str:
    """Columns for a terminal."""
    header, *body = ("  ".join(line).rstrip() for line in _columns(rows))
    return "\n".join([header, "-" * len(header), *body])


def as_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    header, *body = ("| " + " | ".join(line) + " |" for line in _columns(rows))
    rule = "|" + "|".join("---:" if place in _NUMBERS else "---" for place in range(len(_HEADER))) + "|"
    return "\n".join([header, rule, *body])


def as_json(rows: Sequence[Row]) -> str:
    """One JSON document, with every departure and every reason."""
    return json.dumps([row.as_json() for row in rows], indent=2)


FORMATS: Final[dict[str, Callable[[Sequence[Row]], str]]] = {
    "table": as_table,
    "json": as_json,
    "markdown": as_markdown,
}
