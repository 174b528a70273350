"""Several workers in one pod, under uvicorn and gunicorn: one instance, withdrawn once, deregistered once."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from graceful import rendezvous, wire
from tests.children import PATIENCE, ROOT, child, free_port, get, until
from tests.test_service_eureka import Registered

TERM, KILL, HUP = signal.SIGTERM, signal.SIGKILL, signal.SIGHUP
APP = "tests.scenarios.service_workers:app"
SERVERS = {
    "uvicorn": ["uvicorn", APP, "--port={port}", "--workers={workers}"],
    "gunicorn": [
        *("gunicorn", APP, "--bind=127.0.0.1:{port}", "--workers={workers}", "--no-control-socket"),
        # What the arbiter gives its workers after SIGTERM: the plan has to fit into it.
        *("--worker-class=uvicorn_worker.UvicornWorker", "--graceful-timeout=60"),
    ],
}
SERVERS["preload"] = [*SERVERS["gunicorn"], "--preload"]


class Workers(Registered):
    """A pod of workers in an Eureka."""

    def pids(self, pattern):
        """The processes that wrote a line, each once, in the order of their last such line."""
        found = [line.split()[0] for line in self.service.lines if re.search(pattern, line)]
        return [int(pid) for pid in dict.fromkeys(reversed(found))][::-1]

    @property
    def owner(self):
        return self.pids(" is UP on ")[-1]

    @property
    def follower(self):
        return next(pid for pid in self.pids("ready: serving") if pid != self.owner)

    def wait_for_workers(self, count):
        until(lambda: len(self.pids("ready: serving")) >= count, f"{count} workers serve")
        until(lambda: self.status == "UP", "UP")
        self.service.wait_for(" is UP on ")
        until(lambda: all("is announced yes" in each for each in self.told()), "every worker knows")

    def told(self):
        """What each process of the pod says of itself."""
        for address in rendezvous.discover(self.env):
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(PATIENCE)
                asking.connect(address)
                asking.sendall(wire.encode_first("status"))
                yield asking.recv(wire.LINE_LIMIT).decode()

    def changes(self):
        """What the embedded Eureka was asked to change, heartbeats left out."""
        operations = []
        for request in self.eureka.requests():
            if request.method == "PUT" and "/status" in request.path:
                operations.append("status")
            elif request.method in {"POST", "DELETE"}:
                operations.append(request.method)
        return operations


@contextmanager
def pod(eureka, server, *arguments, workers=2, **env):
    port, app = free_port(), f"orders-{uuid.uuid4().hex[:8]}"
    settings = {
        "GRACEFUL_EUREKA_URL": eureka.url,
        "GRACEFUL_APP_NAME": app,
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_IP_ADDR": "127.0.0.1",
        "GRACEFUL_PROPAGATION_DELAY": "2",
        "GRACEFUL_GRACE_PERIOD": "60",
        "GRACEFUL_HEARTBEAT_INTERVAL": "0.5",
        "GRACEFUL_SCOPE": f"workers-{os.getpid()}-{port}",
    } | env
    command = [part.format(port=port, workers=workers) for part in SERVERS[server]]
    with child("-m", *command, *arguments, env=settings) as service:
        running = Workers(eureka, service, port, app, settings)
        try:
            running.wait_for_workers(workers)
            yield running
        finally:
            end(service)


def end(service):
    """End what is left of the parent and its workers, where a test failed: they have the pipe that the test reads."""
    if service.process.poll() is None:
        workers = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        for pid in (service.process.pid, *map(int, workers)):
            with suppress(ProcessLookupError):
                os.kill(pid, KILL)
    service.exit_code()


class Load:
    """Callers with a connection of their own for each request."""

    def __init__(self, port, callers=2):
        self.port, self.answers, self.lost = port, [], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self):
        while not self._stop.wait(0.01):
            try:
                status, _, body = get(self.port)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
            else:
                (self.answers if status == 200 else self.lost).append(body)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


@contextmanager
def slow_request(pod, seconds):
    """A request under way, and the worker that serves it."""
    caller = subprocess.Popen(
        [sys.executable, "-m", "tests.scenarios.fetch", str(pod.port), f"/slow?seconds={seconds}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield caller, int(pod.service.wait_for(r"^(\d+) slow began").group(1))
    finally:
        caller.kill()
        caller.communicate()


def leave(pod, *, by_hook):
    """The whole pod leaves, with callers until shortly before the end of the propagation wait."""
    with Load(pod.port) as load:
        if by_hook:
            hook = threading.Thread(target=lambda: pod.hooked.append(pod.hook("--strict")))
            pod.hooked = []
            hook.start()
        else:
            pod.service.signal(TERM)
        until(lambda: pod.status == "OUT_OF_SERVICE", "out of service")
        time.sleep(1)  # callers go on; the wait is two seconds from here
    if by_hook:
        hook.join(PATIENCE)
        assert pod.hooked[0].returncode == 0, pod.hooked[0].stdout + pod.hooked[0].stderr
        pod.service.signal(TERM)
    assert pod.service.exit_code() == 0, pod.service.text
    assert load.lost == []
    assert load.answers
    assert pod.status is None
    assert "UNCLEANLY" not in pod.service.text
    assert "Traceback" not in pod.service.text


@pytest.mark.parametrize(
    ("server", "by_hook"), [("uvicorn", False), ("uvicorn", True), ("gunicorn", True), ("preload", False)]
)
def test_the_pod_leaves_once(embedded_eureka, server, by_hook):
    """Under load, by the hook or by the parent's SIGTERM: one registration, one withdrawal, one deletion; exit 0."""
    with pod(embedded_eureka, server, workers=3) as running:
        leave(running, by_hook=by_hook)
        assert running.changes() == ["POST", "status", "DELETE"]
        assert len(running.pids("teardown")) == 3
        assert len(running.pids("left cleanly after")) == 3


@pytest.mark.parametrize("server", ["uvicorn", "preload"])
def test_the_pod_leaves_the_real_eureka(real_eureka, server):
    """The same against a Spring Cloud Eureka Server: out of service for callers, then absent."""
    with pod(real_eureka, server) as running:
        leave(running, by_hook=server == "preload")


def test_the_parent_of_preloaded_workers_is_left_alone(embedded_eureka):
    """`install()` ran in gunicorn's arbiter: it says nothing, registers nothing, and its SIGTERM is its own."""
    with pod(embedded_eureka, "preload") as running:
        arbiter = running.service.process.pid
        listening = re.findall(r"@graceful/\S+/(\d+)", Path("/proc/net/unix").read_text())
        assert str(arbiter) not in listening
        assert str(running.owner) in listening
        assert [thread.name for thread in Path(f"/proc/{arbiter}/task").iterdir()] == [str(arbiter)]
        running.service.signal(TERM)
        assert running.service.exit_code() == 0, running.service.text
        assert arbiter not in running.pids(r"graceful\.")


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
@pytest.mark.parametrize("which", ["owner", "follower"])
def test_a_worker_that_is_recycled_takes_nothing_with_it(embedded_eureka, server, which):
    """SIGTERM to one worker under load: its request is finished, nobody is refused, and the instance stays UP."""
    with pod(embedded_eureka, server) as running:
        worker = running.owner if which == "owner" else running.follower
        embedded_eureka.forget_requests()
        with Load(running.port) as load:
            os.kill(worker, TERM)
            running.service.wait_for(rf"^{worker} .*left cleanly after SIGTERM, alone")
            running.service.wait_for(rf"^{worker} teardown")
            until(lambda: len(running.pids("ready: serving")) == 3, "it was replaced")
        assert load.lost == []
        assert set(running.changes()) <= {"POST"}
        assert running.status == "UP"
        assert running.owner != worker


def test_what_a_recycled_worker_had_in_flight_is_finished(embedded_eureka):
    """1. A request of four seconds. 2. SIGTERM to its worker. 3. It is answered; callbacks run after it."""
    with pod(embedded_eureka, "uvicorn") as running, slow_request(running, 4) as (caller, worker):
        os.kill(worker, TERM)
        output, _ = caller.communicate(timeout=PATIENCE)
        assert output.startswith("200 "), running.service.text
        assert str(worker) in output
        running.service.wait_for(rf"^{worker} teardown")
        order = [rf"^{worker} .*alone: other processes", "Shutting down", f"^{worker} drain", f"^{worker} cleanup"]
        assert running.service.in_order(*order, rf"^{worker} .*left cleanly", f"^{worker} teardown")


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_an_owner_that_is_killed_is_followed(embedded_eureka, server):
    """SIGKILL: another worker registers at once and sends the heartbeats; nothing is deleted or withdrawn."""
    with pod(embedded_eureka, server) as running:
        killed = running.owner
        embedded_eureka.forget_requests()
        os.kill(killed, KILL)
        embedded_eureka.wait_for_requests("POST", count=1)
        assert running.status == "UP"
        running.service.wait_for(" is UP on ", times=2)
        assert running.owner != killed
        assert running.changes() == ["POST"]


def test_a_reload_keeps_the_pod_up(embedded_eureka):
    """SIGHUP: gunicorn ends the old workers while the new ones import the application; the old ones serve till then."""
    with pod(embedded_eureka, "gunicorn", IMPORT_SECONDS="1.5") as running:
        embedded_eureka.forget_requests()
        with Load(running.port) as load:
            running.service.signal(HUP)
            running.service.wait_for("left cleanly after SIGTERM, alone", times=2)
            until(lambda: len(running.pids("ready: serving")) == 4, "two new workers")
        assert load.lost == []
        assert set(running.changes()) == {"POST"}
        assert running.status == "UP"


def test_a_worker_that_has_served_its_number_of_requests_leaves_alone(embedded_eureka):
    """`--max-requests`: uvicorn's server stops by itself in one worker; no wait, no withdrawal, no deletion."""
    with pod(embedded_eureka, "gunicorn", "--max-requests=5") as running:
        embedded_eureka.forget_requests()
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        for _ in range(5):  # over one connection: by one worker
            connection.request("GET", "/")
            assert connection.getresponse().read()
        connection.close()
        running.service.wait_for("left cleanly after the server's own stop, alone")
        until(lambda: len(running.pids("ready: serving")) == 3, "it was replaced")
        assert set(running.changes()) <= {"POST"}
        assert running.status == "UP"
