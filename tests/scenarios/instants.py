"""A service that stands still where it is told to. Usage: `-m tests.scenarios.instants KIND PLACE PORT`.

1. It starts, serves or works, leaves, and ends: as uvicorn's application, on `asyncio.run`, or on plain threads.
2. At PLACE it says `at PLACE`, and goes on when it is told to by a line on its stdin. Signals come meanwhile.
3. Where PLACE is a part of the leave, or just `leave`, `drain()` begins it as soon as the service is ready. With KIND
   `ends` the program comes to its end by itself then.
4. Every callback says that it ran, and what is in flight is finished.

The places, in their order: `import`, `startup`, `ready`, `request` (in the middle of a response, or of a job),
`lame-duck`, `on-drain`, `on-cleanup`, `teardown` (the application's own, last of all), `atexit-before` and
`atexit-after` (our own handler), `finalize` (the interpreter takes down its modules).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import types
from typing import Any

KIND, PLACE, PORT = sys.argv[1:4]
IN_LEAVE = ("leave", "lame-duck", "on-drain", "on-cleanup", "teardown", "atexit-before", "atexit-after", "finalize")


stood: set[str] = set()


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")  # whole lines, from any thread, to the very end


def stand(place: str) -> None:
    if place == PLACE and place not in stood:
        stood.add(place)
        say(f"at {place}")
        while os.read(0, 1) not in (b"\n", b""):
            pass


async def stand_async(place: str) -> None:
    if place == PLACE:
        await asyncio.to_thread(stand, place)


class Last:
    """Goes with its module, when the interpreter has put back every signal's default action."""

    def __init__(self) -> None:
        self.needs = PLACE, os.write, os.read  # this module's names are gone by then

    def __del__(self) -> None:
        place, write, read = self.needs
        if place == "finalize":
            write(1, b"at finalize\n")
            while read(0, 1) not in (b"\n", b""):
                pass


# In a module that nobody else refers to: ours lives on as long as graceful knows a callback of it.
sys.modules["last"] = types.ModuleType("last")
sys.modules["last"].thing = Last()  # type: ignore[attr-defined]
atexit.register(stand, "atexit-after")  # runs after graceful's own, which is registered later

import graceful  # noqa: E402  after what comes before it

logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(name)s %(message)s")
coordinator = graceful.install()
atexit.register(stand, "atexit-before")
say("installed")


@coordinator.on_drain
def drain() -> None:
    stand("on-drain")
    say("drained")


@coordinator.on_cleanup
async def clean_up() -> None:
    await stand_async("on-cleanup")
    say("cleaned up")


say("registered")


def leave_when_ready() -> None:
    """A thread of its own: the main one is the program's."""
    while coordinator.phase is graceful.Phase.STARTING:
        time.sleep(0.01)
    if coordinator.phase is graceful.Phase.SERVING:
        stand("ready")
        if PLACE in IN_LEAVE and KIND != "ends":
            coordinator.drain("the test says so")
    if PLACE == "lame-duck":
        while coordinator.phase is graceful.Phase.SERVING:
            time.sleep(0.01)
        stand("lame-duck")


threading.Thread(target=leave_when_ready, daemon=True).start()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        stand("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await stand_async("teardown")
        say("torn down")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one ", "more_body": True})
    if scope["path"] == "/slow":
        await stand_async("request")
    await send({"type": "http.response.body", "body": b"two"})


app: Any = coordinator.asgi(application) if KIND == "uvicorn" else None


async def work() -> None:
    stand("startup")
    coordinator.ready()
    try:
        while coordinator.phase in {graceful.Phase.STARTING, graceful.Phase.SERVING}:
            with coordinator.track("job"):
                await stand_async("request")
                await asyncio.sleep(0.05)
        await coordinator.wait_stopped()
        await asyncio.Event().wait()  # released, it ends: asyncio.run cancels this
    finally:
        stand("teardown")
        say("torn down")


def work_in_threads() -> None:
    stop = threading.Event()

    def job() -> None:
        # A leave that began at the import may have its drain behind it before `stop` is known to it, below.
        with contextlib.suppress(graceful.NotAcceptingError):
            while not stop.is_set():
                with coordinator.track("job"):
                    stand("request")
                    time.sleep(0.05)

    coordinator.on_drain(stop.set)
    worker = threading.Thread(target=job)
    stand("startup")
    worker.start()
    coordinator.ready()
    try:
        if KIND == "ends":
            while coordinator.phase is graceful.Phase.STARTING:
                time.sleep(0.01)
        else:
            threading.Event().wait()
    finally:
        stop.set()
        stand("teardown")
        say("torn down")


def main() -> None:
    stand("import")
    if KIND == "uvicorn":
        import uvicorn

        uvicorn.run(app, port=int(PORT), log_level="warning")
    elif KIND == "asyncio":
        asyncio.run(work())
    else:
        work_in_threads()


if __name__ == "__main__":
    main()
