"""What is registered in Eureka."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from graceful.wire import default_instance_id

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HTTPS_PORT", "Instance"]

HTTPS_PORT: Final = 443
"""What Spring registers as the secure port where there is none (EurekaInstanceConfigBean)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of a service, as callers see it.

    A page is a path on the instance, or a whole URL. On the instance it is `http` where that is enabled, else `https`.

    Attributes:
        app: the application's name; Eureka shows it in upper case.
        ip: the address callers can reach.
        port: the port callers use.
        port_enabled: whether callers may use it, with plain `http`.
        secure_port: the port callers use with `https`.
        secure_port_enabled: whether they may. If so, Spring's callers use no other (EurekaServiceInstance.isSecure).
        hostname: what callers put into their URLs; by default `ip`, because a pod's host name means nothing to others.
        instance_id: by default `app:ip:port`. A new life under the same id takes the old one's place.
        vip: the name callers look up; by default the application's name in lower case.
        secure_vip: the name callers look up for `https`; by default `vip`.
        home_page: the service's own page.
        status_page: where a person finds out more.
        health_check: where readiness is answered.
        secure_health_check: the same over `https`; by default the path of `health_check`.
        metadata: what callers may read of the instance.
        renewal_interval: what the server is told to expect between two heartbeats, in whole seconds.
        lease_duration: how long the server waits for a heartbeat, in whole seconds. The defaults of both are Eureka's.

    Raises:
        ValueError: a name is empty or cannot be a part of a URL, or a port is none.
    """

    app: str
    ip: str
    port: int
    port_enabled: bool = True
    secure_port: int = HTTPS_PORT
    secure_port_enabled: bool = False
    hostname: str = ""
    instance_id: str = ""
    vip: str = ""
    secure_vip: str = ""
    home_page: str = "/"
    status_page: str = "/livez"
    health_check: str = "/readyz"
    secure_health_check: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    renewal_interval: int = 30
    lease_duration: int = 90

    def __post_init__(self) -> None:
        defaults = {
            "hostname": self.ip,
            "instance_id": default_instance_id(self.app, self.ip, self.port),
            "vip": self.app.lower(),
            "secure_vip": self.vip or self.app.lower(),
        }
        for name, default in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, default)
        for name in ("app", "ip", "hostname", "instance_id", "vip", "secure_vip"):
            _check_name(name, getattr(self, name))
        for name in ("port", "secure_port"):
            if not 1 <= getattr(self, name) <= 65535:
                raise ValueError(f"{name} is {getattr(self, name)}: give the one callers use, from 1 to 65535")

    @property
    def home_url(self) -> str:
        """The service's own address, e.g. `http://10.0.0.7:8080/`."""
        return self._url(self.home_page)

    @property
    def status_url(self) -> str:
        """Where a person finds out more."""
        return self._url(self.status_page)

    @property
    def health_url(self) -> str:
        """Where readiness is answered."""
        return self._url(self.health_check)

    @property
    def secure_health_url(self) -> str:
        """Where readiness is answered over `https`; empty if it is not."""
        if self.secure_health_check:
            return self._url(self.secure_health_check, secure=True)
        # A whole URL elsewhere says nothing of this instance's secure port.
        follows = self.secure_port_enabled and self.health_check.startswith("/")
        return self._url(self.health_check, secure=True) if follows else ""

    def _url(self, page: str, *, secure: bool = False) -> str:
        if not page.startswith("/"):
            return page
        host = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        if secure or not self.port_enabled:
            return f"https://{host}:{self.secure_port}{page}"
        return f"http://{host}:{self.port}{page}"


def _check_name(name: str, value: str) -> None:
    # Eureka's servers route by path, and refuse an encoded slash; `.` and `..` would be resolved away.
    if value in {"", ".", ".."} or "/" in value or not value.isprintable() or value != value.strip():
        raise ValueError(f"{name} is {value!r}: give a name that can be one part of a URL path, without slash or space")
