"""The benchmarks run, and compare in turns; how long anything takes is not asserted."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path
from random import Random

import pytest

from benchmarks.comparison import Comparison, in_turns, markdown
from benchmarks.waits import compare_waits, simulate
from benchmarks.withdrawal import compare_withdrawal

ROOT = Path(__file__).parent.parent
QUICK = ("--runs", "2", "--requests", "5", "--outages", "0", "--in-flight", "20", "--sockets", "10")
# A machine that is set up for a service: its benchmarks must neither register one nor stumble over its settings.
FOREIGN = {"EUREKA_SERVER_URL": "no URL", "GRACEFUL_PORT": "no port"}
WHAT = [
    "start of the hook",
    "import graceful",
    "GracefulMiddleware",
    "BaseHTTPMiddleware",
    "WsgiMiddleware",
    "wait with the first cache",
]


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | FOREIGN, capture_output=True, text=True, timeout=50, check=False
    )


def test_prints_a_table_in_markdown() -> None:
    """One row for each comparison, then what it ran on."""
    result = run_benchmarks(*QUICK)
    assert result.returncode == 0, result.stderr
    table, drained, machine = result.stdout.removesuffix("\n").split("\n\n")
    header, rule, *rows = table.splitlines()
    assert header.startswith("| measured | against |")
    assert rule.count("|") == header.count("|")
    assert len(rows) == len(WHAT)
    for row, what in zip(rows, WHAT, strict=True):
        assert what in row.split("|")[1]
        assert row.count("|") == header.count("|")
    assert [row.split("|")[1:3] for row in drained.splitlines()[2:]] == [
        [" requests in flight ", " 2 "],
        [" requests in flight ", " 20 "],
        [" WebSockets ", " 1 "],
        [" WebSockets ", " 10 "],
    ]
    assert machine.endswith("2 turns, 5 requests in each, 50 leaves.")


def test_prints_json() -> None:
    """The same, for programs; nothing else is on standard output."""
    result = run_benchmarks(*QUICK, "--output", "json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["runs"], told["requests"]) == (2, 5)
    assert len(told["comparisons"]) == len(WHAT)
    assert [each["count"] for each in told["drains"]] == [2, 20, 1, 10]
    assert all(each["least"] <= each["ratio"] <= each["most"] for each in told["comparisons"])


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_refuses_what_is_no_count(count: str) -> None:
    """A count that cannot be used is an error of one line."""
    result = run_benchmarks("--runs", count)
    assert result.returncode == 2
    assert f"expected a whole number of at least 1, got '{count}'" in result.stderr


def test_a_server_that_hangs_is_waited_for_by_one_and_not_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rival's time-out of 5 s is shortened here."""
    monkeypatch.setattr("py_eureka_client.eureka_basic._DEFAULT_TIME_OUT", 1.0)
    monkeypatch.setattr("benchmarks.withdrawal._ANNOUNCE_TIMEOUT", 1.0)
    monkeypatch.setattr("py_eureka_client.logger._custom_logger", None)  # to be put back: the benchmark silences it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its logger.warn
        (comparison,) = compare_withdrawal(1)
    assert comparison.cost > 1.0
    assert comparison.floor > 0
    assert compare_withdrawal(0) == []


def test_contenders_take_turns() -> None:
    """Every second turn goes the other way round, and the first is not counted."""
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    times = in_turns({name: lambda name=name: contender(name) for name in "ab"}, 2)  # type: ignore[misc]
    assert "".join(calls) == "abbaab"
    assert times == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_compares_turn_by_turn() -> None:
    """A ratio is one of two times of the same turn: what slows a whole turn down leaves it as it is."""
    comparison = Comparison.of("a", "b", {"a": [2.0, 40.0, 3.0], "b": [1.0, 20.0, 1.0]})
    assert comparison == Comparison("a", "b", cost=3.0, floor=1.0, added=2.0, ratio=2.0, least=2.0, most=3.0)


def test_an_observed_wait_is_shorter_and_long_enough_for_every_caller() -> None:
    """Never longer than the sum, at times as long (the change comes right after a tick), and nobody calls after it."""
    random = Random(7)
    leaves = [simulate(random) for _ in range(500)]
    assert all(leave.last_heard <= leave.wait <= leave.whole for leave in leaves)
    assert 83 < statistics.mean(leave.wait for leave in leaves) < 86
    assert 68 < min(leave.wait for leave in leaves) < 73
    assert {round(leave.whole, 6) for leave in leaves} == {95.0}
    (comparison,) = compare_waits(50)
    assert comparison.floor == pytest.approx(95)
    assert comparison.most == pytest.approx(1)


def test_shows_times_in_a_unit_that_suits_them() -> None:
    """A request takes microseconds, a process milliseconds."""
    comparison = Comparison("a", "b", cost=0.018, floor=0.0171, added=9e-4, ratio=1.05, least=0.9, most=1.3)
    row = markdown([comparison]).splitlines()[-1]
    assert row == "| a | b | 18.0 ms | 17.1 ms | 900.00 µs | **1.05** | 0.90 to 1.30 |"
