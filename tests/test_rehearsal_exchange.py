"""What became of a request: answered, refused, cut or 5xx, and never sent twice."""

import asyncio
import socket
from typing import Literal

import pytest

from graceful.rehearsal import exchange
from graceful.rehearsal.exchange import Connection, Outcome, Pool, request
from tests.rehearsal_server import CHUNKED, FAILED, LAST, NOT_FOUND, WHOLE, Answer, closed_address, scripted, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The rehearsal runs on asyncio."""
    return "asyncio"


@pytest.mark.parametrize("data", [WHOLE, LAST, CHUNKED], ids=["length", "close", "chunked"])
async def test_an_answer_to_the_last_byte_is_answered(data: bytes) -> None:
    """Content-Length or the last chunk says which byte is the last."""
    async with scripted(Answer(data, "close")) as server:
        result = await request(server.address, "/fast")

    assert (result.outcome, result.status, result.body) == (Outcome.ANSWERED, 200, b"ok")
    assert server.requests == ["GET /fast HTTP/1.1"]
    assert b"Connection: close" in server.heads[0]


async def test_less_than_500_is_an_answer() -> None:
    """A 404 is an answer; only the server's own failure is a loss."""
    async with scripted(Answer(NOT_FOUND)) as server:
        assert (await request(server.address, "/")).outcome is Outcome.ANSWERED


async def test_a_5xx_is_lost() -> None:
    """A whole answer all the same, but not what was asked for."""
    async with scripted(Answer(FAILED)) as server:
        result = await request(server.address, "/")

    assert (result.outcome, result.reason) == (Outcome.SERVER_ERROR, "HTTP 503")


async def test_a_port_that_nobody_listens_on_refuses() -> None:
    """No connection could be made."""
    result = await request(closed_address(), "/")

    assert (result.outcome, result.reason) == (Outcome.REFUSED, "ConnectionRefusedError")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(b"", "close"), "closed before an answer, new connection"),
        (Answer(b"", "reset"), "reset before an answer, new connection"),
        (Answer(b"HTTP/1.1 200 O", "close"), "closed before an answer, new connection"),
        (Answer(WHOLE[:-1], "close"), "closed inside the answer, new connection"),
        (Answer(CHUNKED[:-1], "close"), "closed inside the answer, new connection"),
        (Answer(FAILED[:-1], "close"), "closed inside the answer, new connection"),
    ],
    ids=["closed", "reset", "half a head", "a byte short", "no last chunk", "half a 503"],
)
async def test_an_answer_without_its_last_byte_is_cut(answer: Answer, reason: str) -> None:
    """One byte short is as lost as all of it, whatever the status said."""
    async with scripted(answer) as server:
        result = await request(server.address, "/")

    assert (result.outcome, result.reason) == (Outcome.CUT, reason)
    assert len(server.requests) == 1


async def test_an_answer_that_never_comes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the kernel accepted and nobody serves is no refusal."""
    monkeypatch.setattr(exchange, "EXCHANGE_TIMEOUT", 0.2)
    async with scripted(Answer(b"", "hang")) as server:
        result = await request(server.address, "/")

    assert (result.outcome, result.reason) == (Outcome.CUT, "no whole answer within 0.2 s")


async def test_a_kept_connection_is_used_again() -> None:
    """Keep-alive, as long as neither side says otherwise."""
    async with scripted(Answer(WHOLE), again=True) as server:
        pool = Pool(server.address)
        outcomes = [(await pool.request("/")).outcome for _ in range(3)]
        pool.close()

    assert outcomes == [Outcome.ANSWERED] * 3
    assert server.connections == 1
    assert b"Connection: close" not in server.heads[0]


async def test_connection_close_is_honoured() -> None:
    """The next request opens a connection of its own."""
    async with scripted(Answer(LAST, "close"), again=True) as server:
        pool = Pool(server.address)
        outcomes = [(await pool.request("/")).outcome for _ in range(3)]

    assert outcomes == [Outcome.ANSWERED] * 3
    assert server.connections == 3


async def test_connection_close_is_honoured_even_if_the_server_waits() -> None:
    """The header counts, not whether the server has closed yet."""
    async with scripted(Answer(LAST, "hang"), again=True) as server:
        pool = Pool(server.address)
        assert (await pool.request("/")).outcome is Outcome.ANSWERED
        assert pool.take() is None


async def test_an_idle_connection_that_has_ended_is_not_used() -> None:
    """Nothing was sent on it, so there is nothing to lose."""
    async with scripted(Answer(WHOLE, "close"), again=True) as server:
        pool = Pool(server.address)
        await pool.request("/")
        (idle, _since) = pool._idle[0]
        await until(lambda: not idle.still_open())
        result = await pool.request("/")
        pool.close()

    assert result.outcome is Outcome.ANSWERED
    assert server.connections == 2


async def connected() -> tuple[Connection, socket.socket]:
    """A connection, and the other end of it."""
    ours, theirs = socket.socketpair()
    return Connection(("127.0.0.1", 0), *await asyncio.open_connection(sock=ours)), theirs


async def test_an_end_that_only_the_kernel_has_heard_of_is_seen() -> None:
    """The event loop has not run since."""
    connection, theirs = await connected()
    assert connection.still_open()
    theirs.close()

    assert not connection.still_open()
    connection.close()


async def test_a_connection_that_was_reset_while_idle_is_not_open() -> None:
    """The event loop has closed its socket already."""
    async with scripted(Answer(WHOLE, "reset")) as server:
        pool = Pool(server.address)
        await pool.request("/")
        (idle, _since) = pool._idle[0]
        await until(idle._writer.is_closing)

    assert pool.take() is None


async def test_an_idle_connection_grows_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gives up its idle connections before the server does."""
    monkeypatch.setattr(exchange, "IDLE_TIMEOUT", 0.0)
    async with scripted(Answer(WHOLE), again=True) as server:
        pool = Pool(server.address)
        await pool.request("/")
        await pool.request("/")
        pool.close()

    assert server.connections == 2


@pytest.mark.parametrize(("then", "what"), [("close", "closed"), ("reset", "reset")])
async def test_the_keep_alive_race_is_a_loss_and_nothing_is_sent_twice(
    then: Literal["close", "reset"], what: str
) -> None:
    """The server ends a kept connection as the request arrives: cut, and not tried again elsewhere."""
    async with scripted(Answer(WHOLE), Answer(b"", then)) as server:
        pool = Pool(server.address)
        await pool.request("/one")
        result = await pool.request("/two")

    assert (result.outcome, result.reason) == (Outcome.CUT, f"{what} before an answer, kept connection")
    assert server.requests == ["GET /one HTTP/1.1", "GET /two HTTP/1.1"]
    assert server.connections == 1


async def test_a_body_is_sent() -> None:
    """What steers the embedded Eureka travels the same way."""
    async with scripted(Answer(WHOLE)) as server:
        result = await request(server.address, "/_faults", method="POST", content=b"{}")

    assert result.status == 200
    assert server.requests == ["POST /_faults HTTP/1.1"]
