"""The commands of `python -m graceful`, a module each, and what they have in common.

A command `some-name` is a line in `COMMANDS` and the module `graceful.commands.some_name` with two functions:

    def add(parser: argparse.ArgumentParser) -> None   # its arguments, description and examples
    def run(options: argparse.Namespace) -> int        # does it; PASS, FAIL or INCONCLUSIVE

The module is imported when its command is asked for, so that help and the other commands come without it. What it
needs beyond the standard library it imports in `run`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

__all__ = [
    "COMMANDS",
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "USAGE",
    "CommandError",
    "add_output",
    "add_timeout",
    "may_color",
    "say",
    "take_stdout",
    "to_seconds",
    "write_output",
]

COMMANDS: Final[Mapping[str, str]] = {
    "manifest": "print the matching Kubernetes manifest, or put it into your own",
    "prestop-script": "print a preStop hook for containers without graceful",
    "lint": "look at manifests for what keeps a pod from leaving in order",
    "status": "show what the processes of this container are doing",
    "doctor": "look for what is wrong in this image or container",
    "drain": "have the processes of this container leave, by hand",
}
"""Every command, in the order of the help, with the line that stands for it there."""

PASS: Final = 0
"""Done, and all is well."""
FAIL: Final = 1
"""Not done, or not well."""
USAGE: Final = 2
"""The arguments cannot be used."""
INCONCLUSIVE: Final = 3
"""It cannot be told: what would have to be looked at is not there, or does not answer."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do.

    Args:
        message: one line: what was given, what was expected, what to do.
        status: the exit code, `FAIL`, `USAGE` or `INCONCLUSIVE`.
    """

    def __init__(self, message: str, status: int = FAIL) -> None:
        super().__init__(message)
        self.status = status


def say(text: str) -> None:
    """Tell the user something on the standard error: the standard output is for what was asked for."""
    print(f"graceful: {text}", file=sys.stderr)  # noqa: T201  this is a command


def may_color(stream: TextIO) -> bool:
    """Whether a stream is to be coloured: a terminal that can, and nobody has set `NO_COLOR` (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `-o`: what the result is written as."""
    parser.add_argument(
        "-o", "--output", choices=["text", "json"], default="text", help="how the result is written (default: text)"
    )


def add_timeout(parser: argparse.ArgumentParser, default: float = 5.0) -> None:
    """Add `--timeout`: for everybody who is asked, together."""
    parser.add_argument(
        "--timeout",
        type=to_seconds,
        default=default,
        metavar="SECONDS",
        help=f"for all answers together (default: {default:g})",
    )


def to_seconds(text: str) -> float:
    """The seconds that an argument stands for; argparse tells the user what is wrong with it.

    Raises:
        argparse.ArgumentTypeError: it is no duration, or none that can be waited for.
    """
    from argparse import ArgumentTypeError  # noqa: PLC0415  it is loaded by whoever calls this

    from graceful.wire import parse_duration  # noqa: PLC0415  not for --help

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if not 0 < seconds <= 86400:
        raise ArgumentTypeError(f"{text[:80]!r} cannot be waited for: expected more than 0 seconds and at most a day")
    return seconds


def take_stdout() -> int:
    """Keep the standard output for the result alone: from now on, what anything else prints goes to the other.

    The descriptor and not `sys.stdout`, and for good: what is imported may start programs, and print at its exit.

    Raises:
        CommandError: one of the two is closed.
    """
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(2, 1)
    except (OSError, AttributeError):
        raise CommandError("the standard output or the standard error is closed: let them lead somewhere") from None
    return stdout


def write_output(text: str, descriptor: int, what: str) -> None:
    """Write the result to what `take_stdout` gave, and close it.

    Args:
        text: the result.
        descriptor: where to; it is closed.
        what: what it is, for the error: `"manifest"`.

    Raises:
        CommandError: it could not be written.
    """
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            output.write(text)
    except OSError as error:
        raise CommandError(f"the {what} could not be written ({error.strerror}): look at where it goes") from None
