"""A web service that leaves in order. Usage: `-m tests.scenarios.service_web STYLE LOOP LIFESPAN PORT`.

1. It starts, by one of the ways there are to start uvicorn.
2. It is told to leave: it goes on serving for its propagation delay, then says `drain`.
3. A cleanup callback begins, takes a second, and ends; only then the application's own teardown runs.
4. It exits with 0.

`/slow` answers after SLOW seconds, `/block` blocks the event loop for as long as the test wants it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI

import graceful

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    print("startup", flush=True)
    yield
    print("teardown", flush=True)


app = FastAPI(lifespan=lifespan)
coordinator = graceful.install(app)


@app.get("/")
async def root() -> str:
    return "hello"


@app.get("/slow")
async def slow(seconds: float) -> str:
    print("slow began", flush=True)
    await asyncio.sleep(seconds)
    return "done"


@app.get("/block")
async def block() -> str:
    print("blocked", flush=True)
    time.sleep(1000)  # noqa: ASYNC251  that is the story
    return "never"


@coordinator.on_drain
async def drain() -> None:
    print("drain", flush=True)


@coordinator.on_cleanup(timeout=4)
async def cleanup() -> None:
    print("cleanup begins", flush=True)
    await asyncio.sleep(float(os.environ.get("CLEANUP_SECONDS", "1")))
    print("cleanup ends", flush=True)


def main(style: str, loop: str, lifespan: str, port: str) -> None:
    options: Any = {"port": int(port), "loop": loop, "lifespan": lifespan}
    name = "tests.scenarios.service_web:app"
    if style == "run-object":
        uvicorn.run(app, **options)
    elif style == "server-object":
        uvicorn.Server(uvicorn.Config(app, **options)).run()
    elif style == "serve":
        asyncio.run(uvicorn.Server(uvicorn.Config(app, **options)).serve())
    else:
        raise SystemExit(f"no style {style!r} for {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
