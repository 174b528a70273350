"""hypercorn's worker processes: how their parent tells them to stop, and how that is held back, without importing it.

With `--workers` of 1, the default, or more, hypercorn's parent passes no signal on: it sets a `multiprocessing.Event`,
which each worker looks at ten times a second, to close its listener as soon as it is set. When the first worker has
ended, the parent terminates the others, with a SIGTERM that finds hypercorn without a handler.

So a worker's view of that event is what has to be held, as a signal is held elsewhere. It is reached through the
process object, whose arguments `multiprocessing` keeps in a private attribute: no public name leads there. Where it is
not found, under another name in a later version, nothing is held, the worker stops as hypercorn alone does, and the
matrix of servers (`tests/test_servers.py`) fails.
"""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StopEvent"]


class StopEvent:
    """Stands before the event by which the parent tells this worker to stop.

    `hold`, `release` and `give_back` may be called from any thread; hypercorn looks in its own event loop.

    Args:
        event: the event; its `is_set` is replaced in this process alone.
        config: hypercorn's configuration, the object that the worker goes on to read.
    """

    def __init__(self, event: Any, config: Any) -> None:
        self._event = event
        self._config = config
        self._told: Callable[[], object] = lambda: None
        self._released = False

    @classmethod
    def find(cls) -> StopEvent | None:
        """The event of this process, if it is a worker of hypercorn's."""
        process = multiprocessing.current_process()
        target, arguments = getattr(process, "_target", None), getattr(process, "_kwargs", None)
        if not getattr(target, "__module__", "").startswith("hypercorn.") or not isinstance(arguments, dict):
            return None
        event, config = arguments.get("shutdown_event"), arguments.get("config")
        return cls(event, config) if hasattr(event, "is_set") and hasattr(config, "graceful_timeout") else None

    def hold(self, told: Callable[[], object]) -> None:
        """Have hypercorn not see the event, until it is released.

        Args:
            told: called whenever hypercorn looks and the parent has set the event; quick, and without effect the
                second time.
        """
        self._told = told
        self._event.is_set = self._is_set

    def release(self, remaining: float) -> None:
        """Have hypercorn stop, whether or not its parent wants it to.

        Args:
            remaining: seconds that it may take for requests that are still under way; its own `graceful_timeout`, 3 s
                by default, would cut them.
        """
        self._config.graceful_timeout = remaining
        self._released = True

    def give_back(self) -> None:
        """Have hypercorn see the event as it is."""
        vars(self._event).pop("is_set", None)

    def _is_set(self) -> bool:
        if self._released:
            return True
        if type(self._event).is_set(self._event):
            self._told()
        return False
