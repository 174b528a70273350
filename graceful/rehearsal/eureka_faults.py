"""Faults that an embedded Eureka shows on purpose, and the log of what it was asked."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Fault", "FaultPlan", "ReceivedRequest", "RequestLog"]

FaultKind = Literal["fail", "hang", "delay", "reset", "redirect"]
KINDS: tuple[FaultKind, ...] = ("fail", "hang", "delay", "reset", "redirect")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave, and for which requests.

    Attributes:
        kind: `fail` answers `status` and changes nothing; `hang` never answers and changes nothing; `delay` waits
            `seconds` and then answers as usual; `reset` breaks the connection and changes nothing; `redirect` answers
            302 to `location`.
        status: of `fail`.
        seconds: of `delay`.
        location: of `redirect`; a path or a URL.
        method: only requests with this method.
        path: only requests whose path, context path included and decoded, contains this regular expression.
        count: only the first so many requests; None for no such limit.
        for_seconds: only so many seconds from now on; None for no such limit.
    """

    kind: FaultKind = "fail"
    status: int = 503
    seconds: float = 0.0
    location: str = "/login"
    method: str | None = None
    path: str | None = None
    count: int | None = None
    for_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault kind {self.kind!r} is unknown: use one of {', '.join(KINDS)}")
        if not 100 <= self.status <= 599:
            raise ValueError(f"fault status {self.status} is no HTTP status: use 100 to 599")

    def concerns(self, method: str, path: str) -> bool:
        """Whether this fault is meant for such a request."""
        return self.method in (None, method) and (self.path is None or re.search(self.path, path) is not None)


class FaultPlan:
    """The faults in force, the newest first. Thread-safe.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._faults: list[_Planned] = []

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        until = None if fault.for_seconds is None else self._clock() + fault.for_seconds
        with self._lock:
            self._faults.insert(0, _Planned(fault, until, fault.count))

    def clear(self) -> None:
        """Behave well again, for new requests; one that hangs already goes on hanging."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault for this request, counted as used; None for none."""
        now = self._clock()
        with self._lock:
            self._faults = [planned for planned in self._faults if planned.in_force(now)]
            for planned in self._faults:
                if planned.fault.concerns(method, path):
                    planned.use()
                    return planned.fault
        return None


@dataclass(slots=True)
class _Planned:
    fault: Fault
    until: float | None
    left: int | None

    def in_force(self, now: float) -> bool:
        return (self.until is None or now < self.until) and self.left != 0

    def use(self) -> None:
        if self.left is not None:
            self.left -= 1


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it arrived, faults included.

    Attributes:
        method: in capitals.
        path: decoded, with the context path.
        query: as sent, without the question mark.
        at: seconds since the epoch.
    """

    method: str
    path: str
    query: str
    at: float


@dataclass(slots=True)
class RequestLog:
    """What was received, in order. Thread-safe."""

    _entries: list[ReceivedRequest] = field(default_factory=list)
    _changed: Condition = field(default_factory=Condition)

    def add(self, request: ReceivedRequest) -> None:
        """Note a request and wake those who wait for it."""
        with self._changed:
            self._entries.append(request)
            self._changed.notify_all()

    def matching(self, method: str | None = None, path: str | None = None) -> list[ReceivedRequest]:
        """The requests with this method and a path that contains this regular expression."""
        with self._changed:
            return self._matching(method, path)

    def wait_for(self, method: str | None, path: str | None, count: int, timeout: float) -> list[ReceivedRequest]:
        """Wait until `count` such requests have come, and return all of them.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._matching(method, path)) >= count, timeout):
                came = len(self._matching(method, path))
                raise TimeoutError(f"{came} of {count} requests {method or '*'} {path or '*'} came in {timeout:g} s")
            return self._matching(method, path)

    def clear(self) -> None:
        """Forget what was received."""
        with self._changed:
            self._entries.clear()

    def _matching(self, method: str | None, path: str | None) -> list[ReceivedRequest]:
        return [
            entry
            for entry in self._entries
            if method in (None, entry.method) and (path is None or re.search(path, entry.path))
        ]
