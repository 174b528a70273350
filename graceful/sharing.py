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

__all__ = ["JointRegistry", "RegistryAmongOthers", "ShareableRegistry", "SharedRegistry", "Siblings", "share"]

logger = logging.getLogger("graceful.siblings")

_OTHERS_SHARE: Final = 0.5
"""The part of the time for a change that another process gets for it, before it is done here as well."""

_LOOK_DELAY: Final = 0.2
"""Seconds between two looks at the others, where nothing tells of a change: while one of them is clearing, or while the
pod leaves and this process was started in the middle of that."""

_LAST_LOOK_DELAY: Final = 0.1
"""Seconds between two looks at processes that say nothing, at the very end."""


@runtime_checkable
class JointRegistry(Registry, Protocol):
    """A registry that several processes have a part in: each announces the same instance by itself."""

    @property
    def shared_as(self) -> str:
        """What is registered: processes whose registries say the same here, and have the same port, are one pod."""
        ...


@runtime_checkable
class ShareableRegistry(JointRegistry, Protocol):
    """A registry of which one process is enough: what it did, the others can see without doing it again."""

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


def share(registry: Registry | None, siblings: Siblings | None) -> Registry | None:
    """Give the registry as one process among several is to use it."""
    if siblings is not None and isinstance(registry, ShareableRegistry):
        return SharedRegistry(registry, siblings)
    if siblings is not None and isinstance(registry, JointRegistry):
        return RegistryAmongOthers(registry, siblings)
    return registry


class RegistryAmongOthers:
    """The registry of one process among several that each announce the instance, such as by a client of their own.

    Each withdraws it when the pod leaves, which changes nothing the second time; the last one out deregisters. One that
    leaves alone touches nothing but its own heartbeats.

    Args:
        registry: what speaks to the servers.
        siblings: the other processes.
    """

    def __init__(self, registry: JointRegistry, siblings: Siblings) -> None:
        self._part = registry
        self._siblings = siblings
        self._frozen = False
        self._serving: anyio.CancelScope | None = None

    @property
    def announced(self) -> bool:
        """Whether callers may have learned of the instance."""
        return self._part.announced

    @property
    def seen_up(self) -> bool:
        """Whether a server was seen to have the instance UP."""
        return bool(getattr(self._part, "seen_up", self._part.announced))

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of the changes that this process asked for."""
        return self._part.calls

    async def start(self) -> None:
        """As the registry does."""
        await self._part.start()

    async def serve(self) -> None:
        """As the registry does, but not while the others take the instance out of service."""
        with anyio.CancelScope() as self._serving:
            while not self._frozen and _withdraw(await self._siblings.look()):  # noqa: ASYNC110  other processes' state
                await anyio.sleep(_LOOK_DELAY)
            await self._part.serve()

    def freeze(self) -> None:
        """From this call on nothing in this process makes the instance UP."""
        self._frozen = True
        self._part.freeze()

    def hand_over(self) -> None:
        """Leave the instance to the others, which serve on."""
        self.freeze()
        if self._serving is not None:
            self._serving.cancel()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """As the registry does."""
        return await self._part.withdraw(deadline)

    async def keep_withdrawn(self) -> None:
        """As the registry does."""
        await self._part.keep_withdrawn()

    async def until_published(self) -> float:
        """As the registry does."""
        return await self._part.until_published()

    async def deregister(self, deadline: float) -> RegistryOutcome | None:
        """As the last one out, delete the instance; None where that is left to another process.

        The caller has published that this process is finished. So of two that end at the same time at least one sees
        that the other is, too: none of them leaves it to the other in vain.
        """
        others = await self._others_to_deregister(deadline)
        if not others:
            return await self._deregister_last(deadline)
        pids = ", ".join(str(sibling.pid) for sibling in others)
        logger.info("the deregistration is left to the other processes of this pod (%s)", pids)
        self.hand_over()
        return None

    async def _deregister_last(self, deadline: float) -> RegistryOutcome | None:
        return await self._part.deregister(deadline)

    async def _others_to_deregister(self, deadline: float) -> list[Sibling]:
        now = anyio.current_time()
        until = now + (deadline - now) * _OTHERS_SHARE
        while True:
            others = [sibling for sibling in await self._siblings.look() if sibling.will_deregister]
            # An interpreter that is taking itself down still listens, and answers nothing any more: it is gone soon.
            if any(sibling.answered for sibling in others) or not others or anyio.current_time() >= until:
                return others
            await anyio.sleep(_LAST_LOOK_DELAY)


class SharedRegistry(RegistryAmongOthers):
    """The registry of one process among several, of which one speaks for all.

    The owner clears, registers, sends heartbeats, and takes the instance out of service; the others see by reading that
    it has. An owner that is gone is followed by another process. The last one out deregisters.

    Args:
        registry: what speaks to the servers.
        siblings: the other processes.
    """

    def __init__(self, registry: ShareableRegistry, siblings: Siblings) -> None:
        super().__init__(registry, siblings)
        self._registry = registry
        self._ownership = siblings.ownership
        self._beside = False
        self._speaks = False
        self._watches = False

    @property
    def announced(self) -> bool:
        """Whether callers may have learned of the instance: from this process, or while it served beside the owner."""
        return self._beside or self._speaks or self._registry.announced

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
            if self._frozen or not _withdraw(others):
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

    def hand_over(self) -> None:
        """Leave the instance to the others, which serve on: one of them speaks for it next."""
        super().hand_over()
        self._ownership.let_go()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """As the owner, take the instance out of service; else see that it is, and do it if the owner does not."""
        if not self._ownership.held:
            seen = await self._from_others(self._registry.see_withdrawn, deadline)
            if seen is not None:
                return seen
            self._watches = True
        return await self._registry.withdraw(deadline)

    async def keep_withdrawn(self) -> None:
        """As the owner, once the owner is gone, or where it did nothing, watch over the instance, until cancelled."""
        if not self._watches:
            await self._ownership.until_held()
        await self._registry.keep_withdrawn()

    async def _deregister_last(self, deadline: float) -> RegistryOutcome | None:
        if not self._ownership.take():
            gone = await self._from_others(self._registry.see_absent, deadline)
            if gone is not None:
                return gone
        return await self._registry.deregister(deadline)

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


def _withdraw(others: list[Sibling]) -> bool:
    return any(sibling.withdraws for sibling in others)


def _keeps_registration(others: list[Sibling]) -> bool:
    return any(sibling.keeps_registration for sibling in others)
