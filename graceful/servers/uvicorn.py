"""uvicorn: how its signals are handed to it, without importing it.

`uvicorn.Server` sets its method `handle_exit` for SIGTERM and SIGINT around `serve()`. When it has shut down it puts
back the handlers that it found and raises every signal that it had captured once more. Where ours was the handler it
found, that comes to us and is swallowed (exit code 0). Where it took the signals before us (a string app is imported
inside the capture by `Server(Config("main:app")).run()`), it finds the default action and the process ends with -15:
there the server is told to stop without capturing anything.
"""

from __future__ import annotations

import signal
from types import FrameType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from graceful._owners import Handover

__all__ = ["UvicornOwner"]


class UvicornOwner:
    """Hands signals to a `uvicorn.Server` or a subclass of it (gunicorn's uvicorn worker runs one too).

    Recognised by its shape, so that neither uvicorn has to be installed nor its version to be known.
    """

    def owns(self, handler: object) -> bool:
        """Whether the handler is the `handle_exit` method of something that looks like a `uvicorn.Server`."""
        return _server_of(handler) is not None

    def release(self, handover: Handover) -> None:
        """Tell the server to stop, with `timeout_graceful_shutdown` at most what remains.

        A shorter timeout that the user has set stays.
        """
        server = _server_of(handover.handler)
        if server is None:
            return
        timeout = server.config.timeout_graceful_shutdown
        if timeout is None or timeout > handover.remaining:
            server.config.timeout_graceful_shutdown = handover.remaining
        if handover.over_ours:
            handover.handler(handover.signum, handover.frame)
        elif server.should_exit and handover.signum == signal.SIGINT:
            # What handle_exit does with a second Ctrl-C: drop what is in flight.
            server.force_exit = True
        else:
            server.should_exit = True

    def stop_accepting(self, handler: object) -> None:
        """Close the listener ahead of the server's own stop, which cuts connections that have not said anything yet."""
        for server in getattr(_server_of(handler), "servers", ()):
            server.get_loop().call_soon_threadsafe(server.close)

    def serve_on(self, handler: object) -> None:
        """Have the server serve as many requests as come: nobody would take its place in a pod that leaves."""
        server = _server_of(handler)
        if server is not None:
            server.config.limit_max_requests = None
            # Where the server has worked it out already, with the jitter that it adds: a cached property.
            vars(server)["limit_max_requests"] = None

    def missed(self, handler: object) -> Collection[int]:
        """The signals that the server has captured already: it is shutting down."""
        server = _server_of(handler)
        return frozenset(getattr(server, "_captured_signals", ()))

    def raises_again(self, frame: FrameType | None) -> bool:
        """Whether the frame is uvicorn's `capture_signals`, which raises what it captured when all is over.

        The frame tells it exactly: a person's second Ctrl-C arrives wherever the program happens to be.
        """
        if frame is None or frame.f_code.co_name != "capture_signals":
            return False
        return _looks_like_server(frame.f_locals.get("self"))


def _server_of(handler: object) -> Any | None:
    """The server whose `handle_exit` this is, or None."""
    if not isinstance(handler, MethodType):
        return None
    return handler.__self__ if _looks_like_server(handler.__self__) else None


def _looks_like_server(thing: object) -> bool:
    # By the attributes and not by the method's name: sse-starlette puts a function of its own in handle_exit's place.
    config = getattr(thing, "config", None)
    return hasattr(config, "timeout_graceful_shutdown") and all(
        hasattr(thing, name) for name in ("handle_exit", "should_exit", "force_exit")
    )
