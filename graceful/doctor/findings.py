"""What the doctor finds: one line about each thing that was looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Finding", "Verdict", "worst"]


class Verdict(enum.Enum):
    """How it stands, the worst last."""

    OK = "ok"
    WARNING = "warning"
    UNKNOWN = "unknown"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name.
        verdict: how it stands. `WARNING` works, but costs something; `UNKNOWN` could not be looked at.
        text: what was found; without credentials.
        fix: what to do, empty where there is nothing.
    """

    check: str
    verdict: Verdict
    text: str
    fix: str = ""


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst of all verdicts: a failure is one whatever could not be looked at beside it."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
