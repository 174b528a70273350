"""The hard end: at the deadline, or when somebody insists."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.report import DrainReport

__all__ = ["exit_with_report"]

logger = logging.getLogger("graceful.exit")

_REPORT_TIMEOUT: Final = 0.2


def exit_with_report(status: int, report: DrainReport, tell: Callable[[DrainReport, int], object]) -> None:
    """Write the report and end the process at once.

    Args:
        status: its exit code.
        report: how the leave went.
        tell: writes what else there is to be told, at the level of the log that it is given.

    `os._exit`, because what is in the way is unknown: a blocked loop, a thread that never ends, a handler of `atexit`
    that waits. The report is written by a thread of its own for the same reason: the log's lock may be held for ever.
    """
    writer = threading.Thread(target=_write, args=(report, tell), name="graceful report", daemon=True)
    try:
        writer.start()
        writer.join(_REPORT_TIMEOUT)
    except RuntimeError:  # no thread can be started: the interpreter is about to end
        _write(report, tell)
    finally:
        os._exit(status)


def _write(report: DrainReport, tell: Callable[[DrainReport, int], object]) -> None:
    tell(report, logging.ERROR)
    logger.error("the process is ended now: %s", report, extra={"drain_report": report.as_dict()})
