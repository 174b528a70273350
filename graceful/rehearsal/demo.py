"""`python -m graceful.rehearsal.demo`: four ways to leave, each rehearsed under load, twice.

The second time, Eureka answers 503 for a moment as each pod is told to leave.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful.rehearsal.callers import SPRING_DEFAULTS
from graceful.rehearsal.cluster import RehearsalError
from graceful.rehearsal.rollout import EXAMPLE, GRACEFUL, WAYS, Conditions, Rollout, Way, under_load
from graceful.rehearsal.table import FORMATS, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.rehearsal.kubelet import Departure

__all__ = ["main"]

# In seconds: longer than any of the hooks needs until its first PUT, and as long as a restart of Eureka, scaled.
_FAULT: Final = 0.8
_STATUS_INTERVAL: Final = 0.25


class _Progress:
    """What is going on, on stderr: a line for each pod, and on a terminal one more that changes in place."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._in_place = sys.stderr.isatty()

    def line(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201  progress

    def status(self, text: str) -> None:
        """A line that the next one replaces; only on a terminal."""
        if self._in_place:
            self._clear()
            print(text, end="", file=sys.stderr, flush=True)  # noqa: T201  progress

    def _clear(self) -> None:
        if self._in_place:
            print("\r\x1b[K", end="", file=sys.stderr)  # noqa: T201  progress


async def _watch(progress: _Progress, name: str, rollout: Rollout) -> None:
    tally = rollout.callers.tally
    while True:
        progress.status(f"          {name}: {tally.sent} requests sent, {tally.lost} lost")
        await asyncio.sleep(_STATUS_INTERVAL)


async def _run(way: Way, conditions: Conditions, progress: _Progress, logs: Path) -> Row:
    name = f"{way.name}, Eureka failing" if conditions.fault else way.name
    progress.status(f"          {name}: starting")
    async with under_load(way, conditions, logs) as rollout:

        def report(left: Departure) -> None:
            progress.line(
                f"{name}: pod {len(rollout.departures)} of {conditions.replicas} replaced, "
                f"left in {left.seconds:.1f} s, exit code {left.exit_code}, "
                f"{rollout.callers.tally.lost} requests lost so far"
            )

        watch = asyncio.create_task(_watch(progress, name, rollout))
        try:
            await rollout.replace_in_turn(report)
            ghosts = await rollout.settle()
        finally:
            watch.cancel()
    return Row(way.name, bool(conditions.fault), rollout.callers.tally, rollout.departures, ghosts)


async def _rehearse(ways: Sequence[Way], conditions: Conditions, logs: Path) -> list[Row]:
    progress = _Progress()
    # `docker stop`, or make's own end: leave as for Ctrl-C, with every process ended.
    task = asyncio.current_task()
    if task:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rows = []
    for fault in (0.0, _FAULT):
        for way in ways:
            directory = logs / f"{way.name}-{'fault' if fault else 'quiet'}"
            directory.mkdir(parents=True, exist_ok=True)
            rows.append(await _run(way, replace(conditions, fault=fault), progress, directory))
    progress.line("done")
    return rows


def _factor(text: str) -> float:
    try:
        factor = float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        factor = 0.0
    if not 0 < factor <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no factor; expected more than 0 and at most 1, such as 1/25")
    return factor


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given; expected a whole number, 1 or more")
    return int(text)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Conditions()
    names = [way.name for way in WAYS]
    parser = argparse.ArgumentParser(prog="python -m graceful.rehearsal.demo", description=__doc__)
    parser.add_argument(
        "--factor", type=_factor, default=defaults.factor, help="what a second of a cache takes here (default: 1/25)"
    )
    parser.add_argument("--rate", type=_positive, default=int(defaults.rate), help="requests a second (default: 300)")
    parser.add_argument("--replicas", type=_positive, default=defaults.replicas, help="pods to replace (default: 3)")
    parser.add_argument("--only", choices=names, action="append", help="this way to leave; may be given repeatedly")
    parser.add_argument("--output", choices=FORMATS, default="table", help="how to print the result (default: table)")
    parser.add_argument("--logs", type=Path, help="a directory in which to keep what the processes wrote")
    return parser.parse_args(arguments)


def _introduction(conditions: Conditions) -> str:
    cadence = conditions.cadence
    return (
        f"Time of the caches scaled by {conditions.factor:.4g} (1/{1 / conditions.factor:.4g}): "
        f"{SPRING_DEFAULTS.bound:g} s until the last caller has heard are {cadence.bound:.2f} s here "
        f"({cadence.server_cache:.2f} server cache + {cadence.fetch:.2f} fetch + "
        f"{cadence.load_balancer:.2f} load balancer); {conditions.propagation_delay:.2f} s are waited, "
        "for this machine's own delays.\n"
        f"{conditions.replicas} replicas, {conditions.callers} callers, {conditions.rate:g} requests/s, "
        f"never retried; SIGKILL after {conditions.grace_period:g} s."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse, and print the result.

    Args:
        arguments: the command line without the program; by default the process's own.

    Returns:
        0; 1 if graceful lost a request or one of its pods did not exit with 0, or if the rehearsal could not be held;
        130 after Ctrl-C or SIGTERM. Wrong usage exits with 2.
    """
    options = _arguments(arguments)
    if not EXAMPLE.is_dir():
        print(f"the example service is not at {EXAMPLE}: run this in a checkout of the project", file=sys.stderr)  # noqa: T201
        return 2
    conditions = Conditions(factor=options.factor, rate=options.rate, replicas=options.replicas)
    ways = [way for way in WAYS if not options.only or way.name in options.only]
    print(_introduction(conditions), file=sys.stderr, flush=True)  # noqa: T201  a command speaks
    with contextlib.ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        try:
            rows = asyncio.run(_rehearse(ways, conditions, logs))
        except (KeyboardInterrupt, asyncio.CancelledError):
            print("\ninterrupted; everything that was started has been ended", file=sys.stderr)  # noqa: T201
            return 130
        except (RehearsalError, ExceptionGroup) as problem:
            print(f"\n{_first_problem(problem)}", file=sys.stderr)  # noqa: T201
            return 1
    print(FORMATS[options.output](rows))  # noqa: T201  the result
    return _verdict(rows)


def _first_problem(problem: Exception) -> RehearsalError:
    """The rehearsal's own error, out of the groups it may be in; anything else is a mistake of ours, and is raised."""
    while isinstance(problem, ExceptionGroup):
        problem = problem.exceptions[0]
    if not isinstance(problem, RehearsalError):
        raise problem
    return problem


def _verdict(rows: Sequence[Row]) -> int:
    """Say what was lost and how, on stderr, and judge graceful alone."""
    for row in rows:
        name = f"{row.name}, Eureka failing" if row.fault else row.name
        for reason, count in row.tally.reasons.most_common(5):
            print(f"{name}: {count} x {reason}", file=sys.stderr)  # noqa: T201
        if row.ghosts:
            print(f"{name}: {row.ghosts} pods were gone, and still called to the end", file=sys.stderr)  # noqa: T201
    return int(any(not row.clean for row in rows if row.name == GRACEFUL))


if __name__ == "__main__":
    sys.exit(main())
