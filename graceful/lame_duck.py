"""The lame duck: the instance is taken out of service, and serves on until nobody calls it any more."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from graceful.early_end import until_silent

if TYPE_CHECKING:
    from graceful.core.leave import Leave
    from graceful.core.registry import Registry
    from graceful.core.silence import EarlyEndRule
    from graceful.journal import Journal

__all__ = ["LameDuck"]

_HURRIED_ANNOUNCE: Final = 1.0
"""Seconds for OUT_OF_SERVICE where nobody waits for its effect: the deregistration follows at once."""

_ANSWER_SLACK: Final = 0.25
"""Seconds for the registry to say what came of its time."""


class LameDuck:
    """The lame duck of one leave, of a process that takes its instance with it.

    Args:
        leave: the leave.
        journal: of the life that ends with it.
        registry: where callers may have learned of the instance; None where there is nothing to take back.
        early_end: when the propagation wait may end before its time; None for never.
    """

    def __init__(
        self, leave: Leave, journal: Journal, *, registry: Registry | None, early_end: EarlyEndRule | None
    ) -> None:
        self._leave = leave
        self._journal = journal
        self._life = journal.life
        self._changes = journal.changes
        self._clock = journal.clock
        self._registry = registry
        self._early_end = early_end

    async def withdraw(self) -> None:
        """Take the instance out of service, and keep it so until cancelled. Beside `serve`, and for longer."""
        if self._registry is None:
            return
        withdrawn = await self._registry.withdraw(self._leave.budget.announce_until(self._clock()))
        self._life.withdrawn = withdrawn
        verified = all(result.verified for result in withdrawn.servers)
        self._journal.say(f"OUT_OF_SERVICE {withdrawn}", logging.INFO if verified else logging.WARNING)
        await self._journal.guard("keeping the instance out of service", self._registry.keep_withdrawn)

    async def serve(self) -> None:
        """Return when the propagation wait is over and, after a hook, SIGTERM has come."""
        began = self._clock()
        if self._registry is not None:
            await self._until_withdrawn()
        verified_at = self._life.withdrawn.first_verified_at if self._life.withdrawn else None
        since = began if verified_at is None else verified_at
        ends = self._life.wait_ends = self._leave.budget.wait_until(began, since=since)
        async with anyio.create_task_group() as meanwhile:
            # Guarded by themselves: what breaks must not end the wait.
            guard = self._journal.guard
            if self._registry is not None:
                meanwhile.start_soon(guard, "watching the servers", self._observe, self._registry, since)
            # Where no server verified, nobody was told: their silence would have another reason.
            if self._early_end is not None and (verified_at is not None or self._registry is None):
                meanwhile.start_soon(guard, "the early end", self._end_early, self._early_end, since)
            self._life.wait_was_whole = await self._until_wait_is_over(ends)
            meanwhile.cancel_scope.cancel()
        self._journal.end_wait()
        # After a hook the kubelet sends SIGTERM, moments later; the app serves until it comes.
        leave = self._leave
        if not await self._changes.until(lambda: leave.may_drain, leave.budget.sigterm_until(self._clock())):
            self._journal.problem(f"no SIGTERM came after {leave.reason}: leaving all the same (was it run by hand?)")

    async def _until_withdrawn(self) -> None:
        life, leave = self._life, self._leave
        until = leave.budget.announce_until(self._clock())
        # A little longer than the registry has: some servers may have verified when the others' time is over.
        if not await self._changes.until(lambda: life.withdrawn or leave.skip_wait, until + _ANSWER_SLACK):
            self._journal.problem("OUT_OF_SERVICE was not verified in time: serving the whole wait all the same")
        if not life.withdrawn and leave.skip_wait:
            await self._changes.until(lambda: life.withdrawn, min(until, self._clock() + _HURRIED_ANNOUNCE))

    async def _until_wait_is_over(self, ends: float) -> bool:
        """Wait until `life.wait_ends`, which others may bring forward meanwhile; False if the wait was skipped."""
        while await self._changes.until(partial(self._ends_otherwise, ends), ends):
            if self._leave.skip_wait or self._life.wait_ends is None:
                return False
            ends = self._life.wait_ends
        return True

    def _ends_otherwise(self, ends: float) -> bool:
        """Whether the wait is over, or ends at another instant than `ends`."""
        return self._leave.skip_wait or self._life.wait_ends != ends

    async def _observe(self, registry: Registry, since: float) -> None:
        """Have the wait for the servers' own cache end when every server is seen to show the change."""
        caches = self._leave.budget.plan.caches
        if caches is None or not caches.observed:
            return
        published = await registry.until_published()
        ends = self._leave.budget.wait_once_published(published, since=since)
        if self._life.wait_ends is not None and ends < self._life.wait_ends:
            self._life.published_at, self._life.wait_ends = published, ends
            shown = f"every server shows the change after {published - since:.1f} s"
            self._journal.say(f"{shown}: {max(0.0, ends - self._clock()):.0f} s more")

    async def _end_early(self, rule: EarlyEndRule, since: float) -> None:
        """Have the wait end when nobody has called for long enough."""
        wait = self._leave.budget.plan.propagation
        evidence = await until_silent(self._life.callers, rule, since=since, wait=wait, clock=self._clock)
        ends = since + evidence.after
        if self._life.wait_ends is not None and ends < self._life.wait_ends:
            self._life.early_end, self._life.wait_ends = evidence, ends
            self._journal.say(str(evidence))
