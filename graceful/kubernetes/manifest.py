"""The matching Kubernetes manifest: the hook, its environment and the grace period, from the app's own numbers."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import textwrap
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from graceful.environment import find_variable, variable_with
from graceful.network import own_address
from graceful.settings import Settings
from graceful.values import to_urls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan

__all__ = ["DEFAULT_PYTHON", "HOOK_DURATIONS", "HOOK_FILES", "Snippets"]

DEFAULT_PYTHON: Final = "python3"
"""Debian's images have no `python`."""

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

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A name that Kubernetes takes for a container (RFC 1123 label)."""


@dataclass(frozen=True, slots=True)
class Snippets:
    """What to put into the manifest of a service, as YAML; for Kubernetes 1.29 and later.

    The environment in it holds what the hook cannot know otherwise: it is a process of its own, and sees the pod's
    environment but not the arguments of `install()`. What is as by default is left out; credentials never are in it.

    Attributes:
        settings: the settings that the app runs with.
        plan: its plan.
        container: the name of the container in the manifest; it must be the one that is there. By default the app's
            name.
        python: the interpreter in the image that graceful is installed for.
        environ: the environment that the settings were read from.

    Raises:
        ValueError: Kubernetes would not take the container's name, or the interpreter's path is empty.
    """

    settings: Settings
    plan: Plan
    container: str = ""
    python: str = DEFAULT_PYTHON
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.container and not _LABEL.fullmatch(self.container):
            raise ValueError(
                f"container {self.container!r} is no name that Kubernetes takes: expected at most 63 lower-case "
                "letters, digits and '-', with a letter or digit at both ends; give the name in your manifest"
            )
        if not self.python.strip() or not self.python.isprintable():
            raise ValueError(
                f"python {self.python!r} is no command: give the interpreter in the image, such as /venv/bin/python"
            )

    @property
    def pod_plan(self) -> Plan:
        """The plan as it is in a pod, wherever this runs: endpoints and proxies need to hear of the leave there."""
        return replace(self.plan, propagation=max(self.plan.propagation, self.settings.in_kubernetes().propagation))

    @property
    def grace_period(self) -> int:
        """`terminationGracePeriodSeconds` that fits: the whole plan, rounded up; never less than what was set."""
        return max(self.pod_plan.grace_period, math.ceil(self.settings.grace_period or 0))

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container or _dns_label(self.settings.app_name or "app")

    @property
    def hook(self) -> tuple[str, ...]:
        """The command of the preStop hook: a list, since an image may have no shell.

        `-P` keeps the working directory off `sys.path`, where a user's own `socket.py` would break the hook.
        """
        return (self.python, "-P", "-m", "graceful.prestop")

    @property
    def snippet(self) -> str:
        """What belongs into the pod's and the container's part of a manifest of one's own.

        It parses as one mapping of the three keys; each belongs where its comment says.
        """
        return "\n".join(
            [
                "# into the pod's spec:",
                self._grace_line,
                f"# into the container {_quoted(self.name)}:",
                *self._environment,
                *self._lifecycle(is_patch=False),
                "",
            ]
        )

    @property
    def patch(self) -> str:
        """A strategic-merge patch of the Deployment, for `kubectl patch --patch-file` or kustomize."""
        container = [f"- name: {_quoted(self.name)}  # must be the container that is there"]
        container += textwrap.indent(
            "\n".join([*self._environment, *self._lifecycle(is_patch=True)]), "  "
        ).splitlines()
        deployment = _dns_label(self.settings.app_name or self.name)
        return "\n".join(
            [
                "apiVersion: apps/v1",
                "kind: Deployment",
                "metadata:",
                f"  name: {_quoted(deployment)}  # must be the Deployment that is there",
                "spec:",
                "  template:",
                "    spec:",
                f"      {self._grace_line}",
                "      containers:",
                *(f"      {line}" for line in container),
                "",
            ]
        )

    @property
    def _grace_line(self) -> str:
        return f"terminationGracePeriodSeconds: {self.grace_period}  # {self.pod_plan}"

    @property
    def _environment(self) -> list[str]:
        eureka = self._identity() if self.settings.eureka_url else []
        return [
            "env:",
            _variable("GRACEFUL_GRACE_PERIOD", str(self.grace_period)),
            *(
                _variable(_own(name), _decimal(getattr(self.settings, name)))
                for name in HOOK_DURATIONS
                if getattr(self.settings, name) != Settings.model_fields[name].default
            ),
            *eureka,
        ]

    def _identity(self) -> list[str]:
        """What the hook needs to withdraw the instance from Eureka itself."""
        settings = self.settings
        lines = [
            _variable("GRACEFUL_APP_NAME", settings.app_name or ""),
            *([_variable("GRACEFUL_PORT", str(settings.port))] if settings.port is not None else []),
        ]
        if any(url.has_credentials for url in settings.eureka_url):
            lines.append("# GRACEFUL_EUREKA_URL has credentials: take it from a Secret, for the app and the hook")
        elif variables := self._zones_variables:
            lines.append(f"# {variables} stay as the manifest has them: one list would not say whose zone is which")
        else:
            lines.append(_variable("GRACEFUL_EUREKA_URL", _literal(",".join(url.raw for url in settings.eureka_url))))
        lines += [_variable(_own(name), _literal(path)) for name in HOOK_FILES if (path := getattr(settings, name))]
        if settings.eureka_client_key_password is not None:
            lines.append("# GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD: take it from a Secret, for the app and the hook")
        if self._has_pods_own_ip:
            lines.append(_from_pod("POD_IP", "status.podIP"))
        else:
            lines.append(_variable("GRACEFUL_IP_ADDR", settings.ip_addr or ""))
        return lines + self._instance_id()

    @property
    def _zones_variables(self) -> str:
        """The variables that give the servers of each zone, if it is they that do."""
        urls = self.settings.eureka_url
        variable = find_variable("eureka_url", self.environ) if any(url.zone for url in urls) else None
        return variable.name if variable and to_urls(variable.value) == urls else ""

    @property
    def _has_pods_own_ip(self) -> bool:
        """Whether the address is the pod's: not set, or what this machine has in the place of it."""
        ip = self.settings.ip_addr
        return ip is None or ip == own_address() or bool(variable_with("ip_addr", ip, self.environ))

    def _instance_id(self) -> list[str]:
        given = self.settings.instance_id
        if given is None:
            return []
        if variable := variable_with("instance_id", given, self.environ):
            return [f"# {variable} stays as the manifest has it: a value here would be the same for every replica"]
        # What the app made of this machine's names at import, every pod makes of its own.
        text = _literal(given)
        with_ip = _replace_word(text, own_address(), "$(POD_IP)")
        whole = _replace_word(with_ip, socket.gethostname(), "$(POD_NAME)")
        lines = [_from_pod("POD_NAME", "metadata.name")] if whole != with_ip else []
        if with_ip != text and not self._has_pods_own_ip:
            lines.append(_from_pod("POD_IP", "status.podIP"))
        return [*lines, _variable("GRACEFUL_INSTANCE_ID", whole)]

    def _lifecycle(self, *, is_patch: bool) -> list[str]:
        # Without $patch a patch over an existing `sleep` hook leaves two handlers, which the API rejects.
        marker = ["    $patch: replace"] if is_patch else []
        return [
            "lifecycle:",
            "  preStop:",
            *marker,
            f"    exec: {{command: [{', '.join(_quoted(word) for word in self.hook)}]}}",
        ]


def _variable(name: str, value: str) -> str:
    return f"- {{name: {name}, value: {_quoted(value)}}}"


def _from_pod(name: str, path: str) -> str:
    return f"- {{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}"


def _own(setting: str) -> str:
    return f"GRACEFUL_{setting.upper()}"


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar in ASCII: a JSON string, but for what lies beyond (YAML has no surrogate pairs)."""
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))


def _literal(text: str) -> str:
    """A text that Kubernetes takes as it is: in `env` it puts variables in the place of `$(NAME)`; `$$` is a `$`."""
    return text.replace("$", "$$")


def _decimal(seconds: float) -> str:
    """A number as the hook reads it: without an exponent, to the millisecond."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _replace_word(text: str, word: str, by: str) -> str:
    return re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", lambda _: by, text)


def _dns_label(name: str) -> str:
    """The nearest name that Kubernetes takes for a container (RFC 1123 label)."""
    label = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return label.strip("-")[:63].rstrip("-") or "app"
