"""Settings: every number and name that a user may set, from `install(…)` or from the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE, Plan
from graceful.core.caches import CacheChain
from graceful.core.silence import EarlyEndRule
from graceful.environment import find_variable, nearest, odd_variables, service_as_port
from graceful.instance_settings import InstanceSettings, env_alias
from graceful.unusable import SettingsError, placeholder, unusable
from graceful.values import (
    DAY,
    CloseCode,
    FilePath,
    Flag,
    HeaderName,
    Layout,
    Probability,
    Seconds,
    Secret,
    ServiceUrl,
    ServiceUrls,
    Stale,
    Text,
    Timeout,
    Token,
    UrlPath,
    same_zone,
)
from graceful.wire import env_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

__all__ = ["ServiceUrl", "Settings", "SettingsError", "load_settings", "unknown_variables"]

_PREFIX: Final = "GRACEFUL_"


class Settings(InstanceSettings):
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
    early_end: Flag = Field(
        False,
        description="Whether the wait may end before its time, when every caller seen before has been silent for long "
        "enough. Callers that call rarely or were never seen may lose requests by it.",
    )
    early_end_risk: Probability = Field(
        0.001,
        description="The probability, over all callers of one leave together, that one was taken for gone and still "
        "calls; at most 0.1. A smaller one asks for longer silence.",
    )
    early_end_caller_header: HeaderName | None = Field(
        None,
        description="The header that names the caller for the early end, such as `X-Client-Id`. Unset, or missing in a "
        "request: the peer's address.",
    )
    drain_timeout: Seconds = Field(
        20.0,
        validation_alias=env_alias("drain_timeout"),
        description="For finishing what is in flight, after the lame duck.",
    )
    cleanup_timeout: Seconds = Field(
        5.0, description="For all cleanup callbacks together, and for one without a timeout of its own."
    )
    deregister_timeout: Seconds = Field(3.0, description="For deleting the instance and confirming that it is absent.")
    margin: Seconds = Field(2.0, description="Left for the server's own stop, and for the platform.")

    deadline_report_format: Layout = Field(
        "auto",
        description="How the log has the report of who was in the way when time ran out: `text` for people, in lines, "
        "or `json`, in one line. `auto`: text where the standard error is a terminal, else JSON.",
    )
    deadline_report_query: Flag = Field(
        False,
        description="Whether that report has the requests' query strings, in which there may be secrets.",
    )
    termination_log: FilePath | None = Field(
        None,
        description="The file that gets a few lines about a leave that was not clean, for `kubectl describe`: the "
        "container's `terminationMessagePath`; `off` for none. Unset: `/dev/termination-log`, in Kubernetes only.",
    )

    readiness_timeout: Timeout = Field(1.0, description="For one readiness check without a timeout of its own.")
    livez_path: UrlPath | None = Field("/livez", description="Liveness probe: 200 for as long as the process runs.")
    readyz_path: UrlPath | None = Field("/readyz", description="Readiness probe: 200 when ready, else 503.")
    probes: Flag = Field(True, description="Whether the two probes are answered at all.")
    prestop_token: Token | None = Field(
        None,
        description="Switches the pre-stop endpoint on, for a hook that is an HTTP call (`manifest --mode http`): the "
        "secret that the call has in the header `X-Graceful-Token`, at least 16 characters. Never shown; give it by "
        "the variable, from a Secret.",
    )
    prestop_path: UrlPath = Field("/graceful/prestop", description="Where the pre-stop endpoint is.")
    retry_after: Seconds = Field(1.0, description="`Retry-After` of the 503 that is answered from the drain on.")

    websocket_close_code: CloseCode = Field(
        1012,
        description="What an open WebSocket is closed with in the drain: 1012 is Service Restart. daphne takes only "
        "1000 and 3000 to 4999.",
    )
    scope_notice: Flag = Field(
        False,
        description="Whether an ASGI application finds `coordinator.draining` in its scope, as `graceful.draining`.",
    )

    eureka_url: ServiceUrls = Field(
        (),
        validation_alias=env_alias("eureka_url"),
        description="The Eureka servers, separated by commas; or a mapping from zones to servers, which in the "
        "environment is one `EUREKA_CLIENT_SERVICEURL_…` for each zone. Credentials go into the address, "
        "percent-encoded.",
    )
    eureka_status_only: Flag = Field(
        False,
        description="Whether somebody else registers the instance (a sidecar, another library) and only its status is "
        "changed here: OUT_OF_SERVICE at the end, cleared again once the next start is ready; never deleted. Needs "
        "`eureka_url`, `app_name` and `instance_id`.",
    )
    eureka_stale: Stale = Field(
        "clear",
        description="What becomes of an OUT_OF_SERVICE that is there before this start: `clear` takes it for what a "
        "former life left; `respect` leaves it, for operators who set it by hand, says so in a warning, and deletes "
        "nothing at the start.",
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
    eureka_fetch_interval: Timeout = Field(
        30.0,
        validation_alias=env_alias("eureka_fetch_interval"),
        description="Between two fetches of a service that this one calls (`coordinator.eureka`).",
    )
    kubernetes: Flag = Field(
        default_factory=lambda: "KUBERNETES_SERVICE_HOST" in os.environ,
        description="Whether this runs in Kubernetes. Unset: whether `KUBERNETES_SERVICE_HOST` is there.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_placeholders(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name: values[name] for name in cls.model_fields if name in values}
        if given.get("eureka_url") or values.get(env_names("eureka_url")[0]):
            for name, value in given.items():
                # pydantic-settings keeps an argument under its first alias, and it wins.
                if env_names(name)[0] not in values and (problem := placeholder(name, value)):
                    raise ValueError(problem)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        parts = self.plan(registry=True)
        if parts.total > DAY:
            raise ValueError(f"{parts} is longer than a day: shorten the longest of them")
        if self.eureka_status_only:
            self._require(
                ("eureka_url", "app_name", "instance_id"),
                "eureka_status_only is set",
                "the instance must be called as the one who registers it does",
            )
        elif self.eureka_url:
            self._require(("app_name", "port"), "eureka_url is set", "Eureka needs to know what is where")
        if self.eureka_url:
            self._check_for_eureka()
        return self

    def _require(self, names: tuple[str, ...], because: str, why: str) -> None:
        missing = [name for name in names if getattr(self, name) in (None, ())]
        if missing:
            variables = " and ".join(_PREFIX + name.upper() for name in missing)
            raise ValueError(
                f"{because}, but {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not: {why}; "
                f"pass install({', '.join(f'{name}=…' for name in missing)}) or set "
                f"{variables}{''.join(f' ({note})' for note in service_as_port(os.environ) if 'port' in missing)}"
            )

    def _check_for_eureka(self) -> None:
        for name in ("eureka_client_key_file", "eureka_client_key_password"):
            if getattr(self, name) is not None and self.eureka_client_cert_file is None:
                raise ValueError(
                    f"{name} is set, but eureka_client_cert_file is not: a key belongs to a certificate; set "
                    f"eureka_client_cert_file ({_PREFIX}EUREKA_CLIENT_CERT_FILE) too, or leave {name} out"
                )
        self.check_instance()

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
    def eureka_servers(self) -> list[ServiceUrl]:
        """The servers in the order in which they are asked to register: those of the instance's own zone first."""
        own = self.own_zone
        return sorted(self.eureka_url, key=lambda url: not (own and same_zone(url.zone, own)))

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
    def observed_cache_interval(self) -> float | None:
        """Seconds between two refreshes of the servers' response cache, where it is watched; else None."""
        return self.caches.server if self.caches is not None and self.caches.observed else None

    @property
    def _kubernetes_delay(self) -> float:
        return self.kubernetes_propagation_delay if self.kubernetes else 0.0

    @property
    def early_end_rule(self) -> EarlyEndRule | None:
        """When the wait may end early, or None where it may not."""
        if not self.early_end:
            return None
        # What comes through a Service has its node's address, as all of that node's does, and no registry tells it to
        # go: only the time that endpoints and proxies take says when it ends.
        return EarlyEndRule(self.early_end_risk, least=self._kubernetes_delay)

    def in_kubernetes(self) -> Settings:
        """These settings as they come out in a pod: for a manifest that is written elsewhere."""
        return self if "kubernetes" in self.model_fields_set else self.model_copy(update={"kubernetes": True})

    def plan(self, *, registry: bool, cleanup: float | None = None) -> Plan:
        """The plan that these settings make.

        Args:
            registry: whether there is a registry to announce to; without one, no time is kept for it, and none for
                deregistering what somebody else has registered.
            cleanup: seconds that the registered cleanup callbacks ask for, if that is more than `cleanup_timeout`.
        """
        return Plan(
            announce=self.announce_timeout if registry else 0.0,
            propagation=self.propagation,
            drain=self.drain_timeout,
            cleanup=max(self.cleanup_timeout, cleanup or 0.0),
            deregister=self.deregister_timeout if registry and not self.eureka_status_only else 0.0,
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
