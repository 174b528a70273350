"""A registration that a user's own `EurekaClient` keeps, and that graceful takes away in order."""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

import anyio

from graceful.core.calls import CallJournal
from graceful.eureka.sleeping import Sleeper
from graceful.eureka.status import StatusManager
from graceful.eureka.watch import UpWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from graceful.core.registry import RegistryOutcome, ServerResult
    from graceful.eureka.guard import ClientGuard
    from graceful.eureka.rest import Server

__all__ = ["AdoptedRegistration"]

logger = logging.getLogger("graceful.eureka")

_LOOK = 0.5
"""Seconds between two looks whether the client has been started."""

_PATIENCE = 5.0
"""Seconds that it may take to be started after the service is ready before an alarm is raised."""


class AdoptedRegistration:
    """The registry of the coordinator, for an instance that a user's `EurekaClient` registers in this process.

    The client registers and renews; graceful fences it in and takes the instance out of service and away, on
    connections of its own, without the client's lock and without its methods. All methods but `freeze` belong to one
    asyncio event loop; nothing is touched before `start` or `freeze`.

    Args:
        guard: the fence around the client.
        make_servers: gives an access to every server; called twice, since what can make the instance UP has
            connections of its own, which `freeze` closes.
        app: the application's name.
        instance_id: the instance, where the client does not tell; it does once it has been started.
        clear_former: whether an OUT_OF_SERVICE of a former life is cleared.
        cache_interval: of the servers' response cache, in seconds, for `until_published`; None if it is not asked for.
        interval: seconds between two looks at the instance while it serves.
        recheck_interval: the longest pause in seconds between two looks at a server while withdrawn.
        random: for jitter.
    """

    def __init__(
        self,
        guard: ClientGuard,
        make_servers: Callable[[], Sequence[Server]],
        app: str,
        instance_id: str | None = None,
        *,
        clear_former: bool = True,
        cache_interval: float | None = None,
        interval: float = 30.0,
        recheck_interval: float = 5.0,
        random: Random | None = None,
    ) -> None:
        self._guard = guard
        self._view = guard.view
        self._make_servers = make_servers
        self._app = app
        self._given_id = instance_id
        self._clear_former = clear_former
        self._interval = interval
        self._recheck_interval = recheck_interval
        self._cache_interval = cache_interval
        self._random = random
        # The parent's client in a forked child: nothing of it is ours to change.
        self._foreign = guard.is_the_parents
        self._lock = threading.Lock()
        self._attached = False
        self._journal = CallJournal()
        self._sleeper = Sleeper()
        self._watch: UpWatch | None = None
        self._manager: StatusManager | None = None

    @property
    def announced(self) -> bool:
        """Whether the client has tried to register in this process."""
        return not self._foreign and self._view.has_registered and self._known_id is not None

    @property
    def seen_up(self) -> bool:
        """Whether a server was seen to have the instance UP."""
        return self._watch is not None and self._watch.seen_up

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of every change of ours so far; the client's own are not among them."""
        return self._journal.told

    @property
    def shared_as(self) -> str:
        """What is registered: processes of one container that say the same here each have a client for one instance."""
        return f"{self._app}/{self._given_id or ''}"

    # --- the life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Stand before the client. What a former life left is cleared later: the client may have registered already."""
        if self._foreign:
            logger.warning(
                "the EurekaClient was started before this process was forked: its registration is the parent's, and "
                "nothing is done with it here; make and start a client after the fork",
                extra={"eureka_operation": "adopt"},
            )
            return
        with self._lock:
            if not self._sleeper.ended:
                self._attach()
        if self._known_id is not None:
            await self._status.prepare()

    async def serve(self) -> None:
        """See to it that the instance is UP, from when the client has been started, until cancelled or frozen."""
        if self._foreign or (instance_id := await self._when_started()) is None:
            return
        if self._given_id not in (None, instance_id):
            logger.warning(
                "the EurekaClient registers %s, and not %s as the setting instance_id says: the hook, which reads the "
                "environment, would not find it",
                instance_id,
                self._given_id,
                extra={"eureka_operation": "adopt"},
            )
        await self._status.prepare()
        watch = UpWatch(
            self._make_servers(),
            self._app,
            instance_id,
            clear_former=self._clear_former,
            interval=self._interval,
            random=self._random,
            journal=self._journal,
        )
        with self._lock:
            self._watch = watch
            if self._sleeper.ended:
                return
        await watch.run()

    def freeze(self) -> None:
        """From this call on the client changes nothing, nor do we make anything UP. Thread-safe, idempotent.

        A call that is being made just now comes to its end; `withdraw` reckons with it.
        """
        with self._lock:
            self._sleeper.end()
            if not self._foreign:
                self._attach()
                self._guard.freeze()
            if self._watch is not None:
                self._watch.freeze()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """Freeze, set OUT_OF_SERVICE on every server and read it back, until all are verified or `deadline`."""
        self.freeze()
        return await self._status.withdraw(deadline, settled=self._settled)

    async def keep_withdrawn(self) -> None:
        """Retry the servers that did not verify and look after the others, until cancelled."""
        await self._status.keep_withdrawn()

    async def until_published(self) -> float:
        """Wait until every server shows the withdrawal to its callers; for ever, if that is not certain of each."""
        return await self._status.until_published()

    async def deregister(self, deadline: float) -> RegistryOutcome:
        """Freeze, delete the instance from every server, and confirm that it is absent, by `deadline`."""
        self.freeze()
        self._status.unsettle(self._guard.on_its_way)
        return await self._status.deregister(deadline, settled=self._settled)

    # --- the client -------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        if not self._attached:
            self._attached = True
            self._guard.attach()

    @property
    def _known_id(self) -> str | None:
        return self._view.instance_id or self._given_id

    async def _when_started(self) -> str | None:
        """The instance's id once the client has registered it; None where the leave comes first."""
        alarm_at = anyio.current_time() + _PATIENCE
        while not (self._view.has_registered and self._known_id):
            if self._sleeper.ended:
                return None
            if anyio.current_time() >= alarm_at:
                alarm_at = math.inf
                logger.warning(
                    "callers are not sent here: the service is ready, but its EurekaClient has not been started",
                    extra={"eureka_operation": "adopt"},
                )
            await self._sleeper.sleep(_LOOK)
        return self._known_id

    def _settled(self) -> bool:
        return self._guard.settled and (self._watch is None or self._watch.settled)

    @property
    def _status(self) -> StatusManager:
        if self._manager is None:
            self._manager = StatusManager(
                self._make_servers(),
                self._app,
                self._known_id or "",
                recheck_interval=self._recheck_interval,
                cache_interval=self._cache_interval,
                random=self._random,
                journal=self._journal,
            )
        return self._manager
