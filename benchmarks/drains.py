"""What a drain takes with much in flight: the time until the last one has ended, and what each holds in memory."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.middleware import serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful import Coordinator
    from graceful.http.asgi import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Drain", "drains", "drains_markdown"]

_REQUESTS: Final = "requests in flight"
_SOCKETS: Final = "WebSockets"
_PARTS: Final = (0.1, 1.0)
"""Of the count that was asked for: time against count."""


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain.

    Attributes:
        what: what was open.
        count: how many.
        seconds: from the beginning of the drain until the last one had ended, by the wall clock.
        cpu: CPU seconds of all threads meanwhile.
        held: bytes that each holds because of the middleware, while it is open.
    """

    what: str
    count: int
    seconds: float
    cpu: float
    held: float

    def as_dict(self) -> dict[str, str | float]:
        """Everything, for JSON."""
        return asdict(self)


def drains(requests: int, sockets: int) -> list[Drain]:
    """Drain a real service, in this process and without a server.

    Args:
        requests: how many are in flight; each ends when the drain begins.
        sockets: how many WebSockets are open; each application waits for its next message.
    """
    counts = [(_REQUESTS, requests), (_SOCKETS, sockets)]
    return [_drain(what, max(1, round(count * part))) for what, count in counts for part in _PARTS]


def drains_markdown(told: Sequence[Drain]) -> str:
    """The drains as a table in Markdown."""
    rows = ["| drained | count | wall clock | CPU time | memory of each |", "|---|--:|--:|--:|--:|"]
    rows += [
        f"| {each.what} | {each.count} | {each.seconds:.2f} s | {each.cpu * 1e3:.0f} ms | {each.held / 1024:.1f} KiB |"
        for each in told
    ]
    return "\n".join(rows)


def _drain(what: str, count: int) -> Drain:
    with serving() as coordinator, asyncio.Runner() as runner:
        app = _Application(coordinator)
        held = runner.run(_held(what, count, app, coordinator.asgi(app)))
        seconds, cpu = runner.run(_drained(what, count, coordinator.asgi(app), coordinator))
    return Drain(what, count, seconds, cpu, held)


class _Application:
    """A request waits for the drain, as a long poll does; a WebSocket for its next message."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
        else:
            await self._coordinator.draining.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})


class _Peer:
    """A server's side of one connection: it connects, and says nothing more."""

    def __init__(self, what: str) -> None:
        kind = "websocket" if what == _SOCKETS else "http"
        self.scope: Scope = {"type": kind, "method": "GET", "path": "/orders/7", "http_version": "1.1", "headers": []}
        self._connected = False

    async def receive(self) -> Message:
        if self._connected:
            await asyncio.Event().wait()
        self._connected = True
        return {"type": "websocket.connect"}

    async def send(self, _: Message) -> None:
        pass


async def _open(what: str, count: int, app: ASGIApp) -> list[asyncio.Task[Any]]:
    peers = [_Peer(what) for _ in range(count)]
    tasks = [asyncio.ensure_future(app(peer.scope, peer.receive, peer.send)) for peer in peers]
    for _ in range(3):  # as many steps as each takes until it waits
        await asyncio.sleep(0)
    return tasks


async def _held(what: str, count: int, bare: ASGIApp, wrapped: ASGIApp) -> float:
    """Bytes that one connection takes more through the middleware than without it."""
    used = []
    for app in (bare, wrapped):
        tracemalloc.start()
        tasks = await _open(what, count, app)
        used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return (used[1] - used[0]) / count


async def _drained(what: str, count: int, app: ASGIApp, coordinator: Coordinator) -> tuple[float, float]:
    tasks = await _open(what, count, app)
    coordinator.drain("a benchmark")
    await coordinator.draining.wait()
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*tasks)
    return time.perf_counter() - began, time.process_time() - cpu
