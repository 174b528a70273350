"""The real Eureka of the tests: found or missed loudly, protected as asked, replicating in pairs, gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.eureka_caller import Caller, wait_until
from tests.eureka_servers import RunningEureka

CONTRACT = "tests/test_eureka_contract.py::TestRegistration::test_an_instance_is_there_at_once"


def run_contract(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One contract test in a pytest of its own, on a machine without java and mvn."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", CONTRACT]
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        command,
        env=kept | {"PATH": str(tmp_path)} | environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_without_java_the_real_ones_are_skipped(tmp_path: Path) -> None:
    """The embedded one is tested, and the reason is given."""
    ended = run_contract(tmp_path)
    assert ended.returncode == 0
    assert "1 passed, 1 skipped" in ended.stdout
    assert "a real Eureka server needs java and mvn on the PATH" in ended.stdout


def test_on_the_ci_machine_they_fail_instead(tmp_path: Path) -> None:
    """A skipped test would go unseen there."""
    ended = run_contract(tmp_path, CI="true")
    assert ended.returncode == 1
    assert "a real Eureka server needs java and mvn on the PATH" in ended.stdout


def test_credentials_are_quoted_and_not_in_the_repr() -> None:
    """The URL can be handed on as it is."""
    eureka = RunningEureka("real", "http://h:1/eureka", 1.0, "a@b", "hunter:/2")
    assert eureka.url == "http://a%40b:hunter%3A%2F2@h:1/eureka"
    assert "hunter" not in repr(eureka)


@pytest.mark.slow
def test_a_pair_replicates_both_ways(real_eureka_pair: tuple[RunningEureka, RunningEureka]) -> None:
    """A registration, an override and a cancel arrive at the other node."""
    for here, there in (real_eureka_pair, real_eureka_pair[::-1]):
        caller, reader = Caller(here.url, f"pair-{here.pid}"), Caller(there.url, f"pair-{here.pid}")
        with closing(caller.http), closing(reader.http):
            caller.register()
            wait_until_read(reader, ("UP", "UNKNOWN"))
            caller.override("OUT_OF_SERVICE")
            wait_until_read(reader, ("OUT_OF_SERVICE", "OUT_OF_SERVICE"))
            caller.cancel()
            wait_until_read(reader, None)


def wait_until_read(reader: Caller, expected: tuple[str, str] | None) -> None:
    wait_until(lambda: reader.statuses() == expected, f"the node reads {expected}")
