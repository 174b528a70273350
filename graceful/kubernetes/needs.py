"""What an application needs of its pod: the time that its plan takes, and the environment that the hook reads."""

from __future__ import annotations

import json
import math
import os
import re
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from graceful.environment import find_variable, variable_with
from graceful.kubernetes.tree import Flow, Plain, Remark, Sourced
from graceful.network import own_address
from graceful.settings import Settings
from graceful.values import to_urls
from graceful.wire import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan

__all__ = ["HOOK_DURATIONS", "HOOK_FILES", "Needs", "Variable", "in_pod", "needs_of"]

HOOK_DURATIONS: Final = (
    "propagation_delay",
    "eureka_server_cache_delay",
    "eureka_client_fetch_delay",
    "eureka_load_balancer_delay",
    "kubernetes_propagation_delay",
    "drain_timeout",
    "cleanup_timeout",
    "deregister_timeout",
    "margin",
)
"""What the hook reads to wait as long as the app would, when no app answers it. It has the same defaults."""

HOOK_FILES: Final = ("eureka_ca_file", "eureka_client_cert_file", "eureka_client_key_file")
"""What the hook reads to reach an https server, as the app does: paths in the container that they share."""


_FROM_SECRET: Final = "{}: take it from a Secret, for the app and the hook"  # noqa: S105  no password either


@dataclass(frozen=True, slots=True)
class Variable:
    """An entry of `env`, or what is to be said in place of one.

    Attributes:
        name: the variable's name; empty for a remark.
        value: its value, as Kubernetes takes it.
        path: the field of the pod that gives the value, instead.
        remark: why there is no entry.
        source: where a number comes from.
    """

    name: str = ""
    value: str = ""
    path: str = ""
    remark: str = ""
    source: str = ""

    def tree(self) -> Any:
        """As a piece of the manifest."""
        if self.remark:
            return Remark(self.remark)
        if self.path:
            given: dict[str, Any] = {"valueFrom": Flow(fieldRef=Flow(fieldPath=Plain(self.path)))}
        else:
            given = {"value": self.value}
        entry = Flow(name=Plain(self.name), **given)
        return Sourced(entry, self.source) if self.source else entry


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pod must give an application, as plain numbers and texts: they may come from another process.

    Attributes:
        app_name: the application's name, empty where it has none.
        plan: its plan in a pod, as a sum.
        seconds: what the plan comes to, rounded up.
        grace_period: the same, or what was set where that is more.
        before_sigterm: seconds of the plan until SIGTERM: announce and propagation, rounded up.
        kubernetes_delay: `kubernetes_propagation_delay`.
        readiness_timeout: `readiness_timeout`.
        port: where the application serves, None where that is not known.
        livez_path: the liveness probe's path, None where it is not answered.
        readyz_path: the readiness probe's path, None where it is not answered.
        prestop_path: the path of the pre-stop endpoint.
        variables: the environment, without `GRACEFUL_GRACE_PERIOD`.
    """

    app_name: str
    plan: str
    seconds: int
    grace_period: int
    before_sigterm: int
    kubernetes_delay: float
    readiness_timeout: float
    port: int | None
    livez_path: str | None
    readyz_path: str | None
    prestop_path: str
    variables: tuple[Variable, ...] = field(default=())

    def to_json(self) -> str:
        """For another process; `from_json` reads it. There are no credentials in it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Needs:
        """What `to_json` was called for.

        Raises:
            ValueError: the text is something else, such as the answer of another version.
        """
        try:
            values = json.loads(text)
            variables = tuple(Variable(**each) for each in values.pop("variables"))
            return cls(**values, variables=variables)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"expected the numbers of a manifest of this version of graceful: {error}") from None


def needs_of(settings: Settings, plan: Plan, environ: Mapping[str, str] = os.environ) -> Needs:
    """What an application needs.

    Args:
        settings: what it runs with.
        plan: its plan.
        environ: the environment that the settings were read from.
    """
    plan = in_pod(settings, plan)
    return Needs(
        app_name=settings.app_name or "",
        plan=str(plan),
        seconds=plan.grace_period,
        grace_period=max(plan.grace_period, math.ceil(settings.grace_period or 0)),
        before_sigterm=math.ceil(round(plan.announce + plan.propagation, 6)),
        kubernetes_delay=settings.kubernetes_propagation_delay,
        readiness_timeout=settings.readiness_timeout,
        port=settings.port,
        livez_path=settings.livez_path if settings.probes else None,
        readyz_path=settings.readyz_path if settings.probes else None,
        prestop_path=settings.prestop_path,
        variables=tuple(_Environment(settings, environ).variables()),
    )


def in_pod(settings: Settings, plan: Plan) -> Plan:
    """The plan as it is in a pod, wherever this runs: endpoints and proxies need to hear of the leave there."""
    return replace(plan, propagation=max(plan.propagation, settings.in_kubernetes().propagation))


class _Environment:
    """What the hook cannot know otherwise: it is a process of its own, and does not see the arguments of `install()`.

    What is as by default is left out; credentials never are in it.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ

    def variables(self) -> list[Variable]:
        durations = [
            Variable(_own(name), _decimal(value), source=self._source(name))
            for name in HOOK_DURATIONS
            if (value := getattr(self._settings, name)) != Settings.model_fields[name].default
        ]
        return durations + (self._identity() if self._settings.eureka_url else [])

    def _source(self, name: str) -> str:
        variable = find_variable(name, self._environ)
        if variable and _is_number(variable.value, getattr(self._settings, name)):
            return f"{name}, from {variable.name}"
        return f"{name}, an argument of install()"

    def _identity(self) -> list[Variable]:
        """What the hook needs to withdraw the instance from Eureka itself."""
        settings = self._settings
        found = [Variable("GRACEFUL_APP_NAME", settings.app_name or "")]
        if settings.port is not None:
            found.append(Variable("GRACEFUL_PORT", str(settings.port), source=self._source("port")))
        found.append(self._servers())
        found += [Variable(_own(name), _literal(path)) for name in HOOK_FILES if (path := getattr(settings, name))]
        if settings.eureka_client_key_password is not None:
            found.append(Variable(remark=_FROM_SECRET.format("GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD")))
        if self._has_pods_own_ip:
            found.append(Variable("POD_IP", path="status.podIP"))
        else:
            found.append(Variable("GRACEFUL_IP_ADDR", settings.ip_addr or ""))
        return found + self._instance_id()

    def _servers(self) -> Variable:
        urls = self._settings.eureka_url
        if any(url.has_credentials for url in urls):
            return Variable(remark=_FROM_SECRET.format("GRACEFUL_EUREKA_URL has credentials"))
        if variables := self._zones_variables:
            why = "one list would not say whose zone is which"
            return Variable(remark=f"{variables} stay as the manifest has them: {why}")
        return Variable("GRACEFUL_EUREKA_URL", _literal(",".join(url.raw for url in urls)))

    @property
    def _zones_variables(self) -> str:
        """The variables that give the servers of each zone, if it is they that do."""
        urls = self._settings.eureka_url
        variable = find_variable("eureka_url", self._environ) if any(url.zone for url in urls) else None
        return variable.name if variable and to_urls(variable.value) == urls else ""

    @property
    def _has_pods_own_ip(self) -> bool:
        """Whether the address is the pod's: not set, or what this machine has in the place of it."""
        ip = self._settings.ip_addr
        return ip is None or ip == own_address() or bool(variable_with("ip_addr", ip, self._environ))

    def _instance_id(self) -> list[Variable]:
        given = self._settings.instance_id
        if given is None:
            return []
        if variable := variable_with("instance_id", given, self._environ):
            why = "a value here would be the same for every replica"
            return [Variable(remark=f"{variable} stays as the manifest has it: {why}")]
        # What the app made of this machine's names at import, every pod makes of its own.
        text = _literal(given)
        with_ip = _replace_word(text, own_address(), "$(POD_IP)")
        whole = _replace_word(with_ip, socket.gethostname(), "$(POD_NAME)")
        found = [Variable("POD_NAME", path="metadata.name")] if whole != with_ip else []
        if with_ip != text and not self._has_pods_own_ip:
            found.append(Variable("POD_IP", path="status.podIP"))
        return [*found, Variable("GRACEFUL_INSTANCE_ID", whole)]


def _is_number(text: object, value: float) -> bool:
    try:
        return parse_duration(str(text)) == value
    except ValueError:
        return False


def _own(setting: str) -> str:
    return f"GRACEFUL_{setting.upper()}"


def _literal(text: str) -> str:
    """A text that Kubernetes takes as it is: in `env` it puts variables in the place of `$(NAME)`; `$$` is a `$`."""
    return text.replace("$", "$$")


def _decimal(seconds: float) -> str:
    """A number as the hook reads it: without an exponent, to the millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _replace_word(text: str, word: str, by: str) -> str:
    return re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", lambda _: by, text)
