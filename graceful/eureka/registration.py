"""graceful's own registration in Eureka: absent until ready, UP while serving, and never UP again once it leaves."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

import anyio

from graceful.core.calls import CallJournal
from graceful.eureka.backoff import pauses
from graceful.eureka.refusal import REFUSALS
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.eureka.sleeping import Sleeper
from graceful.eureka.status import REPLICATION_DELAY, UNANSWERED_DELAY, StatusManager, now_ms
from graceful.eureka.tls import default_context
from graceful.eureka.transport import NotSentError
from graceful.eureka.trying import trying
from graceful.eureka.watch import left_out_of_service

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

    from graceful.core.registry import RegistryOutcome, ServerResult
    from graceful.eureka.instance import Instance
    from graceful.eureka.proxy import Proxies
    from graceful.eureka.trying import Try

__all__ = ["EurekaRegistration"]

logger = logging.getLogger("graceful.eureka")

# The deletion of a former life, replicated late by a peer, takes the new registration with it, and the server that had
# just confirmed it as UP says nothing: the first heartbeat finds out soon, all others come at their interval.
_FIRST_HEARTBEAT = 2.0


class EurekaRegistration:
    """The registry of the coordinator, for an instance that graceful itself registers.

    Two sets of connections go to the same servers: one that announces (register, heartbeat) and is closed for good by
    `freeze`, and one that can only take the instance away. All methods but `freeze` belong to one asyncio event loop.

    Args:
        urls: the base URL of every server. The first that answers gets the registration and the heartbeats; the others
            hear of it from that one.
        instance: what to register.
        heartbeat_interval: seconds between two heartbeats.
        try_timeout: the upper bound in seconds of one call to one server.
        recheck_interval: the longest pause in seconds between two looks at a server while withdrawn.
        clear_timeout: the upper bound in seconds for clearing what a former life left behind, in `start`.
        cache_interval: of the servers' response cache, in seconds, for `until_published`; None if it is not asked for.
        clear_former: whether that is cleared at all. False leaves a lease as it is until it is renewed, and an
            OUT_OF_SERVICE in force: for operators who set it by hand, and to take a running registration over.
        make_ssl_context: gives the context for https servers; by default one that trusts the system's authorities.
            Called for every exchange, so it should make it once.
        proxies: which of them to go through; by default none, whatever the environment says.
        random: for jitter.

    Raises:
        ValueError: there is no URL, or one that is none; or a proxy's address cannot be used.
    """

    def __init__(
        self,
        urls: Sequence[str],
        instance: Instance,
        *,
        heartbeat_interval: float = 30.0,
        try_timeout: float = 1.5,
        recheck_interval: float = 5.0,
        clear_timeout: float = 5.0,
        cache_interval: float | None = None,
        clear_former: bool = True,
        make_ssl_context: Callable[[], ssl.SSLContext] = default_context,
        proxies: Proxies | None = None,
        random: Random | None = None,
    ) -> None:
        self._instance = instance
        self._heartbeat_interval = heartbeat_interval
        self._try_timeout = try_timeout
        self._clear_timeout = clear_timeout
        self._random = random or Random()  # noqa: S311 - jitter is no secret

        def servers() -> list[Server]:
            return [
                Server(url, try_timeout=try_timeout, make_ssl_context=make_ssl_context, proxies=proxies) for url in urls
            ]

        self._announcers = servers()
        self._journal = CallJournal()
        self._status = StatusManager(
            servers(),
            instance.app,
            instance.instance_id,
            recheck_interval=recheck_interval,
            cache_interval=cache_interval,
            random=self._random,
            journal=self._journal,
        )
        self._uncleared = set(self._status.servers) if clear_former else set()
        self._sleeper = Sleeper()
        self._announcing = False
        self._announced = False
        self._dirty_timestamp: int | None = None
        self._confirmed = False
        self._may_clear_override = clear_former
        # Until the first UP: what is set later is no matter of the start.
        self._leaves_out_of_service = not clear_former
        self._alarm: str | None = None
        self._outage = False
        self._refusal_reported = False

    @property
    def announced(self) -> bool:
        """Whether an UP was at least tried in this life."""
        return self._announced

    @property
    def shared_as(self) -> str:
        """What is registered: the processes of one container that say the same here speak for one instance."""
        return f"{self._instance.app}/{self._instance.instance_id}"

    @property
    def seen_up(self) -> bool:
        """Whether a server was seen to have the instance UP."""
        return self._confirmed

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of every change, and of the heartbeats, so far."""
        return self._journal.told

    # --- the life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Delete what a former life of this instance id left behind on any server, by `clear_timeout` at the latest.

        A server that does not answer by then is tried once more before the instance is registered. Without
        `clear_former` nothing is deleted.
        """
        await self._clear(self._clear_timeout)

    async def serve(self) -> None:
        """Register as UP on one server, read it back, and send heartbeats, until cancelled or frozen."""
        if self._uncleared and not self._frozen:
            await self._clear(self._try_timeout)
        waits = self._outage_pauses()
        first = True
        while not self._frozen:
            if await self._announce():
                waits = self._outage_pauses()
                await self._sleeper.sleep(
                    min(self._heartbeat_interval, _FIRST_HEARTBEAT) if first else self._heartbeat_interval
                )
                first = False
            else:
                await self._sleeper.sleep(next(waits))

    def take_over(self) -> None:
        """What the servers have is this life's, announced by another process: `serve` clears nothing of it."""
        self._uncleared = set()
        # An override that is there now is an operator's, or will be gone with the leave it belongs to.
        self._may_clear_override = False

    def freeze(self) -> None:
        """End announcing for good: no registration and no heartbeat is sent any more. Thread-safe, idempotent.

        One that is being sent just now comes to its end; `withdraw` reckons with it.
        """
        self._sleeper.end()
        for server in self._announcers:
            server.close()

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """Freeze, set OUT_OF_SERVICE on every server and read it back, until all are verified or `deadline`."""
        self.freeze()
        return await self._status.withdraw(deadline, settled=lambda: not self._announcing)

    async def see_withdrawn(self, deadline: float) -> RegistryOutcome:
        """Read, and change nothing, until every server has the instance out of service, or `deadline`."""
        return await self._status.see_withdrawn(deadline)

    async def see_absent(self, deadline: float) -> RegistryOutcome:
        """Read, and change nothing, until the instance is absent from every server, or `deadline`."""
        return await self._status.see_absent(deadline)

    async def keep_withdrawn(self) -> None:
        """Retry the servers that did not verify and look after the others, until cancelled."""
        await self._status.keep_withdrawn()

    async def until_published(self) -> float:
        """Wait until every server shows the withdrawal to its callers; for ever, if that is not certain of each."""
        return await self._status.until_published()

    async def deregister(self, deadline: float) -> RegistryOutcome:
        """Freeze, delete the instance from every server, and confirm that it is absent, by `deadline`."""
        self.freeze()
        return await self._status.deregister(deadline, settled=lambda: not self._announcing)

    @property
    def _frozen(self) -> bool:
        return self._sleeper.ended

    async def _clear(self, timeout: float) -> None:  # noqa: ASYNC109 - what was cleared by then counts
        self._uncleared = await self._status.clear(anyio.current_time() + timeout, self._uncleared)

    # --- one round of announcing ------------------------------------------------------------------------------------

    async def _announce(self) -> bool:
        """Renew or register on the first server that takes it, the last good one first; whether one did."""
        failures: list[EurekaError] = []
        for server in tuple(self._announcers):
            try:
                with self._marked_as_announcing():
                    await self._renew(server)
            except EurekaError as error:
                failures.append(error)
            else:
                self._stay_with(server, failures)
                return True
            if self._frozen:
                return False
        self._report_outage(failures)
        return False

    @contextmanager
    def _marked_as_announcing(self) -> Iterator[None]:
        self._announcing, answered = True, False
        try:
            yield
            answered = True
        except EurekaError as error:
            answered = error.status is not None or isinstance(error, NotSentError)
            raise
        finally:
            self._announcing = False
            self._status.unsettle(REPLICATION_DELAY if answered else UNANSWERED_DELAY)

    async def _renew(self, server: Server) -> None:
        instance = self._instance
        if self._dirty_timestamp is None:
            return await self._register(server)
        try:
            with trying(self._journal, "heartbeat", server) as beat:
                await server.heartbeat(instance.app, instance.instance_id, self._dirty_timestamp)
                beat.ends("renewed", verified=True)
        except EurekaError as error:
            if error.status != 404:
                raise
            logger.warning(
                "registering again: %s no longer knows %s", server.name, instance.instance_id, extra=_extra(server)
            )
            return await self._register(server)
        if not self._confirmed:
            with trying(self._journal, "register", server) as registration:
                status = await self._read_back(server, registration)
            await self._judge(server, status)
        return None

    async def _register(self, server: Server) -> None:
        self._announced = True
        self._confirmed = False
        dirty_timestamp = now_ms()
        with trying(self._journal, "register", server) as registration:
            await server.register(self._instance, dirty_timestamp)
            self._dirty_timestamp = dirty_timestamp
            status = await self._read_back(server, registration)
        await self._judge(server, status)

    async def _read_back(self, server: Server, registration: Try) -> Status | None:
        """Read the registration back: a 204 does not mean UP, and a page in front of Eureka may answer anything.

        Raises:
            EurekaError: it cannot be read back, so that this server is not to be relied on.
        """
        status = await server.read(self._instance.app, self._instance.instance_id)
        registration.ends(status or "absent", verified=status is Status.UP)
        return status

    async def _judge(self, server: Server, status: Status | None) -> None:
        """Say whether callers are sent here now, and clear what keeps them away where it is ours to clear."""
        instance = self._instance
        if status is Status.UP:
            self._confirmed = True
            self._may_clear_override = self._leaves_out_of_service = False
            self._alarm = None
            logger.info("%s is UP on %s", instance.instance_id, server.name, extra=_extra(server))
        elif status is not None and self._may_clear_override:
            await self._clear_override(server, status)
        elif self._alarm != (alarm := status or "absent"):
            self._alarm = alarm
            if status is Status.OUT_OF_SERVICE and self._leaves_out_of_service:
                why = left_out_of_service(instance.app, instance.instance_id, [server.name])
            else:
                why = f"{instance.instance_id} is {alarm} on {server.name} although it was registered as UP"
            logger.warning("callers are not sent here: %s", why, extra=_extra(server))

    async def _clear_override(self, server: Server, status: Status) -> None:
        """Delete and register once more: an override outlives its lease, and shows only when one registers again."""
        instance = self._instance
        # Only at the beginning of a life, and once: an override that appears later is an operator's.
        self._may_clear_override = False
        logger.warning(
            "%s is %s on %s although it was registered as UP: clearing the override of a former life",
            instance.instance_id,
            status,
            server.name,
            extra=_extra(server),
        )
        with trying(self._journal, "clear", server) as clearance:
            await server.deregister(instance.app, instance.instance_id)
            # Whether it is gone shows when one registers again.
            clearance.ends("deleted", verified=True)
        await self._register(server)

    # --- servers that fail ------------------------------------------------------------------------------------------

    def _stay_with(self, server: Server, failures: list[EurekaError]) -> None:
        self._announcers.remove(server)
        self._announcers.insert(0, server)
        if self._outage:
            self._outage = self._refusal_reported = False
            # As loud as the line that said it was gone.
            logger.warning("Eureka answers again: %s", server.name, extra=_extra(server))
        elif failures:
            logger.info("heartbeats go to %s now: %s", server.name, _listed(failures), extra=_extra(server))

    def _report_outage(self, failures: list[EurekaError]) -> None:
        # A refusal stays until somebody mends it: told even if it comes in the middle of an outage.
        refused = any(failure.status in REFUSALS for failure in failures)
        if self._outage and (self._refusal_reported or not refused):
            return
        self._outage = True
        self._refusal_reported = refused
        logger.warning(
            "no Eureka server takes %s, retrying: %s",
            self._instance.instance_id,
            _listed(failures),
            extra={"eureka_operation": "announce"},
        )

    def _outage_pauses(self) -> Iterator[float]:
        return pauses(self._random, first=0.5, ceiling=self._heartbeat_interval)


def _extra(server: Server) -> dict[str, str]:
    return {"eureka_operation": "announce", "eureka_server": server.name}


def _listed(failures: list[EurekaError]) -> str:
    return "; ".join(map(str, failures))
