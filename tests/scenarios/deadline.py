"""A service that somebody is in the way of. Usage: `-m tests.scenarios.deadline WHO PORT`.

1. It is ready; where requests are what is in the way, one is sent to `/hang?token=secret`.
2. It is told to leave; in a second the drain's time is over.
3. The report names the function `culprit` and its line, which is marked with `HERE`.

`task`: a request awaits for ever. `sync`: one of FastAPI's worker threads sleeps, behind a middleware that runs the
application in a task of its own. `blocked`: a request blocks the event loop, and the process is ended. `thread`: a
thread under a WSGI server sleeps. `cleanup`, `cleanup_thread`: a callback hangs; `cleanup_blocks`: in the
event loop, without awaiting anything.
`trio`: a job on trio.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import anyio
import trio
import uvicorn
from fastapi import FastAPI

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def sleeping_culprit() -> None:
    say("hangs")
    threading.Event().wait(1000)  # HERE: all that do not await


async def waiting_culprit() -> None:
    say("hangs")
    await anyio.sleep(1000)  # HERE: all that do


def web(who: str, port: int) -> None:
    app = FastAPI()
    coordinator = graceful.install(app)

    @app.middleware("http")
    async def in_a_task_of_its_own(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    async def task() -> None:
        await waiting_culprit()

    async def blocked() -> None:
        sleeping_culprit()

    endpoints: dict[str, Any] = {"task": task, "sync": sleeping_culprit, "blocked": blocked}
    app.get("/hang")(endpoints.get(who, task))
    if who == "cleanup":
        coordinator.on_cleanup(timeout=0.5)(waiting_culprit)
    if who == "cleanup_blocks":
        coordinator.on_cleanup(timeout=0.5)(blocked)
    if who == "cleanup_thread":
        coordinator.on_cleanup(timeout=0.5)(sleeping_culprit)
    uvicorn.run(app, port=port, log_config=None)


def wsgi(port: int) -> None:
    coordinator = graceful.install()

    def app(_: Any, __: Any) -> list[bytes]:
        sleeping_culprit()
        return []

    class Server(WSGIServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            threading.Thread(target=super().process_request, args=(request, client_address), daemon=True).start()

    server = make_server("127.0.0.1", port, coordinator.wsgi(app), server_class=Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    coordinator.ready()
    asyncio.run(coordinator.wait_stopped())


async def job() -> None:
    coordinator = graceful.install()
    coordinator.ready()
    with coordinator.track("job 42"), trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(coordinator.wait_stopped)
            await waiting_culprit()


if __name__ == "__main__":
    match sys.argv[1]:
        case "thread":
            wsgi(int(sys.argv[2]))
        case "trio":
            trio.run(job)
        case who:
            web(who, int(sys.argv[2]))
