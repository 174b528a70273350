"""A whole service in Eureka, the embedded one and the real one: announced when ready, withdrawn first, deleted last."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager

import anyio
import pytest

from graceful.eureka.instance import Instance
from graceful.eureka.rest import Server
from graceful.eureka.status import now_ms
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.children import ROOT, child, free_port, get, until


class Registered:
    """A service of its own name in an Eureka, and how Eureka sees it."""

    def __init__(self, eureka, service, port, app, env):
        self.eureka, self.service, self.port, self.app, self.env = eureka, service, port, app, env

    @property
    def status(self):
        """The status of the only instance, straight from the registry; None when it is absent."""
        url = f"{self.eureka.address}/instances/{self.app}:127.0.0.1:{self.port}"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return text.split('"status":"')[1].split('"')[0]

    def hook(self, *arguments):
        return subprocess.run(
            [sys.executable, "-P", "-m", "graceful.prestop", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self.env,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )


@contextmanager
def registered(eureka, *, urls="{url}", **env):
    """Start the service of service_web.py in an Eureka."""
    port, app = free_port(), f"orders-{uuid.uuid4().hex[:8]}"
    settings = {
        "GRACEFUL_EUREKA_URL": urls.format(url=eureka.url),
        "GRACEFUL_APP_NAME": app,
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_IP_ADDR": "127.0.0.1",
        "GRACEFUL_PROPAGATION_DELAY": "1.5",
        "GRACEFUL_GRACE_PERIOD": "60",
        "GRACEFUL_SCOPE": f"eureka-{os.getpid()}-{port}",
    } | {name: value.format(app=app, port=port) for name, value in env.items()}
    arguments = ["-m", "uvicorn", "tests.scenarios.service_web:app", f"--port={port}"]
    with child(*arguments, env=settings) as service:
        yield Registered(eureka, service, port, app, settings)


def test_the_life_of_an_instance(eureka_server):
    """1. Absent until ready. 2. UP. 3. Hook: OUT_OF_SERVICE, verified, still served. 4. SIGTERM: deleted, exit 0."""
    with registered(eureka_server) as r:
        r.service.wait_for("Uvicorn running")
        until(lambda: r.status == "UP", "UP")
        hook = r.hook("--strict")
        assert hook.returncode == 0, hook.stdout + hook.stderr
        assert "OUT_OF_SERVICE verified on 1 of 1 servers" in hook.stdout
        assert r.status == "OUT_OF_SERVICE"
        assert get(r.port)[:2] == (200, "close")
        r.service.signal(signal.SIGTERM)
        assert r.service.exit_code() == 0, r.service.text
        assert r.status is None
        assert r.service.in_order(
            "OUT_OF_SERVICE verified", "phase draining", "cleanup ends", "left cleanly", "teardown"
        )


def test_zones_register_near_and_leave_everywhere(embedded_eureka):
    """1. UP on the server of its own zone alone. 2. Hook: OUT_OF_SERVICE on both. 3. SIGTERM: deleted on both."""
    with EmbeddedEureka() as far:
        urls = {"GRACEFUL_EUREKA_URL": "", "EUREKA_CLIENT_SERVICEURL_EAST": far.url}
        zones = urls | {
            "EUREKA_CLIENT_SERVICEURL_WEST": embedded_eureka.url,
            "EUREKA_INSTANCE_METADATAMAP_ZONE": "west",
        }
        with registered(embedded_eureka, **zones) as r:
            until(lambda: r.status == "UP", "UP")
            hook = r.hook("--strict")
            assert "OUT_OF_SERVICE verified on 2 of 2 servers" in hook.stdout, hook.stdout + hook.stderr
            assert r.status == "OUT_OF_SERVICE"
            r.service.signal(signal.SIGTERM)
            assert r.service.exit_code() == 0, r.service.text
        assert [len(each.requests("POST")) for each in (embedded_eureka, far)] == [1, 0]
        assert {each.method for each in far.requests()} == {"GET", "PUT", "DELETE"}


def test_a_restart_in_place_comes_up_up(eureka_server):
    """A liveness kill: the former life was OUT_OF_SERVICE and never deleted; the same instance id comes up UP."""
    with registered(eureka_server) as r:
        until(lambda: r.status == "UP", "UP")
        r.service.signal(signal.SIGTERM)
        until(lambda: r.status == "OUT_OF_SERVICE", "withdrawn")
        r.service.signal(signal.SIGKILL)
        r.service.exit_code()
        arguments = ["-m", "uvicorn", "tests.scenarios.service_web:app", f"--port={r.port}"]
        with child(*arguments, env=r.env) as again:
            again.wait_for("ready: serving")
            until(lambda: r.status == "UP", "UP again")
            again.signal(signal.SIGTERM)
            assert again.exit_code() == 0


def test_status_only_leaves_the_override_and_clears_it_when_ready_again(eureka_server):
    """1. A sidecar registers. 2. OUT_OF_SERVICE, exit 0, not deleted, whatever the sidecar beats. 3. UP next time."""
    with registered(
        eureka_server, GRACEFUL_EUREKA_STATUS_ONLY="true", GRACEFUL_INSTANCE_ID="{app}:127.0.0.1:{port}"
    ) as r:
        sidecar, dirty = Server(r.eureka.url), now_ms()
        instance = Instance(app=r.app, ip="127.0.0.1", port=r.port)
        anyio.run(sidecar.register, instance, dirty)
        r.service.wait_for("ready: serving")
        r.service.signal(signal.SIGTERM)
        until(lambda: r.status == "OUT_OF_SERVICE", "withdrawn")
        assert get(r.port)[0] == 200
        assert r.service.exit_code() == 0, r.service.text
        assert "left cleanly after SIGTERM" in r.service.text
        anyio.run(sidecar.heartbeat, instance.app, instance.instance_id, dirty)
        assert r.status == "OUT_OF_SERVICE"
        arguments = ["-m", "uvicorn", "tests.scenarios.service_web:app", f"--port={r.port}"]
        with child(*arguments, env=r.env) as again:
            again.wait_for("by a former life: cleared")
            until(lambda: r.status == "UP", "UP again")
            again.signal(signal.SIGTERM)
            assert again.exit_code() == 0


def test_a_start_that_fails_is_never_announced(embedded_eureka):
    """Somebody else listens on the port: uvicorn ends itself, and Eureka never hears of it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = {
            "GRACEFUL_EUREKA_URL": embedded_eureka.url,
            "GRACEFUL_APP_NAME": "orders",
            "GRACEFUL_PORT": str(port),
            "GRACEFUL_SCOPE": f"taken-{port}",
        }
        with child("-m", "uvicorn", "tests.scenarios.service_web:app", f"--port={port}", env=env) as service:
            assert service.exit_code() != 0
    assert {request.method for request in embedded_eureka.requests()} <= {"GET"}


def test_nothing_makes_it_up_again_and_it_is_deleted_once(embedded_eureka):
    """Heartbeats every 0.2 s until SIGTERM, none after; Eureka forgets it in the lame duck: it stays absent."""
    with registered(embedded_eureka, GRACEFUL_HEARTBEAT_INTERVAL="0.2") as r:
        until(lambda: r.status == "UP", "UP")
        embedded_eureka.wait_for_requests("PUT", count=4)
        r.service.signal(signal.SIGTERM)
        until(lambda: r.status == "OUT_OF_SERVICE", "withdrawn")
        embedded_eureka.forget_requests()
        embedded_eureka.stop()
        embedded_eureka.start()
        assert r.service.exit_code() == 0, r.service.text
        assert r.status is None
        requests = [(request.method, request.path) for request in embedded_eureka.requests()]
        assert not [each for each in requests if each[0] == "POST"]
        assert not [each for each in requests if each[0] == "PUT" and "status" not in each[1]]
        assert len([each for each in requests if each[0] == "DELETE"]) <= 1


def test_an_eureka_that_is_down_costs_no_request_and_is_said(embedded_eureka):
    """It dies before the leave: the whole window is served all the same, and the report says so at WARNING."""
    with registered(embedded_eureka, GRACEFUL_ANNOUNCE_TIMEOUT="1") as r:
        until(lambda: r.status == "UP", "UP")
        embedded_eureka.stop()
        r.service.signal(signal.SIGTERM)
        r.service.wait_for("OUT_OF_SERVICE was not verified in time|OUT_OF_SERVICE verified on 0 of 1")
        assert get(r.port)[0] == 200
        assert r.service.exit_code() == 0, r.service.text
        assert "left UNCLEANLY after SIGTERM" in r.service.text


def test_credentials_appear_nowhere(eureka_server_basic):
    """Two servers, one of them down, debug logging: neither the log nor the hook has the password."""
    secret, password = eureka_server_basic.password, "p%40ss%2Fw%3Ard"
    down = f"http://admin:{password}@127.0.0.1:{free_port()}/eureka"
    with registered(eureka_server_basic, urls="{url}," + down, GRACEFUL_ANNOUNCE_TIMEOUT="1") as r:
        r.service.wait_for("ready: serving")
        r.service.wait_for("UP")
        hook = r.hook()
        r.service.signal(signal.SIGTERM)
        r.service.exit_code()
        text = r.service.text + hook.stdout + hook.stderr
        assert "***@" in text
        assert secret not in text
        assert password not in text


@pytest.mark.parametrize("gone", [True, False])
def test_the_hook_alone_withdraws_an_instance_whose_app_does_not_answer(eureka_server, gone):
    """The app hangs (stopped) or is gone: the hook takes the instance out of service itself and waits."""
    with registered(eureka_server, GRACEFUL_PROPAGATION_DELAY="0.5") as r:
        until(lambda: r.status == "UP", "UP")
        r.service.signal(signal.SIGKILL if gone else signal.SIGSTOP)
        if gone:
            r.service.exit_code()
        hook = r.hook("--timeout", "20")
        assert hook.returncode == 0, hook.stdout + hook.stderr
        assert r.status == "OUT_OF_SERVICE"
        assert "OUT_OF_SERVICE" in hook.stdout
