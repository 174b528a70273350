"""When each of many long-lived connections is closed, so that their owners do not all come back at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

__all__ = ["closing_instants"]

_LEAST_GAP: Final = 0.01
"""Seconds between two closes where there is time: a hundred new connections a second harm no other instance."""


def closing_instants(count: int, *, now: float, longest: float, random: Random) -> Iterator[float]:
    """The instants at which to close `count` connections, in order.

    They are spread evenly over a window: each has a slot of its own, and a random place in it, because the instances
    of a service may leave together. A few connections need no long window.

    Args:
        count: how many connections there are.
        now: the instant at which the window begins.
        longest: seconds that the window may last at most.
        random: for the place in the slot.
    """
    slot = min(_LEAST_GAP, longest / count) if count else 0.0
    for number in range(count):
        yield now + (number + random.random()) * slot
