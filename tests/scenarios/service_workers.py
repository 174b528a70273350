"""A web service with several workers; each of its lines begins with the process id.

1. A parent (uvicorn, gunicorn with or without preload) starts the workers.
2. `/` says which worker answers, `/slow` after some seconds.
3. Told to leave, each worker says `drain`, `cleanup` and `teardown`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

import graceful

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(process)d %(levelname)s %(name)s %(message)s")
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))


def say(text: str) -> None:
    # One write, so that the lines of several processes do not mix.
    os.write(1, f"{os.getpid()} {text}\n".encode())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    say("teardown")


app = FastAPI(lifespan=lifespan)
coordinator = graceful.install(app)


@app.get("/")
async def root() -> int:
    return os.getpid()


@app.get("/slow")
async def slow(seconds: float) -> int:
    say("slow began")
    await asyncio.sleep(seconds)
    return os.getpid()


@coordinator.on_drain
async def drain() -> None:
    say("drain")


@coordinator.on_cleanup
async def cleanup() -> None:
    say("cleanup")
