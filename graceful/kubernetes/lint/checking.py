"""Lints manifests: reads them, finds out where graceful runs, and asks every rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graceful.core.budget import BudgetError
from graceful.core.names import one_line
from graceful.kubernetes.lint import (
    numbers,
    rules_grace,
    rules_hook,  # noqa: F401  its rules
    rules_pod,  # noqa: F401
    rules_process,  # noqa: F401
    rules_rollout,  # noqa: F401
    rules_settings,  # noqa: F401
)
from graceful.kubernetes.lint.ignoring import Ignored, annotated
from graceful.kubernetes.lint.pods import config_maps, pods_of
from graceful.kubernetes.lint.reading import TemplateError, UnreadableError, read
from graceful.kubernetes.lint.rules import CONTAINER_RULES, POD_RULES, RULES, Case, Finding, PodCase, Problem, Severity
from graceful.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from graceful.kubernetes.lint.pods import Container, Pod

__all__ = ["Counted", "Options", "Report", "lint"]


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for.

    Attributes:
        module: the module that calls `install()`; empty for none.
        container: the container that it, or graceful, runs in; empty: those that show it.
        kubernetes: the oldest version that the manifests are for, such as `(1, 29)`.
        ignore: rules that do not count anywhere.
    """

    module: str = ""
    container: str = ""
    kubernetes: tuple[int, int] | None = None
    ignore: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Counted:
    """The numbers that a container was held against.

    Attributes:
        file: the file.
        line: the line of the container.
        subject: the object and the container.
        plan: the plan, in words.
        needs: seconds of grace that it comes to, with what a hook sleeps besides.
        has: seconds of grace that the pod has.
        origin: where the plan is from.
    """

    file: str
    line: int
    subject: str
    plan: str
    needs: int
    has: int
    origin: str


@dataclass(slots=True)
class Report:
    """What was found.

    Attributes:
        findings: in the order of files and lines.
        counted: the numbers that were used, one for each container that graceful runs in.
        pods: how many pod templates were looked at.
        ignored: how many findings a comment, an annotation or an option has taken out.
    """

    findings: list[Finding] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    pods: int = 0
    ignored: int = 0

    def count(self, severity: Severity) -> int:
        """How many findings weigh that much."""
        return sum(finding.severity is severity for finding in self.findings)


def lint(files: Iterable[tuple[str, bytes]], options: Options) -> Report:
    """Lint manifests. With a module, nothing else may run in this process: its environment is replaced meanwhile.

    Args:
        files: their names and what is in them.
        options: what is asked for.

    Raises:
        ImportingError: the module does not import, or installs nothing.
        ImportError: ruamel.yaml is not there.
    """
    linter = _Linter(options)
    sources = []
    for name, data in files:
        try:
            sources.append(read(name, data))
        except TemplateError as error:
            fix = "lint what fills it in: helm template … | python -m graceful lint -"
            linter.add("G007", name, "", Problem(error.line, str(error), fix))
        except UnreadableError as error:
            linter.add("G001", name, "", Problem(error.line, str(error), "correct the file"))
    maps = config_maps(sources)
    linter.ignored = {source.name: Ignored.of(source) for source in sources}
    for name, ignored in linter.ignored.items():
        for problem in ignored.problems:
            linter.add("G003", name, "", problem)
    linter.check([pod for source in sources for pod in pods_of(source, maps)])
    if not linter.report.pods and not linter.report.findings:
        names = ", ".join(source.name for source in sources[:3]) or "nothing"
        linter.add(
            "G004",
            sources[0].name if sources else "-",
            "",
            Problem(1, f"there is no pod template in {names}", "give the file with the Deployment, or what renders it"),
        )
    linter.report.findings.sort(key=lambda finding: (finding.file, finding.line, finding.rule))
    return linter.report


class _Linter:
    """Collects what the rules say of one pod after the other."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.report = Report()
        self.ignored: dict[str, Ignored] = {}
        self._annotated: frozenset[str] = frozenset()
        self._imported: tuple[str, dict[str, str], numbers.Numbers] | None = None

    def add(self, rule: str, file: str, subject: str, problem: Problem, *, ours: bool = True) -> None:
        """Take a finding, unless it is ignored or the rule does not look there."""
        severity = RULES[rule].severity if ours else RULES[rule].elsewhere
        comments = self.ignored.get(file, Ignored()).by_line
        if severity is None:
            return
        if rule in self.options.ignore | self._annotated | comments.get(problem.line, set()):
            self.report.ignored += 1
            return
        finding = Finding(rule, severity, file, problem.line, one_line(subject), problem.why, problem.fix)
        self.report.findings.append(finding)

    def check(self, pods: list[Pod]) -> None:
        """Ask every rule about every pod."""
        ours = self._ours(pods)
        for pod in pods:
            self.report.pods += 1
            ignored, problems = annotated(pod)
            self._annotated = frozenset(ignored)  # until the next pod
            for problem in problems:
                self.add("G003", pod.source.name, pod.title, problem)
            for key, line in pod.workload.keys_given_twice():
                why = f"{one_line(repr(key))} stands twice: the API refuses it, or only the last counts"
                self.add("G002", pod.source.name, pod.title, Problem(line, why, "take one out"))
            if pod.is_patch:
                why = "a container has no image, so this is a patch: what it does not say cannot be told"
                fix = "lint what it comes to: kustomize build … | python -m graceful lint -"
                self.add("G008", pod.source.name, pod.title, Problem(pod.spec["containers"].line, why, fix))
                continue
            case = PodCase(pod, tuple(self._case(pod, each, each in ours) for each in pod.containers))
            for each in case.cases:
                for rule, check in CONTAINER_RULES.items():
                    self._take(rule, pod, each.container.name, check(each), ours=each.is_ours)
            for rule, check_pod in POD_RULES.items():
                self._take(rule, pod, "", check_pod(case), ours=bool(case.ours))
        self._annotated = frozenset()

    def _take(self, rule: str, pod: Pod, container: str, problems: Iterator[Problem], *, ours: bool) -> None:
        if not ours and RULES[rule].elsewhere is None:
            return
        subject = f"{pod.title}, container {container}" if container else pod.title
        for problem in problems:
            self.add(rule, pod.source.name, subject, problem, ours=ours)

    def _ours(self, pods: list[Pod]) -> list[Container]:
        """The containers that graceful runs in, as far as that can be told."""
        every = [(pod, container) for pod in pods for container in pod.containers]
        wanted = self.options.container
        if wanted:
            found = [container for _, container in every if container.name == wanted]
        else:
            found = [container for _, container in every if container.uses_graceful]
        if not found and self.options.module and not wanted and len(every) == 1:
            found = [every[0][1]]
        if every and not found and (wanted or self.options.module):
            names = ", ".join(sorted({one_line(container.name) for _, container in every})[:10])
            which = f"no container is called {wanted}" if wanted else "no container shows that graceful runs in it"
            problem = Problem(every[0][1].line, f"{which}; there are: {names}", "name it: --container NAME")
            self.add("G006", every[0][0].source.name, "", problem)
        return found

    def _case(self, pod: Pod, container: Container, ours: bool) -> Case:
        if not ours:
            return Case(pod, container, None, is_ours=False, kubernetes=self.options.kubernetes)
        subject = f"{pod.title}, container {container.name}"
        for line, what in numbers.unseen(container):
            fix = "give the ConfigMap in the same input, or set it in the manifest"
            self.add("G005", pod.source.name, subject, Problem(line, f"{one_line(what)}, which is not here", fix))
        found, problem = None, ""
        try:
            found = self._numbers(pod, container)
        except (SettingsError, BudgetError) as error:
            problem = str(error)
        case = Case(pod, container, found, is_ours=True, problem=problem, kubernetes=self.options.kubernetes)
        need = rules_grace.needed(case)
        if found is not None and need is not None:
            self.report.counted.append(
                Counted(
                    pod.source.name, container.line, one_line(subject), str(found.plan), need, pod.grace, found.origin
                )
            )
        return case

    def _numbers(self, pod: Pod, container: Container) -> numbers.Numbers | None:
        module = self.options.module
        if not module:
            return numbers.from_environment(container)
        if self._imported is None:
            imported = numbers.from_module(container, module)
            self._imported = (container.name, container.environ, imported)
        name, environ, imported = self._imported
        if environ == container.environ:
            return imported
        problem = Problem(
            container.line,
            f"{module} was imported with the variables of another container ({one_line(name)}); these differ",
            "lint this file by itself",
        )
        self.add("G005", pod.source.name, f"{pod.title}, container {container.name}", problem)
        return None
