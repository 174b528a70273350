"""What the image and the container are judged by: pure functions over what `graceful.doctor.gathering` has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graceful.doctor.findings import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.pid_one import Process

__all__ = [
    "Bytecode",
    "Module",
    "check_bytecode",
    "check_filesystem",
    "check_hook",
    "check_interpreter",
    "check_module",
    "check_pid_one",
    "check_proc",
    "check_processes",
    "check_socket",
    "check_user",
]

OLDEST: Final = (3, 11)
SLOW_HOOK: Final = 2.0
"""Seconds for the hook's start that are worth a warning. Measured: 0.2 s with compiled files, 0.6 s at a CPU limit of
100m, 1.3 s at 50m."""

_PAUSE: Final = ("/pause",)


@dataclass(frozen=True, slots=True)
class Module:
    """A module that is needed.

    Attributes:
        name: as it stands after `import`.
        version: of its distribution, empty where that has none.
        error: why it does not import, empty where it does.
    """

    name: str
    version: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Bytecode:
    """The compiled files of the modules that the hook imports.

    Attributes:
        modules: how many modules there are.
        missing: the names of those without a compiled file that Python would use.
        fresh: the names of those whose file was made by this very command: it is not in the image.
    """

    modules: int
    missing: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def check_interpreter(version: tuple[int, ...], executable: str) -> Finding:
    """Whether this Python is new enough."""
    text = f"Python {'.'.join(map(str, version))} at {executable}"
    if version[:2] < OLDEST:
        return Finding(
            "interpreter", Verdict.FAIL, f"{text}, expected 3.11 or newer", "build the image with a newer Python"
        )
    return Finding("interpreter", Verdict.OK, text)


def check_module(module: Module) -> Finding:
    """Whether a module imports."""
    name = f"import {module.name}"
    if module.error:
        fix = "install it for this interpreter: pip install graceful-eureka brings what it needs"
        return Finding(name, Verdict.FAIL, module.error, fix)
    return Finding(name, Verdict.OK, module.version or "imports")


def check_hook(python: str, seconds: float | None, error: str) -> Finding:
    """Whether the hook's command starts, and how soon: the time is the grace period's.

    Args:
        python: the interpreter in the hook's command.
        seconds: how long its start took; None where it did not.
        error: why not.
    """
    command = f"{python} -P -m graceful.prestop"
    if seconds is None:
        return Finding(
            "hook",
            Verdict.FAIL,
            f"{command} does not start: {error}",
            "name the interpreter that graceful is installed for, by its whole path: --python, here and for manifest",
        )
    text = f"{command} starts in {seconds:.2f} s"
    if seconds > SLOW_HOOK:
        fix = "compile the modules when the image is built (python3 -m compileall), or raise the CPU limit"
        return Finding("hook", Verdict.WARNING, f"{text}, which the grace period pays for", fix)
    return Finding("hook", Verdict.OK, text)


def check_bytecode(bytecode: Bytecode) -> Finding:
    """Whether the hook's modules are compiled in the image."""
    lacking = [*bytecode.missing, *bytecode.fresh]
    if not lacking:
        return Finding("bytecode", Verdict.OK, f"the hook's {bytecode.modules} modules are compiled")
    return Finding(
        "bytecode",
        Verdict.WARNING,
        f"{len(lacking)} of the hook's {bytecode.modules} modules are not compiled in the image "
        f"({', '.join(lacking)}): with little CPU the hook starts noticeably later",
        "RUN python3 -m compileall -q on the installed packages, as the last step that touches them",
    )


def check_pid_one(first: Process | None, *, is_self: bool = False) -> Finding:
    """Whether the container's stop reaches the application: a shell as PID 1 keeps SIGTERM to itself.

    Args:
        first: the container's first process; None where it cannot be looked at.
        is_self: whether it is this command.
    """
    if first is None or not first.words:
        return Finding("pid 1", Verdict.UNKNOWN, "the first process cannot be looked at: /proc/1 cannot be read")
    if is_self:
        return Finding("pid 1", Verdict.OK, "it is this command: run it beside the application to see what starts that")
    name = first.words[0]
    if first.is_deaf_shell:
        return Finding(
            "pid 1",
            Verdict.FAIL,
            # What a shell is given with -c may hold a password.
            f"a shell ({name} …) that does not pass SIGTERM on: without a hook the application never hears of the end, "
            "and is killed",
            'CMD ["python", "main.py"] in the Dockerfile, or exec in the entrypoint script',
        )
    return Finding("pid 1", Verdict.OK, name)


def check_user(uid: int, first: Process | None) -> Finding:
    """Whether a command or hook run as this user is let in by the application."""
    # With shareProcessNamespace PID 1 is the pod's, and says nothing about the application.
    if first is None or uid in (0, first.uid) or first.command == _PAUSE:
        return Finding("user", Verdict.OK, f"uid {uid}{', as PID 1' if first and first.uid == uid else ''}")
    return Finding(
        "user",
        Verdict.WARNING,
        f"uid {uid}, and PID 1 has {first.uid}: where looking at each other is denied, neither trusts the other",
        "run this, and the container, as one user: runAsUser in the pod's securityContext",
    )


def check_filesystem(*, read_only: bool) -> Finding:
    """Whether the root can be written to; graceful never needs that."""
    text = (
        "the root is read-only; graceful writes nothing" if read_only else "the root is writable; graceful needs none"
    )
    return Finding("filesystem", Verdict.OK, text)


def check_proc(unreadable: Sequence[str]) -> Finding:
    """Whether /proc says what hook and application need to find each other.

    Args:
        unreadable: what cannot be read there, with why.
    """
    if unreadable:
        return Finding(
            "/proc",
            Verdict.WARNING,
            "; ".join(unreadable),
            "set GRACEFUL_RUNTIME_DIR to a writable directory of the pod, such as an emptyDir: hook and application "
            "meet there instead",
        )
    return Finding("/proc", Verdict.OK, "readable")


def check_socket(address: str | None, error: str) -> Finding:
    """Whether an application can listen for its hook here.

    Args:
        address: where it would, for people; None where there is no such place.
        error: why it could not, empty where it could.
    """
    if address is None and not error:
        error = "this system has no abstract sockets, and GRACEFUL_RUNTIME_DIR is not set"
    if error:
        return Finding(
            "socket",
            Verdict.FAIL,
            f"no hook can reach the application: {error}",
            "set GRACEFUL_RUNTIME_DIR to a short path of a writable directory, such as an emptyDir",
        )
    return Finding("socket", Verdict.OK, f"{address} can be listened on")


def check_processes(serving: int, silent: Sequence[int], others: Sequence[int], foreign: Sequence[str]) -> Finding:
    """Whether the application's processes listen for the hook.

    Args:
        serving: how many serve.
        silent: those that listen and do not answer.
        others: those that answer, and start or leave.
        foreign: why processes are not trusted.
    """
    name, see = "processes", "python -m graceful status shows them"
    if silent:
        text = f"{', '.join(map(str, silent))} listen for the hook, but do not answer"
        return Finding(name, Verdict.FAIL, text, "look at their logs and at the CPU limit; " + see)
    if foreign:
        return Finding(name, Verdict.FAIL, "; ".join(foreign), "run this as the user of the application, or as root")
    if serving or others:
        text = f"{serving} serving" + (f", {len(others)} starting or leaving" if others else "")
        return Finding(name, Verdict.OK if serving else Verdict.WARNING, text, "" if serving else see)
    return Finding(
        name,
        Verdict.WARNING,
        "none listens for the hook",
        "as a check of an image that is as it should be; in a running container, call graceful.install() in the "
        "application, and give it and this command the same GRACEFUL_SCOPE and GRACEFUL_RUNTIME_DIR",
    )
