"""What a service has to do with Eureka, made from its settings: a registration of one of three kinds, and discovery."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from graceful.hosting import Mode
from graceful.unusable import SettingsError, unusable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from graceful.core.registry import Registry
    from graceful.eureka.discovery import Discovery
    from graceful.eureka.guard import ClientGuard
    from graceful.eureka.proxy import Proxies
    from graceful.eureka.rest import Server
    from graceful.runtime import Runtime
    from graceful.settings import Settings

__all__ = ["discovery_factory", "registry_factory", "servers_of"]

_CLEAR_TIMEOUT: Final = 2.0
"""Seconds for clearing a former life at start-up: a server of several that is down must not hold a start up for long;
it is tried again before the instance is registered."""


def registry_factory(settings: Settings, mode: Mode, guard: ClientGuard | None = None) -> Callable[[], Registry] | None:
    """What makes the registry of one life; None for a service that Eureka does not know.

    Args:
        settings: the settings.
        mode: what is started: files that https needs are read at once only where everything is.
        guard: the fence around the user's own client, if one is adopted.

    Raises:
        SettingsError: a file or a proxy cannot be used.
    """
    if not settings.eureka_url:
        return None
    ways = _ways_to_eureka(settings, mode)
    if guard is not None:
        return partial(_adopted, settings, ways, guard)
    if settings.eureka_status_only:
        return partial(_status_only, settings, ways)

    def make() -> Registry:
        # Imported here: a service without Eureka does not pay for it.
        from graceful.eureka.described import instance_of  # noqa: PLC0415
        from graceful.eureka.registration import EurekaRegistration  # noqa: PLC0415

        return EurekaRegistration(
            [url.raw for url in settings.eureka_servers],
            instance_of(settings),
            heartbeat_interval=settings.heartbeat_interval,
            clear_timeout=_CLEAR_TIMEOUT,
            clear_former=settings.eureka_stale == "clear",
            cache_interval=settings.observed_cache_interval,
            **ways,
        )

    return make


def discovery_factory(settings: Settings, mode: Mode) -> Callable[[Runtime], Discovery]:
    """What makes the discovery of a service that knows Eureka's servers.

    Args:
        settings: the settings.
        mode: what is started.

    Raises:
        SettingsError: a file or a proxy cannot be used.
    """
    ways = _ways_to_eureka(settings, mode)

    def make(runtime: Runtime) -> Discovery:
        from graceful.eureka.discovery import Discovery  # noqa: PLC0415  as above

        return Discovery(
            partial(_servers, settings, ways),
            runtime,
            interval=settings.eureka_fetch_interval,
            zone=settings.own_zone,
            starts=mode.value,
        )

    return make


def _adopted(settings: Settings, ways: dict[str, Any], guard: ClientGuard) -> Registry:
    from graceful.eureka.adopted import AdoptedRegistration  # noqa: PLC0415  as above

    return AdoptedRegistration(
        guard,
        partial(_servers, settings, ways),
        settings.app_name or "",
        settings.instance_id,
        clear_former=settings.eureka_stale == "clear",
        cache_interval=settings.observed_cache_interval,
        interval=settings.heartbeat_interval,
    )


def _status_only(settings: Settings, ways: dict[str, Any]) -> Registry:
    from graceful.eureka.status_only import StatusOnly  # noqa: PLC0415  as above

    return StatusOnly(
        partial(_servers, settings, ways),
        settings.app_name or "",
        settings.instance_id or "",
        clear_former=settings.eureka_stale == "clear",
        cache_interval=settings.observed_cache_interval,
        interval=settings.heartbeat_interval,
    )


def servers_of(settings: Settings, *, try_timeout: float) -> list[Server]:
    """The servers, to look at them from a command; the files that https needs are read.

    Args:
        settings: the settings.
        try_timeout: the upper bound of one call in seconds.

    Raises:
        SettingsError: a file or a proxy cannot be used.
    """
    return _servers(settings, _ways_to_eureka(settings, Mode.ACTIVE) | {"try_timeout": try_timeout})


def _servers(settings: Settings, ways: dict[str, Any]) -> list[Server]:
    from graceful.eureka.rest import Server  # noqa: PLC0415  as above

    return [Server(url.raw, **ways) for url in settings.eureka_servers]


def _ways_to_eureka(settings: Settings, mode: Mode) -> dict[str, Any]:
    """What it takes to reach the servers by https and through proxies, beyond their addresses."""
    ways: dict[str, Any] = {}
    secure = any(url.raw.startswith("https:") for url in settings.eureka_url)
    if secure and (settings.eureka_ca_file or settings.eureka_client_cert_file):
        ways["make_ssl_context"] = make = _ssl_context_factory(settings)
        # A plan is made, and a test imports the application, where the container's files are not.
        if mode is Mode.ACTIVE:
            _make_now(make, settings)
    if settings.eureka_use_proxy and mode is not Mode.INERT:
        ways["proxies"] = _proxies(settings)
    return ways


def _ssl_context_factory(settings: Settings) -> Callable[[], ssl.SSLContext]:
    password = settings.eureka_client_key_password

    @cache
    def make() -> ssl.SSLContext:
        from graceful.eureka.tls import client_context  # noqa: PLC0415  as above

        return client_context(
            ca_file=settings.eureka_ca_file,
            cert_file=settings.eureka_client_cert_file,
            key_file=settings.eureka_client_key_file,
            key_password=password.get_secret_value() if password else None,
        )

    return make


def _make_now(make: Callable[[], ssl.SSLContext], settings: Settings) -> None:
    from graceful.eureka.tls import TlsFileError  # noqa: PLC0415  as above

    try:
        make()
    except TlsFileError as error:
        raise unusable(error.setting, getattr(settings, error.setting), error.problem) from error


def _proxies(settings: Settings) -> Proxies:
    from graceful.eureka.address import ServerAddress  # noqa: PLC0415  as above
    from graceful.eureka.proxy import Proxies  # noqa: PLC0415

    proxies = Proxies()
    try:
        for url in settings.eureka_url:
            proxies.for_server(ServerAddress.parse(url.raw))
    except ValueError as error:
        raise SettingsError(f"eureka_use_proxy is set, but {error}") from None
    return proxies
