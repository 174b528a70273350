"""The response cache of an embedded Eureka: why a change is not seen at once. Pure: no I/O, and time is an argument."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CacheKey", "ResponseCache"]

# responseCacheAutoExpirationInSeconds: a view that nothing invalidated is made anew after this time.
AUTO_EXPIRATION = 180.0


class CacheKey(NamedTuple):
    """One cached view: which, of what, in which format."""

    view: str
    name: str
    media_type: str


class ResponseCache:
    """Eureka's two layers: a change drops a view from the first; callers read the second, refreshed only by a timer.

    All views are refreshed at the same tick, and ticks are aligned to the wall clock: with an interval of 30 s they
    fall on :00 and :30. A view that nobody has asked for yet is made at once, and is stale from then on; so is "no such
    application".

    Args:
        load: makes a view at an instant; None when there is nothing to show.
        interval: seconds between refreshes; 0 is a server with `useReadOnlyResponseCache=false`.
        now: seconds since the epoch.
    """

    def __init__(self, load: Callable[[CacheKey, float], bytes | None], interval: float, now: float) -> None:
        self._load = load
        self._interval = interval
        self._fresh: dict[CacheKey, tuple[bytes | None, float]] = {}
        self._served: dict[CacheKey, bytes | None] = {}
        self.next_refresh = self._tick_after(now)

    def get(self, key: CacheKey, now: float) -> bytes | None:
        """The view as callers see it."""
        if not self._interval:
            return self._made(key, now)
        if key not in self._served:
            self._served[key] = self._made(key, now)
        return self._served[key]

    def invalidate(self, keys: Iterable[CacheKey]) -> None:
        """Have these views made anew at the next refresh."""
        for key in keys:
            self._fresh.pop(key, None)

    def refresh(self, now: float) -> None:
        """The timer's work; the next one is due at `next_refresh`."""
        for key in self._served:
            self._served[key] = self._made(key, now)
        self.next_refresh = self._tick_after(now)

    def _made(self, key: CacheKey, now: float) -> bytes | None:
        if key not in self._fresh or self._fresh[key][1] < now - AUTO_EXPIRATION:
            self._fresh[key] = (self._load(key, now), now)
        return self._fresh[key][0]

    def _tick_after(self, now: float) -> float:
        if not self._interval:
            return math.inf
        return (math.floor(now / self._interval) + 1) * self._interval
