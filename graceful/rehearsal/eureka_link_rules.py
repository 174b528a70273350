"""Which changes get lost, late or stuck between the nodes of an embedded Eureka cluster. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from graceful.rehearsal.eureka_changes import ChangeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LinkRules", "Rule"]

Effect = Literal["drop", "hold", "delay"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault; `delay` in seconds, of the effect of that name alone."""

    effect: Effect
    kinds: frozenset[ChangeKind]
    source: int | None
    target: int | None
    delay: float | None

    def fits(self, kind: ChangeKind, source: int, target: int) -> bool:
        """Whether it concerns such a change."""
        return kind in self.kinds and self.source in (None, source) and self.target in (None, target)


class LinkRules:
    """The faults in force, the newest first.

    Args:
        nodes: how many nodes there are.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._rules: list[Rule] = []
        self._cut: set[frozenset[int]] = set()

    def add(
        self, effect: Effect, kinds: Sequence[str], source: int | None, target: int | None, delay: float | None = None
    ) -> None:
        """Put a fault in force, for changes of these kinds (none given: all) from `source` to `target` (None: any).

        Raises:
            ValueError: a kind or a node is unknown, or `delay` is negative.
        """
        for node in (source, target):
            self._check_node(node)
        if delay is not None and delay < 0:
            raise ValueError(f"replication delay is {delay:g} s: give 0 or more")
        self._rules.insert(0, Rule(effect, _known(kinds), source, target, delay))

    def cut(self, first: int, second: int) -> None:
        """Have these two nodes not reach each other.

        Raises:
            ValueError: a node is unknown, or both are the same.
        """
        for node in (first, second):
            self._check_node(node)
        if first == second:
            raise ValueError(f"node {first} cannot be cut off from itself: give two nodes")
        self._cut.add(frozenset((first, second)))

    def clear(self) -> None:
        """End every fault."""
        self._rules.clear()
        self._cut.clear()

    def matching(self, kind: ChangeKind, source: int, target: int) -> Rule | None:
        """The newest fault for such a change; None for none."""
        return next((rule for rule in self._rules if rule.fits(kind, source, target)), None)

    def is_cut(self, first: int, second: int) -> bool:
        """Whether these two do not reach each other."""
        return frozenset((first, second)) in self._cut

    def _check_node(self, node: int | None) -> None:
        if node is not None and node not in range(self._nodes):
            raise ValueError(f"there is no node {node}: use 0 to {self._nodes - 1}")


def _known(kinds: Sequence[str]) -> frozenset[ChangeKind]:
    unknown = [kind for kind in kinds if kind not in list(ChangeKind)]
    if unknown:
        raise ValueError(f"there is no change of kind {unknown[0]!r}: use some of {', '.join(ChangeKind)}")
    return frozenset(map(ChangeKind, kinds or ChangeKind))
