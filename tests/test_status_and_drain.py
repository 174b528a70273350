"""`status` and `drain`: what a process says of itself, and the two commands against real services."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid

import anyio
import pytest

import graceful
from graceful.core.phases import Phase
from graceful.core.registry import ServerResult
from tests.children import ROOT, child, until
from tests.coordinators import Rig
from tests.test_docs import fences
from tests.test_service_eureka import registered
from tests.test_workers import pod

SECRET = "s3cret"
PAGE = ROOT / "docs" / "reference" / "commands.md"


def shape(text):
    """What is printed, but for its numbers and the width of its columns."""
    return re.sub(r" +", " ", re.sub(r"\d+", "N", text))


SHOWN = [shape(fence.text) for fence in fences(PAGE) if fence.marker == "what status prints"]


def command(*arguments, env):
    """`python -m graceful …` as it is run in a container: with the pod's environment."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "graceful", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def processes(env):
    ended = command("status", "-o", "json", env=env)
    return ended.returncode, {each["pid"]: each for each in json.loads(ended.stdout)["processes"]}


@pytest.fixture
def rig():
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def nowhere():
    return {"GRACEFUL_SCOPE": f"status-{uuid.uuid4().hex}"}


# --- what a process says of itself ------------------------------------------------------------------------------------


def test_what_is_said_in_each_phase(rig):
    """Its state and its time, from the start to the end."""
    said = rig.coordinator.describe()
    assert (said["phase"], said["registry"], said["began"], said["remaining"]) == ("starting", "absent", "", "")
    rig.serving()
    rig.loop.advance(9)
    said = rig.coordinator.describe()
    assert (said["phase"], said["since"][:2], said["registry"]) == ("serving", "10", "announced")
    assert said["version"] == graceful.__version__
    key = rig.coordinator.enter("GET", "/")
    rig.coordinator.signalled(signal.SIGTERM)
    rig.loop.advance(5)
    said = rig.coordinator.describe()
    assert (said["phase"], said["in_flight"], said["began"]) == ("lame_duck", "1", "SIGTERM")
    assert float(said["remaining"]) == pytest.approx(125, abs=0.5)
    assert float(said["wait"]) == pytest.approx(90.5, abs=0.5)
    assert (said["registry"], said["verdict"]) == ("out_of_service", "verified_all")
    rig.until(Phase.DRAINING)
    assert rig.coordinator.describe()["wait"] == ""
    rig.coordinator.leave(key)
    rig.until(Phase.STOPPED)
    said = rig.coordinator.describe()
    assert (said["registry"], said["finished"], said["problems"]) == ("deregistered", "yes", "0")


def test_what_is_said_is_bounded_and_has_no_credentials(rig):
    """A reason of the user's, an exception of somebody's: a line, and not a long one."""
    rig.serving()
    rig.registry.calls = (ServerResult("http://***@a/eureka", False, "HTTP 503", "register"),)
    assert rig.coordinator.describe()["detail"] == "register http://***@a/eureka: HTTP 503"
    rig.coordinator.life.problems.append(f"http://me:{SECRET}@host failed\n" + "x" * 9999)
    said = rig.coordinator.describe()
    assert SECRET not in str(said)
    assert said["problem"].startswith("http://***@host failed xxx")
    assert all(len(value) <= 300 and value.isprintable() for value in said.values())


@pytest.mark.parametrize(("whole", "alone"), [(True, False), (False, None)])
def test_by_hand_is_the_pods_leave_where_all_are_asked(rig, whole, alone):
    """As a hook; one process alone is left to the rule about its siblings."""
    rig.serving()
    rig.coordinator._siblings = object()  # somebody may serve on
    visit = rig.coordinator.drain_by_hand(pod=whole)
    assert rig.coordinator.life.leave.alone is alone
    assert rig.coordinator.life.leave.reason == "python -m graceful drain"
    assert visit.within == pytest.approx(130, abs=0.5)
    rig.coordinator._siblings = None


def test_who_waits_for_the_outcome_hears_it_before_the_server_is_released(rig):
    """The journal, then the report; the leave is not over for the process before that."""
    rig.serving()
    visit, heard = rig.coordinator.drain_by_hand(pod=True), []

    async def listen():
        heard.extend([line async for line in visit.messages()])
        await anyio.sleep(0.2)
        assert not rig.tasks[0].done()
        heard.append(visit.summary())
        visit.answered()

    rig.tasks.append(rig.loop.create_task(listen()))
    rig.until(Phase.STOPPED)
    rig.loop.advance(0.3)
    assert rig.tasks[0].done()
    assert heard[0].startswith("leaving because of python -m graceful drain")
    assert "OUT_OF_SERVICE verified" in heard[1]
    clean, report = heard[-1]
    assert clean, report
    assert report.startswith("left cleanly after python -m graceful drain")


def test_who_does_not_read_the_outcome_does_not_keep_the_process(rig):
    rig.serving()
    rig.coordinator.drain_by_hand(pod=True)
    rig.until(Phase.STOPPED)
    rig.loop.advance(0.6)
    assert rig.tasks[0].done()


# --- the commands -----------------------------------------------------------------------------------------------------


def test_nobody_there(nowhere):
    """Inconclusive, in one line that says what to look at."""
    for arguments in (["status"], ["drain"], ["status", "-o", "json"], ["drain", "--pid", "1"]):
        ended = command(*arguments, env=nowhere)
        assert (ended.returncode, ended.stdout) == (3, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("graceful: error: ")


@pytest.mark.parametrize(
    "arguments", [["status", "--timeout", "0"], ["drain", "--timeout", "x"], ["drain", "--pid", "x"]]
)
def test_arguments_that_cannot_be_used(nowhere, arguments):
    ended = command(*arguments, env=nowhere)
    assert (ended.returncode, ended.stdout) == (2, "")


@pytest.mark.parametrize(
    ("how", "said"),
    [("deaf", "did not answer in 1 s"), ("garbage", "is not understood"), ("trickle", "did not answer in 1 s")],
)
def test_a_process_that_does_not_answer(nowhere, how, said):
    """It is shown, and the exit code says that something is wrong."""
    with child("-m", "tests.scenarios.control_app", how, env=nowhere) as app:
        app.wait_for("listening")
        ended = command("status", "--timeout", "1", env=nowhere)
        assert ended.returncode == 1, ended.stderr
        assert f"{app.process.pid}" in ended.stdout
        assert "no answer" in ended.stdout
        assert said in ended.stdout


def test_a_refusal_and_an_end_without_a_word(nowhere):
    """`drain` says which process does not leave."""
    for how, said in (("refuse", "refuses: the app could not leave"), ("die", "ended before it said how")):
        with child("-m", "tests.scenarios.control_app", how, env=nowhere) as app:
            app.wait_for("listening")
            ended = command("drain", "--wait", env=nowhere)
            assert ended.returncode == 1, ended.stdout
            assert said in ended.stdout


def test_an_unclean_leave_is_told(nowhere):
    """1. All are asked, so it is the pod's leave. 2. What the process says is printed. 3. It fails: so does `drain`."""
    with child("-m", "tests.scenarios.control_app", "leave", env=nowhere) as app:
        app.wait_for("listening")
        for order in ("say out of service", "failed not all of it went well"):
            app.tell(order)
        ended = command("drain", "--wait", env=nowhere)
        app.wait_for("drain pod")
        said = [f"[{app.process.pid}] {line}" for line in ("out of service", "not all of it went well")]
        assert (ended.returncode, ended.stdout.splitlines()) == (1, said)
        command("drain", "--pid", str(app.process.pid), env=nowhere)
        app.wait_for("drain process")


def test_status_imports_little(nowhere):
    """It is run beside a service that is in trouble, perhaps at a small CPU limit."""
    code = "import sys; from graceful.cli import main; main(['status']); print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | nowhere,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert "graceful.processes" in ended.stdout
    for heavy in ("anyio", "asyncio", "pydantic", "py_eureka_client", "ssl"):
        assert heavy not in ended.stdout.split()


def test_a_service_is_drained_by_hand(embedded_eureka):
    """1. It serves. 2. It is told to leave: out of service, still serving. 3. It ends with 0."""
    with registered(embedded_eureka, GRACEFUL_PROPAGATION_DELAY="4") as r:
        until(lambda: r.status == "UP", "UP")
        until(lambda: processes(r.env)[1][r.service.process.pid]["registered"], "read back")
        code, found = processes(r.env)
        assert (code, len(found)) == (0, 1)
        before = found[r.service.process.pid]
        assert (before["registry"], before["owner"], before["in_flight"]) == ("announced", True, 0)
        assert before["remaining"] is before["began"] is None
        assert shape(command("status", env=r.env).stdout) == SHOWN[0]
        other = command("drain", "--pid", "1", env=r.env)
        assert (other.returncode, other.stderr.count(str(r.service.process.pid))) == (3, 1)
        drained = command("drain", "--pid", str(r.service.process.pid), env=r.env)
        assert drained.returncode == 0, drained.stderr
        assert "leaves, and ends within " in drained.stdout
        code, found = processes(r.env)
        after = found[r.service.process.pid]
        assert (code, after["phase"], after["began"]) == (1, "lame_duck", "python -m graceful drain")
        assert 0 < after["remaining"] < 60
        text = command("status", env=r.env)
        assert text.returncode == 1
        assert shape(text.stdout) == SHOWN[1]
        assert r.service.exit_code() == 0
        assert r.status is None
        assert "left cleanly after python -m graceful drain" in r.service.text


def test_workers_are_drained_by_hand(embedded_eureka):
    """All of them leave as one pod; whoever waits hears how it went for each."""
    with pod(embedded_eureka, "uvicorn") as pods:
        code, found = processes(pods.env)
        assert (code, {each["phase"] for each in found.values()}) == (0, {"serving"})
        assert [pid for pid, each in found.items() if each["owner"]] == [pods.owner]
        ended = command("drain", "--wait", env=pods.env)
        assert ended.returncode == 0, ended.stdout
        for pid in found:
            assert f"[{pid}] left cleanly after python -m graceful drain" in ended.stdout
        assert ended.stdout.count("still serving, not ready any more") == 2
        # The parent starts others in their place; what left did so once and in order.
        assert "status" in pods.changes()
