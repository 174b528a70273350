"""`install()`: from settings to a service that leaves in order."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graceful.hosting import Mode
from graceful.registries import discovery_factory, registry_factory
from graceful.servers import celery, uvicorn
from graceful.servers.gunicorn import Arbiter
from graceful.servers.hypercorn import StopEvent
from graceful.servers.processes import is_child_of_application
from graceful.service import Coordinator
from graceful.settings import load_settings
from graceful.sharing import JointRegistry
from graceful.siblings import Siblings
from graceful.signals import SignalHold
from graceful.wiring import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graceful.core.registry import Registry
    from graceful.eureka.guard import ClientGuard
    from graceful.settings import Settings

__all__ = ["InstallError", "install", "planning"]

_lock = threading.Lock()
_installed: Coordinator | None = None
_wired_app: Any = None
_adopted_client: Any = None
_plan_only = False


class InstallError(RuntimeError):
    """`install()` cannot do what it was asked; the message says what to do instead."""


def install(
    app: Any = None, /, *, registry: Registry | None = None, eureka: Any = None, **settings: Any
) -> Coordinator:
    """Have this process leave in order when it is told to.

    Takes SIGTERM and SIGINT, starts one daemon thread, and opens the socket that the preStop hook finds. Nothing is
    announced until the service is ready, and no leave begins. Called again without arguments, or with the same ones,
    it gives the coordinator that is there.

    In a pytest process nothing is started until an application's lifespan begins, and no signal is taken: a test
    that imports the application touches nothing (`enabled=True` starts everything all the same). In a process that
    the application itself starts with `multiprocessing`, and in gunicorn's arbiter, nothing is started before that
    either, and everything then.

    Args:
        app: a Starlette, FastAPI, Litestar, Quart, Django (what `get_asgi_application()` or `get_wsgi_application()`
            gives), Flask or aiohttp.web application, wired in place. Others: serve `coordinator.asgi(app)` or
            `coordinator.wsgi(app)`.
        registry: a registry of one's own, in place of Eureka.
        eureka: an `EurekaClient` of py_eureka_client that registers this service, started or not yet. It goes on with
            registering, heartbeats and discovery; from the first moment of the leave on it changes nothing any more,
            and the instance is taken out of service and deregistered here. What it knows fills in the settings:
            servers, name, port and instance id.
        **settings: any field of [`Settings`][graceful.settings.Settings]; they win over the environment.

    Returns:
        The coordinator.

    Raises:
        InstallError: off the main thread, a second time with other arguments, for an app that it cannot wire, or for
            an `EurekaClient` that it cannot adopt.
        SettingsError: for a setting that cannot be used.
        BudgetError: for a grace period that is shorter than the plan.
        TypeError: for an argument that does not exist.
    """
    global _installed, _adopted_client
    if registry is not None and eureka is not None:
        raise InstallError("registry and eureka were both given: a service is announced in one registry; leave one out")
    with _lock:
        if _installed is not None:
            if settings or registry is not None or eureka not in (None, _adopted_client):
                _refuse_other(_installed.settings, _load(eureka, settings))
                _refuse_other_client(eureka)
            _wire(app, _installed)
            return _installed
        coordinator = _build(_load(eureka, settings), registry, eureka, serves_app=app is not None)
        _wire(app, coordinator)
        coordinator.on_uninstall(_forget)
        coordinator.activate()
        _installed, _adopted_client = coordinator, eureka
        return coordinator


def _load(eureka: Any, arguments: dict[str, Any]) -> Settings:
    """The settings, to which a client that is to be adopted adds what it knows."""
    if eureka is None:
        return load_settings(arguments)
    # Imported here, as everything of Eureka: a service without it does not pay for it.
    from graceful.adoption import check_against, view_of, with_detected  # noqa: PLC0415
    from graceful.eureka.client import NotAdoptableError  # noqa: PLC0415

    try:
        view = view_of(eureka)
        settings = load_settings(with_detected(view, arguments, plan_only=_plan_only))
        check_against(view, settings)
    except NotAdoptableError as error:
        raise InstallError(str(error)) from None
    return settings


def _build(settings: Settings, registry: Registry | None, eureka: Any, *, serves_app: bool) -> Coordinator:
    arbiter = Arbiter.find()
    mode = _mode(settings, arbiter)
    guard = None if eureka is None else _guard(eureka)
    make_registry = (lambda: registry) if registry is not None else registry_factory(settings, mode, guard)
    plan = settings.plan(registry=make_registry is not None)
    if settings.grace_period is not None and not _plan_only:
        plan.check(settings.grace_period)
    if mode is Mode.ACTIVE and settings.hold_signals and threading.current_thread() is not threading.main_thread():
        raise InstallError(
            f"install() was called in thread {threading.current_thread().name!r}, but Python sets signal handlers in "
            "the main thread only: call it where the application is imported or created, or pass hold_signals=False "
            "and call coordinator.drain() when SIGTERM comes"
        )
    coordinator = Coordinator(
        settings,
        mode=mode,
        make_registry=make_registry,
        make_siblings=_siblings_finder(settings, mode),
        signals=SignalHold(owners=[uvicorn.UvicornOwner()], libraries=[celery.CeleryWorker()])
        if settings.hold_signals
        else None,
        find_stop_event=StopEvent.find,
        arbiter=arbiter,
        serves_app=serves_app,
        make_discovery=discovery_factory(settings, mode) if settings.eureka_url else None,
    )
    if guard is not None:
        coordinator.on_uninstall(guard.detach)
        _keep_credentials_out(coordinator)
    return coordinator


def _guard(eureka: Any) -> ClientGuard:
    from graceful.eureka.guard import ClientGuard  # noqa: PLC0415  as above

    return ClientGuard(eureka)


def _keep_credentials_out(coordinator: Coordinator) -> None:
    from graceful.eureka.discretion import keep_credentials_out  # noqa: PLC0415  as above

    coordinator.on_uninstall(keep_credentials_out())


def _mode(settings: Settings, arbiter: Arbiter | None) -> Mode:
    if _plan_only or settings.enabled is False:
        return Mode.INERT
    # PYTEST_VERSION is pytest's own sign that code runs within it, but its child processes inherit the variable.
    in_pytest = "PYTEST_VERSION" in os.environ and "pytest" in sys.modules
    if settings.enabled is not None:
        return Mode.ACTIVE
    if in_pytest:
        return Mode.DEFERRED
    # A parent of workers serves nothing itself, and a child of the application is none of the service's processes.
    stands_by = is_child_of_application() or (arbiter is not None and not arbiter.in_worker)
    return Mode.WAITING if stands_by else Mode.ACTIVE


def _siblings_finder(settings: Settings, mode: Mode) -> Callable[[Registry | None], Siblings | None]:
    """What finds the other processes of the container that serve the same instance."""

    def find(registry: Registry | None) -> Siblings | None:
        if not mode.whole:
            return None  # in a test, whoever else runs on this machine is a stranger
        if registry is not None:
            # A registry that does not say what it registers stands for this process alone.
            instance = f"{registry.shared_as}:{settings.port}" if isinstance(registry, JointRegistry) else ""
        else:
            instance = f"{settings.app_name or ''}:{settings.port}" if settings.port else ""
        return Siblings(instance, os.environ) if instance else None

    return find


def _refuse_other(installed: Settings, asked: Settings) -> None:
    differing = [name for name in type(asked).model_fields if getattr(asked, name) != getattr(installed, name)]
    # A client tells its instance's id once it has been started.
    if _adopted_client is not None and installed.instance_id is None:
        differing = [name for name in differing if name != "instance_id"]
    if differing:
        raise InstallError(
            f"graceful is installed already, with other settings ({', '.join(differing)}): call install() once, or "
            "coordinator.uninstall() first; install() without arguments gives the coordinator that is there"
        )


def _refuse_other_client(eureka: Any) -> None:
    if eureka is not None and eureka is not _adopted_client:
        what = "without an EurekaClient" if _adopted_client is None else "with another EurekaClient"
        raise InstallError(
            f"graceful is installed already, {what}: pass eureka to the first call of install(), or call "
            "coordinator.uninstall() before"
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
    global _installed, _wired_app, _adopted_client  # noqa: PLW0603
    _installed = _wired_app = _adopted_client = None


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


def _stand_back_before_fork() -> None:
    if _installed is not None:
        _installed.stand_back_before_fork()


def _reset_after_fork() -> None:
    global _lock  # noqa: PLW0603  a thread that is gone may have held it
    _lock = threading.Lock()
    if _installed is not None:
        _installed.reset_after_fork()


os.register_at_fork(before=_stand_back_before_fork, after_in_child=_reset_after_fork)
