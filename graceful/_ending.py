"""The end of a program whose signals nobody owns: SystemExit in the main thread, and again where that was lost."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["end_program", "notice_lost_end"]


class _ProgramEnd(SystemExit):
    """Ours, to be told from one that the program raises itself."""


def end_program() -> None:
    """End the program with exit code 0, where its default action would end it with another one (main thread)."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise _ProgramEnd(0) from None
    # Raised here it would surface inside whatever coroutine happens to run; as a callback it leaves run_forever, and
    # asyncio.run cancels the tasks in order.
    loop.call_soon_threadsafe(_raise_program_end)


def _raise_program_end() -> None:
    raise _ProgramEnd(0)


def notice_lost_end(again: Callable[[], object]) -> None:
    """Have `again` called, inside the interpreter's hook for it, when `end_program` was in vain.

    A signal handler runs wherever the main thread is, also in a `__del__` or in a weak reference's callback: imports
    are full of them. What is raised there is printed and forgotten, and the program would run on as if untold.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if isinstance(unraisable.exc_value, _ProgramEnd):
            again()
        else:
            before(unraisable)

    sys.unraisablehook = hook
