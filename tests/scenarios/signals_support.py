"""What the signal scenarios share: a hold, and a thread that does what the coordinator would.

The thread tells what happens, one word a line on stdout (`held 15`, `releasing`), and takes orders, one a line on
stdin: `release`, `uninstall`, `tell-when-taken` (our handler is over a server's), `finish` (what the
scenario waits for).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import types

from graceful.servers.uvicorn import UvicornOwner
from graceful.signals import SignalHold

REMAINING = 5.0


def say(*words: object) -> None:
    """Tell the test; one write, so that threads do not mix their lines."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def _taken_back() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        while True:
            handler = signal.getsignal(signum)
            # Ours shows what the server's handler is bound to, and is no method itself.
            if hasattr(handler, "__self__") and not isinstance(handler, types.MethodType):
                break
            await asyncio.sleep(0.01)


class Keeper:
    """Holds the signals, and releases the first one that came when it is told to."""

    def __init__(self) -> None:
        self.hold = SignalHold(owners=[UvicornOwner()])
        self.finish = threading.Event()
        self._first: int | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self.hold.install()
        say("installed")
        self._thread.start()

    def _run(self) -> None:
        # As the process ends the daemon thread's loop may find its executor gone.
        with contextlib.suppress(RuntimeError):
            asyncio.run(self._keep())

    async def _keep(self) -> None:
        orders = asyncio.create_task(self._take_orders())
        watching = asyncio.create_task(self.hold.watch())
        async for signum in self.hold.receive():
            self._first = self._first or signum
            say("held", signum)
        say("received-all")
        await watching
        orders.cancel()

    async def _take_orders(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            order = line.decode().strip()
            if order == "release":
                say("releasing")
                self.hold.release(self._first or signal.SIGTERM, remaining=REMAINING)
            elif order == "tell-when-taken":
                await _taken_back()
                say("taken-back")
            elif order == "finish":
                self.finish.set()
            elif order == "uninstall":
                self.hold.uninstall()
                say("uninstalled")
