"""Servers that are hard to talk to: refusals, private authorities, client certificates, proxies."""

import base64
import logging
import os
import random
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

import graceful
from graceful.core.registry import Verdict
from graceful.eureka.address import ServerAddress
from graceful.eureka.instance import Instance
from graceful.eureka.proxy import Proxies, Proxy
from graceful.eureka.registration import EurekaRegistration
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.eureka.status_only import StatusOnly
from graceful.hosting import Mode
from graceful.registries import registry_factory
from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.settings import SettingsError, load_settings
from tests.eureka_raw_server import RawServer, TlsServer, answering, forwarding, hanging, proxying, reading
from tests.eureka_servers import RunningEureka

pytestmark = pytest.mark.anyio

INSTANCE = Instance(app="hard", ip="10.0.0.7", port=8080)
KEY = (INSTANCE.app, INSTANCE.instance_id)
CSRF_LINE = 'http.csrf(csrf -> csrf.ignoringRequestMatchers("/eureka/**"))'
PASSWORD = "zQ7x-sesame"
FOUND = answering("200 OK", f'{{"instance": {{"instanceId": "{INSTANCE.instance_id}", "status": "UP"}}}}'.encode())

Behaviour = Callable[..., None]


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting and no proxy of somebody else's."""
    for name in os.environ:
        if name.startswith(("GRACEFUL_", "EUREKA_", "KUBERNETES_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def soon(seconds: float = 5.0) -> float:
    return anyio.current_time() + seconds


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def warned(caplog: pytest.LogCaptureFixture, text: str) -> str:
    """Wait for a warning with this text."""
    with anyio.fail_after(20):
        while not (found := [message for message in warnings_in(caplog) if text in message]):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return found[0]


def registration(url: str, **options: Any) -> EurekaRegistration:
    return EurekaRegistration([url], INSTANCE, heartbeat_interval=0.05, random=random.Random(7), **options)


# --- 401 and 403 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("found", [FOUND, answering("404 Not Found")], ids=["found", "absent"])
@pytest.mark.parametrize("call", ["register", "heartbeat", "set_status", "deregister"])
async def test_csrf_protection_is_told_from_wrong_credentials(status: int, found: Behaviour, call: str) -> None:
    """Reading works with the same credentials: the reason says so, and which line the server lacks."""
    calls: dict[str, Callable[[Server], Any]] = {
        "register": lambda server: server.register(INSTANCE, 1),
        "heartbeat": lambda server: server.heartbeat(*KEY, 1),
        "set_status": lambda server: server.set_status(*KEY, Status.OUT_OF_SERVICE, 1),
        "deregister": lambda server: server.deregister(*KEY),
    }
    with RawServer(reading(found, changes=answering(f"{status} No"))) as raw:
        with pytest.raises(EurekaError) as caught:
            await calls[call](Server(f"http://me:{PASSWORD}@127.0.0.1:{raw.port}/eureka"))
        methods = [request.split()[0] for request in raw.requests]
    assert caught.value.status == status
    assert caught.value.reason.startswith(f"HTTP {status} to changes, though reading works with the same credentials")
    assert CSRF_LINE in caught.value.reason
    assert methods[1:] == [b"GET"]
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("credentials", "on_get", "on_put", "reason"),
    [
        ("me:x@", answering("401 No"), answering("401 No"), "HTTP 401: wrong credentials"),
        ("me:x@", answering("401 No"), answering("403 No"), "HTTP 401: wrong credentials"),
        ("me:x@", answering("403 No"), answering("403 No"), "HTTP 403: this user may not even read"),
        ("", answering("401 No"), answering("401 No"), "HTTP 401: it wants credentials, and its address in eureka_url"),
        ("", FOUND, answering("403 No"), "HTTP 403 to changes, though reading works: they want credentials in eureka"),
        ("me:x@", answering("500 No"), answering("403 No"), "HTTP 403"),
        ("me:x@", hanging, answering("401 No"), "HTTP 401"),
        ("me:x@", FOUND, answering("500 No"), "HTTP 500"),
        (
            "me:x@",
            FOUND,
            answering("302 No", b"", "Location: https://login.example/?a=b"),
            "HTTP 302, a redirect to lo",
        ),
    ],
)
async def test_what_a_refusal_means(credentials: str, on_get: Behaviour, on_put: Behaviour, reason: str) -> None:
    """Only what the GET shows is said; where it shows nothing, the status alone."""
    with RawServer(reading(on_get, changes=on_put)) as raw:
        server = Server(f"http://{credentials}127.0.0.1:{raw.port}/eureka", try_timeout=0.4)
        with pytest.raises(EurekaError) as caught:
            await server.set_status(*KEY, Status.OUT_OF_SERVICE, 1)
    if reason.startswith(("HTTP 401:", "HTTP 403:", "HTTP 403 ", "HTTP 302")):
        assert caught.value.reason.startswith(reason)
    else:
        assert caught.value.reason == reason


async def test_wrong_credentials_are_said_at_registration_and_in_the_outcome(
    eureka_server_basic: RunningEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """On the embedded server and on the real one."""
    registry = registration(eureka_server_basic.address.replace("://", f"://eureka:{PASSWORD}@"), try_timeout=5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve)
        said = await warned(caplog, "no Eureka server takes")
        outcome = await registry.withdraw(soon(2.0))
        tasks.cancel_scope.cancel()
    assert said.endswith("HTTP 401: wrong credentials: correct user and password in eureka_url")
    assert outcome.verdict is Verdict.FAILED
    assert outcome.servers[0].detail == "HTTP 401: wrong credentials: correct user and password in eureka_url"
    assert PASSWORD not in caplog.text


async def test_csrf_protection_that_was_left_on(
    eureka_server_csrf: RunningEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """At the registration and in what came of the deregistration; nothing was registered, so all are withdrawn."""
    registry = registration(eureka_server_csrf.url, try_timeout=5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve)
        said = await warned(caplog, "no Eureka server takes")
        withdrawn = await registry.withdraw(soon())
        deregistered = await registry.deregister(soon(1))
        tasks.cancel_scope.cancel()
    for text in (said, deregistered.servers[0].detail):
        assert "to changes, though reading works with the same credentials" in text
        assert CSRF_LINE in text
    assert withdrawn.servers[0].detail == "absent"
    assert str(eureka_server_csrf.password) not in caplog.text


async def test_a_refusal_in_the_middle_of_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A server that was down and then refuses: nobody would look for its settings otherwise."""
    with EmbeddedEureka() as eureka:
        eureka.fail(503)
        registry = registration(eureka.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(registry.serve)
            assert "HTTP 503" in await warned(caplog, "no Eureka server takes")
            eureka.clear_faults()
            eureka.fail(403, method="POST")
            await warned(caplog, CSRF_LINE)
            count = len(eureka.requests("POST"))
            await anyio.to_thread.run_sync(lambda: eureka.wait_for_requests("POST", count=count + 2))
            tasks.cancel_scope.cancel()
    assert len([message for message in warnings_in(caplog) if "no Eureka server takes" in message]) == 2


# --- https ----------------------------------------------------------------------------------------------------------


class Files:
    """A private authority, and what clients and servers have of it, as files."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.server = self.ca.issue_cert("127.0.0.1")
        client = self.ca.issue_cert("orders@example.org")
        self.directory = directory
        self.ca_file = self._write("ca.pem", self.ca.cert_pem.bytes())
        chain = b"".join(each.bytes() for each in client.cert_chain_pems)
        key = client.private_key_pem.bytes()
        self.cert_file = self._write("client.pem", chain)
        self.both_file = self._write("both.pem", chain + key)
        self.key_file = self._write("key.pem", key)
        self.other_key_file = self._write("other.pem", self.server.private_key_pem.bytes())
        self.encrypted_file = self._write("encrypted.pem", encrypted(key))
        self.text_file = self._write("text.pem", b"not what it should be\n")

    def _write(self, name: str, data: bytes) -> str:
        path = self.directory / name
        path.write_bytes(data)
        return str(path)


def encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD.encode()),
    )


@pytest.fixture
def files(short_path: Path) -> Files:
    return Files(short_path)


def settings_for(port: int, **more: Any) -> dict[str, Any]:
    return {"eureka_url": f"https://127.0.0.1:{port}/eureka", "app_name": "hard", "port": 8080} | more


def made(mode: Mode = Mode.ACTIVE, **arguments: Any) -> EurekaRegistration:
    """The registry as `install()` makes it."""
    make = registry_factory(load_settings(arguments), mode)
    assert make is not None
    registry = make()
    assert isinstance(registry, EurekaRegistration)
    return registry


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        ({}, 30.0),
        ({"eureka_server_cache_delay": 3}, 3.0),
        ({"eureka_server_cache_delay": 0}, None),
        ({"eureka_observe_cache": False}, None),
        ({"propagation_delay": 95}, None),
    ],
)
def test_the_servers_are_watched_unless_there_is_nothing_to_gain(
    settings: dict[str, Any], interval: float | None
) -> None:
    """By default; not where the delay was set as a whole."""
    assert made(**settings_for(1) | settings)._status._publication._interval == interval


def test_a_registration_of_somebody_elses_is_watched_too() -> None:
    """Who registers makes no difference to what the servers show."""
    status_only = {"eureka_status_only": True, "instance_id": "hard:1"}
    make = registry_factory(load_settings(settings_for(1) | status_only), Mode.ACTIVE)
    registry = make() if make else None
    assert isinstance(registry, StatusOnly)
    assert registry._status._publication._interval == 30.0


async def whole_life(registry: EurekaRegistration, eureka: EmbeddedEureka) -> None:
    """UP, OUT_OF_SERVICE and absent, as the server itself sees it."""
    count = len(eureka.requests("POST")) + 1
    await registry.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve)
        await anyio.to_thread.run_sync(lambda: eureka.wait_for_requests("POST", count=count))
        withdrawn = await registry.withdraw(soon())
        tasks.cancel_scope.cancel()
    assert withdrawn.servers[0].detail == "OUT_OF_SERVICE"
    assert (await registry.deregister(soon())).servers[0].detail == "absent"


@pytest.mark.parametrize("how", ["one file", "two files", "encrypted"])
async def test_a_whole_life_with_a_private_authority_and_a_client_certificate(files: Files, how: str) -> None:
    """The files are read once, by install(): they may be gone when the registry is made, and for a second life."""
    key = {
        "one file": {"eureka_client_cert_file": files.both_file},
        "two files": {"eureka_client_cert_file": files.cert_file, "eureka_client_key_file": files.key_file},
        "encrypted": {
            "eureka_client_cert_file": files.cert_file,
            "eureka_client_key_file": files.encrypted_file,
            "eureka_client_key_password": PASSWORD,
        },
    }[how]
    with EmbeddedEureka() as eureka:
        port = int(eureka.address.split(":")[2].split("/")[0])
        with TlsServer(files.server, forwarding(port), files.ca) as tls:
            settings = load_settings(settings_for(tls.port, eureka_ca_file=files.ca_file, **key))
            make = registry_factory(settings, Mode.ACTIVE)
            for file in files.directory.iterdir():
                file.unlink()
            assert make is not None
            for _ in range(2):
                registry = make()
                assert isinstance(registry, EurekaRegistration)
                await whole_life(registry, eureka)


async def test_a_server_that_demands_a_certificate_says_so(files: Files) -> None:
    """Without one the reason names the setting."""
    with TlsServer(files.server, answering("200 OK"), files.ca) as tls:
        registry = made(**settings_for(tls.port, eureka_ca_file=files.ca_file))
        outcome = await registry.withdraw(soon(1))
        assert tls.requests == []
    assert outcome.verdict is Verdict.FAILED
    assert outcome.servers[0].detail == "it wants a client certificate: set eureka_client_cert_file"


async def test_another_authority_is_not_trusted(files: Files) -> None:
    """The private one stands in place of the system's, and nothing else is believed."""
    stranger = trustme.CA().issue_cert("127.0.0.1")
    with TlsServer(stranger, answering("200 OK")) as tls:
        outcome = await made(**settings_for(tls.port, eureka_ca_file=files.ca_file)).withdraw(soon(1))
        assert tls.requests == []
    assert outcome.servers[0].detail.startswith("its certificate is not trusted")


async def test_a_host_that_the_certificate_does_not_name_is_not_trusted(files: Files) -> None:
    """A private authority does not turn the check of the name off."""
    with TlsServer(files.ca.issue_cert("eureka.example"), answering("200 OK")) as tls:
        outcome = await made(**settings_for(tls.port, eureka_ca_file=files.ca_file)).withdraw(soon(1))
        assert tls.requests == []
    assert outcome.servers[0].detail.startswith("its certificate is not trusted (IP address mismatch")
    assert "private CA" not in outcome.servers[0].detail


MISTAKES = [
    ({"eureka_ca_file": "absent.pem"}, "eureka_ca_file", "it cannot be read (No such file or directory)"),
    ({"eureka_ca_file": "."}, "eureka_ca_file", "it cannot be read (Is a directory)"),
    ({"eureka_ca_file": "text.pem"}, "eureka_ca_file", "there is no certificate in it"),
    ({"eureka_ca_file": "key.pem"}, "eureka_ca_file", "there is no certificate in it"),
    ({"cert": "absent.pem"}, "eureka_client_cert_file", "it cannot be read (No such file or directory)"),
    ({"cert": "text.pem"}, "eureka_client_cert_file", "there is no certificate in it"),
    ({"cert": "client.pem"}, "eureka_client_cert_file", "there is no private key in it: expected the key in it too"),
    ({"cert": "client.pem", "key": "absent.pem"}, "eureka_client_key_file", "it cannot be read"),
    ({"cert": "client.pem", "key": "text.pem"}, "eureka_client_key_file", "there is no private key in it"),
    ({"cert": "client.pem", "key": "other.pem"}, "eureka_client_key_file", "its key belongs to another certificate"),
    ({"cert": "client.pem", "key": "encrypted.pem"}, "eureka_client_key_file", "its key is encrypted: set eureka_clie"),
    (
        {"cert": "client.pem", "key": "encrypted.pem", "eureka_client_key_password": "zQ7x-wrong"},
        "eureka_client_key_file",
        "its key does not open with eureka_client_key_password",
    ),
    (
        {"cert": "client.pem", "key": "encrypted.pem", "eureka_client_key_password": "zQ7x" * 500},
        "eureka_client_key_file",
        "its key does not open with eureka_client_key_password",
    ),
]


@pytest.mark.parametrize(("mistake", "setting", "problem"), MISTAKES)
def test_a_file_that_cannot_be_used_is_refused_by_install(
    files: Files, mistake: dict[str, str], setting: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the setting, what it is, what is wrong and what to correct; the password is not shown, nor asked for."""
    names = {"cert": "eureka_client_cert_file", "key": "eureka_client_key_file"}
    given: dict[str, Any] = {
        names.get(name, name): value if "password" in name else str(files.directory / value)
        for name, value in mistake.items()
    }
    with pytest.raises(SettingsError) as caught:
        graceful.install(**settings_for(1), **given, enabled=True)
    assert str(caught.value).startswith(f"{setting} is {given[setting]!r}: {problem}")
    assert str(caught.value).endswith(f"correct the argument {setting}")
    assert "zQ7x" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv(f"GRACEFUL_{setting.upper()}", given.pop(setting))
    with pytest.raises(SettingsError, match=f"; correct GRACEFUL_{setting.upper()}$"):
        graceful.install(**settings_for(1), **given, enabled=True)


def test_files_are_read_where_they_are_needed_only(tmp_path: Path) -> None:
    """Not for a plan, not by a test that imports the application, not without an https server."""
    absent = {"eureka_ca_file": str(tmp_path / "absent.pem")}
    for mode in (Mode.INERT, Mode.DEFERRED):
        made(mode, **settings_for(1, **absent))
    made(**settings_for(1, **absent) | {"eureka_url": "http://127.0.0.1:1"})
    with pytest.raises(SettingsError):
        made(**settings_for(1, **absent))


async def test_a_missing_file_is_said_by_a_test_that_registers(tmp_path: Path) -> None:
    """Where it was not checked before, it is the server's failure."""
    registry = made(Mode.DEFERRED, **settings_for(1, eureka_ca_file=str(tmp_path / "absent.pem")))
    outcome = await registry.withdraw(soon(0.3))
    assert outcome.servers[0].detail.startswith("eureka_ca_file: it cannot be read (No such file or directory)")


# --- proxies --------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[RawServer]:
    with RawServer(proxying) as server:
        yield server


def heads(server: RawServer) -> list[str]:
    return [request.decode().partition("\r\n")[0] for request in server.requests]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("spelling", [str.upper, str.lower], ids=["capitals", "small"])
async def test_proxies_are_used_only_if_asked_for(
    files: Files, proxy: RawServer, monkeypatch: pytest.MonkeyPatch, secure: bool, spelling: Callable[[str], str]
) -> None:
    """The whole life goes through it, or nothing of it; the server sees what it always sees."""
    name = "https_proxy" if secure else "http_proxy"
    monkeypatch.setenv(spelling(name), f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
    with EmbeddedEureka() as eureka:
        port = int(eureka.address.split(":")[2].split("/")[0])
        with TlsServer(files.server, forwarding(port)) as tls:
            url = f"https://127.0.0.1:{tls.port}/eureka" if secure else eureka.url
            arguments = settings_for(1, eureka_ca_file=files.ca_file) | {"eureka_url": url}
            await whole_life(made(**arguments), eureka)
            assert proxy.requests == []
            await whole_life(made(**arguments, eureka_use_proxy=True), eureka)
            direct, through = len(tls.requests), len(proxy.requests)
    assert through >= 7
    expected = f"CONNECT 127.0.0.1:{tls.port} HTTP/1.1" if secure else f" {eureka.address}/apps/hard"
    assert all(expected in head for head in heads(proxy))
    token = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert all(f"Proxy-Authorization: Basic {token}\r\n".encode() in request for request in proxy.requests)
    if secure:
        assert direct >= through
        assert not any(b"Proxy-Authorization" in request for request in tls.requests)


async def test_no_proxy_is_honoured(proxy: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that it names is called directly."""
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{proxy.port}")
    with EmbeddedEureka() as eureka:
        assert await Server(eureka.url, proxies=Proxies()).read(*KEY) is None
        assert len(proxy.requests) == 1
        monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
        assert await Server(eureka.url, proxies=Proxies()).read(*KEY) is None
        assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("url", "no_proxy", "used"),
    [
        ("http://eureka:8761/eureka", "", "http://plain"),
        ("https://eureka/eureka", "", "http://secure"),
        ("http://eureka:8761/eureka", "eureka", None),
        ("http://eureka:8761/eureka", "eureka:8761", None),
        ("http://eureka:8761/eureka", "eureka:8762", "http://plain"),
        ("http://a.prod.svc/eureka", "localhost,.svc", None),
        ("http://a.prod.svc/eureka", "prod", "http://plain"),
        ("http://[::1]:8761/eureka", "::1", None),
        ("http://[::1]:8761/eureka", "[::1]", None),
        ("http://[fd00::1]/eureka", "::1", "http://plain"),
        ("https://eureka/eureka", "*", None),
    ],
)
def test_which_proxy(url: str, no_proxy: str, used: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the server's scheme, unless NO_PROXY has the host."""
    for name, value in {"HTTP_PROXY": "http://plain", "https_proxy": "secure", "NO_PROXY": no_proxy}.items():
        monkeypatch.setenv(name, value)
    found = Proxies().for_server(ServerAddress.parse(url))
    assert (found and str(found)) == used


def test_no_variable_is_no_proxy() -> None:
    """Asked for, but there is none."""
    assert Proxies().for_server(ServerAddress.parse("http://eureka/eureka")) is None


def test_a_proxy_does_not_show_its_credentials() -> None:
    """In no text form."""
    proxy = Proxy.parse(f"http://me:{PASSWORD}@proxy:3128/", "HTTP_PROXY")
    assert (proxy.host, proxy.port, str(proxy)) == ("proxy", 3128, "http://***@proxy:3128")
    assert repr(proxy) == "Proxy(public='http://***@proxy:3128')"


@pytest.mark.parametrize(
    "text", ["socks5://me:zQ7x@proxy:1080", "https://me:zQ7x@p", "http://me:zQ7x@p/x", "me:zQ7x/@p"]
)
def test_a_proxy_that_cannot_be_used_is_refused_by_install(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by its variable, nothing of it quoted; and only where it would be used."""
    monkeypatch.setenv("HTTPS_PROXY", text)
    made(**settings_for(1))
    made(Mode.INERT, **settings_for(1), eureka_use_proxy=True)
    made(**settings_for(1) | {"eureka_url": "http://127.0.0.1:1"}, eureka_use_proxy=True)
    with pytest.raises(SettingsError) as caught:
        graceful.install(**settings_for(1), eureka_use_proxy=True, enabled=True)
    shown = "".join(traceback.format_exception(caught.value))
    assert "eureka_use_proxy is set, but HTTPS_PROXY (not shown: it may have credentials) must look like" in shown
    assert "zQ7x" not in shown


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (answering("407 Proxy Authentication Required"), "HTTP 407 to CONNECT"),
        (answering("404 Not Found"), "HTTP 404 to CONNECT"),
        (answering("302 Found", b"", "Location: https://login.example"), "HTTP 302 to CONNECT"),
        (lambda sock, _: sock.sendall(b"SSH-2.0-x\r\n"), "no HTTP answer (BadStatusLine)"),
        (lambda *_: None, "no HTTP answer (RemoteDisconnected)"),
        (hanging, "no answer in 0.4 s"),
    ],
)
async def test_what_a_proxy_does_wrong_is_the_proxys(
    behave: Behaviour, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, without its credentials; its 404 does not mean that the instance is absent."""
    with RawServer(behave) as bad:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{bad.port}")
        server = Server("https://127.0.0.1:1/eureka", try_timeout=0.4, proxies=Proxies())
        with pytest.raises(EurekaError) as caught:
            await server.read(*KEY)
    assert caught.value.reason == f"{reason}, through the proxy http://***@127.0.0.1:{bad.port}"
    assert caught.value.status is None
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


async def test_a_proxy_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the server that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"127.0.0.1:{port}")
    with pytest.raises(EurekaError, match=f"connection refused, through the proxy http://127.0.0.1:{port}$"):
        await Server("http://127.0.0.1:1/eureka", proxies=Proxies()).read(*KEY)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://eureka:8761/eureka", "eureka:8761"),
        ("http://eureka:80/eureka", "eureka"),
        ("https://eureka/eureka", "eureka"),
        ("http://[::1]:8761", "[::1]:8761"),
        ("http://[::1]", "[::1]"),
        ("http://bücher.example:1", "xn--bcher-kva.example:1"),
        ("http://my_eureka:1", "my_eureka:1"),
    ],
)
def test_an_authority(url: str, authority: str) -> None:
    """As a request line takes it."""
    assert ServerAddress.parse(url).authority == authority


def test_one_default_context_for_all() -> None:
    """Reading the system's authorities takes long, and is done once."""
    from graceful.eureka.tls import default_context

    assert default_context() is default_context()
    assert default_context().verify_mode is ssl.CERT_REQUIRED
