"""One node of an embedded Eureka: REST operations over registry and cache. Pure: no I/O, and time is an argument."""

from __future__ import annotations

import gzip
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from graceful.rehearsal.eureka_cache import CacheKey, ResponseCache
from graceful.rehearsal.eureka_changes import Change, ChangeKind
from graceful.rehearsal.eureka_messages import Answer, Request, refusal, status_page
from graceful.rehearsal.eureka_model import InstanceStatus, Registry
from graceful.rehearsal.eureka_wire import (
    JSON,
    XML,
    UnreadableBodyError,
    application_view,
    applications_view,
    instance_view,
    read_instance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from graceful.rehearsal.eureka_model import Instance, Lease

__all__ = ["Answer", "Node", "Request"]

UNREADABLE = {
    JSON: b'{"error": "cannot parse request body"}',
    XML: b"<error><message>cannot parse request body</message></error>",
}


Operation: TypeAlias = "Callable[[Request, float], Answer]"


class Node:
    """A registry, its response cache and its timers behind Eureka's REST operations.

    Timers are caught up with at the start of every call, in the order in which they were due, so that the state is
    always what it would be if they ran by themselves. Not thread-safe.

    Args:
        cache_interval: seconds between refreshes of the cached views; 0 serves them fresh.
        eviction_interval: seconds between evictions of expired leases.
        now: seconds since the epoch.
        on_change: called with every change that a client has made, to be passed on to the peers.
        peers: gives the URLs of the peers, for the status page.
    """

    def __init__(
        self,
        *,
        cache_interval: float,
        eviction_interval: float,
        now: float,
        on_change: Callable[[Change], None] = lambda _change: None,
        peers: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._on_change = on_change
        self._peers = peers
        self.registry = Registry(self._invalidate)
        self._cache = ResponseCache(self._load, cache_interval, now)
        self._eviction_interval = eviction_interval
        self._next_eviction = now + eviction_interval
        self._delta_version = 0

    def advance(self, now: float) -> None:
        """Run the timers that were due by now."""
        while (due := min(self._next_eviction, self._cache.next_refresh)) <= now:
            if due == self._next_eviction:
                self.registry.evict(due)
                self._next_eviction += self._eviction_interval
            else:
                self._cache.refresh(due)

    def answer(self, request: Request, now: float) -> Answer:
        """Answer a request as Spring Cloud Eureka 5.0 does."""
        self.advance(now)
        operations = self._operations(request.path)
        if not operations:
            return refusal(HTTPStatus.NOT_FOUND)
        allowed = {"allow": ",".join([*operations, "OPTIONS"])}
        if request.method == "OPTIONS":
            return Answer(HTTPStatus.OK, headers=allowed)
        operation = operations.get("GET" if request.method == "HEAD" else request.method)
        if operation is None:
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, allowed)
        if not request.accepted:
            return refusal(HTTPStatus.NOT_ACCEPTABLE)
        return operation(request, now)

    def _operations(self, path: tuple[str, ...]) -> dict[str, Operation]:
        """The methods of a path: Eureka's REST table."""
        match path[1:] if path[:1] == ("v2",) else path:
            case ("apps",):
                return {"GET": partial(self._view, "apps", "")}
            case ("apps", "delta"):
                return {"GET": partial(self._view, "delta", "")}
            case ("apps", app):
                return {"GET": partial(self._view, "app", app.upper()), "POST": partial(self._register, app.upper())}
            case ("apps", app, instance_id):
                key = (app.upper(), instance_id)
                return {
                    "GET": partial(self._instance, *key),
                    "PUT": partial(self._renew, *key),
                    "DELETE": partial(self._cancel, *key),
                }
            case ("apps", app, instance_id, "status"):
                key = (app.upper(), instance_id)
                return {"PUT": partial(self._override, *key), "DELETE": partial(self._clear_override, *key)}
            case ("apps", app, instance_id, "metadata"):
                return {"PUT": partial(self._add_metadata, app.upper(), instance_id)}
            case ("instances", instance_id):
                return {"GET": partial(self._instance_anywhere, instance_id)}
            case ("vips" | "svips" as view, name):
                return {"GET": partial(self._view, view, name)}
            case ("status",):
                return {"GET": self._status}
            case _:
                return {}

    def _register(self, app: str, request: Request, now: float) -> Answer:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip()
        if not media_type and not request.body:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        if media_type not in (JSON, XML):
            return refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        try:
            instance = read_instance(request.body, media_type, now)
        except UnreadableBodyError:
            return Answer(HTTPStatus.BAD_REQUEST, UNREADABLE[media_type], media_type)
        if instance is None:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        if problem := _problem(instance, app):
            return Answer(HTTPStatus.BAD_REQUEST, problem.encode(), JSON)
        self.registry.register(instance, now, replicated=request.replicated)
        self._pass_on(ChangeKind.REGISTER, instance, request, now)
        return Answer(HTTPStatus.NO_CONTENT)

    def _renew(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        if not self.registry.renew(app, instance_id, now):
            return refusal(HTTPStatus.NOT_FOUND)
        lease = self.registry.find(app, instance_id, now)
        if lease is None:
            return Answer(HTTPStatus.OK)
        self._pass_on(ChangeKind.HEARTBEAT, lease.instance, request, now)
        try:
            ahead = int(request.query.get("lastDirtyTimestamp", lease.instance.last_dirty)) - lease.instance.last_dirty
            if ahead > 0:
                self._take_over_override(lease, request, now)
        except ValueError:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        if ahead > 0:
            # 404 asks the sender to register again, because it knows something that this node does not.
            return refusal(HTTPStatus.NOT_FOUND)
        if ahead < 0 and request.replicated:
            # It is the peer that is behind: it is told what this node knows.
            return Answer(HTTPStatus.CONFLICT, instance_view(lease, JSON), JSON)
        return Answer(HTTPStatus.OK)

    def _take_over_override(self, lease: Lease, request: Request, now: float) -> None:
        status = request.query.get("overriddenstatus", InstanceStatus.UNKNOWN)
        if request.replicated and status != InstanceStatus.UNKNOWN:
            self.registry.store_override(lease.instance.app, lease.instance.id, InstanceStatus(status), now)

    def _cancel(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        lease = self.registry.find_even_expired(app, instance_id)
        if not self.registry.cancel(app, instance_id, now) or lease is None:
            return refusal(HTTPStatus.NOT_FOUND)
        self._pass_on(ChangeKind.CANCEL, lease.instance, request, now)
        return Answer(HTTPStatus.OK)

    def _override(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        lease = self.registry.find(app, instance_id, now)
        if lease is None:
            return refusal(HTTPStatus.NOT_FOUND)
        try:
            status = InstanceStatus(request.query.get("value", ""))
            self.registry.override(app, instance_id, status, request.query.get("lastDirtyTimestamp"), now)
        except ValueError:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._pass_on(ChangeKind.STATUS, lease.instance, request, now)
        return Answer(HTTPStatus.OK)

    def _clear_override(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        lease = self.registry.find(app, instance_id, now)
        if lease is None:
            return refusal(HTTPStatus.NOT_FOUND)
        try:
            status = InstanceStatus(request.query.get("value", InstanceStatus.UNKNOWN))
            self.registry.clear_override(app, instance_id, status, request.query.get("lastDirtyTimestamp"), now)
        except ValueError:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._pass_on(ChangeKind.CLEAR, lease.instance, request, now)
        return Answer(HTTPStatus.OK)

    def _add_metadata(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        lease = self.registry.find(app, instance_id, now)
        if lease is None:
            return refusal(HTTPStatus.NOT_FOUND)
        lease.instance.metadata.update(request.query)
        self.registry.register(lease.instance, now)
        self._pass_on(ChangeKind.REGISTER, lease.instance, request, now)
        return Answer(HTTPStatus.OK)

    def adopt(self, body: bytes, now: float) -> None:
        """Take over an instance of which a peer knows more; `body` is its answer 409 to a heartbeat."""
        instance = read_instance(body, JSON, now)
        if instance is not None:
            if instance.overridden_status is not InstanceStatus.UNKNOWN:
                self.registry.store_override(instance.app, instance.id, instance.overridden_status, now)
            self.registry.register(instance, now, replicated=True)

    def _pass_on(self, kind: ChangeKind, instance: Instance, request: Request, now: float) -> None:
        if not request.replicated:
            self._on_change(Change.of(kind, instance, self.registry.override_of(instance.id, now)))

    def _instance(self, app: str, instance_id: str, request: Request, now: float) -> Answer:
        return _shown(self.registry.find(app, instance_id, now), request)

    def _instance_anywhere(self, instance_id: str, request: Request, now: float) -> Answer:
        return _shown(self.registry.find_anywhere(instance_id, now), request)

    def _status(self, request: Request, now: float) -> Answer:  # noqa: ARG002  an operation like the others
        if "json" in request.headers.get("accept", ""):
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        return Answer(HTTPStatus.OK, status_page(self._peers()), XML)

    def _view(self, view: str, name: str, request: Request, now: float) -> Answer:
        # Eureka looks for the letters "json" here and negotiates properly for a single instance only.
        media_type = JSON if "json" in request.headers.get("accept", "") else XML
        body = self._cache.get(CacheKey(view, name, media_type), now)
        if body is None:
            return refusal(HTTPStatus.NOT_FOUND)
        if view in ("apps", "delta") and "gzip" in request.headers.get("accept-encoding", ""):
            return Answer(HTTPStatus.OK, gzip.compress(body, mtime=0), media_type, {"content-encoding": "gzip"})
        return Answer(HTTPStatus.OK, body, media_type)

    def _load(self, key: CacheKey, now: float) -> bytes | None:
        everything = self.registry.applications()
        write = partial(applications_view, media_type=key.media_type)
        match key.view:
            case "app":
                leases = everything.get(key.name)
                return application_view(key.name, leases, key.media_type) if leases else None
            case "apps":
                return write(everything, version=1, counted=_flat(everything))
            case "delta":
                self._delta_version += 1
                return write(self.registry.recent_changes(now), version=self._delta_version, counted=_flat(everything))
            case _:
                chosen = _with_address("vipAddress" if key.view == "vips" else "secureVipAddress", key.name, everything)
                return write(chosen, version=-1, counted=_flat(chosen))

    def _invalidate(self, instance: Instance) -> None:
        views = [
            ("app", instance.app),
            ("apps", ""),
            ("delta", ""),
            ("vips", instance.texts.get("vipAddress", "")),
            ("svips", instance.texts.get("secureVipAddress", "")),
        ]
        self._cache.invalidate(CacheKey(view, name, media_type) for view, name in views for media_type in (JSON, XML))


def _problem(instance: Instance, app: str) -> str | None:
    """What Eureka has against a registration, in its words."""
    if not instance.host_name:
        return "Missing hostname"
    if not instance.ip_address:
        return "Missing ip address"
    if not instance.app:
        return "Missing appName"
    if instance.app != app:
        return f"Mismatched appName, expecting {app} but was {instance.app}"
    if instance.data_center is None:
        return "Missing dataCenterInfo"
    return None if instance.data_center.name else "Missing dataCenterInfo Name"


def _shown(lease: Lease | None, request: Request) -> Answer:
    """One instance straight from the registry, in the format that the caller prefers; XML if it does not care."""
    if lease is None:
        return refusal(HTTPStatus.NOT_FOUND)
    accepted = request.accepted
    preferred = max(accepted, key=lambda name: (accepted[name], name in (JSON, XML)))
    media_type = JSON if preferred == JSON else XML
    return Answer(HTTPStatus.OK, instance_view(lease, media_type), media_type)


def _with_address(name: str, address: str, applications: Mapping[str, list[Lease]]) -> dict[str, list[Lease]]:
    chosen = {
        app: [lease for lease in leases if address in lease.instance.texts.get(name, "").split(",")]
        for app, leases in applications.items()
    }
    return {app: leases for app, leases in chosen.items() if leases}


def _flat(applications: Mapping[str, list[Lease]]) -> list[Lease]:
    return [lease for leases in applications.values() for lease in leases]
