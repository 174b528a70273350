"""Rows of the fault matrix on two real servers: what an embedded one can only imitate."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from graceful.eureka.rest import EurekaError, Server, Status
from tests.children import child, get, until
from tests.eureka_bench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.eureka_servers import RealPair, RunningEureka

ROWS = [
    ("restart", "registered"),
    ("restart", "adopted"),
    ("eviction", "registered"),
    ("eviction", "adopted"),
    ("eviction", "status-only"),
]


class Watch(threading.Thread):
    """Reads what both servers say, again and again, until it is told to end."""

    def __init__(self, read: Callable[[int], Status | None]) -> None:
        super().__init__(daemon=True)
        self._read = read
        self._over = threading.Event()
        self.seen: tuple[list[Status | None], list[Status | None]] = ([], [])

    def run(self) -> None:
        while not self._over.wait(0.05):
            for number, seen in enumerate(self.seen):
                with suppress(EurekaError):  # one that restarts says nothing
                    seen.append(self._read(number))

    def end(self) -> None:
        self._over.set()
        self.join(10)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("fault", "way"), ROWS)
def test_a_leave_in_trouble(
    real_eureka_pair: tuple[RunningEureka, RunningEureka], real_pair: RealPair, fault: str, way: str
) -> None:
    """A server that restarts, or forgets the instance, in the lame duck: as in the rows on the embedded ones."""
    servers = [Server(node.url) for node in real_pair.nodes]
    with ExitStack() as stack:
        bench = Bench(way, stack)
        key = (bench.app, bench.instance.instance_id)
        bench.credentials = ""
        bench.hosts = [node.address.split("/")[2] for node in real_pair.nodes]
        if fault == "restart":  # a real one takes seconds until it serves again
            bench.env |= {"GRACEFUL_PROPAGATION_DELAY": "14", "GRACEFUL_GRACE_PERIOD": "30"}
        if way == "status-only":
            anyio.run(servers[0].register, bench.instance, time.time_ns() // 1_000_000)
        service = stack.enter_context(
            child("-m", "tests.scenarios.eureka_leaving", way, str(bench.port), env=bench.settings())
        )
        service.wait_for("ready: serving")
        for server in servers:
            until(lambda server=server: anyio.run(server.read, *key) is Status.UP, "UP")
        pool = stack.enter_context(ThreadPoolExecutor())
        answer = pool.submit(get, bench.port, f"/slow?seconds={16 if fault == 'restart' else 2}")
        service.wait_for("slow began")
        service.signal(signal.SIGTERM)
        service.wait_for("OUT_OF_SERVICE verified on 2 of 2")
        watch = Watch(lambda number: anyio.run(servers[number].read, *key))
        watch.start()
        if fault == "restart":
            real_pair.restart(0)
        else:
            for server in servers:
                anyio.run(server.deregister, *key)
        assert service.exit_code() == 0, service.text
        watch.end()
        assert answer.result()[::2] == (200, "done")
        for server, seen in zip(servers, watch.seen, strict=True):
            assert set(seen) <= {Status.OUT_OF_SERVICE, None}, service.text
            assert anyio.run(server.read, *key) is None, service.text
