"""aiohttp.web in front of a service that leaves: in flight, late, refused, and the ends of its long connections."""

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from graceful.core.phases import Phase
from graceful.http.aiohttp import AiohttpWiring
from tests.services import FakeService


class Server(TestServer):
    """One whose handlers go on when their peer is gone, as those of `run_app` do."""

    async def _make_runner(self, **options):
        return await super()._make_runner(**options | {"handler_cancellation": False})


class Site:
    """An application that is served, its service, and a client."""

    def __init__(self, handler, **options):
        self.service = FakeService()
        self.app = web.Application()
        self.app.router.add_get("/orders", handler)
        how: dict[str, Any] = {"livez_path": "/livez", "readyz_path": "/readyz", "retry_after": 2.4, "close_code": 1012}
        self.wiring = AiohttpWiring(self.app, self.service, **(how | options))

    async def __aenter__(self):
        self.client = await TestClient(Server(self.app)).__aenter__()
        return self

    async def nothing_in_flight(self):
        idle = asyncio.Event()
        self.service.work.notify_idle(idle.set)
        if len(self.service.work):
            await idle.wait()

    async def __aexit__(self, *_):
        await self.client.close()
        assert len(self.service.work) == 0
        assert len(self.service.long_connections) == 0


def play(handler, story, **options):
    async def main():
        async with asyncio.timeout(20), Site(handler, **options) as site:
            await story(site, site.client)
        return site.service

    return asyncio.run(main())


async def hello(request):
    return web.Response(text="hello")


def test_while_serving_nothing_is_changed():
    """And the request is in flight until its handler has returned."""

    go_on = []

    async def handler(request):
        go_on.append(asyncio.Event())
        await go_on[0].wait()
        return web.Response(text="hello")

    async def story(site, client):
        task = asyncio.create_task(client.get("/orders"))
        while not go_on:  # noqa: ASYNC110  the handler runs in this very event loop
            await asyncio.sleep(0.001)
        assert [work.name for work in site.service.work.snapshot()] == ["GET /orders"]
        go_on[0].set()
        response = await task
        assert (response.status, await response.text()) == (200, "hello")
        assert "Connection" not in response.headers

    play(handler, story)


def test_in_the_lame_duck_it_serves_and_closes():
    """The header alone would leave the socket open."""

    async def story(site, client):
        assert (await client.get("/orders")).status == 200
        assert len(client.session.connector._conns) == 1
        site.service.phase = Phase.LAME_DUCK
        response = await client.get("/orders", headers={"User-Agent": "Java/17"})
        assert (response.status, response.headers["Connection"]) == (200, "close")
        assert site.service.late == [("127.0.0.1 (Java/17)", "GET /orders", True)]

    play(hello, story)


def test_the_server_closes_the_connection_itself():
    """Also where the client does not heed the header."""

    async def story(site, client):
        site.service.phase = Phase.LAME_DUCK
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /orders HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await reader.read()).endswith(b"hello")
        writer.close()

    play(hello, story)


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.CLEANUP, Phase.STOPPED])
def test_from_the_drain_on_new_requests_get_503(phase):
    """With what a proxy needs to try elsewhere; the handler is not called."""

    async def never(request):
        pytest.fail("called")

    async def story(site, client):
        site.service.phase = phase
        response = await client.get("/orders", headers={"User-Agent": "kube-probe/1.31"})
        assert (response.status, response.headers["Retry-After"], response.headers["Connection"]) == (503, "2", "close")
        assert await response.text() == "this instance is shutting down\n"
        assert site.service.late == []

    play(never, story)


def test_probes():
    """Neither in flight nor refused."""

    async def story(site, client):
        site.service.phase, site.service.not_ready = Phase.DRAINING, "draining"
        assert (await client.get("/livez")).status == 200
        response = await client.get("/readyz")
        assert (response.status, await response.text()) == (503, "not ready: draining\n")
        assert site.service.work.accepted == 0

    play(hello, story)


def test_the_two_ends_of_its_life():
    """Ours is asked before the application's own shutdown."""
    heard: list[str] = []

    async def main():
        site = Site(hello)
        site.service.lifespan = heard

        async def stops(app):
            heard.append("app stops")

        site.app.on_shutdown.append(stops)
        async with asyncio.timeout(20), site:
            assert heard == ["begins", "started"]

    asyncio.run(main())
    assert heard == ["begins", "started", "ends", "app stops"]


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def test_a_websocket_is_closed_with_its_code():
    """Its handler comes to its end by itself."""

    async def story(site, client):
        async with client.ws_connect("/orders") as socket:
            await socket.send_str("hello")
            assert (await socket.receive()).data == "hello"
            site.service.drain()
            message = await socket.receive()
            assert (message.type, message.data) == (WSMsgType.CLOSE, 4012)

    play(echo, story, close_code=4012)


def test_a_websocket_whose_handler_waits_for_something_else_is_cut_off_late():
    """Its peer has been told at the drain."""

    async def handler(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await asyncio.Event().wait()

    async def story(site, client):
        async with client.ws_connect("/orders") as socket:
            site.service.drain()
            assert (await socket.receive()).data == 1012
            assert len(site.service.work) == 1
            site.service.cut()
            await site.nothing_in_flight()

    play(handler, story)


async def idle(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: tick\n\n")
    await asyncio.Event().wait()


async def ticking(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b"data: tick\n\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()


def test_the_peer_does_not_wait_for_the_handler_to_tidy_up():
    """It has its last chunk before."""
    tidy = []

    async def handler(request):
        try:
            await idle(request)
        finally:
            tidy.append(asyncio.Event())
            await tidy[0].wait()

    async def story(site, client):
        response = await client.get("/orders")
        site.service.drain()
        await response.read()
        while not tidy:  # noqa: ASYNC110  the handler runs in this very event loop
            await asyncio.sleep(0.001)
        assert len(site.service.work) == 1
        tidy[0].set()
        await site.nothing_in_flight()

    play(handler, story)


@pytest.mark.parametrize("handler", [idle, ticking])
def test_an_event_stream_is_ended_with_a_clean_last_chunk(handler, caplog):
    """Whatever its handler does; and nobody takes that for an error."""

    seen: list[BaseException] = []

    async def main():
        site = Site(handler)

        @web.middleware
        async def noting(request, handler):
            try:
                return await handler(request)
            except BaseException as error:
                seen.append(error)
                raise

        site.app.middlewares.insert(0, noting)
        async with asyncio.timeout(20), site:
            response = await site.client.get("/orders")
            assert await response.content.readany()
            site.service.drain()
            await response.read()
            await site.nothing_in_flight()

    asyncio.run(main())
    assert seen == []
    assert [record for record in caplog.records if record.levelname in ("ERROR", "WARNING")] == []


def test_a_finite_stream_goes_on_to_its_end():
    """Cut off cleanly it would look complete."""
    go_on = []

    async def handler(request):
        go_on.append(asyncio.Event())
        response = web.StreamResponse(headers={"Content-Type": "text/csv"})
        await response.prepare(request)
        await response.write(b"1\n")
        await go_on[0].wait()
        await response.write(b"2\n")
        return response

    async def story(site, client):
        response = await client.get("/orders")
        site.service.drain()
        site.service.cut()
        go_on[0].set()
        assert await response.read() == b"1\n2\n"

    play(handler, story)


def test_an_error_before_the_end_is_the_handlers_own():
    """Only what comes of our end is swallowed."""

    async def handler(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        raise LookupError("a bug")

    errors = []

    async def main():
        site = Site(handler)

        @web.middleware
        async def noting(request, handler):
            try:
                return await handler(request)
            except LookupError as error:
                errors.append(str(error))
                raise

        site.app.middlewares.insert(0, noting)
        async with asyncio.timeout(20), site:
            response = await site.client.get("/orders")
            with contextlib.suppress(Exception):
                await response.read()

    asyncio.run(main())
    assert errors == ["a bug"]


def test_undone_it_is_as_it_was():
    """Before it is started; afterwards its lists are frozen, and it is left as it is."""
    site = Site(hello)
    site.wiring.undo()
    fresh = web.Application()
    for name in ("middlewares", "on_startup", "on_shutdown", "on_response_prepare"):
        assert len(getattr(site.app, name)) == len(getattr(fresh, name))
