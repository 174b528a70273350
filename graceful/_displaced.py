"""Who took a signal after us: found where it is taken back, named and told in graceful's own thread."""

from __future__ import annotations

import functools
import gc
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from graceful._owners import is_loop_handler, is_nobody

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterable, Sequence

    from graceful._owners import Handler
    from graceful._takeover import Takeover

__all__ = ["Displacements", "Found", "name_of", "name_owner"]

logger = logging.getLogger("graceful.signals")

_EXPECTED: Final = frozenset({
    "aiohttp", "anyio", "asyncio", "daphne", "django", "graceful", "granian", "gunicorn", "hypercorn", "sse_starlette",
    "trio", "twisted", "uvicorn", "uvicorn_worker", "uvloop", "waitress", "werkzeug",
})  # fmt: skip
"""Servers and event loops take the signals when they start, and are handed them at the release: nothing to tell."""


@dataclass(frozen=True, slots=True)
class Found:
    """A handler that was found in the place of ours.

    Attributes:
        signum: the signal.
        owner: the handler.
        loop: the event loop that ran in the main thread then: its stand-in says nothing about the callback behind it.
    """

    signum: int
    owner: Handler
    loop: AbstractEventLoop | None

    def behind(self) -> object:
        """The function that the signal is for; None where a loop does not show it."""
        if not is_loop_handler(self.owner):
            return self.owner
        loop = getattr(self.owner, "__self__", self.loop)
        return None if loop is None else _callback_of(loop, self.signum)


class Displacements:
    """Tells once of each handler of an application or a library that was put in the place of ours. In one thread."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._unheld: set[int] = set()
        self._doubted: set[int] = set()

    def tell(self, takeover: Takeover) -> None:
        """Log what has happened since the last call."""
        found = [takeover.found.popleft() for _ in range(len(takeover.found))]
        self.tell_found(found)
        self.tell_unheld(takeover.ignored(), takeover.foreign())

    def tell_found(self, found: Sequence[Found]) -> None:
        """Log a warning for each new owner, with all the signals that it took by now."""
        taken_by: dict[str, list[int]] = {}
        for one in found:
            behind = one.behind()
            if not (is_nobody(one.owner) or _is_expected(behind)):
                taken_by.setdefault(name_owner(one, behind), []).append(one.signum)
        for name, taken in taken_by.items():
            if name in self._told:
                continue
            self._told.add(name)
            logger.warning(
                "%s took %s after install(): graceful has taken it back, and calls that at the end, when the service "
                "has left in order. Until then it does not run: do in coordinator.on_drain and on_cleanup what it is "
                "there for, and leave the signal to graceful",
                name,
                _names(taken),
            )

    def tell_unheld(self, ignored: Iterable[int], foreign: Iterable[int]) -> None:
        """Log a warning for each signal that cannot be held, the second time in a row that it is seen.

        Args:
            ignored: signals that are set to `SIG_IGN`; some programs do that for a moment, while they start others.
            foreign: signals with a handler that was not set from Python.
        """
        ignored, foreign = set(ignored), set(foreign)
        seen = (ignored | foreign) - self._unheld
        sure, self._doubted = seen & self._doubted, seen
        self._unheld |= sure
        if gone := sorted(sure & ignored):
            logger.warning(
                "%s is set to be ignored (signal.SIG_IGN, or `trap ''` in the shell that started this process), so it "
                "begins no leave: nothing but the preStop hook and coordinator.drain() does. Take that out",
                _names(gone),
            )
        if gone := sorted(sure & foreign):
            logger.warning(
                "%s has a handler that was not set from Python (a program that embeds the interpreter, such as uWSGI), "
                "so graceful cannot hold it: use the preStop hook, or call coordinator.drain() when the signal comes",
                _names(gone),
            )


def name_owner(found: Found, behind: object) -> str:
    """The owner as the log names it: `shop.main.stop (signal.signal)`."""
    if not is_loop_handler(found.owner):
        return f"{name_of(behind)} (signal.signal)"
    return "an event loop's add_signal_handler" if behind is None else f"{name_of(behind)} (loop.add_signal_handler)"


def name_of(handler: object) -> str:
    """The module and the qualified name of what is called; of its class, where it is an object of one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{_module_of(handler) or '?'}.{getattr(named, '__qualname__', '?')}"


def _is_expected(behind: object) -> bool:
    return (_module_of(behind) or "").partition(".")[0] in _EXPECTED


def _module_of(handler: object) -> str | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    # A bound method has its function's module, whichever class of the user's it is called on.
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return module if isinstance(module, str) else None


def _callback_of(loop: object, signum: int) -> Callable[..., Any] | None:
    """What `loop.add_signal_handler` was given.

    There is no public way to it: asyncio has it in a private attribute, uvloop within. It is only for a name in the
    log, so both are looked at with care, and nothing is found where another version has it elsewhere.
    """
    tables: Iterable[Any] = (getattr(loop, "_signal_handlers", None) or {}, *gc.get_referents(loop))
    handles = (table[signum] for table in tables if isinstance(table, dict) and signum in table)
    # By its name, because uvloop has tables by descriptor too, whose numbers look like signals.
    handle = next((one for one in handles if type(one).__name__ == "Handle"), None)
    inner = () if handle is None else (getattr(handle, "_callback", None), *gc.get_referents(handle))
    return next((one for one in inner if callable(one) and one is not type(handle)), None)


def _names(signums: Iterable[int]) -> str:
    return " and ".join(signal.Signals(signum).name for signum in sorted(set(signums)))
