"""A caller over HTTP/2 and TLS, that sees what the server says of the connection itself."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, ResponseReceived, StreamEnded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Http2:
    """One connection.

    Attributes:
        going_away: set when the server has said GOAWAY.
        closed: set when the connection has ended.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = H2Connection(H2Configuration(client_side=True))
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._statuses: dict[int, int] = {}
        self._pending = b""
        self.going_away = asyncio.Event()
        self.closed = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, port: int, authority: Path) -> Self:
        context = ssl.create_default_context(cafile=authority)
        context.set_alpn_protocols(["h2"])
        made = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"))
        made._http.initiate_connection()
        made._flush()
        return made

    async def get(self, path: str) -> int:
        """The status of a response that came in whole."""
        stream = self._http.get_next_available_stream_id()
        ended = self._ends[stream] = asyncio.Future()
        headers = [(":method", "GET"), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        self._http.send_headers(stream, headers, end_stream=True)
        self._flush()
        return await ended

    async def close(self) -> None:
        self._writer.close()
        await self._task

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())

    async def _read(self) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while not self.going_away.is_set() and (data := await self._reader.read(65536)):
                for frame in self._frames(data):
                    for event in self._http.receive_data(frame):
                        self._see(event)
                    if self.going_away.is_set():
                        break  # h2 takes nothing after it
                self._flush()
            await self._reader.read()
        self.closed.set()
        for ended in self._ends.values():
            if not ended.done():
                ended.set_exception(ConnectionError("closed without an answer"))

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """The whole frames of what has come in (RFC 9113 4.1)."""
        self._pending += data
        while len(self._pending) >= (end := 9 + int.from_bytes(self._pending[:3])) and len(self._pending) >= 9:
            frame, self._pending = self._pending[:end], self._pending[end:]
            yield frame

    def _see(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._statuses[event.stream_id] = int(dict(event.headers)[b":status"])
        elif isinstance(event, StreamEnded):
            self._ends[event.stream_id].set_result(self._statuses[event.stream_id])
        elif isinstance(event, ConnectionTerminated):
            self.going_away.set()
