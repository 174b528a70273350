"""The early end of the propagation wait: looks at the callers' silence only as often as it may have changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio

from graceful.core.silence import EarlyEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from graceful.core.silence import Callers, EarlyEndRule

__all__ = ["until_silent"]

logger = logging.getLogger("graceful.early_end")

_LOOK_AGAIN: Final = 5.0
"""Seconds after which callers are judged anew at the latest: who called meanwhile is known better by then."""


async def until_silent(
    callers: Callers, rule: EarlyEndRule, *, since: float, wait: float, clock: Callable[[], float]
) -> EarlyEnd:
    """Return when the silence of every caller is significant; that may be never.

    Requests wake nobody: who called meanwhile has only pushed the instant, which is seen when it is reached.

    Args:
        callers: who called, and calls.
        rule: when the wait may end.
        since: the instant that silence counts from.
        wait: seconds of the whole wait.
        clock: monotonic seconds; the clock of the event loop.
    """
    # Said once: when the whole wait stands, people want to know for whom.
    logger.info("early end: %s", callers.judge(since, wait, rule.risk))
    while True:
        judgement = callers.judge(since, wait, rule.risk)
        now, ends = clock(), max(judgement.at, since + rule.least)
        if ends <= now:
            return EarlyEnd(now - since, judgement.judged, judgement.rare, judgement.last, rule.risk)
        await anyio.sleep_until(min(ends, now + _LOOK_AGAIN))
