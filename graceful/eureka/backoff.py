"""How long to wait before a server is asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

__all__ = ["pauses"]


def pauses(random: Random, *, first: float, ceiling: float) -> Iterator[float]:
    """Endless pauses in seconds, each twice as long as the one before until they reach `ceiling`.

    Each is shortened by up to a half at random, so that the instances of a service do not all come at once to a server
    that has just come back.
    """
    pause = min(first, ceiling)
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, ceiling)
