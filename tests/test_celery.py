"""celery's own handlers are left alone: its worker stops fetching at once, and graceful leaves with it."""

import os
import signal
import sys

import pytest

from graceful._owners import runs_in
from graceful.servers.celery import CeleryWorker
from tests.children import child

SCRIPT = "tests/scenarios/celery_worker.py"
HOOK = ("-P", "-m", "graceful.prestop")


@pytest.mark.parametrize(("pool", "trigger"), [("prefork", "SIGTERM"), ("threads", "hook"), ("solo", "a call")])
def test_a_celery_worker_leaves_in_its_own_order(pool, trigger):
    """Whoever begins the leave, celery finishes before the clean-up, and the exit code is 0."""
    scope = {"GRACEFUL_SCOPE": f"celery-{os.getpid()}-{pool}"}
    with child(SCRIPT, pool, env=scope) as worker:
        worker.wait_for("job begins")
        worker.wait_for("celery has signal handlers of its own: they are left alone")
        if trigger == "hook":
            with child(*HOOK, env=scope) as hook:
                hook.wait_for("nobody calls any more")
        if trigger == "a call":
            worker.tell("drain")
        else:
            worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.text
    assert worker.in_order("Warm shutdown", "job ends", "celery has finished", "connection closed", "left cleanly")
    assert worker.text.count("Warm shutdown") == 1
    assert "by hand" not in worker.text


def test_only_celerys_handlers_are_celerys():
    """Not one of the same name elsewhere, and nobody's."""
    assert not CeleryWorker().owns(signal.SIG_DFL)
    assert not CeleryWorker().owns(test_only_celerys_handlers_are_celerys)
    assert not CeleryWorker().is_stopping()


def test_a_running_handler_is_seen_in_the_stack():
    """However deep it is; another function of its name is not it."""

    def handler():
        return deeper()

    def deeper():
        return runs_in(handler, sys._getframe())

    assert handler()
    assert not deeper()
    assert not runs_in(signal.SIG_DFL, sys._getframe())
