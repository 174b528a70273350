"""The middleware that notes callers: whom it notes, by what name, and that it is not there unless it is asked for."""

import asyncio

import pytest

import graceful
from graceful.core.phases import Phase
from graceful.http.asgi import GracefulMiddleware
from graceful.http.noting import NotingMiddleware
from tests.services import FakeService
from tests.test_asgi import hello


class NotingFake(FakeService):
    """A service that remembers who called."""

    def __init__(self, phase=Phase.SERVING):
        super().__init__(phase)
        self.callers = []

    def note_caller(self, name):
        self.callers.append(name)


def noted(*headers, kind="http", path="/", client=("10.0.3.7", 40000), phase=Phase.SERVING, **options):
    """Who is noted for a request, and what was sent."""
    service, sent = NotingFake(phase), []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": f"{kind}.request"}

    scope = {"type": kind, "method": "GET", "path": path, "http_version": "1.1", "headers": headers, "client": client}
    asyncio.run(NotingMiddleware(hello, service, **options)(scope, receive, send))
    return service.callers, sent


def test_a_caller_is_its_address():
    """Without its port, which is another for every connection; the request is served as ever."""
    callers, sent = noted((b"x-client-id", b"payments"))
    assert callers == ["10.0.3.7"]
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("name", ["X-Client-Id", "x-client-id"])
def test_a_header_may_name_the_caller(name):
    """Whatever its case; where it is missing or empty, the address does."""
    assert noted((b"host", b"a"), (b"x-client-id", b"payments"), caller_header=name)[0] == [b"payments"]
    assert noted((b"x-client-id", b""), caller_header=name)[0] == ["10.0.3.7"]
    assert noted((b"host", b"a"), caller_header=name)[0] == ["10.0.3.7"]
    assert noted((b"x-client-id", b"a" * 5000), caller_header=name)[0] == [b"a" * 120]
    assert noted((b"user-agent", b"Java/17"), caller_header="User-Agent")[0] == [b"Java/17"]


@pytest.mark.parametrize("client", [None, ()])
def test_an_unknown_address_is_a_name_too(client):
    """On a Unix socket all callers are one."""
    assert noted(client=client)[0] == [""]


@pytest.mark.parametrize("agent", [b"kube-probe/1.31", b"Prometheus/2.53"])
def test_who_is_not_sent_by_a_registry_is_no_caller(agent):
    """They call until the address is gone: nobody would ever be silent."""
    assert noted((b"user-agent", agent), (b"x-client-id", b"a"), caller_header="X-Client-Id")[0] == []
    assert noted((b"x-client-id", b"a"), (b"user-agent", agent), caller_header="X-Client-Id")[0] == []


def test_probes_are_no_callers():
    """Neither is what the probes' own paths are asked by anybody; where they are switched off, the application is."""
    for path in ("/livez", "/readyz"):
        assert noted(path=path)[0] == []
        assert noted(path=path, livez_path=None, readyz_path=None)[0] == ["10.0.3.7"]


@pytest.mark.parametrize("phase", [Phase.LAME_DUCK, Phase.DRAINING])
def test_late_requests_are_noted_too(phase):
    """They are what starts a silence anew."""
    callers, sent = noted(phase=phase)
    assert callers == ["10.0.3.7"]
    assert sent[0]["status"] == (200 if phase is Phase.LAME_DUCK else 503)


def test_a_handshake_is_a_call():
    """What is said on the socket later is not: it needs no registry."""
    assert noted(kind="websocket", phase=Phase.DRAINING)[0] == ["10.0.3.7"]


@pytest.fixture
def coordinator(request):
    installed = graceful.install(**request.param, hold_signals=False)
    yield installed
    installed.uninstall()


@pytest.mark.parametrize("coordinator", [{"early_end": True, "early_end_caller_header": "X-Id"}], indirect=True)
def test_the_setting_puts_it_there(coordinator):
    """From the setting to the table."""
    app = coordinator.asgi(hello)
    assert type(app) is NotingMiddleware
    asyncio.run(app(_scope(), _nothing, _nothing))
    assert list(coordinator.life.callers._callers) == [b"payments"]


@pytest.mark.parametrize("coordinator", [{}], indirect=True)
def test_without_the_setting_nothing_is_added_to_a_request(coordinator):
    """Not even a question whether it is on."""
    app = coordinator.asgi(hello)
    assert type(app) is GracefulMiddleware
    asyncio.run(app(_scope(), _nothing, _nothing))
    assert len(coordinator.life.callers) == 0


def _scope():
    headers = [(b"x-id", b"payments")]
    return {"type": "http", "method": "GET", "path": "/", "http_version": "1.1", "headers": headers, "client": None}


async def _nothing(*_):
    return {"type": "http.request"}
