"""Who was in the way: seen when the time is over, told in bounded form, and named with function and line."""

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful.core.obstacles import LONGEST_REPORT, MOST_LOOKED_AT, DeadlineReport, Frame, Obstacle, Sighting, Spent
from graceful.core.phases import Phase
from graceful.core.report import DrainReport
from graceful.http.asgi import GracefulMiddleware
from graceful.http.wsgi import WsgiMiddleware
from graceful.settings import load_settings
from graceful.stacks import Worker, stack_of_task
from graceful.telling import Teller
from tests.children import child, free_port
from tests.coordinators import Rig
from tests.services import FakeService

TERM = signal.SIGTERM
SCENARIO = Path(__file__).parent / "scenarios" / "deadline.py"
EVENT = r'(WARNING|ERROR) graceful.deadline (\{"event.*\})'

TEXT = st.text(max_size=200)
FRAMES = st.lists(st.builds(Frame, TEXT, st.integers(0, 10**6), TEXT, st.booleans()), max_size=12).map(tuple)
KINDS = st.sampled_from(["request", "job", "callback", "event loop"])
OBSTACLES = st.builds(Obstacle, KINDS, TEXT, st.none() | st.floats(0, 1e5), TEXT, FRAMES, st.booleans())


def sightings(most):
    seen = st.lists(OBSTACLES, max_size=most).map(tuple)
    return st.builds(Sighting, st.sampled_from(["drain", "the end"]), seen, st.dictionaries(TEXT, st.integers(1, 9)))


@settings(max_examples=60, deadline=None)
@given(st.lists(sightings(6), max_size=4).map(tuple), TEXT, TEXT, st.integers(0, 3000))
def test_however_much_it_says_it_is_bounded_and_counts_all(seen, reason, ended_by, longest):
    """Text and JSON fit, JSON is one line, a short form is as short as it must be, and nobody is left out."""
    # Many times as many: what is drawn is small.
    seen = tuple(Sighting(each.during, each.obstacles * 40, each.others) for each in seen)
    report = DeadlineReport(reason, ended_by, 30.0, (Spent("draining", 20.0, 20.0),), seen)
    told = json.loads(report.as_json())
    assert len(report.as_json().encode()) <= LONGEST_REPORT
    assert "\n" not in report.as_json()
    assert len(str(report).encode()) <= LONGEST_REPORT
    assert len(report.short(longest).encode()) <= longest
    assert len(told["in_the_way"]) + sum(told["others"].values()) == told["total"] == report.total
    assert all(each["stack"] is None or each["stack"] in told["stacks"] for each in told["in_the_way"])


def test_the_longest_that_can_be_seen_is_bounded():
    """Fifty requests, each with the longest stack there is and of its own, in letters that JSON has to escape."""
    wide = "\N{SNOWMAN}" * 80
    obstacles = tuple(
        Obstacle("request", wide, 1.0, wide, tuple(Frame(wide, line, wide, own=True) for _ in range(12)))
        for line in range(MOST_LOOKED_AT)
    )
    report = DeadlineReport(wide, wide, 30.0, (), (Sighting("drain", obstacles, {wide: 9950}),))
    assert len(str(report).encode()) <= LONGEST_REPORT
    assert len(report.as_json()) <= LONGEST_REPORT
    told = report.as_dict()
    assert 1 <= len(told["in_the_way"]) < MOST_LOOKED_AT
    assert len(told["in_the_way"]) + told["others"][wide] == told["total"] == 10_000


def test_ten_thousand_in_flight_make_a_short_report_in_time(rig):
    """The oldest fifty are looked at; the others are counted by name."""
    r = rig().serving()
    for number in range(10_000):
        r.coordinator.enter("GET", f"/orders/{number}" if number < 100 else "/orders")
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    began = time.process_time()
    r.until(Phase.STOPPED)
    told = r.coordinator.report.deadline.as_dict()
    assert time.process_time() - began < 5
    assert told["total"] == 10_000
    assert len(told["in_the_way"]) == MOST_LOOKED_AT
    assert told["in_the_way"][0]["name"] == "GET /orders/0"
    assert told["others"]["GET /orders"] == 9_900
    assert len(r.coordinator.report.deadline.as_json()) <= LONGEST_REPORT


@pytest.fixture
def rig():
    rigs = []

    def make(**how):
        rigs.append(Rig(**how))
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()


def named(report):
    return [(each["during"], each["kind"], each["name"]) for each in report.deadline.as_dict()["in_the_way"]]


def test_a_clean_leave_has_no_such_report(rig):
    """Nothing ran out of time."""
    r = rig().serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.deadline is None


def test_the_drain_s_and_the_callbacks_obstacles_are_told_together_at_the_end(rig):
    """1. The drain runs out of time. 2. A cleanup callback does. 3. One report has both, as it was then."""
    r = rig()
    r.on_cleanup("close pool", seconds=1000, timeout=2)
    r.serving()
    key = r.coordinator.enter("GET", "/endless")
    r.coordinator.signalled(TERM)
    r.until(Phase.CLEANUP)
    r.coordinator.leave(key)  # gone by then: it was in the way all the same
    r.until(Phase.STOPPED)
    report = r.coordinator.report
    assert named(report) == [("on_cleanup", "callback", "close pool"), ("drain", "job", "GET /endless")]
    told = report.deadline.as_dict()
    assert [each["seconds"] for each in told["in_the_way"]] == [2.0, pytest.approx(115.5)]
    assert told["budget"]["draining"] == {"spent": 20.0, "planned": 20}
    assert told["budget"]["lame_duck"]["planned"] == 100
    assert told["ended_by"] is None
    assert "tests/coordinators.py" in told["in_the_way"][0]["at"]
    assert "in callback" in told["in_the_way"][0]["at"].replace("Rig._callback.<locals>.", "")


def test_a_drain_callback_that_hangs_is_told(rig):
    """It has its own name for what ran out of time."""
    r = rig()
    r.on_drain("pause", seconds=1000, timeout=3)
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert named(r.coordinator.report) == [("on_drain", "callback", "pause")]


def test_a_forced_end_tells_what_runs_then(rig):
    """A second SIGTERM in the drain: the callback under way, and what is in flight."""
    r = rig()
    r.on_drain("pause", seconds=15)
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    r.coordinator.enter("message 7")
    r.loop.advance(2)
    r.coordinator.signalled(TERM)
    report = r.exits[0][1]
    assert named(report) == [("the end", "callback", "pause"), ("the end", "job", "message 7")]
    assert report.deadline.as_dict()["ended_by"] == "a second SIGTERM forced it"
    assert [each["seconds"] for each in report.deadline.as_dict()["in_the_way"]] == [pytest.approx(2.0, abs=0.1)] * 2


def test_a_forced_end_in_the_clean_up_tells_each_once(rig):
    """What was in flight was seen at the end of the drain."""
    r = rig()
    r.on_cleanup("close pool", seconds=4)
    r.serving()
    r.coordinator.enter("GET", "/endless")
    r.coordinator.signalled(TERM)
    r.until(Phase.CLEANUP)
    r.loop.advance(1)
    r.coordinator.signalled(TERM)
    assert named(r.exits[0][1]) == [("the end", "callback", "close pool"), ("drain", "job", "GET /endless")]


def test_a_server_that_does_not_end_is_told_with_what_is_in_its_way_then(rig):
    """The leave's own report was told before, so only what is seen now is in it."""
    r = rig()
    r.on_cleanup("close pool", seconds=1000, timeout=1)
    r.serving()
    r.coordinator.enter("GET", "/endless")
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    r.loop.advance(130)
    assert named(r.exits[0][1]) == [("the end", "job", "GET /endless")]
    assert r.exits[0][1].deadline.as_dict()["budget"]["stopped"]["planned"] == 2


def test_a_unit_that_cannot_be_looked_at_keeps_nothing_from_being_told(rig):
    """Its name is told all the same."""

    class Broken:
        name = "GET /broken"

        def look(self, seconds, *, query):
            raise RuntimeError("gone")

    r = rig().serving()
    r.coordinator.life.in_flight.enter((Broken, r.loop.time()))
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert named(r.coordinator.report) == [("drain", "job", "GET /broken")]


def unit_of(service):
    ((unit, _),) = service.work.units()
    return unit


@pytest.mark.parametrize(("query", "name"), [(False, "GET /orders"), (True, "GET /orders?token=secret")])
def test_a_query_string_is_told_only_when_asked_for(query, name):
    """And never a header."""
    service = FakeService()
    nobody: Any = None
    seen: list[Obstacle] = []

    async def app(scope, receive, send):
        seen.append(unit_of(service).look(1.0, query=query))

    scope = {"type": "http", "method": "GET", "path": "/orders", "query_string": b"token=secret"}
    headers = [(b"authorization", b"Bearer secret")]
    asyncio.run(GracefulMiddleware(app, service)(scope | {"client": ("::1", 7), "headers": headers}, nobody, nobody))

    def wsgi_app(environ, start_response):
        seen.append(unit_of(service).look(1.0, query=query))
        return []

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders", "QUERY_STRING": "token=secret", "REMOTE_ADDR": "::1"}
    environ |= {"REMOTE_PORT": "7", "HTTP_AUTHORIZATION": "Bearer secret"}
    WsgiMiddleware(wsgi_app, service)(environ, nobody)
    for each in seen:
        assert (each.kind, each.name, each.peer, each.seconds) == ("request", name, "[::1]:7", 1.0)
        assert "Bearer" not in repr(each)
        assert "test_deadline.py" in str(each.at)


def test_a_request_of_aiohttp_is_told_as_the_others_are():
    """Method, path and peer; where its task is."""
    pytest.importorskip("aiohttp")
    from aiohttp.test_utils import TestClient, TestServer
    from aiohttp.web import Application, Response

    from graceful.http.aiohttp import AiohttpWiring

    service = FakeService()
    seen: list[Obstacle] = []

    async def handler(request):
        seen.append(unit_of(service).look(1.0, query=False))
        seen.append(unit_of(service).look(1.0, query=True))
        return Response()

    async def main():
        app = Application()
        app.router.add_get("/orders", handler)
        AiohttpWiring(app, service, livez_path=None, readyz_path=None, retry_after=1.0, close_code=1012)
        async with TestClient(TestServer(app)) as client:
            assert (await client.get("/orders?token=secret")).status == 200

    asyncio.run(main())
    assert [each.name for each in seen] == ["GET /orders", "GET /orders?token=secret"]
    assert all(each.peer.startswith("127.0.0.1:") and "in test_a_request" in str(each.at) for each in seen)


def test_a_stack_is_followed_through_what_is_awaited():
    """An asynchronous generator, a task group, a task that waits: the innermost of the application's is found."""

    async def items():
        await asyncio.sleep(1000)
        yield

    async def inner():
        async for _ in items():
            pass

    async def outer():
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())

    async def main():
        task = asyncio.create_task(outer())
        for _ in range(5):
            await asyncio.sleep(0)
        frames, running = stack_of_task(task)
        own, _ = stack_of_task(asyncio.current_task())
        task.cancel()
        return frames, running, own

    frames, running, own = asyncio.run(main())
    functions = [frame.function.rpartition(".")[2] for frame in frames if frame.own]
    assert (functions, running) == (["items", "inner", "outer"], False)
    assert next(frame for frame in own if frame.own).function.endswith("main")
    assert stack_of_task(object()) == ((), False)


def test_a_stack_without_an_end_is_cut():
    """The innermost frames are told, and time is not spent on the others."""
    reached, go = threading.Event(), threading.Event()
    worker = Worker()

    def deep(left):
        if left:
            deep(left - 1)
        else:
            worker.is_here()
            reached.set()
            go.wait(30)

    thread = threading.Thread(target=deep, args=(300,))
    thread.start()
    assert reached.wait(30)
    frames = worker.last_seen()
    go.set()
    thread.join(30)
    assert len(frames) == 12
    assert next(frame for frame in frames if frame.own).function.endswith("deep")


def unclean(*obstacles):
    deadline = DeadlineReport("SIGTERM", "", 30.0, (), (Sighting("drain", obstacles, {}),))
    return DrainReport(reason="SIGTERM", durations={}, problems=("it was bad",), deadline=deadline)


def test_the_log_has_text_or_one_line_of_json(caplog, tmp_path):
    """Both have the values in `extra`; a clean leave says nothing."""
    report = unclean(Obstacle("job", "job 42", 3.0))
    for layout in ("text", "json", "auto"):
        Teller(load_settings({"deadline_report_format": layout, "termination_log": "off"})).tell(report)
    text, as_json, auto = (record.getMessage() for record in caplog.records)
    assert "\n  drain: job job 42, for 3.0s" in text
    assert json.loads(as_json) == json.loads(auto) == caplog.records[0].deadline_report
    assert caplog.records[0].levelno == logging.WARNING
    Teller(load_settings({"termination_log": str(tmp_path / "log")})).tell(DrainReport(reason="SIGTERM", durations={}))
    assert len(caplog.records) == 3
    assert not (tmp_path / "log").exists()


def test_the_termination_log_is_short_and_never_in_the_way(tmp_path):
    """Two workers fit into what the kubelet takes; a pipe that nobody reads, and a missing directory, are nothing."""
    frames = (Frame("orders.py", 41, "load", own=True),)
    report = unclean(*(Obstacle("request", "\N{SNOWMAN}" * 120, 3.0, "10.0.3.7:5", frames) for _ in range(50)))
    path = tmp_path / "log"
    for _ in range(2):
        Teller(load_settings({"termination_log": str(path)})).tell(report)
    assert len(path.read_bytes()) <= 4096
    assert path.read_text().count("it was bad") == 2
    assert "at orders.py:41 in load" in path.read_text()
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing/log"):
        Teller(load_settings({"termination_log": str(tmp_path / name)})).tell(report)


def marked_line(function):
    """The number of the line in the scenario's function that is marked."""
    lines = SCENARIO.read_text().splitlines()
    begins = next(number for number, line in enumerate(lines) if f"def {function}" in line)
    return next(number for number, line in enumerate(lines, 1) if number > begins and "# HERE" in line)


@pytest.mark.parametrize(
    ("who", "kind", "during", "function"),
    [
        ("task", "request", "drain", "waiting_culprit"),
        ("sync", "request", "drain", "sleeping_culprit"),
        ("blocked", "request", "drain", "sleeping_culprit"),
        ("thread", "request", "drain", "sleeping_culprit"),
        ("cleanup", "callback", "on_cleanup", "waiting_culprit"),
        ("cleanup_blocks", "callback", "on_cleanup", "sleeping_culprit"),
        ("cleanup_thread", "callback", "on_cleanup", "sleeping_culprit"),
        ("trio", "job", "drain", "waiting_culprit"),
    ],
)
def test_it_is_named_with_function_and_line(who, kind, during, function, tmp_path):
    """Run for real: a task, a thread, a blocked event loop, a callback; in the log and in the termination log."""
    port, message = free_port(), tmp_path / "termination-log"
    env = {
        "GRACEFUL_SCOPE": f"test-{os.getpid()}-{port}",
        "GRACEFUL_PROPAGATION_DELAY": "0",
        "GRACEFUL_DRAIN_TIMEOUT": "1",
        "GRACEFUL_CLEANUP_TIMEOUT": "1",
        "GRACEFUL_GRACE_PERIOD": "5",
        "GRACEFUL_TERMINATION_LOG": str(message),
        **({} if who in {"thread", "trio"} else {"GRACEFUL_PORT": str(port)}),
    }
    with child("-m", "tests.scenarios.deadline", who, str(port), env=env) as service, ExitStack() as held:
        service.wait_for("ready: serving")
        if kind == "request":
            peer = socket.create_connection(("127.0.0.1", port), 40)
            held.callback(peer.close)
            peer.sendall(b"GET /hang?token=secret HTTP/1.1\r\nHost: orders\r\nAuthorization: Bearer secret\r\n\r\n")
        if kind != "callback":
            service.wait_for("hangs")
        service.signal(TERM)
        told = json.loads(service.wait_for(EVENT)[2])
        seen = [each for each in told["in_the_way"] if each["kind"] == kind]
        assert [each["during"] for each in seen] == [during]
        where = f"deadline.py:{marked_line(function)} in {function}"
        assert seen[0]["at"].endswith(where)
        assert any(frame.endswith(where) for frame in told["stacks"][seen[0]["stack"]])
        assert where in message.read_text()
        assert "secret" not in json.dumps(told) + message.read_text()
        if who == "blocked":
            assert {"kind": "event loop", "running": True}.items() <= told["in_the_way"][0].items()
            assert service.exit_code() == 1
            last = json.loads(service.wait_for(EVENT, times=2)[2])
            assert last["ended_by"] == "the deadline was there"
            assert all(each["at"].endswith(where) for each in last["in_the_way"])
            assert len(message.read_bytes()) <= 4096
