"""The app's end of the hook's channel: what it answers, and what it does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from graceful import control, listener, rendezvous, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from anyio.from_thread import BlockingPortal

SCENARIOS = Path(__file__).parent / "scenarios"
ROOT = Path(__file__).parents[1]
REQUEST = wire.encode_first("prestop", elapsed=0.25, grace=130)


class Session:
    """A leave that the test drives: what it puts in `script` is said, None ends it."""

    def __init__(self, log: queue.Queue[str]) -> None:
        self.within = 95.0
        self.outcome = (True, "left after 1.0 s")
        self.script: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self._log = log

    async def messages(self) -> AsyncIterator[str]:
        try:
            while (message := await self.script.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self._log.put("closed")

    def summary(self) -> tuple[bool, str]:
        return self.outcome

    def answered(self) -> None:
        self._log.put("answered")

    def lost(self) -> None:
        self._log.put("lost")


class App:
    """An app whose control socket runs in a thread; it remembers what it was told."""

    def __init__(self) -> None:
        self.log: queue.Queue[str] = queue.Queue()
        self.sessions: queue.Queue[Session] = queue.Queue()
        self.told: list[tuple[float, float | None]] = []
        self.fault: Exception | None = None
        self.address = ""
        self.portal: BlockingPortal

    def describe(self) -> dict[str, str]:
        return {"phase": "serving", "instance": "orders/a b"}

    def prestop(self, *, elapsed: float, grace: float | None) -> Session:
        if self.fault:
            raise self.fault
        self.told.append((elapsed, grace))
        session = Session(self.log)
        self.sessions.put(session)
        return session

    def drain_by_hand(self, *, pod: bool) -> Session:
        return self.prestop(elapsed=-1.0, grace=float(pod))

    def say(self, session: Session, *messages: str | Exception | None) -> None:
        for message in messages:
            self.portal.call(session.script.put_nowait, message)

    def expect(self, *events: str) -> None:
        """The next things that happened to the sessions."""
        assert [self.log.get(timeout=20) for _ in events] == list(events)

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        try:
            client.connect(self.address)
            if data:
                client.sendall(data)
        except OSError:
            client.close()
            raise
        return client

    def serves_a_hook(self) -> None:
        """One whole conversation: whatever came before, the app did not notice."""
        with self.connect(REQUEST) as client:
            self.say(self.sessions.get(timeout=20), "hello", None)
            assert read_all(client) == b"graceful/1 leaving within=95.000\nsay hello\ndone left after 1.0 s\n"
        self.expect("closed", "answered")


def read_all(client: socket.socket) -> bytes:
    """Everything until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            data += chunk
    return data


@contextlib.contextmanager
def serving(app: App, address: str | None = None) -> Iterator[App]:
    with start_blocking_portal() as portal:
        app.portal = portal
        serve = partial(control.serve_control, app, address=address)
        future, app.address = portal.start_task(serve)
        try:
            yield app
        finally:
            future.cancel()


@pytest.fixture(autouse=True)
def own_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own name; several run at once on one machine."""
    monkeypatch.setenv("GRACEFUL_SCOPE", f"control-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}")
    monkeypatch.delenv("GRACEFUL_RUNTIME_DIR", raising=False)


@pytest.fixture
def app() -> Iterator[App]:
    with serving(App()) as app:
        yield app
    assert app.log.empty()  # every session is answered or lost, and that once


# --- what a hook gets -----------------------------------------------------------------------------------------------


def test_hook_is_answered_when_the_wait_is_over(app: App) -> None:
    """`leaving` at once, then what happens as it happens, the answer last."""
    with app.connect(REQUEST) as client:
        lines = client.makefile("rb")
        assert lines.readline() == b"graceful/1 leaving within=95.000\n"
        session = app.sessions.get(timeout=20)
        app.say(session, "out of service on 2 of 2 servers")
        assert lines.readline() == b"say out of service on 2 of 2 servers\n"
        app.say(session, None)
        assert lines.readline() == b"done left after 1.0 s\n"
        assert lines.readline() == b""
        lines.close()
    app.expect("closed", "answered")
    assert app.told == [(0.25, 130.0)]


def test_unclean_leave_is_told(app: App) -> None:
    """`failed` instead of `done`, and the hook counts as answered all the same."""
    with app.connect(wire.encode_first("prestop", elapsed=0, grace=None)) as client:
        session = app.sessions.get(timeout=20)
        session.outcome = (False, "Eureka never answered")
        session.within = float("inf")
        app.say(session, None)
        assert read_all(client).endswith(b"failed Eureka never answered\n")
    app.expect("closed", "answered")
    assert app.told == [(0.0, None)]


def test_two_hooks_at_once(app: App) -> None:
    """Each has its own session; that they are one leave is the coordinator's business."""
    with app.connect(REQUEST) as one, app.connect(REQUEST) as other:
        for session in [app.sessions.get(timeout=20), app.sessions.get(timeout=20)]:
            app.say(session, None)
        assert read_all(one) == read_all(other) == b"graceful/1 leaving within=95.000\ndone left after 1.0 s\n"
    assert sorted(app.log.get(timeout=20) for _ in range(4)) == ["answered", "answered", "closed", "closed"]


@pytest.mark.parametrize("how", ["close", "half-close", "reset", "chatter"])
def test_broken_connection_is_noticed_while_waiting(app: App, how: str) -> None:
    """A hook that was killed is lost at once, not when the wait is over."""
    with app.connect(REQUEST) as client:
        app.sessions.get(timeout=20)
        client.recv(1)
        if how == "half-close":
            client.shutdown(socket.SHUT_WR)
        elif how == "chatter":
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x" * 1_000_000)
        else:
            client.recv(100, 0 if how == "close" else socket.MSG_PEEK)  # what is unread makes its end a reset
            client.close()
        app.expect("closed", "lost")
    app.serves_a_hook()


def test_end_of_the_server_is_no_loss() -> None:
    """When the app itself ends the channel, the session hears neither; the hook sees the end of its connection."""
    app = App()
    with serving(app):
        client = app.connect(REQUEST)
        app.sessions.get(timeout=20)
    with client:
        assert read_all(client) == b"graceful/1 leaving within=95.000\n"
    app.expect("closed")
    assert app.log.empty()


# --- what the app does not notice -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"failed expected a line that begins with graceful/1"),
        (b"\x00\xff\xfe\n", b"failed expected a line of graceful/1, got bytes that are not ASCII"),
        (b"\n", b"failed expected a line that begins with graceful/1"),
        (b"graceful/2 prestop elapsed=0\n", b"failed the other side speaks graceful/2, this one graceful/1"),
        (b"graceful/1 reboot\n", b"failed unknown verb 'reboot', expected one of prestop"),
        (b"graceful/1 prestop elapsed=soon\n", b"failed expected elapsed=<seconds>"),
        (b"x" * 1_000_000, b"failed a line is longer than 4096 bytes"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_garbage_costs_its_own_connection_alone(
    app: App, sent: bytes, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told what was wrong, the app is not told anything, and nothing is logged."""
    with app.connect() as client:
        with contextlib.suppress(ConnectionError):  # it is closed before a megabyte is through
            client.sendall(sent)
        got = read_all(client)
    assert got.startswith(b"graceful/1 refused\n" + answer)
    assert app.told == []
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    app.serves_a_hook()


@pytest.mark.parametrize("sent", [b"", b"graceful/1 pre"])
def test_silent_client_is_dropped(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request comes with the connection or not at all."""
    monkeypatch.setattr(control, "_READ_TIMEOUT", 0.2)
    with serving(App()) as app, app.connect(sent) as client:
        assert read_all(client) == b""
        assert app.told == []


def test_client_that_never_reads_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app neither waits for it nor keeps what it does not read."""
    monkeypatch.setattr(control, "_WRITE_TIMEOUT", 0.3)
    with serving(App()) as app, app.connect(REQUEST):
        app.say(app.sessions.get(timeout=20), *["x" * 4000] * 500)
        app.expect("closed", "lost")
        app.serves_a_hook()


def test_too_many_connections_are_closed_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens them; when they are gone, a hook is served again."""
    monkeypatch.setattr(control, "_READ_TIMEOUT", 1000)
    idle = [app.connect() for _ in range(control._CONNECTION_LIMIT)]
    with app.connect() as surplus:
        assert read_all(surplus) == b""
    for client in idle:
        client.close()
    ends = time.monotonic() + 20
    while not app.told:
        assert time.monotonic() < ends
        with contextlib.suppress(ConnectionError), app.connect(REQUEST) as client:
            if client.recv(1):
                app.sessions.get(timeout=20)
    app.expect("closed", "lost")
    app.serves_a_hook()


def test_foreign_peer_is_refused_and_said_once(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The name belongs to the whole pod: a neighbour that tries is worth one warning, not one for each try."""
    monkeypatch.setattr(control, "_READ_TIMEOUT", 1000)
    monkeypatch.setattr(rendezvous, "refuse_peer", lambda _sock: "it runs in another pid namespace")
    for _ in range(2):
        with app.connect() as client:
            assert read_all(client) == b""
    monkeypatch.undo()
    assert app.told == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["refused a connection to the hook's channel: it runs in another pid namespace (said once)"]


def can_unshare() -> bool:
    """Whether this process may make a mount namespace, as a second container would have one."""
    program = shutil.which("unshare")
    return (
        program is not None and not subprocess.run([program, "-m", "true"], capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a mount namespace (root)")
def test_real_process_of_another_mount_namespace_is_refused(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """A sidecar that shares network and pids, and knows the scope, can still not make the app leave."""
    command = ["unshare", "-m", sys.executable, str(SCENARIOS / "control_foreign.py"), app.address[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "no answer\n"), done.stderr
    assert app.told == []
    assert "runs in another container" in caplog.text
    app.serves_a_hook()


def test_fault_of_the_app_is_logged_and_told(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The hook hears that it has to act itself; the channel stays."""
    app.fault = RuntimeError("boom")
    with app.connect(REQUEST) as client:
        assert read_all(client) == b"graceful/1 refused\nfailed the app could not leave\n"
    assert "boom" in caplog.text
    app.fault = None
    app.serves_a_hook()


def test_fault_while_leaving_is_logged_and_told(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """What began to leave says at least that something went wrong."""
    with app.connect(REQUEST) as client:
        app.say(app.sessions.get(timeout=20), RuntimeError("boom"))
        assert read_all(client).endswith(b"failed the app failed while it left; its log says why\n")
    assert "boom" in caplog.text
    app.expect("closed", "answered")
    app.serves_a_hook()


def test_no_descriptors_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """accept() that fails is tried again; the channel does not end with it."""
    failures = [OSError(errno.EMFILE, "Too many open files")]

    class Flaky(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            if failures:
                raise failures.pop()
            return super().accept()

    @contextlib.contextmanager
    def flaky(address: str) -> Iterator[socket.socket]:
        with listener.listening(address) as sock, Flaky(fileno=os.dup(sock.fileno())) as other:
            yield other

    monkeypatch.setattr(control, "_ACCEPT_RETRY_DELAY", 0.01)
    monkeypatch.setattr(control, "listening", flaky)
    with serving(App()) as app:
        app.serves_a_hook()
    assert not failures


# --- the address ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["abstract", "file"])
def test_taken_address_is_a_warning(
    where: str, short_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the channel the app goes on; the warning names the process that has the address."""
    if where == "file":
        monkeypatch.setenv("GRACEFUL_RUNTIME_DIR", str(short_path))
    address = rendezvous.own_address(os.environ)
    assert address is not None
    with listener.listening(address), start_blocking_portal() as portal:
        future, got = portal.start_task(control.serve_control, App())
        assert got is None
        future.result(timeout=20)
        assert rendezvous.discover(os.environ) == [address]  # the other's socket is left alone
    assert f"is taken by process {os.getpid()}; SIGTERM begins the leave all the same" in caplog.text


def test_unusable_directory_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With the path and the reason."""
    monkeypatch.setenv("GRACEFUL_RUNTIME_DIR", "/proc/nothing/here")
    with start_blocking_portal() as portal:
        assert portal.start_task(control.serve_control, App())[1] is None
    assert "cannot listen on /proc/nothing/here/" in caplog.text
    assert "No such file or directory" in caplog.text


def test_socket_file(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory that is made for it, for its owner alone, gone at the end."""
    monkeypatch.setenv("GRACEFUL_RUNTIME_DIR", str(short_path / "run"))
    with serving(App()) as app:
        path = Path(app.address)
        assert path.parent == short_path / "run"
        assert path.stat().st_mode & 0o777 == 0o600
        assert rendezvous.discover(os.environ) == [app.address]
        app.serves_a_hook()
    assert list(path.parent.iterdir()) == []


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """A process that was killed leaves its file behind."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    with serving(App(), str(path)) as app:
        app.serves_a_hook()


def test_what_is_no_socket_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of the user's is never removed."""
    path = tmp_path / "app.sock"
    path.write_text("precious")
    with start_blocking_portal() as portal:
        assert portal.start_task(partial(control.serve_control, App(), address=str(path)))[1] is None
    assert path.read_text() == "precious"
    assert "is taken by another process" in caplog.text


def test_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    """Who has taken our place keeps it."""
    path = tmp_path / "app.sock"
    with listener.listening(str(path)):
        path.unlink()
        path.write_text("somebody else's")
    assert path.exists()


# --- other processes ------------------------------------------------------------------------------------------------


def test_forked_child_holds_nothing() -> None:
    """When the parent dies, its name is free and its hook's connection ended, though a forked child lives on."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(SCENARIOS / "control_fork.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = 0
        try:
            app = App()
            app.address = "\0" + parent.stdout.readline().strip()
            with app.connect(REQUEST) as client:
                assert client.recv(100) == b"graceful/1 leaving within=60.000\n"
                parent.stdin.write("fork\n")
                parent.stdin.flush()
                child = int(parent.stdout.readline())
                parent.kill()
                assert client.recv(100) == b""
            parent.wait(20)
            with pytest.raises(ConnectionRefusedError):
                app.connect()
            os.kill(child, 0)  # it is there
        finally:
            parent.kill()
            if child:
                os.kill(child, signal.SIGKILL)


def test_started_program_inherits_nothing() -> None:
    """Descriptors are closed on exec."""
    address = rendezvous.own_address(os.environ)
    assert address is not None
    with listener.listening(address) as sock:
        assert not sock.get_inheritable()


def test_close_inherited_closes_what_is_open() -> None:
    """Idempotent, and what it closed is not closed twice."""
    address = rendezvous.own_address(os.environ)
    assert address is not None
    with listener.listening(address) as sock:
        control.close_inherited()
        control.close_inherited()
        assert sock.fileno() == -1
