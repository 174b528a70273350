"""Shows what a lint has found: as lines for people and editors, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from graceful.kubernetes.lint.rules import RULES, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.kubernetes.lint.checking import Report

__all__ = ["as_json", "as_markdown", "as_text"]


def as_text(report: Report) -> str:
    """A line `file:line: severity rule: …` for each finding with its fix below, then the numbers that were used."""
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(report: Report) -> Iterator[str]:
    for each in report.findings:
        about = f"{each.subject}: " if each.subject else ""
        yield f"{each.file}:{each.line}: {each.severity} {each.rule}: {about}{each.why}"
        yield f"    fix: {each.fix}"
    for used in report.counted:
        yield f"{used.file}:{used.line}: {used.subject}: needs {used.needs} s, has {used.has} s"
        yield f"    plan: {used.plan}"
        yield f"    from: {used.origin}"
    yield _summary(report)


def _summary(report: Report) -> str:
    counts = [
        f"{count} {severity}{_plural(severity, count)}" for severity in Severity if (count := report.count(severity))
    ]
    if report.ignored:
        counts.append(f"{report.ignored} ignored")
    looked = f"{report.pods} pod template{'s' * (report.pods != 1)}"
    graceful = "" if report.counted else ", none of which shows that graceful runs in it" * bool(report.pods)
    return f"{looked}{graceful}: {', '.join(counts) or 'nothing found'}"


def _plural(severity: Severity, count: int) -> str:
    return "s" if count != 1 and severity is not Severity.INCONCLUSIVE else ""


def as_json(report: Report) -> str:
    """The same as one JSON object."""
    shown = {
        "findings": [each._asdict() for each in report.findings],
        "numbers": [asdict(each) for each in report.counted],
        "pods": report.pods,
        "ignored": report.ignored,
    }
    return json.dumps(shown, indent=2) + "\n"


def as_markdown() -> str:
    """The table of all rules, for the documentation."""
    rows = [
        f"| {rule.id} | {rule.severity} | {rule.elsewhere or '—'} | {rule.summary} |"
        for rule in sorted(RULES.values(), key=lambda rule: rule.id)
    ]
    return "\n".join(["| rule | where graceful runs | elsewhere | what it finds |", "|---|---|---|---|", *rows])
