"""`python -m graceful lint`: whether a manifest lets a pod leave in order."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful.commands import FAIL, INCONCLUSIVE, PASS, USAGE, CommandError, take_stdout, write_output

if TYPE_CHECKING:
    import argparse

    from graceful.kubernetes.lint.checking import Options, Report

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Look at Kubernetes manifests for what their schema does not know: whether the grace period is as long
as the service's plan, whether the preStop hook can run, whether SIGTERM reaches the service, whether
anything beside it leaves first. Every kind that has a pod template is looked at.
"""
_EXAMPLES: Final = """\
examples:
  python -m graceful lint deployment.yaml                    a file; the plan from its own variables
  python -m graceful lint --module main deployment.yaml      with what main.py gives install()
  kustomize build overlays/prod | python -m graceful lint -  what a program prints
  helm template ./chart | python -m graceful lint - --format json
  python -m graceful lint manifests/ --ignore G105,G406      a folder, without two of the rules

exit codes: 0 no error, 1 an error (with --strict also a warning), 2 the arguments cannot be used,
3 something that it depends on cannot be seen
"""
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="YAML or JSON, with one object or several; a folder, for all .yaml, .yml and .json in it; or - for the "
        "standard input",
    )
    parser.add_argument(
        "--module",
        metavar="MODULE",
        default="",
        help="the module that calls graceful.install(), such as main; it is imported with the variables of the "
        "manifest. Without it these and the defaults give the plan.",
    )
    parser.add_argument(
        "--container",
        metavar="NAME",
        default="",
        help="the container that the service runs in (default: those whose hook or variables show it)",
    )
    parser.add_argument(
        "--kubernetes-version", metavar="VERSION", help="the oldest version that it is meant for, such as 1.29"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text", help="how to show it (default: text)")
    parser.add_argument(
        "--ignore", metavar="RULES", action="append", default=[], help="rules that do not count, such as G105,G406"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")


def run(options: argparse.Namespace) -> int:
    """Lint, and print what was found."""
    try:
        import ruamel.yaml  # noqa: F401, PLC0415  an extra, and not for --help
    except ImportError:
        raise CommandError(
            "lint needs ruamel.yaml, which is not installed: pip install 'graceful-eureka[manifest]'", USAGE
        ) from None
    from graceful.kubernetes.lint.checking import lint  # noqa: PLC0415
    from graceful.kubernetes.lint.report import as_json, as_text  # noqa: PLC0415

    asked = _asked(options)
    files = [(name, data) for given in options.files for name, data in _read(given)]
    stdout = take_stdout()
    report = lint(files, asked)
    write_output(as_json(report) if options.format == "json" else as_text(report), stdout, "report")
    return _exit_code(report, is_strict=options.strict)


def _exit_code(report: Report, *, is_strict: bool) -> int:
    from graceful.kubernetes.lint.rules import Severity  # noqa: PLC0415  as above

    if report.count(Severity.ERROR) or (is_strict and report.count(Severity.WARNING)):
        return FAIL
    return INCONCLUSIVE if report.count(Severity.INCONCLUSIVE) else PASS


def _asked(options: argparse.Namespace) -> Options:
    from graceful.kubernetes.lint.checking import Options  # noqa: PLC0415
    from graceful.kubernetes.lint.rules import RULES  # noqa: PLC0415

    ignored = frozenset(rule for given in options.ignore for rule in re.split(r"[,\s]+", given) if rule)
    if unknown := sorted(ignored - RULES.keys()):
        raise CommandError(f"--ignore {unknown[0]}: there is no such rule; expected ids such as G105", USAGE)
    return Options(options.module, options.container, _version(options.kubernetes_version), ignored)


def _version(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.match(r"v?(\d{1,3})\.(\d{1,3})(?![0-9])", text)
    if found is None:
        raise CommandError(f"--kubernetes-version is {text[:80]!r}: expected a version such as 1.29", USAGE)
    return int(found[1]), int(found[2])


def _read(given: str) -> list[tuple[str, bytes]]:
    try:
        if given == "-":
            return [("stdin", sys.stdin.buffer.read())]
        path = Path(given)
        paths = sorted(_within(path)) if path.is_dir() else [path]
        return [(str(each), each.read_bytes()) for each in paths]
    except (OSError, AttributeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it cannot be read"
        raise CommandError(f"{given!r}: {reason}; give a file, a folder or -", USAGE) from None


def _within(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file()]
