"""Which environment variable gives a setting its value, and which of them mean nothing or something else."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from graceful.wire import DEFAULT_ZONE, ENV_NAMES, ZONE_URL, env_names, zone_urls

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["Variable", "find_variable", "nearest", "odd_variables", "service_as_port", "variable_with"]

_PREFIX: Final = "GRACEFUL_"
_PORT: Final = "GRACEFUL_PORT"
_WITHOUT_FIELD: Final = frozenset({"RUNTIME_DIR"})
"""Read by the hook and by the app before there are settings."""

_METADATA: Final = "EUREKA_INSTANCE_METADATAMAP_"
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_SERVICE_HOST: Final = "_SERVICE_HOST"
_SERVICE_LINK: Final = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes gives every container of a namespace in which a Service is named `graceful` or `graceful-…`, after
the Service's name (kubelet, `pkg/kubelet/envvars`; `enableServiceLinks` is on by default)."""


class Variable(NamedTuple):
    """An environment variable that gives a setting its value; several, where together they give it a mapping."""

    name: str
    value: Any


def find_variable(setting: str, environ: Mapping[str, str]) -> Variable | None:
    """The variable that gives a setting its value: ours first, then those that users already have.

    A blank one counts as not set, and so does the address that Kubernetes puts into `GRACEFUL_PORT` for a Service
    named `graceful`. Servers of several zones are a mapping from zone to addresses, and so is Spring's metadata.
    """
    for name in env_names(setting):
        if name == ZONE_URL + DEFAULT_ZONE and (urls := zone_urls(environ)).keys() - {DEFAULT_ZONE}:
            return Variable(" and ".join(ZONE_URL + zone for zone in urls), urls)
        value = environ.get(name, "").strip()
        if value and not (setting.endswith("port") and _SERVICE_ADDRESS.match(value)):
            return Variable(name, value)
    if setting == "metadata" and (metadata := _spring_metadata(environ)):
        return Variable(f"{_METADATA}…", metadata)
    return None


def _spring_metadata(environ: Mapping[str, str]) -> dict[str, str]:
    """The metadata in Spring's variables, with the keys that Spring makes of their names.

    It lower-cases them and takes `_` for a dot (measured with Spring Boot 4.0.9), so `…_MANAGEMENT_PORT` is
    `management.port`; a key that is none of these can only be set otherwise. The zone is a setting of its own.
    """
    found = {
        ".".join(filter(None, name[len(_METADATA) :].lower().replace("-", "").split("_"))): environ[name].strip()
        for name in sorted(environ)
        if name.startswith(_METADATA)
    }
    return {key: value for key, value in found.items() if key not in {"", "zone"} and value}


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
    return (
        service_as_port(environ)
        + _misspelt_spring_names(environ)
        + [
            # Compared without the prefix, which makes everything alike.
            f"{name} is set but means nothing to graceful{nearest(name[len(_PREFIX) :].upper(), known, prefix=_PREFIX)}"
            for name in odd
        ]
    )


def _misspelt_spring_names(environ: Mapping[str, str]) -> list[str]:
    """A sentence for every variable that only lacks or has too many underscores, as Spring would let pass."""
    known = {name.replace("_", ""): name for names in ENV_NAMES.values() for name in names}
    meant = {name: known.get(re.sub(r"[^A-Z0-9]", "", name.upper()), name) for name in sorted(environ)}
    return [
        f"{name} is set but means nothing to graceful; did you mean {right}?"
        for name, right in meant.items()
        if right != name and right not in environ and not name.upper().startswith(_PREFIX)
    ]


def service_as_port(environ: Mapping[str, str]) -> list[str]:
    """A sentence where `GRACEFUL_PORT` is the address of a Service named `graceful`, else none."""
    value = environ.get(_PORT, "").strip()
    if not _SERVICE_ADDRESS.match(value):
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


def _is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    services = [other.removesuffix(_SERVICE_HOST) for other in environ if other.endswith(_SERVICE_HOST)]
    return any(name.startswith(service) and _SERVICE_LINK.fullmatch(name, len(service)) for service in services)
