"""A process forks while a hook waits on it.

1. It listens for the hook, with `close_inherited` registered for forked children, and prints its name.
2. A hook connects and is told that the app leaves, for a minute.
3. At a line on stdin it forks; the child prints its pid and stays.
4. The test ends the parent: the hook's connection must end and the name be free, although the child lives.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import anyio
from anyio.from_thread import start_blocking_portal

from graceful.control import close_inherited, serve_control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Session:
    within = 60.0

    async def messages(self) -> AsyncIterator[str]:
        await anyio.sleep(60)
        yield "over"

    def summary(self) -> tuple[bool, str]:
        return True, "over"

    def answered(self) -> None: ...

    def lost(self) -> None: ...


class Leaver:
    def describe(self) -> dict[str, str]:
        return {"phase": "serving", "instance": "orders/a b"}

    def drain_by_hand(self, *, pod: bool) -> Session:
        return self.prestop(elapsed=0.0, grace=None)

    def prestop(self, *, elapsed: float, grace: float | None) -> Session:
        return Session()


def main() -> None:
    os.register_at_fork(after_in_child=close_inherited)
    with start_blocking_portal() as portal:
        _, address = portal.start_task(serve_control, Leaver())
        print(address[1:], flush=True)
        sys.stdin.readline()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)


if __name__ == "__main__":
    main()
