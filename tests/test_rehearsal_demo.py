"""The demo as a command: its table, its verdict, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from graceful.rehearsal import demo
from graceful.rehearsal.callers import Tally
from graceful.rehearsal.cluster import Eureka, Machine, RehearsalError, Service, _environment, free_port
from graceful.rehearsal.exchange import Outcome
from graceful.rehearsal.kubelet import Departure
from graceful.rehearsal.rollout import EXAMPLE, WAYS, Conditions
from graceful.rehearsal.table import FORMATS, Row

LEFT = Departure(seconds=4.25, exit_code=0, hook_exit=0, killed=False)
SIGNALLED = Departure(seconds=0.5, exit_code=-15, hook_exit=None, killed=False)


@pytest.fixture
def anyio_backend() -> str:
    """The rehearsal runs on asyncio."""
    return "asyncio"


def row(
    name: str = "graceful",
    *,
    departures: Sequence[Departure] = (LEFT, LEFT, LEFT),
    fault: bool = False,
    **outcomes: int,
) -> Row:
    counts = Counter({Outcome[kind.upper()]: number for kind, number in outcomes.items()})
    return Row(name, fault, Tally(sent=counts.total(), outcomes=counts), departures, ghosts=0)


ROWS = [row("nothing", answered=90, refused=8, cut=2, departures=[SIGNALLED, LEFT]), row(answered=100, fault=True)]


def test_the_table_for_a_terminal() -> None:
    """One row for each run; numbers flush right."""
    assert FORMATS["table"](ROWS).splitlines() == [
        "run       Eureka            sent  answered  refused  cut  5xx  lost  left: median (max)  exit codes",
        "-" * 99,
        "nothing   well               100        90        8    2    0    10       2.4 s (4.2 s)  1 x SIGTERM, 1 x 0",
        "graceful  503 for a moment   100       100        0    0    0     0       4.2 s (4.2 s)  3 x 0",
    ]


def test_the_table_as_markdown() -> None:
    """For a README: as many cells in every line as there are columns."""
    lines = FORMATS["markdown"](ROWS).splitlines()

    assert lines[0].startswith("| run ")
    assert {line.count("|") for line in lines} == {11}
    assert len(lines) == 4


def test_the_table_as_json() -> None:
    """For a program: every departure and every reason."""
    first, second = json.loads(FORMATS["json"](ROWS))

    assert (first["run"], first["lost"], first["cut"], first["5xx"]) == ("nothing", 10, 2, 0)
    assert second["departures"][0] == {"seconds": 4.25, "exit_code": 0, "hook_exit": 0, "killed": False}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([row(answered=10)], 0),
        ([row("nothing", answered=9, refused=1, departures=[SIGNALLED])], 0),
        ([row(answered=9, refused=1)], 1),
        ([row(answered=9, cut=1)], 1),
        ([row(answered=9, server_error=1)], 1),
        ([row(answered=10), row(answered=9, cut=1, fault=True)], 1),
        ([row(answered=10, departures=[LEFT, SIGNALLED])], 1),
        ([row(answered=10, departures=[Departure(4.0, 0, 0, killed=True)])], 1),
    ],
)
def test_the_verdict_is_on_graceful_alone(rows: list[Row], code: int | str) -> None:
    """The others are expected to lose; graceful is not, and its pods exit with 0."""
    assert demo._verdict(rows) == code


@pytest.mark.parametrize(
    "arguments",
    [
        ["--factor", "0"],
        ["--factor", "2"],
        ["--factor", "1/0"],
        ["--factor", "nan"],
        ["--factor", "slow"],
        ["--rate", "0"],
        ["--rate", "-1"],
        ["--replicas", "1.5"],
        ["--only", "magic"],
        ["--output", "xml"],
        ["more"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Says what was given and what is expected, and exits with 2."""
    with pytest.raises(SystemExit) as raised:
        demo.main(arguments)

    assert raised.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_without_the_example_there_is_nothing_to_rehearse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An installed package has no examples."""
    monkeypatch.setattr(demo, "EXAMPLE", tmp_path / "orders")

    assert demo.main([]) == 2
    assert "run this in a checkout" in capsys.readouterr().err


def test_only_the_caches_are_scaled() -> None:
    """The grace period has the whole of graceful's plan for everything else."""
    conditions = Conditions(factor=0.1)

    assert conditions.cadence.bound == pytest.approx(9.5)
    assert conditions.propagation_delay == pytest.approx(10.0)
    assert conditions.grace_period == 5 + 10 + 20 + 5 + 3 + 2


def test_the_hooks() -> None:
    """Nothing, the recipe's 30 s scaled, the whole chain, and the manifest's command."""
    nothing, recipe, sized, graceful = (way.hook(Conditions(factor=0.1)) for way in WAYS)

    assert nothing is None
    assert recipe
    assert sized
    assert graceful
    assert recipe[1:] == ["-P", "-m", "graceful.rehearsal.recipe", "3.0"]
    assert sized[-1] == "10.0"
    assert graceful[1:] == ["-P", "-m", "graceful.prestop"]


def test_free_ports_are_not_given_to_outgoing_connections() -> None:
    """The kernel's range for these begins at 32768."""
    assert all(15_000 <= free_port() < 32_768 for _ in range(20))


def test_the_pods_do_not_inherit_somebodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither graceful's, nor a proxy, nor a cluster's; and they import this very package."""
    for name in ("GRACEFUL_ENABLED", "EUREKA_SERVER_URL", "HTTP_PROXY", "https_proxy", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.setenv(name, "elsewhere")
    environment = _environment({"PORT": "1"})

    assert "elsewhere" not in environment.values()
    assert environment["PORT"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert (Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "graceful" / "rehearsal").is_dir()


@pytest.mark.anyio
async def test_a_pod_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The last of its output is in the error."""
    async with Machine(tmp_path) as machine:
        eureka = Eureka("http://127.0.0.1:9/eureka")
        service = Service(machine, eureka, app="nowhere:app", directory=EXAMPLE, env={})
        with pytest.raises(RehearsalError, match=r"(?s)orders-1 \(nowhere:app\) ended with exit code [1-9].*nowhere"):
            await service.start_pod()


def start_demo(*arguments: str) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as a shell would have it."""
    return subprocess.Popen(
        [sys.executable, "-m", "graceful.rehearsal.demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def finished(process: subprocess.Popen[str], within: float = 50.0) -> tuple[str, str, int]:
    """Its output and exit code; it is ended if it does not end by itself."""
    watchdog = threading.Timer(within, process.kill)
    watchdog.start()
    try:
        output, errors = process.communicate()
    finally:
        watchdog.cancel()
    return output, errors, process.returncode


def test_a_short_demo() -> None:
    """A pod replaced twice with nothing to help it: requests are lost, and the books are balanced."""
    arguments = ["--only", "nothing", "--replicas", "1", "--factor", "1/40", "--rate", "100", "--output", "json"]
    output, errors, code = finished(start_demo(*arguments))

    assert code == 0, errors
    quiet, failing = json.loads(output)
    assert [quiet["fault"], failing["fault"]] == [False, True]
    for run in (quiet, failing):
        assert run["sent"] == run["answered"] + run["refused"] + run["cut"] + run["5xx"]
        assert run["lost"] > 0
        assert [left["exit_code"] for left in run["departures"]] == [-signal.SIGTERM]
    assert "nothing: pod 1 of 1 replaced" in errors
    # Nothing is drawn over where there is no terminal.
    assert "\r" not in errors


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(number: signal.Signals) -> None:
    """Ctrl-C, or make's own end: every pod and the Eureka server are ended."""
    process = start_demo("--only", "nothing", "--replicas", "2")
    deadline = time.monotonic() + 30
    # The Eureka server and two pods.
    while len(started := children_of(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _output, errors, code = finished(process)

    assert len(started) == 3
    assert code == 130, errors
    assert "Traceback" not in errors
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
