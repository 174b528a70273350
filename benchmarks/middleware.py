"""What a middleware costs a request: ours and Starlette's BaseHTTPMiddleware around the same bare application."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from wsgiref.util import FileWrapper

from starlette.middleware.base import BaseHTTPMiddleware

import graceful
from benchmarks.comparison import Comparison, in_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response

    from graceful.http.asgi import ASGIApp, Message, Receive, Scope, Send
    from graceful.http.wsgi import Environ, StartResponse, WSGIApp

__all__ = ["compare_middleware", "compare_wsgi", "serving"]

_BARE: Final = "a bare ASGI application"
_OURS: Final = "a request through `GracefulMiddleware`"
_BASE: Final = "a request through `BaseHTTPMiddleware`"
_BARE_WSGI: Final = "a bare WSGI application"
_OURS_WSGI: Final = "a request through `WsgiMiddleware`"
_PATIENCE: Final = 20.0
"""Seconds for the service to be serving."""

_SCOPE: Final[Scope] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/orders/7",
    "query_string": b"",
    "headers": [(b"host", b"orders")],
}

_ENVIRON: Final[Environ] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/orders/7", "wsgi.file_wrapper": FileWrapper}


class NotServingError(RuntimeError):
    """The service that was installed for the benchmark has not begun to serve."""


def compare_middleware(runs: int, requests: int) -> list[Comparison]:
    """Compare both middlewares with the bare application.

    Args:
        runs: how many turns are counted.
        requests: how many requests each takes in a turn.
    """
    with serving() as coordinator, asyncio.Runner() as runner:
        apps: dict[str, ASGIApp] = {
            _BARE: _answer,
            _OURS: coordinator.asgi(_answer),
            _BASE: BaseHTTPMiddleware(_answer, dispatch=_pass_on),
        }
        times = in_turns({name: partial(_measure, runner, app, requests) for name, app in apps.items()}, runs)
    return [Comparison.of(name, _BARE, times) for name in (_OURS, _BASE)]


def compare_wsgi(runs: int, requests: int) -> list[Comparison]:
    """Compare the WSGI middleware with the bare application.

    Args:
        runs: how many turns are counted.
        requests: how many requests each takes in a turn.
    """
    with serving() as coordinator:
        apps: dict[str, WSGIApp] = {_BARE_WSGI: _answer_wsgi, _OURS_WSGI: coordinator.wsgi(_answer_wsgi)}
        times = in_turns({name: partial(_measure_wsgi, app, requests) for name, app in apps.items()}, runs)
    return [Comparison.of(_OURS_WSGI, _BARE_WSGI, times)]


@contextmanager
def serving() -> Iterator[graceful.Coordinator]:
    """A service as it runs in production, thread and all, that nobody but this benchmark can reach."""
    os.environ["GRACEFUL_SCOPE"] = f"benchmarks {os.getpid()}"
    coordinator = graceful.install(enabled=True, hold_signals=False)
    try:
        coordinator.ready()
        deadline = time.monotonic() + _PATIENCE
        while coordinator.phase is not graceful.Phase.SERVING:
            if time.monotonic() > deadline:
                raise NotServingError(f"the service is {coordinator.phase.value} after {_PATIENCE:.0f} s, not serving")
            time.sleep(0.01)
        yield coordinator
    finally:
        coordinator.uninstall()


def _measure(runner: asyncio.Runner, app: ASGIApp, requests: int) -> float:
    """CPU seconds of one request, all threads of this process counted."""
    return runner.run(_serve(app, requests)) / requests


async def _serve(app: ASGIApp, requests: int) -> float:
    begun = time.process_time()
    for _ in range(requests):
        await app(_SCOPE, _receive, _send)
    return time.process_time() - begun


def _measure_wsgi(app: WSGIApp, requests: int) -> float:
    """As `_measure`, closing every iterable as a server does."""
    begun = time.process_time()
    for _ in range(requests):
        body = app(_ENVIRON, _start_response)
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return (time.process_time() - begun) / requests


def _answer_wsgi(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def _start_response(_status: str, _headers: list[tuple[str, str]]) -> None:
    pass


async def _answer(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(_message: Message) -> None:
    pass


async def _pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)
