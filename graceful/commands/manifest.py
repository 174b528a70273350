"""`python -m graceful manifest`: the manifest that matches an application."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from graceful.commands import PASS, CommandError, say, take_stdout, write_output

if TYPE_CHECKING:
    import argparse

    from graceful.kubernetes.manifest import Snippets

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Print the Kubernetes manifest that matches an application: the preStop hook, its environment and
terminationGracePeriodSeconds, from the settings that the application runs with. Run it with the
environment that the pod has. The output is YAML and nothing else; everything else goes to the
standard error.
"""
_EXAMPLES: Final = """\
examples:
  python -m graceful manifest main                      a patch of the Deployment, for main:app
  python -m graceful manifest main --format snippet     what belongs into a manifest of your own
  python -m graceful manifest --container web           from the environment alone
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument(
        "module",
        metavar="MODULE",
        nargs="?",
        help="the module that calls graceful.install(), such as main or package.main; main:app will do too. It is "
        "imported, and nothing of graceful is started. Without it, the environment alone gives the settings.",
    )
    parser.add_argument(
        "--format",
        choices=["patch", "snippet"],
        default="patch",
        help="a strategic-merge patch of the Deployment (default), or what belongs into a manifest of your own",
    )
    parser.add_argument("--container", metavar="NAME", default="", help="the container's name (default: the app's)")
    parser.add_argument(
        "--python", metavar="PATH", default="python3", help="the interpreter in the image (default: python3)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the manifest."""
    stdout = take_stdout()
    snippets = _snippets(options)
    yaml = snippets.snippet if options.format == "snippet" else snippets.patch
    for note in _notes(snippets):
        say(f"warning: {note}")
    write_output(yaml, stdout, "manifest")
    return PASS


def _snippets(options: argparse.Namespace) -> Snippets:
    from graceful.importing import install_of  # noqa: PLC0415  not for --help
    from graceful.kubernetes.manifest import Snippets  # noqa: PLC0415
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
