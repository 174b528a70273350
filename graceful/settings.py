"""Settings: every number and name that a user may set, from `install(…)` or from the environment."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE, Plan
from graceful.eureka.address import ServerAddress
from graceful.wire import env_names, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ServiceUrl", "Settings", "SettingsError", "load_settings", "unknown_variables"]

_PREFIX: Final = "GRACEFUL_"
_APP_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRET_FIELDS: Final = frozenset({"eureka_url"})
# Read by the hook and by both sides before any settings exist; not fields, but not unknown either.
_OTHER_VARIABLES: Final = frozenset({"GRACEFUL_RUNTIME_DIR"})


class SettingsError(ValueError):
    """A setting that cannot be used; the message says what was given, what is expected and where it came from."""


class ServiceUrl:
    """The address of one Eureka server. Its credentials never appear in a text form."""

    __slots__ = ("_public", "_raw")

    def __init__(self, raw: str) -> None:
        self._raw = raw.strip()
        self._public = ServerAddress.parse(self._raw).public

    @property
    def raw(self) -> str:
        """The whole address, credentials included: for the transport only."""
        return self._raw

    @property
    def has_credentials(self) -> bool:
        """Whether a user name or a password stands in the address."""
        return "***@" in self._public

    def __str__(self) -> str:
        """`http://***@host:8761/eureka`."""
        return self._public

    def __repr__(self) -> str:
        return f"ServiceUrl({self._public!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServiceUrl) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


def _to_seconds(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool):
        raise ValueError("expected seconds, or a text such as '20s' or '2m'")  # noqa: TRY004  pydantic takes ValueError
    return value


def _to_urls(value: object) -> object:
    """One text may name several servers, separated by commas; a comma in a password is none (no scheme follows)."""
    if isinstance(value, str):
        value = re.split(r",\s*(?=https?://)", value.strip().rstrip(","))
    if isinstance(value, list | tuple):
        return tuple(each if isinstance(each, ServiceUrl) else ServiceUrl(str(each)) for each in value if each)
    return value


Seconds = Annotated[float, BeforeValidator(_to_seconds), Field(ge=0, le=86_400, allow_inf_nan=False)]
Timeout = Annotated[float, BeforeValidator(_to_seconds), Field(gt=0, le=86_400, allow_inf_nan=False)]


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
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    enabled: bool | None = Field(
        None,
        description="`false` makes `install()` inert. Unset: on, but inside a pytest process nothing is started "
        "until an application's lifespan begins.",
    )
    app_name: str | None = Field(
        None,
        validation_alias=_names("app_name"),
        description="The service's name, as callers look it up in Eureka.",
    )
    port: int | None = Field(
        None, ge=1, le=65_535, description="The port that the service listens on; it is announced once it accepts."
    )
    hold_signals: bool = Field(
        True,
        description="Whether SIGTERM and SIGINT are held until everything is done. `false` for a process whose signals "
        "are somebody else's: call `coordinator.drain()` then.",
    )
    scope: str | None = Field(
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
    livez_path: str | None = Field("/livez", description="Liveness probe: 200 for as long as the process runs.")
    readyz_path: str | None = Field("/readyz", description="Readiness probe: 200 when ready, else 503.")
    probes: bool = Field(True, description="Whether the two probes are answered at all.")
    retry_after: Seconds = Field(1.0, description="`Retry-After` of the 503 that is answered from the drain on.")

    eureka_url: Annotated[tuple[ServiceUrl, ...], NoDecode, BeforeValidator(_to_urls)] = Field(
        (),
        validation_alias=_names("eureka_url"),
        description="The Eureka servers, separated by commas. Credentials go into the address, percent-encoded.",
    )
    instance_id: str | None = Field(
        None,
        validation_alias=_names("instance_id"),
        description="The instance's id in Eureka. Unset: `app:ip:port`.",
    )
    hostname: str | None = Field(
        None,
        validation_alias=_names("hostname"),
        description="The host name that callers use. Unset: the IP address.",
    )
    ip_addr: str | None = Field(
        None,
        validation_alias=_names("ip_addr"),
        description="The IP address that callers use. Unset: this machine's own.",
    )
    heartbeat_interval: Timeout = Field(30.0, description="Between two heartbeats to Eureka.")
    lease_duration: Timeout = Field(90.0, description="After this long without a heartbeat Eureka may evict.")

    kubernetes: bool = Field(
        default_factory=lambda: "KUBERNETES_SERVICE_HOST" in os.environ,
        description="Whether this runs in Kubernetes. Unset: whether `KUBERNETES_SERVICE_HOST` is there.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.app_name is not None and not _APP_NAME.fullmatch(self.app_name):
            raise ValueError(
                f"app_name {self.app_name!r} cannot be used in Eureka; expected letters, digits, '.', '_', '-'"
            )
        for name in ("livez_path", "readyz_path"):
            path = getattr(self, name)
            if path is not None and not path.startswith("/"):
                raise ValueError(f"{name} is {path!r}; expected a path such as '/{name[:-5]}'")
        if self.eureka_url:
            missing = [name for name in ("app_name", "port") if getattr(self, name) is None]
            if missing:
                variables = " and ".join(_PREFIX + name.upper() for name in missing)
                raise ValueError(
                    f"eureka_url is set, but {' and '.join(missing)} is not: Eureka needs to know what is where; "
                    f"pass install({', '.join(f'{name}=…' for name in missing)}) or set {variables}"
                )
        return self

    @property
    def propagation(self) -> float:
        """Seconds for which callers may still call after they were told."""
        if self.propagation_delay is not None:
            return self.propagation_delay
        chain = self.eureka_server_cache_delay + self.eureka_client_fetch_delay + self.eureka_load_balancer_delay
        return max(
            chain if self.eureka_url else 0.0,
            self.kubernetes_propagation_delay if self.kubernetes else 0.0,
        )

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
        )

    def effective_grace_period(self, plan: Plan) -> float:
        """The grace period: as set, else what Kubernetes gives by default, else what the plan comes to."""
        if self.grace_period is not None:
            return self.grace_period
        return KUBERNETES_DEFAULT_GRACE if self.kubernetes else max(plan.total, 1.0)


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
            hint = _nearest(name, [known for known in Settings.model_fields if known != "scope"])
            only_env = " (set GRACEFUL_SCOPE: the hook must see it too)" if name == "scope" else ""
            raise TypeError(f"install() has no argument {name!r}{only_env or hint}")
    try:
        return Settings(**arguments)
    except ValidationError as error:
        problems = [_problem(each) for each in error.errors(include_url=False)]
    # Outside the except block: pydantic's error holds the raw values, and a chained traceback would print them.
    raise SettingsError("; ".join(problems))


def _problem(error: Any) -> str:
    field = str(error["loc"][0]) if error["loc"] else ""
    message = error["msg"].removeprefix("Value error, ")
    if not field:
        return str(message)
    for name, info in Settings.model_fields.items():
        alias = info.validation_alias
        if isinstance(alias, AliasChoices) and field in alias.choices:
            field = f"{name} (or the variable {field})" if field not in Settings.model_fields else field
    given = "" if any(secret in field for secret in _SECRET_FIELDS) else f" is {error['input']!r}"
    return f"{field}{given}: {message}"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every `GRACEFUL_…` variable that means nothing, with the nearest name that does."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields} | _OTHER_VARIABLES
    return [
        f"{name} is set but means nothing to graceful{_nearest(name, sorted(known))}"
        for name in sorted(environ)
        if name.startswith(_PREFIX) and name not in known
    ]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
