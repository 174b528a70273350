"""A name server that never answers does not keep a process from exiting.

1. Name look-ups block for ever.
2. An event loop in a daemon thread, as graceful's own is, asks a server by name; the call ends at its deadline.
3. The main thread returns: the process must exit at once, with 0, the look-up still hanging.
"""

import socket
import threading

import anyio

from graceful.eureka.rest import EurekaError, Server


def hang(*args: object, **kwargs: object) -> None:
    threading.Event().wait()


async def ask() -> None:
    try:
        await Server("http://eureka.example/eureka", try_timeout=0.2).read("ORDERS", "orders:10.0.0.7:8080")
    except EurekaError:
        print("abandoned", flush=True)


socket.getaddrinfo = hang  # type: ignore[assignment]
thread = threading.Thread(target=anyio.run, args=(ask,), daemon=True)
thread.start()
thread.join(20)
print("leaving", flush=True)
