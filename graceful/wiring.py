"""Puts graceful into an application, whatever framework it is made with: recognised by its shape, never imported."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.service import Coordinator

__all__ = ["wire"]


def wire(app: Any, coordinator: Coordinator) -> Callable[[], None] | None:
    """Wire an application in place, outermost.

    Args:
        app: a Starlette, FastAPI, Litestar, Quart, Django, Flask or aiohttp.web application.
        coordinator: what it belongs to.

    Returns:
        What takes the wires out again, or None for an application of a kind that is not known.
    """
    for has, wire_kind in _KINDS.items():
        if all(hasattr(app, name) for name in has):
            return wire_kind(app, coordinator)
    return None


def _starlette(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    """Put our middleware around the whole stack.

    `app.add_middleware` would not do: what is added later would stand outside of ours and be neither counted nor
    refused.
    """
    build = app.build_middleware_stack
    if app.middleware_stack is not None:
        app.middleware_stack = coordinator.asgi(app.middleware_stack)
    app.build_middleware_stack = lambda: coordinator.asgi(build())

    def unwire() -> None:
        del app.build_middleware_stack
        app.middleware_stack = None

    return unwire


def _litestar(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    """Litestar answers the lifespan beside its handler, and ends its own lifespan managers before any shutdown hook.

    So it is wrapped where it is called.
    """
    return _wrap_asgi_call(app, coordinator)


def _django(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    """What Django's `get_asgi_application()` or `get_wsgi_application()` gives: a handler with nothing to hook into."""
    if iscoroutinefunction(type(app).__call__):
        return _wrap_asgi_call(app, coordinator)
    wrapped = coordinator.wsgi(_original_call(app))
    return _replace_call(app, lambda _, environ, start_response: wrapped(environ, start_response))


def _wrap_asgi_call(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    wrapped = coordinator.asgi(_original_call(app))

    async def call(_: Any, scope: Any, receive: Any, send: Any) -> None:
        await wrapped(scope, receive, send)

    return _replace_call(app, call)


def _original_call(app: Any) -> Callable[..., Any]:
    return partial(type(app).__call__, app)


def _replace_call(app: Any, call: Callable[..., Any]) -> Callable[[], None]:
    """Have a call of this one application go elsewhere.

    Python looks `__call__` up in the type alone: it gets one of its own, which is the framework's in all else.
    """
    kind = type(app)
    app.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "__call__": call, "__module__": kind.__module__})

    def unwire() -> None:
        app.__class__ = kind

    return unwire


def _quart(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    app.asgi_app = coordinator.asgi(app.asgi_app)

    def unwire() -> None:
        del app.asgi_app

    return unwire


def _flask(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    app.wsgi_app = coordinator.wsgi(app.wsgi_app)

    def unwire() -> None:
        del app.wsgi_app

    return unwire


def _aiohttp(app: Any, coordinator: Coordinator) -> Callable[[], None]:
    return coordinator.wire_aiohttp(app)


_KINDS = {
    ("build_middleware_stack", "middleware_stack"): _starlette,
    ("asgi_handler", "on_startup", "on_shutdown"): _litestar,
    ("asgi_app",): _quart,
    ("wsgi_app",): _flask,
    ("on_response_prepare", "middlewares"): _aiohttp,
    ("load_middleware", "get_response"): _django,
}
