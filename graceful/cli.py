"""The command line: `python -m graceful manifest main`.

What a command needs is imported when it runs: help comes without it.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn

import graceful
from graceful.importing import ImportingError, install_of, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.kubernetes.manifest import Snippets

__all__ = ["CommandError", "exit_with", "main"]

_MANIFEST: Final = """\
Print the Kubernetes manifest that matches an application: the preStop hook, its environment and
terminationGracePeriodSeconds, from the settings that the application runs with. Run it with the environment that the
pod has. The output is YAML and nothing else; everything else goes to the standard error.
"""


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"graceful: error: {one_line(message)} ({self.prog} --help shows what there is)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        The exit code: 0, or 1 after an error, which is one line on the standard error.

    Raises:
        SystemExit: with 2 for arguments that cannot be used, and with 0 after help.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        _manifest(options)
    except (CommandError, ImportingError) as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    return 0


def exit_with(status: int) -> NoReturn:
    """End the process, whatever an imported application has started: its threads may never end by themselves."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m graceful",
        description="Leave Kubernetes and Eureka without losing a request.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"graceful {graceful.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    manifest = commands.add_parser(
        "manifest", help="print the matching Kubernetes manifest", description=_MANIFEST, allow_abbrev=False
    )
    manifest.add_argument(
        "module",
        metavar="MODULE",
        nargs="?",
        help="the module that calls graceful.install(), such as main or package.main; main:app will do too. It is "
        "imported, and nothing of graceful is started. Without it, the environment alone gives the settings.",
    )
    manifest.add_argument(
        "--format",
        choices=["patch", "snippet"],
        default="patch",
        help="a strategic-merge patch of the Deployment (default), or what belongs into a manifest of your own",
    )
    manifest.add_argument("--container", metavar="NAME", default="", help="the container's name (default: the app's)")
    manifest.add_argument(
        "--python", metavar="PATH", default="python3", help="the interpreter in the image (default: python3)"
    )
    return parser


def _manifest(options: argparse.Namespace) -> None:
    stdout = _take_stdout()
    snippets = _snippets(options)
    yaml = snippets.snippet if options.format == "snippet" else snippets.patch
    for note in _notes(snippets):
        _say(f"warning: {note}")
    try:
        with os.fdopen(stdout, "w", encoding="utf-8") as output:
            output.write(yaml)
    except OSError as error:
        raise CommandError(f"the manifest could not be written ({error.strerror}): look at where it goes") from None


def _take_stdout() -> int:
    """Keep the standard output for the manifest alone: from now on, what anything else prints goes to the other.

    The descriptor and not `sys.stdout`, and for good: what is imported may start programs, and print at its exit.
    """
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(2, 1)
    except (OSError, AttributeError):
        raise CommandError("the standard output or the standard error is closed: let them lead somewhere") from None
    return stdout


def _snippets(options: argparse.Namespace) -> Snippets:
    from graceful.kubernetes.manifest import Snippets  # noqa: PLC0415  not for --help
    from graceful.settings import load_settings  # noqa: PLC0415

    try:
        if options.module is None:
            settings = load_settings({})
            plan = settings.plan(registry=bool(settings.eureka_url))
        else:
            coordinator = install_of(options.module)
            settings, plan = coordinator.settings, coordinator.plan
        return Snippets(settings, plan, container=options.container, python=options.python)
    except ValueError as error:  # of the settings, the plan, or the two names
        raise CommandError(str(error)) from None


def _notes(snippets: Snippets) -> list[str]:
    """What the numbers rest on, where that may not be what was meant."""
    from graceful.settings import unknown_variables  # noqa: PLC0415  not for --help

    notes = unknown_variables(os.environ)
    settings = snippets.settings
    if not settings.eureka_url:
        notes.append(
            "eureka_url is not set, so this is the manifest of a service that is not in Eureka; if it is, run this "
            "with GRACEFUL_EUREKA_URL as the pod has it"
        )
    if settings.grace_period is not None and settings.grace_period < snippets.grace_period:
        notes.append(
            f"grace_period is set to {settings.grace_period:g}s, but the plan is {snippets.pod_plan}: the manifest has "
            f"{snippets.grace_period}; leave grace_period out of install(), or it will refuse to start"
        )
    return notes


def _say(text: str) -> None:
    print(f"graceful: {text}", file=sys.stderr)  # noqa: T201  this is a command
