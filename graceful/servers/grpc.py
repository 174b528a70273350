"""gRPC: a server of `grpc` or `grpc.aio` that says NOT_SERVING, serves on, and stops when the drain begins.

Nothing takes the signals for a gRPC server, so there is nobody to hand one to: the server is told by its own `stop`.
Its clients hear of the lame duck from the health service (gRPC health checking protocol), and of the drain from the
GOAWAY that `stop` sends; calls that were begun before it end on their connections.
"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from graceful.core.callbacks import RegisteredCallback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["wire_grpc"]

_TELLING_TIMEOUT: Final = 5.0
"""Seconds for the health servicer, which has nothing to do but to tell those who watch."""

_PRECISION: Final = 0.01
"""Seconds by which a timer of an event loop may be early."""

_SLACK: Final = 0.5
"""Seconds of the drain that are kept for the calls that `stop` cancels to end."""


class Service(Protocol):
    """What a gRPC server needs of the service it belongs to."""

    @property
    def drain_remaining(self) -> float:
        """Seconds that are left of the drain."""

    def adopt_loop(self) -> None:
        """Take the event loop that runs here for the application's."""

    def add_lame_duck_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when the leave begins."""

    def add_drain_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when the lame duck is over."""


def wire_grpc(server: Any, health: Any, service: Service) -> None:
    """Have a gRPC server leave with its service.

    Args:
        server: of `grpc.server()` or `grpc.aio.server()`; it is told by its shape which.
        health: its health servicer, of `grpc_health.v1.health`, of the same kind; or None.
        service: the service that it belongs to.

    Raises:
        TypeError: for what is no gRPC server, no health servicer, or one of the other kind.
        RuntimeError: for a `grpc.aio` server, outside its event loop.
    """
    stop, enter_shutdown = getattr(server, "stop", None), getattr(health, "enter_graceful_shutdown", None)
    if not callable(stop) or not hasattr(server, "add_generic_rpc_handlers"):
        raise TypeError(f"wire_grpc() takes a server of grpc.server() or grpc.aio.server(), not {server!r}")
    is_aio = inspect.iscoroutinefunction(stop)
    if health is not None and (not callable(enter_shutdown) or inspect.iscoroutinefunction(enter_shutdown) != is_aio):
        kind = "health.aio.HealthServicer() for a grpc.aio server" if is_aio else "health.HealthServicer()"
        raise TypeError(
            f"health must be the servicer of grpc_health.v1 that was added to the server, not {health!r}: {kind}"
        )
    if is_aio:
        _adopt_loop(service)
    if enter_shutdown is not None:
        service.add_lame_duck_callback(RegisteredCallback.checked(enter_shutdown, _TELLING_TIMEOUT))
    stopping = _stopping_aio(stop, service) if is_aio else _stopping(stop, service)
    service.add_drain_callback(RegisteredCallback(stopping, "the gRPC server's stop"))


def _adopt_loop(service: Service) -> None:
    try:
        service.adopt_loop()
    except anyio.NoEventLoopError:
        raise RuntimeError(
            "wire_grpc() was called for a grpc.aio server: call it in the event loop it runs in"
        ) from None


def _stopping(stop: Callable[[float], Any], service: Service) -> Callable[[], None]:
    def stop_server() -> None:
        grace = max(0.0, service.drain_remaining - _SLACK)
        if not stop(grace).wait(grace):
            raise _cancelled(grace)

    return stop_server


def _stopping_aio(stop: Callable[[float], Awaitable[None]], service: Service) -> Callable[[], Awaitable[None]]:
    async def stop_server() -> None:
        grace, began = max(0.0, service.drain_remaining - _SLACK), time.monotonic()
        await stop(grace)
        if time.monotonic() - began >= grace - _PRECISION:
            raise _cancelled(grace)

    return stop_server


def _cancelled(grace: float) -> TimeoutError:
    return TimeoutError(f"calls that had not ended after {grace:.1f}s were cancelled")
