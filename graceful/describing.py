"""What a process says of itself on its hook's socket: a few words, bounded, and without credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import graceful
from graceful.core.names import one_line
from graceful.core.siblings import YES
from graceful.sharing import SharedRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.registry import Registry
    from graceful.life import Life
    from graceful.sharing import Siblings

__all__ = ["describe"]

_LONGEST: Final = 300
"""Characters of what other people's code has said: the whole answer has to stay small."""


def describe(life: Life, registry: Registry | None, siblings: Siblings | None, now: float) -> Mapping[str, str]:
    """What a process is doing, for its siblings and for `python -m graceful status`. Synchronous: it never blocks.

    The siblings rest on `phase`, `instance`, `announced`, `alone` and `finished`, and the postStart hook on `phase` and
    `registered`. Any key may be added; none changes its meaning. Durations are in seconds; what there is nothing to say
    of is empty.

    Args:
        life: its life.
        registry: where callers look it up, None where they do not.
        siblings: the other processes of its instance, None for a process that stands for itself.
        now: the instant.
    """
    leave, entered = life.leave, life.lifecycle.entered(life.lifecycle.phase)
    return {
        "phase": life.lifecycle.phase.value,
        "instance": siblings.instance if siblings else "",
        "in_flight": str(len(life.in_flight)),
        "announced": _word(registry is not None and registry.announced),
        "alone": _word(leave is not None and leave.alone),
        "finished": _word(life.finished),
        "version": graceful.__version__,
        "since": _seconds(None if entered is None else now - entered),
        "began": _bounded(leave.reason) if leave else "",
        "remaining": _seconds(max(0.0, leave.budget.last_call - now) if leave else None),
        "wait": _seconds(_wait(life, now)),
        # Empty where there is nowhere to register; of several processes one may speak for all. A registry of the user's
        # own need not have `seen_up`.
        "registered": "" if registry is None else _word(getattr(registry, "seen_up", registry.announced)),
        "owner": _word(siblings.ownership.held) if siblings and isinstance(registry, SharedRegistry) else "",
        **_registry(life, registry),
        "problems": str(len(life.problems)),
        "problem": _bounded(life.problems[0]) if life.problems else "",
    }


def _wait(life: Life, now: float) -> float | None:
    """Seconds of the propagation wait that are left, at most."""
    if life.wait_ends is None or life.wait_is_over:
        return None
    return max(0.0, life.wait_ends - now)


def _registry(life: Life, registry: Registry | None) -> dict[str, str]:
    """How the instance stands in the registry, as far as this process has seen to it or has seen it."""
    if registry is None:
        return {"registry": "none", "verdict": "", "detail": ""}
    for state, outcome in (("deregistered", life.deregistered), ("out_of_service", life.withdrawn)):
        if outcome is not None:
            return {"registry": state, "verdict": outcome.verdict.value, "detail": _bounded(str(outcome))}
    if not registry.announced:
        return {"registry": "absent", "verdict": "", "detail": ""}
    state = "withdrawing" if life.leave and life.leave.alone is False else "announced"
    failing = [f"{call.operation} {call}" for call in registry.calls if not call.verified and call.operation]
    return {"registry": state, "verdict": "", "detail": _bounded("; ".join(failing))}


def _word(flag: object) -> str:
    return YES if flag else "no"


def _seconds(value: float | None) -> str:
    return "" if value is None else format(value, ".3f")


def _bounded(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
