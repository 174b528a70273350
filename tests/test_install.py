"""`install()`: what it refuses, what it leaves alone, and that everything can be put back."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.testclient import TestClient

import graceful
from graceful.http.asgi import GracefulMiddleware
from tests.children import ROOT, child, until

EUREKA: dict[str, Any] = {"eureka_url": "http://127.0.0.1:9/eureka", "app_name": "orders", "port": 9}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Neither an environment nor an installation of another test."""
    for name in [name for name in os.environ if name.startswith(("GRACEFUL_", "EUREKA_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    installed = []
    original = graceful.install

    def install(*arguments, **settings):
        installed.append(original(*arguments, **settings))
        return installed[-1]

    monkeypatch.setattr(graceful, "install", install)
    yield
    for coordinator in installed:
        coordinator.uninstall()


def traces():
    """What a process has that a test must not leave behind: threads, handlers, sockets."""
    return (
        {thread.name for thread in threading.enumerate() if thread.name.startswith("graceful")},
        signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT),
        [line for line in Path("/proc/net/unix").read_text().splitlines() if f"@graceful/{os.getpid()}" in line],
    )


def test_a_test_that_imports_an_application_touches_nothing():
    """No thread, no handler, no socket; the application works."""
    before = traces()
    app = FastAPI()
    coordinator = graceful.install(app, **EUREKA)
    app.get("/")(lambda: "hello")
    assert TestClient(app).get("/").json() == "hello"
    assert traces() == before
    assert coordinator.phase is graceful.Phase.STARTING


def test_a_test_client_with_a_lifespan_runs_the_callbacks_and_leaves_nothing(embedded_eureka):
    """1. Two lives of one application. 2. Each has its cleanup. 3. Nothing is announced, nothing outlives it."""
    before = traces()
    app, ran = FastAPI(), []
    coordinator = graceful.install(app, app_name="orders", port=9, eureka_url=embedded_eureka.url)
    coordinator.on_cleanup(lambda: ran.append("cleanup"))
    for life in (1, 2):
        with TestClient(app) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/readyz").status_code == 503
        assert ran == ["cleanup"] * life
        assert coordinator.phase is graceful.Phase.STOPPED
    assert traces() == before
    assert {each.method for each in embedded_eureka.requests()} <= {"GET"}


def test_without_a_port_the_start_up_is_readiness():
    """A service whose port nobody told us is ready when its start-up has completed."""
    app = FastAPI()
    coordinator = graceful.install(app)
    with TestClient(app) as client:
        until(lambda: coordinator.phase is graceful.Phase.SERVING, "serving")
        assert client.get("/readyz").text == "ok\n"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_readiness_checks_decide(kind):
    """A failing check keeps the service from being ready, and takes readiness away later without ending the phase."""
    app, answer = FastAPI(), [False]
    coordinator = graceful.install(app)

    if kind == "sync":

        @coordinator.readiness_check
        def check():
            return answer[0]
    else:

        @coordinator.readiness_check(timeout=0.5)
        async def check():
            if not answer[0]:
                raise ConnectionError("no database")

    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 503
        assert coordinator.phase.value == "starting"
        answer[0] = True
        until(lambda: coordinator.phase is graceful.Phase.SERVING, "serving")
        assert client.get("/readyz").status_code == 200
        answer[0] = False
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "check" in response.text
        assert coordinator.phase.value == "serving"


def test_install_is_idempotent():
    """Again without arguments or with the same ones; the application is wrapped once."""
    app = FastAPI()
    first = graceful.install(app, port=8080)
    assert graceful.install() is first
    assert graceful.install(app, port=8080) is first
    stack = app.build_middleware_stack()
    assert isinstance(stack, GracefulMiddleware)
    assert type(stack.app).__name__ != "GracefulMiddleware"


def test_other_settings_are_refused_with_their_names():
    """Two modules that disagree: which of them is right is for a person to say."""
    graceful.install(port=8080)
    with pytest.raises(graceful.InstallError, match=r"installed already, with other settings \(port\)"):
        graceful.install(port=8081)


def test_an_application_can_come_later():
    """`install()` in one module, the application in another."""
    first = graceful.install(port=8080)
    app = Starlette()
    assert graceful.install(app) is first
    assert type(app.build_middleware_stack()).__name__ == "GracefulMiddleware"


def test_an_application_that_is_none_is_refused_with_the_way_out():
    """Litestar, Quart, a bare function: `coordinator.asgi(app)`."""

    async def app(scope, receive, send):
        """Any ASGI application."""

    with pytest.raises(graceful.InstallError, match=r"not function; .*serve coordinator.asgi\(app\)"):
        graceful.install(app)
    assert type(graceful.install().asgi(app)).__name__ == "GracefulMiddleware"


def test_middleware_added_later_stays_inside_of_ours():
    """What stands outside would be neither counted nor refused."""
    app = FastAPI()
    graceful.install(app)
    seen = []

    @app.middleware("http")
    async def late(request, call_next):
        seen.append(request.url.path)
        return await call_next(request)

    assert TestClient(app).get("/livez").status_code == 200
    assert seen == []


def test_uninstall_gives_the_application_back():
    """As if nothing had been."""
    app = FastAPI()
    coordinator = graceful.install(app)
    TestClient(app).get("/")
    coordinator.uninstall()
    assert type(app.build_middleware_stack()).__name__ != "GracefulMiddleware"
    assert TestClient(app).get("/livez").status_code == 404
    assert graceful.install() is not coordinator


def test_off_the_main_thread_is_refused():
    """Python sets signal handlers in the main thread only."""
    errors = []

    def work():
        try:
            graceful.install(enabled=True)
        except graceful.InstallError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work, name="worker-3")
    thread.start()
    thread.join()
    assert "'worker-3'" in errors[0]
    assert "hold_signals=False" in errors[0]


def test_a_grace_period_that_is_too_short_is_refused_with_both_facts_and_the_fix():
    """Before anything was started."""
    before = traces()
    with pytest.raises(graceful.BudgetError) as caught:
        graceful.install(**EUREKA, grace_period=60, enabled=True)
    assert str(caught.value).startswith(
        "announce 5s + propagation 95s + drain 20s + cleanup 5s + deregister 3s + margin 2s = 130s "
        "does not fit grace_period 60s; set terminationGracePeriodSeconds"
    )
    assert traces() == before


def test_enabled_and_uninstalled_leaves_no_trace():
    """Everything is started for real, in this process, and put back."""
    before = traces()
    app = FastAPI()
    coordinator = graceful.install(app, enabled=True)
    assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert "graceful" in {thread.name for thread in threading.enumerate()}
    coordinator.uninstall()
    until(lambda: traces() == before, "no trace is left")
    assert coordinator.report is None


def test_disabled_is_inert(monkeypatch):
    """`GRACEFUL_ENABLED=false`: decorators and tracking work, nothing else happens."""
    monkeypatch.setenv("GRACEFUL_ENABLED", "false")
    before = traces()
    app = FastAPI()
    coordinator = graceful.install(app, **EUREKA)
    coordinator.on_cleanup(lambda: None)
    with coordinator.track("job"), TestClient(app) as client:
        assert client.get("/livez").status_code == 404
        coordinator.drain()
    assert traces() == before
    assert coordinator.phase is graceful.Phase.STARTING


def test_a_registry_of_ones_own(caplog):
    """Consul, Nacos: anything that has the protocol's methods is announced, withdrawn and deregistered."""
    caplog.set_level(logging.INFO)
    calls = []

    class Registry:
        announced = False
        calls = (graceful.ServerResult("consul", True, "here", "register"),)

        async def start(self):
            calls.append("start")

        async def serve(self):
            self.announced = True
            calls.append("serve")

        def freeze(self):
            calls.append("freeze")

        async def withdraw(self, deadline):
            calls.append("withdraw")
            return graceful.RegistryOutcome((graceful.ServerResult("consul", True, "gone"),), deadline - 5)

        async def keep_withdrawn(self):
            """Nothing to watch."""

        async def until_published(self):
            raise AssertionError("there are no caches to watch")

        async def deregister(self, deadline):
            calls.append("deregister")
            return graceful.RegistryOutcome((graceful.ServerResult("consul", True, "absent"),))

    app = FastAPI()
    coordinator = graceful.install(app, registry=Registry())
    with TestClient(app):
        until(lambda: "serve" in calls, "announced")
    assert calls == ["start", "serve", "freeze", "withdraw", "deregister"]
    assert coordinator.report
    assert coordinator.report.clean
    assert coordinator.report.calls == Registry.calls
    assert coordinator.plan.announce == 5


def test_a_forked_child_that_did_not_install_inherits_nothing():
    """Story of service_fork.py: no handler, no pipe, no socket, no thread; its end is nobody's leave."""
    with child("-m", "tests.scenarios.service_fork", env={"GRACEFUL_SCOPE": f"fork-{os.getpid()}"}) as program:
        assert program.exit_code() == 0, program.text
        assert program.text.splitlines()[-1] == "all is well"


def test_importing_graceful_imports_nothing_else():
    """The hook runs through it."""
    code = (
        "import sys; before = set(sys.modules); import graceful; "
        "print(sorted(set(sys.modules) - before), 'install' in dir(graceful))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=40, check=True
    )
    assert result.stdout == "['graceful'] True\n"


def test_every_public_name_is_there():
    """`__all__` is what `from graceful import *` gives."""
    for name in graceful.__all__:
        assert getattr(graceful, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'instal'"):
        _ = graceful.instal
