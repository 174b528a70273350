"""The line format, the settings and the addresses that hook and app share."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices

from graceful import rendezvous, wire
from graceful.settings import Settings

DURATIONS = st.floats(min_value=0, max_value=1e9, allow_nan=False)
Become = Callable[..., socket.socket]
VERBS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20)


# --- lines ----------------------------------------------------------------------------------------------------------


@given(VERBS, DURATIONS, st.one_of(st.none(), DURATIONS))
def test_first_line_round_trip(verb: str, elapsed: float, grace: float | None) -> None:
    """What one side writes, the other reads, to the millisecond."""
    line = wire.encode_first(verb, elapsed=elapsed, grace=grace)
    assert line.startswith(b"graceful/1 ")
    assert line.endswith(b"\n")
    decoded, values = wire.decode_first(line.rstrip(b"\n"))
    assert decoded == verb
    assert values["elapsed"] == pytest.approx(elapsed, abs=0.001)
    assert values["grace"] == (None if grace is None else pytest.approx(grace, abs=0.001))


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(lambda rest: b"graceful/1 " + rest)))
def test_garbage_raises_nothing_but_wire_error(line: bytes) -> None:
    """Whatever arrives, the parsers answer with a value or with WireError."""
    for decode in (wire.decode_first, wire.decode_line):
        try:
            decode(line)
        except wire.WireError as error:
            message = str(error)
        else:
            message = ""
        assert len(message) < 500  # an error is one line for people, whatever was sent


def test_unknown_keys_are_kept_for_later_versions() -> None:
    """A newer hook may say more than this app knows."""
    assert wire.decode_first(b"graceful/1 prestop elapsed=1.5 colour=3") == ("prestop", {"elapsed": 1.5, "colour": 3})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"graceful/2 prestop elapsed=0", "speaks graceful/2, this one graceful/1.*same installation"),
        (b"GET / HTTP/1.1", "begins with graceful/1, got 'GET / HTTP/1.1'"),
        (b"graceful/1", "expected a verb"),
        (b"graceful/1 prestop elapsed", "expected key=value"),
        (b"graceful/1 prestop elapsed=inf", "expected elapsed=<seconds>"),
        (b"graceful/1 prestop elapsed=-1", "expected elapsed=<seconds>"),
        (b"graceful/1 prestop elapsed=1e9", "expected elapsed=<seconds>"),
        (b"\xff\xfe", "not ASCII"),
    ],
)
def test_bad_first_line_says_what_was_expected(line: bytes, message: str) -> None:
    """Each refusal names what was wrong, the version above all."""
    with pytest.raises(wire.WireError, match=message):
        wire.decode_first(line)


@given(st.sampled_from(wire.KINDS), st.text(max_size=3000))
def test_text_line_round_trip(kind: str, text: str) -> None:
    """Any text makes exactly one line within the limit; printable text that fits arrives unchanged."""
    line = wire.encode_line(kind, text)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= wire.LINE_LIMIT
    decoded, got = wire.decode_line(line[:-1])
    assert decoded == kind
    if text.isprintable() and len(text.encode()) < 4000:
        assert got == text


def test_text_cannot_drive_a_terminal() -> None:
    """Escape sequences and line breaks of a message become spaces, on either side."""
    assert wire.encode_line("say", "a\x1b[2J\nb") == b"say a [2J b\n"
    assert wire.decode_line(b"say a\x1b[2J") == ("say", "a [2J")


@given(st.lists(st.binary(max_size=100).filter(lambda line: b"\n" not in line)), st.lists(st.integers(1, 50)))
def test_lines_survive_any_fragmentation(lines: list[bytes], cuts: list[int]) -> None:
    """How the bytes are cut on their way changes nothing."""
    stream = b"".join(line + b"\n" for line in lines)
    reader = wire.LineReader()
    got: list[bytes] = []
    for cut in cuts:
        chunk, stream = stream[:cut], stream[cut:]
        got += reader.feed(chunk)
    got += reader.feed(stream)
    assert got == lines


@given(st.lists(st.integers(1, 3000), min_size=1))
def test_reader_refuses_an_endless_line(sizes: list[int]) -> None:
    """A line without an end raises as soon as it is too long, and what was held of it is let go."""
    reader = wire.LineReader()
    held = 0
    for size in sizes:
        held += size
        if held < wire.LINE_LIMIT:
            assert reader.feed(b"x" * size) == []
        else:
            with pytest.raises(wire.WireError, match="longer than 4096 bytes"):
                reader.feed(b"x" * size)
            held = 0


def test_reader_refuses_a_long_line_that_ends() -> None:
    """The limit holds for a complete line too, at the very byte."""
    assert wire.LineReader().feed(b"x" * 4095 + b"\n") == [b"x" * 4095]
    with pytest.raises(wire.WireError):
        wire.LineReader().feed(b"x" * 4096 + b"\n")


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20", 20),
        ("1.5", 1.5),
        (" 20s ", 20),
        ("2m", 120),
        ("1h", 3600),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("1s500ms", 1.5),
        ("PT30S", 30),
        ("PT1M30.5S", 90.5),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Seconds, units, and what Spring's settings look like."""
    assert wire.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "abc", "-1", "+1", "1e3", "inf", "nan", "20x", "s", "30s1m", "1s2s", "1_0", "PT", "1..5", ".", "²", "٣"],
)
def test_bad_durations_say_what_was_expected(text: str) -> None:
    """Every other text is refused with what was given and what is expected."""
    with pytest.raises(ValueError, match="not a duration: expected seconds") as caught:
        wire.parse_duration(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_duration_of_any_text(text: str) -> None:
    """Any text is a finite number of seconds or a ValueError."""
    try:
        seconds = wire.parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0
    assert math.isfinite(seconds)


def test_own_variable_wins_over_those_that_users_have() -> None:
    """GRACEFUL_… first, then the others in order; a blank one counts as not set."""
    environ = {"OTEL_SERVICE_NAME": "otel", "SPRING_APPLICATION_NAME": "spring", "EUREKA_INSTANCE_APPNAME": " "}
    assert wire.env_lookup("app_name", environ) == "spring"
    assert wire.env_lookup("app_name", environ | {"GRACEFUL_APP_NAME": "own"}) == "own"
    assert wire.env_lookup("margin", {"GRACEFUL_MARGIN": "3"}) == "3"
    assert wire.env_lookup("margin", {}) is None


def test_hook_and_app_read_the_same_variables() -> None:
    """The hook cannot import the settings; its table says the same as they do."""
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = tuple(alias.choices) if isinstance(alias, AliasChoices) else (f"GRACEFUL_{name.upper()}",)
        assert wire.env_names(name) == choices
    assert set(wire.ENV_NAMES) <= set(Settings.model_fields)


def test_default_instance_id() -> None:
    """One function for both sides: the hook must withdraw what the app registered."""
    assert wire.default_instance_id("Orders", "10.0.0.7", 8080) == "orders:10.0.0.7:8080"


# --- addresses ------------------------------------------------------------------------------------------------------


def listen(address: str) -> socket.socket:
    """A listening socket on an address."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(address)
    sock.listen()
    return sock


def test_scope_is_a_hash_of_the_given_one() -> None:
    """FNV-1a, 64 bits: the published value of "foobar"; unset, the mount namespace."""
    assert rendezvous.scope({"GRACEFUL_SCOPE": "foobar"}) == "85944171f73967e8"
    assert rendezvous.scope({"GRACEFUL_SCOPE": " "}) == str(Path("/proc/self/ns/mnt").stat().st_ino)


@pytest.mark.parametrize("where", ["abstract", "file"])
def test_discovery_finds_the_listening_of_the_own_scope_only(where: str, short_path: Path) -> None:
    """Another scope, a client's end, and a name that is no pid are not found."""
    environ = {"GRACEFUL_SCOPE": f"discover-{os.getpid()}"}
    if where == "file":
        environ["GRACEFUL_RUNTIME_DIR"] = f"{short_path}/"
    address = rendezvous.own_address(environ)
    other = rendezvous.own_address(environ | {"GRACEFUL_SCOPE": "other"})
    assert address is not None
    assert other is not None
    assert rendezvous.discover(environ) == []
    strange = address.replace(str(os.getpid()), "12x") if where == "abstract" else str(short_path / "notes.sock")
    with listen(address) as listener, listen(other), listen(strange), socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        accepted, _ = listener.accept()
        with accepted:
            assert rendezvous.discover(environ) == [address]
            assert rendezvous.address_pid(address) == os.getpid()
            assert rendezvous.peer_pid(client) == os.getpid()
            assert rendezvous.refuse_peer(client) is None
            assert rendezvous.refuse_peer(accepted) is None
            listener.close()
            if where == "abstract":  # the accepted connection still carries the name, and listens to nobody
                assert rendezvous.discover(environ) == []


def test_discovery_survives_names_with_line_breaks() -> None:
    """Anybody can put any bytes into the table of sockets."""
    environ = {"GRACEFUL_SCOPE": f"breaks-{os.getpid()}"}
    address = rendezvous.own_address(environ)
    assert address is not None
    with listen(address), listen(f"\0x\n0 0 0 zz 0 0 0 @{address[1:]}\n\n\xff"):
        assert rendezvous.discover(environ) == [address]


def test_missing_runtime_directory_is_empty() -> None:
    """An app that never started has made no directory."""
    assert rendezvous.discover({"GRACEFUL_RUNTIME_DIR": "/nonexistent/graceful"}) == []


def test_too_long_directory_is_refused() -> None:
    """The kernel's limit, with what to do."""
    with pytest.raises(ValueError, match=r"at most 107: set GRACEFUL_RUNTIME_DIR to a shorter path"):
        rendezvous.own_address({"GRACEFUL_RUNTIME_DIR": "/" + "x" * 100})


def test_no_abstract_sockets_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without them: no address, nothing found, unless there is a directory."""
    monkeypatch.setattr(rendezvous, "_SOCKET_TABLE", "/nonexistent")
    assert rendezvous.own_address({}) is None
    assert rendezvous.discover({}) == []
    assert rendezvous.own_address({"GRACEFUL_RUNTIME_DIR": "/run/x"}) is not None


# --- who is trusted -------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Become]:
    """A connected socket, and a function that gives its other end another identity."""
    left, right = socket.socketpair()

    def become(pid: int, uid: int, *, namespace: str | OSError = "mnt:[1]", euid: int = 1000) -> socket.socket:
        def readlink(path: str) -> str:
            if path != f"/proc/{pid}/ns/mnt":
                return "mnt:[1]"
            if isinstance(namespace, OSError):
                raise namespace
            return namespace

        monkeypatch.setattr(rendezvous, "_credentials", lambda _sock: (pid, uid))
        monkeypatch.setattr(os, "readlink", readlink)
        monkeypatch.setattr(os, "geteuid", lambda: euid)
        return left

    with left, right:
        yield become


DENIED = PermissionError(13, "Permission denied")


def test_peer_of_this_container_is_trusted(pair: Become) -> None:
    """Same mount namespace: whatever its uid."""
    assert rendezvous.refuse_peer(pair(7, 4711)) is None


def test_peer_of_another_pid_namespace_is_refused(pair: Become) -> None:
    """The kernel shows it as pid 0, root or not."""
    assert rendezvous.refuse_peer(pair(0, 0)) == "it runs in another pid namespace"


def test_peer_of_another_container_is_refused(pair: Become) -> None:
    """With a shared pid namespace the pid is visible, but the mounts differ."""
    assert "another container" in str(rendezvous.refuse_peer(pair(7, 1000, namespace="mnt:[2]")))


def test_peer_that_is_gone_is_refused(pair: Become) -> None:
    """Its pid could be anybody's by now."""
    gone = FileNotFoundError(2, "No such file or directory")
    assert "cannot be looked at" in str(rendezvous.refuse_peer(pair(7, 1000, namespace=gone)))


@pytest.mark.parametrize(("uid", "refused"), [(0, False), (1000, False), (1001, True)])
def test_where_looking_is_denied_root_and_own_uid_are_trusted(pair: Become, uid: int, refused: bool) -> None:
    """Without CAP_SYS_PTRACE a process of another uid cannot be looked at."""
    assert (rendezvous.refuse_peer(pair(7, uid, namespace=DENIED)) is not None) == refused


def test_root_hook_trusts_an_app_that_dropped_its_uid(pair: Become) -> None:
    """The entrypoint was root and gave the app another uid: the hook is root still. The app does not return this."""
    assert rendezvous.refuse_peer(pair(7, 1000, namespace=DENIED, euid=0), trust_all_as_root=True) is None
    assert rendezvous.refuse_peer(pair(7, 1000, namespace=DENIED, euid=0)) is not None
    assert rendezvous.refuse_peer(pair(7, 1000, namespace=DENIED, euid=1), trust_all_as_root=True) is not None


# --- what it costs --------------------------------------------------------------------------------------------------


def test_wire_imports_next_to_nothing() -> None:
    """At a CPU limit of a twentieth of a core every import is paid for in the time of the hook."""
    script = (
        "import sys, socket, struct; before = set(sys.modules); import graceful.wire, graceful.rendezvous; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["__future__", "graceful", "graceful.rendezvous", "graceful.wire"]
