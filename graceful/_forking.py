"""What a forked child must not inherit: the hooks that free it of a signal hold."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["Inherited", "inherited"]


class Inherited(Protocol):
    """Something of this process that a forked child has to be freed of."""

    @property
    def signals(self) -> AbstractSet[int]:
        """The signals whose handlers it has taken."""

    def leave_forked_child(self) -> None:
        """Undo it, in the child's only thread."""


# What is in place in this process. Changed by the main thread, read by whichever thread forks.
inherited: set[Inherited] = set()

# The signal mask of the thread that forks, from before to after.
_forking = threading.local()


def _before() -> None:
    """Keep the held signals off this thread while it forks.

    A signal that reaches the child ahead of `_after_in_child` would still find our handler, and the interpreter forgets
    what is pending in a new child: `terminate()` right after `start()` would do nothing. Blocked, it waits.
    """
    held = frozenset[int]().union(*(one.signals for one in tuple(inherited)))
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, held)


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_in_child() -> None:
    """Leave the child as if nothing had been installed: `terminate()` has to end the child, not the parent."""
    for one in tuple(inherited):
        one.leave_forked_child()
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
