"""What came of every change that a registry was asked for in one life, in a memory of fixed size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graceful.core.registry import ServerResult

__all__ = ["CallJournal"]


class CallJournal:
    """One entry for each operation on each server: a life of any length, with any number of heartbeats, fits.

    A repeated call has the last outcome, and its seconds and tries are added up. Entered from one thread; read from
    any.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], ServerResult] = {}

    @property
    def told(self) -> tuple[ServerResult, ...]:
        """The entries, in the order of each one's first try."""
        return tuple(self._entries.values())

    def enter(self, result: ServerResult, *, cut_off: bool = False) -> ServerResult:
        """Enter what came of a try.

        Args:
            result: its outcome, its seconds and the one try.
            cut_off: it was ended before an answer came, so that what is known from an earlier one still stands.

        Returns:
            The entry as it is now.
        """
        key = (result.operation, result.server)
        former = self._entries.get(key)
        if former is not None:
            known = former if cut_off else result
            result = replace(known, seconds=former.seconds + result.seconds, tries=former.tries + result.tries)
        # A new dictionary each time: a reader in another thread has the old one whole.
        self._entries = self._entries | {key: result}
        return result
