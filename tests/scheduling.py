"""Which test goes to which process of `pytest -n`."""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

# In the id of a test: what takes long to make and is shared by those that have it.
SHARED = re.compile(r"real-pair|real-|uvicorn_serves_until_released")


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Every test by itself to whoever is free, except that one process gets all tests which share something dear.

    A real Eureka is a Java process: each kind of it is started once, not once in every process, and not all of them at
    the same moment. `--dist loadgroup` would do the same, but under pytest 9.2 it sees no group, and says nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        shared = SHARED.search(nodeid)
        return shared[0] if shared else nodeid
