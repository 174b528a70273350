"""The journal of one life: what all stages of a leave share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graceful.core.report import DrainReport
    from graceful.life import Changes, Life

__all__ = ["Journal"]

logger = logging.getLogger("graceful.coordinator")


class Journal:
    """Takes down what happens in one life: for the log, for the hooks that wait, and for the report.

    On graceful's own event loop.

    Args:
        life: the life.
        changes: is notified of what is said here, and of whatever else the stages wait for.
        clock: monotonic seconds; the clock of the event loop.
    """

    def __init__(self, life: Life, changes: Changes, clock: Callable[[], float]) -> None:
        self.life = life
        self.changes = changes
        self.clock = clock

    async def guard(self, stage: str, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a stage; one that fails is recorded and never skips a later one."""
        try:
            await function(*arguments)
        except Exception as error:
            logger.exception("%s failed", stage)
            self.life.problems.append(f"{stage} failed: {type(error).__name__}: {error}")

    def say(self, text: str, level: int = logging.INFO) -> None:
        """Log a line, and tell it to the hooks that wait."""
        logger.log(level, "%s", text, extra={"phase": self.life.lifecycle.phase.value})
        self.life.journal.append(text)
        self.changes.notify()

    def problem(self, text: str) -> None:
        """Say what makes the leave an unclean one."""
        self.life.problems.append(text)
        self.say(text, logging.WARNING)

    def conclude(self, report: DrainReport) -> None:
        """Log how the leave went."""
        late = report.late
        if late.total:
            level = logging.WARNING if late.advice else logging.INFO
            logger.log(level, "%s", late, extra={"late_requests": late.as_dict()})
        level = logging.INFO if report.clean else logging.WARNING
        logger.log(level, "%s", report, extra={"drain_report": report.as_dict()})

    def end_wait(self) -> None:
        """The propagation wait is over: the hooks that wait have their answer."""
        self.life.wait_is_over = True
        self.changes.notify()
