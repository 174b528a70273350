"""`python -m graceful manifest`: the manifest that matches an application."""

from __future__ import annotations

import os
import time
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Final

from graceful.commands import INCONCLUSIVE, PASS, USAGE, CommandError, say, take_stdout, write_output

if TYPE_CHECKING:
    import argparse

    from graceful.kubernetes.manifest import Snippets
    from graceful.kubernetes.needs import Needs
    from graceful.kubernetes.parts import Choice, Manifest

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Print the Kubernetes manifest that matches an application: the preStop hook, its environment and
terminationGracePeriodSeconds, from the settings that the application runs with; or put it into a
manifest of your own. Run it with the environment that the pod has. The output is the manifest and
nothing else; everything else goes to the standard error.
"""
_EXAMPLES: Final = """\
examples:
  python -m graceful manifest main                      a patch of the Deployment, for main:app
  python -m graceful manifest main --format snippet     what belongs into a manifest of your own
  python -m graceful manifest main --format kustomize   a Component: save it as kustomization.yaml
  python -m graceful manifest --container web           from the environment alone
  python -m graceful manifest --pid 7                   from a process of this container that runs
  python -m graceful manifest main --probes --post-start
  python -m graceful manifest main --apply deployment.yaml --in-place
  kustomize build . | python -m graceful manifest main --apply - | kubectl apply -f -
  python -m graceful manifest main --mode http | envsubst '$GRACEFUL_PRESTOP_TOKEN'
"""
_ANSWER_TIMEOUT: Final = 5.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    whose = parser.add_argument_group("whose manifest").add_mutually_exclusive_group()
    whose.add_argument(
        "module",
        metavar="MODULE",
        nargs="?",
        help="the module that calls graceful.install(), such as main or package.main; main:app will do too. It is "
        "imported, and nothing of graceful is started. Without it, the environment alone gives the settings.",
    )
    whose.add_argument("--pid", metavar="PID", type=_pid, help="a running process of this container or machine")
    form = parser.add_argument_group("its form")
    form.add_argument(
        "--format",
        choices=["patch", "snippet", "kustomize", "json"],
        help="a strategic-merge patch (default), what belongs into a manifest of your own, a kustomize Component, or "
        "JSON for programs",
    )
    form.add_argument("--container", metavar="NAME", default="", help="the container's name (default: the app's)")
    form.add_argument(
        "--workload",
        metavar="[KIND/]NAME",
        type=_workload,
        default=("Deployment", ""),
        help="what the patch is for, such as StatefulSet/orders (default: the Deployment with the app's name)",
    )
    mine = parser.add_argument_group("into a manifest of your own (needs the extra `manifest`)")
    mine.add_argument(
        "--apply",
        metavar="FILE",
        help="print FILE (- for standard input) with the manifest put into it, and what changes on the standard error; "
        "comments and order are kept",
    )
    how = mine.add_mutually_exclusive_group()
    how.add_argument("--in-place", action="store_true", help="change the file itself, and print what changes")
    how.add_argument("--check", action="store_true", help="change nothing; exit 1 if anything would change")
    mine.add_argument("--replace", action="store_true", help="replace a hook of your own that is there")
    hook = parser.add_argument_group("what is in it")
    hook.add_argument(
        "--python", metavar="PATH", default="python3", help="the interpreter in the image (default: python3)"
    )
    hook.add_argument(
        "--mode",
        choices=["exec", "http", "sleep", "script"],
        default="exec",
        help="the preStop hook: graceful's own (default), a call of the app's own endpoint, Kubernetes' sleep, or a "
        "shell script from a ConfigMap",
    )
    hook.add_argument("--probes", action="store_true", help="with startup, readiness and liveness probe")
    hook.add_argument(
        "--post-start", action="store_true", help="with a postStart hook that waits until the service is ready and UP"
    )
    hook.add_argument(
        "--token",
        metavar="TEXT",
        default="${GRACEFUL_PRESTOP_TOKEN}",
        help="with --mode http: what stands in the header, such as '{{ .Values.prestopToken }}' for Helm (default: "
        "${GRACEFUL_PRESTOP_TOKEN}, for envsubst)",
    )
    hook.add_argument(
        "--kubernetes-version",
        metavar="VERSION",
        type=_version,
        help="the oldest version that it is for, such as 1.29: what that cannot do is refused",
    )


def run(options: argparse.Namespace) -> int:
    """Print the manifest, or put it into a file."""
    _refuse_combinations(options)
    stdout = take_stdout()
    if options.pid is not None:
        manifest = _manifest(_needs_of_process(options.pid), options)
    else:
        snippets = _snippets(options.module)
        manifest = _manifest(snippets.needs, options, _script(snippets) if options.mode == "script" else "")
        for note in _notes(snippets):
            say(f"warning: {note}")
    for note in manifest.notes():
        say(f"warning: {note}")
    if options.apply is not None:
        from graceful.commands.manifest_file import apply_to_file  # noqa: PLC0415  needs an extra

        return apply_to_file(manifest, options, stdout)
    from graceful.kubernetes.formats import FORMATS  # noqa: PLC0415  not for --help

    write_output(FORMATS[options.format or "patch"](manifest), stdout, "manifest")
    return PASS


def _refuse_combinations(options: argparse.Namespace) -> None:
    if options.pid is not None and options.mode == "script":
        raise CommandError("--mode script is made from a module or the environment: leave --pid out", USAGE)
    if options.apply is None:
        given = [name for name in ("in_place", "check", "replace") if getattr(options, name)]
        if given:
            name = given[0].replace("_", "-")
            raise CommandError(f"--{name} needs a file: give it with --apply FILE", USAGE)
    elif options.format is not None:
        raise CommandError("--apply gives your own file back, so there is no --format for it: leave one out", USAGE)
    elif options.apply == "-" and options.in_place:
        raise CommandError("--in-place needs a file, and --apply - is the standard input: leave one out", USAGE)


def _manifest(needs: Needs, options: argparse.Namespace, script: str = "") -> Manifest:
    from graceful.kubernetes.parts import Manifest  # noqa: PLC0415  not for --help

    try:
        return Manifest(needs, _choice(options, script))
    except ValueError as error:
        raise CommandError(str(error)) from None


def _choice(options: argparse.Namespace, script: str) -> Choice:
    from graceful.kubernetes.parts import Choice  # noqa: PLC0415  not for --help

    kind, workload = options.workload
    return Choice(
        container=options.container,
        python=options.python,
        mode=options.mode,
        probes=options.probes,
        post_start=options.post_start,
        kind=kind,
        workload=workload,
        token=options.token,
        kubernetes_version=options.kubernetes_version,
        script=script,
    )


def _script(snippets: Snippets) -> str:
    from graceful.kubernetes.prestop_script import prestop_script  # noqa: PLC0415  not for --help

    try:
        return prestop_script(snippets)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _snippets(module: str | None) -> Snippets:
    """What an application runs with, or what the environment alone says."""
    from graceful.importing import install_of  # noqa: PLC0415  not for --help
    from graceful.kubernetes.manifest import Snippets  # noqa: PLC0415
    from graceful.settings import load_settings  # noqa: PLC0415

    try:
        if module is not None:
            coordinator = install_of(module)
            return Snippets(coordinator.settings, coordinator.plan)
        settings = load_settings({})
        return Snippets(settings, settings.plan(registry=bool(settings.eureka_url)))
    except ValueError as error:  # of the settings or the plan
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


def _needs_of_process(pid: int) -> Needs:
    from graceful import asking, rendezvous, wire  # noqa: PLC0415  not for --help
    from graceful.kubernetes.needs import Needs  # noqa: PLC0415

    try:
        found = {rendezvous.address_pid(address): address for address in rendezvous.discover(os.environ)}
    except OSError as error:
        raise CommandError(f"cannot look for running processes: {error}", INCONCLUSIVE) from None
    if pid not in found:
        there = f"those that are here: {', '.join(map(str, found))}" if found else "there is none here"
        raise CommandError(
            f"process {pid} is none that graceful is at work in ({there}): run this in its container, with its "
            "GRACEFUL_SCOPE or GRACEFUL_RUNTIME_DIR where that is set",
            INCONCLUSIVE,
        )
    try:
        answer = asking.ask(found[pid], "manifest", time.monotonic() + _ANSWER_TIMEOUT)
        return Needs.from_json(wire.decode_long(answer))
    except (OSError, ValueError) as error:
        raise CommandError(f"process {pid} could not be asked: {error}", INCONCLUSIVE) from None


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError(f"expected the number of a process, got {text!r}")
    return int(text)


def _workload(text: str) -> tuple[str, str]:
    kinds = ("Deployment", "StatefulSet", "DaemonSet")
    kind, slash, name = text.rpartition("/")
    kind = kind if slash else kinds[0]
    if kind not in kinds or not name:
        raise ArgumentTypeError(f"expected [KIND/]NAME with one of {', '.join(kinds)}, got {text!r}")
    return kind, name


def _version(text: str) -> tuple[int, int]:
    major, _, rest = text.removeprefix("v").partition(".")
    minor = rest.partition(".")[0].rstrip("+")
    if not (major.isdecimal() and minor.isdecimal()):
        raise ArgumentTypeError(f"expected a version such as 1.30, got {text!r}")
    return int(major), int(minor)
