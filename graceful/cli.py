"""The command line: `python -m graceful COMMAND`.

The commands are in `graceful.commands`. Only the one that is asked for is imported: help comes without the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import graceful
from graceful.commands import COMMANDS, FAIL, PASS, USAGE, CommandError, say
from graceful.core.names import one_line
from graceful.importing import ImportingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["exit_with", "main"]

_INTERRUPTED: Final = 130
_EPILOG: Final = """\
examples:
  python -m graceful manifest main          the manifest for the app that main.py installs graceful into
  python -m graceful COMMAND --help         what a command does, with examples
  python3 -P -m graceful.prestop --help     the preStop hook, which Kubernetes runs

exit codes: 0 all is well, 1 it is not, 2 the arguments cannot be used, 3 it cannot be told
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"graceful: error: {one_line(message)} ({self.prog} --help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        The exit code: 0 all is well, 1 it is not or could not be done, 3 it cannot be told. An error is one line on the
        standard error.

    Raises:
        SystemExit: with 2 for arguments that cannot be used, and with 0 after help.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command = _command(arguments)
    parser = _parser(command)
    options = parser.parse_args(arguments)
    if command is None:
        parser.print_help()
        return PASS
    try:
        return int(command.run(options))
    except CommandError as error:
        say(f"error: {error}")
        return error.status
    except ImportingError as error:
        say(f"error: {error}")
        return FAIL
    except KeyboardInterrupt:
        say("interrupted")
        return _INTERRUPTED


def exit_with(status: int) -> NoReturn:
    """End the process, whatever an imported application has started: its threads may never end by themselves."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _command(arguments: Sequence[str]) -> ModuleType | None:
    """The module of the command that is asked for, None where there is none: no option before it takes a value."""
    name = next((word for word in arguments if not word.startswith("-")), None)
    if name is None or name not in COMMANDS:
        return None  # argparse says what is wrong
    return import_module(f"graceful.commands.{name.replace('-', '_')}")


def _parser(asked: ModuleType | None) -> _Parser:
    parser = _Parser(
        prog="python -m graceful",
        description="Leave Kubernetes and Eureka without losing a request.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"graceful {graceful.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if asked is not None and asked.__name__.rpartition(".")[2] == name.replace("-", "_"):
            asked.add(command)
    return parser
