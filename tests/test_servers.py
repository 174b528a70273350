"""Every server leaves in the same order, for real, under traffic: the matrix."""

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from tests.children import child, free_port
from tests.servers.configurations import CONFIGURATIONS, GRPC, WSGI
from tests.servers.rows import play
from tests.servers.table import expected_cells, lines_of_page

BY_NAME = {each.name: each for each in CONFIGURATIONS}


# Slow all together: each row is a process, or several, that starts, serves, leaves and exits.
@pytest.mark.slow
@pytest.mark.parametrize("trigger", ["signal", "hook"])
@pytest.mark.parametrize("name", [each for each in BY_NAME if each not in GRPC])
def test_a_server_leaves_without_losing_a_request(name, trigger):
    """Nothing is refused or left unanswered in the lame duck, all that was begun ends well, and the exit code is 0."""
    configuration = BY_NAME[name]
    row = play(configuration, trigger)
    assert not row.faults(configuration.ends), row.text
    assert "after install()" not in row.text  # a server takes its signals at its start: nothing to warn of


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvicorn --workers 2", "gunicorn, uvicorn worker", "gunicorn -k gthread, 2 workers"])
def test_a_worker_that_dies_in_the_lame_duck_leaves_nobody_unanswered(name):
    """The others accept on the same socket; only what was in the dead one's hands is cut, and there at once."""

    def kill_one(service):
        path = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
        os.kill(worker_among(path.read_text().split()), signal.SIGKILL)

    row = play(BY_NAME[name], "signal", meanwhile=kill_one)
    assert not row.late.keys() - {"200", "reset"}, row.text
    assert row.late["reset"] <= 3, row.text
    assert row.cleaned_up, row.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("uvicorn", "--limit-max-requests=20"),
        ("gunicorn --preload, uvicorn worker", "--max-requests=20"),
        ("gunicorn -k asgi --preload", "--max-requests=20"),
        ("gunicorn -k gthread", "--max-requests=20"),
        ("gunicorn -k gthread --preload", "--max-requests=20"),
    ],
)
def test_a_worker_is_not_recycled_in_the_lame_duck(name, limit):
    """It serves more requests than its limit there, since nobody would take its place."""
    configuration = BY_NAME[name]
    row = play(dataclasses.replace(configuration, arguments=(*configuration.arguments, limit)), "signal")
    assert not row.faults(configuration.ends), row.text


def worker_among(pids):
    """The last process that is a worker, and not what `multiprocessing` has beside them."""
    return max(int(pid) for pid in pids if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn_is_told_what_its_workers_need(preload):
    port = free_port()
    env = {"GRACEFUL_PORT": str(port), "GRACEFUL_SCOPE": f"gunicorn-{port}", "GRACEFUL_PROPAGATION_DELAY": "9"}
    arguments = (f"--bind=127.0.0.1:{port}", "--no-control-socket", "--worker-class=gthread", WSGI)
    with child("-m", "gunicorn", *preload, *arguments, env=env) as service:
        service.wait_for("kills its workers 30s after SIGTERM, .* takes 36s .*: start it with --graceful-timeout 36$")
        service.signal(signal.SIGINT)
        service.exit_code()


def test_the_page_has_the_matrix():
    """What the table says of graceful is what the rows assert. `python -m tests.servers` writes it."""
    told = {name: cells[-5:] for name, *cells in lines_of_page()}
    assert told == {each.name: expected_cells(each) for each in CONFIGURATIONS}
