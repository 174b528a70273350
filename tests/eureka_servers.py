"""Eureka servers for tests: a real Spring Cloud Eureka Server as a child process, and the embedded one in a thread.

The real one is built from `tests/eureka_server/` with Maven, only when its sources have changed, and started with java.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self
from urllib.parse import quote

from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from tests.children import free_port
from tests.eureka_caller import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parent / "eureka_server"
JAR = PROJECT / "target" / "eureka-server.jar"
STAMP = PROJECT / "target" / "sources.sha256"
BUILD_TIMEOUT = 300.0
# A machine that is busy with everything else needs a minute. Nothing waits for it unless something is wrong.
START_TIMEOUT = 150.0
STOP_TIMEOUT = 10.0
POLL_INTERVAL = 0.1
# A view expires after this many refreshes, as by default (180 s and 30 s). A change that comes while the server makes a
# view is lost to it: what is being made cannot be invalidated. It shows with the next change, or when the view expires.
REFRESHES_TO_EXPIRY = 6

Kind = Literal["embedded", "real"]
Security = Literal["open", "basic", "csrf"]


@dataclass(frozen=True)
class RunningEureka:
    """A server that answers.

    Attributes:
        kind: which of the two it is.
        address: its URL without credentials, such as `http://127.0.0.1:40001/eureka`.
        cache_interval: seconds between the refreshes of its cached views.
        user: of basic auth; None where it is open.
        password: of basic auth.
        embedded: the embedded server, to inject faults and to see requests; None for a real one.
        pid: of the real server's process.
    """

    kind: Kind
    address: str
    cache_interval: float
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    embedded: EmbeddedEureka | None = None
    pid: int | None = None

    @property
    def url(self) -> str:
        """What a client is given: credentials inside."""
        if self.user is None:
            return self.address
        credentials = f"{quote(self.user, safe='')}:{quote(self.password or '', safe='')}"
        return self.address.replace("://", f"://{credentials}@", 1)


def why_no_real_eureka() -> str | None:
    """The reason why a real server cannot run on this machine; None if it can."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"a real Eureka server needs {' and '.join(missing)} on the PATH" if missing else None


def built_jar() -> Path:
    """The server's jar, built first if its sources have changed. Safe to call from several processes at once."""
    with (PROJECT / "pom.xml").open("rb") as pom:
        _lock(pom.fileno(), time.monotonic() + BUILD_TIMEOUT)
        digest = _digest_of_sources()
        if JAR.exists() and STAMP.exists() and STAMP.read_text() == digest:
            return JAR
        # "clean", because without it Maven does not notice a changed pom.
        command = ["mvn", "-q", "-B", "clean", "package"]
        built = subprocess.run(
            command, cwd=PROJECT, timeout=BUILD_TIMEOUT, check=False, stdin=subprocess.DEVNULL, capture_output=True
        )
        if built.returncode != 0:
            output = (built.stdout + built.stderr).decode(errors="replace")
            raise RuntimeError(
                f"{' '.join(command)} in {PROJECT.name} ended with {built.returncode}:\n{output[-4000:]}"
            )
        STAMP.write_text(digest)
    return JAR


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another build of {PROJECT.name} took more than {BUILD_TIMEOUT:g} s") from None
            time.sleep(POLL_INTERVAL)


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in [PROJECT / "pom.xml", *sorted((PROJECT / "src").rglob("*.*"))]:
        digest.update(f"{path.relative_to(PROJECT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def start_real_eureka(
    *,
    security: Security = "open",
    user: str = "eureka",
    password: str = "secret",
    cache_interval: float = 1.0,
    eviction_interval: float = 1.0,
    host: str = "127.0.0.1",
    port: int = 0,
    peer: str | None = None,
) -> Iterator[RunningEureka]:
    """Run a real server until the end of the block.

    Args:
        security: nothing, basic auth, or basic auth with Spring Security's CSRF protection left on.
        user: of basic auth.
        password: of basic auth.
        cache_interval: seconds between refreshes of its response cache; its views expire after six times as long.
        eviction_interval: seconds between evictions of expired leases.
        host: the address it listens on, and its host name towards peers.
        port: 0 takes a free one.
        peer: the URL of a node to replicate with. A node ignores a peer that has its own host name, so two nodes on
            one machine need 127.0.0.1 and 127.0.0.2.

    Raises:
        RuntimeError: it cannot run here, ends early, or does not answer in time; its log is in the message.
    """
    if reason := why_no_real_eureka():
        raise RuntimeError(reason)
    port = port or free_port(host)
    guarded = security != "open"
    eureka = RunningEureka(
        "real", f"http://{host}:{port}/eureka", cache_interval, user if guarded else None, password if guarded else None
    )
    expiry = max(1, round(cache_interval * REFRESHES_TO_EXPIRY))
    # Every property once: one that is given twice becomes a list, and the server does not start.
    properties = {
        "graceful.security": security,
        "server.address": host,
        "server.port": str(port),
        "eureka.instance.hostname": host,
        "eureka.client.register-with-eureka": str(peer is not None).lower(),
        "eureka.client.fetch-registry": str(peer is not None).lower(),
        "eureka.client.service-url.defaultZone": peer or eureka.address,
        "eureka.server.response-cache-update-interval-ms": str(round(cache_interval * 1000)),
        "eureka.server.response-cache-auto-expiration-in-seconds": str(expiry),
        "eureka.server.eviction-interval-timer-in-ms": str(round(eviction_interval * 1000)),
        "eureka.server.enable-self-preservation": "false",
        # The first node of two has nobody to copy the registry from, and would wait for it.
        "eureka.server.registry-sync-retries": "0",
    }
    # The password goes by the environment: a command line is for everybody to see.
    environment = os.environ | {"SPRING_SECURITY_USER_NAME": user, "SPRING_SECURITY_USER_PASSWORD": password}
    command = ["java", "-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-jar", str(built_jar())]
    command += [f"--{name}={value}" for name, value in properties.items()]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(eureka, process, time.monotonic() + START_TIMEOUT)
        except RuntimeError as error:
            _end(process)
            log.seek(0)
            raise RuntimeError(f"{error}; its log ends with:\n{log.read()[-4000:].decode(errors='replace')}") from None
        try:
            _warm_up(eureka)
            yield RunningEureka(**(vars(eureka) | {"pid": process.pid}))
        finally:
            _end(process)


class EurekaPair(Protocol):
    """Two servers that replicate to each other."""

    @property
    def nodes(self) -> tuple[RunningEureka, RunningEureka]:
        """The servers as they run now."""
        ...

    def restart(self, number: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """End one of them and start it again on the same port; in between do something else."""
        ...


class RealPair:
    """Two real servers; what one is told arrives at the other within a second. Use `with`."""

    def __init__(self, *, cache_interval: float = 1.0) -> None:
        self._hosts = ("127.0.0.1", "127.0.0.2")
        self._ports = tuple(free_port(host) for host in self._hosts)
        self._cache_interval = cache_interval
        self._stacks = (ExitStack(), ExitStack())
        self._running: dict[int, RunningEureka] = {}

    def __enter__(self) -> Self:
        try:
            for number in (0, 1):
                self._start(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for stack in self._stacks:
            stack.close()

    @property
    def nodes(self) -> tuple[RunningEureka, RunningEureka]:
        return self._running[0], self._running[1]

    def restart(self, number: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._stacks[number].close()
        meanwhile()
        self._start(number)

    def _start(self, number: int) -> None:
        peer = f"http://{self._hosts[1 - number]}:{self._ports[1 - number]}/eureka"
        starting = start_real_eureka(
            host=self._hosts[number], port=self._ports[number], peer=peer, cache_interval=self._cache_interval
        )
        self._running[number] = self._stacks[number].enter_context(starting)


class EmbeddedPair:
    """Two embedded servers that replicate to each other, from `with` to the end of its block."""

    def __init__(self) -> None:
        self.cluster = EmbeddedEurekaCluster(cache_interval=1.0, eviction_interval=1.0, replication_delay=0.05)

    def __enter__(self) -> Self:
        self.cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.__exit__(None, None, None)

    @property
    def nodes(self) -> tuple[RunningEureka, RunningEureka]:
        first, second = (
            RunningEureka("embedded", node.address, node.cache_interval, embedded=node) for node in self.cluster.nodes
        )
        return first, second

    def restart(self, number: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.cluster.nodes[number].stop()
        meanwhile()
        self.cluster.nodes[number].start()


def _wait_until_it_answers(eureka: RunningEureka, process: subprocess.Popen[bytes], deadline: float) -> None:
    request = urllib.request.Request(f"{eureka.address}/apps")
    if eureka.user is not None:
        credentials = b64encode(f"{eureka.user}:{eureka.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
    # No proxy: the environment may name one, and it could not reach this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None:
        try:
            with opener.open(request, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the real Eureka does not answer within {START_TIMEOUT:g} s: {error}") from None
            time.sleep(POLL_INTERVAL)
    raise RuntimeError(f"the real Eureka ended with exit code {process.returncode}")


def _warm_up(eureka: RunningEureka) -> None:
    """Have every operation loaded: the first of a kind may take seconds, for which no client under test waits."""
    caller = Caller(eureka.url).as_peer()
    with caller.http:
        caller.register()
        caller.heartbeat()
        caller.override("OUT_OF_SERVICE")
        caller.get(f"/apps/{caller.app}/{caller.id}")
        caller.clear_override("UP")
        caller.cancel()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class EurekaServers:
    """The servers of a test session: each variant is started when it is first asked for, and once."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[tuple[Kind, Security], RunningEureka] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, kind: Kind, security: Security = "open") -> RunningEureka:
        """The server of this kind, started if need be."""
        key = (kind, security)
        if key not in self._running:
            start = start_real_eureka if kind == "real" else start_embedded_eureka
            self._running[key] = self._stack.enter_context(start(security=security))
        return self._running[key]


@contextmanager
def start_embedded_eureka(
    *,
    security: Security = "open",
    user: str = "eureka",
    password: str = "secret",
    cache_interval: float = 1.0,
    eviction_interval: float = 1.0,
) -> Iterator[RunningEureka]:
    """Run an embedded server until the end of the block."""
    guarded = security != "open"
    name, secret = (user, password) if guarded else (None, None)
    with EmbeddedEureka(
        cache_interval=cache_interval,
        eviction_interval=eviction_interval,
        user=name,
        password=secret,
        csrf=security == "csrf",
    ) as embedded:
        yield RunningEureka("embedded", embedded.address, cache_interval, name, secret, embedded)
