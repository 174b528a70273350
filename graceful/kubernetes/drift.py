"""Where the manifest and the app have drifted apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.environment import find_variable
from graceful.kubernetes.needs import HOOK_DURATIONS, HOOK_FILES
from graceful.values import to_urls
from graceful.wire import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan
    from graceful.settings import Settings

__all__ = ["differences", "drift"]


def drift(settings: Settings, plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """Where the manifest's environment differs from what the app runs with, a sentence each.

    Arguments of `install()` win over the environment, but only in the app: the hook does not see them.

    Args:
        settings: what the app runs with.
        plan: its plan as it stands now.
        environ: the environment that the manifest has injected, into the app as into the hook.
    """
    grace = find_variable("grace_period", environ)
    given = (_seconds(grace.value) if grace else None) or settings.grace_period
    sentences = []
    if given is not None and round(plan.total - given, 6) > 0:
        sentences.append(
            f"the plan is {plan}, but the manifest gives the pod {given:g}s: "
            f"set terminationGracePeriodSeconds and GRACEFUL_GRACE_PERIOD to {plan.grace_period}"
        )
    return sentences + differences(settings, environ)


def differences(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Where the environment says something else than the app runs with, a sentence each.

    Args:
        settings: what the app runs with.
        environ: the environment that the manifest gives the app and the hook.
    """
    sentences = []
    compared = ["grace_period", *HOOK_DURATIONS]
    if settings.eureka_url:
        compared += ["app_name", "port", "instance_id", "ip_addr", "eureka_url", *HOOK_FILES]
        # Only where a manifest of ours is in force: elsewhere there may be no hook at all.
        if find_variable("grace_period", environ) is not None and find_variable("eureka_url", environ) is None:
            sentences.append(
                "the manifest does not give the hook GRACEFUL_EUREKA_URL, so it could not withdraw this instance if "
                "the app did not answer: generate the manifest again; an address with credentials belongs into a Secret"
            )
    return sentences + [sentence for name in compared if (sentence := _difference(settings, name, environ))]


def _difference(settings: Settings, name: str, environ: Mapping[str, str]) -> str:
    """A sentence if the environment says something else about a setting than the app runs with."""
    variable = find_variable(name, environ)
    value = getattr(settings, name)
    if variable is None or _agrees(name, variable.value, value):
        return ""
    if name == "eureka_url":
        ours, theirs = f"runs with {','.join(str(url) for url in value)}", "another address"
    elif isinstance(value, float):
        ours, theirs = f"runs with {name}={value:g}", repr(variable.value)
    else:
        ours, theirs = f"runs with {name}={value!r}", repr(variable.value)
    return (
        f"the app {ours}, but {variable.name}, which the hook reads, is {theirs}: leave the argument of install() "
        "out, or generate the manifest again"
    )


def _agrees(name: str, text: str, value: object) -> bool:
    if name == "eureka_url":
        try:
            return to_urls(text) == value
        except ValueError:
            return False
    if isinstance(value, float):
        seconds = _seconds(text)
        return seconds is not None and abs(seconds - value) < 0.01
    return text == str(value)


def _seconds(text: str) -> float | None:
    try:
        return parse_duration(text)
    except ValueError:
        return None
