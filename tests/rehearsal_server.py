"""A scripted HTTP server: for every request that arrives, the next answer, byte for byte, and what follows it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from graceful.rehearsal.exchange import Address

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """Bytes, and what happens to the connection after them."""

    data: bytes
    then: Literal["keep", "close", "reset", "hang"] = "keep"


@dataclass
class ScriptedServer:
    """A running server: the request lines, the whole heads, and how many connections were made."""

    address: Address
    answers: Iterator[Answer]
    requests: list[str] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.requests.append(head.split(b"\r\n")[0].decode())
                answer = next(self.answers)
                writer.write(answer.data)
                await writer.drain()
                if answer.then == "hang":
                    await self.hanging.wait()
                if answer.then == "reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                if answer.then != "keep":
                    break
        writer.close()


@asynccontextmanager
async def scripted(*answers: Answer, again: bool = False) -> AsyncIterator[ScriptedServer]:
    """Run a server on a free port; `again` begins the script anew when it is over."""
    script = itertools.cycle(answers) if again else iter(answers)
    server = ScriptedServer(("127.0.0.1", 0), script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = listener.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        server.hanging.set()
        listener.close()
        for writer in server.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def until(condition: Callable[[], bool], *, within: float = 20.0) -> None:
    """Wait until something is so that tells nobody when it becomes so.

    Raises:
        TimeoutError: it was not, in time.
    """
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  see above
            await asyncio.sleep(0.005)


def closed_address() -> Address:
    """An address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
        return host, port
