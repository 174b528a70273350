"""A gRPC service for the matrix: `threads PORT` or `aio PORT`.

`Fast` answers at once, `Slow` after some seconds, `Stream` sends for some seconds and ends, `Ticks` ends when it
is told. Nobody owns SIGTERM here: the main thread waits for the server's end.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
coordinator = graceful.install()
TICK = 0.05


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@coordinator.on_drain
def told() -> None:
    say("drain")


@coordinator.on_cleanup
def clean_up() -> None:
    say("cleanup begins")
    time.sleep(0.1)
    say("cleanup ends")


def fast(request: bytes, context: Any) -> bytes:
    return b"ok"


def slow(request: bytes, context: Any) -> bytes:
    time.sleep(float(request))
    return b"ok"


def stream(request: bytes, context: Any) -> Any:
    ends = time.monotonic() + float(request)
    while time.monotonic() < ends:
        yield b"."
        time.sleep(TICK)
    yield b"end"


def ticks(request: bytes, context: Any) -> Any:
    def answers() -> Any:
        while not coordinator.draining.wait_in_thread(TICK):
            yield b"."
        yield b"bye"

    return answers()


async def fast_aio(request: bytes, context: Any) -> bytes:
    return b"ok"


async def slow_aio(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(float(request))
    return b"ok"


async def stream_aio(request: bytes, context: Any) -> Any:
    ends = time.monotonic() + float(request)
    while time.monotonic() < ends:
        yield b"."
        await asyncio.sleep(TICK)
    yield b"end"


async def ticks_aio(request: bytes, context: Any) -> None:
    while not coordinator.draining.is_set():
        await context.write(b".")
        await asyncio.sleep(TICK)
    await context.write(b"bye")


def handlers(fast: Any, slow: Any, stream: Any, ticks: Any) -> Any:
    return grpc.method_handlers_generic_handler(
        "demo.Demo",
        {
            "Fast": grpc.unary_unary_rpc_method_handler(fast),
            "Slow": grpc.unary_unary_rpc_method_handler(slow),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
        },
    )


def main(port: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16), interceptors=[coordinator.grpc_interceptor()])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((handlers(fast, slow, stream, ticks),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    coordinator.wire_grpc(server, health=servicer)
    server.wait_for_termination()


async def main_aio(port: str) -> None:
    server = grpc.aio.server(interceptors=[coordinator.grpc_interceptor()])
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((handlers(fast_aio, slow_aio, stream_aio, ticks_aio),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    coordinator.wire_grpc(server, health=servicer)
    await server.wait_for_termination()
    await coordinator.wait_stopped()


if __name__ == "__main__":
    kind, port = sys.argv[1:]
    if kind == "aio":
        asyncio.run(main_aio(port))
    else:
        main(port)
