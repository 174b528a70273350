"""Rules about the service's variables in the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.core.names import one_line
from graceful.environment import odd_variables
from graceful.kubernetes.drift import differences
from graceful.kubernetes.lint.rules import Case, Problem, Rule, Severity, container_rule
from graceful.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []


@container_rule(Rule("G601", Severity.ERROR, None, "A variable's value cannot be used: the service would not start."))
def _unusable(case: Case) -> Iterator[Problem]:
    if case.problem:
        named = [name for name in case.container.environ if f"({name})" in case.problem or f" {name} " in case.problem]
        yield Problem(
            case.container.line_of(named[0] if named else ""), one_line(case.problem), "correct it as the message says"
        )


@container_rule(Rule("G602", Severity.WARNING, None, "A variable means nothing to graceful; it may be misspelt."))
def _meaningless(case: Case) -> Iterator[Problem]:
    environ = dict.fromkeys(case.container.unknown, "") | case.container.environ
    for sentence in odd_variables(Settings.model_fields, environ):
        what, _, hint = sentence.partition("; ")
        yield Problem(
            case.container.line_of(sentence.partition(" ")[0]),
            one_line(what),
            hint or "take it out",
        )


@container_rule(Rule("G603", Severity.WARNING, None, "A variable is set twice, to different values."))
def _twice(case: Case) -> Iterator[Problem]:
    before: dict[str, str | None] = {}
    for variable in case.container.variables:
        is_setting = variable.name.startswith(("GRACEFUL_", "EUREKA_"))
        if is_setting and before.get(variable.name, variable.value) != variable.value:
            yield Problem(
                variable.line, f"{variable.name} is set twice, to different values: the last one wins", "leave one"
            )
        before[variable.name] = variable.value


@container_rule(Rule("G604", Severity.WARNING, None, "With `--module`: a variable contradicts `install()`."))
def _disagrees(case: Case) -> Iterator[Problem]:
    if case.numbers is None or not case.numbers.has_module:
        return
    for sentence in differences(case.numbers.settings, case.container.environ):
        named = [name for name in case.container.environ if f" {name}" in sentence]
        what, _, fix = sentence.rpartition(": ")
        yield Problem(case.container.line_of(named[0] if named else ""), one_line(what), one_line(fix))
