"""The pre-stop endpoint: the hook as an HTTP call, guarded by its token, held as long as the hook is."""

from __future__ import annotations

import contextlib
import hmac
import http.client
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from graceful import prestop_talk
from graceful.core.phases import Phase
from graceful.http.asgi import GracefulMiddleware
from graceful.http.prestop import PrestopEndpoint
from tests.children import PATIENCE, get
from tests.services import FakeService
from tests.test_asgi import hello
from tests.test_control import App, serving
from tests.test_service import start_web

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from anyio.from_thread import BlockingPortal

TOKEN = "0123456789abcdef"
HEADERS = [(b"host", b"pod"), (b"X-Graceful-Token", TOKEN.encode())]


@pytest.fixture(autouse=True)
def own_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own name; several run at once on one machine."""
    monkeypatch.setenv("GRACEFUL_SCOPE", f"endpoint-{os.getpid()}-{time.monotonic_ns()}")
    monkeypatch.delenv("GRACEFUL_RUNTIME_DIR", raising=False)


@pytest.fixture(params=["asyncio", "trio"])
def portal(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    """The application's event loop."""
    with start_blocking_portal(request.param) as portal:
        yield portal


class Call:
    """One request, in a task of its own."""

    def __init__(
        self, portal: BlockingPortal, app: Any, *, method: str = "GET", headers: Any = HEADERS, path: str = "/stop"
    ) -> None:
        self._portal = portal
        self._gone = portal.call(anyio.Event)
        self._scope = {"type": "http", "method": method, "path": path, "headers": headers}
        self._sent: list[Any] = []
        self.running: Future[None] = portal.start_task_soon(self._run, app)

    async def _run(self, app: Any) -> None:
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            if (message := next(messages, None)) is None:
                await self._gone.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            self._sent.append(message)

        await app(self._scope, receive, send)

    def disconnect(self) -> None:
        self._portal.call(self._gone.set)

    def answer(self) -> tuple[int, str]:
        self.running.result(PATIENCE)
        start, body = self._sent
        return start["status"], body["body"].decode()


def test_it_blocks_until_every_process_has_left(portal: BlockingPortal) -> None:
    """Then it says what they said; the process heard of the grace period."""
    with serving(App()) as app:
        call = Call(portal, PrestopEndpoint(TOKEN, grace=130))
        session = app.sessions.get(timeout=PATIENCE)
        assert not call.running.done()
        app.say(session, "out of service", None)
        status, text = call.answer()
        assert status == 200
        assert text == "begins to leave: the wait takes 95.0 s at most\nout of service\nleft after 1.0 s\n"
        ((elapsed, grace),) = app.told
        assert (grace, elapsed < PATIENCE) == (130, True)
        app.expect("closed", "answered")


def test_a_process_that_does_not_leave_cleanly_shows(portal: BlockingPortal) -> None:
    """As the status, for people."""
    with serving(App()) as app:
        call = Call(portal, PrestopEndpoint(TOKEN, grace=None))
        session = app.sessions.get(timeout=PATIENCE)
        session.outcome = (False, "a callback failed")
        app.say(session, None)
        assert call.answer() == (500, "begins to leave: the wait takes 95.0 s at most\na callback failed\n")
        app.expect("closed", "answered")


def test_a_client_that_goes_away_is_a_hook_that_was_killed(
    portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections to the processes end with it, so that SIGTERM later is none that cuts a hook short."""
    monkeypatch.setattr(prestop_talk, "LOOK_DELAY", 0.05)
    with serving(App()) as app:
        call = Call(portal, PrestopEndpoint(TOKEN, grace=130))
        app.sessions.get(timeout=PATIENCE)
        call.disconnect()
        call.running.result(PATIENCE)
        assert sorted([app.log.get(timeout=PATIENCE), app.log.get(timeout=PATIENCE)]) == ["closed", "lost"]


def test_where_no_process_listens_it_says_so(portal: BlockingPortal) -> None:
    """After a short search."""
    call = Call(portal, PrestopEndpoint(TOKEN, grace=0.8))
    assert call.answer() == (503, "no process of this container listens for its hook\n")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-graceful-token", b"")],
        [(b"x-graceful-token", b"0123456789abcdeF")],
        [(b"x-graceful-token", b"0123456789abcdef ")],
        [(b"x-graceful-token", "ä".encode())],
        [(b"x-graceful-token", b"wrong"), (b"x-graceful-token", TOKEN.encode())],
        [(b"authorization", b"Bearer " + TOKEN.encode())],
    ],
)
def test_without_the_token_nothing_happens(
    headers: list[tuple[bytes, bytes]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared in a time that tells nothing; said once, without the token."""
    compared = []
    compare = hmac.compare_digest

    def noting(*values: bytes) -> bool:
        compared.append(values)
        return compare(*values)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    endpoint = PrestopEndpoint(TOKEN, grace=130)
    with start_blocking_portal() as portal, serving(App()) as app, caplog.at_level(logging.WARNING):
        for _ in range(2):
            call = Call(portal, endpoint, headers=headers)
            assert call.answer() == (403, "X-Graceful-Token is missing or wrong\n")
        assert app.sessions.empty()
    assert len(compared) == 2
    (record,) = caplog.records
    assert "a call of the pre-stop endpoint was refused: X-Graceful-Token is " in record.getMessage()
    assert TOKEN not in caplog.text


def test_only_get_begins_it() -> None:
    """A crawler that posts, a browser that asks for options."""
    with start_blocking_portal() as portal, serving(App()) as app:
        assert Call(portal, PrestopEndpoint(TOKEN, grace=130), method="POST").answer() == (405, "expected GET\n")
        assert app.sessions.empty()


@pytest.mark.parametrize("phase", [Phase.SERVING, Phase.DRAINING])
def test_it_is_there_only_where_it_is_switched_on(phase: Phase) -> None:
    """In every phase, and neither counted nor noted; else the path is the application's."""
    service = FakeService(phase)
    with start_blocking_portal() as portal, serving(App()):
        wrapped = GracefulMiddleware(hello, service, prestop=PrestopEndpoint(TOKEN, grace=1), prestop_path="/stop")
        assert Call(portal, wrapped, headers=[]).answer()[0] == 403
        assert service.late == []
        without = GracefulMiddleware(hello, service)
        assert Call(portal, without, path="/graceful/prestop").answer()[0] == (503 if phase is Phase.DRAINING else 200)


def test_a_service_leaves_by_an_http_hook() -> None:
    """1. The kubelet calls. 2. It serves on, not ready. 3. The call is answered. 4. SIGTERM: it ends with 0."""
    starting, port = start_web(GRACEFUL_PRESTOP_TOKEN=TOKEN, GRACEFUL_GRACE_PERIOD="60")
    with starting as service:
        service.wait_for("ready: serving")
        assert get(port, "/graceful/prestop")[0] == 403
        answers: list[tuple[int, str]] = []
        kubelet = threading.Thread(target=lambda: answers.append(call_as_kubelet(port)))
        kubelet.start()
        service.wait_for("leaving because of")
        assert get(port) == (200, "close", '"hello"')
        assert get(port, "/readyz")[0] == 503
        kubelet.join(PATIENCE)
        ((status, text),) = answers
        assert (status, "the wait takes 1.5 s at most" in text) == (200, True)
        assert "phase draining" not in service.text
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0, service.text
        assert service.in_order("drain", "cleanup ends", "left cleanly")


def call_as_kubelet(port: int) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        headers = {"X-Graceful-Token": TOKEN, "User-Agent": "kube-lifecycle/1.33"}
        connection.request("GET", "/graceful/prestop", headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
