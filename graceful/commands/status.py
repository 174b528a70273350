"""`python -m graceful status`: what the processes of this container are doing."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from graceful.commands import FAIL, INCONCLUSIVE, PASS, CommandError, add_output, add_timeout, may_color, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from graceful.processes import Answer

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Show what the processes of this container are doing: their phase, what is in flight, what is left of
the time when they leave, and how they stand in Eureka. Run it in the container, as the user of the
application or as root: kubectl exec POD -- python3 -P -m graceful status
"""
_EPILOG: Final = """\
examples:
  python -m graceful status                a table
  python -m graceful status -o json        for programs: numbers as numbers, null where there is none

exit codes: 0 every process is serving; 1 one is starting, leaving or does not answer; 2 the arguments
cannot be used; 3 there is no process that listens, or it cannot be looked for
"""
_HEAD: Final = ("PID", "PHASE", "FOR", "IN FLIGHT", "TIME LEFT", "REGISTRY", "OWNER")
_NUMBERS: Final = ("in_flight", "problems")
_DURATIONS: Final = ("since", "remaining", "wait")
_FLAGS: Final = ("announced", "registered", "alone", "finished", "owner")
_GREEN, _YELLOW, _RED, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_output(parser)
    add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Show the processes."""
    answers = _find(options.timeout)
    serving = sum(answer.words.get("phase") == "serving" for answer in answers)
    if options.output == "json":
        text = json.dumps({"processes": [_plain(answer) for answer in answers]}, indent=2)
    else:
        text = "\n".join((*_table(answers, color=may_color(sys.stdout)), *_remarks(answers)))
    print(text)  # noqa: T201  this is a command
    return PASS if serving == len(answers) else FAIL


def _find(timeout: float) -> list[Answer]:
    """What every process of this container says; those of other containers are left out, and named.

    Raises:
        CommandError: there is none, or they cannot be looked for.
    """
    from graceful.processes import ask_status  # noqa: PLC0415  not for --help

    try:
        answers = ask_status(os.environ, timeout)
    except OSError as error:
        raise CommandError(
            f"the processes of this container cannot be looked for: {error}; set GRACEFUL_RUNTIME_DIR, for the "
            "application and here, to a directory that both can read",
            INCONCLUSIVE,
        ) from None
    for answer in answers:
        if answer.foreign:
            say(f"warning: process {answer.pid} is not asked: {answer.problem}")
    ours = [answer for answer in answers if not answer.foreign]
    if not ours:
        raise CommandError(
            "no process of this container listens: run this in the container of an application with graceful at work, "
            "with the same GRACEFUL_SCOPE and GRACEFUL_RUNTIME_DIR, if they are set",
            INCONCLUSIVE,
        )
    return ours


def _plain(answer: Answer) -> dict[str, Any]:
    """What a process says, with numbers as numbers."""
    words: Mapping[str, str] = answer.words
    plain: dict[str, Any] = {"pid": answer.pid, "answered": bool(words)}
    for key, value in words.items():
        if key in _NUMBERS and value.isdecimal():
            plain[key] = int(value)
        elif key in _DURATIONS:
            plain[key] = _number(value)
        elif key in _FLAGS:
            plain[key] = None if not value else value == "yes"
        else:
            plain[key] = value or None
    return plain if words else plain | {"problem": answer.problem}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _table(answers: Sequence[Answer], *, color: bool) -> list[str]:
    rows = [_HEAD, *(_row(answer) for answer in answers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not color:
        return lines
    return [lines[0], *(f"{_color(each)}{line}{_PLAIN}" for each, line in zip(answers, lines[1:], strict=True))]


def _row(answer: Answer) -> tuple[str, ...]:
    words = answer.words
    if not words:
        return (str(answer.pid), "no answer", *["-"] * (len(_HEAD) - 2))
    registry = words.get("registry", "")
    if registry == "announced" and words.get("registered") == "yes":
        registry = "UP"  # announced and read back
    return (
        str(answer.pid),
        words.get("phase", ""),
        _shown(words.get("since", "")),
        words.get("in_flight", ""),
        _shown(words.get("remaining", "")),
        registry.upper() if registry == "out_of_service" else registry or "-",
        words.get("owner") or "-",
    )


def _shown(seconds: str) -> str:
    number = _number(seconds)
    return "-" if number is None else f"{number:.0f} s"


def _remarks(answers: Sequence[Answer]) -> list[str]:
    """What has no room in the table, a line each."""
    lines = []
    for answer in answers:
        words = answer.words
        if answer.problem:
            lines.append(f"[{answer.pid}] {answer.problem}")
        if words.get("began"):
            alone = ", alone" if words.get("alone") == "yes" else ""
            wait = f"; callers need {_shown(words['wait'])} more to hear" if words.get("wait") else ""
            lines.append(f"[{answer.pid}] leaves because of {words['began']}{alone}{wait}")
        if words.get("detail"):
            lines.append(f"[{answer.pid}] registry: {words['detail']}")
        if words.get("problem"):
            lines.append(f"[{answer.pid}] problem 1 of {words.get('problems', '?')}: {words['problem']}")
    return lines


def _color(answer: Answer) -> str:
    if not answer.words:
        return _RED
    return _GREEN if answer.words.get("phase") == "serving" else _YELLOW
