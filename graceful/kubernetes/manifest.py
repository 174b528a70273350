"""The matching Kubernetes manifest: the hook, its environment and the grace period, from the app's own numbers."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.core.budget import Plan
    from graceful.settings import Settings

__all__ = ["DEFAULT_PYTHON", "Snippets", "drift"]

DEFAULT_PYTHON: Final = "python3"
"""Debian's images have no `python`."""


@dataclass(frozen=True, slots=True)
class Snippets:
    """What to put into the manifest of a service, as YAML.

    Attributes:
        settings: the settings that the app runs with.
        plan: its plan.
        container: the name of the container in the manifest; it must be the one that is there.
        python: the interpreter in the image that graceful is installed for.
    """

    settings: Settings
    plan: Plan
    container: str = ""
    python: str = DEFAULT_PYTHON

    @property
    def grace_period(self) -> int:
        """`terminationGracePeriodSeconds` that fits: the whole plan, rounded up; never less than what was set."""
        return max(self.plan.grace_period, -int(-(self.settings.grace_period or 0) // 1))

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
        """What belongs into the pod's and the container's part of a manifest of one's own."""
        return "\n".join(
            [
                "# into the pod's spec:",
                self._grace_line,
                f"# into the container {_quoted(self.name)}:",
                *self._environment,
                *self._lifecycle(replace=False),
                "",
            ]
        )

    @property
    def patch(self) -> str:
        """A strategic-merge patch of the Deployment, for `kubectl patch --patch-file` or kustomize."""
        container = [f"- name: {_quoted(self.name)}  # must be a container that is there"]
        container += textwrap.indent("\n".join([*self._environment, *self._lifecycle(replace=True)]), "  ").splitlines()
        return "\n".join(
            [
                "apiVersion: apps/v1",
                "kind: Deployment",
                "metadata:",
                f"  name: {_quoted(_dns_label(self.settings.app_name or self.name))}",
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
        return f"terminationGracePeriodSeconds: {self.grace_period}  # {self.plan}"

    @property
    def _environment(self) -> list[str]:
        values = {
            "GRACEFUL_GRACE_PERIOD": str(self.grace_period),
            "GRACEFUL_PROPAGATION_DELAY": f"{self.plan.propagation:g}",
        }
        lines = []
        if self.settings.eureka_url:
            values |= {"GRACEFUL_APP_NAME": self.settings.app_name or "", "GRACEFUL_PORT": str(self.settings.port)}
            if any(url.has_credentials for url in self.settings.eureka_url):
                lines.append("# GRACEFUL_EUREKA_URL has credentials: take it from a Secret, for the app and the hook")
            else:
                values["GRACEFUL_EUREKA_URL"] = ",".join(url.raw for url in self.settings.eureka_url)
            if self.settings.instance_id is not None:
                values["GRACEFUL_INSTANCE_ID"] = self.settings.instance_id
        lines += [f"- {{name: {name}, value: {_quoted(value)}}}" for name, value in values.items()]
        if self.settings.eureka_url:
            lines.append("- {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}")
        return ["env:", *lines]

    def _lifecycle(self, *, replace: bool) -> list[str]:
        # Without $patch a patch over an existing `sleep` hook leaves two handlers, which the API rejects.
        marker = ["    $patch: replace"] if replace else []
        return [
            "lifecycle:",
            "  preStop:",
            *marker,
            f"    exec: {{command: [{', '.join(_quoted(word) for word in self.hook)}]}}",
        ]


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar: JSON's strings are a subset of it (YAML 1.2, section 1.3)."""
    return json.dumps(text)


def _dns_label(name: str) -> str:
    """A name that Kubernetes takes for a container (RFC 1123 label)."""
    label = "".join(character if character.isalnum() else "-" for character in name.lower())
    return label.strip("-")[:63].rstrip("-") or "app"


def drift(settings: Settings, plan: Plan, injected: dict[str, float]) -> list[str]:
    """Where the numbers in the manifest's environment differ from what the app runs with, a sentence each.

    Args:
        settings: what the app runs with.
        plan: its plan as it stands now.
        injected: `grace_period` and `propagation_delay` as the environment has them; what is not set is not in it.
    """
    sentences = []
    grace = injected.get("grace_period", settings.grace_period)
    if grace is not None and round(plan.total - grace, 6) > 0:
        sentences.append(
            f"the plan is {plan}, but the manifest gives the pod {grace:g}s: "
            f"set terminationGracePeriodSeconds and GRACEFUL_GRACE_PERIOD to {plan.grace_period}"
        )
    propagation = injected.get("propagation_delay")
    if propagation is not None and propagation != plan.propagation:
        sentences.append(
            f"the manifest has the hook wait {propagation:g}s (GRACEFUL_PROPAGATION_DELAY), "
            f"the app waits {plan.propagation:g}s: generate the manifest again"
        )
    if "grace_period" in injected and settings.grace_period not in {None, injected["grace_period"]}:
        sentences.append(
            f"the app was installed with grace_period={settings.grace_period:g}, the manifest says "
            f"{injected['grace_period']:g} (GRACEFUL_GRACE_PERIOD): leave one of them out"
        )
    return sentences
