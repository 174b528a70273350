"""A raw ASGI application for every ASGI server: what a service can be doing when it is told to leave.

`/fast` answers at once, `/slow` after a while, `/stream` sends chunks and ends, `/sse` never ends, `/ws` is a WebSocket
that echoes. Started by each server's own command line as `tests.servers.asgi_app:app`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any
from urllib.parse import parse_qs

import anyio

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
coordinator = graceful.install()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send, listens=scope["path"] == "/ws")
    else:
        seconds = float(parse_qs(scope["query_string"].decode()).get("seconds", ["0"])[0])
        await _ROUTES[scope["path"]](send, seconds)


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("teardown")
    await send({"type": "lifespan.shutdown.complete"})


async def _websocket(receive: Any, send: Any, *, listens: bool) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    if not listens:
        await anyio.sleep_forever()
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message.get("text") or ""})
    say(f"websocket disconnected: {message.get('code')}")


async def _start(send: Any, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def _answer(send: Any, seconds: float) -> None:
    await anyio.sleep(seconds)
    await _start(send, (b"content-length", b"2"))
    await send({"type": "http.response.body", "body": b"ok"})


async def _stream(send: Any, seconds: float) -> None:
    await _start(send)
    for _ in range(10):
        await send({"type": "http.response.body", "body": b"chunk\n", "more_body": True})
        await anyio.sleep(seconds / 10)
    await send({"type": "http.response.body", "body": b"end\n"})


async def _sse(send: Any, _: float) -> None:
    await _start(send, (b"content-type", b"text/event-stream"))
    while True:
        await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        await anyio.sleep(0.1)


async def _idle(send: Any, _: float) -> None:
    await _start(send, (b"content-type", b"text/event-stream"))
    await send({"type": "http.response.body", "body": b"data: only\n\n", "more_body": True})
    await anyio.sleep_forever()


_ROUTES = {"/fast": _answer, "/slow": _answer, "/stream": _stream, "/sse": _sse, "/idle": _idle}


@coordinator.on_drain
def drain() -> None:
    say("drain")


@coordinator.on_cleanup
async def cleanup() -> None:
    say("cleanup begins")
    await anyio.sleep(0.5)
    say("cleanup ends")


app: Any = coordinator.asgi(_app)


async def serve_uvicorn(port: int) -> None:
    import uvicorn

    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


async def serve_hypercorn(port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    await serve(app, config)


async def serve_hypercorn_trio(port: int) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    await serve(app, config)


def serve_in_thread(port: int) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    threading.Event().wait()


def serve_in_workers(style: str, port: int) -> None:
    """The parent has this very module as its main one, and each worker imports it twice."""
    if style == "uvicorn-workers":
        import uvicorn

        uvicorn.run("tests.servers.asgi_app:app", port=port, workers=2, log_level="warning")
    else:
        from hypercorn.config import Config
        from hypercorn.run import run

        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.workers = 2
        config.application_path = "tests.servers.asgi_app:app"
        sys.exit(run(config))


def main(style: str, port: str) -> None:
    """Start a server as a program of one's own does."""
    if style.endswith("-workers"):
        serve_in_workers(style, int(port))
    elif style == "uvicorn-thread":
        serve_in_thread(int(port))
    elif style == "hypercorn-trio":
        import trio

        trio.run(serve_hypercorn_trio, int(port))
    else:
        asyncio.run({"uvicorn": serve_uvicorn, "hypercorn": serve_hypercorn}[style](int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
