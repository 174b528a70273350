"""A server that runs its event loop once for the start-up and once more to serve, as granian does, on uvloop.

Usage: `-m tests.scenarios.service_two_runs PORT`.

1. Its listener is open, and it has taken the signals.
2. The first run of the loop ends when the application's start-up has completed.
3. It prepares for a second, outside the loop. The service is not ready.
4. The loop runs on: uvloop takes the signals anew, and graceful takes them back. The service is ready.
5. SIGTERM comes in that very moment: graceful has it. The server is told when the leave is over, and stops.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time

import uvloop

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")


def say(text: str) -> None:
    print(text, flush=True)


async def application(scope, receive, send):
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def signal_when_ready(coordinator: graceful.Coordinator) -> None:
    while coordinator.phase is graceful.Phase.STARTING:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


async def start(messages, started):
    messages.put_nowait({"type": "lifespan.startup"})
    await started.wait()


async def stop(messages, stopping, lifespan):
    say("serving")
    await stopping.wait()
    messages.put_nowait({"type": "lifespan.shutdown"})
    await lifespan


def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    coordinator = graceful.install(port=port, propagation_delay=0.3)
    served = coordinator.asgi(application)
    threading.Thread(target=signal_when_ready, args=(coordinator,)).start()

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    messages: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    started, stopping = asyncio.Event(), asyncio.Event()

    def told() -> None:
        say("the server is told")
        stopping.set()

    async def send(_message) -> None:
        started.set()

    loop.add_signal_handler(signal.SIGTERM, told)
    lifespan = loop.create_task(served({"type": "lifespan"}, messages.get, send))
    loop.run_until_complete(start(messages, started))
    say("prepares")
    time.sleep(1)
    loop.run_until_complete(stop(messages, stopping, lifespan))
    listener.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
