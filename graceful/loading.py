"""Whether the modules that install graceful are still being imported."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

__all__ = ["Imports"]


class Imports:
    """The imports that were under way in a thread at one moment; none, made without arguments. Thread-safe.

    Seen by their modules' own code on the stack, right above the import system's: that tells nobody when it is done.
    What a program was started with is none of them: it may well serve from there.

    Args:
        codes: what the modules execute.
        thread: the thread that imports them.
    """

    def __init__(self, codes: frozenset[CodeType] = frozenset(), thread: int = 0) -> None:
        self._codes = codes
        self._thread = thread

    @classmethod
    def under_way(cls) -> Imports:
        """Those in the thread that calls this."""
        stack = list(_stack(sys._getframe()))  # noqa: SLF001  public, in spite of its name
        modules = (
            called.f_code
            for called, caller in pairwise(stack)
            if _is_import_system(caller) and not _is_import_system(called)
        )
        return cls(frozenset(modules), threading.get_ident())

    def over(self) -> bool:
        """Whether all of them have come to their end."""
        if not self._codes:
            return True
        top = sys._current_frames().get(self._thread)  # noqa: SLF001  as above
        return not any(frame.f_code in self._codes for frame in _stack(top))


def _is_import_system(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith("<frozen importlib.")


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
