"""uvicorn, started in every way that users start it, with its signals held.

Usage: `-m tests.scenarios.signals_uvicorn HOW LOOP LIFESPAN`, or the string app `tests.scenarios.signals_uvicorn:app`.

1. The application installs the hold: where it is created, inside the running loop, or (a string app) at its import.
2. uvicorn takes SIGTERM and SIGINT, before or after us. The lifespan, where there is one, calls `ensure()`.
3. The signal comes: `held 15` is told, and requests are answered as before.
4. Told to, the signal is released: uvicorn shuts down, the lifespan's end is told, the process exits with 0.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

from tests.scenarios.signals_support import Keeper, say

if TYPE_CHECKING:
    from collections.abc import Coroutine

NAME = "tests.scenarios.signals_uvicorn:app"
HOW = sys.argv[1] if __name__ == "__main__" else "import"
SETTINGS: dict[str, Any] = {"port": 0}
if __name__ == "__main__":
    SETTINGS |= {"loop": sys.argv[2], "lifespan": sys.argv[3]}
keeper = Keeper()
servers: list[uvicorn.Server] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        keeper.hold.ensure()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("lifespan-end", *(server.config.timeout_graceful_shutdown for server in servers))
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/slow":
        say("slow-begins")
        await asyncio.to_thread(keeper.finish.wait)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def server_of(target: Any) -> uvicorn.Server:
    server = uvicorn.Server(uvicorn.Config(target, **SETTINGS))
    servers.append(server)
    return server


async def install_and_serve() -> None:
    server = server_of(app)
    keeper.start()
    await server.serve()


def run(main: Coroutine[Any, Any, None]) -> None:
    """asyncio.run on the chosen loop, for Python 3.11."""
    factory = None
    if SETTINGS["loop"] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def main() -> None:
    if HOW in {"run-object", "server-object", "serve-before"}:
        keeper.start()
    match HOW:
        case "run-object":
            uvicorn.run(app, **SETTINGS)
        case "run-string":
            uvicorn.run(NAME, **SETTINGS)
        case "server-object":
            server_of(app).run()
        case "server-string":
            server_of(NAME).run()
        case "serve-before":
            run(server_of(app).serve())
        case "serve-inside":
            run(install_and_serve())
        case _:
            raise SystemExit(f"{HOW} is no way to start uvicorn known here")
    say("main-ends")


if __name__ == "__main__":
    main()
else:
    keeper.start()
