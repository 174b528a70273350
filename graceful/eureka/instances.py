"""What callers need to know of an instance of another service, made of what py_eureka_client reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ServiceInstance", "up_instances"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInstance:
    """One instance of a service, as Eureka knew it when it was last asked.

    Attributes:
        instance_id: its id in Eureka.
        host: the host name that it registered, which may be an address.
        ip: its IP address.
        port: the port that `base_url` uses: the secure one where it is enabled, as in Spring Cloud.
        secure: whether that port speaks https.
        metadata: what it told of itself; read it only.
        zone: the availability zone, or None where it told none.
    """

    instance_id: str
    host: str
    ip: str
    port: int
    secure: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    zone: str | None = None

    @property
    def base_url(self) -> str:
        """Where it is called, without a slash at the end: `http://10.0.3.7:8080`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def up_instances(application: Any) -> tuple[ServiceInstance, ...]:
    """The instances that are UP in an `Application` of py_eureka_client's."""
    return tuple(_instance(each) for each in application.up_instances)


def _instance(read: Any) -> ServiceInstance:
    secure = read.securePort.enabled
    metadata = {_key_of(tag): text or "" for tag, text in read.metadata.items()}
    data_center = read.dataCenterInfo.metadata
    return ServiceInstance(
        instance_id=read.instanceId,
        host=read.hostName or read.ipAddr,
        ip=read.ipAddr,
        port=(read.securePort if secure else read.port).port,
        secure=secure,
        metadata=metadata,
        zone=data_center.get("availability-zone") or metadata.get("zone") or None,
    )


def _key_of(tag: str) -> str:
    """The metadata key that is an XML tag here: XStream escapes what a tag may not contain, and `_` itself."""

    def unescape(found: re.Match[str]) -> str:
        return {"__": "_", "_-": "$"}.get(found[0]) or chr(int(found[1], 16))

    return re.sub(r"__|_-|_\.([0-9a-f]{4})", unescape, tag)
