"""An application that takes SIGTERM for itself. Usage: `-m tests.scenarios.signals_displaced HOW LOOP PORT`.

1. `install()`, and uvicorn takes the signals, as it does.
2. The start-up takes SIGTERM once more: by `signal`, `loop`, or `ignore` (SIG_IGN).
3. graceful says who it was, takes it back, and leaves in order when SIGTERM comes.
4. The application's function is called at the very end. It does not call what it displaced: uvicorn stops all the same.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

import graceful

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


class Shop:
    def stop(self, *_: object) -> None:
        print("stop is called", flush=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    shop = Shop()
    if sys.argv[1] == "signal":
        signal.signal(signal.SIGTERM, shop.stop)
        signal.signal(signal.SIGINT, shop.stop)
    elif sys.argv[1] == "loop":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, shop.stop)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    print("teardown", flush=True)


if __name__ == "__main__":
    app = FastAPI(lifespan=lifespan)
    coordinator = graceful.install(app)
    coordinator.on_cleanup(lambda: print("cleanup", flush=True))
    uvicorn.run(app, port=int(sys.argv[3]), loop=sys.argv[2])
