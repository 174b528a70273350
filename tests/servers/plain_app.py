"""A program of one's own that listens by itself: nobody owns its signals, nobody counts its requests but `track`.

Usage: `-m tests.servers.plain_app asyncio|uvloop|trio PORT`. It speaks just enough HTTP for the callers of the matrix.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

import graceful

if TYPE_CHECKING:
    from anyio.abc import SocketStream

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def answer(stream: SocketStream, coordinator: graceful.Coordinator) -> None:
    """The requests of one connection, each tracked; closed by the caller or after an answer that says so."""
    reading = BufferedByteReceiveStream(stream)
    with anyio.fail_after(60):
        while True:
            try:
                head = await reading.receive_until(b"\r\n\r\n", 65536)
            except (anyio.IncompleteRead, OSError):
                return
            target = urlsplit(head.split()[1].decode())
            seconds = float(parse_qs(target.query).get("seconds", ["0"])[0])
            try:
                with coordinator.track(target.path):
                    if target.path == "/stream":
                        await chunks(stream, seconds)
                        return
                    await anyio.sleep(seconds)
                    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except graceful.NotAcceptingError:
                await stream.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


async def chunks(stream: SocketStream, seconds: float) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    for _ in range(10):
        await stream.send(b"chunk\n")
        await anyio.sleep(seconds / 10)
    await stream.send(b"end\n")


async def main(port: int) -> None:
    coordinator = graceful.install()

    @coordinator.on_drain
    def drain() -> None:
        say("drain")

    @coordinator.on_cleanup
    async def cleanup() -> None:
        say("cleanup begins")
        await anyio.sleep(0.5)
        say("cleanup ends")

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await answer(stream, coordinator)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    await listener.serve(handle)


if __name__ == "__main__":
    kind = sys.argv[1]
    anyio.run(
        main,
        int(sys.argv[2]),
        backend="trio" if kind == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if kind == "uvloop" else {},
    )
