"""`python -m graceful prestop-script`: the preStop hook for a container where graceful is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graceful.commands import PASS, CommandError, say, take_stdout, write_output

if TYPE_CHECKING:
    import argparse

    from graceful.kubernetes.manifest import Snippets

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Print a preStop hook as one file for a POSIX shell, for an image where graceful is not installed, or
for a service in another language. It takes the instance out of service in Eureka with curl or GNU
wget, reads that back, waits until callers have heard of it, and exits with 0. The settings stand in
the variables at its top, and the environment wins over them; credentials come from the environment
alone. Set terminationGracePeriodSeconds to its grace_period.
"""
_EXAMPLES: Final = """\
examples:
  python -m graceful prestop-script > prestop.sh        from the environment alone
  python -m graceful prestop-script main > prestop.sh   with the settings of main:app
  kubectl create configmap prestop --from-file=prestop.sh
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


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    from graceful.kubernetes.prestop_script import prestop_script  # noqa: PLC0415  not for --help

    stdout = take_stdout()
    snippets = _snippets(options.module)
    try:
        script = prestop_script(snippets)
    except ValueError as error:
        raise CommandError(str(error)) from None
    for note in _notes(snippets):
        say(f"warning: {note}")
    write_output(script, stdout, "script")
    return PASS


def _snippets(module: str | None) -> Snippets:
    from graceful.importing import install_of  # noqa: PLC0415  not for --help
    from graceful.kubernetes.manifest import Snippets  # noqa: PLC0415
    from graceful.settings import load_settings  # noqa: PLC0415

    try:
        if module is not None:
            coordinator = install_of(module)
            return Snippets(coordinator.settings, coordinator.plan)
        settings = load_settings({})
        return Snippets(settings, settings.plan(registry=bool(settings.eureka_url)))
    except ValueError as error:  # of the settings, or the plan
        raise CommandError(str(error)) from None


def _notes(snippets: Snippets) -> list[str]:
    """What the script lacks."""
    urls = snippets.settings.eureka_url
    if not urls:
        return ["eureka_url is not set: the script only waits, unless the pod's environment has GRACEFUL_EUREKA_URL"]
    if any(url.has_credentials for url in urls):
        return ["the credentials are not in the script: give the pod GRACEFUL_EUREKA_URL with them, from a Secret"]
    return []
