"""What the pod's environment is judged by: the settings, the plan, and what means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE
from graceful.doctor.findings import Finding, Verdict
from graceful.environment import odd_variables
from graceful.kubernetes.drift import differences
from graceful.settings import Settings
from graceful.wire import ENV_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan

__all__ = ["check_agreement", "check_grace", "check_variables"]


def check_grace(settings: Settings, plan: Plan) -> Finding:
    """Whether the leave fits into the grace period. The pod's own number cannot be seen from inside.

    Args:
        settings: what the application runs with.
        plan: its plan.
    """
    name, set_both = "grace period", "set terminationGracePeriodSeconds and GRACEFUL_GRACE_PERIOD to {}"
    if settings.grace_period is not None:
        if round(plan.total - settings.grace_period, 6) > 0:
            text = f"the plan is {plan}, and GRACEFUL_GRACE_PERIOD is {settings.grace_period:g}s"
            return Finding(name, Verdict.FAIL, text, set_both.format(plan.grace_period))
        text = f"{settings.grace_period:g}s for the plan, {plan}; the pod's own must be the same"
        return Finding(name, Verdict.OK, text)
    if not settings.kubernetes:
        return Finding(name, Verdict.OK, f"not in Kubernetes: the plan, {plan}")
    if plan.total <= KUBERNETES_DEFAULT_GRACE:
        return Finding(name, Verdict.OK, f"Kubernetes' default of {KUBERNETES_DEFAULT_GRACE:g}s for the plan, {plan}")
    text = f"GRACEFUL_GRACE_PERIOD is not set, so {KUBERNETES_DEFAULT_GRACE:g}s are assumed, and the plan is {plan}"
    fix = f"{set_both.format(plan.grace_period)}; python -m graceful manifest prints the patch"
    return Finding(name, Verdict.WARNING, text, fix)


def check_variables(environ: Mapping[str, str]) -> list[Finding]:
    """Variables that mean nothing, and those that give one setting different values. No value is quoted."""
    sentences = odd_variables(Settings.model_fields, environ) + [
        f"{', '.join(others)} and {first} differ, and give the same setting {setting}: {first} wins"
        for setting in ENV_NAMES
        for first, *others in _differing(setting, environ)
    ]
    if not sentences:
        return [Finding("variables", Verdict.OK, "every GRACEFUL_… and EUREKA_… variable is understood")]
    return [
        Finding("variables", Verdict.WARNING, sentence, "correct the container's env, or take it out")
        for sentence in sentences
    ]


def check_agreement(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Where the hook, which sees the environment alone, would go by other numbers than the application."""
    sentences = differences(settings, environ)
    if not sentences:
        return [Finding("agreement", Verdict.OK, "hook and application go by the same settings")]
    return [Finding("agreement", Verdict.WARNING, sentence) for sentence in sentences]


def _differing(setting: str, environ: Mapping[str, str]) -> list[list[str]]:
    """The variables of one setting that have different values, the one that wins first; none, or one such list."""
    # What Kubernetes makes for a Service named graceful is no port, and Spring's …PATH is another form of a URL.
    given = {
        name: environ[name].strip()
        for name in ENV_NAMES[setting]
        if environ.get(name, "").strip()
        and not name.endswith("PATH")
        and not (setting.endswith("port") and "://" in environ[name])
    }
    first = next(iter(given), "")
    others = [name for name in given if given[name] != given[first]]
    return [[first, *others]] if others else []
