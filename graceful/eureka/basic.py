"""A copy of py_eureka_client's `eureka_basic` that speaks through a transport of ours."""

from __future__ import annotations

import importlib.util
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from graceful.eureka.transport import Request

if TYPE_CHECKING:
    from graceful.eureka.instance import Instance
    from graceful.eureka.transport import Transport

__all__ = ["load_basic", "quote_segment", "record_of"]

quote_segment = partial(quote, safe="")
"""For a whole path segment: a slash would make it two."""


def load_basic(transport: Transport) -> ModuleType:
    """A copy of `eureka_basic` that speaks through `transport`.

    py_eureka_client has one HTTP client for the whole process, and replacing it would change a user's own Eureka client
    too; a second copy of the module has globals of its own.
    """
    spec = importlib.util.find_spec("py_eureka_client.eureka_basic")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("py_eureka_client.eureka_basic is not there: reinstall py-eureka-client")
    basic: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(basic)
    basic.http_client = SimpleNamespace(HttpRequest=Request, http_client=transport)
    # Theirs leaves a slash as it is, and an instance id with one would be another path.
    basic.quote = quote_segment
    module: ModuleType = basic
    return module


def record_of(basic: Any, instance: Instance, dirty_timestamp: int) -> Any:
    """`instance` in py_eureka_client's terms."""
    return basic.Instance(
        instanceId=instance.instance_id,
        app=instance.app,
        hostName=instance.hostname,
        ipAddr=instance.ip,
        port=basic.PortWrapper(port=instance.port, enabled=instance.port_enabled),
        securePort=basic.PortWrapper(port=instance.secure_port, enabled=instance.secure_port_enabled),
        vipAddress=instance.vip,
        secureVipAddress=instance.secure_vip,
        homePageUrl=instance.home_url,
        statusPageUrl=instance.status_url,
        healthCheckUrl=instance.health_url,
        secureHealthCheckUrl=instance.secure_health_url,
        status="UP",
        leaseInfo=basic.LeaseInfo(
            renewalIntervalInSecs=instance.renewal_interval, durationInSecs=instance.lease_duration
        ),
        metadata=dict(instance.metadata),
        lastUpdatedTimestamp=dirty_timestamp,
        lastDirtyTimestamp=dirty_timestamp,
    )
