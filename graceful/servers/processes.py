"""Whether this process is one that serves: a server's parent process, and a child of the application, do not."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["is_child_of_application", "is_parent_of_workers"]

_SERVERS: Final = frozenset({"granian", "hypercorn", "uvicorn"})
"""Packages of servers that start their workers with `multiprocessing`."""


def is_child_of_application() -> bool:
    """Whether `multiprocessing` started this process, but no server did, as one of its workers.

    A child that is spawned imports the main module again before it knows what it is for, and what it was sent for after
    that: `install()` is called in it. So is it in the server of a "forkserver". A worker of a server is told by the
    module of the function that it was started with; one that serves all the same shows it by an application's lifespan.
    """
    process = multiprocessing.current_process()
    # Private, but what multiprocessing's own "attempt to start a new process before the current one has finished its
    # bootstrapping phase" rests on: there is no parent process yet to ask for.
    if getattr(process, "_inheriting", False):
        return True
    if multiprocessing.parent_process() is None:
        return False
    target = getattr(process, "_target", None)
    return getattr(target, "__module__", "").partition(".")[0] not in _SERVERS


def is_parent_of_workers() -> bool:
    """Whether the main thread is in a server's supervisor, which starts processes that serve, and does not itself.

    `uvicorn.run("main:app", workers=4)` in the very module of the application: the parent has imported it, and so
    called `install()`. The innermost module of the server's tells what runs; no attribute of any public object does.
    """
    main = threading.main_thread().ident
    frame: FrameType | None = sys._current_frames().get(main or 0)  # noqa: SLF001  public, see the documentation of sys
    innermost = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(("uvicorn.", "hypercorn.")):
            if frame.f_code.co_name == "<module>":
                return False  # it is only being imported
            innermost = innermost or module
        frame = frame.f_back
    return innermost.startswith("uvicorn.supervisors.") or innermost == "hypercorn.run"
