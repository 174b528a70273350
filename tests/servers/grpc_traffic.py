"""Callers of `grpc_app`, in a process of their own: `PORT SECONDS`, until a line comes; then a line of JSON.

gRPC's threads would not go well with the children that the tests start.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

LIMIT = 20.0
PAUSE = 0.05
SETTLED = 0.5
"""Seconds after the drain has begun until a call must be refused."""


def channel(port: str, **service_config: Any) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", json.dumps(service_config))]
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)


async def call(where: grpc.aio.Channel, method: str, request: bytes = b"") -> str:
    try:
        await where.unary_unary(f"/demo.Demo/{method}")(request, timeout=LIMIT)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def read(where: grpc.aio.Channel, method: str, request: bytes, begun: asyncio.Event) -> str:
    """The last message of a stream, or the status that ended it."""
    last = b""
    try:
        async for message in where.unary_stream(f"/demo.Demo/{method}")(request, timeout=LIMIT):
            last = message
            begun.set()
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return last.decode()


async def watch(where: grpc.aio.Channel, seen: list[tuple[float, str]]) -> None:
    """Every status that the health service tells, and what ends the watch."""
    try:
        async for answer in health_pb2_grpc.HealthStub(where).Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT):
            name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            seen.append((time.monotonic(), name))
    except grpc.aio.AioRpcError as error:
        seen.append((time.monotonic(), error.code().name))


async def load(port: str, seen: list[tuple[float, str]], stop: asyncio.Event, kept: grpc.aio.Channel | None) -> None:
    """One call after the other, each over a channel of its own, or all over one that is kept."""
    while not stop.is_set():
        began = time.monotonic()
        if kept is not None:
            seen.append((began, await call(kept, "Fast")))
        else:
            async with channel(port) as fresh:
                seen.append((began, await call(fresh, "Fast")))
        await asyncio.sleep(PAUSE)


async def main(port: str, seconds: str) -> None:
    begun, stop = [asyncio.Event(), asyncio.Event()], asyncio.Event()
    late: list[tuple[float, str]] = []
    health: list[tuple[float, str]] = []
    async with channel(port) as kept, channel(port) as watching, channel(port) as other, asyncio.TaskGroup() as tasks:
        for each in (kept, watching, other):
            await each.channel_ready()
        ends = {
            "slow": tasks.create_task(call(other, "Slow", seconds.encode())),
            "stream": tasks.create_task(read(other, "Stream", seconds.encode(), begun[0])),
            "ticks": tasks.create_task(read(other, "Ticks", b"", begun[1])),
        }
        tasks.create_task(watch(watching, health))
        for event in begun:
            await event.wait()
        loads = [tasks.create_task(load(port, late, stop, one)) for one in (None, kept)]
        await asyncio.sleep(0.2)
        print("begun", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        stop.set()
        await asyncio.sleep(SETTLED)
        async with channel(port) as fresh:
            new = await call(fresh, "Fast")
        await asyncio.wait([*loads, *ends.values()])
    results = {name: task.result() for name, task in ends.items()} | {"new": new}
    print(json.dumps({"late": late, "health": health, "ends": results}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
