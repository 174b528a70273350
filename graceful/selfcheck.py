"""What is said at start-up about the plan: what it costs that the grace period is unknown, and where numbers differ."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE
from graceful.kubernetes.drift import drift
from graceful.kubernetes.manifest import Snippets
from graceful.settings import unknown_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan
    from graceful.settings import Settings

__all__ = ["report_environment", "report_plan", "warnings_about"]

logger = logging.getLogger("graceful.plan")


def report_environment(environ: Mapping[str, str]) -> None:
    """Log the variables that mean nothing: at once, because one of them may be why the service never gets ready."""
    for sentence in unknown_variables(environ):
        logger.warning("%s", sentence)


def report_plan(settings: Settings, plan: Plan, environ: Mapping[str, str]) -> None:
    """Log the plan at INFO and what is wrong with it at WARNING: INFO is invisible by default under uvicorn.

    To be called when the service is ready: its cleanup callbacks belong to the plan.
    """
    logger.info("plan: %s; grace period %gs", plan, settings.effective_grace_period(plan))
    if plan.caches is not None:
        logger.info("propagation, until the last caller has heard: %s", plan.caches)
    for sentence in warnings_about(settings, plan, environ):
        logger.warning("%s", sentence)


def warnings_about(settings: Settings, plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """A sentence for everything that will cost requests or was probably not meant."""
    sentences = drift(settings, plan, environ)
    if settings.kubernetes and settings.grace_period is None:
        sentences += _unknown_grace(settings, plan)
    return sentences


def _unknown_grace(settings: Settings, plan: Plan) -> list[str]:
    waited = plan.wait_within(KUBERNETES_DEFAULT_GRACE)
    if plan.total <= KUBERNETES_DEFAULT_GRACE:
        return []
    cost = (
        f"the propagation wait is cut from {plan.propagation:g}s to {waited:.0f}s, so callers may go on calling for "
        f"{plan.propagation - waited:.0f}s after this pod is gone"
        if waited < plan.propagation
        else "what is in flight gets less time than planned"
    )
    return [
        f"grace_period is not set, so the {KUBERNETES_DEFAULT_GRACE:g}s that Kubernetes gives by default are assumed; "
        f"the plan is {plan}: {cost}. Apply this patch (python -m graceful manifest prints it):\n"
        + Snippets(settings, plan).patch
    ]
