"""A worker that no server manages.

Usage: `-m tests.scenarios.service_program asyncio|threads|trio|returns|workers|ends`.

1. It says that it is ready, and works at one job after the other, each of them tracked.
2. It is told to leave: `on_drain` has it fetch no more, the job in hand is finished.
3. A cleanup callback takes a second, to its end.
4. The process exits with 0, although the program itself would go on for ever.

`returns`: main comes to its end after the job in hand. `workers`: main has ended long before, its threads work on.
`ends`: the program ends by itself, nobody told it to leave.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time

import anyio
import trio

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def say(text: str) -> None:
    print(text, flush=True)


def threads(kind: str) -> None:
    coordinator = graceful.install()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with coordinator.track("job"):
                say("job begins")
                time.sleep(0.5)
                say("job ends")

    coordinator.on_drain(stop.set)

    @coordinator.on_cleanup
    def close() -> None:
        say("cleanup begins")
        time.sleep(1)
        say("cleanup ends")

    worker = threading.Thread(target=work)
    worker.start()
    coordinator.ready()
    if kind == "threads":
        threading.Event().wait()
    elif kind == "returns":
        worker.join()
    elif kind == "ends":
        while coordinator.phase is not graceful.Phase.SERVING:
            time.sleep(0.01)
        stop.set()
        worker.join()


async def asynchronous() -> None:
    coordinator = graceful.install()
    stop = anyio.Event()
    home = threading.current_thread()

    @coordinator.on_drain
    async def pause() -> None:
        assert threading.current_thread() is home
        stop.set()

    @coordinator.on_cleanup
    async def close() -> None:
        assert threading.current_thread() is home
        say("cleanup begins")
        await anyio.sleep(1)
        say("cleanup ends")

    coordinator.ready()
    while not stop.is_set():
        with coordinator.track("job"):
            say("job begins")
            await anyio.sleep(0.5)
            say("job ends")
    await coordinator.wait_stopped()


if __name__ == "__main__":
    match sys.argv[1]:
        case "threads" | "returns" | "workers" | "ends":
            threads(sys.argv[1])
        case "asyncio":
            asyncio.run(asynchronous())
        case "trio":
            trio.run(asynchronous)
