"""How the nodes of an embedded Eureka cluster pass changes on: late, in order, and as badly as a test asks for."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from threading import Condition, Thread
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from graceful.rehearsal.eureka_link_rules import LinkRules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.rehearsal.eureka_changes import Change, ChangeKind
    from graceful.rehearsal.eureka_messages import Answer, Request

__all__ = ["Peer", "ReplicatedChange", "Replication"]

# How often a node that cannot be reached is tried again; Eureka does it every 0.1 s as well.
RETRY_INTERVAL = 0.1
STOP_TIMEOUT = 10.0

Outcome = Literal["arrived", "dropped", "held", "expired"]


class Peer(Protocol):
    """What replication needs of a node."""

    def replicate(self, request: Request) -> Answer | None:
        """Take a change; None when the node does not run."""
        ...

    def adopt(self, body: bytes) -> None:
        """Take over an instance of which a peer knows more."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicatedChange:
    """What became of one change on its way from one node to another.

    Attributes:
        kind: what the client did.
        app: the application, in capitals.
        instance_id: the instance.
        source: the number of the node that the client spoke to.
        target: the number of the node that it was to be passed on to.
        outcome: `arrived`, `dropped` as asked, `held` as asked, or `expired`: it could not be delivered in time.
        status: what the target answered; None unless it arrived.
    """

    kind: ChangeKind
    app: str
    instance_id: str
    source: int
    target: int
    outcome: Outcome
    status: int | None = None


class _Transit(NamedTuple):
    due: float
    number: int
    change: Change
    source: int
    target: int
    expires: float

    @property
    def link(self) -> tuple[int, int]:
        return self.source, self.target

    @property
    def key(self) -> tuple[ChangeKind, str, str]:
        """Of changes with the same key that wait for a node, only the newest is sent."""
        return self.change.kind, self.change.app, self.change.instance_id


class Replication:
    """The links between the nodes, in both directions, and their faults. Thread-safe.

    A change takes `delay` to its peers. Where a peer does not run, or is cut off, it is tried again for
    `retry_timeout`, a newer change of the same kind and instance in place of the older, and then given up for good.

    In every method below, no `kinds` means all of them, and no `source` or `target` means every node. Rules concern
    the changes that clients make from then on; the newest that fits a change counts.

    Args:
        peers: the nodes; their numbers are their places.
        delay: seconds from a change to its arrival at the peers.
        retry_timeout: seconds for which a change is worth delivering (Eureka: 30).

    Raises:
        ValueError: `delay` or `retry_timeout` is negative.
    """

    def __init__(self, peers: Sequence[Peer], *, delay: float, retry_timeout: float) -> None:
        if delay < 0 or retry_timeout < 0:
            raise ValueError(f"replication delay {delay:g} s, retry timeout {retry_timeout:g} s: give 0 or more")
        self._peers = peers
        self._delay = delay
        self._retry_timeout = retry_timeout
        self._rules = LinkRules(len(peers))
        self._changed = Condition()
        self._numbers = count()
        self._on_their_way: list[_Transit] = []
        self._held: list[_Transit] = []
        self._waiting: dict[tuple[int, int], dict[tuple[ChangeKind, str, str], _Transit]] = {}
        self._log: list[ReplicatedChange] = []
        self._delivering = False
        self._thread: Thread | None = None

    # --- faults -----------------------------------------------------------------------------------------------------

    def drop(self, *kinds: str, source: int | None = None, target: int | None = None) -> None:
        """Lose such changes without a trace.

        Raises:
            ValueError: a kind or a node is unknown; so in the other methods.
        """
        with self._changed:
            self._rules.add("drop", kinds, source, target)

    def hold(self, *kinds: str, source: int | None = None, target: int | None = None) -> None:
        """Keep such changes back as they are, until `heal`: they arrive late, after newer ones."""
        with self._changed:
            self._rules.add("hold", kinds, source, target)

    def slow_down(self, delay: float, *kinds: str, source: int | None = None, target: int | None = None) -> None:
        """Have such changes take `delay` seconds."""
        with self._changed:
            self._rules.add("delay", kinds, source, target, delay)

    def cut(self, first: int, second: int) -> None:
        """Have these two nodes not reach each other; what they have to say is tried again for `retry_timeout`."""
        with self._changed:
            self._rules.cut(first, second)

    def heal(self) -> None:
        """End every fault, and deliver what was held or waits, in the order in which it was made."""
        with self._changed:
            self._rules.clear()
            held, self._held = self._held, []
            for transit in held:
                heapq.heappush(self._on_their_way, transit._replace(due=0.0))
            self._changed.notify_all()

    # --- what happened ----------------------------------------------------------------------------------------------

    def log(self, kind: str | None = None, outcome: Outcome | None = None) -> list[ReplicatedChange]:
        """What became of the changes of this kind, and with this outcome, in order."""
        with self._changed:
            return self._matching(kind, outcome)

    def wait_for(
        self, kind: str | None = None, outcome: Outcome | None = None, *, count: int = 1, timeout: float = 10.0
    ) -> list[ReplicatedChange]:
        """Wait until there are `count` such entries in the log since the last `forget`, and return them.

        Raises:
            TimeoutError: there were fewer within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._matching(kind, outcome)) >= count, timeout):
                came = len(self._matching(kind, outcome))
                raise TimeoutError(f"{came} of {count} changes {kind or '*'} {outcome or '*'} came in {timeout:g} s")
            return self._matching(kind, outcome)

    def wait_until_quiet(self, timeout: float = 10.0) -> None:
        """Wait until nothing is held, waits or is on its way.

        Raises:
            TimeoutError: something was `timeout` seconds later.
        """
        with self._changed:
            if not self._changed.wait_for(self._quiet, timeout):
                raise TimeoutError(f"changes were still on their way after {timeout:g} s: were they held or cut off?")

    def _quiet(self) -> bool:
        return not (self._held or self._on_their_way or self._waiting or self._delivering)

    def forget(self) -> None:
        """Empty the log."""
        with self._changed:
            self._log.clear()

    def _matching(self, kind: str | None, outcome: Outcome | None) -> list[ReplicatedChange]:
        return [each for each in self._log if kind in (None, each.kind) and outcome in (None, each.outcome)]

    # --- the work ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to deliver, with nothing left of a former life."""
        self._on_their_way, self._held, self._waiting = [], [], {}
        self._thread = Thread(target=self._run, name="embedded-eureka-replication", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; what is on its way is lost. Does nothing when it does not run."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(STOP_TIMEOUT)

    def submit(self, source: int, change: Change) -> None:
        """Pass a change on from this node to all others. Does not block."""
        for target in range(len(self._peers)):
            if target != source:
                self._send(source, target, change)

    def _send(self, source: int, target: int, change: Change) -> None:
        now = time.monotonic()
        with self._changed:
            rule = self._rules.matching(change.kind, source, target)
            delay = self._delay if rule is None or rule.delay is None else rule.delay
            transit = _Transit(now + delay, next(self._numbers), change, source, target, now + self._retry_timeout)
            if rule is not None and rule.effect == "drop":
                self._note(transit, "dropped")
            elif rule is not None and rule.effect == "hold":
                self._held.append(transit)
                self._note(transit, "held")
            else:
                heapq.heappush(self._on_their_way, transit)
                self._changed.notify_all()

    def _run(self) -> None:
        while (arriving := self._arriving()) is not None:
            for transit in arriving:
                self._wait_in_line(transit)
            for link in list(self._waiting):
                self._deliver_all(link)

    def _arriving(self) -> list[_Transit] | None:
        """Wait for the next arrival or the next try; None when it is over."""
        with self._changed:
            self._delivering = False
            self._changed.notify_all()
            if not self._something_to_do():
                self._changed.wait(self._pause())
            if self._thread is None:
                return None
            self._delivering = True
            arrived = []
            while self._on_their_way and self._on_their_way[0].due <= time.monotonic():
                arrived.append(heapq.heappop(self._on_their_way))
            return arrived

    def _something_to_do(self) -> bool:
        return self._thread is None or bool(self._on_their_way and self._on_their_way[0].due <= time.monotonic())

    def _pause(self) -> float | None:
        pauses = [RETRY_INTERVAL] if self._waiting else []
        pauses += [max(0.0, self._on_their_way[0].due - time.monotonic())] if self._on_their_way else []
        return min(pauses, default=None)

    def _wait_in_line(self, transit: _Transit) -> None:
        # Only this thread touches the lines. A newer change keeps the older one's place.
        self._waiting.setdefault(transit.link, {})[transit.key] = transit

    def _deliver_all(self, link: tuple[int, int]) -> None:
        """Deliver what waits for this link's target, as far as it can be reached."""
        line = self._waiting[link]
        for key, transit in list(line.items()):
            answer = None if self._is_cut(link) else self._peers[transit.target].replicate(transit.change.request)
            if answer is not None:
                self._answered(transit, answer)
            elif time.monotonic() < transit.expires:
                return
            else:
                self._noted(transit, "expired")
            del line[key]
        del self._waiting[link]

    def _is_cut(self, link: tuple[int, int]) -> bool:
        with self._changed:
            return self._rules.is_cut(*link)

    def _answered(self, transit: _Transit, answer: Answer) -> None:
        """Do what a node does with a peer's answer to its heartbeat."""
        registration = transit.change.registration
        if registration is not None and answer.status == HTTPStatus.NOT_FOUND:
            self._send(transit.source, transit.target, registration)
        elif registration is not None and answer.status == HTTPStatus.CONFLICT:
            self._peers[transit.source].adopt(answer.body)
        self._noted(transit, "arrived", int(answer.status))

    def _noted(self, transit: _Transit, outcome: Outcome, status: int | None = None) -> None:
        with self._changed:
            self._note(transit, outcome, status)

    def _note(self, transit: _Transit, outcome: Outcome, status: int | None = None) -> None:
        change = transit.change
        self._log.append(
            ReplicatedChange(
                change.kind, change.app, change.instance_id, transit.source, transit.target, outcome, status
            )
        )
        self._changed.notify_all()
