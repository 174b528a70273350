"""The preStop hook, as a real process against real processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import ssl
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self
from unittest import mock
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from graceful import prestop, prestop_eureka
from graceful.eureka.address import ServerAddress
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.eureka_raw_server import RawServer, TlsServer, answering, forwarding, hanging, trickling

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import TracebackType

ROOT = Path(__file__).parents[1]
SCENARIOS = Path(__file__).parent / "scenarios"
PATIENCE = 30.0
NOBODY = "no process of this container listens for the hook: is graceful at work in the app?"


class Process:
    """A child process whose lines can be waited for; it is ended by its pid."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # a traceback is seen where a line was expected
            text=True,
            env=environ,
        )
        self.pid = self._process.pid
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line of its output."""
        line = self._lines.get(timeout=PATIENCE)
        assert line is not None, "it has ended"
        return line

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> tuple[int, list[str], float]:
        """Wait for its end: exit code, the lines that are left, and the seconds that it took in all."""
        lines = []
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            lines.append(line)
        return self._process.wait(PATIENCE), lines, time.monotonic() - self.started

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class Container:
    """What shares one scope: apps, and the hooks that look for them."""

    def __init__(self, name: str) -> None:
        self._resources = contextlib.ExitStack()
        inherited = {key: value for key, value in os.environ.items() if not re.match("GRACEFUL|EUREKA|KUBE|POD_", key)}
        self.environ = inherited | {"GRACEFUL_SCOPE": name, "PYTHONPATH": str(ROOT)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def app(self, how: str = "leave") -> Process:
        process = Process([sys.executable, str(SCENARIOS / "control_app.py"), how], self.environ)
        self._resources.enter_context(process)
        assert process.line() == "listening"
        return process

    def hook(self, *arguments: str, constants: str = "", **environ: str) -> Process:
        """A hook as the manifest starts it; with `constants`, shorter times than in earnest."""
        start = ["-m", "graceful.prestop"]
        if constants:
            modules = "from graceful import prestop, prestop_talk as talk, prestop_eureka as eureka"
            start = ["-c", f"{modules}; {constants}; raise SystemExit(prestop.main())"]
        process = Process([sys.executable, "-P", *start, *arguments], self.environ | environ)
        return self._resources.enter_context(process)


@pytest.fixture
def container() -> Iterator[Container]:
    with Container(f"prestop-{os.getpid()}-{time.monotonic_ns()}") as container:
        yield container


# --- apps that answer -----------------------------------------------------------------------------------------------


def test_hook_waits_for_its_app_and_prints_what_it_says(container: Container) -> None:
    """The whole story with one app: asked, said, answered, exit 0."""
    app = container.app()
    hook = container.hook(GRACEFUL_GRACE_PERIOD="130")
    word, elapsed, grace = app.line().split()
    assert (word, grace) == ("prestop", "130.0")
    assert 0 < float(elapsed) <= time.monotonic() - hook.started + 0.05  # both ends are in ticks of 10 ms
    assert hook.line() == "begins to leave: the wait takes 60.0 s at most"
    app.write("say out of service on 2 of 2 servers")
    assert hook.line() == "out of service on 2 of 2 servers"
    app.write("done left after 1 s")
    assert hook.end()[:2] == (0, ["left after 1 s"])
    assert app.line() == "answered"


def test_two_apps_begin_at_the_same_time(container: Container) -> None:
    """No app's wait begins only when another's is over; each line names its process."""
    apps = [container.app(), container.app()]
    hook = container.hook("--strict")
    for app in apps:
        assert app.line().startswith("prestop")  # the first is not told to finish before the second was asked
    for app in apps:
        app.write("done left")
    code, lines, _ = hook.end()
    assert code == 0
    assert sorted(lines) == sorted(
        f"[{app.pid}] {text}" for app in apps for text in ("begins to leave: the wait takes 60.0 s at most", "left")
    )


def test_apps_of_another_scope_are_left_alone(container: Container) -> None:
    """Several services on one machine."""
    app = container.app()
    with Container("another") as other:
        hook = other.hook("--strict", constants="talk.SEARCH_TIMEOUT = 0.3")
        assert hook.end()[:2] == (1, [NOBODY, "waits 0.0 s for callers to hear of it; then SIGTERM comes"])
    app.write("done")
    container.hook().end()
    assert app.line().startswith("prestop")  # its own hook, and no other before


def test_app_in_a_runtime_directory(container: Container, short_path: Path) -> None:
    """A socket file instead of an abstract name, with a stale one beside it."""
    container.environ["GRACEFUL_RUNTIME_DIR"] = str(short_path)
    killed = container.app()
    killed.kill()
    assert len(list(short_path.iterdir())) == 1
    app = container.app()
    app.write("done left")
    assert container.hook("--strict").end()[:2] == (0, ["begins to leave: the wait takes 60.0 s at most", "left"])


def test_late_app_is_found(container: Container) -> None:
    """One that is only just starting: the hook looks again."""
    hook = container.hook("--strict", constants="talk.SEARCH_TIMEOUT = 20")
    app = container.app()
    app.write("done left")
    assert hook.end()[:2] == (0, ["begins to leave: the wait takes 60.0 s at most", "left"])


def test_worker_that_was_replaced_is_asked_as_well(container: Container) -> None:
    """A parent starts a new worker while the others leave: it must not stay behind as the only one that is ready."""
    first = container.app()
    hook = container.hook("--strict", constants="talk.LOOK_DELAY = 0.2")
    assert hook.line() == "begins to leave: the wait takes 60.0 s at most"
    second = container.app()
    assert hook.line() == f"[{second.pid}] begins to leave: the wait takes 60.0 s at most"
    second.write("done two")
    first.write("done one")
    code, lines, _ = hook.end()
    assert code == 0
    assert set(lines) == {f"[{first.pid}] one", f"[{second.pid}] two"}


def test_two_hooks_at_once(container: Container) -> None:
    """The kubelet runs it at least once: both get the answer of one leave."""
    app = container.app()
    hooks = [container.hook("--strict"), container.hook("--strict")]
    assert [app.line().split()[0] for _ in hooks] == ["prestop", "prestop"]
    app.write("done left")
    for hook in hooks:
        assert hook.end()[:2] == (0, ["begins to leave: the wait takes 60.0 s at most", "left"])


def test_killed_hook_is_lost(container: Container) -> None:
    """The app hears of it at once, and answers the next hook."""
    app = container.app()
    with container.hook() as hook:
        assert hook.line() == "begins to leave: the wait takes 60.0 s at most"
    assert [app.line().split()[0], app.line()] == ["prestop", "lost"]
    app.write("done left")
    assert container.hook("--strict").end()[0] == 0


def test_unclean_leave_is_a_failure_in_strict_mode_only(container: Container) -> None:
    """A failing hook makes the kubelet send SIGTERM at once: that is for those who ask for it."""
    container.app().write("failed Eureka never answered")
    expected = ["begins to leave: the wait takes 60.0 s at most", "Eureka never answered"]
    assert container.hook().end()[:2] == (0, expected)
    assert container.hook("--strict").end()[:2] == (1, expected)


def test_hook_needs_nobody_to_read_its_output(container: Container) -> None:
    """A pipe that is full does not stop it: the kubelet reads nothing of it."""
    app = container.app()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as output:
        command = [sys.executable, "-P", "-m", "graceful.prestop"]
        hook = subprocess.Popen(command, stdout=output, stdin=subprocess.DEVNULL, env=container.environ)
        try:
            assert app.line().startswith("prestop")
            for _ in range(100):
                app.write("say " + "x" * 2000)
            app.write("done left")
            assert hook.wait(PATIENCE) == 0
        finally:
            hook.kill()
            hook.wait()


# --- apps that do not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["deaf", "mute", "trickle", "garbage", "refuse"])
def test_app_that_never_begins_does_not_hold_the_hook(container: Container, how: str) -> None:
    """None of them says that it leaves: the hook goes on alone, and says so."""
    app = container.app(how)
    code, lines, _ = container.hook("--strict", constants="talk.ANSWER_TIMEOUT = talk.SEARCH_TIMEOUT = 0.5").end()
    assert code == 1
    assert "of 1 processes that listen for the hook in this container none leaves on its word" in lines
    if how == "garbage":
        assert lines[0].startswith("is not understood: expected a line that begins with graceful/1, got 'HTTP/1.1")
    if how == "refuse":
        assert lines[0] == "refused: the app could not leave"
    if how != "refuse":
        app.write("end")


def test_one_silent_app_beside_one_that_answers(container: Container) -> None:
    """The one that answers is waited for; of the other it is said that it does not."""
    app, deaf = container.app(), container.app("deaf")
    hook = container.hook("--strict", constants="talk.ANSWER_TIMEOUT = 0.5")
    assert hook.line() == f"[{app.pid}] begins to leave: the wait takes 60.0 s at most"
    app.write("done left")
    code, lines, _ = hook.end()
    assert (code, lines) == (
        1,
        [f"[{app.pid}] left", f"[{deaf.pid}] does not answer; SIGTERM is the first that it hears"],
    )


def test_app_that_falls_silent(container: Container) -> None:
    """It is given the time that it said, and some more, not the whole grace period."""
    container.app("silent")
    code, lines, _ = container.hook("--strict", constants="talk.SLACK = 0.3", GRACEFUL_GRACE_PERIOD="600").end()
    assert code == 1
    assert lines[0] == "begins to leave: the wait takes 0.2 s at most"
    assert re.fullmatch(r"has not left after \d+\.\d s; the hook ends, SIGTERM comes next", lines[1])


def test_app_that_dies_while_it_leaves(container: Container) -> None:
    """There is nothing more to wait for."""
    container.app("die")
    expected = ["begins to leave: the wait takes 0.2 s at most", "ended before it had answered"]
    assert container.hook("--strict").end()[:2] == (1, expected)


@pytest.mark.parametrize("limit", ["--grace=2", "--timeout=1.8", "GRACEFUL_GRACE_PERIOD"])
def test_hook_ends_before_its_budget(container: Container, limit: str) -> None:
    """Whatever the app says that it needs: the kubelet's clock is the one that counts."""
    app = container.app()
    variable = limit.startswith("GRACEFUL")
    hook = container.hook("--strict", *([] if variable else [limit]), **({limit: "2s"} if variable else {}))
    assert app.line().startswith("prestop")
    code, lines, took = hook.end()
    assert code == 1
    assert re.search(r"has not left after (1\.[89]|[2-9]\.\d) s", lines[-1])
    assert took > 1.7
    assert app.line() == "lost"


# --- nobody answers -------------------------------------------------------------------------------------------------

QUICK = "talk.SEARCH_TIMEOUT = 0.1; eureka.WITHDRAW_TIMEOUT = 2.0; eureka.RETRY_DELAY = 0.05"


def register(eureka: EmbeddedEureka) -> None:
    instance = {
        "instanceId": "orders:10.0.0.7:8080",
        "app": "ORDERS",
        "hostName": "10.0.0.7",
        "ipAddr": "10.0.0.7",
        "status": "UP",
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
    }
    body = json.dumps({"instance": instance}).encode()
    request = Request(f"{eureka.address}/apps/ORDERS", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        assert response.status == 204


def status_of(eureka: EmbeddedEureka) -> str:
    request = Request(f"{eureka.address}/apps/ORDERS/orders:10.0.0.7:8080", headers={"Accept": "application/json"})
    with urlopen(request, timeout=PATIENCE) as response:
        return str(json.load(response)["instance"]["status"])


def identity(url: str, **more: str) -> dict[str, str]:
    """The environment of an app, by the names that Spring users have."""
    names = {
        "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": url,
        "SPRING_APPLICATION_NAME": "orders",
        "POD_IP": "10.0.0.7",
        "GRACEFUL_PORT": "8080",
        "GRACEFUL_PROPAGATION_DELAY": "0",
    }
    return names | more


def test_hook_withdraws_the_instance_itself(container: Container) -> None:
    """On every server, read back, and what came of each is said."""
    with EmbeddedEureka() as one, EmbeddedEureka() as two:
        register(one)
        register(two)
        urls = f"{one.url},{two.url}/"
        code, lines, _ = container.hook(constants=QUICK, **identity(urls)).end()
        assert (status_of(one), status_of(two)) == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
    assert code == 0
    assert lines == [
        NOBODY,
        f"{one.address}: orders:10.0.0.7:8080 is OUT_OF_SERVICE",
        f"{two.address}/: orders:10.0.0.7:8080 is OUT_OF_SERVICE",
        "waits 0.0 s for callers to hear of it; then SIGTERM comes",
    ]


def test_hook_withdraws_from_the_servers_of_all_zones(container: Container) -> None:
    """Whatever the instance's own zone is."""
    with EmbeddedEureka() as one, EmbeddedEureka() as two, EmbeddedEureka() as three:
        for eureka in (one, two, three):
            register(eureka)
        zones = {"EUREKA_CLIENT_SERVICEURL_EU_WEST_1A": two.url, "EUREKA_CLIENT_SERVICEURL_EU_WEST_1B": three.url}
        environ = identity(one.url) | zones | {"EUREKA_INSTANCE_METADATAMAP_ZONE": "eu-west-1a"}
        _, lines, _ = container.hook(constants=QUICK, **environ).end()
        assert [status_of(eureka) for eureka in (one, two, three)] == ["OUT_OF_SERVICE"] * 3
    assert len(lines) == 5


def test_hook_withdraws_what_somebody_else_registered(container: Container) -> None:
    """Status only: the id is given, there is no port; nothing is deleted."""
    names = {"GRACEFUL_EUREKA_STATUS_ONLY": "true", "GRACEFUL_INSTANCE_ID": "orders:10.0.0.7:8080"}
    with EmbeddedEureka() as eureka:
        register(eureka)
        environ = {
            name: value for name, value in identity(eureka.url).items() if name not in ("GRACEFUL_PORT", "POD_IP")
        }
        assert container.hook(constants=QUICK, **environ, **names).end()[0] == 0
        assert status_of(eureka) == "OUT_OF_SERVICE"
        assert eureka.requests("DELETE") == []


def test_withdrawal_is_a_failure_in_strict_mode(container: Container) -> None:
    """The app did not leave, even when the instance did."""
    with EmbeddedEureka() as eureka:
        register(eureka)
        assert container.hook("--strict", constants=QUICK, **identity(eureka.url)).end()[0] == 1


def test_short_grace_period_leaves_time_to_withdraw(container: Container) -> None:
    """Looking for the app takes a share of the budget, not all of it."""
    container.app("deaf")
    with EmbeddedEureka() as eureka:
        register(eureka)
        code, lines, _ = container.hook("--grace=5", **identity(eureka.url)).end()
        assert status_of(eureka) == "OUT_OF_SERVICE"
    assert code == 0
    assert lines[1].endswith("is OUT_OF_SERVICE")


def test_hook_retries_until_it_is_read_back(container: Container) -> None:
    """A server that fails for a moment, or forgets the first change."""
    with EmbeddedEureka() as eureka:
        register(eureka)
        eureka.fail(method="PUT", count=2)
        _, lines, _ = container.hook(constants=QUICK + "; eureka.WITHDRAW_TIMEOUT = 20", **identity(eureka.url)).end()
        assert status_of(eureka) == "OUT_OF_SERVICE"
        assert len(eureka.requests("PUT")) == 3
    assert lines[1].endswith("orders:10.0.0.7:8080 is OUT_OF_SERVICE")


def test_instance_that_is_not_registered_is_safe(container: Container) -> None:
    """Nobody is sent to it; under a name that was derived it is worth saying."""
    with EmbeddedEureka() as eureka:
        _, lines, _ = container.hook(constants=QUICK, **identity(eureka.url)).end()
    assert lines[1] == f"{eureka.address}: orders:10.0.0.7:8080 is not registered (404)"


def test_credentials_are_used_and_never_shown(container: Container) -> None:
    """Basic auth from the address; in the output there are stars."""
    with EmbeddedEureka(user="admin", password="s3:c/r@t,") as eureka:
        _, lines, _ = container.hook(constants=QUICK, **identity(eureka.url)).end()
        raw = eureka.address.replace("://", "://admin:s3:c/r@t,@")
        _, raw_lines, _ = container.hook(constants=QUICK, **identity(raw)).end()
        wrong = eureka.address.replace("://", "://admin:wr0ng@")
        _, wrong_lines, _ = container.hook(constants=QUICK, **identity(wrong)).end()
    shown = eureka.address.replace("://", "://***@")
    assert lines[1] == raw_lines[1] == f"{shown}: orders:10.0.0.7:8080 is not registered (404)"
    assert "answered HTTP 401 to the change, HTTP 401 to reading it back: NOT withdrawn there" in wrong_lines[1]
    assert not re.search("s3|c/r|wr0ng|admin", "".join(lines + raw_lines + wrong_lines))


class Tls:
    """An Eureka that demands a certificate of its private authority, and the files that a client needs for it."""

    def __init__(self, directory: Path) -> None:
        ca = trustme.CA()
        client = ca.issue_cert("orders@example.org")
        self.server, self.ca = ca.issue_cert("127.0.0.1"), ca
        key = load_pem_private_key(client.private_key_pem.bytes(), None)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"zQ7x"))
        contents = {
            "GRACEFUL_EUREKA_CA_FILE": ca.cert_pem.bytes(),
            "GRACEFUL_EUREKA_CLIENT_CERT_FILE": client.cert_chain_pems[0].bytes(),
            "GRACEFUL_EUREKA_CLIENT_KEY_FILE": secret,
        }
        self.environ = {name: str(directory / name) for name in contents}
        for name, content in contents.items():
            (directory / name).write_bytes(content)
        self.environ["GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD"] = "zQ7x"

    def in_front_of(self, eureka: EmbeddedEureka) -> TlsServer:
        return TlsServer(self.server, forwarding(int(eureka.address.split(":")[2].split("/")[0])), self.ca)


def test_hook_withdraws_from_an_https_server_as_the_app_would(container: Container, tmp_path: Path) -> None:
    """With the private authority and the client certificate that the environment names, its key encrypted."""
    tls = Tls(tmp_path)
    with EmbeddedEureka() as eureka, tls.in_front_of(eureka) as server:
        register(eureka)
        environ = identity(f"https://127.0.0.1:{server.port}/eureka") | tls.environ
        _, lines, _ = container.hook(constants=QUICK + "; eureka.WITHDRAW_TIMEOUT = 20", **environ).end()
        assert status_of(eureka) == "OUT_OF_SERVICE"
    assert lines[1].endswith("orders:10.0.0.7:8080 is OUT_OF_SERVICE")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GRACEFUL_EUREKA_CA_FILE", "/absent", "GRACEFUL_EUREKA_CA_FILE is not used: No such file or directory"),
        ("GRACEFUL_EUREKA_CA_FILE", "", "https://127.0.0.1:"),
        ("GRACEFUL_EUREKA_CLIENT_CERT_FILE", "/absent", "GRACEFUL_EUREKA_CLIENT_CERT_FILE is not used: No such file"),
        ("GRACEFUL_EUREKA_CLIENT_CERT_FILE", "", "https://127.0.0.1:"),
        ("GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD", "", "GRACEFUL_EUREKA_CLIENT_CERT_FILE is not used: "),
        ("GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD", "zQ7y", "GRACEFUL_EUREKA_CLIENT_CERT_FILE is not used: "),
    ],
)
def test_hook_says_which_file_it_cannot_use(
    container: Container, tmp_path: Path, name: str, value: str, said: str
) -> None:
    """It asks nobody for a password, trusts nobody instead, and withdraws from the other servers all the same."""
    tls = Tls(tmp_path)
    with EmbeddedEureka() as eureka, EmbeddedEureka() as other, tls.in_front_of(eureka) as server:
        register(eureka)
        register(other)
        urls = f"https://127.0.0.1:{server.port}/eureka,{other.url}"
        environ = identity(urls) | tls.environ | {name: value}
        code, lines, _ = container.hook(constants=QUICK, **environ).end()
        assert (status_of(eureka), status_of(other)) == ("UP", "OUT_OF_SERVICE")
    assert code == 0
    assert lines[1].startswith(said)
    assert "NOT withdrawn there" in lines[-3]
    assert lines[-2].endswith("is OUT_OF_SERVICE")
    assert not re.search("zQ7", "".join(lines))


def test_login_page_is_no_success(container: Container) -> None:
    """Neither a redirect, which is not followed, nor a page that says 200 to everything."""
    with EmbeddedEureka() as eureka, RawServer(answering("200 OK", b"<html></html>", "Connection: close")) as login:
        register(eureka)
        eureka.redirect(f"http://127.0.0.1:{login.port}/login")
        _, lines, _ = container.hook(constants=QUICK, **identity(f"{eureka.url},http://127.0.0.1:{login.port}")).end()
        eureka.clear_faults()
        assert status_of(eureka) == "UP"
    assert "answered HTTP 302 to the change, HTTP 302 to reading it back: NOT withdrawn there" in lines[1]
    assert "cannot be read back: what answers is not Eureka: NOT withdrawn there" in lines[2]


@pytest.mark.parametrize("behaviour", [hanging, trickling], ids=["hanging", "trickling"])
def test_bad_server_holds_neither_the_hook_nor_the_others(
    container: Container, behaviour: Callable[[socket.socket, RawServer], None]
) -> None:
    """All servers together have one deadline, and the good one is asked meanwhile."""
    with EmbeddedEureka() as eureka, RawServer(behaviour) as bad:
        register(eureka)
        urls = f"http://127.0.0.1:{bad.port}/eureka,{eureka.url}"
        code, lines, took = container.hook(constants=QUICK, **identity(urls)).end()
        assert status_of(eureka) == "OUT_OF_SERVICE"
    assert code == 0
    assert "NOT withdrawn there" in lines[1]
    assert lines[2].endswith("is OUT_OF_SERVICE")
    assert took < 15  # without a deadline it would not end


def test_look_up_that_hangs_does_not_hold_the_hook(container: Container) -> None:
    """A thread in getaddrinfo cannot be cancelled; it is left behind."""
    hang = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(1000); "
    code, lines, took = container.hook(constants=hang + QUICK, **identity("http://nowhere.invalid/eureka")).end()
    assert code == 0
    assert lines[1].endswith("no answer in time: NOT withdrawn there")
    assert took < 15


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("SPRING_APPLICATION_NAME",), "set GRACEFUL_APP_NAME, or GRACEFUL_INSTANCE_ID in place"),
        (("POD_IP", "GRACEFUL_PORT"), "set POD_IP (from status.podIP) and GRACEFUL_PORT, or GRACEFUL_INSTANCE_ID in"),
    ],
)
def test_missing_identity_is_named(container: Container, without: tuple[str, ...], message: str) -> None:
    """Which variable to set, and the wait all the same."""
    environ = {key: value for key, value in identity("http://127.0.0.1:1/eureka").items() if key not in without}
    code, lines, _ = container.hook(constants=QUICK, **environ).end()
    assert code == 0
    assert lines[1].startswith("cannot withdraw from Eureka, its instance is not known: ")
    assert message in lines[1]
    assert lines[2].startswith("waits 0.0 s")


def test_hook_waits_the_propagation_delay(container: Container) -> None:
    """Alone it cannot know whether anybody still calls: it waits whole."""
    code, lines, took = container.hook(constants=QUICK, GRACEFUL_PROPAGATION_DELAY="700ms").end()
    assert (code, lines[-1]) == (0, "waits 0.7 s for callers to hear of it; then SIGTERM comes")
    assert took > 0.8


def test_container_log_is_reached_in_kubernetes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Everything that was said is in the container's log as well, where no app can log it; elsewhere nothing is."""
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setattr(prestop, "CONTAINER_LOG", str(log))
    monkeypatch.setattr("graceful.prestop_talk.SEARCH_TIMEOUT", 0.05)
    monkeypatch.setenv("GRACEFUL_SCOPE", "nobody-is-here")
    monkeypatch.setenv("GRACEFUL_PROPAGATION_DELAY", "0")
    monkeypatch.setenv("GRACEFUL_GRACE_PERIOD", "soon")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert prestop.main([]) == 0
    assert log.read_text() == ""
    capfd.readouterr()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert prestop.main([]) == 0
    assert log.read_text() == capfd.readouterr().out
    assert log.read_text().startswith("GRACEFUL_GRACE_PERIOD is not used: 'soon' is not a duration")
    monkeypatch.setattr(prestop, "CONTAINER_LOG", str(tmp_path / "nothing" / "here"))
    assert prestop.main([]) == 0


# --- how long it waits ----------------------------------------------------------------------------------------------


def delays(environ: dict[str, str], *, with_eureka: bool = True) -> prestop_eureka.Delays:
    return prestop_eureka.Delays(environ, with_eureka=with_eureka, say=lambda _text: None)


KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "with_eureka", "seconds"),
    [
        ({}, False, 0),
        ({}, True, 95),
        (KUBERNETES, False, 10),
        (KUBERNETES, True, 95),
        (KUBERNETES | {"GRACEFUL_EUREKA_LOAD_BALANCER_DELAY": "5s"}, True, 65),
        ({"GRACEFUL_PROPAGATION_DELAY": "20s"}, True, 20),
        ({"GRACEFUL_PROPAGATION_DELAY": "many"}, True, 95),
    ],
)
def test_propagation(environ: dict[str, str], with_eureka: bool, seconds: float) -> None:
    """The same numbers as the app has."""
    assert delays(environ, with_eureka=with_eureka).propagation == seconds


@pytest.mark.parametrize(
    ("environ", "grace", "ends"),
    [
        ({}, None, 105),  # nobody knows of a limit
        ({}, 200, 105),
        ({}, 130, 100),  # the app needs 30 s after it
        ({}, 60, 30),
        ({}, 40, 40 * 95 / 125),  # nothing is left for the wait: a share
        (KUBERNETES, None, 30 * 95 / 125),  # 30 s is what Kubernetes gives
        ({"GRACEFUL_DRAIN_TIMEOUT": "0", "GRACEFUL_MARGIN": "1"}, 60, 51),
        ({"SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE": "5s"}, 60, 45),
    ],
)
def test_wait_leaves_the_app_its_time(environ: dict[str, str], grace: float | None, ends: float) -> None:
    """From a hook that started at 0 and has withdrawn by 10."""
    assert delays(environ).wait_ends(grace, 0.0, 10.0) == pytest.approx(ends)


@given(st.floats(1, 3600), st.floats(0, 100), st.floats(0, 200))
def test_wait_never_passes_the_grace_period(grace: float, now: float, propagation: float) -> None:
    """Whatever the numbers: it ends before SIGTERM is due, unless it was late already."""
    ends = delays({"GRACEFUL_PROPAGATION_DELAY": f"{propagation:.3f}"}).wait_ends(grace, 0.0, now)
    assert ends <= max(grace, now)
    assert ends <= now + propagation + 0.001


# --- addresses of Eureka --------------------------------------------------------------------------------------------


def test_servers_are_separated_by_commas() -> None:
    """A comma that no scheme follows belongs to a password."""
    assert prestop_eureka.split_urls("http://a/eureka, https://u:x,y@b/eureka,") == [
        "http://a/eureka",
        "https://u:x,y@b/eureka",
    ]
    assert prestop_eureka.split_urls(" ") == []


@given(st.text(max_size=60))
def test_any_address_ends_in_a_result(text: str) -> None:
    """No text makes the hook fail, and what it shows of it has no credentials."""
    server = prestop_eureka.Server(f"http://user:sesame@127.0.0.1:1/{text}".replace("@/", "/"), "orders", "id")
    server.withdraw(time.monotonic() - 1)
    assert server.result == "no answer in time"
    assert "sesame" not in server.shown


HOSTS = ["eureka", "my_eureka", "10.0.0.7", "[::1]", "[2001:db8::7]", "Eureka.Example", "bücher.example"]
PATHS = ["", "/", "/eureka/", "/eureka/v2", "/a%20b", "/ü//", "/(a);b=c,d~'e'"]
secrets = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: quote(text, safe=""))
users = secrets | st.sampled_from(["%ff%00", "token", "a:b:c", "x!y,z"])


@given(
    st.sampled_from(["http", "https"]),
    st.just("") | st.builds("{}@".format, users) | st.builds("{}:{}@".format, users, users),
    st.builds("{}{}{}".format, st.sampled_from(HOSTS), st.sampled_from(["", ":1", ":80"]), st.sampled_from(PATHS)),
)
def test_app_and_hook_ask_the_same_server(scheme: str, credentials: str, place: str) -> None:
    """The same host, port, path and credentials; these are not shown."""
    url = f"{scheme}://{credentials}{place}"
    address = ServerAddress.parse(url)
    server = prestop_eureka.Server(url, "orders", "id", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    asked: list[tuple[object, ...]] = []

    def request(connection: HTTPConnection, _: str, target: str, headers: dict[str, str]) -> None:
        tls = isinstance(connection, HTTPSConnection)
        asked.append((tls, connection.host, connection.port, target, headers.get("Authorization")))
        raise OSError("asked")

    with mock.patch.object(HTTPConnection, "request", request), pytest.raises(OSError, match="asked"):
        server._call("GET", "/apps")
    assert asked == [(address.secure, address.host, address.port, f"{address.path}/apps", address.authorization)]
    assert server.shown == f"{scheme}://{'***@' if credentials else ''}{place}"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "unknown argument --fast"),
        (["--strict=1"], "unknown argument --strict=1"),
        (["--grace"], "--grace needs a number of seconds"),
        (["--grace", "soon"], "--grace: 'soon' is not a duration"),
        (["--timeout=-1"], "--timeout: '-1' is not a duration"),
        (["extra"], "unknown argument extra"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, what was wrong, and the usage."""
    assert prestop.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"graceful.prestop: {message}")
    assert "usage: python3 -P -m graceful.prestop" in err


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    """On standard output, and nobody is asked to leave."""
    assert prestop.main(["--help"]) == 0
    assert capfd.readouterr().out == prestop.USAGE


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--strict"], 1)])
def test_unexpected_error_is_one_line(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback that nobody sees, and no exit code that makes things worse."""

    def broken(*_: object) -> bool:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(prestop, "_leave", broken)
    assert prestop.main(arguments) == code
    assert capfd.readouterr() == ("the hook failed: ZeroDivisionError: division by zero\n", "")


def test_closed_output_is_no_error(container: Container) -> None:
    """Whoever should read it has gone."""
    container.app().write("done left")
    command = f"exec {sys.executable} -P -m graceful.prestop --strict >&-"
    assert subprocess.run(["sh", "-c", command], env=container.environ, timeout=PATIENCE, check=False).returncode == 0


def test_hook_imports_next_to_nothing() -> None:
    """Of graceful four modules; of the standard library what `socket` brings along, and select."""
    script = (
        "import sys, os, time, socket, select, struct; before = set(sys.modules); import graceful.prestop; "
        "print(*sorted(set(sys.modules) - before)); print(*sys.modules)"
    )
    command = [sys.executable, "-P", "-S", "-c", script]
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE, env=environ)
    ours, everything = done.stdout.splitlines()
    assert ours.split() == [
        "__future__",
        "graceful",
        "graceful.prestop",
        "graceful.prestop_talk",
        "graceful.rendezvous",
        "graceful.wire",
    ]
    heavy = {"argparse", "asyncio", "contextlib", "json", "logging", "pathlib", "re", "threading", "typing", "http"}
    assert not heavy & set(everything.split())


def test_age_of_the_process_is_its_own() -> None:
    """What the interpreter's start took belongs to the hook."""
    before = time.monotonic()
    script = "from graceful import rendezvous; print(rendezvous.process_age())"
    command = [sys.executable, "-c", script]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE, env=environ)
    assert 0 < float(done.stdout) <= time.monotonic() - before + 0.02
