"""An application that takes its time to be imported, and to start where it has a start-up.

Served by something that has its listener open before: `gunicorn tests.scenarios.slow_start:asgi` or `…:wsgi`; which of
both is wired says `WIRED`.

1. `install()` runs in the middle of the import. The port accepts: callers wait in the backlog.
2. A process of the application's own is forked, and ends.
3. The import ends, and the start-up begins and ends.
4. The service is ready now, and not before.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import time
from contextlib import asynccontextmanager

from fastapi import FastAPI
from flask import Flask

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


@asynccontextmanager
async def lifespan(_app):
    print("the start-up begins", flush=True)
    await asyncio.sleep(0.5)
    print("the start-up ends", flush=True)
    yield


asgi = FastAPI(lifespan=lifespan)
wsgi = Flask(__name__)
graceful.install({"asgi": asgi, "wsgi": wsgi}[os.environ["WIRED"]])
print("the import goes on", flush=True)
helper = multiprocessing.get_context("fork").Process(target=int)
helper.start()
helper.join()
time.sleep(0.5)
print("the import ends", flush=True)
