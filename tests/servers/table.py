"""The matrix as the table of the documentation."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.servers.configurations import Configuration
    from tests.servers.rows import Row

PAGE: Final = Path(__file__).parents[2] / "docs/reference/servers.md"
_TABLE: Final = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- end of the matrix -->)", re.DOTALL)
_HEAD: Final = (
    "| | alone: lost | in flight | SSE | WebSocket | exit | with graceful: lost | in flight | SSE | WebSocket | exit |"
)
_RULE: Final = "|---" * 11 + "|"
_CLEAN: Final = {"200", "OK", "complete", "end"}


@dataclass(frozen=True)
class Result:
    """One server: on its own, and with graceful."""

    configuration: Configuration
    alone: Row
    by_signal: Row
    by_hook: Row

    def line(self) -> str:
        """Its line of the table."""
        cells = [_share_lost(self.alone), *_ends(self.alone.ends), _exit(self.alone.exit_code)]
        lost = self.by_signal.lost + self.by_hook.lost
        exits = {_exit(row.exit_code) for row in (self.by_signal, self.by_hook)}
        cells += [str(lost), *_ends(self.by_signal.ends, self.by_hook.ends), " or ".join(sorted(exits))]
        return f"| {self.configuration.name} | " + " | ".join(cells) + " |"


def expected_cells(configuration: Configuration) -> list[str]:
    """The cells with graceful: what the matrix asserts."""
    return ["0", *_ends(configuration.ends), "0"]


def lines_of_page() -> list[list[str]]:
    """The cells of the table as the page has it, without its head."""
    found = _TABLE.search(PAGE.read_text())
    lines = found[0].strip().splitlines()[2:] if found else []
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def write_table(results: list[Result], *, whole: bool) -> None:
    """Write it into the page, or only show it where some servers were left out."""
    table = "\n".join([_HEAD, _RULE, *(result.line() for result in results)]) + "\n"
    if whole:
        PAGE.write_text(_TABLE.sub(lambda _: f"\n{table}\n", PAGE.read_text()))
    sys.stdout.write(table)


def _share_lost(row: Row) -> str:
    total = row.late.total()
    return f"{100 * row.lost / total:.0f} %" if total else "-"


def _exit(code: int | None) -> str:
    return "none" if code is None else str(code)


def _ends(*each: dict[str, str]) -> list[str]:
    """What was in flight, SSE and WebSocket: what the rows have in common, or all that they have."""
    cells = [(_in_flight(ends), _stream(ends), ends.get("websocket", "-")) for ends in each]
    return [" or ".join(dict.fromkeys(column)) for column in zip(*cells, strict=True)]


def _in_flight(ends: dict[str, str]) -> str:
    bad = [f"{what} {ends[what]}" for what in ("slow", "stream") if ends.get(what, "200") not in _CLEAN]
    return ", ".join(bad) or "completes"


def _stream(ends: dict[str, str]) -> str:
    """A server-sent event stream; gRPC's stream without end is one, too."""
    if "ticks" in ends:
        return "ended" if ends["ticks"] == "bye" else "cut"
    return ends.get("sse", "-")
