"""What a rule is, and the list of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graceful.kubernetes.lint.numbers import Numbers
    from graceful.kubernetes.lint.pods import Container, Pod

__all__ = [
    "CONTAINER_RULES",
    "POD_RULES",
    "RULES",
    "Case",
    "Finding",
    "PodCase",
    "Problem",
    "Rule",
    "Severity",
    "container_rule",
    "pod_rule",
]


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"
    """Kubernetes refuses it, or requests are lost."""
    WARNING = "warning"
    """It works as it is only where something holds that the manifest does not say."""
    NOTE = "note"
    """Good to know."""
    INCONCLUSIVE = "inconclusive"
    """It cannot be told from what was given."""


class Problem(NamedTuple):
    """What a rule has found: the line, why it is wrong, and what to do."""

    line: int
    why: str
    fix: str


class Finding(NamedTuple):
    """A problem, and where it is.

    Attributes:
        rule: the rule's id.
        severity: what it weighs here.
        file: the file.
        line: the line, from 1.
        subject: the object, and the container where it is about one.
        why: what is wrong.
        fix: what to do.
    """

    rule: str
    severity: Severity
    file: str
    line: int
    subject: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Case:
    """A container that a rule looks at.

    Attributes:
        pod: its pod.
        container: the container.
        numbers: what the service in it runs with, if graceful runs in it and that could be told.
        is_ours: whether graceful runs in it.
        problem: why its settings cannot be used, where they cannot.
        kubernetes: the oldest version that the manifest is for, None for any that the project supports.
    """

    pod: Pod
    container: Container
    numbers: Numbers | None
    is_ours: bool
    problem: str = ""
    kubernetes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PodCase:
    """A pod that a rule looks at, with all its containers."""

    pod: Pod
    cases: tuple[Case, ...]

    @property
    def ours(self) -> list[Case]:
        """The containers that graceful runs in."""
        return [case for case in self.cases if case.is_ours]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        id: what it is called in a finding and where it is ignored.
        severity: what it weighs where graceful runs.
        elsewhere: what it weighs in other containers and pods; None: it does not look at them.
        summary: what it finds, for the documentation.
    """

    id: str
    severity: Severity
    elsewhere: Severity | None
    summary: str


RULES: Final[dict[str, Rule]] = {
    rule.id: rule
    for rule in (
        Rule("G001", Severity.ERROR, Severity.ERROR, "A file cannot be read as YAML or JSON."),
        Rule("G002", Severity.ERROR, Severity.ERROR, "A key stands twice in an object that has a pod template."),
        Rule("G003", Severity.WARNING, Severity.WARNING, "`graceful: ignore` names no rule that there is."),
        Rule("G004", Severity.INCONCLUSIVE, Severity.INCONCLUSIVE, "There is no pod template in what was given."),
        Rule("G005", Severity.INCONCLUSIVE, None, "A setting comes from where it cannot be seen."),
        Rule("G006", Severity.INCONCLUSIVE, None, "It cannot be told which container runs the module."),
        Rule("G007", Severity.INCONCLUSIVE, Severity.INCONCLUSIVE, "A file is a template that nobody has filled in."),
        Rule(
            "G008", Severity.INCONCLUSIVE, Severity.INCONCLUSIVE, "A pod is a patch for another one: it has no image."
        ),
    )
}
"""Every rule by its id: those about reading, and what the decorators add."""

ContainerCheck: TypeAlias = "Callable[[Case], Iterator[Problem]]"
PodCheck: TypeAlias = "Callable[[PodCase], Iterator[Problem]]"
CONTAINER_RULES: Final[dict[str, ContainerCheck]] = {}
POD_RULES: Final[dict[str, PodCheck]] = {}


def container_rule(rule: Rule) -> Callable[[ContainerCheck], ContainerCheck]:
    """Have a function look at every container."""

    def add(check: ContainerCheck) -> ContainerCheck:
        RULES[rule.id] = rule
        CONTAINER_RULES[rule.id] = check
        return check

    return add


def pod_rule(rule: Rule) -> Callable[[PodCheck], PodCheck]:
    """Have a function look at every pod."""

    def add(check: PodCheck) -> PodCheck:
        RULES[rule.id] = rule
        POD_RULES[rule.id] = check
        return check

    return add
