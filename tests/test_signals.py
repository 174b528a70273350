"""Signals are held, released to their owner, and restored: real child processes, real signals, real requests."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parent.parent
SCENARIOS = "tests.scenarios"
# Generous: the machine may be busy. Nothing waits for it unless something is wrong.
PATIENCE = 40.0
# uvicorn looks at its flag every 0.1 s: a signal that got through has closed the listener well before this is over.
HOLD_PERIOD = 0.4


@dataclass
class Child:
    """A scenario's process: its lines as they come, and what to tell it."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream in filter(None, (self.process.stdout, self.process.stderr)):
            reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, stream: Iterable[str]) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str, *, times: int = 1) -> re.Match[str]:
        """The match of the pattern's last occurrence, when there are that many."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                found = [match for line in self.lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                if left <= 0 or not (self._changed.wait(min(left, 0.5)) or self.process.poll() is None):
                    pytest.fail(f"no {pattern!r} ({times} times); exit {self.process.poll()}:\n" + self.text)

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def exit_code(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Run `python ARGUMENTS` among the scenarios; it is gone afterwards, whatever happened."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job may have SIGINT ignored, and it would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        running = Child(process)
        try:
            yield running
        finally:
            process.kill()


def get(port: int) -> int:
    """The status of one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()


def serve_on(port: int, period: float) -> list[int]:
    """Request again and again for that time; an exception when one is refused."""
    until = time.monotonic() + period
    statuses = []
    while time.monotonic() < until:
        statuses.append(get(port))
        time.sleep(0.02)
    return statuses


# -- uvicorn -------------------------------------------------------------------------------------------------------

STYLES = ("cli", "run-object", "run-string", "server-object", "server-string", "serve-before", "serve-inside")
LOOPS = ("asyncio", "uvloop")
UvicornCase = tuple[str, str, str, signal.Signals]
UVICORN_CASES: list[UvicornCase] = [
    *itertools.product(STYLES, LOOPS, ("on",), (signal.SIGTERM, signal.SIGINT)),
    *itertools.product(STYLES, LOOPS, ("off",), (signal.SIGTERM,)),
]


def run_uvicorn(style: str, loop: str, lifespan: str, signum: signal.Signals) -> None:
    """The story of signals_uvicorn.py, from the outside."""
    if style == "cli":
        application = f"{SCENARIOS}.signals_uvicorn:app"
        arguments = ["-m", "uvicorn", application, "--port=0", f"--loop={loop}", f"--lifespan={lifespan}"]
    else:
        arguments = ["-m", f"{SCENARIOS}.signals_uvicorn", style, loop, lifespan]
    with child(*arguments) as service:
        port = int(service.wait_for(r"Uvicorn running on http://127.0.0.1:(\d+)")[1])
        # Without a lifespan it is the poll that takes the signals back.
        service.tell("tell-when-taken")
        service.wait_for("taken-back")
        assert get(port) == 200

        service.signal(signum)
        service.wait_for(f"held {int(signum)}$")
        assert set(serve_on(port, HOLD_PERIOD)) == {200}
        service.signal(signum)
        service.wait_for(f"held {int(signum)}$", times=2)
        assert set(serve_on(port, HOLD_PERIOD)) == {200}
        assert "Shutting down" not in service.text

        service.tell("release")
        service.wait_for("Shutting down")
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0, service.text
        assert ("lifespan-end" in service.text) == (lifespan == "on")
        assert "Traceback" not in service.text
        if "object" in style or "serve" in style.split("-"):
            assert "main-ends" in service.text


@pytest.fixture(scope="module")
def uvicorn_runs(request: pytest.FixtureRequest) -> Iterator[Callable[[UvicornCase], Future[None]]]:
    """All selected cases side by side: each of them mostly waits."""
    cases: list[UvicornCase] = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "uvicorn_runs" in item.fixturenames
    ]
    with ThreadPoolExecutor(max_workers=6) as pool:
        runs = {case: pool.submit(run_uvicorn, *case) for case in cases}
        yield lambda case: runs[case]
        for run in runs.values():
            run.cancel()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", UVICORN_CASES, ids=lambda case: "-".join(map(str, case)))
def test_uvicorn_serves_until_released_and_exits_0(
    case: UvicornCase, uvicorn_runs: Callable[[UvicornCase], Future[None]]
) -> None:
    """Requests are answered while the signal is held; released, the server shuts down in order."""
    uvicorn_runs(case).result()
