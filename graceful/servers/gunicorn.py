"""gunicorn: which of its processes this is, and how long it gives its workers. Without importing it.

Its arbiter is on the call stack of everything that it runs: of the application's import with `--preload`, and of the
whole life of a worker, which it forks. There it is found, by its module's name; no other way leads from an application
to it. Not found, after a change of gunicorn's, a process counts as one that serves by itself.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from graceful.core.budget import Plan

__all__ = ["Arbiter"]


_FORK: Final = "spawn_worker"
"""The arbiter's method that forks a worker, and never returns in it."""


@dataclass(frozen=True, slots=True)
class Arbiter:
    """What is known of the arbiter above this code.

    Attributes:
        graceful_timeout: seconds after its own SIGTERM at which it kills the workers that are left.
        worker: gunicorn's object for this worker, or None in the arbiter itself.
    """

    graceful_timeout: float
    worker: Any = None

    @property
    def in_worker(self) -> bool:
        """Whether this is one of its workers, and not the arbiter itself, which imports the application for them."""
        return self.worker is not None

    @classmethod
    def find(cls) -> Arbiter | None:
        """The arbiter that runs what calls this, or None."""
        frames = list(_arbiter_frames())
        config = next((_config(frame) for frame in frames), None)
        if config is None:
            return None
        worker = next((frame.f_locals.get("worker") for frame in frames if frame.f_code.co_name == _FORK), None)
        return cls(float(getattr(config, "graceful_timeout", 0) or 0), worker)

    @classmethod
    def that_forks(cls) -> Arbiter | None:
        """The arbiter, where what runs here, a hook of `os.register_at_fork`, does so for its fork of a worker."""
        frame: FrameType | None = sys._getframe()  # noqa: SLF001  as below
        while frame is not None and frame.f_globals.get("__name__", "").startswith("graceful."):
            frame = frame.f_back
        # The very next: a worker's own children are forked with the arbiter's frames on the stack, too.
        forks = frame is not None and _is_arbiter(frame) and frame.f_code.co_name == _FORK
        return cls.find() if forks else None

    def serve_on(self) -> None:
        """Have the worker not end by itself after so many requests (`--max-requests`): nobody takes its place any more.

        The number is gunicorn's own for no limit.
        """
        if hasattr(self.worker, "max_requests"):
            self.worker.max_requests = sys.maxsize

    def warnings(self, plan: Plan) -> list[str]:
        """What is to be said where it would kill a worker before its leave is over."""
        total, given = plan.total, self.graceful_timeout
        if not given or total <= given:
            return []
        after_hook = plan.drain + plan.cleanup + plan.deregister + plan.margin
        what = (
            f"what comes after the hook takes {after_hook:g}s"
            if after_hook > given
            else f"a leave that begins with SIGTERM, without a hook, takes {total:g}s"
        )
        sentence = f"gunicorn kills its workers {given:g}s after SIGTERM, but {what} ({plan})"
        return [f"{sentence}: start it with --graceful-timeout {math.ceil(total)}"]


def _arbiter_frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  the documented way to the call stack, inspect's own
    while frame is not None:
        if _is_arbiter(frame):
            yield frame
        frame = frame.f_back


def _is_arbiter(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "gunicorn.arbiter"


def _config(frame: FrameType) -> Any:
    return getattr(frame.f_locals.get("self"), "cfg", None)
