"""What is registered in Eureka."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graceful.wire import default_instance_id

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Instance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of a service, as callers see it.

    Attributes:
        app: the application's name; Eureka shows it in upper case.
        ip: the address callers can reach.
        port: the port callers use.
        hostname: what callers put into their URLs; by default `ip`, because a pod's host name means nothing to others.
        instance_id: by default `app:ip:port`. A new life under the same id takes the old one's place.
        vip: the name callers look up; by default the application's name in lower case.
        health_path: where readiness is answered.
        status_path: where a person finds out more.
        metadata: what callers may read of the instance.
        renewal_interval: what the server is told to expect between two heartbeats, in whole seconds.
        lease_duration: how long the server waits for a heartbeat, in whole seconds. The defaults of both are Eureka's.

    Raises:
        ValueError: a name is empty or cannot be a part of a URL, or the port is none.
    """

    app: str
    ip: str
    port: int
    hostname: str = ""
    instance_id: str = ""
    vip: str = ""
    health_path: str = "/readyz"
    status_path: str = "/livez"
    metadata: Mapping[str, str] = field(default_factory=dict)
    renewal_interval: int = 30
    lease_duration: int = 90

    def __post_init__(self) -> None:
        defaults = {
            "hostname": self.ip,
            "instance_id": default_instance_id(self.app, self.ip, self.port),
            "vip": self.app.lower(),
        }
        for name, default in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        for name in ("app", "ip", "hostname", "instance_id", "vip"):
            _check_name(name, getattr(self, name))
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}: give the one callers use, from 1 to 65535")

    @property
    def home_url(self) -> str:
        """The service's own address, e.g. `http://10.0.0.7:8080/`."""
        return self._url("/")

    @property
    def status_url(self) -> str:
        """Where a person finds out more."""
        return self._url(self.status_path)

    @property
    def health_url(self) -> str:
        """Where readiness is answered."""
        return self._url(self.health_path)

    def _url(self, path: str) -> str:
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"http://{host}:{self.port}{path}"


def _check_name(name: str, value: str) -> None:
    # Eureka's servers route by path, and refuse an encoded slash; `.` and `..` would be resolved away.
    if value in {"", ".", ".."} or "/" in value or not value.isprintable() or value != value.strip():
        raise ValueError(f"{name} is {value!r}: give a name that can be one part of a URL path, without slash or space")
