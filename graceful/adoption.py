"""Adopting a user's own `EurekaClient`: the settings that it brings along, and those that contradict it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from graceful.environment import find_variable
from graceful.eureka.address import ServerAddress
from graceful.eureka.client import ClientView, NotAdoptableError
from graceful.network import own_address
from graceful.unusable import given
from graceful.values import ServiceUrl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graceful.settings import Settings

__all__ = ["check_against", "view_of", "with_detected"]


def view_of(client: Any) -> ClientView:
    """What a client says of itself.

    Raises:
        NotAdoptableError: it cannot be adopted in this process.
    """
    view = ClientView(client)
    if not view.registers:
        raise NotAdoptableError(
            "eureka is an EurekaClient with should_register=False, so there is no registration to adopt: leave eureka "
            "out; if somebody else registers the instance, set eureka_status_only, eureka_url, app_name and instance_id"
        )
    if view.is_of_another_process:
        raise NotAdoptableError(
            "eureka is an EurekaClient whose heartbeats were started but do not run in this process: it was started "
            "before a fork, or it has been stopped; make a client, and start it, in the process that serves"
        )
    return view


def with_detected(view: ClientView, arguments: Mapping[str, Any], *, plan_only: bool) -> dict[str, Any]:
    """The arguments, and what the client tells where neither they nor the environment say anything.

    Args:
        view: the client.
        arguments: those of `install()`.
        plan_only: whether the client will not be started, so that its future id is foreseen for the manifest.
    """
    detected = {
        "eureka_url": _usable(view.servers),
        "app_name": view.app_name,
        "port": view.port,
        "instance_id": view.future_instance_id(own_address()) if plan_only else view.instance_id,
    }
    return dict(arguments) | {
        name: value
        for name, value in detected.items()
        if value and arguments.get(name) is None and find_variable(name, os.environ) is None
    }


def check_against(view: ClientView, settings: Settings) -> None:
    """Compare what the settings and the client say of the same thing.

    The port may differ: the setting's is the one that the service listens on, the client's the one that callers use.

    Raises:
        NotAdoptableError: they differ, or what is needed is in neither of them. Credentials are not shown.
    """
    if settings.eureka_status_only:
        raise NotAdoptableError(
            "eureka and eureka_status_only contradict each other: an EurekaClient of this process registers the "
            "instance, or somebody else does; leave one of them out"
        )
    if not settings.eureka_url:
        raise NotAdoptableError(
            "the servers of the EurekaClient cannot be found (its py_eureka_client is another release than 0.13.3, or "
            "their addresses cannot be used): pass install(eureka_url=…) or set GRACEFUL_EUREKA_URL"
        )
    if settings.instance_id is None and not view.tells_instance_id:
        raise NotAdoptableError(
            "the instance id of the EurekaClient cannot be found (its py_eureka_client is another release than "
            "0.13.3): pass install(instance_id=…) or set GRACEFUL_INSTANCE_ID"
        )
    if view.app_name and view.app_name.lower() != (settings.app_name or "").lower():
        raise _differing("app_name", settings.app_name, repr(view.app_name))
    if view.instance_id and settings.instance_id not in (None, view.instance_id):
        raise _differing("instance_id", settings.instance_id, repr(view.instance_id))
    theirs = _usable(view.servers)
    if theirs and _addresses(theirs) != _addresses(settings.eureka_url):
        ours = ", ".join(map(str, settings.eureka_url))
        raise _differing("eureka_url", settings.eureka_url, ", ".join(map(str, theirs)), shown=f"eureka_url is {ours}")


def _differing(field: str, value: object, theirs: str, *, shown: str = "") -> NotAdoptableError:
    return NotAdoptableError(
        f"{shown or given(field, value)}, but the EurekaClient has {theirs}: they must be the same, or another "
        f"instance would be withdrawn; leave {field} out, or correct one of them"
    )


def _usable(servers: list[str]) -> list[ServiceUrl]:
    """All the addresses, or none where one of them cannot be used: a part would be withdrawn from in silence."""
    try:
        return [ServiceUrl(server) for server in servers]
    except ValueError:
        return []


def _addresses(urls: Iterable[ServiceUrl]) -> set[tuple[object, ...]]:
    addresses = [ServerAddress.parse(url.raw) for url in urls]
    return {(each.secure, each.host, each.port, each.path, each.authorization) for each in addresses}
