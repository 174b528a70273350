"""A registry that the processes of one container share: one of them speaks for all.

Several workers are one instance: the same host and port. If each registered and deregistered it, the first to go would
take it away from all others.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import anyio

from graceful.core.registry import Registry, RegistryOutcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graceful.core.registry import ServerResult
    from graceful.core.siblings import Sibling
    from graceful.ownership import Ownership

__all__ = ["ShareableRegistry", "SharedRegistry", "Siblings"]

logger = logging.getLogger("graceful.siblings")

_OTHERS_SHARE: Final = 0.5
"""The part of the time for a change that another process gets for it, before it is done here as well."""

_LOOK_DELAY: Final = 0.2
"""Seconds between two looks at the others, where nothing tells of a change: while one of them is clearing, or while the
pod leaves and this process was started in the middle of that."""

_LAST_LOOK_DELAY: Final = 0.1
"""Seconds between two looks at processes that say nothing, at the very end."""


@runtime_checkable
class ShareableRegistry(Registry, Protocol):
    """A registry that several processes can have: what one did, the others can see without doing it again."""

    @property
    def shared_as(self) -> str:
        """What is registered: processes whose registries say the same here speak for one instance."""
        ...

    def take_over(self) -> None:
        """What the registry has is this life's, announced by another process: `serve` is to clear nothing of it."""
        ...

    async def see_withdrawn(self, deadline: float) -> RegistryOutcome:
        """Read, and change nothing, until every server has the instance out of service, or `deadline`."""
        ...

    async def see_absent(self, deadline: float) -> RegistryOutcome:
        """Read, and change nothing, until the instance is absent from every server, or `deadline`."""
        ...


class Siblings(Protocol):
    """The other processes that have the same instance."""

    @property
    def instance(self) -> str:
        """What they have in common."""
        ...

    @property
    def ownership(self) -> Ownership:
        """The right to speak for the instance: one process at a time has it."""
        ...

    async def look(self) -> list[Sibling]:
        """What every other process is doing."""
        ...


class SharedRegistry:
    """The registry of one process among several.

    The owner clears, registers, sends heartbeats, and takes the instance out of service; the others see by reading that
    it has. An owner that is gone is followed by another process. The last one out deregisters.

    Args:
        registry: what speaks to the servers.
        siblings: the other processes.
    """

    def __init__(self, registry: ShareableRegistry, siblings: Siblings) -> None:
        self._registry = registry
        self._siblings = siblings
        self._ownership = siblings.ownership
        self._beside = False
        self._speaks = False
        self._frozen = False
        self._serving: anyio.CancelScope | None = None

    @property
    def announced(self) -> bool:
        """Whether callers may have learned of the instance: from this process, or while it served beside the owner."""
        return self._beside or self._speaks or self._registry.announced

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of the changes that this process asked for."""
        return self._registry.calls

    async def start(self) -> None:
        """Clear what a former life left behind, unless another process of this one is about it, or has announced it."""
        if not self._ownership.take():
            return
        try:
            if not _keeps_registration(await self._siblings.look()):
                await self._registry.start()
        finally:
            # Who is ready first speaks for the instance; that may be another one.
            self._ownership.let_go()

    async def serve(self) -> None:
        """Announce the instance as its owner; until then, and while another process does, wait for that."""
        with anyio.CancelScope() as self._serving:
            await self._become_owner()
            await self._registry.serve()

    async def _become_owner(self) -> None:
        while True:
            await self._own()
            others = await self._siblings.look()
            if self._frozen or not any(sibling.withdraws for sibling in others):
                break
            # Started in the middle of the pod's leave: those that take it out of service have to watch over that.
            self._let_go()
            await anyio.sleep(_LOOK_DELAY)
        if self._beside or _keeps_registration(others):
            self._registry.take_over()

    async def _own(self) -> None:
        while not self._ownership.take():
            # Somebody who is only clearing has the name for a moment, and announces nothing.
            self._beside = self._beside or any(each.announced and each.stays for each in await self._siblings.look())
            with anyio.move_on_after(math.inf if self._beside else _LOOK_DELAY):
                await self._ownership.own()
        # With the name, not after it: whoever finds it taken asks at once what its owner has announced.
        self._speaks = True

    def _let_go(self) -> None:
        self._speaks = False
        self._ownership.let_go()

    def freeze(self) -> None:
        """From this call on nothing in this process makes the instance UP."""
        self._frozen = True
        self._registry.freeze()

    def hand_over(self) -> None:
        """Leave the instance to the others, which serve on."""
        self.freeze()
        self._leave_it()

    def _leave_it(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        self._ownership.let_go()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """As the owner, take the instance out of service; else see that it is, and do it if the owner does not."""
        if not self._ownership.held:
            seen = await self._from_others(self._registry.see_withdrawn, deadline)
            if seen is not None:
                return seen
        return await self._registry.withdraw(deadline)

    async def keep_withdrawn(self) -> None:
        """As the owner, or once the owner is gone, watch over the instance, until cancelled."""
        await self._ownership.until_held()
        await self._registry.keep_withdrawn()

    async def deregister(self, deadline: float) -> RegistryOutcome | None:
        """As the last one out, delete the instance; None where that is left to another process.

        The caller has published that this process is finished. So of two that end at the same time at least one sees
        that the other is, too: none of them leaves it to the other in vain.
        """
        others = await self._others_to_deregister(deadline)
        if others:
            pids = ", ".join(str(sibling.pid) for sibling in others)
            logger.info("the deregistration is left to the other processes of this pod (%s)", pids)
            self._leave_it()
            return None
        if not self._ownership.take():
            gone = await self._from_others(self._registry.see_absent, deadline)
            if gone is not None:
                return gone
        return await self._registry.deregister(deadline)

    async def _others_to_deregister(self, deadline: float) -> list[Sibling]:
        now = anyio.current_time()
        until = now + (deadline - now) * _OTHERS_SHARE
        while True:
            others = [sibling for sibling in await self._siblings.look() if sibling.will_deregister]
            # An interpreter that is taking itself down still listens, and answers nothing any more: it is gone soon.
            if any(sibling.answered for sibling in others) or not others or anyio.current_time() >= until:
                return others
            await anyio.sleep(_LAST_LOOK_DELAY)

    async def _from_others(
        self, see: Callable[[float], Awaitable[RegistryOutcome]], deadline: float
    ) -> RegistryOutcome | None:
        """What the owner achieves in its part of the time; None if it has to be done here."""
        now = anyio.current_time()
        outcome = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_owner, tasks.cancel_scope)
            outcome = await see(now + (deadline - now) * _OTHERS_SHARE)
            tasks.cancel_scope.cancel()
        return outcome if outcome is not None and outcome.verdict is Verdict.VERIFIED_ALL else None

    async def _cancel_when_owner(self, scope: anyio.CancelScope) -> None:
        await self._ownership.until_held()
        scope.cancel()


def _keeps_registration(others: list[Sibling]) -> bool:
    return any(sibling.keeps_registration for sibling in others)
