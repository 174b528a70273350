"""How long it takes to be out of service while one of three Eureka servers hangs: by the wall clock."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from benchmarks.comparison import Comparison, in_turns
from graceful.eureka.instance import Instance
from graceful.eureka.rest import Server
from graceful.eureka.status import StatusManager
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compare_withdrawal"]

_THEIRS: Final = "`status_update` of py-eureka-client, one of 3 servers hung (wall clock)"
_OURS: Final = "OUT_OF_SERVICE by `graceful`, seen on a server"
_INSTANCE: Final = Instance(app="orders", ip="127.0.0.1", port=8080)
_ANNOUNCE_TIMEOUT: Final = 5.0


def compare_withdrawal(runs: int) -> list[Comparison]:
    """Compare the time until `status_update` ends with that until a server that answers has been seen to have it.

    The instance is registered while all is well; then the first server, which both have spoken to, hangs. The turn
    that is not counted takes as long as the others: about ten seconds.

    Args:
        runs: turns that are counted; none for no comparison.
    """
    if not runs:
        return []
    with EmbeddedEurekaCluster(nodes=3, replication_delay=0.05) as cluster:
        times = in_turns({_OURS: partial(_graceful, cluster), _THEIRS: partial(_py_eureka_client, cluster)}, runs)
    return [Comparison.of(_THEIRS, _OURS, times)]


def _graceful(cluster: EmbeddedEurekaCluster) -> float:
    return anyio.run(_withdraw, cluster)


async def _withdraw(cluster: EmbeddedEurekaCluster) -> float:
    await Server(cluster.urls[0]).register(_INSTANCE, time.time_ns() // 1_000_000)
    await anyio.to_thread.run_sync(cluster.replication.wait_until_quiet)
    manager = StatusManager([Server(url) for url in cluster.urls], _INSTANCE.app, _INSTANCE.instance_id)
    await manager.prepare()
    with _hanging(cluster):
        begun = anyio.current_time()
        outcome = await manager.withdraw(begun + _ANNOUNCE_TIMEOUT)
    await manager.deregister(anyio.current_time() + _ANNOUNCE_TIMEOUT)
    if outcome.first_verified_at is None:
        raise RuntimeError(f"no server was seen to be told: {outcome}")
    return outcome.first_verified_at - begun


def _py_eureka_client(cluster: EmbeddedEurekaCluster) -> float:
    # Imported here: it is the contender, and nobody else's business.
    from py_eureka_client import eureka_client, logger

    # By default it prints the servers' errors, from a thread of its own.
    unheard = logging.Logger("unheard")  # noqa: LOG001  in no tree, on purpose
    unheard.addHandler(logging.NullHandler())
    logger.set_custom_logger(unheard)
    client = eureka_client.EurekaClient(
        eureka_server=",".join(cluster.urls),
        app_name=_INSTANCE.app,
        instance_id=_INSTANCE.instance_id,
        instance_host=_INSTANCE.hostname,
        instance_ip=_INSTANCE.ip,
        instance_port=_INSTANCE.port,
        should_discover=False,
    )

    async def update() -> float:
        # What `start()` does, without the heartbeat thread, which would have no end.
        await client._EurekaClient__parepare_instance_info()  # noqa: SLF001
        await client.register()
        await asyncio.to_thread(cluster.replication.wait_until_quiet)
        with _hanging(cluster):
            begun = time.perf_counter()
            await client.status_update("OUT_OF_SERVICE")
            seconds = time.perf_counter() - begun
        await client.cancel()
        return seconds

    return asyncio.run(update())


@contextmanager
def _hanging(cluster: EmbeddedEurekaCluster) -> Iterator[None]:
    cluster.nodes[0].hang()
    try:
        yield
    finally:
        cluster.nodes[0].clear_faults()
        cluster.replication.wait_until_quiet()
