"""Leaves with an early end in simulated time: callers of several kinds, who forget the service through their caches.

Each leave is played as the service sees it. Callers have called for a while; at 0 OUT_OF_SERVICE is verified; each
caller goes on until its caches have heard, at a random instant of its own. The wait ends early when the judgement says
so. What a caller would still have sent after that is lost. `python -m tests.simulated_callers` prints the table of the
documentation.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from graceful.core.silence import Callers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = 95.0
RISK = 0.01
CACHES = (30.0, 30.0, 35.0)
"""Seconds of the server's response cache, the caller's fetch interval and its load-balancer cache."""


@dataclass(frozen=True)
class Simulated:
    """One kind of caller.

    Attributes:
        gaps: its gaps, without an end.
        seen: seconds for which it has called before OUT_OF_SERVICE.
    """

    gaps: Callable[[random.Random], Iterator[float]]
    seen: float


@dataclass(frozen=True)
class Scenario:
    """A leave that is played many times.

    Attributes:
        name: what calls, for the table.
        callers: makes the callers of one leave.
        leaves: how often it is played.
    """

    name: str
    callers: Callable[[random.Random], list[Simulated]]
    leaves: int


@dataclass
class Result:
    """What came of a scenario: each figure counts leaves, `waits` has their seconds."""

    scenario: Scenario
    early: int = 0
    lost: int = 0
    blind: int = 0

    def __post_init__(self) -> None:
        self.waits: list[float] = []

    @property
    def row(self) -> str:
        """The row of the table."""
        leaves = self.scenario.leaves
        return (
            f"| {self.scenario.name} | {leaves} | {self.early / leaves:.0%} | {median(self.waits):.0f} s "
            f"| {self.lost / leaves:.2%} | {self.blind / leaves:.1%} |"
        )


def poisson(rate: float, seen: float) -> Simulated:
    """Calls by chance, at a steady rate: many users behind one caller."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            yield rng.expovariate(rate)

    return Simulated(gaps, seen)


def periodic(period: float, jitter: float, seen: float) -> Simulated:
    """Calls every so many seconds, each as much late as chance will have it."""

    def gaps(rng: random.Random) -> Iterator[float]:
        late = rng.random() * jitter
        while True:
            before, late = late, rng.random() * jitter
            yield period + late - before

    return Simulated(gaps, seen)


def bursty(calls: int, within: float, pause: float, seen: float) -> Simulated:
    """Some calls at once, then a pause."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            for _ in range(rng.randint(1, 2 * calls)):
                yield rng.expovariate(calls / within)
            yield rng.expovariate(1 / pause)

    return Simulated(gaps, seen)


def with_odd_pauses(period: float, every: float, longest: float, seen: float) -> Simulated:
    """Calls every so many seconds, and after so many more, by chance, a pause like that of a collection."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            yield rng.uniform(longest / 5, longest) if rng.random() < period / every else period

    return Simulated(gaps, seen)


def slower(rate: float, factor: float, calls: int, seen: float) -> Simulated:
    """Calls by chance, and after so many of them more seldom by a factor."""

    def gaps(rng: random.Random) -> Iterator[float]:
        for _ in range(calls):
            yield rng.expovariate(rate)
        while True:
            yield rng.expovariate(rate / factor)

    return Simulated(gaps, seen)


def irregular(middle: float, spread: float, seen: float) -> Simulated:
    """Gaps without a usual length: the logarithm is normally distributed."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            yield middle * math.exp(rng.normalvariate(0, spread))

    return Simulated(gaps, seen)


def mixture(rng: random.Random) -> list[Simulated]:
    """Between one and 200 callers of the kinds that are judged, few more often than many."""

    def one() -> Simulated:
        usual = math.exp(rng.uniform(math.log(0.5), math.log(3)))
        kinds = [
            lambda: poisson(1 / usual, 40 * usual),
            lambda: periodic(usual, usual / 5, 30 * usual),
            lambda: bursty(2, usual / 20, usual, 40 * usual),
        ]
        return rng.choice(kinds)()

    return [one() for _ in range(round(200 ** rng.random() ** 2))]


def and_strangers(rng: random.Random) -> list[Simulated]:
    """A regular caller, and ten that call once an hour."""
    return [poisson(2, 60)] + [poisson(1 / 3600, 3600) for _ in range(10)]


def and_newcomers(rng: random.Random) -> list[Simulated]:
    """A regular caller, and one that has begun within the last half minute."""
    return [poisson(2, 60), poisson(0.5, rng.uniform(0, 30))]


def and_never_seen(rng: random.Random) -> list[Simulated]:
    """A regular caller, and one that calls for the first time during the wait."""
    return [poisson(2, 60), poisson(0.5, -rng.uniform(0, 60))]


STEADY = [
    Scenario("1 caller, by chance, 5 a second", lambda _: [poisson(5, 20)], 1000),
    Scenario("1 caller, by chance, 1 in 2 s", lambda _: [poisson(0.5, 200)], 1000),
    Scenario("10 callers, by chance, 2 a second each", lambda _: [poisson(2, 30)] * 10, 300),
    Scenario("1 caller, every 5 s, jitter 1 s", lambda _: [periodic(5, 1, 200)], 1000),
    Scenario("1 caller, every 15 s to the instant", lambda _: [periodic(15, 0, 600)], 1000),
    Scenario("1 caller, bursts of 10, pauses of 3 s", lambda _: [bursty(10, 0.2, 3, 150)], 500),
    Scenario("1 caller, bursts of 50, pauses of 60 s", lambda _: [bursty(50, 1, 60, 600)], 300),
    Scenario("1 caller, every 0.2 s, an odd pause a minute", lambda _: [with_odd_pauses(0.2, 60, 2.5, 120)], 500),
    Scenario("1 to 200 callers of these kinds", mixture, 300),
]
"""Callers that go on as they did: what the risk promises is for them."""
CHANGING = [
    Scenario("1 caller, 5 a second, a minute ago become 1 a second", lambda _: [slower(5, 5, 200, 100)], 1000),
    Scenario("1 caller, pauses without a usual length", lambda _: [irregular(0.5, 1.5, 200)], 1000),
    Scenario("1 caller, and a newcomer", and_newcomers, 500),
    Scenario("1 caller, and 10 that call once an hour", and_strangers, 500),
    Scenario("1 caller, and one that was never seen", and_never_seen, 500),
]
"""Callers for whom it promises nothing, or less."""


def play(scenario: Scenario, *, risk: float = RISK) -> Result:
    """Play a scenario's leaves; the same every time."""
    result = Result(scenario)
    for number in range(scenario.leaves):
        _leave(result, random.Random(f"{scenario.name} {number}"), risk)
    return result


def _leave(result: Result, rng: random.Random, risk: float) -> None:
    table = Callers()
    late: list[tuple[float, str]] = []
    for number, caller in enumerate(result.scenario.callers(rng)):
        name = f"10.0.0.{number}"
        hears = sum(rng.uniform(0, cache) for cache in CACHES)
        gaps = caller.gaps(rng)
        at = -caller.seen + next(gaps) * rng.random()
        while at < hears:
            if at < 0:
                table.note(name, at)
            else:
                late.append((at, name))
            at += next(gaps)
    late.sort()
    ends, said = _end(table, late, risk)
    result.waits.append(min(ends, WAIT))
    if ends >= WAIT:
        return
    result.early += 1
    result.lost += any(at >= ends and name in said for at, name in late)
    result.blind += any(at >= ends and name not in said for at, name in late)


def _end(table: Callers, late: list[tuple[float, str]], risk: float) -> tuple[float, set[str]]:
    """When the wait ends, and who was judged: as the coordinator does it."""
    now, come = 0.0, 0
    while now < WAIT:
        judgement = table.judge(0.0, WAIT, risk)
        if judgement.at <= now:
            break
        now = min(judgement.at, now + 5)
        while come < len(late) and late[come][0] < now:
            table.note(late[come][1], late[come][0])
            come += 1
    return now, {str(name) for name, each in table._callers.items() if not each.is_rare(0.0, WAIT)}


def table() -> list[Result]:
    """Play them all."""
    return [play(scenario) for scenario in (*STEADY, *CHANGING)]


def as_markdown(results: list[Result]) -> str:
    """The table of the documentation."""
    head = [
        "| who calls | leaves | ended early | median wait | lost a request of a judged caller | of another |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *(result.row for result in results)]) + "\n"


if __name__ == "__main__":
    print(as_markdown(table()), end="")
