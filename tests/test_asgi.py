"""The ASGI middleware, message by message, in front of applications that behave and that do not."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.core.inflight import NotAcceptingError
from graceful.core.phases import Phase
from graceful.http.asgi import NOTICE, GracefulMiddleware
from tests.services import FakeService


async def hello(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"Connection", b"keep-alive")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


def request(service, app=hello, *, path="/", method="GET", http_version="1.1", scope=None, **options):
    """The response's status, headers and body."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {"headers": []} | (scope or {})
    scope |= {"type": "http", "method": method, "path": path, "http_version": http_version}
    asyncio.run(GracefulMiddleware(app, service, **options)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], sent[0]["headers"], body


def test_while_serving_nothing_is_changed():
    """The application's answer goes through as it is."""
    service = FakeService()
    status, headers, body = request(service)
    assert (status, body) == (200, b"hello")
    assert headers == [(b"content-type", b"text/plain"), (b"Connection", b"keep-alive")]
    assert len(service.work) == 0


def test_in_the_lame_duck_it_serves_and_closes():
    """`Connection: close` takes the place of what the application said."""
    status, headers, _ = request(FakeService(Phase.LAME_DUCK))
    assert status == 200
    assert headers == [(b"content-type", b"text/plain"), (b"connection", b"close")]


def test_a_response_that_starts_after_the_leave_began_closes_too():
    """The request came while serving; the leave begins before its answer."""
    service = FakeService()

    async def leaves_meanwhile(scope, receive, send):
        service.phase = Phase.LAME_DUCK
        await hello(scope, receive, send)

    assert (b"connection", b"close") in request(service, leaves_meanwhile)[1]


@pytest.mark.parametrize("version", ["2", "2.0", "3"])
@pytest.mark.parametrize("phase", [Phase.LAME_DUCK, Phase.DRAINING])
def test_http_2_and_3_have_no_connection_header(version, phase):
    """It would make the response malformed (RFC 9113 8.2.2)."""
    _, headers, _ = request(FakeService(phase), no_headers, http_version=version)
    assert not [name for name, _ in headers if name.lower() == b"connection"]


async def no_headers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.CLEANUP, Phase.STOPPED])
def test_from_the_drain_on_new_requests_get_503(phase):
    """With what a proxy needs to try elsewhere; the application is not called."""
    status, headers, body = request(FakeService(phase), app=None, retry_after=2.4)
    assert status == 503
    assert {(b"retry-after", b"2"), (b"connection", b"close")} <= set(headers)
    assert (b"content-length", str(len(body)).encode()) in headers


def test_the_gate_that_closes_between_look_and_entry_is_a_503_too():
    """The phase was read as serving, then the gate closed."""
    service = FakeService()
    service.work.close()
    assert request(service, app=None)[0] == 503
    assert service.late == [("unknown address", "GET /", False)]


JAVA = {
    "client": ("10.0.3.7", 41234),
    "query_string": b"token=abc",
    "headers": [(b"host", b"orders"), (b"user-agent", b"Java/17 (a comment)"), (b"authorization", b"Bearer abc")],
}


@pytest.mark.parametrize(
    ("phase", "late"),
    [
        (Phase.STARTING, []),
        (Phase.SERVING, []),
        (Phase.LAME_DUCK, [("10.0.3.7 (Java/17)", "GET /orders", True)]),
        (Phase.DRAINING, [("10.0.3.7 (Java/17)", "GET /orders", False)]),
        (Phase.CLEANUP, [("10.0.3.7 (Java/17)", "GET /orders", False)]),
        (Phase.STOPPED, [("10.0.3.7 (Java/17)", "GET /orders", False)]),
    ],
)
def test_who_calls_after_the_leave_has_begun_is_entered(phase, late):
    """Served or refused, with address, product, method and path, and nothing else; before the leave nobody is."""
    service = FakeService(phase)
    request(service, path="/orders", scope=JAVA)
    assert service.late == late


def test_a_request_that_came_before_the_leave_is_not_late():
    """The leave begins while it is served."""
    service = FakeService()

    async def leaves_meanwhile(scope, receive, send):
        service.phase = Phase.LAME_DUCK
        await hello(scope, receive, send)

    request(service, leaves_meanwhile, scope=JAVA)
    assert service.late == []


@pytest.mark.parametrize(
    "client", [None, (), ("/run/orders.sock", None), ["10.0.3.7", 1]], ids=["none", "empty", "unix", "list"]
)
def test_a_server_that_knows_its_peer_in_another_way(client):
    """Whatever it says of the client, the request is served."""
    service = FakeService(Phase.LAME_DUCK)
    assert request(service, scope={"client": client})[0] == 200
    ((caller, _, _),) = service.late
    assert caller == (client[0] if client else "unknown address")


@pytest.mark.parametrize("phase", [Phase.LAME_DUCK, Phase.DRAINING])
def test_probes_are_not_late(phase):
    """Neither our paths nor the application's: a kubelet probes its pod until the end, and nobody has to tell it."""
    service = FakeService(phase)
    request(service, path="/livez", scope=JAVA)
    request(service, path="/readyz", scope=JAVA)
    request(service, path="/healthz", scope={**JAVA, "headers": [(b"user-agent", b"kube-probe/1.31")]})
    assert service.late == []


def test_a_request_is_in_flight_until_the_application_returns():
    """Streaming, background tasks and all; also when it fails, also when it is cancelled."""
    service = FakeService()
    seen = []

    async def fails(scope, receive, send):
        seen.append(service.work.snapshot()[0].name)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        request(service, fails, path="/orders/7", method="PUT")
    assert seen == ["PUT /orders/7"]
    assert len(service.work) == 0


def test_cancelled_requests_leave():
    """A client that disconnects: some servers cancel the application."""
    service = FakeService()

    async def never(*_):
        raise AssertionError("nothing is received or sent")

    async def main():
        async def hang(scope, receive, send):
            await asyncio.sleep(60)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(GracefulMiddleware(hang, service)(scope, never, never))
        await asyncio.sleep(0)
        assert len(service.work) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(service.work) == 0


def test_probes():
    """Liveness stays green throughout; readiness says why not. Neither counts as in flight, neither is refused."""
    service = FakeService()
    assert request(service, path="/livez")[::2] == (200, b"ok\n")
    assert request(service, path="/readyz")[::2] == (200, b"ok\n")
    service.not_ready, service.phase = "draining", Phase.DRAINING
    assert request(service, path="/livez")[::2] == (200, b"ok\n")
    assert request(service, path="/readyz")[::2] == (503, b"not ready: draining\n")
    assert request(service, path="/readyz", method="HEAD")[::2] == (503, b"")
    assert service.work.accepted == 0


def test_probe_paths_can_be_changed_and_given_up():
    """They may be the application's own."""
    service = FakeService()
    assert request(service, path="/healthz", livez_path="/healthz")[2] == b"ok\n"
    assert request(service, path="/livez", livez_path="/healthz")[2] == b"hello"
    assert request(service, path="/livez", livez_path=None, readyz_path=None)[2] == b"hello"


def run_lifespan(service, app):
    """Start an application up and shut it down; gives what was sent, in order with what the service heard."""
    events = service.lifespan
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive():
        return next(messages)

    async def send(message):
        events.append(message["type"])

    asyncio.run(GracefulMiddleware(app, service)({"type": "lifespan"}, receive, send))
    return events


def test_the_lifespans_two_ends():
    """Ours is done before the application is told to tear down."""

    async def app(scope, receive, send):
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        service.lifespan.append("teardown")
        await send({"type": "lifespan.shutdown.complete"})

    service = FakeService()
    assert run_lifespan(service, app) == [
        *("begins", "lifespan.startup.complete", "started", "ends", "teardown", "lifespan.shutdown.complete"),
    ]


def test_a_start_up_that_fails_is_no_start():
    """The server will exit; the service must not be announced meanwhile."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    assert run_lifespan(FakeService(), app) == ["begins", "lifespan.startup.failed"]


async def django(scope, receive, send):
    raise ValueError(f"only HTTP, not {scope['type']}")


async def http_only(scope, receive, send):
    if scope["type"] != "http":
        return


@pytest.mark.parametrize("app", [django, http_only])
def test_an_application_without_a_lifespan_has_one(app):
    """Answered for it: the service hears of the start, and is asked before the server stops."""
    assert run_lifespan(FakeService(), app) == [
        *("begins", "lifespan.startup.complete", "started", "ends", "lifespan.shutdown.complete"),
    ]


def test_a_start_up_that_raises_is_the_servers_to_judge():
    """Answering for it would start a service whose database is not there."""
    service = FakeService()

    async def app(scope, receive, send):
        await receive()
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        run_lifespan(service, app)
    assert service.lifespan == ["begins", "unanswered"]


def test_an_application_finds_the_event_in_its_scope_if_it_asked_for_it():
    """By default its scope is the server's own."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get(NOTICE))
        await hello(scope, receive, send)

    service = FakeService()
    request(service, app)
    request(service, app, notice=True)
    assert seen == [None, service.draining]


def test_a_handshake_from_the_drain_on_gets_503_where_the_server_can_say_so():
    """The close before the handshake would be a 403, which says to the client that it may never come."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/chat", "extensions": {"websocket.http.response": {}}}
    asyncio.run(GracefulMiddleware(hello, FakeService(Phase.DRAINING))(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.http.response.start", "websocket.http.response.body"]
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"1") in sent[0]["headers"]


def test_websockets_are_let_through_until_the_drain_and_refused_after():
    """1012, service restart: the client may come back elsewhere."""
    sent, seen = [], []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    late = []
    for phase in (Phase.SERVING, Phase.LAME_DUCK, Phase.DRAINING):
        service = FakeService(phase)
        asyncio.run(GracefulMiddleware(app, service)({"type": "websocket", "path": "/chat"}, receive, send))
        late += service.late
    assert [each[1:] for each in late] == [("WEBSOCKET /chat", True), ("WEBSOCKET /chat", False)]
    assert seen == ["websocket", "websocket"]
    assert sent == [{"type": "websocket.close", "code": 1012}]


HEADERS = st.lists(st.tuples(st.sampled_from([b"connection", b"CONNECTION", b"x", b"set-cookie"]), st.binary()))


@given(HEADERS)
def test_all_other_headers_stay_as_they_are(headers):
    """Also repeated ones, in their order; exactly one Connection header is left."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    _, got, _ = request(FakeService(Phase.LAME_DUCK), app)
    assert got[:-1] == [(name, value) for name, value in headers if name.lower() != b"connection"]
    assert got[-1] == (b"connection", b"close")


def test_not_accepting_is_an_error_of_ours_only():
    """An application's own NotAcceptingError (its `track` after the gate closed) is its own 500, not our 503."""

    async def app(scope, receive, send):
        raise NotAcceptingError("job 42")

    with pytest.raises(NotAcceptingError):
        request(FakeService(), app)
