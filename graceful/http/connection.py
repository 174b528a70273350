"""A request or a WebSocket of ASGI as a unit of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.core.ledger import name_route
from graceful.core.names import name_peer, name_query
from graceful.core.obstacles import Obstacle
from graceful.loops import current_task
from graceful.stacks import stack_of_task

if TYPE_CHECKING:
    from graceful.http.asgi import Scope

__all__ = ["Connection"]


class Connection:
    """It keeps references, because it is on the way of every request, and is looked at only for a report.

    Args:
        scope: the connection's. The task that works on it is the one that runs here.
    """

    __slots__ = ("_scope", "task")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.task = current_task()
        """What works on it, of asyncio or trio."""

    @property
    def name(self) -> str:
        """Method and path."""
        return name_route(self._scope.get("method", "WEBSOCKET"), self._scope["path"])

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        """What it does just now."""
        frames, running = stack_of_task(self.task)
        asked = self._scope.get("query_string", b"").decode("latin-1") if query else ""
        peer = name_peer(*self._scope.get("client") or ())
        return Obstacle("request", name_query(self.name, asked), seconds, peer, frames, running)
