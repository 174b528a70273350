"""The calls of a gRPC server, each counted as in flight by an interceptor for `grpc` and `grpc.aio` alike."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import grpc
import grpc.aio

from graceful.core.callbacks import RegisteredCallback
from graceful.core.ledger import name_caller
from graceful.draining import LongConnection, LongConnections
from graceful.loops import run_soon_here
from graceful.tracking import Gate, Tracking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from graceful.core.phases import Phase

__all__ = ["CallCounter"]

_HEALTH: Final = "/grpc.health.v1.Health/"
"""Its calls are not counted: probes, and watches that have no end of their own."""

_MAKERS: Final = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
"""By the handler's attribute that has the function, the maker of another one like it."""


class Service(Gate, Protocol):
    """What the interceptor needs of the service."""

    @property
    def phase(self) -> Phase:
        """The phase of the lifecycle."""

    def add_drain_callback(self, callback: RegisteredCallback) -> None:
        """Have a callback run when the lame duck is over."""

    def enter_late(self, caller: str, route: str, *, served: bool) -> None:
        """A call came after the leave had begun."""


class CallCounter(grpc.ServerInterceptor, grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Counts every call as in flight while its handler runs, and enters the late ones in the ledger.

    Not those of the health service: who watches it by hand watches on, and the server's stop would wait for that. So
    these calls are ended when the drain begins; a client's own health checking ends with its connection.

    Args:
        service: where they are counted.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watches = LongConnections()
        service.add_drain_callback(RegisteredCallback(self._end_watches, "the end of gRPC health watches"))

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Give the handler of a call with its function counted."""
        handler = continuation(handler_call_details)
        # grpc.aio gives an awaitable, and wants one.
        if inspect.isawaitable(handler):
            return self._wrap_soon(handler, handler_call_details)
        return self._wrap(handler, handler_call_details)

    async def _wrap_soon(self, handler: Awaitable[Any], details: Any) -> Any:
        return self._wrap(await handler, details)

    def _wrap(self, handler: Any, details: Any) -> Any:
        if handler is None:  # there is no such method
            return None
        if details.method == _HEALTH + "Watch":
            return self._watched(handler)
        return handler if details.method.startswith(_HEALTH) else self._counted(handler, details)

    def _counted(self, handler: Any, details: Any) -> Any:
        if self._service.phase.leaving:
            agent = next((value for key, value in details.invocation_metadata if key == "user-agent"), "")
            self._service.enter_late(name_caller(None, agent.encode()), details.method, served=True)
        kind = next(name for name in _MAKERS if getattr(handler, name) is not None)
        function = getattr(handler, kind)
        if kind.endswith("_stream") and not _is_async(function):
            function = _as_generator(function)
        return _like(handler, kind, Tracking(self._service, details.method)(function))

    def _watched(self, handler: Any) -> Any:
        function = handler.unary_stream

        @functools.wraps(function)  # with the attributes by which grpc calls this one in another way
        def watch(request: Any, context: Any, *more: Any) -> Any:
            key = self._watches.add(LongConnection(context.cancel, context.cancel))
            context.add_callback(lambda: self._watches.remove(key))
            return function(request, context, *more)

        async def watch_aio(request: Any, context: Any) -> None:
            scope = anyio.CancelScope()
            end = functools.partial(run_soon_here(), scope.cancel)
            key = self._watches.add(LongConnection(end, end))
            try:
                with scope:
                    await function(request, context)
            finally:
                self._watches.remove(key)
            if scope.cancelled_caught:  # a handler that is only cancelled sends no status, and its call stays open
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this instance is shutting down")

        return _like(handler, "unary_stream", watch_aio if _is_async(function) else watch)

    def _end_watches(self) -> None:
        for watch in self._watches.all():
            watch.end()


def _like(handler: Any, kind: str, function: Any) -> Any:
    return _MAKERS[kind](
        function,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _as_generator(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Iterator[Any]]:
    """The same as a generator function: a function that returns an iterator has only begun when it returns."""

    def responses(request: Any, context: Any) -> Iterator[Any]:
        yield from function(request, context)

    return responses
