"""Counts a unit of work of the application's own as in flight: a block, or every run of a function."""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from graceful.core.callbacks import name_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = ["Gate", "Tracking"]


class Gate(Protocol):
    """Where work is counted in and out: the coordinator."""

    def enter(self, *what: str) -> int:
        """Take a unit of work in; raises `NotAcceptingError` where the drain accepts none any more."""

    def leave(self, key: int) -> None:
        """It has finished."""


class Tracking:
    """What [`track`][graceful.Coordinator.track] gives: for `with`, for `async with`, and as a decorator.

    May be entered any number of times, also by several threads or tasks at once: each time is a unit of work.

    Args:
        gate: where the work is counted.
        name: names it in reports; None for the name of the function that is decorated.
    """

    def __init__(self, gate: Gate, name: str | None) -> None:
        self._gate = gate
        self._name = name
        # The units are alike: which of them a block that ends takes out changes neither count nor name.
        self._keys: list[int] = []

    def __enter__(self) -> Self:
        if self._name is None:
            raise TypeError('track() has no function here to take a name from: give it one, track("job 42")')
        self._keys.append(self._gate.enter(self._name))
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.leave(self._keys.pop())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def __call__(self, function: Function) -> Function:
        """Have every run of a function counted, from its first step to its end.

        Args:
            function: a function or method: plain, `async def`, or a generator of either kind. Of a plain one that
                returns an awaitable, only the call itself is counted.

        Returns:
            A function of the same kind.

        Raises:
            TypeError: `function` is not a function.
        """
        given: Any = function
        if not callable(given) or isinstance(given, type):
            raise TypeError(f"track() decorates a function and takes the name of a unit of work, not {function!r}")
        tracking = self if self._name is not None else Tracking(self._gate, name_of(function))
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004  a callable object's own method says its kind
        kinds = (wrap for is_kind, wrap in _KINDS if is_kind(function) or is_kind(called))
        tracked: Any = functools.wraps(function)(next(kinds, _plain)(function, tracking))
        return tracked  # type: ignore[no-any-return]  # of the same kind


def _plain(function: Callable[..., Any], tracking: Tracking) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with tracking:
            return function(*args, **kwargs)

    return run


def _coroutine(function: Callable[..., Any], tracking: Tracking) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        with tracking:
            return await function(*args, **kwargs)

    return run


def _generator(function: Callable[..., Any], tracking: Tracking) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with tracking:
            return (yield from function(*args, **kwargs))

    return run


def _async_generator(function: Callable[..., Any], tracking: Tracking) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with tracking:
            async with aclosing(function(*args, **kwargs)) as inner:
                step = anext(inner)
                while True:
                    try:
                        value = await step
                    except StopAsyncIteration:
                        return
                    # There is no `yield from` here, and an `@asynccontextmanager` throws its block's exception in.
                    try:
                        sent = yield value
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # noqa: BLE001  a cancellation too is the generator's to see
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)

    return run


_KINDS = (
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isgeneratorfunction, _generator),
)
