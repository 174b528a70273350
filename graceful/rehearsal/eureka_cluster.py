"""Several embedded Eureka servers that replicate to each other, and replication that fails when it is told to."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from graceful.rehearsal.eureka import EVICTION_INTERVAL, EmbeddedEureka
from graceful.rehearsal.eureka_replication import Replication

if TYPE_CHECKING:
    from types import TracebackType

    from graceful.rehearsal.eureka_changes import Change

__all__ = ["EmbeddedEurekaCluster"]


class EmbeddedEurekaCluster:
    """Embedded Eureka servers in threads of this process that know each other, from `with` to the end of its block.

    What a client tells one node the others hear `replication_delay` later, straight from node to node: it passes by
    the request logs and the faults of [`EmbeddedEureka`][graceful.rehearsal.eureka.EmbeddedEureka], which are for
    clients. A node can be stopped and started: it comes back empty, on its port.

    Attributes:
        nodes: the servers, each with its own URL, faults and request log.
        replication: drops, holds, delays and cuts what goes from node to node, and tells what became of it; see
            [`Replication`][graceful.rehearsal.eureka_replication.Replication].

    Args:
        nodes: how many servers; two or more.
        replication_delay: seconds from a change to its arrival at the other nodes.
        retry_timeout: seconds for which a change is kept for a node that cannot be reached (Eureka: 30).
        cache_interval: of every node, as in `EmbeddedEureka`.
        eviction_interval: of every node.
        host: the address that all nodes listen on.
        port: of the first node, the others have those that follow; 0 takes free ones.
        user: of every node.
        password: of every node.
        csrf: of every node.

    Raises:
        ValueError: there are fewer than two nodes, or an argument of theirs is wrong.
    """

    def __init__(
        self,
        *,
        nodes: int = 2,
        replication_delay: float = 0.1,
        retry_timeout: float = 30.0,
        cache_interval: float = 30.0,
        eviction_interval: float = EVICTION_INTERVAL,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        csrf: bool = False,
    ) -> None:
        if nodes < 2:
            raise ValueError(f"a cluster of {nodes} has nobody to replicate to: use 2 nodes or more")
        self.nodes = tuple(
            EmbeddedEureka(
                cache_interval=cache_interval,
                eviction_interval=eviction_interval,
                host=host,
                port=port and port + number,
                user=user,
                password=password,
                csrf=csrf,
                on_change=partial(self._pass_on, number),
                peers=partial(self._peers_of, number),
            )
            for number in range(nodes)
        )
        self.replication = Replication(self.nodes, delay=replication_delay, retry_timeout=retry_timeout)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for node in self.nodes:
                node.start()
                starting.callback(node.stop)
            self.replication.start()
            # Ended first, so that nothing is delivered to a server that is about to end.
            starting.callback(self.replication.stop)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def urls(self) -> tuple[str, ...]:
        """What a client of all nodes is given: their URLs, credentials inside."""
        return tuple(node.url for node in self.nodes)

    def _peers_of(self, number: int) -> list[str]:
        return [f"{node.address}/" for node in self.nodes if node is not self.nodes[number]]

    def _pass_on(self, source: int, change: Change) -> None:
        self.replication.submit(source, change)
