"""From the settings to what is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.eureka.instance import HTTPS_PORT, Instance
from graceful.network import own_address

if TYPE_CHECKING:
    from graceful.settings import Settings

__all__ = ["instance_of"]


def instance_of(settings: Settings) -> Instance:
    """The instance that the settings describe.

    Args:
        settings: with `app_name` and `port`, as they always are where `eureka_url` is set.

    Raises:
        ValueError: `app_name` or `port` is missing.
    """
    return Instance(
        app=settings.app_name or "",
        ip=settings.ip_addr or own_address(),
        port=settings.port or 0,
        port_enabled=settings.non_secure_port_enabled,
        secure_port=settings.secure_port or (settings.port or 0 if settings.has_secure_port else HTTPS_PORT),
        secure_port_enabled=settings.has_secure_port,
        hostname="" if settings.prefer_ip_address else settings.hostname or "",
        instance_id=settings.instance_id or "",
        vip=settings.vip_address or "",
        secure_vip=settings.secure_vip_address or "",
        home_page=settings.home_page_url,
        status_page=settings.status_page_url or settings.livez_path or "/",
        health_check=settings.health_check_url or settings.readyz_path or "/",
        secure_health_check=settings.secure_health_check_url or "",
        metadata={**settings.metadata, **({"zone": settings.zone} if settings.zone else {})},
        renewal_interval=max(1, round(settings.heartbeat_interval)),
        lease_duration=max(1, round(settings.lease_duration)),
    )
