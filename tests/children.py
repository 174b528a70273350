"""Child processes of the tests: started for real, told by real signals, and gone when the test is over."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
# Generous: the machine may be busy. Nothing waits for it unless something is wrong.
PATIENCE = 40.0
# What a developer's shell may have set must not reach the services under test.
_OURS = ("GRACEFUL_", "EUREKA_", "SPRING_", "OTEL_", "POD_IP", "KUBERNETES_")


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
        # A test that fails leaves while something may still be writing: the stream is closed under its reader then.
        with contextlib.suppress(ValueError):
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

    def in_order(self, *patterns: str) -> bool:
        """Whether lines that match come in this order."""
        lines = iter(self.lines)
        return all(any(re.search(pattern, line) for line in lines) for pattern in patterns)


@contextlib.contextmanager
def child(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run `python ARGUMENTS` in the project's root; it is gone afterwards, whatever happened."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        # A hook runs with -P, which takes the working directory off its path.
        env=inherited | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)} | dict(env or {}),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # One stream, so that the order of the lines is the order in which they were written.
        stderr=subprocess.STDOUT,
    ) as process:
        running = Child(process)
        try:
            yield running
        except BaseException:
            print(running.text)  # shown where a test fails
            raise
        finally:
            process.kill()


def get(port: int, path: str = "/") -> tuple[int, str, str]:
    """The status, the Connection header and the body of one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("connection", ""), response.read().decode()
    finally:
        connection.close()


_EACH = 2_000


def _ports() -> Iterator[int]:
    """The ports of this process of the tests, over and over: no other is given them, nor an outgoing connection.

    The kernel gives those ports from 32768 on, and a listener that asks for any port as well.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    ports = range(15_000 + _EACH * worker, 15_000 + _EACH * (worker + 1))
    first = random.randrange(_EACH)  # another run of the tests is elsewhere
    return itertools.cycle([*ports[first:], *ports[:first]])


_PORTS = _ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that nobody else is given."""
    for port in itertools.islice(_PORTS, _EACH):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError(f"none of {_EACH} ports is free on {host}")


def until(holds: object, what: str) -> None:
    """Wait until a callable gives something true."""
    deadline = time.monotonic() + PATIENCE
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
