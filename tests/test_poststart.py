"""The postStart hook, and the questions that a command asks a running process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from graceful import asking, poststart, rendezvous, wire
from graceful.listener import listening
from tests.children import PATIENCE, child
from tests.test_cli import ROOT, command
from tests.test_control import App, serving
from tests.test_service import start_web

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def own_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own name; several run at once on one machine."""
    monkeypatch.setenv("GRACEFUL_SCOPE", f"poststart-{os.getpid()}-{time.monotonic_ns()}")
    for name in ("GRACEFUL_RUNTIME_DIR", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


class Starting(App):
    """An app that says of itself what the test has it say."""

    def __init__(self, **words: str) -> None:
        super().__init__()
        self.words = words
        self.asked = threading.Semaphore(0)

    def describe(self) -> dict[str, str]:
        self.asked.release()
        return self.words


@pytest.fixture
def app() -> Iterator[Starting]:
    with serving(Starting(phase="starting", registered="no")) as app:
        assert isinstance(app, Starting)
        yield app


def lines(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out


def test_it_waits_until_the_service_is_ready_and_up(app: Starting, capfd: pytest.CaptureFixture[str]) -> None:
    """1. It is starting. 2. It is ready, but not UP. 3. It is UP."""
    codes: list[int] = []
    hook = threading.Thread(target=lambda: codes.append(poststart.main(["--timeout", "40", "--strict"])))
    hook.start()
    for words in ({"phase": "serving", "registered": "no"}, {"phase": "serving", "registered": "yes"}):
        for _ in range(2):
            assert app.asked.acquire(timeout=PATIENCE)
        assert hook.is_alive()
        app.words = words
    hook.join(PATIENCE)
    assert codes == [0]
    assert lines(capfd).startswith("the service is ready, after ")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"phase": "starting", "registered": "no"}, "the service is not ready: it is starting, after "),
        ({"phase": "lame_duck", "registered": "yes"}, "the service is not ready: it is lame_duck, after "),
        ({"phase": "serving", "registered": "no"}, "the service is ready, but not UP in Eureka, after "),
    ],
)
def test_it_never_fails_the_container(
    app: Starting, words: dict[str, str], problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A hook that fails has the container killed: the exit code is 0."""
    app.words = words
    assert poststart.main(["--timeout=2"]) == 0
    assert lines(capfd).startswith(problem)


def test_without_eureka_to_be_ready_is_enough(app: Starting) -> None:
    """And so it is for a worker beside the one that speaks for all."""
    app.words = {"phase": "serving", "registered": ""}
    assert poststart.main(["--timeout=20", "--strict"]) == 0


def test_nobody_there(capfd: pytest.CaptureFixture[str]) -> None:
    """It waits for the service to start, and not for ever."""
    assert poststart.main(["--timeout", "0.3"]) == 0
    assert lines(capfd).startswith(
        "no process of this container listens for its hooks: is graceful at work in the app?"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--grace", "5"], "unknown argument --grace"),
        (["--timeout"], "needs a number"),
        (["--timeout=x"], "--timeout: 'x'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: list[str], problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With the usage."""
    assert poststart.main(arguments) == 2
    said = capfd.readouterr().err
    assert problem in said
    assert "usage: python3 -P -m graceful.poststart" in said


def test_it_imports_next_to_nothing() -> None:
    """It runs at the container's CPU limit while the service starts."""
    script = (
        "import sys, os, time, socket, select, struct; before = set(sys.modules); import graceful.poststart; "
        "print(*sorted(set(sys.modules) - before)); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    ours, everything = done.stdout.splitlines()
    names = ["asking", "poststart", "prestop", "prestop_talk", "rendezvous", "wire"]
    assert ours.split() == ["__future__", "graceful", *(f"graceful.{name}" for name in names)]
    heavy = {"argparse", "asyncio", "contextlib", "json", "logging", "pathlib", "re", "threading", "typing", "http"}
    assert not heavy & set(everything.split())


def test_a_real_service_is_waited_for() -> None:
    """1. The hook runs before the service. 2. The service starts. 3. The hook ends with 0."""
    environ = {"GRACEFUL_SCOPE": os.environ["GRACEFUL_SCOPE"], "PYTHONPATH": str(ROOT)}
    with child("-P", "-m", "graceful.poststart", "--strict", env=environ) as hook:
        starting, _ = start_web(GRACEFUL_SCOPE=environ["GRACEFUL_SCOPE"])
        with starting as service:
            service.wait_for("ready: serving")
            assert hook.exit_code() == 0, hook.text
            hook.wait_for("the service is ready, after")


# --- questions --------------------------------------------------------------------------------------------------------


def test_a_long_answer_comes_in_pieces(app: Starting) -> None:
    """However long, and whatever is in it."""
    text = json.dumps({"a": "x y " * 5000, "b": "ä😀"}, ensure_ascii=False)
    control_address = app.address
    with pytest.raises(wire.WireError, match="expected the answer to manifest, got 'refused'"):
        asking.ask(control_address, "manifest", time.monotonic() + PATIENCE)
    assert wire.decode_long(wire.encode_long(text)) == text
    answer = wire.encode_status(wire.encode_long(text), "manifest")
    assert max(map(len, answer.split(b"\n"))) < wire.LINE_LIMIT
    assert wire.decode_long(wire.decode_status(answer.split(b"\n")[:-1], "manifest") or {}) == text


def test_the_manifest_of_a_running_process() -> None:
    """What it would say of itself: its own settings, callbacks and all."""
    starting, port = start_web(GRACEFUL_DRAIN_TIMEOUT="7", GRACEFUL_APP_NAME="orders")
    with starting as service:
        service.wait_for("ready: serving")
        scope = {"GRACEFUL_SCOPE": f"test-{os.getpid()}-{port}"}
        pid = str(service.process.pid)
        ended = command("manifest", "--pid", pid, "--format", "json", "--probes", cwd=ROOT, environ=scope)
        assert ended.code == 0, ended.err
        told = json.loads(ended.out)
        assert told["container"]["name"] == "orders"
        assert told["pod"]["terminationGracePeriodSeconds"] == 16  # propagation 1.5, drain 7, cleanup 5, margin 2
        assert told["container"]["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}
        nobody = command("manifest", "--pid", "1", cwd=ROOT, environ=scope)
        assert nobody.code == 3
        assert nobody.error.startswith(f"process 1 is none that graceful is at work in (those that are here: {pid}):")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--pid", "x"], 2, "argument --pid: expected the number of a process, got 'x'"),
        (["--pid", "1", "main"], 2, "argument MODULE: not allowed with argument --pid"),
        (["--pid", "1", "--mode", "script"], 2, "--mode script is made from a module or the environment"),
        (["--pid", "1"], 3, "process 1 is none that graceful is at work in (there is none here)"),
        (["--workload", "Job/a"], 2, "argument --workload: expected [KIND/]NAME with one of Deployment, StatefulSet"),
        (["--kubernetes-version", "new"], 2, "argument --kubernetes-version: expected a version such as 1.30"),
        (
            ["--mode", "sleep", "--kubernetes-version", "v1.29.4"],
            1,
            "mode sleep needs Kubernetes 1.30, and this is for",
        ),
        (["--mode", "http"], 1, "mode http needs the port on which the application serves"),
    ],
)
def test_bad_input(arguments: list[str], code: int, message: str) -> None:
    """One line; 3 where it cannot be told."""
    ended = command("manifest", *arguments, cwd=ROOT, environ={"GRACEFUL_SCOPE": os.environ["GRACEFUL_SCOPE"]})
    assert ended.code == code
    assert ended.error.startswith(message)


def test_an_answer_that_never_comes_has_a_deadline() -> None:
    """Whoever asks goes on."""
    address = rendezvous.own_address(os.environ)
    assert address is not None
    with listening(address), pytest.raises(TimeoutError, match="it did not answer in time"):
        asking.ask(address, "status", time.monotonic() + 0.2)
