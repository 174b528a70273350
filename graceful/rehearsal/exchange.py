"""One HTTP/1.1 request, and exactly how it ended.

A request is lost when no connection could be made, when the connection ended before the answer's last byte, or when the
answer was 5xx. Nothing is ever sent twice, so every loss that a caller without retries would see is seen here. h11 does
the framing: the last byte is the one that `Content-Length` or the last chunk says it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import select
import time
from dataclasses import dataclass
from typing import Final, Self

import h11

__all__ = ["Address", "Connection", "Outcome", "Pool", "Result", "request"]

Address = tuple[str, int]

_READ_SIZE: Final = 65_536
# Longer than any route of the rehearsal takes, by far: what has no answer by then was accepted and forgotten.
EXCHANGE_TIMEOUT: Final = 10.0
# Shorter than uvicorn's 5 s, as a well-set client's is shorter than its servers': otherwise a server closes idle
# connections under its clients' hands all day long, and a rollout's losses could not be told from that.
IDLE_TIMEOUT: Final = 2.0


class Outcome(enum.StrEnum):
    """How a request ended, for a caller that does not retry."""

    ANSWERED = "answered"
    REFUSED = "refused"
    CUT = "cut"
    SERVER_ERROR = "5xx"


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended.

    Attributes:
        outcome: the kind.
        reason: for a lost request, what happened in a few words; else empty.
        status: the answer's status, or None if there was no whole answer.
        body: the answer's body, whole if it was answered.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    body: bytes = b""


class _CutError(Exception):
    """The connection was there, and the answer's last byte was not."""


class Connection:
    """A connection to one instance, for one request at a time. Belongs to the event loop that opened it."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = f"{address[0]}:{address[1]}"
        self._reader = reader
        self._writer = writer
        self._protocol = h11.Connection(h11.CLIENT)
        self._used = False

    @classmethod
    async def open(cls, address: Address) -> Self:
        """Connect.

        Raises:
            OSError: the other side refused, or could not be reached.
        """
        return cls(address, *await asyncio.open_connection(*address))

    async def exchange(self, method: str, path: str, content: bytes, *, keep_alive: bool) -> tuple[int, bytes]:
        """Send one request and read its answer to the last byte.

        Args:
            method: the HTTP method.
            path: the request target.
            content: the request's body.
            keep_alive: whether to ask for the connection to be kept; without it, `Connection: close` is sent.

        Returns:
            The status and the body.

        Raises:
            _CutError: the connection ended, or what came was no HTTP, before the last byte.
        """
        status, body, used = None, b"", self._used
        try:
            self._send(method, path, content, keep_alive=keep_alive)
            self._used = True
            while True:
                event = await self._next_event()
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage) and status is not None:
                    return status, body
        except (OSError, h11.ProtocolError) as error:
            what = "closed" if isinstance(error, h11.ProtocolError) else "reset"
            when = "before an answer" if status is None else "inside the answer"
            raise _CutError(f"{what} {when}, {'kept' if used else 'new'} connection") from error

    def _send(self, method: str, path: str, content: bytes, *, keep_alive: bool) -> None:
        headers = [("Host", self._host), ("Accept", "application/json")]
        if content:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        if not keep_alive:
            headers.append(("Connection", "close"))
        events = [h11.Request(method=method, target=path, headers=headers), h11.EndOfMessage()]
        if content:
            events.insert(1, h11.Data(data=content))
        self._writer.write(b"".join(self._protocol.send(event) or b"" for event in events))

    async def _next_event(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            self._protocol.receive_data(await self._reader.read(_READ_SIZE))
        return event

    def ready_again(self) -> bool:
        """Whether the answer left the connection fit for another request: neither side said `Connection: close`."""
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            return False
        self._protocol.start_next_cycle()
        return True

    def still_open(self) -> bool:
        """Whether nothing has come on the idle connection, its end least of all.

        Looked up in the kernel, as httpcore and Java's clients do before they take a connection from the pool: the loop
        may not have been told yet. An end that comes later than this look is the keep-alive race, and is a loss.
        """
        if self._writer.is_closing():  # reset, and the loop was told: there is no socket to ask any more
            return False
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close without waiting."""
        self._writer.close()


class Pool:
    """The kept connections of one caller to one instance, the last one used first. Belongs to one event loop."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[tuple[Connection, float]] = []

    async def request(self, path: str) -> Result:
        """Send one GET on a kept connection if there is a sound one, else on a new one that is kept afterwards."""
        return await _exchange(self._address, "GET", path, b"", self)

    def take(self) -> Connection | None:
        """An idle connection that is young enough and still open, or None. What is not so is closed."""
        while self._idle:
            connection, since = self._idle.pop()
            if time.monotonic() - since < IDLE_TIMEOUT and connection.still_open():
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self._idle.append((connection, time.monotonic()))

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[0].close()


async def request(address: Address, path: str, *, method: str = "GET", content: bytes = b"") -> Result:
    """Send one request on a connection of its own, with `Connection: close`."""
    return await _exchange(address, method, path, content, None)


async def _exchange(address: Address, method: str, path: str, content: bytes, pool: Pool | None) -> Result:
    connection = pool.take() if pool else None
    try:
        async with asyncio.timeout(EXCHANGE_TIMEOUT):
            if connection is None:
                connection = await Connection.open(address)
            status, body = await connection.exchange(method, path, content, keep_alive=pool is not None)
    except TimeoutError:
        if connection is None:
            return Result(Outcome.REFUSED, f"no connection within {EXCHANGE_TIMEOUT:g} s")
        return Result(Outcome.CUT, f"no whole answer within {EXCHANGE_TIMEOUT:g} s")
    except _CutError as error:
        return Result(Outcome.CUT, str(error))
    except OSError as error:
        return Result(Outcome.REFUSED, type(error).__name__)
    else:
        if pool and connection.ready_again():
            pool.give_back(connection)
            connection = None
    finally:
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()
    if status >= 500:
        return Result(Outcome.SERVER_ERROR, f"HTTP {status}", status, body)
    return Result(Outcome.ANSWERED, "", status, body)
