"""The matching Kubernetes manifest: the hook, its environment and the grace period, from the app's own numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graceful.kubernetes import formats
from graceful.kubernetes.needs import HOOK_DURATIONS, HOOK_FILES, Needs, in_pod, needs_of
from graceful.kubernetes.parts import DEFAULT_PYTHON, Choice, Manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.core.budget import Plan
    from graceful.settings import Settings

__all__ = ["DEFAULT_PYTHON", "HOOK_DURATIONS", "HOOK_FILES", "Snippets"]


@dataclass(frozen=True, slots=True)
class Snippets:
    """What to put into the manifest of a service, as YAML; for Kubernetes 1.29 and later.

    The environment in it holds what the hook cannot know otherwise: it is a process of its own, and sees the pod's
    environment but not the arguments of `install()`. What is as by default is left out; credentials never are in it.
    Other hooks, the probes and other formats: `python -m graceful manifest`.

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
        self._choice  # noqa: B018  refuses the two names

    @property
    def needs(self) -> Needs:
        """What the pod needs to have, in plain numbers and texts."""
        return needs_of(self.settings, self.plan, self.environ)

    @property
    def pod_plan(self) -> Plan:
        """The plan as it is in a pod, wherever this runs: endpoints and proxies need to hear of the leave there."""
        return in_pod(self.settings, self.plan)

    @property
    def grace_period(self) -> int:
        """`terminationGracePeriodSeconds` that fits: the whole plan, rounded up; never less than what was set."""
        return self._manifest.grace_period

    @property
    def name(self) -> str:
        """The container's name."""
        return self._manifest.name

    @property
    def hook(self) -> tuple[str, ...]:
        """The command of the preStop hook: a list, since an image may have no shell.

        `-P` keeps the working directory off `sys.path`, where a user's own `socket.py` would break the hook.
        """
        return self._manifest.hook

    @property
    def snippet(self) -> str:
        """What belongs into the pod's and the container's part of a manifest of one's own.

        It parses as one mapping of the three keys; each belongs where its comment says.
        """
        return formats.snippet(self._manifest)

    @property
    def patch(self) -> str:
        """A strategic-merge patch of the Deployment, for `kubectl patch --patch-file` or kustomize."""
        return formats.patch(self._manifest)

    @property
    def _choice(self) -> Choice:
        return Choice(container=self.container, python=self.python)

    @property
    def _manifest(self) -> Manifest:
        return Manifest(self.needs, self._choice)
