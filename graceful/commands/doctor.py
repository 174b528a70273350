"""`python -m graceful doctor`: what is fine in this image or container, what is not, and what to do."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

from graceful.commands import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    add_output,
    add_timeout,
    may_color,
    take_stdout,
    write_output,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from graceful.core.budget import Plan
    from graceful.doctor.findings import Finding
    from graceful.settings import Settings

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Look for what keeps a service from leaving in order: the interpreter and its modules, compiled files,
PID 1, the hook's socket, the environment against the plan, Eureka, the clock. Nothing is changed,
and no credentials are shown. Run it in the image, with the environment that the pod has.
"""
_EPILOG: Final = """\
examples:
  python -m graceful doctor                from the environment alone
  python -m graceful doctor main           with the settings of what main.py installs
  kubectl exec POD -- python3 -P -m graceful doctor -o json

exit codes: 0 nothing fails, though there may be warnings; 1 something fails; 2 the arguments cannot
be used; 3 nothing fails, but something could not be looked at
"""
_COLORS: Final = {"ok": "\x1b[32m", "warning": "\x1b[33m", "unknown": "\x1b[35m", "fail": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"
_HOOK_TIMEOUT: Final = 20.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument(
        "module",
        metavar="MODULE",
        nargs="?",
        help="the module that calls graceful.install(), such as main; it is imported, and nothing is started. "
        "Without it, the environment alone gives the settings.",
    )
    parser.add_argument(
        "--python", metavar="PATH", default="python3", help="the interpreter in the hook's command (default: python3)"
    )
    add_output(parser)
    add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Look at everything."""
    from graceful.doctor.findings import Verdict, worst  # noqa: PLC0415  not for --help

    color = may_color(sys.stdout)
    stdout = take_stdout()
    findings = [*_image(options.python), *_container(options.timeout), *_service(options.module, options.timeout)]
    if options.output == "json":
        text = json.dumps({"findings": [_plain(finding) for finding in findings]}, indent=2) + "\n"
    else:
        text = "".join(f"{line}\n" for finding in findings for line in _lines(finding, color=color))
    write_output(text, stdout, "result")
    return {Verdict.FAIL: FAIL, Verdict.UNKNOWN: INCONCLUSIVE}.get(worst(findings), PASS)


def _image(python: str) -> list[Finding]:
    from graceful.doctor import gathering, image  # noqa: PLC0415  not for --help

    version, executable = gathering.here()
    return [
        image.check_interpreter(version, executable),
        # Before the hook is started, which may write them.
        image.check_bytecode(gathering.bytecode()),
        *(image.check_module(gathering.import_module(*each)) for each in gathering.DEPENDENCIES.items()),
        image.check_hook(python, *gathering.start_hook(python, _HOOK_TIMEOUT)),
    ]


def _container(timeout: float) -> list[Finding]:
    from graceful.doctor import gathering, image  # noqa: PLC0415  not for --help

    first = gathering.pid_one()
    return [
        image.check_pid_one(first, is_self=os.getpid() == 1),
        image.check_user(os.geteuid(), first),
        image.check_filesystem(read_only=gathering.root_is_read_only()),
        image.check_proc(gathering.unreadable()),
        image.check_socket(*gathering.try_socket(os.environ)),
        _processes(timeout),
    ]


def _processes(timeout: float) -> Finding:
    from graceful.doctor.findings import Finding, Verdict  # noqa: PLC0415  not for --help
    from graceful.doctor.image import check_processes  # noqa: PLC0415
    from graceful.processes import ask_status  # noqa: PLC0415

    try:
        answers = ask_status(os.environ, timeout)
    except OSError as error:
        return Finding("processes", Verdict.UNKNOWN, f"they cannot be looked for: {error.strerror}")
    ours = [answer for answer in answers if not answer.foreign]
    phases = {answer.pid: answer.words.get("phase") for answer in ours}
    return check_processes(
        sum(phase == "serving" for phase in phases.values()),
        [pid for pid, phase in phases.items() if phase is None],
        [pid for pid, phase in phases.items() if phase not in (None, "serving")],
        [f"process {answer.pid} is not trusted: {answer.problem}" for answer in answers if answer.foreign],
    )


def _service(module: str | None, timeout: float) -> list[Finding]:
    """What the settings say, and the Eureka that they name."""
    from graceful.doctor.findings import Finding, Verdict  # noqa: PLC0415  not for --help
    from graceful.importing import ImportingError  # noqa: PLC0415

    name = "settings" if module is None else f"import {module}"
    try:
        settings, plan = _settings(module)
    except ImportError:
        return [Finding(name, Verdict.UNKNOWN, "not looked at: a module that graceful needs does not import")]
    except (ValueError, ImportingError) as error:
        return [Finding(name, Verdict.FAIL, str(error), "correct it, and run this again: the rest was not looked at")]
    from graceful.doctor.pod import check_agreement, check_grace, check_variables  # noqa: PLC0415

    return [
        Finding(name, Verdict.OK, "can be used"),
        *check_variables(os.environ),
        check_grace(settings, plan),
        *check_agreement(settings, os.environ),
        *_eureka(settings, timeout),
    ]


def _settings(module: str | None) -> tuple[Settings, Plan]:
    from graceful.settings import load_settings  # noqa: PLC0415  not for --help

    if module is None:
        settings = load_settings({})
        return settings, settings.plan(registry=bool(settings.eureka_url))
    from graceful.importing import install_of  # noqa: PLC0415

    coordinator = install_of(module)
    return coordinator.settings, coordinator.plan


def _eureka(settings: Settings, timeout: float) -> list[Finding]:
    from graceful.doctor.findings import Finding, Verdict  # noqa: PLC0415  not for --help

    if not settings.eureka_url:
        return [Finding("eureka", Verdict.OK, "eureka_url is not set: a service without Eureka")]
    import anyio  # noqa: PLC0415

    from graceful.doctor.eureka import check_clock, check_server, look_at, who  # noqa: PLC0415
    from graceful.registries import servers_of  # noqa: PLC0415
    from graceful.unusable import SettingsError  # noqa: PLC0415

    try:
        servers = servers_of(settings, try_timeout=timeout)
    except SettingsError as error:
        return [Finding("eureka", Verdict.FAIL, str(error), "mount the file, or correct the setting")]
    seen = anyio.run(look_at, servers, *who(settings))
    answering = sum(not each.error for each in seen)
    findings = [check_server(each, others_answer=answering > 0) for each in seen]
    return [*findings, check_clock(seen)] if answering else findings


def _lines(finding: Finding, *, color: bool) -> Sequence[str]:
    verdict = f"{finding.verdict.value:<8}"
    shown = f"{_COLORS[finding.verdict.value]}{verdict}{_PLAIN}" if color else verdict
    first = f"{shown} {finding.check}: {finding.text}"
    return [first, f"{'':<8} -> {finding.fix}"] if finding.fix else [first]


def _plain(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "text": finding.text,
        "fix": finding.fix or None,
    }
