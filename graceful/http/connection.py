"""A request or a WebSocket of ASGI as a unit of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graceful.core.ledger import name_route
from graceful.core.names import name_peer, name_query
from graceful.core.obstacles import Obstacle
from graceful.stacks import stack_of_task

if TYPE_CHECKING:
    from graceful.http.asgi import Scope

__all__ = ["Connection"]


class Connection(tuple["Scope", Any]):
    """The connection's scope, and the task of asyncio or trio that works on it: `Connection((scope, current_task()))`.

    It keeps references, because it is on the way of every request, and is looked at only for a report. A tuple is made
    in a fifth of the time that a class with an `__init__` takes.
    """

    __slots__ = ()

    @property
    def task(self) -> Any:
        """What works on it."""
        return self[1]

    @property
    def name(self) -> str:
        """Method and path."""
        return name_route(self[0].get("method", "WEBSOCKET"), self[0]["path"])

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        """What it does just now."""
        frames, running = stack_of_task(self.task)
        asked = self[0].get("query_string", b"").decode("latin-1") if query else ""
        peer = name_peer(*self[0].get("client") or ())
        return Obstacle("request", name_query(self.name, asked), seconds, peer, frames, running)
