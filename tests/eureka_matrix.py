"""What goes wrong with Eureka, when, and for whom: the rows of the fault matrix, and the bench that runs one of them.

The bench has two embedded nodes that replicate, puts one of them (or both) in trouble, and has a real process leave.
Its observer sits in the registries themselves: it sees every status that was visible on a node, and who made it so.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import quote

import anyio

from graceful.eureka.instance import Instance
from graceful.eureka.rest import Server
from graceful.eureka.status import now_ms
from graceful.rehearsal.eureka_changes import Change, ChangeKind
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from graceful.rehearsal.eureka_messages import REPLICATION_HEADER, Request
from tests.children import PATIENCE, Child, child, free_port, get
from tests.eureka_raw_server import RawServer, forwarding, trickling

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from graceful.rehearsal.eureka import EmbeddedEureka

__all__ = ["ROWS", "Leave", "Row", "leave", "table"]

Way = Literal["registered", "adopted", "status-only"]
Phase = Literal["STARTING", "SERVING", "PUT", "LAME_DUCK", "DRAINING", "DELETE"]
PHASES: tuple[Phase, ...] = get_args(Phase)
PASSWORD = "zQ7x-sesame/@"
GRACE_PERIOD = 16.0
HANGING_NAME = "eureka.hanging.example"
CHANGED_ONLY: dict[Phase, dict[str, Any]] = {
    "PUT": {"method": "PUT", "path": "/status$"},
    "DELETE": {"method": "DELETE"},
}
"""Which requests a fault hits in a phase that is one request; elsewhere all."""


# --- who saw what ---------------------------------------------------------------------------------------------------


@dataclass
class Observer:
    """What was visible of an instance, and the changes that clients made, in order. Thread-safe."""

    instance_id: str
    made: list[tuple[int, ChangeKind, str | None]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def enter(self, node: int, change: Change) -> None:
        """Note a change that took effect, with the status that callers are told from then on; None for absent."""
        if change.instance_id == self.instance_id:
            with self._changed:
                self.made.append((node, change.kind, _visible(change)))
                self._changed.notify_all()

    def forget(self) -> None:
        """Begin anew: what was before does not belong to the leave."""
        with self._changed:
            self.made.clear()

    def wait_for(self, status: str | None) -> None:
        """Wait until a client has made it so on any node."""
        with self._changed:
            if not self._changed.wait_for(lambda: any(each[2] == status for each in self.made), PATIENCE):
                raise TimeoutError(f"nobody made it {status}: {self.made}")

    def up_again(self) -> list[tuple[int, ChangeKind, str | None]]:
        """The changes that made the instance UP on a node after one that took it out of service there."""
        withdrawn: set[int] = set()
        found: list[tuple[int, ChangeKind, str | None]] = []
        for node, kind, status in self.made:
            if status == "OUT_OF_SERVICE" and kind is ChangeKind.STATUS:
                withdrawn.add(node)
            elif status == "UP" and node in withdrawn:
                found.append((node, kind, status))
        return found

    def deletions(self) -> Counter[int]:
        """How many took effect, by node."""
        return Counter(node for node, kind, _ in self.made if kind is ChangeKind.CANCEL)


def _visible(change: Change) -> str | None:
    match change.kind:
        case ChangeKind.CANCEL:
            return None
        case ChangeKind.REGISTER:
            return str(change.request.body).split('"status"')[1].split('"')[1]
        case ChangeKind.HEARTBEAT:
            return change.request.query["status"]
        case _:
            return change.request.query["value"]


class ObservedCluster(EmbeddedEurekaCluster):
    """Two nodes that tell an observer what their clients did."""

    def __init__(self, observer: Observer) -> None:
        super().__init__(cache_interval=1.0, replication_delay=0.05, retry_timeout=1.0, user="me", password=PASSWORD)
        self._observer = observer

    def _pass_on(self, source: int, change: Change) -> None:
        self._observer.enter(source, change)
        super()._pass_on(source, change)


# --- what goes wrong ------------------------------------------------------------------------------------------------


class Bench:
    """The two nodes, a front before the first one that can trickle, and the process."""

    def __init__(self, row: Row, stack: ExitStack) -> None:
        self.row = row
        self.app = f"orders-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.instance = Instance(app=self.app, ip="127.0.0.1", port=self.port)
        self.observer = Observer(self.instance.instance_id)
        self.cluster = stack.enter_context(ObservedCluster(self.observer))
        self.trickles = threading.Event()
        self.front = stack.enter_context(RawServer(self._trickle_or_forward))
        self.env: dict[str, str] = {}
        self.hosts = [f"127.0.0.1:{self.front.port}", self.cluster.nodes[1].address.split("/")[2]]

    @property
    def first(self) -> EmbeddedEureka:
        return self.cluster.nodes[0]

    @property
    def urls(self) -> list[str]:
        return [f"http://me:{quote(PASSWORD, safe='')}@{host}/eureka" for host in self.hosts]

    def settings(self) -> dict[str, str]:
        return {
            "GRACEFUL_EUREKA_URL": ",".join(self.urls),
            "GRACEFUL_APP_NAME": self.app,
            "GRACEFUL_INSTANCE_ID": self.instance.instance_id,
            "GRACEFUL_PORT": str(self.port),
            "GRACEFUL_IP_ADDR": "127.0.0.1",
            "GRACEFUL_HEARTBEAT_INTERVAL": "0.3",
            "GRACEFUL_ANNOUNCE_TIMEOUT": "4",
            "GRACEFUL_PROPAGATION_DELAY": "0.8",
            "GRACEFUL_DRAIN_TIMEOUT": "5",
            "GRACEFUL_CLEANUP_TIMEOUT": "0.5",
            "GRACEFUL_DEREGISTER_TIMEOUT": "2.5",
            "GRACEFUL_GRACE_PERIOD": str(GRACE_PERIOD),
            "GRACEFUL_SCOPE": self.app,
            "GRACEFUL_EUREKA_STATUS_ONLY": str(self.row.way == "status-only").lower(),
        } | self.env

    def register_for_it(self) -> None:
        """What a sidecar does for a service that only sets its status."""
        self.tell(0, lambda server: server.register(self.instance, now_ms()))
        self.cluster.replication.wait_until_quiet()

    def tell(self, node: int, call: Callable[[Server], Any]) -> None:
        """Be a client, with the rights of one."""
        anyio.run(call, Server(self.cluster.nodes[node].url, try_timeout=5.0))

    def forget_on(self, node: int) -> None:
        """What an eviction does: nobody tells, nobody is told."""
        path = ("apps", self.app.upper(), self.instance.instance_id)
        self.cluster.nodes[node].replicate(Request("DELETE", path, {}, {REPLICATION_HEADER: "true"}))

    def status_on(self, node: int) -> str | None:
        """What the registry itself has, whatever is wrong with the node's answers."""
        path = ("apps", self.app.upper(), self.instance.instance_id)
        answer = self.cluster.nodes[node].replicate(Request("GET", path, {}, {"accept": "application/json"}))
        if answer is None or answer.status == 404:
            return None
        return answer.body.decode().split('"status"')[1].split('"')[1]

    def _trickle_or_forward(self, sock: socket.socket, raw: RawServer) -> None:
        port = int(self.first.address.split(":")[2].split("/")[0])
        with suppress(ConnectionError):
            (trickling if self.trickles.is_set() else forwarding(port))(sock, raw)


def _stop(bench: Bench, _: dict[str, Any]) -> None:
    bench.first.stop()


def _restart(bench: Bench, _: dict[str, Any]) -> None:
    bench.first.stop()
    bench.first.start()


def _restart_both(bench: Bench, _: dict[str, Any]) -> None:
    for node in bench.cluster.nodes:
        node.stop()
    for node in bench.cluster.nodes:
        node.start()


def _evict(bench: Bench, _: dict[str, Any]) -> None:
    for node in (0, 1):
        bench.forget_on(node)


def _for_a_moment(bench: Bench, when: dict[str, Any]) -> None:
    bench.first.fail(503, for_seconds=0.7, **when)


def _fail_both(bench: Bench, when: dict[str, Any]) -> None:
    for node in bench.cluster.nodes:
        node.fail(503, **when)


def _refuse_changes(bench: Bench, when: dict[str, Any]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        bench.first.fail(403, **(when | {"method": method}))


def _lose(bench: Bench, _: dict[str, Any]) -> None:
    bench.cluster.replication.drop()


def _hang_look_ups(bench: Bench, _: dict[str, Any]) -> None:
    bench.hosts[0] = f"{HANGING_NAME}:8761"
    bench.env["HANGING_NAME"] = HANGING_NAME


def _skew(seconds: float, bench: Bench, _: dict[str, Any]) -> None:
    """The former life left the instance OUT_OF_SERVICE, by a clock that was right."""
    bench.env["CLOCK_SKEW"] = str(seconds)
    bench.tell(0, lambda server: server.register(bench.instance, now_ms()))
    bench.tell(0, lambda server: server.set_status(bench.app, bench.instance.instance_id, "OUT_OF_SERVICE", now_ms()))  # type: ignore[arg-type]
    bench.cluster.replication.wait_until_quiet()
    bench.observer.forget()


FAULTS: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "hung": lambda bench, when: bench.first.hang(**when),
    "refusing": _stop,
    "reset": lambda bench, when: bench.first.reset(**when),
    "500": lambda bench, when: bench.first.fail(500, **when),
    "503": lambda bench, when: bench.first.fail(503, **when),
    "503 for a moment": _for_a_moment,
    "503 on both": _fail_both,
    "login page": lambda bench, when: bench.first.redirect("http://login.example/?secret=1", **when),
    "401": lambda bench, when: bench.first.fail(401, **when),
    "403 to changes": _refuse_changes,
    "answered, not done": lambda bench, when: bench.first.fail(200, **(when | {"method": "PUT", "path": "/status$"})),
    "trickling": lambda bench, _: bench.trickles.set(),
    "restart": _restart,
    "restart of both": _restart_both,
    "eviction": _evict,
    "lost replication": _lose,
    "hanging look-up": _hang_look_ups,
    "clock behind": partial(_skew, -3600.0),
    "clock ahead": partial(_skew, 3600.0),
}

NOTHING_TO_DELETE = {"restart of both", "eviction"}
"""Faults after which the registry has forgotten the instance: there is no deletion that could take effect."""


# --- the rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One fault, the phase in which it begins (and stays), and how the service is in Eureka."""

    fault: str
    phase: Phase
    way: Way

    def __str__(self) -> str:
        return f"{self.fault} - {self.phase} - {self.way}"

    @property
    def beyond_reach(self) -> bool:
        """Whether no server can be told anything when the instance has to be deleted."""
        return self.fault == "503 on both"


def _rows() -> list[Row]:
    combinations: dict[Way, dict[Phase, str]] = {
        "registered": {
            "STARTING": "hung; refusing; 403 to changes; hanging look-up; clock behind; clock ahead; lost replication",
            "SERVING": "hung; reset; 401; trickling; restart; eviction; lost replication; 503 on both",
            "PUT": "hung; 500; 503 for a moment; login page; 403 to changes; answered, not done",
            "LAME_DUCK": "hung; refusing; restart; restart of both; eviction; lost replication; 503 on both",
            "DRAINING": "refusing; trickling; restart; eviction",
            "DELETE": "hung; reset; 503; 503 for a moment; login page; 503 on both",
        },
        "status-only": {
            "STARTING": "hung; refusing; 403 to changes; hanging look-up; clock ahead",
            "SERVING": "reset; 401; trickling; restart; lost replication; 503 on both",
            "PUT": "hung; 503 for a moment; login page; answered, not done",
            "LAME_DUCK": "hung; restart of both; eviction; lost replication",
            "DRAINING": "refusing; restart",
        },
    }
    return [
        Row(fault.strip(), phase, way)
        for way, phases in combinations.items()
        for phase, faults in phases.items()
        for fault in faults.split(";")
    ]


ROWS = _rows()


def table() -> str:
    """The rows for the documentation: faults down, phases across, and who meets them."""
    lines = [f"| fault | {' | '.join(PHASES)} |", f"|---{'|---' * len(PHASES)}|"]
    for fault in FAULTS:
        cells = [
            " ".join(row.way[0].upper() for row in ROWS if (row.fault, row.phase) == (fault, phase)) for phase in PHASES
        ]
        lines.append(f"| {fault} | {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines)


# --- one leave ------------------------------------------------------------------------------------------------------


@dataclass
class Leave:
    """What came of a row."""

    exit_code: int
    seconds: float
    answer: tuple[int, str]
    written: str
    up_again: list[tuple[int, ChangeKind, str | None]]
    deletions: Counter[int]
    left: list[str | None]


def leave(row: Row) -> Leave:
    """Run a row to its end."""
    with ExitStack() as stack:
        bench = Bench(row, stack)
        begin = partial(FAULTS[row.fault], bench, CHANGED_ONLY.get(row.phase, {}))
        if row.fault != "trickling":
            bench.hosts[0] = bench.first.address.split("/")[2]
        if row.way == "status-only" and not row.fault.startswith("clock"):
            bench.register_for_it()
        if row.phase == "STARTING":
            begin()
        if row.way == "status-only" and row.fault.startswith("clock"):
            bench.register_for_it()  # after the former life that the fault has left there
        arguments = ["-m", "tests.scenarios.eureka_leaving", row.way, str(bench.port)]
        service = stack.enter_context(child(*arguments, env=bench.settings()))
        service.wait_for("ready: serving")
        bench.observer.wait_for("UP")
        if row.phase == "SERVING":
            begin()
            time.sleep(0.4)  # a heartbeat long, so that the service can have met it; nothing depends on it
        return _leave(bench, service, begin)


def _leave(bench: Bench, service: Child, begin: Callable[[], None]) -> Leave:
    phase = bench.row.phase
    answers: list[tuple[int, str]] = []

    def call() -> None:
        status, _, body = get(bench.port, "/slow?seconds=2")
        answers.append((status, body))

    caller = threading.Thread(target=call)
    caller.start()
    service.wait_for("slow began")
    if phase in CHANGED_ONLY:
        begin()
    bench.observer.forget()
    told = time.monotonic()
    service.signal(signal.SIGTERM)
    if phase == "LAME_DUCK":
        bench.observer.wait_for("OUT_OF_SERVICE")
        begin()
    elif phase == "DRAINING":
        service.wait_for("phase draining")
        begin()
    exit_code = service.exit_code()
    seconds = time.monotonic() - told
    caller.join(PATIENCE)
    bench.cluster.replication.wait_until_quiet()
    return Leave(
        exit_code,
        seconds,
        answers[0],
        service.text,
        bench.observer.up_again(),
        bench.observer.deletions(),
        [bench.status_on(node) for node in (0, 1)],
    )
