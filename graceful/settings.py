"""Settings: every number and name that a user may set, from `install(…)` or from the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pydantic import AliasChoices, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE, Plan
from graceful.core.caches import CacheChain
from graceful.environment import find_variable, nearest, odd_variables, service_as_port
from graceful.unusable import SettingsError, fix, given, unusable
from graceful.values import (
    DAY,
    EUREKA_NAMES,
    Flag,
    Port,
    Seconds,
    Secret,
    ServiceUrl,
    ServiceUrls,
    Text,
    Timeout,
    UrlPath,
)
from graceful.wire import env_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

__all__ = ["ServiceUrl", "Settings", "SettingsError", "load_settings", "unknown_variables"]

_PREFIX: Final = "GRACEFUL_"


def _names(field: str) -> AliasChoices:
    """The variable of ours first, then the names that users already have; the hook reads the same ones."""
    return AliasChoices(*env_names(field))


class Settings(BaseSettings):
    """Everything that can be set. Arguments of `install()` win over the environment.

    Durations are seconds, or in text `"20s"`, `"2m"`. A name that ends in `_delay` is always waited whole, one that
    ends in `_timeout` is an upper bound.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    enabled: Flag | None = Field(
        None,
        description="`false` makes `install()` inert. Unset: on, but inside a pytest process nothing is started "
        "until an application's lifespan begins.",
    )
    app_name: Text | None = Field(
        None,
        validation_alias=_names("app_name"),
        description="The service's name, as callers look it up in Eureka.",
    )
    port: Port | None = Field(
        None, description="The port that the service listens on; it is announced once it accepts."
    )
    hold_signals: Flag = Field(
        True,
        description="Whether SIGTERM and SIGINT are held until everything is done. `false` for a process whose signals "
        "are somebody else's: call `coordinator.drain()` then.",
    )
    scope: Text | None = Field(
        None,
        description="Keeps several services on one machine apart: the app and its hook must have the same value. "
        "From the environment only. Unset: the container's mount namespace.",
    )

    grace_period: Timeout | None = Field(
        None,
        description="The pod's `terminationGracePeriodSeconds`. Unset: in Kubernetes its default of 30 s is assumed, "
        "elsewhere the whole plan.",
    )
    announce_timeout: Seconds = Field(5.0, description="For taking the instance out of service and reading it back.")
    propagation_delay: Seconds | None = Field(
        None,
        description="How long callers may go on calling after they were told: waited whole, while serving. Unset: the "
        "Eureka caches below (with Eureka), `kubernetes_propagation_delay` (in Kubernetes), the longer of the two, "
        "or 0.",
    )
    eureka_server_cache_delay: Seconds = Field(
        30.0, description="The server's response cache: `eureka.server.response-cache-update-interval-ms`."
    )
    eureka_client_fetch_delay: Seconds = Field(
        30.0, description="The callers' fetch interval: `eureka.client.registry-fetch-interval-seconds`."
    )
    eureka_load_balancer_delay: Seconds = Field(
        35.0, description="The callers' load-balancer cache: `spring.cloud.loadbalancer.cache.ttl`, 35 s by default."
    )
    eureka_observe_cache: Flag = Field(
        True,
        description="Whether the servers are watched, so that the wait for their response cache ends when each was "
        "seen to show the change. `false` where a load balancer stands in front of several servers.",
    )
    kubernetes_propagation_delay: Seconds = Field(
        10.0, description="Until endpoints and kube-proxies have heard that the pod is leaving."
    )
    drain_timeout: Seconds = Field(
        20.0,
        validation_alias=_names("drain_timeout"),
        description="For finishing what is in flight, after the lame duck.",
    )
    cleanup_timeout: Seconds = Field(
        5.0, description="For all cleanup callbacks together, and for one without a timeout of its own."
    )
    deregister_timeout: Seconds = Field(3.0, description="For deleting the instance and confirming that it is absent.")
    margin: Seconds = Field(2.0, description="Left for the server's own stop, and for the platform.")

    readiness_timeout: Timeout = Field(1.0, description="For one readiness check without a timeout of its own.")
    livez_path: UrlPath | None = Field("/livez", description="Liveness probe: 200 for as long as the process runs.")
    readyz_path: UrlPath | None = Field("/readyz", description="Readiness probe: 200 when ready, else 503.")
    probes: Flag = Field(True, description="Whether the two probes are answered at all.")
    retry_after: Seconds = Field(1.0, description="`Retry-After` of the 503 that is answered from the drain on.")

    eureka_url: ServiceUrls = Field(
        (),
        validation_alias=_names("eureka_url"),
        description="The Eureka servers, separated by commas. Credentials go into the address, percent-encoded.",
    )
    eureka_ca_file: Text | None = Field(
        None,
        description="For `https` servers with a private CA: a PEM file with the certificates to trust, in place of the "
        "system's. A path in the container; read once, at the start.",
    )
    eureka_client_cert_file: Text | None = Field(
        None,
        description="For `https` servers that demand a client certificate: a PEM file with it and its chain, and with "
        "its key unless `eureka_client_key_file` is set. A path in the container; read once, at the start.",
    )
    eureka_client_key_file: Text | None = Field(
        None, description="The client certificate's private key, where it is in a PEM file of its own."
    )
    eureka_client_key_password: Secret | None = Field(
        None, description="Of that key, if it is encrypted. Never shown; give it by the variable, from a Secret."
    )
    eureka_use_proxy: Flag = Field(
        False,
        description="Whether Eureka is called through the proxies that `HTTP_PROXY` and `HTTPS_PROXY` name, except for "
        "the hosts in `NO_PROXY`. Unless it is `true`, these variables are ignored. The hook always connects directly.",
    )
    instance_id: Text | None = Field(
        None,
        validation_alias=_names("instance_id"),
        description="The instance's id in Eureka. Unset: `app:ip:port`.",
    )
    hostname: Text | None = Field(
        None,
        validation_alias=_names("hostname"),
        description="The host name that callers use. Unset: the IP address.",
    )
    ip_addr: Text | None = Field(
        None,
        validation_alias=_names("ip_addr"),
        description="The IP address that callers use. Unset: this machine's own.",
    )
    heartbeat_interval: Timeout = Field(30.0, description="Between two heartbeats to Eureka.")
    lease_duration: Timeout = Field(90.0, description="After this long without a heartbeat Eureka may evict.")

    kubernetes: Flag = Field(
        default_factory=lambda: "KUBERNETES_SERVICE_HOST" in os.environ,
        description="Whether this runs in Kubernetes. Unset: whether `KUBERNETES_SERVICE_HOST` is there.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        parts = self.plan(registry=True)
        if parts.total > DAY:
            raise ValueError(f"{parts} is longer than a day: shorten the longest of them")
        if self.eureka_url:
            self._check_for_eureka()
        return self

    def _check_for_eureka(self) -> None:
        missing = [name for name in ("app_name", "port") if getattr(self, name) is None]
        if missing:
            variables = " and ".join(_PREFIX + name.upper() for name in missing)
            raise ValueError(
                f"eureka_url is set, but {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not: Eureka "
                f"needs to know what is where; pass install({', '.join(f'{name}=…' for name in missing)}) or set "
                f"{variables}{''.join(f' ({note})' for note in service_as_port(os.environ) if 'port' in missing)}"
            )
        for name in ("eureka_client_key_file", "eureka_client_key_password"):
            if getattr(self, name) is not None and self.eureka_client_cert_file is None:
                raise ValueError(
                    f"{name} is set, but eureka_client_cert_file is not: a key belongs to a certificate; set "
                    f"eureka_client_cert_file ({_PREFIX}EUREKA_CLIENT_CERT_FILE) too, or leave {name} out"
                )
        for name, is_good, expected in EUREKA_NAMES:
            value = getattr(self, name)
            if value is not None and not is_good(value):
                raise ValueError(
                    f"{given(name, value)}, which Eureka cannot use: expected {expected}; {fix(name, value)}"
                )
        if self.lease_duration <= self.heartbeat_interval:
            raise ValueError(
                f"lease_duration is {self.lease_duration:g}s, heartbeat_interval {self.heartbeat_interval:g}s: Eureka "
                "would evict the instance between two heartbeats; set lease_duration to about three intervals"
            )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic passes them by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment as the hook reads it."""
        return init_settings, _Environment(settings_cls)

    @property
    def propagation(self) -> float:
        """Seconds for which callers may still call after they were told."""
        if self.propagation_delay is not None:
            return self.propagation_delay
        return self.caches.total if self.caches is not None else self._kubernetes_delay

    @property
    def caches(self) -> CacheChain | None:
        """What the propagation delay is made of; None where it was set as a whole, and without Eureka."""
        if self.propagation_delay is not None or not self.eureka_url:
            return None
        return CacheChain(
            server=self.eureka_server_cache_delay,
            fetch=self.eureka_client_fetch_delay,
            load_balancer=self.eureka_load_balancer_delay,
            kubernetes=self._kubernetes_delay,
            observed=self.eureka_observe_cache and self.eureka_server_cache_delay > 0,
        )

    @property
    def _kubernetes_delay(self) -> float:
        return self.kubernetes_propagation_delay if self.kubernetes else 0.0

    def in_kubernetes(self) -> Settings:
        """These settings as they come out in a pod: for a manifest that is written elsewhere."""
        return self if "kubernetes" in self.model_fields_set else self.model_copy(update={"kubernetes": True})

    def plan(self, *, registry: bool, cleanup: float | None = None) -> Plan:
        """The plan that these settings make.

        Args:
            registry: whether there is a registry to announce to; without one, no time is kept for it.
            cleanup: seconds that the registered cleanup callbacks ask for, if that is more than `cleanup_timeout`.
        """
        return Plan(
            announce=self.announce_timeout if registry else 0.0,
            propagation=self.propagation,
            drain=self.drain_timeout,
            cleanup=max(self.cleanup_timeout, cleanup or 0.0),
            deregister=self.deregister_timeout if registry else 0.0,
            margin=self.margin,
            caches=self.caches,
        )

    def effective_grace_period(self, plan: Plan, told: float | None = None) -> float:
        """The grace period: as set, else as told, else what Kubernetes gives by default, else what the plan comes to.

        Args:
            plan: the plan.
            told: what the hook knows of it; less than what was set is believed (it was cut), more is not.
        """
        if self.grace_period is not None:
            return self.grace_period if told is None else min(self.grace_period, told)
        if told is not None:
            return told
        return KUBERNETES_DEFAULT_GRACE if self.kubernetes else max(plan.total, 1.0)


class _Environment(PydanticBaseSettingsSource):
    """Reads the environment by the names and rules of the hook, so that the two never differ."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The text that the environment gives to a field."""
        variable = find_variable(field_name, os.environ)
        return (variable.value if variable else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The texts of all fields that the environment gives."""
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def load_settings(arguments: Mapping[str, Any]) -> Settings:
    """Settings from arguments and the environment.

    Args:
        arguments: field names and values; they win over the environment.

    Raises:
        TypeError: for an argument that does not exist, with the nearest that does.
        SettingsError: for a value that cannot be used. Credentials are never quoted.
    """
    for name in arguments:
        if name not in Settings.model_fields or name == "scope":
            hint = nearest(name, Settings.model_fields.keys() - {"scope"})
            only_env = " (set GRACEFUL_SCOPE: the hook must see it too)" if name == "scope" else ""
            raise TypeError(f"install() has no argument {name!r}{only_env or hint}")
    try:
        return Settings(**arguments)
    except ValidationError as error:
        problems = [_problem(each) for each in error.errors(include_url=False)]
    # Outside the except block: pydantic's error holds the raw values, and a chained traceback would print them.
    raise SettingsError("; ".join(problems))


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every `GRACEFUL_…` variable that is not used, with the nearest name that would be."""
    return odd_variables(Settings.model_fields, environ)


def _problem(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)
    field = str(error["loc"][0])
    return str(unusable(field, error["input"], message))
