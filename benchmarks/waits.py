"""How long a leave waits when the servers' response cache is watched, against the fixed sum of the caches.

The clock is simulated, everything else is not: the budget, the arithmetic and the reading of the looks are graceful's,
and the cache is the embedded Eureka's, which follows the real server's rule: all views at the ticks of one timer, on
the half and the full minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.comparison import Comparison
from graceful.core.budget import Budget, Plan
from graceful.core.caches import CacheChain
from graceful.eureka.published import CachedView
from graceful.eureka.rest import Status
from graceful.rehearsal.eureka_cache import CacheKey, ResponseCache

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Leave", "compare_waits", "simulate"]

_CHAIN: Final = CacheChain(server=30, fetch=30, load_balancer=35, observed=True)
_PLAN: Final = Plan(propagation=_CHAIN.total, caches=_CHAIN)
_APP: Final = CacheKey("app", "ORDERS", "application/json")
_CALLERS: Final = 50
_VERIFIED_AFTER: Final = 0.02
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Leave:
    """One leave, in seconds since OUT_OF_SERVICE was verified.

    Attributes:
        wait: until the wait was over.
        whole: until it would have been over without a look at the server.
        last_heard: until the last caller had heard.
    """

    wait: float
    whole: float
    last_heard: float


def compare_waits(leaves: int, seed: int = 1) -> list[Comparison]:
    """Simulate leaves at random moments, with random phases of all caches.

    Args:
        leaves: how many.
        seed: of the moments and phases: the same seed gives the same figures.
    """
    random = Random(seed)
    runs = [simulate(random) for _ in range(leaves)]
    observed, whole = "wait with the first cache observed (simulated)", "the sum of the caches"
    times = {observed: [each.wait for each in runs], whole: [each.whole for each in runs]}
    return [Comparison.of(observed, whole, times)]


def simulate(random: Random) -> Leave:
    """One leave: a look, the status change, looks until the change is sure to show; and fifty callers."""
    changed_at = random.uniform(0.0, _DAY)
    cache = ResponseCache(lambda _key, now: b"OUT" if now >= changed_at else b"UP", _CHAIN.server, changed_at - 60)
    view = CachedView(_CHAIN.server)
    _shown(cache, _APP, changed_at - _VERIFIED_AFTER)
    cache.invalidate([_APP])
    since = changed_at + _VERIFIED_AFTER
    view.withdrawn(since)
    budget = Budget(_PLAN, since + _DAY)
    whole = budget.wait_until(since, since=since)
    published = _published(view, lambda now: _shown(cache, _APP, now), since, random)
    ends = whole if published is None else budget.wait_once_published(published, since=since)
    tick = (changed_at // _CHAIN.server + 1) * _CHAIN.server
    heard = max(_heard(tick, random) for _ in range(_CALLERS))
    return Leave(ends - since, whole - since, heard - since)


def _published(view: CachedView, shown: Callable[[float], Status], now: float, random: Random) -> float | None:
    until = now + _CHAIN.total
    while view.published_at is None and view.watched and now < until:
        now += view.pause * random.uniform(0.75, 1.0)
        answered = now + random.uniform(0.002, 0.02)
        view.looked(shown(now), sent=now, answered=answered)
        now = answered
    return view.published_at


def _shown(cache: ResponseCache, key: CacheKey, now: float) -> Status:
    while cache.next_refresh <= now:
        cache.refresh(cache.next_refresh)
    return Status.UP if cache.get(key, now) == b"UP" else Status.OUT_OF_SERVICE


def _heard(tick: float, random: Random) -> float:
    """When a caller has heard: its first fetch from the tick on, and its load balancer's first look after that."""
    return tick + random.uniform(0.0, _CHAIN.fetch) + random.uniform(0.0, _CHAIN.load_balancer)
