"""`install()`: from settings to a service that leaves in order."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from graceful.servers import uvicorn
from graceful.service import Coordinator, Mode
from graceful.settings import load_settings
from graceful.signals import SignalHold
from graceful.unusable import SettingsError, unusable
from graceful.wiring import wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from graceful.core.registry import Registry
    from graceful.eureka.proxy import Proxies
    from graceful.settings import Settings

__all__ = ["InstallError", "install", "planning"]

_CLEAR_TIMEOUT: Final = 2.0
"""Seconds for clearing a former life at start-up: a server of several that is down must not hold a start up for long;
it is tried again before the instance is registered."""

_lock = threading.Lock()
_installed: Coordinator | None = None
_wired_app: Any = None
_plan_only = False


class InstallError(RuntimeError):
    """`install()` cannot do what it was asked; the message says what to do instead."""


def install(app: Any = None, /, *, registry: Registry | None = None, **settings: Any) -> Coordinator:
    """Have this process leave in order when it is told to.

    Takes SIGTERM and SIGINT, starts one daemon thread, and opens the socket that the preStop hook finds. Nothing is
    announced until the service is ready, and no leave begins. Called again without arguments, or with the same ones,
    it gives the coordinator that is there.

    In a pytest process nothing is started until an application's lifespan begins, and no signal is taken: a test
    that imports the application touches nothing (`enabled=True` starts everything all the same).

    Args:
        app: a Starlette, FastAPI, Litestar, Quart, Django (what `get_asgi_application()` or `get_wsgi_application()`
            gives), Flask or aiohttp.web application, wired in place. Others: serve `coordinator.asgi(app)` or
            `coordinator.wsgi(app)`.
        registry: a registry of one's own, in place of Eureka.
        **settings: any field of [`Settings`][graceful.settings.Settings]; they win over the environment.

    Returns:
        The coordinator.

    Raises:
        InstallError: off the main thread, a second time with other arguments, or for an app that it cannot wire.
        SettingsError: for a setting that cannot be used.
        BudgetError: for a grace period that is shorter than the plan.
        TypeError: for an argument that does not exist.
    """
    global _installed  # noqa: PLW0603  one process leaves once
    with _lock:
        if _installed is not None and not settings and registry is None:
            _wire(app, _installed)
            return _installed
        loaded = load_settings(settings)
        if _installed is not None:
            _refuse_other(_installed.settings, loaded)
            _wire(app, _installed)
            return _installed
        coordinator = _build(loaded, registry, serves_app=app is not None)
        _wire(app, coordinator)
        coordinator.on_uninstall(_forget)
        coordinator.activate()
        _installed = coordinator
        return coordinator


def _build(settings: Settings, registry: Registry | None, *, serves_app: bool) -> Coordinator:
    mode = _mode(settings)
    make_registry = _registry_factory(settings, registry, mode)
    plan = settings.plan(registry=make_registry is not None)
    if settings.grace_period is not None and not _plan_only:
        plan.check(settings.grace_period)
    if mode is Mode.ACTIVE and settings.hold_signals and threading.current_thread() is not threading.main_thread():
        raise InstallError(
            f"install() was called in thread {threading.current_thread().name!r}, but Python sets signal handlers in "
            "the main thread only: call it where the application is imported or created, or pass hold_signals=False "
            "and call coordinator.drain() when SIGTERM comes"
        )
    return Coordinator(
        settings,
        mode=mode,
        make_registry=make_registry,
        signals=SignalHold(owners=[uvicorn.UvicornOwner()]) if settings.hold_signals else None,
        serves_app=serves_app,
    )


def _mode(settings: Settings) -> Mode:
    if _plan_only or settings.enabled is False:
        return Mode.INERT
    # PYTEST_VERSION is pytest's own sign that code runs within it, but its child processes inherit the variable.
    in_pytest = "PYTEST_VERSION" in os.environ and "pytest" in sys.modules
    return Mode.DEFERRED if in_pytest and settings.enabled is None else Mode.ACTIVE


def _registry_factory(settings: Settings, registry: Registry | None, mode: Mode) -> Callable[[], Registry] | None:
    if registry is not None:
        return lambda: registry
    if not settings.eureka_url:
        return None
    ways = _ways_to_eureka(settings, mode)
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
            **ways,
        )

    return make


def _status_only(settings: Settings, ways: dict[str, Any]) -> Registry:
    from graceful.eureka.rest import Server  # noqa: PLC0415  as above
    from graceful.eureka.status_only import StatusOnly  # noqa: PLC0415

    return StatusOnly(
        lambda: [Server(url.raw, **ways) for url in settings.eureka_servers],
        settings.app_name or "",
        settings.instance_id or "",
        clear_former=settings.eureka_stale == "clear",
        interval=settings.heartbeat_interval,
    )


def _ways_to_eureka(settings: Settings, mode: Mode) -> dict[str, Any]:
    """What the registration needs for https and for proxies, beyond the addresses."""
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


def _refuse_other(installed: Settings, asked: Settings) -> None:
    differing = [name for name in type(asked).model_fields if getattr(asked, name) != getattr(installed, name)]
    if differing:
        raise InstallError(
            f"graceful is installed already, with other settings ({', '.join(differing)}): call install() once, or "
            "coordinator.uninstall() first; install() without arguments gives the coordinator that is there"
        )


def _wire(app: Any, coordinator: Coordinator) -> None:
    """Wire an application once; without one there is nothing to wire."""
    global _wired_app  # noqa: PLW0603
    if app is None or app is _wired_app:
        return
    unwire = wire(app, coordinator)
    if unwire is None:
        raise InstallError(
            f"install() wires Starlette, FastAPI, Litestar, Quart, Django, Flask and aiohttp.web applications, not "
            f"{type(app).__name__}; for another one call coordinator = install() and serve coordinator.asgi(app) or "
            "coordinator.wsgi(app)"
        )
    _wired_app = app
    coordinator.on_uninstall(unwire)


def _forget() -> None:
    global _installed, _wired_app  # noqa: PLW0603
    _installed = _wired_app = None


@contextmanager
def planning() -> Iterator[Callable[[], Coordinator | None]]:
    """Have `install()` make a plan only: no thread, no signal, no socket. For commands that import an application.

    Yields:
        What gives the coordinator that was installed meanwhile, or None.
    """
    global _plan_only  # noqa: PLW0603
    _plan_only = True
    try:
        yield lambda: _installed
    finally:
        _plan_only = False


def _reset_after_fork() -> None:
    global _lock  # noqa: PLW0603  a thread that is gone may have held it
    _lock = threading.Lock()
    if _installed is not None:
        _installed.reset_after_fork()


os.register_at_fork(after_in_child=_reset_after_fork)
