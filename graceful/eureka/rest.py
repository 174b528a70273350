"""One Eureka server's REST API, asked in a way that tells the caller whether it was done."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio.to_thread

from graceful.eureka.address import ServerAddress
from graceful.eureka.basic import load_basic, quote_segment, record_of
from graceful.eureka.instances import up_instances
from graceful.eureka.refusal import REFUSALS, why_changes_are_refused, why_reading_is_refused
from graceful.eureka.tls import default_context
from graceful.eureka.transport import EurekaError, Request, Transport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from graceful.eureka.instance import Instance
    from graceful.eureka.instances import ServiceInstance
    from graceful.eureka.proxy import Proxies
    from graceful.eureka.transport import Response

__all__ = ["EurekaError", "Server", "Status", "View", "status_of"]


class Status(StrEnum):
    """What Eureka can say of an instance."""

    UP = "UP"
    DOWN = "DOWN"
    STARTING = "STARTING"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"
    UNKNOWN = "UNKNOWN"


class View(NamedTuple):
    """What one server says of an instance.

    Attributes:
        status: what callers are told.
        override: what was set over the instance's head; None for nothing.
    """

    status: Status
    override: Status | None


class Server:
    """One server's REST API. Every call is one exchange, bounded by `try_timeout`, and raises unless it was done.

    What is sent is made by py_eureka_client (`eureka_basic`), which is imported with the first change, in a worker
    thread, because that takes a third of a second. The exchange is ours.

    Args:
        url: the base URL, e.g. `http://user:password@eureka:8761/eureka`.
        try_timeout: the upper bound of one call in seconds.
        make_ssl_context: gives the context for https; by default one that trusts the system's authorities.
        proxies: which of them to go through; by default none, whatever the environment says.

    Raises:
        ValueError: `url` is none, or its proxy has no address that can be used.
    """

    def __init__(
        self,
        url: str,
        *,
        try_timeout: float = 1.5,
        make_ssl_context: Callable[[], ssl.SSLContext] = default_context,
        proxies: Proxies | None = None,
    ) -> None:
        self._address = ServerAddress.parse(url)
        proxy = proxies.for_server(self._address) if proxies else None
        self._transport = Transport(self._address, timeout=try_timeout, make_ssl_context=make_ssl_context, proxy=proxy)
        self._basic: ModuleType | None = None

    @property
    def name(self) -> str:
        """The base URL without its credentials."""
        return self._address.public

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    def close(self) -> None:
        """From this call on nothing is sent to the server through this object. Thread-safe, idempotent.

        A call that has begun to send comes to its end; any other raises `EurekaError`.
        """
        self._transport.close()

    async def prepare(self) -> None:
        """Import what changes need, now and not when there is no time: with little CPU it takes seconds.

        A failure shows with the first change.
        """
        with suppress(Exception):
            await self._load()

    async def register(self, instance: Instance, dirty_timestamp: int) -> None:
        """Register `instance` as UP.

        Args:
            instance: what to register.
            dirty_timestamp: the time of this registration in milliseconds since the epoch. Heartbeats repeat it.

        Raises:
            EurekaError: the server did not take it, or may not have.
        """
        key = (instance.app, instance.instance_id)
        await self._change(key, lambda basic, path: basic.register(path, record_of(basic, instance, dirty_timestamp)))

    async def heartbeat(self, app: str, instance_id: str, dirty_timestamp: int) -> None:
        """Renew the lease.

        Args:
            app: the application's name.
            instance_id: the instance.
            dirty_timestamp: the one it was registered with: the server asks for a new registration if it knows an
                older one.

        Raises:
            EurekaError: not renewed; with status 404 the server asks for a registration.
        """
        key = (app, instance_id)
        await self._change(key, lambda basic, path: basic.send_heartbeat(path, *key, dirty_timestamp))

    async def set_status(self, app: str, instance_id: str, status: Status, dirty_timestamp: int) -> None:
        """Override the status.

        Args:
            app: the application's name.
            instance_id: the instance.
            status: the override.
            dirty_timestamp: now, in milliseconds since the epoch: a newer one than the registration's makes peers that
                have missed the change ask for it.

        Raises:
            EurekaError: not done, or perhaps not; with status 404 the server does not know the instance.
        """
        key = (app, instance_id)
        await self._change(key, lambda basic, path: basic.status_update(path, *key, dirty_timestamp, status))

    async def clear_override(self, app: str, instance_id: str, dirty_timestamp: int) -> None:
        """Take the override away and make the instance UP; where there is no override, nothing changes.

        Args:
            app: the application's name.
            instance_id: the instance.
            dirty_timestamp: now, in milliseconds since the epoch.

        Raises:
            EurekaError: not done, or perhaps not; with status 404 the server does not know the instance.
        """
        # Not py_eureka_client's: it sends no value, and without one the instance becomes UNKNOWN.
        query = f"value={Status.UP}&lastDirtyTimestamp={dirty_timestamp}"
        request = Request(f"{self._target(app, instance_id)}/status?{query}", method="DELETE")
        await self._change((app, instance_id), lambda _basic, _path: self._transport.urlopen(request))

    async def deregister(self, app: str, instance_id: str) -> None:
        """Delete the lease and its status override. An instance that is not there is no error.

        Raises:
            EurekaError: not done, or perhaps not.
        """
        try:
            await self._change((app, instance_id), lambda basic, path: basic.cancel(path, app, instance_id))
        except EurekaError as error:
            if error.status != 404:
                raise

    async def read(self, app: str, instance_id: str) -> Status | None:
        """The instance's effective status, straight from the server's registry; None if it is absent.

        Raises:
            EurekaError: the server did not say.
        """
        view = await self.look(app, instance_id)
        return None if view is None else view.status

    async def look(self, app: str, instance_id: str) -> View | None:
        """The instance's status and override, straight from the server's registry; None if it is absent.

        Raises:
            EurekaError: the server did not say.
        """
        # Not by get_app_instance: it reads XML, and there the server says DOWN for OUT_OF_SERVICE and for UNKNOWN, to
        # spare clients of its first version (V1AwareInstanceInfoConverter; seen on Spring Cloud Eureka Server 5.0.2).
        request = Request(self._target(app, instance_id), {"Accept": "application/json"})
        try:
            answer = await self._transport.urlopen(request)
        except EurekaError as error:
            if error.status == 404:
                return None
            raise self.reading_error(error) from error
        view = _view_in(answer.body_text, instance_id)
        if view is None:
            raise self._transport.error("the answer is not the instance that was asked for (is this Eureka?)")
        return view

    def _target(self, app: str, instance_id: str) -> str:
        return f"{self._address.path}/apps/{quote_segment(app)}/{quote_segment(instance_id)}"

    async def instances(self, app: str) -> tuple[ServiceInstance, ...]:
        """The instances of an application that are UP, through the server's cache; empty if it does not know it.

        Args:
            app: the application's name in upper case, as Eureka spells it.

        Raises:
            EurekaError: the server did not say.
        """

        async def look_up(basic: Any, path: str) -> tuple[ServiceInstance, ...]:
            application = await basic.get_application(path, app)
            if application is None or application.name != app:
                raise self._transport.error("the answer is not the service that was asked for (is this Eureka?)")
            return up_instances(application)

        try:
            found: tuple[ServiceInstance, ...] = await self._ask(look_up)
        except EurekaError as error:
            if error.status == 404:
                return ()
            raise self.reading_error(error) from error
        return found

    def reading_error(self, error: EurekaError) -> EurekaError:
        """An error of a GET, which says what is wrong with the credentials where that is what it is about."""
        if error.status not in REFUSALS:
            return error
        reason = why_reading_is_refused(error.status, with_credentials=self._has_credentials)
        return self._transport.error(reason, error.status)

    async def get(self, path: str, accept: str) -> str:
        """What the server says under a path, as text.

        Args:
            path: below the base URL, quoted, e.g. `apps/ORDERS`.
            accept: the media type.

        Raises:
            EurekaError: it was not a 2xx answer.
        """
        return (await self.fetch(path, accept)).body_text

    async def fetch(self, path: str, accept: str) -> Response:
        """The whole answer to the same GET.

        Raises:
            EurekaError: it was not a 2xx answer.
        """
        return await self._transport.urlopen(Request(f"{self._address.path}/{path}", {"Accept": accept}))

    def error(self, reason: str) -> EurekaError:
        """An error of this server, for an answer that makes no sense."""
        return self._transport.error(reason)

    async def addresses(self) -> int:
        """How many addresses the server's name has; 0 if it is reached through a proxy, which looks for itself.

        Raises:
            EurekaError: they cannot be looked up in time.
        """
        return await self._transport.addresses()

    @property
    def _has_credentials(self) -> bool:
        return self._address.authorization is not None

    async def _change(self, key: tuple[str, str], call: Callable[[Any, str], Awaitable[Any]]) -> None:
        """Make a call that changes the instance; where it is refused, one GET of the instance tells why."""
        try:
            await self._ask(call)
        except EurekaError as error:
            if error.status in REFUSALS:
                raise await self._told_apart(key, error, error.status) from error
            raise

    async def _told_apart(self, key: tuple[str, str], refusal: EurekaError, status: int) -> EurekaError:
        try:
            await self.read(*key)
        except EurekaError as error:
            # Without an answer, or with another fault, there is no telling.
            return error if error.status in REFUSALS else refusal
        reason = why_changes_are_refused(status, with_credentials=self._has_credentials)
        return self._transport.error(reason, status)

    async def _ask(self, call: Callable[[Any, str], Awaitable[Any]]) -> Any:
        try:
            return await call(await self._load(), self._address.path)
        except EurekaError:
            raise
        except Exception as error:
            # Whatever goes wrong on the way is this server's failure, and must not keep the others from being asked.
            raise self._transport.error(f"the call fails ({type(error).__name__})") from error

    async def _load(self) -> Any:
        if self._basic is None:
            self._basic = await anyio.to_thread.run_sync(load_basic, self._transport, abandon_on_cancel=True)
        return self._basic


def _view_in(text: str, instance_id: str) -> View | None:
    """What a JSON answer says; None if it is not about this instance: a login page's 200, for example."""
    try:
        instance = json.loads(text)["instance"]
        if instance["instanceId"] != instance_id:
            return None
        override = instance.get("overriddenStatus", Status.UNKNOWN)
        # An instance without an override says UNKNOWN.
        overridden = override in Status.__members__ and override != Status.UNKNOWN
        return View(status_of(instance), Status(override) if overridden else None)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def status_of(instance: Any) -> Status:
    """The status of an instance as the server's JSON has it."""
    known = instance["status"] in Status.__members__
    return Status(instance["status"]) if known else Status.UNKNOWN
