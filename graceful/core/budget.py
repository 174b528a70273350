"""The budget: one deadline from the first trigger, from which every phase borrows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graceful.core.caches import seconds_of

if TYPE_CHECKING:
    from graceful.core.caches import CacheChain

__all__ = ["KUBERNETES_DEFAULT_GRACE", "Budget", "BudgetError", "Plan", "share_of"]

KUBERNETES_DEFAULT_GRACE: Final = 30.0
"""Seconds that a pod gets where `terminationGracePeriodSeconds` is not set (Kubernetes API, PodSpec)."""

_LONGEST: Final = 86_400.0
_PARTS: Final = ("announce", "propagation", "drain", "cleanup", "deregister", "margin")
_SIGTERM_DELAY: Final = 2.0
"""Seconds within which the kubelet sends SIGTERM after its hook has ended, on a busy node too."""


class BudgetError(ValueError):
    """A plan that contradicts itself or the grace period; the message has both facts and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long each part of a leave may take, in seconds.

    Attributes:
        announce: upper bound for taking the instance out of service and reading it back.
        propagation: how long callers' caches may still send requests; waited whole while serving.
        drain: upper bound for finishing what is in flight.
        cleanup: upper bound for all cleanup callbacks together.
        deregister: upper bound for deleting the instance and confirming that it is absent.
        margin: left for the server's own stop and for the platform.
        caches: what `propagation` is made of; None where it was set as a whole, or where there are no such caches.

    Raises:
        BudgetError: if a part is negative, not finite, or longer than a day.
    """

    announce: float = 5.0
    propagation: float = 0.0
    drain: float = 20.0
    cleanup: float = 5.0
    deregister: float = 3.0
    margin: float = 2.0
    caches: CacheChain | None = None

    def __post_init__(self) -> None:
        for part in _PARTS:
            value = getattr(self, part)
            if not (math.isfinite(value) and 0 <= value <= _LONGEST):
                raise BudgetError(
                    f"{part} is {value}s; expected between 0 and {_LONGEST:.0f} seconds (a day): set it so"
                )

    @property
    def total(self) -> float:
        """Seconds that the whole leave may take: the grace period that fits this plan."""
        return self.announce + self.propagation + self.after_wait

    @property
    def grace_period(self) -> int:
        """The whole plan, rounded up to the full seconds that `terminationGracePeriodSeconds` counts in; at least 1."""
        # Rounded first: 0.1 + 0.2 must not become a second of its own.
        return max(1, math.ceil(round(self.total, 6)))

    @property
    def after_wait(self) -> float:
        """Seconds kept for what comes after the lame duck."""
        return self.drain + self.after_drain

    @property
    def after_drain(self) -> float:
        """Seconds kept for what comes after the drain."""
        return self.cleanup + self.deregister + self.margin

    def wait_within(self, grace_period: float) -> float:
        """Seconds of the propagation delay that are waited when the grace period is this long (best case)."""
        return share_of(grace_period, self.propagation, self.after_wait)

    def check(self, grace_period: float) -> None:
        """Refuse a grace period that is shorter than the plan.

        Raises:
            BudgetError: with the plan, the grace period and what to set.
        """
        if not (math.isfinite(grace_period) and 0 < grace_period <= _LONGEST):
            raise BudgetError(
                f"grace_period is {grace_period}s; expected more than 0 and at most {_LONGEST:.0f} seconds: "
                "set it to the pod's terminationGracePeriodSeconds"
            )
        if round(self.total - grace_period, 6) <= 0:
            return
        others = self.total - self.propagation
        instead = (
            f"or bring propagation_delay down to {seconds_of(grace_period - others)} "
            "(only if every caller's caches are that fast)"
            if self.propagation and grace_period >= others
            else "or shorten the timeouts"
        )
        raise BudgetError(
            f"{self} does not fit grace_period {seconds_of(grace_period)}; "
            f"set terminationGracePeriodSeconds (and grace_period) to at least {self.grace_period}, {instead}"
        )

    def __str__(self) -> str:
        """`announce 5s + propagation 95s + … = 130s`."""
        parts = " + ".join(f"{part} {seconds_of(getattr(self, part))}" for part in _PARTS)
        return f"{parts} = {seconds_of(self.total)}"


class Budget:
    """The time that one leave has: it runs from the first trigger and can only get shorter.

    Args:
        plan: how the parts share it.
        deadline: the instant at which the platform ends the process.
    """

    def __init__(self, plan: Plan, deadline: float) -> None:
        self.plan = plan
        self._deadline = deadline

    @property
    def deadline(self) -> float:
        """The instant at which the platform ends the process."""
        return self._deadline

    @property
    def last_call(self) -> float:
        """The instant at which the process must end itself, a little before the platform does."""
        return self._deadline - min(0.25, self.plan.margin / 2)

    def shorten(self, deadline: float) -> None:
        """Bring the deadline forward; a later one changes nothing."""
        self._deadline = min(self._deadline, deadline)

    def remaining(self, now: float) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._deadline - now)

    def announce_until(self, now: float) -> float:
        """When the withdrawal must have been verified."""
        later = self.plan.propagation + self.plan.after_wait
        return now + share_of(self.remaining(now), self.plan.announce, later)

    def wait_until(self, now: float, *, since: float) -> float:
        """When the propagation wait that began at `since` is over, or the budget ends it."""
        return min(since + self.plan.propagation, self.latest_wait(now))

    def wait_once_published(self, published: float, *, since: float) -> float:
        """When the propagation wait is over, if it is known when the servers showed the change; never later than else.

        Args:
            published: the instant at which every server was seen to show the change to callers.
            since: the instant from which the wait counts.
        """
        planned = since + self.plan.propagation
        caches = self.plan.caches
        if caches is None:
            return planned
        return min(planned, max(published + caches.after_server, since + caches.kubernetes))

    def latest_wait(self, now: float) -> float:
        """When the lame duck must end, whatever it waits for, so that the rest still has its time."""
        remaining = self.remaining(now)
        return now + share_of(remaining, remaining, self.plan.after_wait, ratio=self.plan.propagation)

    def sigterm_until(self, now: float) -> float:
        """When the lame duck must end that waits for nothing but SIGTERM, after a hook was answered.

        The kubelet sends it moments later; a little of the drain's time is lent for that, so that a plan without any
        slack does not begin to refuse requests in between.
        """
        remaining = self.remaining(now)
        patience = max(_SIGTERM_DELAY, remaining - self.plan.after_wait)
        return now + share_of(remaining, patience, self.plan.after_drain)

    def drain_until(self, now: float) -> float:
        """When the drain must end."""
        return now + share_of(self.remaining(now), self.plan.drain, self.plan.after_drain)

    def cleanup_until(self, now: float) -> float:
        """When all cleanup callbacks must have ended."""
        return now + share_of(self.remaining(now), self.plan.cleanup, self.plan.deregister + self.plan.margin)

    def deregister_until(self, now: float) -> float:
        """When the instance must have been deregistered."""
        return now + share_of(self.remaining(now), self.plan.deregister, self.plan.margin)


def share_of(remaining: float, share: float, later: float, *, ratio: float | None = None) -> float:
    """Seconds that a part of a plan gets of what remains.

    Its whole share, where what comes later still has all of its own; where time is too short for that, the part gets
    what its proportion of the plan comes to, so that a cut grace period shortens every part and starves none.

    Args:
        remaining: seconds that remain.
        share: seconds that the part asks for.
        later: seconds that the parts after it ask for.
        ratio: the part's weight against `later` when time is short, if that is not `share`.

    Returns:
        Between 0 and `remaining`.
    """
    weight = share if ratio is None else ratio
    proportional = remaining * weight / (weight + later) if weight + later > 0 else remaining
    return max(0.0, min(share, max(remaining - later, proportional), remaining))
