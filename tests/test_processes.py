"""The processes of a server and of an application: which of them serve, and which are to be left alone."""

import multiprocessing
import os
import sys
import types

import pytest

from graceful.core.budget import Plan
from graceful.servers.gunicorn import Arbiter
from graceful.servers.hypercorn import StopEvent
from graceful.servers.processes import is_child_of_application, is_parent_of_workers
from tests.children import child

PLAN = Plan(announce=5, propagation=95, drain=20, cleanup=5, deregister=3, margin=2)


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "pool-fork", "pool-spawn", "subprocess"])
def test_a_child_of_the_application_is_left_alone(kind):
    """Story of service_children.py: it has no handler and no thread of ours, ends when terminated, starts no leave."""
    scope = {"GRACEFUL_SCOPE": f"children-{os.getpid()}-{kind}"}
    with child("-m", "tests.scenarios.service_children", kind, env=scope) as program:
        found = program.wait_for("^child: (.*)").group(1)
        assert found == "handler SIG_DFL, threads [], phase starting"
        program.tell("go on")
        assert program.exit_code() == 0, program.text
    assert program.in_order("ended: -15", "parent: serving"), program.text
    assert "leaving" not in program.text


class Worker:
    """A process as `multiprocessing` keeps it."""

    def __init__(self, module, **kwargs):
        self._target = types.FunctionType((lambda: None).__code__, {})
        self._target.__module__ = module
        self._kwargs = kwargs


@pytest.fixture
def started_as(monkeypatch):
    def become(module, **kwargs):
        monkeypatch.setattr(multiprocessing, "current_process", lambda: Worker(module, **kwargs))
        monkeypatch.setattr(multiprocessing, "parent_process", object)

    return become


@pytest.mark.parametrize("module", ["uvicorn._subprocess", "hypercorn.asyncio.run", "granian.server.mp"])
def test_a_worker_of_a_server_is_no_child_of_the_application(started_as, module):
    started_as(module)
    assert not is_child_of_application()


@pytest.mark.parametrize("module", ["main", "uvicorn_tasks", "concurrent.futures.process"])
def test_any_other_process_of_multiprocessing_is_one(started_as, module):
    started_as(module)
    assert is_child_of_application()


def test_a_program_is_no_child():
    assert not is_child_of_application()


class Event:
    """As much of a `multiprocessing.Event` as hypercorn looks at."""

    value = False

    def is_set(self):
        return self.value


def test_hypercorn_sees_its_parents_event_only_when_it_is_released(started_as):
    """Whenever it looks meanwhile, it is we who are told."""
    event, config, told = Event(), types.SimpleNamespace(graceful_timeout=3.0), []
    started_as("hypercorn.asyncio.run", shutdown_event=event, config=config)
    held = StopEvent.find()
    assert held is not None
    held.hold(lambda: told.append(True))
    assert not event.is_set()
    assert not told
    event.value = True
    assert not event.is_set()
    assert told
    held.release(12.5)
    assert event.is_set()
    assert config.graceful_timeout == 12.5


def test_a_worker_that_is_told_by_nobody_else_can_be_released(started_as):
    """`drain()` in one worker: its parent wants nothing."""
    event = Event()
    started_as("hypercorn.trio.run", shutdown_event=event, config=types.SimpleNamespace(graceful_timeout=3.0))
    held = StopEvent.find()
    assert held is not None
    held.hold(lambda: None)
    held.release(1)
    assert event.is_set()
    held.give_back()
    assert not event.is_set()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("main", {"shutdown_event": Event(), "config": types.SimpleNamespace(graceful_timeout=3.0)}),
        ("hypercorn.asyncio.run", {"shutdown_event": None, "config": types.SimpleNamespace(graceful_timeout=3.0)}),
        ("hypercorn.asyncio.run", {"shutdown_event": Event()}),
    ],
)
def test_what_does_not_look_like_a_worker_of_hypercorns_is_not_touched(started_as, module, arguments):
    started_as(module, **arguments)
    assert StopEvent.find() is None


CFG = types.SimpleNamespace(graceful_timeout=30)
WORKER = types.SimpleNamespace(max_requests=1000)


def in_gunicorn(function, *names):
    """What a function gives that is called by functions of these names in gunicorn's module."""
    for name in reversed(names):
        scope = {"__name__": "gunicorn.arbiter", "inner": function, "WORKER": WORKER}
        exec(f"def {name}(self):\n    worker = WORKER\n    return inner()\n", scope)

        def function(outer=scope[name]):
            return outer(types.SimpleNamespace(cfg=CFG))

        if name == names[0]:
            return function()
    return None


@pytest.mark.parametrize(("names", "worker"), [(("setup",), None), (("run", "spawn_worker"), WORKER)])
def test_gunicorns_arbiter_is_found_above(names, worker):
    found = in_gunicorn(Arbiter.find, *names)
    assert found == Arbiter(30.0, worker)
    assert found.in_worker is (worker is not None)


def test_without_gunicorn_there_is_no_arbiter():
    assert Arbiter.find() is None
    assert Arbiter.that_forks() is None
    assert "gunicorn" not in sys.modules


def test_only_the_fork_by_the_arbiter_itself_makes_a_worker():
    """A worker's own child is forked with the arbiter's frames on the stack as well."""
    assert in_gunicorn(Arbiter.that_forks, "run", "spawn_worker").worker is WORKER
    assert in_gunicorn(lambda: Arbiter.that_forks(), "run", "spawn_worker") is None  # noqa: PLW0108  the frame between


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (130, None),
        (30, "a leave that begins with SIGTERM, without a hook, takes 130s"),
        (20, "what comes after the hook takes 30s"),
    ],
)
def test_what_gunicorn_gives_its_workers_is_compared_with_the_plan(given, says):
    warnings = Arbiter(given).warnings(PLAN)
    assert bool(warnings) == bool(says)
    for warning in warnings:
        assert says in warning
        assert warning.endswith("start it with --graceful-timeout 130")


@pytest.mark.parametrize("module", ["uvicorn.supervisors.multiprocess", "hypercorn.run"])
def test_a_supervisor_that_is_only_imported_runs_no_workers(module):
    """The same code object names: in the body of its module, and of a class in it, nothing runs yet."""
    names = {"__name__": module, "check": is_parent_of_workers}
    exec("importing = check()\nclass Supervisor:\n    importing = check()\n    run = lambda: check()", names)
    assert not names["importing"]
    assert not names["Supervisor"].importing
    assert names["Supervisor"].run()
