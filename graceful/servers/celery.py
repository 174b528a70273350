"""celery: a queue library whose worker knows how to stop. Its signal handlers are left alone, and nothing is imported.

On SIGTERM its worker stops fetching, finishes what it has fetched and exits with 0 (the *warm* shutdown). To hold that
back would have it fetch on while the service leaves.
"""

from __future__ import annotations

import sys

__all__ = ["CeleryWorker"]


class CeleryWorker:
    """Recognises the handlers of a celery worker."""

    name = "celery"
    advice = "its worker_shutting_down signal should call coordinator.drain()"

    def owns(self, handler: object) -> bool:
        """Whether the handler is one that `celery.apps.worker` has set, for SIGTERM or for SIGINT."""
        return getattr(handler, "__module__", None) == "celery.apps.worker"

    def is_stopping(self) -> bool:
        """Whether the worker has been told to stop already."""
        state = sys.modules.get("celery.worker.state")
        wishes = (getattr(state, name, None) for name in ("should_stop", "should_terminate"))
        return any(wish is not None and wish is not False for wish in wishes)  # 0 is the exit code to stop with
