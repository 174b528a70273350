"""The late-caller ledger: who still called after the leave had begun, and what that says about the wait."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from graceful.core.names import printable

if TYPE_CHECKING:
    from graceful.core.budget import Plan

__all__ = [
    "LateCaller",
    "LateLedger",
    "LateRequest",
    "LateRequests",
    "advise",
    "advise_observed",
    "name_caller",
    "name_route",
]

_LONGEST_PRODUCT: Final = 40
_NAMED: Final = 10

_ENOUGH: Final = 0.8
"""The share of the wait after which a late request says that the wait is hardly long enough: OpenShift's API server
marks late requests from the same share of its shutdown delay on."""

_SHORTENED: Final = 1.0
"""Seconds by which a wait may fall short of its plan before the grace period is blamed: a hook needs a moment to
start, and a plan that fits to the second gives that up."""

_PRODUCT: Final = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?:/[\w!#$%&'*+.^`|~-]+)?")
"""The first product of a User-Agent: a token and perhaps a version, without the comments (RFC 9110 10.1.5)."""


def name_caller(address: object, user_agent: bytes = b"") -> str:
    """A caller as people know it: `10.0.3.7 (Java/17)`.

    Args:
        address: the peer's address without its port, or None where the server does not know it.
        user_agent: the header of that name; of it only the first product is kept.

    Returns:
        One printable line of bounded length.
    """
    peer = "unknown address" if address is None else printable(str(address))
    product = _PRODUCT.match(user_agent[:_LONGEST_PRODUCT])
    return f"{peer} ({product[0].decode('ascii')})" if product else peer


def name_route(method: str, path: str) -> str:
    """A route as people know it: `GET /orders`, one printable line of bounded length, without a query string."""
    # A caller that escapes the question mark has its query in the path.
    return printable(f"{method} {path.partition('?')[0]}")


@dataclass(frozen=True, slots=True)
class LateRequest:
    """One late request.

    Attributes:
        caller: the peer's address and the first product of its User-Agent.
        route: method and path, without the query string.
        age: seconds after the instant that ages count from; negative if it came before.
        served: whether it was served; False if it was refused, from the drain on.
    """

    caller: str
    route: str
    age: float
    served: bool


@dataclass(frozen=True, slots=True)
class LateCaller:
    """One caller and its late requests.

    Attributes:
        name: the peer's address and the first product of its User-Agent.
        served: how many of its requests were served.
        refused: how many were refused, from the drain on.
        last_age: the age of its last one, in seconds.
        routes: how many requests each of its latest routes got, the latest first.
        other_routes: how many requests went to routes before those.
    """

    name: str
    served: int
    refused: int
    last_age: float
    routes: tuple[tuple[str, int], ...]
    other_routes: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "caller": self.name,
            "served": self.served,
            "refused": self.refused,
            "last_age": round(self.last_age, 3),
            "routes": dict(self.routes),
            "other_routes": self.other_routes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRequests:
    """All requests that came after the leave had begun, and what they say about the wait.

    Attributes:
        served: how many were served, in the lame duck.
        refused: how many were refused, from the drain on.
        last: the last of them, or None.
        callers: the callers that called last, at most 64, the latest first.
        others: how many requests came from callers before those.
        since: what ages count from: `OUT_OF_SERVICE`, its first verification; or `the leave began` where there is no
            registry, or none that verified.
        wait: seconds from that instant to the end of the propagation wait; None if it did not come to its end.
        advice: what to set because the wait was too short or only just enough; None if nothing says so.
    """

    served: int = 0
    refused: int = 0
    last: LateRequest | None = None
    callers: tuple[LateCaller, ...] = ()
    others: int = 0
    since: str = "the leave began"
    wait: float | None = None
    advice: str | None = None

    @property
    def total(self) -> int:
        """How many came, served and refused."""
        return self.served + self.refused

    def judging(self, wait: float, plan: Plan, *, published: float | None = None) -> LateRequests:
        """The same with what it says about the wait.

        Args:
            wait: seconds for which the service waited, from the instant that ages count from.
            plan: what it had planned.
            published: when every server showed the change, counted from the same instant, if the wait was shortened
                because of that.
        """
        if self.last is None:
            return replace(self, wait=wait)
        judge = advise if published is None else partial(advise_observed, published=published)
        return replace(self, wait=wait, advice=judge(self.last.age, wait, plan, refused=self.refused > 0))

    def judging_early_end(self, wait: float) -> LateRequests:
        """The same with what it says about a wait that was ended early: a longer one was planned already.

        Args:
            wait: seconds for which the service waited, from the instant that ages count from.
        """
        too_early = self.refused > 0 or (self.last is not None and self.last.age > wait)
        advice = (
            f"the wait was ended early, after {_seconds(wait)}, which was too early: lower early_end_risk, or leave "
            "early_end out"
        )
        return replace(self, wait=wait, advice=advice if too_early else None)

    def __str__(self) -> str:
        """`last late request 41 s after OUT_OF_SERVICE, from 10.0.3.7 (Java/17): GET /orders; 123 late requests …`."""
        if self.last is None:
            return "no late requests"
        age = f"{_seconds(abs(self.last.age))} {'before' if self.last.age < 0 else 'after'} {self.since}"
        last = f"last late request {age}, from {self.last.caller}: {self.last.route}"
        callers = f"more than {len(self.callers)} callers" if self.others else _count(len(self.callers), "caller")
        total = f"{_count(self.total, 'late request')} from {callers}"
        if self.refused:
            last += "" if self.last.served else " (refused)"
            total += f", {self.refused} refused"
        return "; ".join(part for part in (last, total, self.advice) if part)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values; the last ten callers."""
        last = self.last
        return {
            "summary": str(self),
            "served": self.served,
            "refused": self.refused,
            "since": self.since,
            "last": last
            and {"caller": last.caller, "route": last.route, "age": round(last.age, 3), "served": last.served},
            "callers": [caller.as_dict() for caller in self.callers[:_NAMED]],
            "others": self.others + sum(caller.served + caller.refused for caller in self.callers[_NAMED:]),
            "wait": self.wait if self.wait is None else round(self.wait, 3),
            "advice": self.advice,
        }


@dataclass(slots=True)
class _Entry:
    served: int = 0
    refused: int = 0
    last_at: float = -math.inf
    routes: dict[str, int] = field(default_factory=dict)
    other_routes: int = 0

    def add(self, route: str, now: float, *, served: bool, most: int) -> None:
        self.served += served
        self.refused += not served
        self.last_at = max(self.last_at, now)
        # Taken out and put in again: a dictionary keeps its order, so the first is the one not called for longest.
        self.routes[route] = self.routes.pop(route, 0) + 1
        if len(self.routes) > most:
            self.other_routes += self.routes.pop(next(iter(self.routes)))

    def told(self, name: str, since: float) -> LateCaller:
        routes = tuple(reversed(self.routes.items()))
        return LateCaller(name, self.served, self.refused, self.last_at - since, routes, self.other_routes)


class LateLedger:
    """Enters late requests by caller and route, in bounded memory. Thread-safe.

    The callers that called last are kept, and of each the routes that it called last: they are the ones who had not
    heard. Those before them are only counted. The totals and the last request are exact whatever comes.

    Args:
        callers: how many callers are kept.
        routes: how many routes are kept of each.
    """

    def __init__(self, *, callers: int = 64, routes: int = 8) -> None:
        self._most_callers = callers
        self._most_routes = routes
        self._lock = threading.Lock()
        self._served = 0
        self._refused = 0
        self._others = 0
        self._callers: dict[str, _Entry] = {}
        self._last: tuple[float, str, str, bool] | None = None

    def enter(self, caller: str, route: str, now: float, *, served: bool) -> None:
        """Enter a request.

        Args:
            caller: from `name_caller`: bounded and printable.
            route: from `name_route`: the same.
            now: the instant it came at; threads may bring theirs out of order.
            served: False if it was refused.
        """
        with self._lock:
            self._served += served
            self._refused += not served
            if self._last is None or now >= self._last[0]:
                self._last = (now, caller, route, served)
            entry = self._callers.pop(caller, None) or _Entry()
            self._callers[caller] = entry
            entry.add(route, now, served=served, most=self._most_routes)
            if len(self._callers) > self._most_callers:
                oldest = self._callers.pop(next(iter(self._callers)))
                self._others += oldest.served + oldest.refused

    def told(self, since: float, what: str) -> LateRequests:
        """What was entered so far.

        Args:
            since: the instant that ages count from.
            what: what happened then, for people.
        """
        with self._lock:
            return LateRequests(
                served=self._served,
                refused=self._refused,
                last=self._last and LateRequest(self._last[1], self._last[2], self._last[0] - since, self._last[3]),
                callers=tuple(entry.told(name, since) for name, entry in reversed(self._callers.items())),
                others=self._others,
                since=what,
            )


def advise(last_age: float, wait: float, plan: Plan, *, refused: bool) -> str | None:
    """What to set, if the last late request says that the wait was too short or only just enough.

    It was too short if a request came after it, and only just enough if one came in its last fifth. What is advised
    would have had the last late request in the first four fifths. It is a lower bound: nobody sees the requests that
    come when the process is gone.

    Args:
        last_age: of the last late request, in seconds.
        wait: seconds for which the service waited, counted from the same instant.
        plan: what it had planned.
        refused: whether a request was refused.

    Returns:
        A sentence, or None if the wait was not seen to be too short.
    """
    too_short = refused or last_age > wait
    if not too_short and last_age <= _ENOUGH * wait:
        return None
    shortened = wait < plan.propagation - _SHORTENED
    waited = wait if shortened else max(wait, plan.propagation)
    needed = max(math.ceil(last_age / _ENOUGH), math.floor(waited) + 1)
    delay = max(needed, plan.propagation)
    # Not through a new plan: a day is the longest that one takes, and a report must come out whatever happened.
    grace = f"the grace period to at least {math.ceil(round(plan.total - plan.propagation + delay, 6))} s"
    longer = f"propagation_delay to at least {needed} s and {grace}" if needed > plan.propagation else grace
    held = f"{_seconds(wait)} of the {_seconds(plan.propagation)} planned" if shortened else _seconds(wait)
    return f"your wait is {held}, {'too short' if too_short else 'only just enough'}: raise {longer}"


def advise_observed(last_age: float, wait: float, plan: Plan, *, published: float, refused: bool) -> str | None:
    """The same for a wait that was shortened because every server was seen to show the change.

    What was waited after that is no part of a longer plan: it is the sum of the callers' own caches, and a request up
    to its very end is what they are set to do. Only one after it says that they are slower.

    Args:
        last_age: of the last late request, in seconds.
        wait: seconds for which the service waited, counted from the same instant.
        plan: what it had planned.
        published: when every server showed the change, counted from the same instant.
        refused: whether a request was refused.

    Returns:
        A sentence, or None if the wait was not seen to be too short.
    """
    if plan.caches is None or not (refused or last_age > wait):
        return None
    waited = wait - published
    needed = max(math.ceil((last_age - published) / _ENOUGH), math.floor(waited) + 1)
    delay = max(plan.propagation, plan.caches.server + needed)
    grace = math.ceil(round(plan.total - plan.propagation + delay, 6))
    return (
        f"your wait was {_seconds(waited)} after every server showed the change, too short: raise "
        f"eureka_client_fetch_delay and eureka_load_balancer_delay to at least {needed} s together and the grace "
        f"period to at least {grace} s"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _seconds(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") + " s"
