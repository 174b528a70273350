"""Whether a shell stands between the container's stop and this process: it would keep SIGTERM to itself."""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Process", "ancestors_of", "deaf_shell", "look_at", "report_ancestors", "warning_about"]

logger = logging.getLogger("graceful.pid_one")

_SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "mksh", "sh", "zsh"})
_MULTI_CALL: Final = frozenset({"busybox", "toybox"})
_INITS: Final = frozenset({"catatonit", "docker-init", "dumb-init", "s6-svscan", "supervisord", "tini", "tini-static"})
"""They pass SIGTERM on to their child, or run it under their care: a shell in between gets it, and ends alone."""

_DEEPEST: Final = 50
"""Ancestors that are looked at: more than there ever are, and an end where /proc changes under us."""


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc tells of a process.

    Attributes:
        pid: its id, in this container's numbering.
        command: its arguments, the program first; empty where it has none to show.
        catches_sigterm: whether it has a handler for SIGTERM: a shell with a `trap`, which may well pass it on.
        uid: whose it is.
    """

    pid: int
    command: tuple[str, ...]
    catches_sigterm: bool
    uid: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """The program's bare name, and its arguments: `sh`, `-c` and so on for `/bin/busybox sh -c …`."""
        names = tuple(Path(word).name.lstrip("-") for word in self.command[:2])  # a login shell's has a dash before it
        skipped = 1 if names[:1] and names[0] in _MULTI_CALL and names[1:] else 0
        return names[skipped : skipped + 1] + self.command[skipped + 1 :]

    @property
    def is_script(self) -> bool:
        """Whether it is a shell with something to run: one without waits for a person's commands."""
        program, *arguments = self.words or ("",)
        return program in _SHELLS and not all(word.startswith("-") for word in arguments)

    @property
    def is_deaf_shell(self) -> bool:
        """Whether SIGTERM ends at it, and goes no further."""
        return self.is_script and not self.catches_sigterm


def deaf_shell(ancestors: Sequence[Process]) -> Process | None:
    """The shell that the container's SIGTERM ends at, or None.

    The kernel drops a signal for PID 1 that it has no handler for, so a shell there never even sees it. A shell right
    beneath a small init is the one that the init signals: it ends, the container with it, and we are killed.

    Args:
        ancestors: this process' parent, the parent's parent, and so on. Where the last is not PID 1, this process was
            started from elsewhere (`kubectl exec`, a shared process namespace): the container's stop is not ours.
    """
    if not ancestors or ancestors[-1].pid != 1:
        return None
    first = ancestors[-1]
    signalled = ancestors[-2:-1] if first.words[:1] and first.words[0] in _INITS else [first]
    return next((one for one in signalled if one.is_deaf_shell), None)


def warning_about(shell: Process) -> str:
    """What is wrong with it, and the fix."""
    where = "PID 1" if shell.pid == 1 else f"process {shell.pid}, which PID 1 starts,"
    # What a shell is given with -c may hold a password.
    shown = " ".join(shell.words[:2]) + (" …" if shell.words[2:] else "")
    return (
        f"{where} is a shell ({shown}) that does not pass SIGTERM on, so this "
        "process never hears of it and is killed at the end of the grace period, whatever is in flight. Start it with "
        "exec in the entrypoint script (exec python main.py), or with the exec form in the Dockerfile "
        '(CMD ["python", "main.py"]), so that no shell stands before it'
    )


def ancestors_of(pid: int, *, proc: Path = Path("/proc")) -> list[Process]:
    """The ancestors of a process, its parent first, as far as they can be read (Linux; elsewhere none)."""
    found: list[Process] = []
    try:
        parent = _parent(_status(proc, pid))
        while parent > 0 and len(found) < _DEEPEST:
            status = _status(proc, parent)
            found.append(look_at(parent, status, proc=proc))
            parent = _parent(status)
    except (OSError, KeyError, ValueError):  # gone, hidden, or not as Linux has it: what was found so far will do
        pass
    return found


def report_ancestors(pid: int) -> None:
    """Log a warning where this process' SIGTERM would end at a shell."""
    shell = deaf_shell(ancestors_of(pid))
    if shell is not None:
        logger.warning("%s", warning_about(shell))


def _status(proc: Path, pid: int) -> dict[str, str]:
    lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _parent(status: dict[str, str]) -> int:
    return int(status["PPid"])


def look_at(pid: int, status: dict[str, str] | None = None, *, proc: Path = Path("/proc")) -> Process:
    """What /proc tells of a process.

    Args:
        pid: its id.
        status: its `/proc/PID/status`, where it has been read already.
        proc: where /proc is.

    Raises:
        OSError, KeyError, ValueError: it is gone, hidden, or not as Linux has it.
    """
    status = _status(proc, pid) if status is None else status
    words = (proc / str(pid) / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    # A bit per signal, the first for number 1 (proc_pid_status(5)).
    catches = bool(int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)
    return Process(pid, tuple(words) if words != [""] else (), catches, uid=int(status["Uid"].split()[1]))
