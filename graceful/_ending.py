"""The end of a program whose signals nobody owns: SystemExit in the main thread, and again where that was lost."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from graceful._owners import runs_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["end_program", "in_hook", "notice_lost_end"]

_hooks: Final[list[object]] = []
"""The interpreter's hooks for what is raised in vain: ours, and those that ours was put over."""


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

    # The program's own may be running just now.
    _hooks.extend((before, hook))
    sys.unraisablehook = hook


def in_hook(frame: FrameType | None) -> bool:
    """Whether the main thread is inside such a hook: no hook hears of what is raised there, it is lost for good."""
    return any(runs_in(hook, frame) for hook in (*_hooks, sys.unraisablehook))
