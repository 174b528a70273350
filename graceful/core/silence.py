"""Silence as evidence: when the callers that were seen before have been silent for so long that they have left.

What is known of a caller are its longest gaps between two requests in the last hour or so; of its mean rate nothing
is made: fifty requests in a second and then a minute of silence is one request a second too. From the longest gaps
follows the silence that a caller which still routed to us would hardly ever keep, see `needed_silence`. The wait may
end when every caller has kept its own.

The risk belongs to the whole leave. It is shared out evenly: with n callers, each has a n-th of it. The sum bounds the
probability that any of them was misjudged, however much they depend on one another (Bonferroni's inequality).

What this takes for granted: a caller goes on as it did in the last hour, and the lengths of its longest gaps fall off
at least as fast as those of an exponential distribution do. Calls at any steady rate are so, periodic ones too, and
bursts with pauses of a usual length; pauses without a usual length are not.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Any, Final

from graceful.core.names import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Callers", "EarlyEnd", "EarlyEndRule", "Judgement", "needed_silence"]

_KEPT: Final = 32
"""Gaps that are kept of a caller, the longest. With so many, a risk a hundred times smaller, or shared by a hundred
times as many callers, makes the factor only 100 ** (1/31) = 1.16 times larger."""

_FEWEST: Final = 8
"""Comparable gaps below which a caller is not judged: the next gap is longer than n before it once in n + 1 times, if
they can be exchanged, and less than that can hardly be extrapolated."""

_COMPARABLE: Final = 4.0
"""A gap of at least this part of the longest is a pause like it. A shorter one may be a gap within a burst, or of a
time when the caller called more often; it says nothing of the pauses of now."""

_MISSED_TICK: Final = 2.0
"""How many times its longest gap a caller must be silent: a period with one call missing, or the same calls shared with
one instance more."""

_LEAST_SILENCE: Final = 3.0
"""Seconds of silence that mean nothing, whoever calls: a connection whose first two SYN packets are lost is made after
3 s (RFC 6298, chapter 2: 1 s, then doubled), and a garbage collection takes as long."""

_ODD: Final = 0.05
"""The part of its time that a caller may spend in odd pauses, which are not longer than the least silence and too few
to be judged: one collection must not keep the wait of a whole hour. Bursts pause for most of the time."""

_INSTANT: Final = 0.001
"""Seconds: gaps below are not told apart."""


def needed_silence(gaps: Sequence[float], wait: float, risk: float, *, known: float = 0.0) -> float:
    """Seconds of silence that a caller which still calls as before keeps with probability `risk` at the most.

    At any moment of the whole wait, not at one that was chosen before: every gap of the wait is another chance to be
    wrong.

    Of k comparable gaps, of which the shortest is u, the sum of what is longer than u is E. For an exponential tail, a
    further gap that is longer than u is longer than u + s with probability `(1 + s/E) ** -(k - 1)`, whatever the rate
    is: E is Gamma-distributed with k - 1 degrees of freedom (Rényi's representation of order statistics, 1953), and the
    exponential with a rate that is only known so is a Pareto distribution (Aitchison and Dunsmore, Statistical
    Prediction Analysis, 1975). No more than `(wait + longest) / u` such gaps fit into the wait. The silence
    is the one at which that many times this probability is the risk. Shorter tails make it longer than needed.

    Args:
        gaps: the longest gaps, in seconds and in any order.
        wait: seconds for which the caller may go on.
        risk: a probability.
        known: seconds for which the caller has been known; the more, the more odd pauses it may have had.

    Returns:
        Infinite if the gaps are too few to be judged.
    """
    pauses = _pauses(gaps, known)
    if not pauses:
        return math.inf
    longest, shortest = max(gaps), pauses[0]
    chances = (wait + longest) / max(shortest, _INSTANT)
    excess = sum(gap - shortest for gap in pauses)
    tail = shortest + excess * (math.pow(chances / risk, 1 / (len(pauses) - 1)) - 1)
    return max(_LEAST_SILENCE, _MISSED_TICK * longest, tail)


def _pauses(gaps: Sequence[float], known: float) -> list[float]:
    """The longest gaps that are comparable and enough to be judged, in ascending order; none if there are no such."""
    rest = sorted(gaps)
    odd = 0.0
    while rest:
        alike = rest[bisect_left(rest, rest[-1] / _COMPARABLE) :]
        if len(alike) >= _FEWEST:
            return alike
        odd += sum(alike)
        if rest[-1] > _LEAST_SILENCE or odd > _ODD * known:
            break
        del rest[-len(alike) :]
    return []


@dataclass(frozen=True, slots=True)
class EarlyEndRule:
    """When the propagation wait may end early.

    Attributes:
        risk: the probability, over all callers of a leave together, that one was misjudged.
        least: seconds that are waited in any case, from the instant that silence counts from.
    """

    risk: float
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the silence of the callers says.

    Attributes:
        at: the instant at which every silence is significant if nobody calls any more; infinite if that cannot be said.
        judged: how many callers were judged.
        rare: how many were left out because they call too seldom.
        last: the caller whose silence has to last longest, for people.
    """

    at: float
    judged: int = 0
    rare: int = 0
    last: str = ""

    def __str__(self) -> str:
        """`12 callers are waited for, 10.0.3.7 longest; 3 too rare to judge`."""
        if not self.judged:
            who = "nobody has called whom silence could tell of"
        elif not self.last:
            who = f"more callers than the {self.judged} that are kept"
        elif math.isinf(self.at):
            who = f"{_callers(self.judged)} waited for, of whom {self.last} called too few times or too irregularly"
        else:
            who = f"{_callers(self.judged)} waited for, {self.last} longest"
        return f"{who}; {self.rare} too rare to judge" if self.rare else who


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """That the wait was ended early, and on what evidence.

    Attributes:
        after: seconds from the first verification of OUT_OF_SERVICE to the end; from the trigger without a registry.
        silent: how many callers had been silent for long enough.
        rare: how many call too rarely to be judged; they had no say.
        last: the caller whose silence took longest.
        risk: the probability that one of them still routed to us.
    """

    after: float
    silent: int
    rare: int
    last: str
    risk: float

    def __str__(self) -> str:
        """`early end after 21.4 s: 12 callers silent, the last of them 10.0.3.7; 3 too rare to judge`."""
        silent = f"{_callers(self.silent)} silent"
        last = f"{', the last of them' if self.silent > 1 else ':'} {self.last}"
        rare = f"; {self.rare} too rare to judge" if self.rare else ""
        return f"early end after {self.after:.1f} s: {silent}{last}{rare}"

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "after": round(self.after, 3),
            "silent": self.silent,
            "rare": self.rare,
            "last": self.last,
            "risk": self.risk,
        }


class _Caller:
    """One caller: its longest gaps in this period and in the one before. Not thread-safe."""

    __slots__ = ("before", "begun", "floor", "gaps", "known", "last")

    def __init__(self, now: float) -> None:
        self.last = now
        self.known = self.begun = now
        self.before: list[float] = []
        self.gaps: list[float] = []
        self.floor = 0.0

    def add(self, gap: float, now: float, period: float) -> None:
        """Keep a gap that is longer than those kept, or that came after the end of this period."""
        if now - self.begun > period:
            # A gap over more than a period leaves nothing that would still be the caller's present.
            recent = now - gap - self.begun <= period
            self.before, self.known = (self.gaps, self.begun) if recent else ([], now - gap)
            self.gaps, self.begun, self.floor = [], now, 0.0
        if len(self.gaps) < _KEPT:
            heappush(self.gaps, gap)
        else:
            heappushpop(self.gaps, gap)
            self.floor = self.gaps[0]

    def told(self) -> tuple[float, float, list[float]]:
        """Its last instant, the seconds for which it is known, and the gaps that are kept."""
        return self.last, self.last - self.known, self.before + self.gaps

    def is_rare(self, since: float, wait: float) -> bool:
        """Whether nothing was heard of it for a whole wait, and in most of its time nothing would be.

        The share of windows of that length without a call is the sum of what every gap is longer, over the whole time
        (the residual life of a renewal process).
        """
        if since - self.last <= wait:
            return False
        quiet = sum(max(0.0, gap - wait) for gap in (*self.before, *self.gaps, since - self.last))
        return quiet > (since - self.known) / 2


class Callers:
    """Notes who calls and judges their silence, in bounded memory. Thread-safe.

    Args:
        most: callers that are kept. When more come, the quarter that called longest ago is forgotten.
        period: seconds of the past that count, at the least; twice as much at the most.
    """

    def __init__(self, *, most: int = 1024, period: float = 1800.0) -> None:
        self._most = most
        self._period = period
        self._lock = threading.Lock()
        self._callers: dict[str | bytes, _Caller] = {}
        self._forgot_one_of = -math.inf

    def __len__(self) -> int:
        """How many callers are kept."""
        return len(self._callers)

    def note(self, name: str | bytes, now: float) -> None:
        """A caller has called. On the way of every request, where the early end is on.

        Args:
            name: of bounded length.
            now: the instant; threads may bring theirs out of order.
        """
        with self._lock:
            caller = self._callers.get(name)
            if caller is None:
                self._add(name, now)
                return
            gap = now - caller.last
            if gap >= 0:
                caller.last = now
                if gap > caller.floor or now - caller.begun > self._period:
                    caller.add(gap, now, self._period)

    def _add(self, name: str | bytes, now: float) -> None:
        if len(self._callers) >= self._most:
            oldest = sorted(self._callers, key=lambda each: self._callers[each].last)[: max(1, self._most // 4)]
            for each in oldest:
                self._forgot_one_of = max(self._forgot_one_of, self._callers.pop(each).last)
        self._callers[name] = _Caller(now)

    def judge(self, since: float, wait: float, risk: float) -> Judgement:
        """When the silence of every caller is significant, if nobody calls any more.

        Silence counts from a caller's last request, or from `since` if that is later. Nobody is judged by what is
        older than two periods. A caller that cannot be judged although it calls often enough to be missed (a newcomer,
        a single burst) makes the instant infinite; so does the forgetting of one that had called within a wait before
        `since`, and so does it if there is nobody to judge.

        Args:
            since: the instant at which the callers began to be told.
            wait: seconds for which a caller may go on calling after that.
            risk: a probability, for all callers together.
        """
        with self._lock:
            known = [(name, each) for name, each in self._callers.items() if since - each.last <= 2 * self._period]
            # Only copied here: a request may wait for this lock.
            judged = [(name, *each.told()) for name, each in known if not each.is_rare(since, wait)]
        rare = len(known) - len(judged)
        if not judged or self._forgot_one_of >= since - wait:
            return Judgement(math.inf, len(judged), rare)
        share = risk / len(judged)
        ends = [
            (max(since, last) + needed_silence(sorted(gaps)[-_KEPT:], wait, share, known=span), name)
            for name, last, span, gaps in judged
        ]
        at, name = max(ends, key=lambda each: each[0])
        return Judgement(at, len(judged), rare, _for_people(name))


def _callers(number: int) -> str:
    return f"{number} caller{'' if number == 1 else 's'}"


def _for_people(name: str | bytes) -> str:
    return printable(name if isinstance(name, str) else name.decode("latin-1")) or "unknown address"
