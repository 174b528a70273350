"""Tells who was in the way of a leave where somebody will look: in the log, and in `kubectl describe`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.core.obstacles import DeadlineReport
    from graceful.core.report import DrainReport
    from graceful.settings import Settings

__all__ = ["TERMINATION_LOG", "Teller"]

logger = logging.getLogger("graceful.deadline")

TERMINATION_LOG: Final = "/dev/termination-log"
"""Where the kubelet looks unless the container has another `terminationMessagePath` (Kubernetes API, Container)."""

_LONGEST: Final = 2048
"""Bytes of the longest message: the kubelet takes the last 4096, and a pod may have two workers that write one each."""

_LONGEST_REASON: Final = 700
"""Bytes of the drain report in it: the rest is for who was in the way."""


class Teller:
    """Tells one service's reports. From any thread.

    Args:
        settings: the service's.
    """

    def __init__(self, settings: Settings) -> None:
        self._format = settings.deadline_report_format
        self._path = settings.termination_log
        self._kubernetes = settings.kubernetes

    def tell(self, report: DrainReport, level: int = logging.WARNING) -> None:
        """Write what is to be written; nothing is of a leave that was clean."""
        if report.clean:
            return
        # First: a file of this container's own, while the log's lock may be held for ever.
        with contextlib.suppress(OSError):
            self._write_short(report)
        if report.deadline is not None:
            text = self._text(report.deadline)
            logger.log(level, "%s", text, extra={"deadline_report": report.deadline.as_dict()})

    def _text(self, deadline: DeadlineReport) -> str:
        # Whatever collects a container's output takes each line for an event of its own.
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        as_text = self._format == "text" or (self._format == "auto" and on_terminal)
        return str(deadline) if as_text else deadline.as_json()

    def _write_short(self, report: DrainReport) -> None:
        path = self._path or TERMINATION_LOG
        if path == "off" or (self._path is None and not self._kubernetes):
            return
        # Appended to: another worker of the container may have written. Not waited for: it may be a pipe that nobody
        # reads. The kubelet makes the file; one that somebody named is made here.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if self._path else 0)
        descriptor = os.open(path, flags, 0o644)
        try:
            os.write(descriptor, _short(report))
        finally:
            os.close(descriptor)


def _short(report: DrainReport) -> bytes:
    told = _cut(str(report), _LONGEST_REASON if report.deadline else _LONGEST - 1)
    if report.deadline is not None:
        told += "\n" + report.deadline.short(_LONGEST - len(told.encode()) - 2)
    return told.encode() + b"\n"


def _cut(text: str, longest: int) -> str:
    return text.encode()[:longest].decode(errors="ignore")
