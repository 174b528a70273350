"""A request or a WebSocket of ASGI as a unit of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from graceful.core.ledger import name_route
from graceful.core.names import name_peer, name_query
from graceful.core.obstacles import Obstacle
from graceful.stacks import stack_of_task

if TYPE_CHECKING:
    from graceful.http.asgi import Scope

__all__ = ["Connection"]


class Connection(NamedTuple):
    """The connection's scope, and the task of asyncio or trio that works on it."""

    scope: Scope
    task: Any

    @property
    def name(self) -> str:
        """Method and path."""
        return name_route(self.scope.get("method", "WEBSOCKET"), self.scope["path"])

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        """What it does just now."""
        frames, running = stack_of_task(self.task)
        asked = self.scope.get("query_string", b"").decode("latin-1") if query else ""
        peer = name_peer(*self.scope.get("client") or ())
        return Obstacle("request", name_query(self.name, asked), seconds, peer, frames, running)
