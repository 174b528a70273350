"""Rules about what runs as PID 1: whether SIGTERM reaches the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graceful.kubernetes.lint.rules import Case, Problem, Rule, Severity, container_rule
from graceful.kubernetes.lint.shell import base_name, commands, script_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []

_FIX: Final = "put exec before the last command, or list the command and its arguments without a shell"


@container_rule(
    Rule("G301", Severity.ERROR, Severity.WARNING, "PID 1 is a shell that stays: SIGTERM does not get further.")
)
def _shell_stays(case: Case) -> Iterator[Problem]:
    if len(_held(case)) > 1:
        yield Problem(
            _line(case),
            "PID 1 is a shell that runs several commands and passes no signal on: SIGTERM has no effect, and SIGKILL "
            "ends everything when the grace period is over",
            _FIX,
        )


@container_rule(
    Rule("G302", Severity.WARNING, None, "PID 1 is `sh -c COMMAND`, which stays where `sh` is dash, as in Debian.")
)
def _shell_may_stay(case: Case) -> Iterator[Problem]:
    # bash and busybox put a single command in their own place; dash 0.5.12 does not (seen with `ps`).
    is_dash = base_name(case.container.command[0]) in {"sh", "dash"} if case.container.command else False
    if len(_held(case)) == 1 and is_dash and "alpine" not in case.container.image:
        yield Problem(
            _line(case),
            "PID 1 is sh -c COMMAND: where sh is dash, as in Debian's images, it stays and passes no signal on",
            _FIX,
        )


def _held(case: Case) -> list[tuple[str, ...]]:
    """The commands of the shell that is PID 1 for good, as far as can be seen; none where it gives way or listens."""
    script = script_of(case.container.command) if case.pod.serves else None
    found = commands(script) if script is not None else []
    handed_over = any(command[0] in {"exec", "trap"} for command in found)
    return [] if handed_over else found


def _line(case: Case) -> int:
    value = case.container.value
    return (value["command"] or value["args"]).line
