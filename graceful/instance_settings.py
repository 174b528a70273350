"""The settings of the instance: what callers see of it in Eureka."""

from __future__ import annotations

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings

from graceful.unusable import fix, given
from graceful.values import EUREKA_NAMES, Flag, Metadata, PageUrl, Port, Text, Timeout, Zone
from graceful.wire import env_names

__all__ = ["InstanceSettings", "env_alias"]


def env_alias(field: str) -> AliasChoices:
    """The variable of ours first, then the names that users already have; the hook reads the same ones."""
    return AliasChoices(*env_names(field))


class InstanceSettings(BaseSettings):
    """The instance as callers see it: the part of the settings that is registered."""

    app_name: Text | None = Field(
        None,
        validation_alias=env_alias("app_name"),
        description="The service's name, as callers look it up in Eureka.",
    )
    port: Port | None = Field(
        None,
        validation_alias=env_alias("port"),
        description="The port that the service listens on; it is announced once it accepts.",
    )
    non_secure_port_enabled: Flag = Field(
        True,
        validation_alias=env_alias("non_secure_port_enabled"),
        description="Whether callers may use `port` with plain `http`.",
    )
    secure_port: Port | None = Field(
        None,
        validation_alias=env_alias("secure_port"),
        description="The port that callers use with `https`. Unset: none, or `port` if `secure_port_enabled` is true.",
    )
    secure_port_enabled: Flag | None = Field(
        None,
        validation_alias=env_alias("secure_port_enabled"),
        description="Whether callers may use `https`; Spring's then do. Unset: whether `secure_port` is set.",
    )
    instance_id: Text | None = Field(
        None,
        validation_alias=env_alias("instance_id"),
        description="The instance's id in Eureka. Unset: `app:ip:port`.",
    )
    hostname: Text | None = Field(
        None,
        validation_alias=env_alias("hostname"),
        description="The host name that callers use. Unset: the IP address.",
    )
    ip_addr: Text | None = Field(
        None,
        validation_alias=env_alias("ip_addr"),
        description="The IP address that callers use. Unset: this machine's own.",
    )
    prefer_ip_address: Flag = Field(
        False,
        validation_alias=env_alias("prefer_ip_address"),
        description="Whether callers use the IP address even if `hostname` is set. If it is not, they do in any case.",
    )
    vip_address: Text | None = Field(
        None,
        validation_alias=env_alias("vip_address"),
        description="The name under which callers look for `http`. Unset: `app_name` in lower case.",
    )
    secure_vip_address: Text | None = Field(
        None,
        validation_alias=env_alias("secure_vip_address"),
        description="The name under which callers look for `https`. Unset: `vip_address`.",
    )
    home_page_url: PageUrl = Field(
        "/",
        validation_alias=env_alias("home_page_url"),
        description="The service's own page: a path on the instance, or a whole URL.",
    )
    status_page_url: PageUrl | None = Field(
        None,
        validation_alias=env_alias("status_page_url"),
        description="Where a person finds out more: a path on the instance, or a whole URL. Unset: `livez_path`.",
    )
    health_check_url: PageUrl | None = Field(
        None,
        validation_alias=env_alias("health_check_url"),
        description="Where readiness is answered: a path on the instance, or a whole URL. Unset: `readyz_path`.",
    )
    secure_health_check_url: PageUrl | None = Field(
        None,
        validation_alias=env_alias("secure_health_check_url"),
        description="The same over `https`. Unset: `health_check_url` on the secure port, if that is enabled.",
    )
    metadata: Metadata = Field(
        default_factory=dict,
        validation_alias=env_alias("metadata"),  # without one, pydantic-settings would merge argument and environment
        description="What else callers may read of the instance: a mapping; in the variable JSON, or "
        "`version=3,team=orders`. If it is not set, Spring's `EUREKA_INSTANCE_METADATAMAP_…` are used.",
    )
    zone: Zone | None = Field(
        None,
        validation_alias=env_alias("zone"),
        description="The zone that the instance is in. It goes into the metadata, where callers look for it, and the "
        "Eureka servers of this zone are asked first, and the instances of others in it called first.",
    )
    heartbeat_interval: Timeout = Field(
        30.0, validation_alias=env_alias("heartbeat_interval"), description="Between two heartbeats to Eureka."
    )
    lease_duration: Timeout = Field(
        90.0,
        validation_alias=env_alias("lease_duration"),
        description="After this long without a heartbeat Eureka may evict.",
    )

    @property
    def own_zone(self) -> str:
        """The zone that the instance is in, wherever it was given; empty if it was not."""
        return self.zone or self.metadata.get("zone", "")

    @property
    def has_secure_port(self) -> bool:
        """Whether callers may use `https`."""
        return self.secure_port is not None if self.secure_port_enabled is None else self.secure_port_enabled

    def check_instance(self) -> None:
        """Check that Eureka can use what would be registered.

        Raises:
            ValueError: it cannot, or callers could not.
        """
        for name, is_good, expected in EUREKA_NAMES:
            value = getattr(self, name)
            if value is not None and not is_good(value):
                raise ValueError(
                    f"{given(name, value)}, which Eureka cannot use: expected {expected}; {fix(name, value)}"
                )
        if not self.non_secure_port_enabled and not self.has_secure_port:
            raise ValueError(
                "non_secure_port_enabled is false and there is no secure port: callers would have none; set "
                "secure_port_enabled if the service speaks https, or leave non_secure_port_enabled out"
            )
        if self.zone and self.zone != (other := self.metadata.get("zone", self.zone)):
            raise ValueError(f"zone is {self.zone!r}, but metadata has the zone {other!r}: leave one of them out")
        if self.lease_duration <= self.heartbeat_interval:
            raise ValueError(
                f"lease_duration is {self.lease_duration:g}s, heartbeat_interval {self.heartbeat_interval:g}s: Eureka "
                "would evict the instance between two heartbeats; set lease_duration to about three intervals"
            )
