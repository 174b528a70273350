"""graceful: leave Kubernetes and Eureka without losing a request.

Importing this package imports nothing else: the preStop hook runs through here, and every millisecond of its start is
a tenth of a second at a small CPU limit. The public names are loaded when they are first used (PEP 562).
"""

TYPE_CHECKING = False  # the module typing costs more than this whole package
if TYPE_CHECKING:
    from graceful.core.budget import BudgetError, Plan
    from graceful.core.inflight import NotAcceptingError
    from graceful.core.phases import Phase
    from graceful.core.registry import Registry, RegistryOutcome, ServerResult
    from graceful.core.report import DrainReport
    from graceful.eureka.discovery import Discovery, DiscoveryError, NoInstanceError
    from graceful.eureka.instances import ServiceInstance
    from graceful.installation import InstallError, install
    from graceful.service import Coordinator
    from graceful.settings import Settings, SettingsError

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "Coordinator",
    "Discovery",
    "DiscoveryError",
    "DrainReport",
    "InstallError",
    "NoInstanceError",
    "NotAcceptingError",
    "Phase",
    "Plan",
    "Registry",
    "RegistryOutcome",
    "ServerResult",
    "ServiceInstance",
    "Settings",
    "SettingsError",
    "install",
]

_HOMES = {
    "BudgetError": "graceful.core.budget",
    "Coordinator": "graceful.service",
    "Discovery": "graceful.eureka.discovery",
    "DiscoveryError": "graceful.eureka.discovery",
    "DrainReport": "graceful.core.report",
    "InstallError": "graceful.installation",
    "NoInstanceError": "graceful.eureka.discovery",
    "NotAcceptingError": "graceful.core.inflight",
    "Phase": "graceful.core.phases",
    "Plan": "graceful.core.budget",
    "Registry": "graceful.core.registry",
    "RegistryOutcome": "graceful.core.registry",
    "ServerResult": "graceful.core.registry",
    "ServiceInstance": "graceful.eureka.instances",
    "Settings": "graceful.settings",
    "SettingsError": "graceful.settings",
    "install": "graceful.installation",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graceful' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  not needed by the hook

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*globals(), *__all__])
