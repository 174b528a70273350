"""The transport: what it sends, what it refuses, and that it always ends."""

import base64
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from graceful.eureka.address import ServerAddress
from graceful.eureka.transport import EurekaError, Request, Response, Transport
from tests.eureka_raw_server import RawServer, TlsServer, answering, hanging, resetting, trickling

SCENARIOS = Path(__file__).parent / "scenarios"
# What every one of these would take if the deadline did not hold is for ever.
GENEROUS = 5.0
SECRET = "sesame"

Behaviour = Callable[[socket.socket, RawServer], None]


def ask(url: str, request: Request | str = "/eureka/apps", data: bytes | None = None, **options: Any) -> Response:
    """One exchange on an event loop of its own."""

    async def main() -> Response:
        transport = Transport(ServerAddress.parse(url), **{"timeout": GENEROUS, **options})
        return await transport.urlopen(request, data)

    return anyio.run(main)


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://eureka:8761/eureka/", "eureka", 8761, "/eureka"),
        ("http://my_eureka_0:8761/eureka", "my_eureka_0", 8761, "/eureka"),
        ("http://[::1]:8761/eureka", "::1", 8761, "/eureka"),
        ("https://eureka.example", "eureka.example", 443, ""),
        ("http://eureka/eureka/v2", "eureka", 80, "/eureka/v2"),
        ("http://bücher.example/eureka", "bücher.example", 80, "/eureka"),
        ("http://eureka/a%20b", "eureka", 80, "/a%20b"),
        (" http://u:p@eureka/eureka\n", "eureka", 80, "/eureka"),
    ],
)
def test_an_address_is_taken_apart(url: str, host: str, port: int, path: str) -> None:
    """Whatever the operating system can look up is a host."""
    address = ServerAddress.parse(url)
    assert (address.host, address.port, address.path) == (host, port, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "eureka:8761/eureka",
        "ftp://eureka/eureka",
        "http://",
        "http:///eureka",
        "http://eureka:99999/eureka",
        "http://eureka:0/eureka",
        "http://eureka:port/eureka",
        "http://a..b/eureka",
        f"http://{'x' * 64}.example/eureka",
        "http://[::1/eureka",
        "http://eu reka/eureka",
        "http://eureka/eureka?zone=a",
        "http://eureka/eureka#x",
        "http://user:sesame/x@eureka/eureka",
        "http://user:12/sesame@eureka/eureka",
        "http://user:12#sesame@eureka/eureka",
        "http://user:12?sesame@eureka/eureka",
        "http://user:sesame@eureka:sesame/eureka",
    ],
)
def test_a_wrong_address_is_refused_without_showing_credentials(url: str) -> None:
    """The message says what was expected, and no part of a password."""
    with pytest.raises(ValueError, match="must look like http://host:8761/eureka") as caught:
        ServerAddress.parse(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@given(name=st.text(min_size=1), password=st.text())
def test_any_name_and_password_arrive_as_they_are(name: str, password: str) -> None:
    """Percent-encoded, they may hold every character."""
    address = ServerAddress.parse(f"http://{quote(name, safe='')}:{quote(password, safe='')}@eureka:8761/eureka")
    assert address.authorization is not None
    assert base64.b64decode(address.authorization.removeprefix("Basic ")).decode() == f"{name}:{password}"
    assert repr(address) == "ServerAddress(public='http://***@eureka:8761/eureka')"
    assert str(address) == "http://***@eureka:8761/eureka"


def test_a_token_without_a_password_is_a_user_name() -> None:
    """The password may be left out."""
    address = ServerAddress.parse("http://token@eureka/eureka")
    assert address.authorization == f"Basic {base64.b64encode(b'token:').decode()}"


@given(st.text())
def test_any_text_is_an_address_or_a_plain_refusal(text: str) -> None:
    """Nothing else than ValueError comes out of the parser."""
    for url in (text, f"http://{text}", f"http://u:sesame@{text}"):
        try:
            address = ServerAddress.parse(url)
        except ValueError as error:
            assert "must look like" in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert "sesame" not in str(address)


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_the_request_is_sent_as_given() -> None:
    """Method, target, fields and body; basic auth from the URL; no proxy; XML."""
    with RawServer(answering("200 OK", "ü".encode())) as server:
        request = Request("/eureka/apps/A", {"Content-Type": "application/json"}, "POST")
        response = ask(f"http://me:p%40ss@127.0.0.1:{server.port}/eureka", request, b"{}")
    head = server.requests[0].decode()
    assert response.body_text == "ü"
    assert head.startswith("POST /eureka/apps/A HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in head
    assert f"Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}\r\n" in head
    assert "Accept: application/xml\r\n" in head
    assert "Content-Type: application/json\r\n" in head


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for the callers' traffic has no business between a pod and its registry."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with RawServer(answering("200 OK")) as server:
        ask(f"http://127.0.0.1:{server.port}")
    assert server.requests


def test_ipv6_is_spoken() -> None:
    """In short form and in brackets."""
    try:
        with RawServer(answering("200 OK"), host="::1") as server:
            ask(f"http://[::1]:{server.port}")
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    assert f"Host: [::1]:{server.port}".encode() in server.requests[0]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "reason", "status"),
    [
        (answering("401 Unauthorized"), "HTTP 401", 401),
        (answering("404 Not Found"), "HTTP 404", 404),
        (answering("500 Internal Server Error", b"<html>"), "HTTP 500", 500),
        (
            answering("302 Found", b"", "Location: https://login.example/in?token=sesame"),
            "HTTP 302, a redirect to login.example (is a login page or a proxy in front of Eureka?)",
            302,
        ),
        (answering("303 See Other", b"", "Location: http://["), "HTTP 303, a redirect elsewhere", 303),
        (answering("307 Temporary Redirect", b"", "Location: /login"), "HTTP 307, a redirect elsewhere", 307),
        (answering("200 OK", b"x" * 101), "an answer of more than 100 bytes", None),
        (lambda sock, _: sock.sendall(b"SSH-2.0-x\r\n"), "no HTTP answer (BadStatusLine)", None),
        (lambda *_: None, "no HTTP answer (RemoteDisconnected)", None),
        (resetting, "Connection reset by peer", None),
        (
            lambda sock, _: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
            "the answer breaks off",
            None,
        ),
    ],
)
def test_anything_but_a_2xx_is_an_error(behave: Behaviour, reason: str, status: int | None) -> None:
    """It carries the status and a short reason, and never a credential."""
    with RawServer(behave) as server, pytest.raises(EurekaError) as caught:
        ask(f"http://me:{SECRET}@127.0.0.1:{server.port}/eureka", body_limit=100)
    assert caught.value.reason.startswith(reason)
    assert caught.value.status == status
    assert caught.value.server == f"http://***@127.0.0.1:{server.port}/eureka"
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert len(server.requests) == 1


def test_a_refused_connection_is_an_error() -> None:
    """It says so."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(EurekaError, match="connection refused"):
        ask(f"http://127.0.0.1:{port}/eureka")


def test_an_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a name that cannot be looked up."""

    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(EurekaError, match="the name cannot be looked up"):
        ask("http://nowhere.example/eureka")


def test_plain_http_behind_https_is_an_error() -> None:
    """The reason names TLS."""
    with RawServer(answering("200 OK")) as server, pytest.raises(EurekaError, match=r"TLS|no answer|reset"):
        ask(f"https://127.0.0.1:{server.port}", timeout=1.0)


# --- that it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behave", [hanging, trickling])
def test_the_deadline_holds_whatever_the_server_does(behave: Behaviour) -> None:
    """A server that trickles cannot stretch it, and the thread ends: its connection is closed under it."""
    before = threading.active_count()
    with RawServer(behave) as server:
        with pytest.raises(EurekaError, match=r"no answer in 0\.3 s"):
            ask(f"http://127.0.0.1:{server.port}", timeout=0.3)
        assert server.peer_gone.wait(GENEROUS)
    eventually(lambda: threading.active_count() <= before)


def test_a_cancelled_call_ends_at_once() -> None:
    """The caller does not wait for the time-out, nor does the thread."""

    async def main(port: int) -> None:
        transport = Transport(ServerAddress.parse(f"http://127.0.0.1:{port}"), timeout=60)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.urlopen, "/")
            await anyio.to_thread.run_sync(server.received.wait)
            tasks.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.peer_gone.wait, GENEROUS)

    with RawServer(hanging) as server:
        anyio.run(main, server.port)


def test_a_closed_transport_sends_nothing() -> None:
    """Not even what had already been connected."""

    async def main(port: int) -> None:
        transport = Transport(ServerAddress.parse(f"http://127.0.0.1:{port}"), timeout=GENEROUS)
        transport.close()
        transport.close()
        with pytest.raises(EurekaError, match="not sent"):
            await transport.urlopen("/")

    with RawServer(answering("200 OK")) as server:
        anyio.run(main, server.port)
    assert server.requests == []


def test_closing_leaves_what_is_being_sent_to_its_end() -> None:
    """Its outcome is worth knowing."""
    go_on = threading.Event()

    def behave(sock: socket.socket, server: RawServer) -> None:
        go_on.wait(GENEROUS)
        answering("200 OK", b"done")(sock, server)

    async def main(port: int) -> str:
        transport = Transport(ServerAddress.parse(f"http://127.0.0.1:{port}"), timeout=GENEROUS)
        texts = []

        async def call() -> None:
            texts.append((await transport.urlopen("/")).body_text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.to_thread.run_sync(server.received.wait)
            transport.close()
            go_on.set()
        return texts[0]

    with RawServer(behave) as server:
        assert anyio.run(main, server.port) == "done"


def test_a_look_up_that_comes_back_too_late_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abandoned call is over for good, and not too many of them pile up."""
    real = socket.getaddrinfo
    release = threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        release.wait(GENEROUS)
        return real(*args, **kwargs)

    async def main(port: int) -> list[str]:
        transport = Transport(ServerAddress.parse(f"http://127.0.0.1:{port}"), timeout=0.05)
        reasons = []
        for _ in range(9):
            with pytest.raises(EurekaError) as caught:
                await transport.urlopen("/")
            reasons.append(caught.value.reason)
        return reasons

    before = threading.active_count()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with RawServer(answering("200 OK")) as server:
        reasons = anyio.run(main, server.port)
        release.set()
        eventually(lambda: threading.active_count() <= before + 1)
    assert reasons[:8] == ["no answer in 0.05 s"] * 8
    assert "8 earlier calls still hang" in reasons[8]
    assert server.requests == []


def test_a_hung_look_up_does_not_delay_the_exit() -> None:
    """A process whose name server is silent exits all the same, at once."""
    run = subprocess.run(
        [sys.executable, str(SCENARIOS / "eureka_hung_look_up.py")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCENARIOS.parents[1])},
    )
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, ["abandoned", "leaving"], "")


def test_https_is_verified_by_default() -> None:
    """A certificate nobody vouches for is refused, and the reason says so."""
    ca = trustme.CA()
    with TlsServer(ca.issue_cert("127.0.0.1"), answering("200 OK", b"tls")) as server:
        with pytest.raises(EurekaError, match=r"its certificate is not trusted .*a private CA belongs into eureka_ca"):
            ask(f"https://127.0.0.1:{server.port}")
        context = ssl.create_default_context()
        ca.configure_trust(context)
        assert ask(f"https://127.0.0.1:{server.port}", make_ssl_context=lambda: context).body_text == "tls"


def test_nothing_is_logged_by_the_transport(caplog: pytest.LogCaptureFixture) -> None:
    """Errors are the caller's to report."""
    caplog.set_level(logging.DEBUG)
    with RawServer(answering("500 No")) as server, pytest.raises(EurekaError):
        ask(f"http://me:{SECRET}@127.0.0.1:{server.port}")
    assert [record for record in caplog.records if record.name.startswith("graceful")] == []


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does in its own time."""
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("it did not happen in 5 s")
