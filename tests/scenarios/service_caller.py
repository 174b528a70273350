"""A service that calls another one until its very end. Usage: `-m tests.scenarios.service_caller PORT`.

1. It starts, and learns from Eureka where `payments` is.
2. Eureka hangs from then on, and it is told to leave.
3. In its lame duck it still serves, and calls `payments` for it.
4. `on_drain` and `on_cleanup` call `payments` too; a service never asked for before is not known in time, and said so.
5. It exits with 0, although a fetch is under way.
"""

from __future__ import annotations

import logging
import sys
import urllib.request

import uvicorn
from fastapi import FastAPI

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")

app = FastAPI()
coordinator = graceful.install(app)


def call_payments() -> str:
    with urllib.request.urlopen(coordinator.eureka.base_url("payments"), timeout=10) as response:
        return str(response.read().decode())


@app.get("/pay")
def pay() -> str:
    return call_payments()


@coordinator.on_drain
async def drain() -> None:
    print("drain:", len(await coordinator.eureka.fetch("payments")), call_payments(), flush=True)


@coordinator.on_cleanup
def cleanup() -> None:
    print("cleanup:", call_payments(), flush=True)
    try:
        coordinator.eureka.instances("unheard-of", timeout=0.3)
    except graceful.DiscoveryError as error:
        print("cleanup:", error, flush=True)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]))
