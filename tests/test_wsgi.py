"""The WSGI middleware, in front of applications that behave and that do not, and between the validator's two sides."""

import io
import threading
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, is_hop_by_hop, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from graceful.core.phases import Phase
from graceful.http.wsgi import WsgiMiddleware
from tests.services import FakeService

LEAVING = [Phase.LAME_DUCK, Phase.DRAINING, Phase.CLEANUP, Phase.STOPPED]


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


class Body:
    """An iterable that counts how often it is closed."""

    def __init__(self, *chunks, fails_to_close=False):
        self.chunks = chunks
        self.closed = 0
        self.fails_to_close = fails_to_close

    def __iter__(self):
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def close(self):
        self.closed += 1
        if self.fails_to_close:
            raise OSError("the file was gone")


class BodyWithLength(Body):
    def __len__(self):
        return len(self.chunks)


def environment(path="/", **more):
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    return environ | {"PATH_INFO": path, "QUERY_STRING": ""} | more


class Answer:
    """What a server was given for one request; as one, it has not closed it yet."""

    def __init__(self, service, app=hello, *, path="/", environ=None, **options):
        self.status, self.headers = "", []
        self.body: Any = WsgiMiddleware(app, service, **options)(environment(path, **(environ or {})), self._start)

    def _start(self, status, headers, exc_info=None):
        self.status, self.headers = status, headers

    @property
    def code(self):
        return int(self.status.split()[0])

    def read(self):
        return b"".join(self.body)

    def close(self):
        if hasattr(self.body, "close"):
            self.body.close()
        return self


def answers(body):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    return app


def test_in_flight_until_the_iterable_is_closed():
    """Not until it is read: the last bytes may still be on their way. The application's is closed once."""
    service, body = FakeService(), Body(b"a", b"b")
    answer = Answer(service, answers(body), path="/orders/7")
    assert answer.read() == b"ab"
    assert [work.name for work in service.work.snapshot()] == ["GET /orders/7"]
    answer.close()
    assert len(service.work) == 0
    assert body.closed == 1


def test_a_body_without_close_ends_too():
    """A list has none, the server asks for one all the same."""
    service = FakeService()
    answer = Answer(service)
    assert answer.read() == b"hello"
    assert len(service.work) == 1
    answer.close()
    assert len(service.work) == 0


@pytest.mark.parametrize("body", [[b"hello"], (b"hello",), BodyWithLength(b"hello")])
def test_a_length_stays_known(body):
    """From a single chunk a server works out the Content-Length (PEP 3333, "Handling the Content-Length Header")."""
    assert len(Answer(FakeService(), answers(body)).body) == 1


def test_no_length_is_made_up():
    """A generator has none."""
    assert not hasattr(Answer(FakeService(), answers(Body(b"a"))).body, "__len__")


def test_an_application_that_fails_is_not_in_flight():
    """Its error is its own."""
    service = FakeService()

    def app(environ, start_response):
        raise LookupError("no such order")

    with pytest.raises(LookupError, match="no such order"):
        Answer(service, app)
    assert (len(service.work), service.work.accepted) == (0, 1)


def test_an_iteration_that_fails_ends_with_the_close():
    """Which the server owes it, whatever happened."""
    service, body = FakeService(), Body(b"a", LookupError("broken"))
    answer = Answer(service, answers(body))
    with pytest.raises(LookupError):
        answer.read()
    assert len(service.work) == 1
    answer.close()
    assert (len(service.work), body.closed) == (0, 1)


def test_a_close_that_fails_is_the_end_all_the_same():
    """And its error reaches the server."""
    service = FakeService()
    answer = Answer(service, answers(Body(fails_to_close=True)))
    with pytest.raises(OSError, match="the file was gone"):
        answer.close()
    assert len(service.work) == 0


class ServersWrapper(FileWrapper):
    """A server's own file wrapper, known by its type."""


class Sealed:
    """One whose type has no attributes of one's own, as one written in C."""

    __slots__ = ("_file",)

    def __init__(self, file):
        self._file = file

    def __iter__(self):
        return iter(self._file)

    def close(self):
        self._file.close()


@pytest.mark.parametrize("wrapper", [ServersWrapper, Sealed])
def test_a_file_goes_in_the_servers_own_wrapper(wrapper):
    """Where it can be: a server that sees its own type sends the file without reading it."""
    service, file = FakeService(), io.BytesIO(b"content")

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)

    answer = Answer(service, app, environ={"wsgi.file_wrapper": wrapper})
    assert isinstance(answer.body, wrapper) is (wrapper is ServersWrapper)
    assert answer.read() == b"content"
    assert len(service.work) == 1
    answer.close()
    assert len(service.work) == 0
    assert file.closed


def test_a_wrapper_that_is_no_type():
    """A server may give a function."""
    service = FakeService()
    answer = Answer(service, environ={"wsgi.file_wrapper": lambda file, _=0: iter(file)}).close()
    assert (answer.code, len(service.work)) == (200, 0)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("path", ["/", "/livez", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_hop_by_hop_header_ever(phase, path, method):
    """PEP 3333 forbids them, and waitress answers 500 to an application that sends one."""
    service = FakeService(phase)
    service.not_ready = str(phase.value)
    answer = Answer(service, path=path, environ={"REQUEST_METHOD": method}).close()
    assert answer.headers
    assert not [name for name, _ in answer.headers if is_hop_by_hop(name)]


@pytest.mark.parametrize("phase", LEAVING)
def test_a_server_with_a_way_of_its_own_is_asked_to_close(phase):
    """gunicorn's response has one, of which `start_response` is a method."""

    class Response:
        closes = False

        def start_response(self, status, headers, exc_info=None):
            pass

        def force_close(self):
            self.closes = True

    for now in (Phase.SERVING, phase):
        response = Response()
        WsgiMiddleware(hello, FakeService(now))(environment(), response.start_response)
        assert response.closes is (now is phase)


@pytest.mark.parametrize("phase", LEAVING[1:])
def test_from_the_drain_on_new_requests_get_503(phase):
    """With what a proxy needs to try elsewhere; the application is not called."""
    answer = Answer(FakeService(phase), None, retry_after=2.4)
    assert answer.code == 503
    assert dict(answer.headers)["Retry-After"] == "2"
    assert answer.read() == b"this instance is shutting down\n"


def test_the_gate_that_closes_between_look_and_entry_is_a_503_too():
    """The phase was read as serving, then the gate closed."""
    service = FakeService()
    service.work.close()
    assert Answer(service, None).code == 503
    assert service.late == [("unknown address", "GET /", False)]


def test_who_calls_after_the_leave_has_begun_is_entered():
    """Served or refused; a kubelet's probe is not."""
    caller = {"REMOTE_ADDR": "10.0.3.7", "HTTP_USER_AGENT": "Java/17 (a comment)"}
    probe = {"REMOTE_ADDR": "10.0.3.1", "HTTP_USER_AGENT": "kube-probe/1.31"}
    for phase, late in ((Phase.SERVING, []), (Phase.LAME_DUCK, [True]), (Phase.DRAINING, [False])):
        service = FakeService(phase)
        Answer(service, path="/orders", environ=caller).close()
        Answer(service, path="/orders", environ=probe).close()
        assert service.late == [("10.0.3.7 (Java/17)", "GET /orders", served) for served in late]


def test_probes():
    """Liveness stays green throughout; readiness says why not. Neither counts as in flight, neither is refused."""
    service = FakeService()
    assert Answer(service, path="/readyz").read() == b"ok\n"
    service.not_ready, service.phase = "draining", Phase.DRAINING
    assert Answer(service, path="/livez").read() == b"ok\n"
    answer = Answer(service, path="/readyz")
    assert (answer.code, answer.read()) == (503, b"not ready: draining\n")
    assert Answer(service, path="/readyz", environ={"REQUEST_METHOD": "HEAD"}).read() == b""
    assert service.work.accepted == 0
    assert service.late == []


def test_probe_paths_can_be_given_up():
    """They may be the application's own."""
    assert Answer(FakeService(), path="/livez", livez_path=None, readyz_path=None).read() == b"hello"


@pytest.mark.parametrize("phase", [Phase.SERVING, Phase.LAME_DUCK, Phase.DRAINING])
@pytest.mark.parametrize("path", ["/orders", "/livez", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_sides_keep_the_contract(phase, path, method):
    """The standard library's validator stands before and behind the middleware, and a real handler runs it."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else b"hello"]

    service, out = FakeService(phase), io.BytesIO()
    environ = environment(path, REQUEST_METHOD=method)
    handler = SimpleHandler(io.BytesIO(), out, io.StringIO(), environ, multithread=True)
    handler.run(validator(WsgiMiddleware(validator(app), service)))
    served = phase.accepts_work or path != "/orders"
    assert (b" 200 OK" in out.getvalue()) is served
    assert b"500" not in out.getvalue()
    assert len(service.work) == 0


def test_many_threads():
    """Each request is counted in and out, in whatever thread."""
    service = FakeService()
    start = threading.Barrier(8)

    def serve():
        start.wait(20)
        for _ in range(200):
            Answer(service).close()

    threads = [threading.Thread(target=serve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(service.work), service.work.accepted) == (0, 1600)
