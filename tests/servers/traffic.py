"""Callers of a service under test: fresh connections, keep-alive, slow answers, streams and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = 20.0
"""Seconds after which a request counts as accepted and never answered."""


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, path: str) -> None:
        head = h11.Request(method="GET", target=path, headers=[("Host", "test"), ("User-Agent", "caller/1")])
        self._writer.write((self._http.send(head) or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()

    async def events(self) -> AsyncIterator[h11.Event]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(65536))
                continue
            if not isinstance(event, type):
                yield event
            if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return

    async def answer(self) -> int:
        """The status of a response that came in whole."""
        status = 0
        async for event in self.events():
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.EndOfMessage):
                return status
        raise ConnectionError("closed in the middle of a response" if status else "closed without an answer")

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent, after an answer."""
        with contextlib.suppress(h11.ProtocolError):
            self._http.start_next_cycle()
            return not self._reader.at_eof()
        return False

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def get(port: int, path: str) -> str:
    """What came of one request over a connection of its own: `200`, `refused`, `reset`, `unanswered`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT):
            try:
                connection = await Connection.open(port)
            except OSError:
                return "refused"
            try:
                await connection.request(path)
                return str(await connection.answer())
            except (OSError, h11.ProtocolError):
                return "reset"
            finally:
                await connection.close()
    return "unanswered"


@dataclass
class Load:
    """Requests at a steady rate, until told to stop; what came of each that began before the end."""

    port: int
    interval: float = 0.05
    outcomes: list[tuple[float, str]] = field(default_factory=list)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def fresh(self) -> None:
        """Each request over a connection of its own; none waits for the one before."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stopped.is_set():
                tasks.create_task(self._one())
                await self._pause()

    async def _one(self) -> None:
        began = time.monotonic()
        self.outcomes.append((began, await get(self.port, "/fast")))

    async def keep_alive(self) -> None:
        """One after the other over the same connection, and over a new one where the server closed it."""
        connection: Connection | None = None
        while not self._stopped.is_set():
            began = time.monotonic()
            outcome = None
            if connection is not None:
                outcome = await self._again(connection)
                if outcome is None or not connection.reusable:
                    await connection.close()
                    connection = None
            if outcome is None:
                # An idle connection may be closed just as it is used: every client must send again then.
                connection, outcome = await self._first()
            self.outcomes.append((began, outcome))
            await self._pause()
        if connection is not None:
            await connection.close()

    async def _first(self) -> tuple[Connection | None, str]:
        try:
            connection = await Connection.open(self.port)
        except OSError:
            return None, "refused"
        outcome = await self._again(connection)
        if outcome == "200" and connection.reusable:
            return connection, outcome
        await connection.close()
        return None, outcome or "reset"

    async def _again(self, connection: Connection) -> str | None:
        """What came of a request over a connection that is there; None if it was closed."""
        try:
            async with asyncio.timeout(LIMIT):
                await connection.request("/fast")
                return str(await connection.answer())
        except TimeoutError:
            return "unanswered"
        except (OSError, h11.ProtocolError):
            return None

    def stop(self) -> None:
        self._stopped.set()

    def count(self, until: float) -> Counter[str]:
        """What came of the requests that began before an instant."""
        return Counter(outcome for began, outcome in self.outcomes if began < until)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval):
                await self._stopped.wait()


async def stream(port: int, path: str, begun: asyncio.Event) -> str:
    """How a streamed response ended: `complete`, `ended` (cleanly, before its own end), or `cut`."""
    connection = await Connection.open(port)
    last = b""
    try:
        await connection.request(path)
        async for event in connection.events():
            if isinstance(event, h11.Data):
                begun.set()
                last = bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return "complete" if last.endswith(b"end\n") else "ended"
    except (OSError, h11.ProtocolError):
        pass
    finally:
        await connection.close()
    return "cut"


async def websocket(port: int, begun: asyncio.Event) -> str:
    """The close code that an idle WebSocket got."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, close_timeout=1) as socket:
        await socket.send("hello")
        await socket.recv()
        begun.set()
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            return str(closed.rcvd.code) if closed.rcvd else "cut"
    return "a message"
