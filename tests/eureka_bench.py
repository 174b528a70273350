"""A bench for leaves in trouble: two embedded nodes that replicate, and an observer of what a process makes of them.

The observer sits in the nodes: it sees every change that took effect, with the status that callers are told from then
on, in the order in which it happened.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio

from graceful.eureka.instance import Instance
from graceful.eureka.rest import Server
from graceful.eureka.status import now_ms
from graceful.rehearsal.eureka_changes import Change, ChangeKind
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from graceful.rehearsal.eureka_messages import REPLICATION_HEADER, Request
from tests.children import PATIENCE, free_port
from tests.eureka_raw_server import RawServer, forwarding, trickling

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from contextlib import ExitStack

    from graceful.rehearsal.eureka import EmbeddedEureka

__all__ = ["GRACE_PERIOD", "PASSWORD", "Bench", "Observer"]

PASSWORD = "zQ7x-sesame/@"
GRACE_PERIOD = 16.0


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


class Bench:
    """The two nodes, a front before the first one that can trickle, and what a process has to be told of them.

    Attributes:
        hosts: the authority of each node's URL, as the process is given it; a fault may put another there.
        env: further variables for the process.
    """

    def __init__(self, way: str, stack: ExitStack) -> None:
        self.way = way
        self.app = f"orders-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.instance = Instance(app=self.app, ip="127.0.0.1", port=self.port)
        self.observer = Observer(self.instance.instance_id)
        self.cluster = stack.enter_context(ObservedCluster(self.observer))
        self.trickles = threading.Event()
        self.front = stack.enter_context(RawServer(self._trickle_or_forward))
        self.env: dict[str, str] = {}
        self.credentials = f"me:{quote(PASSWORD, safe='')}@"
        self.hosts = [f"127.0.0.1:{self.front.port}", self.cluster.nodes[1].address.split("/")[2]]

    @property
    def first(self) -> EmbeddedEureka:
        return self.cluster.nodes[0]

    @property
    def urls(self) -> list[str]:
        return [f"http://{self.credentials}{host}/eureka" for host in self.hosts]

    def settings(self) -> dict[str, str]:
        """The variables of the process, by the way it is in Eureka."""
        return (
            {
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
            }
            | (self._of_client() if self.way == "adopted" else self._of_instance())
            | self.env
        )

    def _of_instance(self) -> dict[str, str]:
        return {
            "GRACEFUL_EUREKA_URL": ",".join(self.urls),
            "GRACEFUL_APP_NAME": self.app,
            "GRACEFUL_INSTANCE_ID": self.instance.instance_id,
            "GRACEFUL_EUREKA_STATUS_ONLY": str(self.way == "status-only").lower(),
        }

    def _of_client(self) -> dict[str, str]:
        return {
            "CLIENT_URL": ",".join(self.urls),
            "CLIENT_APP": self.app,
            "CLIENT_ID": self.instance.instance_id,
        }

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
