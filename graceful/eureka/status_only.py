"""An instance that somebody else registers: a sidecar, another library. graceful only takes it out of service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.core.calls import CallJournal
from graceful.eureka.status import StatusManager
from graceful.eureka.watch import UpWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from graceful.core.registry import RegistryOutcome, ServerResult
    from graceful.eureka.rest import Server

__all__ = ["StatusOnly"]


class StatusOnly:
    """The registry of the coordinator, for an instance whose registration is not ours.

    It never registers, renews or deletes: the other one's next heartbeat would bring a deleted instance back as UP.
    OUT_OF_SERVICE is an override, which outlives those heartbeats; it is left behind, and cleared by the next life
    under the same id, once that is ready. All methods but `freeze` belong to one asyncio event loop.

    Args:
        make_servers: gives an access to every server; called twice, since what can make the instance UP has
            connections of its own, which `freeze` closes.
        app: the application's name.
        instance_id: the instance, as the other one registers it.
        clear_former: whether an OUT_OF_SERVICE of a former life is cleared.
        cache_interval: of the servers' response cache, in seconds, for `until_published`; None if it is not asked for.
        interval: seconds between two looks at the instance while it serves.
        recheck_interval: the longest pause in seconds between two looks at a server while withdrawn.
        random: for jitter.

    Raises:
        ValueError: there is no server.
    """

    def __init__(
        self,
        make_servers: Callable[[], Sequence[Server]],
        app: str,
        instance_id: str,
        *,
        clear_former: bool = True,
        cache_interval: float | None = None,
        interval: float = 30.0,
        recheck_interval: float = 5.0,
        random: Random | None = None,
    ) -> None:
        self.shared_as = f"{app}/{instance_id}"
        """What is registered: processes of one container that say the same here look after one instance."""
        journal = CallJournal()
        self._status = StatusManager(
            make_servers(),
            app,
            instance_id,
            recheck_interval=recheck_interval,
            cache_interval=cache_interval,
            random=random,
            journal=journal,
        )
        self._watch = UpWatch(
            make_servers(),
            app,
            instance_id,
            clear_former=clear_former,
            interval=interval,
            random=random,
            journal=journal,
        )

    @property
    def announced(self) -> bool:
        """True: whoever registers the instance may have done so long ago."""
        return True

    @property
    def seen_up(self) -> bool:
        """Whether a server was seen to have the instance UP."""
        return self._watch.seen_up

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of every change so far."""
        return self._status.calls

    async def start(self) -> None:
        """Clear nothing: what is there may be the other one's work. Only be prepared for the leave."""
        await self._status.prepare()

    async def serve(self) -> None:
        """Clear the OUT_OF_SERVICE of a former life, and look after the instance, until cancelled or frozen."""
        await self._watch.run()

    def freeze(self) -> None:
        """End looking and clearing for good. Thread-safe, idempotent."""
        self._watch.freeze()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """Freeze, set OUT_OF_SERVICE on every server and read it back, until all are verified or `deadline`."""
        self.freeze()
        return await self._status.withdraw(deadline, settled=lambda: self._watch.settled)

    async def keep_withdrawn(self) -> None:
        """Retry the servers that did not verify and look after the others, until cancelled.

        An absent instance may be registered any moment, without the override: it is withdrawn again.
        """
        await self._status.keep_withdrawn()

    async def until_published(self) -> float:
        """Wait until every server shows the withdrawal to its callers; for ever, if that is not certain of each."""
        return await self._status.until_published()

    async def deregister(self, deadline: float) -> None:  # noqa: ARG002  the protocol's
        """Nothing but freeze: the registration is somebody else's."""
        self.freeze()
