"""Rules about the grace period: whether the leave fits into it, and whether everybody knows of the same one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE
from graceful.core.caches import seconds_of
from graceful.kubernetes.lint.rules import Case, PodCase, Problem, Rule, Severity, container_rule, pod_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needed"]

_VARIABLE: Final = "GRACEFUL_GRACE_PERIOD"
_FIELD: Final = "terminationGracePeriodSeconds"
_POLICY_CAP: Final = 50
"""What Kyverno's sample policy `mutate-large-termination-gps` cuts a longer grace period to."""
_INTERRUPTION: Final = 120
"""Seconds between the notice and the end of an interrupted spot instance on AWS; other clouds give less."""
_AUTOSCALER_CAP: Final = 600
"""`--max-graceful-termination-sec` of the cluster autoscaler, by default."""


def needed(case: Case) -> int | None:
    """Seconds of grace that a container of ours needs: its whole plan, and what its hook sleeps besides."""
    if case.numbers is None:
        return None
    slept = case.container.hook.sleep if case.container.hook else 0.0
    return max(1, math.ceil(round(case.numbers.plan.total + slept, 6)))


@container_rule(Rule("G101", Severity.ERROR, None, "The grace period is shorter than the plan."))
def _shorter_than_plan(case: Case) -> Iterator[Problem]:
    need = needed(case)
    if need is not None and case.numbers is not None and case.pod.grace < need:
        slept = case.container.hook.sleep if case.container.hook else 0.0
        more = f", after a hook that sleeps {seconds_of(slept)}" if slept else ""
        yield Problem(
            case.pod.grace_line,
            f"{_FIELD} is {_as_given(case)}, but the plan is {case.numbers.plan}{more}: the end of it is cut off",
            _setting_both(need, _given_to(case, need)),
        )


@container_rule(
    Rule("G102", Severity.ERROR, Severity.WARNING, "The preStop hook sleeps as long as the grace period, or longer.")
)
def _hook_uses_it_up(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    if hook is None or not hook.handlers:
        return
    if case.pod.grace == 0:
        yield Problem(case.pod.grace_line, f"{_FIELD} is 0: the preStop hook never runs", f"set {_FIELD}, or no hook")
    elif hook.sleep >= case.pod.grace:
        yield Problem(
            hook.value.line,
            f"the preStop hook sleeps {seconds_of(hook.sleep)}, and {_FIELD} is {_as_given(case)}: SIGTERM comes when "
            "it is used up, 2 s before SIGKILL",
            f"set {_FIELD} to what the hook takes and what the container needs after it, or sleep shorter",
        )


@container_rule(Rule("G103", Severity.ERROR, None, "The service is told of a longer grace period than the pod has."))
def _told_of_more(case: Case) -> Iterator[Problem]:
    told = case.numbers.settings.grace_period if case.numbers else None
    left = _left_at_sigterm(case)
    if told is not None and told > (case.pod.grace if left is None else left):
        slept = case.pod.grace - left if left is not None else 0.0
        more = f", of which the hook sleeps {seconds_of(slept)}" if slept else ""
        yield Problem(
            case.container.line_of(_VARIABLE),
            f"the service counts on {seconds_of(told)} of grace, but {_FIELD} is {_as_given(case)}{more}: SIGKILL "
            "comes in the middle of its leave",
            _setting_both(math.ceil(told + slept), math.ceil(told)),
        )


@container_rule(Rule("G104", Severity.WARNING, None, "The service is not told how long the grace period is."))
def _told_of_less(case: Case) -> Iterator[Problem]:
    if case.numbers is None or _VARIABLE in case.container.unknown:
        return
    told, left = case.numbers.settings.grace_period, _left_at_sigterm(case)
    if told is None and case.pod.grace != KUBERNETES_DEFAULT_GRACE:
        why = f"{_VARIABLE} is not set, so {seconds_of(KUBERNETES_DEFAULT_GRACE)} are assumed"
    elif told is not None and left is not None and told < left:
        why = f"the service counts on {seconds_of(told)} of grace"
    else:
        return
    yield Problem(
        case.container.line_of(_VARIABLE),
        f"{why}, but {_FIELD} is {_as_given(case)}: the leave is cut to fit, or time stays unused",
        f'set {_VARIABLE} to "{_given_to(case, case.pod.grace)}"',
    )


def _left_at_sigterm(case: Case) -> float | None:
    """Seconds of grace that a service may count on from the moment it hears of the leave; None where it cannot be told.

    A hook of ours tells it at once. Any other is over first; how long a script takes is for its author to know.
    """
    hook = case.container.hook
    if hook is None or hook.is_ours or not hook.handlers:
        return case.pod.grace
    return case.pod.grace - hook.sleep if hook.handlers == ["sleep"] else None


def _setting_both(grace: int, told: int) -> str:
    if told == grace:
        return f"set {_FIELD} and {_VARIABLE} to {grace}"
    return f"set {_FIELD} to {grace}, and {_VARIABLE} to {told}"


def _given_to(case: Case, grace: int) -> int:
    """Whole seconds that the service is to be told of, if the pod's grace period is `grace`."""
    left = _left_at_sigterm(case)
    return grace if left is None else max(0, math.floor(grace - case.pod.grace + left))


@pod_rule(Rule("G105", Severity.NOTE, None, "The grace period is longer than policies and interruptions often allow."))
def _often_capped(case: PodCase) -> Iterator[Problem]:
    grace = case.pod.grace
    if not case.ours or not _POLICY_CAP < grace <= _AUTOSCALER_CAP:
        return
    more = f", an interrupted spot instance ends after {_INTERRUPTION} s at the latest" * (grace > _INTERRUPTION)
    yield Problem(
        case.pod.grace_line,
        f"{_FIELD} is {grace}: a policy may cut it (a sample of Kyverno's does, to {_POLICY_CAP} s){more}",
        f"look at a pod that runs: kubectl get pod NAME -o jsonpath={{.spec.{_FIELD}}}",
    )


@pod_rule(
    Rule("G106", Severity.WARNING, Severity.NOTE, "The grace period is longer than the cluster autoscaler waits.")
)
def _cut_by_autoscaler(case: PodCase) -> Iterator[Problem]:
    if case.pod.grace > _AUTOSCALER_CAP and case.pod.serves:
        yield Problem(
            case.pod.grace_line,
            f"{_FIELD} is {case.pod.grace}, but the cluster autoscaler waits {_AUTOSCALER_CAP} s when it drains",
            f"shorten it, or raise the autoscaler's --max-graceful-termination-sec (default {_AUTOSCALER_CAP})",
        )


def _as_given(case: Case) -> str:
    is_set = bool(case.pod.spec[_FIELD])
    return str(case.pod.grace) if is_set else f"not set, which makes it {case.pod.grace}"
