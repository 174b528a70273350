"""The drain report: how a leave went, for the log and for `coordinator.report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graceful.core.callbacks import CallbackOutcome
from graceful.core.ledger import LateRequests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.core.callbacks import CallbackRecord
    from graceful.core.inflight import Work
    from graceful.core.obstacles import DeadlineReport
    from graceful.core.phases import Phase
    from graceful.core.registry import RegistryOutcome, ServerResult
    from graceful.core.silence import EarlyEnd

__all__ = ["DrainReport"]

_NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """How a leave went.

    Attributes:
        reason: what began it: `preStop hook`, `SIGTERM`, or the reason given to `drain()`.
        alone: whether this process left and others of its pod serve on, so that the registry was not touched.
        durations: seconds spent in each phase, in order.
        late: the requests that came after the leave had begun, from callers that had not heard yet.
        early_end: that the wait was ended before its time, and on what evidence; None if it was not.
        withdrawn: what came of OUT_OF_SERVICE, or None without a registry, or alone.
        deregistered: what came of the deregistration; None without a registry, where somebody else registers, or where
            it was left to other processes of the pod.
        calls: what came of every change that the registry was asked for in this life: one entry for each operation on
            each server.
        unfinished: what was still in flight when the drain ran out of time, oldest first.
        callbacks: how each of the user's callbacks went, in the order they ended.
        problems: what else went wrong, a sentence each.
        deadline: who was in the way, if the leave or a part of it ran out of time.
        overdue: whether the process ended because its deadline was there or because it was forced.
        now: the instant of the report, from which the age of unfinished work is told.
    """

    reason: str
    durations: dict[Phase, float]
    late: LateRequests = field(default_factory=LateRequests)
    early_end: EarlyEnd | None = None
    withdrawn: RegistryOutcome | None = None
    deregistered: RegistryOutcome | None = None
    alone: bool = False
    calls: tuple[ServerResult, ...] = ()
    unfinished: tuple[Work, ...] = ()
    callbacks: tuple[CallbackRecord, ...] = ()
    problems: tuple[str, ...] = ()
    deadline: DeadlineReport | None = None
    overdue: bool = False
    now: float = 0.0

    @property
    def late_requests(self) -> int:
        """Requests that came during the lame duck and were served."""
        return self.late.served

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, failed, cut short or left unverified."""
        verified = all(
            result.verified
            for outcome in (self.withdrawn, self.deregistered)
            if outcome is not None
            for result in outcome.servers
        )
        completed = all(record.outcome is CallbackOutcome.COMPLETED for record in self.callbacks)
        return verified and completed and not (self.unfinished or self.problems or self.overdue)

    def __str__(self) -> str:
        """One paragraph for the log; names at most ten units of work."""
        spent = ", ".join(f"{phase.value} {seconds:.1f}s" for phase, seconds in self.durations.items() if phase.leaving)
        alone = ", alone" if self.alone else ""
        parts = [f"left {'cleanly' if self.clean else 'UNCLEANLY'} after {self.reason}{alone} ({spent})"]
        refused = f", refused: {self.late.refused}" if self.late.refused else ""
        parts.append(f"late requests served: {self.late_requests}{refused}")
        if self.early_end is not None:
            parts.append(str(self.early_end))
        if self.withdrawn is not None:
            parts.append(f"OUT_OF_SERVICE {self.withdrawn}")
        if self.deregistered is not None:
            parts.append(f"deregistered: {self.deregistered}")
        parts.extend(str(record) for record in self.callbacks if record.outcome is not CallbackOutcome.COMPLETED)
        parts.extend(f"{call.operation} {call}" for call in self._failed_calls())
        if self.unfinished:
            named = ", ".join(f"{work.name} ({self.now - work.since:.1f}s)" for work in self.unfinished[:_NAMED])
            more = f" and {len(self.unfinished) - _NAMED} more" if len(self.unfinished) > _NAMED else ""
            parts.append(f"still in flight: {named}{more}")
        parts.extend(self.problems)
        return "; ".join(parts)

    def _failed_calls(self) -> Iterator[ServerResult]:
        """The calls that explain an unclean leave and are not told with the two outcomes."""
        if self.clean:
            return
        told = {
            (result.operation, result.server)
            for outcome in (self.withdrawn, self.deregistered)
            if outcome is not None
            for result in outcome.servers
        }
        yield from (call for call in self.calls if not call.verified and (call.operation, call.server) not in told)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for `extra=` of a log record and for JSON."""
        return {
            "reason": self.reason,
            "alone": self.alone,
            "clean": self.clean,
            "overdue": self.overdue,
            "seconds": {phase.value: round(seconds, 3) for phase, seconds in self.durations.items()},
            "late_requests": self.late_requests,
            "late": self.late.as_dict(),
            "early_end": self.early_end.as_dict() if self.early_end else None,
            "withdrawn": self.withdrawn.verdict.value if self.withdrawn else None,
            "deregistered": self.deregistered.verdict.value if self.deregistered else None,
            "calls": [call.as_dict() for call in self.calls],
            "unfinished": [work.name for work in self.unfinished[:_NAMED]],
            "unfinished_count": len(self.unfinished),
            "callbacks": [str(record) for record in self.callbacks],
            "problems": list(self.problems),
        }
