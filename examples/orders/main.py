"""The orders service, leaving Kubernetes and Eureka without losing a request."""

import asyncio

from fastapi import FastAPI
from routes import router

import graceful

app = FastAPI(title="orders")
app.include_router(router)

# Where Eureka is, the port and the times come from the environment: GRACEFUL_EUREKA_URL, GRACEFUL_PORT, …
coordinator = graceful.install(app, app_name="orders")


@coordinator.on_drain
async def stop_consuming() -> None:
    """The callers have heard: take no more messages from the queue."""
    print("orders: consumer paused", flush=True)


@coordinator.on_cleanup(timeout=5)
async def close_pool() -> None:
    """Nothing is in flight any more: give the database its connections back."""
    await asyncio.sleep(0.1)
    print("orders: pool closed", flush=True)
