"""When a service is ready whose listener was open before it was even imported."""

import importlib
import signal
import sys
import threading

import pytest

from graceful import readiness
from graceful.calling import AppCaller
from graceful.loading import Imports
from graceful.readiness import Readiness
from tests.children import child, free_port
from tests.virtual_time import VirtualLoop


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize(
    ("worker_class", "kind"),
    [("uvicorn_worker.UvicornWorker", "asgi"), ("asgi", "asgi"), ("sync", "wsgi"), ("gthread", "wsgi")],
)
def test_a_worker_of_gunicorn_is_ready_once_it_has_started(worker_class, kind, preload):
    """The arbiter listens from the start; the worker imports, and starts."""
    port = free_port()
    env = {"GRACEFUL_PORT": str(port), "GRACEFUL_PROPAGATION_DELAY": "0.1", "WIRED": kind}
    env |= {"GRACEFUL_SCOPE": f"slow-start-{port}"}
    gunicorn = ("-m", "gunicorn", *preload, f"--bind=127.0.0.1:{port}", f"--worker-class={worker_class}")
    with child(*gunicorn, f"tests.scenarios.slow_start:{kind}", env=env) as service:
        service.wait_for("ready: serving")
        start_up = ["start-up begins", "start-up ends"] if kind == "asgi" else []
        assert service.in_order("the import goes on", "the import ends", *start_up, "ready: serving")
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0


class Importing(Imports):
    def __init__(self):
        super().__init__()
        self.ended = False

    def over(self):
        return self.ended


@pytest.fixture
def accepting(monkeypatch):
    """A service whose port accepts, and what makes it ready: its loop, and the task that waits."""

    async def reason_not_accepting(_hosts, _port):
        return None

    monkeypatch.setattr(readiness, "_reason_not_accepting", reason_not_accepting)
    loop = VirtualLoop()
    service = Readiness(AppCaller(), port=9, serves_app=True)
    service.imports = Importing()
    yield service, loop, loop.create_task(service.wait())
    loop.close()


def test_a_server_without_a_lifespan_is_given_time_to_begin_one(accepting):
    """Nothing shows that it serves; until 10 s after the import a start-up may begin."""
    service, loop, waits = accepting
    loop.advance(100)
    assert not waits.done()
    service.imports.ended = True
    loop.advance(9.9)
    assert not waits.done()
    loop.advance(0.2)
    assert waits.done()


def test_a_wsgi_application_is_served_when_it_is_imported(accepting):
    service, loop, waits = accepting
    service.has_lifespan = False
    loop.advance(5)
    assert not waits.done()
    service.imports.ended = True
    loop.advance(0.1)
    assert waits.done()


def test_a_probe_shows_that_it_serves(accepting):
    service, loop, waits = accepting
    service.imports.ended = True
    loop.advance(1)
    assert not waits.done()
    service.started = True
    loop.advance(0.1)
    assert waits.done()


def test_a_start_up_counts_once_it_has_begun(accepting):
    service, loop, waits = accepting
    service.imports.ended = service.starting = True
    loop.advance(100)
    assert not waits.done()
    service.started = True
    loop.advance(0.1)
    assert waits.done()


IMPORTED = """
from graceful.loading import Imports

def install():
    return Imports.under_way()

found = install()
over_meanwhile = found.over()
"""


def test_imports_are_over_when_their_modules_have_run(tmp_path, monkeypatch):
    """Looked at from another thread too; what was installed outside of an import has none to wait for."""
    (tmp_path / "imported_meanwhile.py").write_text(IMPORTED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("imported_meanwhile")
    assert not module.over_meanwhile
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(module.found.over()))
    thread.start()
    thread.join()
    assert elsewhere == [True]
    assert Imports().over()
    assert not Imports(frozenset({sys._getframe().f_code}), threading.get_ident()).over()
