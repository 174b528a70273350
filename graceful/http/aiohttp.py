"""aiohttp.web, wired in place: in-flight requests, late requests, probes, and the ends of its long connections.

aiohttp is not imported before an application of its is wired.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from graceful.core.inflight import NotAcceptingError
from graceful.core.ledger import name_caller, name_route
from graceful.core.names import name_peer, name_query
from graceful.core.obstacles import Obstacle
from graceful.http.saying import KUBELET, SHUTTING_DOWN
from graceful.http.streams import is_event_stream
from graceful.loops import Interruption, run_soon_here, spawn
from graceful.stacks import stack_of_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graceful.http.asgi import Service

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["AiohttpWiring"]

logger = logging.getLogger("graceful.http")

# aiohttp warns of names since it has keys (3.14).
_HELD: Final[Any] = web.RequestKey("graceful.held", object) if hasattr(web, "RequestKey") else "graceful.held"


class AiohttpWiring:
    """Wires one application in place, before it is started. In the application's event loop.

    Args:
        app: the application; its middlewares must not be frozen yet.
        service: the service that it belongs to.
        livez_path: answered with 200 for as long as the process runs; None to leave the path to the application.
        readyz_path: answered with 200 when ready, else 503; None to leave the path to the application.
        retry_after: seconds for `Retry-After` of the 503 that is answered from the drain on.
        close_code: what an open WebSocket is closed with in the drain.
    """

    def __init__(
        self,
        app: web.Application,
        service: Service,
        *,
        livez_path: str | None,
        readyz_path: str | None,
        retry_after: float,
        close_code: int,
    ) -> None:
        self._app = app
        self._service = service
        self._livez = livez_path
        self._probes = {path for path in (livez_path, readyz_path) if path is not None}
        self._retry_after = str(max(0, round(retry_after)))
        self._close_code = close_code

        @web.middleware  # which marks what it decorates: a function then, no method
        async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._middleware(request, handler)

        self._handle = handle
        # First of all: the outermost middleware; told of the start before, and of the stop before, the app's own.
        app.middlewares.insert(0, self._handle)
        app.on_startup.insert(0, self._starts)
        app.on_startup.append(self._started)
        app.on_shutdown.insert(0, self._stops)
        app.on_response_prepare.append(self._prepare)

    def undo(self) -> None:
        """Take the wires out again; nothing happens where the application has been started meanwhile."""
        with contextlib.suppress(RuntimeError):  # its lists are frozen
            self._app.middlewares.remove(self._handle)
            self._app.on_startup.remove(self._starts)
            self._app.on_startup.remove(self._started)
            self._app.on_shutdown.remove(self._stops)
            self._app.on_response_prepare.remove(self._prepare)

    async def _starts(self, _: web.Application) -> None:
        self._service.lifespan_begins()

    async def _started(self, _: web.Application) -> None:
        self._service.lifespan_started()

    async def _stops(self, _: web.Application) -> None:
        await self._service.lifespan_ends()

    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        service, life, path = self._service, self._service.life, request.path
        if path in self._probes:
            reason = None if path == self._livez else await service.reason_not_ready()
            return _answer(503 if reason else 200, f"not ready: {reason}" if reason else "ok")
        phase = life.lifecycle.phase
        if not phase.accepts_work:
            return self._refuse(request)
        try:
            key = life.in_flight.enter((_Request, monotonic(), request, asyncio.current_task()))
        except NotAcceptingError:
            return self._refuse(request)
        if phase.leaving:
            self._enter_late(request, served=True)
        try:
            return await handler(request)
        except (asyncio.CancelledError, Exception) as error:
            held: _LongConnection | None = request.get(_HELD)
            if held is None or not held.over(error):
                raise
            logger.debug("the handler took the end of its connection as an error: %r", error)
            return held.response
        finally:
            life.in_flight.leave(key)
            if (held := request.get(_HELD)) is not None:
                service.let_go(held.key)
                held.over(None)

    def _refuse(self, request: web.Request) -> web.Response:
        self._enter_late(request, served=False)
        return _answer(503, SHUTTING_DOWN, {"Retry-After": self._retry_after})

    def _enter_late(self, request: web.Request, *, served: bool) -> None:
        agent = request.headers.get("User-Agent", "").encode("utf-8", "surrogateescape")
        if not agent.startswith(KUBELET):
            self._service.enter_late(
                name_caller(request.remote, agent), name_route(request.method, request.path), served=served
            )

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse):
            self._hold_open(request, _WebSocket(response, self._close_code))
            return
        if self._service.phase.leaving:
            # The header alone would leave the socket open; without it, the client may send its next request over a
            # connection that is closed just then. aiohttp has made its own headers before.
            response.headers["Connection"] = "close"
            response.force_close()
        content_type = response.headers.get("Content-Type", "").encode()
        if not isinstance(response, web.Response) and is_event_stream(content_type):
            self._hold_open(request, _EventStream(response))

    def _hold_open(self, request: web.Request, connection: _LongConnection) -> None:
        soon = run_soon_here()
        request[_HELD] = connection
        connection.key = self._service.hold_open(
            lambda: soon(lambda: spawn(connection.end)), lambda: soon(connection.cut)
        )


class _Request(NamedTuple):
    """A request as a unit of work, and the task that works on it."""

    request: web.Request
    task: asyncio.Task[Any] | None

    @property
    def name(self) -> str:
        return name_route(self.request.method, self.request.path)

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        name = name_query(self.name, self.request.rel_url.raw_query_string if query else "")
        transport = self.request.transport
        peer = transport.get_extra_info("peername") if transport else None
        frames, running = stack_of_task(self.task)
        return Obstacle("request", name, seconds, name_peer(*peer) if isinstance(peer, tuple) else "", frames, running)


class _LongConnection(ABC):
    """A connection that would never end by itself. In the application's event loop."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        self.key = -1
        self._handler = Interruption(asyncio.current_task())
        self._complete = False
        self._ended = False

    @abstractmethod
    async def end(self) -> None:
        """Ask it to end; must not raise."""

    def cut(self) -> None:
        """Have its handler end."""
        self._ended = True
        self._handler.interrupt()

    def over(self, error: BaseException | None) -> bool:
        """The handler has ended; whether its error, if any, is what it made of the connection's end."""
        self._complete = True
        ours = self._handler.over()
        return ours if isinstance(error, asyncio.CancelledError) else self._ended and error is not None


class _WebSocket(_LongConnection):
    def __init__(self, response: web.WebSocketResponse, code: int) -> None:
        super().__init__(response)
        self._websocket = response
        self._code = code

    async def end(self) -> None:
        """Close it; a handler that waits for a message is told that it is closing."""
        self._ended = not self._websocket.closed
        await _quietly(self._websocket.close(code=self._code, message=SHUTTING_DOWN.encode()))


class _EventStream(_LongConnection):
    async def end(self) -> None:
        """Send the last chunk, and end the handler that would write on or waits for its next event."""
        if self._complete:
            return
        self._ended = True
        await _quietly(self.response.write_eof())
        self._handler.interrupt()


async def _quietly(ending: Awaitable[object]) -> None:
    try:
        await ending
    except Exception as error:  # noqa: BLE001  aiohttp says in many ways that the peer has gone at this very moment
        logger.debug("a connection could not be ended any more: %r", error)


def _answer(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers={"Cache-Control": "no-store", **(headers or {})})
