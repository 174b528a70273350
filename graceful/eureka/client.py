"""What can be read of a user's own `EurekaClient`: where it registers, and as what.

py_eureka_client has no public accessor for most of it, so its private attributes are looked for by name (0.13.3), in a
client or in a class made from it. What another release has renamed is not found, and must be given as a setting.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any, Final

__all__ = ["CHANGES", "ClientView", "NotAdoptableError"]

CHANGES: Final = ("register", "send_heartbeat", "status_update", "delete_status_override", "cancel")
"""The methods of an `EurekaClient` that change its registration; its own heartbeats go through them too."""

_MISSING: Final = object()


class NotAdoptableError(ValueError):
    """A client that cannot be adopted: what was given, what was expected, what to do."""


class ClientView:
    """What a client says of itself now. Looks at attributes only: calls nothing, changes nothing.

    Args:
        client: the user's own.

    Raises:
        NotAdoptableError: it is no `EurekaClient`, nor like one.
    """

    def __init__(self, client: Any) -> None:
        lacking = [name for name in CHANGES if not inspect.iscoroutinefunction(getattr(client, name, None))]
        if lacking or isinstance(client, type) or inspect.ismodule(client):
            without = f" (it has no async {', '.join(lacking)})" if lacking else ""
            raise NotAdoptableError(
                f"eureka is {_named(client)}{without}: expected an EurekaClient of py_eureka_client; pass the object "
                "that start() is called on, which is also what eureka_client.init() returns"
            )
        self._client = client

    @property
    def registers(self) -> bool:
        """Whether it registers anything at all."""
        return bool(getattr(self._client, "should_register", True))

    @property
    def servers(self) -> list[str]:
        """The base URLs of its servers, credentials included: its own zone's first. Empty if they cannot be found."""
        conf = self._private("eureka_server_conf", None)
        by_zone = getattr(conf, "servers", None)
        if not isinstance(by_zone, dict):
            return []
        own = getattr(conf, "zone", None)
        zones = sorted(by_zone, key=lambda zone: zone != own)
        return list(dict.fromkeys(str(url).strip() for zone in zones for url in by_zone[zone]))

    @property
    def app_name(self) -> str | None:
        """The application's name as it was given to the client."""
        return self._text("app_name")

    @property
    def port(self) -> int | None:
        """The port that it announces to callers."""
        secure = not self._private("instance_unsecure_port_enabled", True)
        port = self._private("instance_secure_port" if secure else "instance_port", None)
        return port if isinstance(port, int) else None

    @property
    def instance_id(self) -> str | None:
        """The instance's id: as registered, else as given; None where the client makes one when it starts."""
        registered = self._private("instance", None)
        if isinstance(registered, dict) and registered.get("instanceId"):
            return str(registered["instanceId"])
        return self._text("instance_id")

    def future_instance_id(self, own_address: str) -> str | None:
        """The id that it will make when it starts on a machine with this address; None where that cannot be known."""
        if self.instance_id is not None or self.app_name is None:
            return self.instance_id
        ip = self._text("instance_ip")
        if ip is None and self._text("instance_host") is not None:
            return None
        return f"{ip or own_address}:{self.app_name.lower()}:{self._private('instance_port', None)}"

    @property
    def tells_instance_id(self) -> bool:
        """Whether the id can be read once there is one."""
        return self._private("instance", _MISSING) is not _MISSING

    @property
    def has_registered(self) -> bool:
        """Whether it has tried to, so that callers may know the instance. True where that cannot be known."""
        registered = self._private("instance", None)
        return "status" in registered if isinstance(registered, dict) else True

    @property
    def has_answer(self) -> bool:
        """Whether its last registration was answered. False where that cannot be known."""
        return self._private("alive", None) is True

    @property
    def is_of_another_process(self) -> bool:
        """Whether its heartbeats were started, but do not run here: before a fork, or they have been ended."""
        thread = self._private("heartbeat_timer", None)
        started = getattr(thread, "ident", None) is not None
        return started and not thread.is_alive()

    @property
    def in_heartbeat_thread(self) -> bool:
        """Whether it is its own heartbeat thread that asks."""
        return threading.current_thread() is self._private("heartbeat_timer", None)

    def _text(self, name: str) -> str | None:
        value = self._private(name, None)
        return value if isinstance(value, str) and value else None

    def _private(self, name: str, default: Any) -> Any:
        """An attribute that its class has hidden behind the class's own name."""
        for owner in type(self._client).__mro__:
            value = getattr(self._client, f"_{owner.__name__.lstrip('_')}__{name}", _MISSING)
            if value is not _MISSING:
                return value
        return default


def _named(client: Any) -> str:
    if isinstance(client, type):
        return f"the class {client.__name__}"
    return f"the module {client.__name__}" if inspect.ismodule(client) else f"of type {type(client).__name__}"
