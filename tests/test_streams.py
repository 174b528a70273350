"""Event streams in the drain: a clean last chunk, whatever produces the events; everything else goes on to its end."""

import asyncio
import contextlib
from typing import Any

import anyio
import pytest

from graceful.http.asgi import GracefulMiddleware
from graceful.http.websocket import ClosedByDrainError
from tests.services import FakeService

HEADERS = [(b"content-type", b"text/event-stream")]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}
SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/events",
    "root_path": "",
    "headers": [],
    "query_string": b"",
    "scheme": "http",
    "server": ("t", 80),
    "client": ("127.0.0.1", 1),
}


def event(text="tick"):
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}


class Exchange:
    """A server with one request: what the application sent, and how its run ended."""

    def __init__(self, app, *, slow=False, spec_version="2.3"):
        self.service = FakeService()
        self.sent = []
        self.app = GracefulMiddleware(http_only(app), self.service)
        self.scope = SCOPE | {"asgi": {"version": "3.0", "spec_version": spec_version}}
        self.complete = anyio.Event()
        self._changed = anyio.Event()
        self.may_send = anyio.Event()
        if not slow:
            self.may_send.set()

    async def run(self):
        await self.app({"type": "lifespan"}, self._startup, ignore)
        await self.app(self.scope, self._receive, self._send)

    async def _startup(self):
        return {"type": "lifespan.startup"}

    async def _receive(self):
        # What the specification asks of servers: a disconnect once the response is complete.
        await self.complete.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await anyio.lowlevel.checkpoint()
        if self.complete.is_set():
            raise RuntimeError("Unexpected ASGI message, after response already completed")
        self.sent.append(message)
        self._changed.set()
        self._changed = anyio.Event()
        await self.may_send.wait()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete.set()

    async def until_sent(self, count):
        while len(self.sent) < count:
            await self._changed.wait()


async def ignore(_):
    pass


def http_only(app):
    async def call(scope, receive, send):
        if scope["type"] == "http":
            await app(scope, receive, send)

    return call


def play(backend, app, story, **how):
    """Run a request, and what happens meanwhile once everybody waits; both must have ended after it."""

    async def main():
        exchange = Exchange(app, **how)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange.run)
                await anyio.wait_all_tasks_blocked()
                await story(exchange)
        assert len(exchange.service.work) == 0
        assert len(exchange.service.long_connections) == 0
        return exchange

    return anyio.run(main, backend=backend)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    return request.param


async def drain(exchange):
    exchange.service.drain()


async def idle(scope, receive, send):
    """One event, and then none for long."""
    await send(START)
    await send(event())
    await anyio.sleep_forever()


async def without_an_event(scope, receive, send):
    await send(START)
    await anyio.sleep_forever()


@pytest.mark.parametrize(("app", "events"), [(idle, [event()]), (without_an_event, [])])
def test_one_without_a_next_event_is_ended(backend, app, events):
    """The peer has its last chunk, and the application, which would wait for long, is cancelled."""
    assert play(backend, app, drain).sent == [START, *events, LAST]


def test_the_application_may_tidy_up(backend):
    """Whatever it waits for in its `finally`, on asyncio; on trio with a shield, as ever."""
    tidied = []

    async def app(scope, receive, send):
        try:
            await idle(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=backend == "trio"):
                await anyio.sleep(0.01)
                tidied.append(True)

    play(backend, app, drain)
    assert tidied == [True]


def test_one_that_sends_on_for_ever_is_ended(backend):
    """Its next event is an OSError to it, and no error to anybody else."""

    async def ticking(scope, receive, send):
        await send(START)
        while True:
            await send(event())
            with anyio.CancelScope(shield=True):  # one that is not cancelled in between
                await anyio.sleep(0.001)

    async def main():
        exchange = Exchange(ticking)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange.run)
                await exchange.until_sent(4)
                exchange.service.drain()
        return exchange.sent

    sent = anyio.run(main, backend=backend)
    assert sent[-1] == LAST
    assert LAST not in sent[:-1]


def test_the_error_is_that_of_a_peer_that_is_gone(backend):
    """An application that handles that handles this."""
    told: list[Any] = []

    async def app(scope, receive, send):
        await send(START)
        with contextlib.suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
            told.append(anyio.Event())
            await told[0].wait()
        with anyio.CancelScope(shield=True):
            with pytest.raises(ClosedByDrainError, match="this instance is shutting down") as error:
                await send(event())
            told.append(isinstance(error.value, OSError))

    async def story(exchange):
        exchange.service.drain()
        await exchange.complete.wait()
        told[0].set()

    play(backend, app, story)
    assert told[1:] == [True]


def test_the_chunk_that_is_being_sent_is_sent_to_its_end_first(backend):
    """Two chunks must not be under way at once."""

    async def story(exchange):
        exchange.service.drain()
        await anyio.wait_all_tasks_blocked()
        assert exchange.sent == [START]
        exchange.may_send.set()

    assert play(backend, idle, story, slow=True).sent == [START, LAST]


def test_a_peer_that_takes_nothing_any_more_is_cut_off_late(backend):
    """The last chunk cannot be sent; the application ends when the drain's time is nearly over."""

    async def story(exchange):
        exchange.service.drain()
        await anyio.wait_all_tasks_blocked()
        exchange.service.cut()

    assert play(backend, idle, story, slow=True).sent == [START]


def test_a_finite_stream_goes_on_to_its_end(backend):
    """Cut off cleanly it would look complete."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv")]}
    go_on = []

    async def app(scope, receive, send):
        go_on.append(anyio.Event())
        await send(start)
        await send(event("1"))
        await go_on[0].wait()
        await send(event("2"))
        await send({"type": "http.response.body", "body": b"end"})

    async def story(exchange):
        exchange.service.drain()
        exchange.service.cut()
        await anyio.wait_all_tasks_blocked()
        go_on[0].set()

    sent = play(backend, app, story).sent
    assert sent == [start, event("1"), event("2"), {"type": "http.response.body", "body": b"end"}]


def test_what_comes_after_a_complete_stream_is_left_alone(backend):
    """A background task that runs on after the last event: neither a second end nor a cancellation."""
    ran: list[Any] = []

    async def app(scope, receive, send):
        ran.append(anyio.Event())
        await send(START)
        await send({"type": "http.response.body", "body": b"data: only\n\n"})
        await ran[0].wait()
        ran.append(True)

    async def story(exchange):
        exchange.service.drain()
        exchange.service.cut()
        await anyio.wait_all_tasks_blocked()
        ran[0].set()

    assert len(play(backend, app, story).sent) == 2
    assert ran[1:] == [True]


def test_a_stream_that_opens_after_the_drain_has_begun_is_ended_at_once(backend):
    """Its request was let in before."""
    let = []

    async def app(scope, receive, send):
        let.append(anyio.Event())
        await let[0].wait()
        await idle(scope, receive, send)

    async def story(exchange):
        exchange.service.drain()
        let[0].set()

    sent = play(backend, app, story).sent
    assert sent[-1] == LAST
    assert (b"connection", b"close") in sent[0]["headers"]


def test_an_error_before_the_end_is_the_applications_own(backend):
    """Only what comes of our end is swallowed."""

    async def app(scope, receive, send):
        await send(START)
        await send(event())
        raise ValueError("a bug")

    async def main():
        exchange = Exchange(app)
        with pytest.raises(ValueError, match="a bug"):
            await exchange.run()
        assert len(exchange.service.work) == len(exchange.service.long_connections) == 0

    anyio.run(main, backend=backend)


def test_a_cancellation_from_outside_goes_through(backend):
    """The server's own, at the same moment as ours."""

    async def main():
        exchange = Exchange(idle)
        went_on = False
        with anyio.CancelScope() as outer:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange.run)
                await anyio.wait_all_tasks_blocked()
                exchange.service.cut()
                outer.cancel()
            went_on = True
        assert outer.cancelled_caught
        assert not went_on

    anyio.run(main, backend=backend)


def test_the_servers_task_is_not_left_cancelled():
    """It goes on after the application has ended, also where that kept the cancellation to itself (asyncio)."""

    async def swallows(scope, receive, send):
        with contextlib.suppress(asyncio.CancelledError):
            await idle(scope, receive, send)

    async def main(app):
        exchange = Exchange(app)

        async def serve():
            await exchange.run()
            async with asyncio.timeout(
                20
            ):  # which counts the cancellations asked for, and would be told a wrong number
                await asyncio.sleep(0)
            return task.cancelling()

        task = asyncio.create_task(serve())
        await anyio.wait_all_tasks_blocked()
        exchange.service.drain()
        assert await task == 0

    asyncio.run(main(idle))
    asyncio.run(main(swallows))


def test_a_cancellation_by_the_server_at_the_same_moment_is_not_swallowed():
    """The counting of `Task.uncancel`: ours is taken back, theirs is left (asyncio)."""

    async def main():
        exchange = Exchange(idle)
        task = asyncio.create_task(exchange.run())
        await anyio.wait_all_tasks_blocked()
        exchange.service.cut()
        await asyncio.sleep(0)  # ours is under way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


def test_a_task_of_the_applications_own_that_sends():
    """It is the one that is cancelled; what that makes of the task that waits for it is no error either (asyncio)."""

    async def app(scope, receive, send):
        await asyncio.create_task(idle(scope, receive, send))

    assert play("asyncio", app, drain).sent == [START, event(), LAST]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_starlettes_streaming_response(backend, spec_version):
    """From 2.4 on it does not listen for the disconnect itself."""
    from starlette.responses import StreamingResponse

    async def events():
        yield "data: tick\n\n"
        await anyio.sleep_forever()

    async def app(scope, receive, send):
        await StreamingResponse(events(), media_type="text/event-stream")(scope, receive, send)

    sent = play(backend, app, drain, spec_version=spec_version).sent
    assert [message.get("body") for message in sent] == [None, b"data: tick\n\n", b""]
    assert sent[-1] == LAST


def test_sse_starlettes_response():
    """With its ping beside the events, and its own watch for the server's end."""
    from sse_starlette import EventSourceResponse

    async def events():
        yield {"data": "tick"}
        await anyio.sleep_forever()

    async def app(scope, receive, send):
        await EventSourceResponse(events())(scope, receive, send)

    sent = play_asyncio_only(app)
    assert [message.get("body") for message in sent] == [None, b"data: tick\r\n\r\n", b""]
    assert sent[-1] == LAST


def play_asyncio_only(app):
    """As `play`: without waiting for tasks that never wait for long, as sse-starlette's watcher."""

    async def main():
        exchange = Exchange(app)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(exchange.run())
            await exchange.until_sent(2)
            exchange.service.drain()
        assert len(exchange.service.work) == len(exchange.service.long_connections) == 0
        return exchange.sent

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "endless"),
    [
        ([(b"content-type", b"text/event-stream")], True),
        ([(b"x", b"y"), (b"Content-Type", b"Text/Event-Stream; charset=utf-8")], True),
        ([(b"content-type", b"text/event")], False),
        ([(b"content-type", b"application/json"), (b"x", b"text/event-stream")], False),
        ([(b"x-content-type", b"text/event-stream")], False),
        ([], False),
    ],
)
def test_which_responses_have_no_end(headers, endless):
    """By their content type alone, whatever its parameters."""

    async def app(scope, receive, send):
        await send(START | {"headers": headers})
        assert len(holder[0].long_connections) == endless
        await send({"type": "http.response.body", "body": b""})

    async def main():
        exchange = Exchange(app)
        holder.append(exchange.service)
        await exchange.run()
        assert len(exchange.service.long_connections) == 0

    holder: list[FakeService] = []
    asyncio.run(main())


def test_headers_that_can_be_read_once_only():
    """ASGI asks for an iterable; the server still gets them all."""

    async def app(scope, receive, send):
        await send(START | {"headers": iter(HEADERS)})
        await anyio.sleep_forever()

    assert play("asyncio", app, drain).sent == [START, LAST]
