"""The same service as people write it today: Eureka's client in the lifespan, and uvicorn as it comes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from py_eureka_client.eureka_client import EurekaClient
from routes import router


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Register with Eureka on the way in, deregister on the way out."""
    client = EurekaClient(
        eureka_server=os.environ["EUREKA_SERVER_URL"],
        app_name="orders",
        instance_id=os.environ["EUREKA_INSTANCE_INSTANCEID"],
        instance_host=os.environ["EUREKA_INSTANCE_HOSTNAME"],
        instance_ip=os.environ["EUREKA_INSTANCE_IPADDRESS"],
        instance_port=int(os.environ["PORT"]),
    )
    await client.start()
    yield
    await client.stop()


app = FastAPI(title="orders", lifespan=lifespan)
app.include_router(router)
