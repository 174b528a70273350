"""Which environment variable gives a setting its value, and which of them mean nothing or something else."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from graceful.wire import env_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["Variable", "find_variable", "nearest", "odd_variables", "service_as_port", "variable_with"]

_PREFIX: Final = "GRACEFUL_"
_PORT: Final = "GRACEFUL_PORT"
_WITHOUT_FIELD: Final = frozenset({"RUNTIME_DIR"})
"""Read by the hook and by the app before there are settings."""

_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_SERVICE_HOST: Final = "_SERVICE_HOST"
_SERVICE_LINK: Final = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes gives every container of a namespace in which a Service is named `graceful` or `graceful-…`, after
the Service's name (kubelet, `pkg/kubelet/envvars`; `enableServiceLinks` is on by default)."""


class Variable(NamedTuple):
    """An environment variable that gives a setting its value."""

    name: str
    value: str


def find_variable(setting: str, environ: Mapping[str, str]) -> Variable | None:
    """The variable that gives a setting its value: ours first, then those that users already have.

    A blank one counts as not set, and so does the address that Kubernetes puts into `GRACEFUL_PORT` for a Service
    named `graceful`.
    """
    for name in env_names(setting):
        value = environ.get(name, "").strip()
        if value and not _is_service_address(name, value):
            return Variable(name, value)
    return None


def variable_with(setting: str, value: object, environ: Mapping[str, str]) -> str:
    """The name of the variable that gives a setting just this value, or nothing: then it is from elsewhere."""
    variable = find_variable(setting, environ)
    return variable.name if variable and variable.value == value else ""


def odd_variables(settings: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """A sentence for every `GRACEFUL_…` variable that is not used, with the nearest name that would be.

    Args:
        settings: the names of all settings.
        environ: the environment.
    """
    known = {name.upper() for name in settings} | _WITHOUT_FIELD
    odd = [
        name
        for name in sorted(environ)
        if name.upper().startswith(_PREFIX)
        and name.removeprefix(_PREFIX) not in known
        and not _is_service_link(name, environ)
    ]
    return service_as_port(environ) + [
        # Compared without the prefix, which makes everything alike.
        f"{name} is set but means nothing to graceful{nearest(name[len(_PREFIX) :].upper(), known, prefix=_PREFIX)}"
        for name in odd
    ]


def service_as_port(environ: Mapping[str, str]) -> list[str]:
    """A sentence where `GRACEFUL_PORT` is the address of a Service named `graceful`, else none."""
    value = environ.get(_PORT, "").strip()
    if not _is_service_address(_PORT, value):
        return []
    sentence = (
        f"{_PORT} is {value[:80]}, which Kubernetes sets for a Service named graceful, so it is not used as the port: "
        f"set {_PORT} in the container's env, which wins, or enableServiceLinks: false in the pod's spec"
    )
    return [sentence]


def nearest(name: str, known: Collection[str], *, prefix: str = "") -> str:
    """`; did you mean …?`, or nothing where no known name is like it."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _is_service_address(name: str, value: str) -> bool:
    return name == _PORT and _SERVICE_ADDRESS.match(value) is not None


def _is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    services = [other.removesuffix(_SERVICE_HOST) for other in environ if other.endswith(_SERVICE_HOST)]
    return any(name.startswith(service) and _SERVICE_LINK.fullmatch(name, len(service)) for service in services)
