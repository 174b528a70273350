"""Whether this process is one that serves: a child of the application imports the same code, and must be left alone."""

from __future__ import annotations

import multiprocessing
from typing import Final

__all__ = ["is_child_of_application"]

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
