"""The plan of a service in a container: from the environment that the manifest gives it, and from its module."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graceful.environment import find_variable
from graceful.importing import install_of
from graceful.kubernetes.manifest import HOOK_DURATIONS, Snippets
from graceful.settings import Settings, load_settings
from graceful.wire import ENV_NAMES, ZONE_URL, env_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from graceful.core.budget import Plan
    from graceful.kubernetes.lint.pods import Container

__all__ = ["Numbers", "from_environment", "from_module", "unseen"]

_MATTERS: Final = frozenset(
    name for setting in ("grace_period", "announce_timeout", *HOOK_DURATIONS) for name in env_names(setting)
)
"""The variables that the plan is made of: one that cannot be seen leaves it open."""
_ADDRESSES: Final = frozenset(env_names("eureka_url"))
_NAMES: Final = frozenset(name for names in ENV_NAMES.values() for name in names)
_NOT_THE_PODS: Final = ("PATH", "HOME", "PYTHON", "LD_", "TMPDIR", "VIRTUAL_ENV")
"""What a command needs from its own machine."""
_STAND_INS: Final[Mapping[str, object]] = {"app_name": "unseen", "port": 1, "instance_id": "unseen"}
"""For what `install()` may give: none of it changes the plan."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a service runs with in a pod.

    Attributes:
        settings: its settings.
        plan: its plan, as it is in a pod.
        origin: where they come from, in words.
        has_module: whether `install()` was seen, and not only the environment.
    """

    settings: Settings
    plan: Plan
    origin: str
    has_module: bool


def from_environment(container: Container) -> Numbers:
    """What a container's environment makes of the settings, with the defaults for the rest.

    Raises:
        SettingsError: a variable's value cannot be used.
        BudgetError: the plan contradicts itself.
    """
    environ = _with_stand_ins(container)
    missing = {name: value for name, value in _STAND_INS.items() if find_variable(name, environ) is None}
    with _environment(environ):
        settings = load_settings(missing)
    plan = settings.plan(registry=bool(settings.eureka_url))
    return _numbers(settings, plan, "its variables in the manifest and the defaults; install() is not seen", module="")


def from_module(container: Container, module: str) -> Numbers:
    """What a module installs, imported with a container's environment.

    Raises:
        ImportingError: it does not import, or installs nothing.
    """
    inherited = {name: value for name, value in os.environ.items() if not _is_setting(name)}
    given = {name: value for name, value in container.environ.items() if not name.startswith(_NOT_THE_PODS)}
    with _environment(inherited | _addresses_in(container) | _from_here(container) | given):
        coordinator = install_of(module)
    origin = f"{module}, imported with the variables of the manifest"
    return _numbers(coordinator.settings, coordinator.plan, origin, module=module)


def unseen(container: Container) -> Iterator[tuple[int, str]]:
    """Where something that the plan is made of cannot be seen: the line, and what it is."""
    for name, variable in container.unknown.items():
        if name in _MATTERS and name not in os.environ:
            yield variable.line, f"{name} comes from {variable.origin}"
    for line, source in container.unseen_sources:
        yield line, f"further variables come from {source}"


def _numbers(settings: Settings, plan: Plan, origin: str, *, module: str) -> Numbers:
    # The manifest's own rule for what a plan is in a pod, wherever this runs.
    return Numbers(settings, Snippets(settings, plan).pod_plan, origin, has_module=bool(module))


def _with_stand_ins(container: Container) -> dict[str, str]:
    """The settings of a container; an address that cannot be seen is one all the same."""
    known = {name: value for name, value in container.environ.items() if _is_setting(name)}
    return _addresses_in(container) | _from_here(container) | known


def _from_here(container: Container) -> dict[str, str]:
    """What this process's environment says in the place of a ConfigMap or Secret that is not in the input."""
    is_open = any(container.unseen_sources)
    return {
        name: value
        for name, value in os.environ.items()
        if name in container.unknown or (is_open and _is_setting(name))
    }


def _addresses_in(container: Container) -> dict[str, str]:
    return {name: "http://unseen/eureka" for name in container.unknown if _is_address(name)}


def _is_address(name: str) -> bool:
    return name in _ADDRESSES or name.startswith(ZONE_URL)


def _is_setting(name: str) -> bool:
    return name in _NAMES or name.startswith(("GRACEFUL_", "EUREKA_", ZONE_URL))


@contextmanager
def _environment(environ: Mapping[str, str]) -> Iterator[None]:
    """Have this process's environment be another one; for a command, in which nothing else runs."""
    before = dict(os.environ)
    usable = {name: value for name, value in environ.items() if name and "=" not in name and "\0" not in name + value}
    try:
        os.environ.clear()
        os.environ.update(usable)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
