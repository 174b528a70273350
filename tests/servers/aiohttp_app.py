"""An aiohttp.web application: what a service can be doing when it is told to leave.

Usage: `-m tests.servers.aiohttp_app run_app|run_app-uvloop|runner PORT`.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop
from aiohttp import WSMsgType, web

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def answer(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.query.get("seconds", "0")))
    return web.Response(text="ok")


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(10):
        await response.write(b"chunk\n")
        await asyncio.sleep(float(request.query["seconds"]) / 10)
    await response.write(b"end\n")
    return response


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    while True:
        await response.write(b"data: tick\n\n")
        await asyncio.sleep(0.1)


async def websocket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    async for message in response:
        if message.type == WSMsgType.TEXT:
            await response.send_str(message.data)
    say("websocket disconnected")
    return response


async def teardown(_: web.Application) -> None:
    say("teardown")


def application() -> web.Application:
    app = web.Application()
    app.router.add_get("/fast", answer)
    app.router.add_get("/slow", answer)
    app.router.add_get("/stream", stream)
    app.router.add_get("/sse", events)
    app.router.add_get("/ws", websocket)
    app.on_cleanup.append(teardown)
    coordinator = graceful.install(app)

    @coordinator.on_drain
    def drain() -> None:
        say("drain")

    @coordinator.on_cleanup
    async def cleanup() -> None:
        say("cleanup begins")
        await asyncio.sleep(0.5)
        say("cleanup ends")

    return app


async def run(port: int) -> None:
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(style: str, port: str) -> None:
    if style == "run_app":
        web.run_app(application(), host="127.0.0.1", port=int(port), print=None)
    elif style == "run_app-uvloop":
        web.run_app(application(), host="127.0.0.1", port=int(port), print=None, loop=uvloop.new_event_loop())
    else:
        asyncio.run(run(int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
