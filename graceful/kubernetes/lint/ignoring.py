"""Findings that somebody has looked at: `# graceful: ignore G104 the reason`, or an annotation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from graceful.kubernetes.lint.rules import RULES, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.kubernetes.lint.pods import Pod
    from graceful.kubernetes.lint.reading import Source

__all__ = ["ANNOTATION", "Ignored", "annotated"]

ANNOTATION: Final = "graceful/ignore"
"""Of the pod template or of the object; the value is like the comment's: `G104 G406 the reason`."""

_COMMENT: Final = re.compile(r"(?:^|\s)#\s*graceful:\s*ignore\b[:\s]*(?P<rest>.*)$")
_IDS: Final = re.compile(r"G\d+\b(?:\s*,?\s*G\d+\b)*")


@dataclass(frozen=True, slots=True)
class Ignored:
    """What the comments of a file say: a comment counts for its line, or for the next if it stands by itself.

    Attributes:
        by_line: the rules that are ignored, by line.
        problems: the comments that name no rule.
    """

    by_line: dict[int, set[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, source: Source) -> Ignored:
        """Read a file's comments."""
        found = cls()
        waiting: set[str] = set()
        for number, line in enumerate(source.lines, 1):
            comment = _COMMENT.search(line)
            named = _named(comment["rest"]) if comment else set()
            if comment:
                found.problems.extend(_unknown(named, number))
            if line.lstrip().startswith("#"):
                waiting |= named
            elif line.strip():
                found.by_line[number] = named | waiting
                waiting = set()
        return found


def annotated(pod: Pod) -> tuple[set[str], Iterator[Problem]]:
    """The rules that a pod's annotations ignore, and the annotations that name none."""
    values = [each["metadata"]["annotations"][ANNOTATION] for each in (pod.workload, pod.template)]
    given = [(_named(value.text), value.line) for value in values if value]
    problems = (problem for named, line in given for problem in _unknown(named, line))
    return set[str]().union(*(named for named, _ in given)), problems


def _named(text: str) -> set[str]:
    ids = _IDS.match(text.strip())
    return set(re.findall(r"G\d+", ids[0])) if ids else set()


def _unknown(named: set[str], line: int) -> Iterator[Problem]:
    wrong = sorted(named - RULES.keys())
    if wrong or not named:
        what = f"there is no rule {' and no rule '.join(wrong)}" if wrong else "no rule is named"
        yield Problem(line, f"graceful: ignore has no effect here: {what}", "write # graceful: ignore G104 the reason")
