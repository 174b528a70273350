"""The registry of an embedded Eureka: instances, leases and status overrides. Pure: no I/O, and time is an argument.

It follows Netflix' `AbstractInstanceRegistry` (eureka 2.0) rule by rule, its oddities included, because services meet
them in production: a lease that outlives its duration by a factor of two, an override that outlives its instance.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DataCenter", "Instance", "InstanceStatus", "Lease", "Port", "Registry"]

DEFAULT_RENEWAL_INTERVAL = 30
DEFAULT_LEASE_DURATION = 90
# Eureka keeps overrides in a map that forgets what nobody has read for an hour; a heartbeat reads it.
OVERRIDE_IDLE_TIMEOUT = 3600.0
# How long a change is told to callers that ask for changes only (retentionTimeInMSInDeltaQueue).
DELTA_RETENTION = 180.0
# This share of the registry outlives every single eviction run (renewalPercentThreshold).
RENEWAL_PERCENT_THRESHOLD = 0.85


class InstanceStatus(StrEnum):
    """What an instance says of itself, or what was said over its head."""

    UP = "UP"
    DOWN = "DOWN"
    STARTING = "STARTING"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Port:
    """A port number and whether it is in use."""

    number: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class DataCenter:
    """Where an instance runs; only `Amazon` carries metadata."""

    class_name: str
    name: str | None
    metadata: dict[str, str] | None = None


@dataclass(slots=True)
class Instance:
    """One registered instance. `texts` holds the optional fields that the registry only passes on, by wire name."""

    instance_id: str | None
    host_name: str
    app: str
    ip_address: str
    data_center: DataCenter | None
    status: InstanceStatus = InstanceStatus.UP
    overridden_status: InstanceStatus = InstanceStatus.UNKNOWN
    port: Port = Port(7001, enabled=True)
    secure_port: Port = Port(7002, enabled=False)
    country_id: int = 1
    renewal_interval: int = DEFAULT_RENEWAL_INTERVAL
    lease_duration: int = DEFAULT_LEASE_DURATION
    metadata: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    last_dirty: int = 0
    last_updated: int = 0
    action: str = "ADDED"

    @property
    def id(self) -> str:
        """The instance id, or the host name where none was sent."""
        return self.instance_id or self.host_name


@dataclass(slots=True)
class Lease:
    """How long an instance may stay without a heartbeat. Instants are seconds since the epoch."""

    instance: Instance
    registered_at: float
    renewed_at: float
    service_up_at: float = 0.0
    evicted_at: float = 0.0

    def renew(self, now: float) -> None:
        """Note a heartbeat. Eureka adds the duration here and again in `expired`, so a lease lasts twice as long."""
        self.renewed_at = now + self.instance.lease_duration

    def expired(self, now: float) -> bool:
        """Whether the lease is over; its instance stays listed until the next eviction."""
        return self.evicted_at > 0 or now > self.renewed_at + self.instance.lease_duration

    def service_up(self, now: float) -> None:
        """Note the first time that the instance was UP."""
        self.service_up_at = self.service_up_at or now


def millis(now: float) -> int:
    """The instant as Eureka writes it: milliseconds since the epoch."""
    return int(now * 1000)


class Registry:
    """Leases and overrides of one node. Not thread-safe: one thread, or one lock around it.

    Args:
        changed: called with every instance that was added, modified or deleted, so that cached views can be dropped.
    """

    def __init__(self, changed: Callable[[Instance], None] = lambda _instance: None) -> None:
        self._leases: dict[str, dict[str, Lease]] = {}
        self._overrides: dict[str, tuple[InstanceStatus, float]] = {}
        self._recent: deque[tuple[float, Lease]] = deque()
        self._changed = changed

    def register(self, instance: Instance, now: float, *, replicated: bool = False) -> None:
        """Add the instance or replace it; the override rules decide on its status.

        A status that a peer sent is taken even over a lease that says otherwise: the peer has applied the rule.
        """
        leases = self._leases.setdefault(instance.app, {})
        existing = leases.get(instance.id)
        if existing is not None and existing.instance.last_dirty > instance.last_dirty:
            instance = existing.instance
        lease = Lease(instance, now, now, existing.service_up_at if existing else 0.0)
        leases[instance.id] = lease
        if instance.overridden_status is not InstanceStatus.UNKNOWN and instance.id not in self._live_overrides(now):
            self._overrides[instance.id] = (instance.overridden_status, now)
        instance.overridden_status = self._override(instance.id, now) or instance.overridden_status
        instance.status = self._effective_status(instance, None if replicated else existing, now)
        if instance.status is InstanceStatus.UP:
            lease.service_up(now)
        self._record(lease, "ADDED", now)

    def renew(self, app: str, instance_id: str, now: float) -> bool:
        """Take a heartbeat; False when there is no lease or the status is UNKNOWN: the instance has to register."""
        lease = self.find_even_expired(app, instance_id)
        if lease is None:
            return False
        status = self._effective_status(lease.instance, lease, now)
        if status is InstanceStatus.UNKNOWN:
            return False
        lease.instance.status = status  # no cached view is dropped for this: Eureka does not either
        lease.renew(now)
        return True

    def cancel(self, app: str, instance_id: str, now: float) -> bool:
        """Remove the instance, and its override even when there is no such instance."""
        self._overrides.pop(instance_id, None)
        lease = self._leases.get(app, {}).pop(instance_id, None)
        if lease is None:
            return False
        lease.evicted_at = now
        self._record(lease, "DELETED", now)
        return True

    def override(self, app: str, instance_id: str, status: InstanceStatus, dirty: str | None, now: float) -> bool:
        """Set a status over the instance's head; nothing is stored when it has that status already.

        Raises:
            ValueError: `dirty` is no number. As in Eureka, the status has been changed by then.
        """
        lease = self.find_even_expired(app, instance_id)
        if lease is None:
            return False
        lease.renew(now)
        instance = lease.instance
        if instance.status is not status:
            if status is InstanceStatus.UP:
                lease.service_up(now)
            self._overrides[instance_id] = (status, now)
            instance.overridden_status = instance.status = status
            self._touch(lease, dirty, now)
        return True

    def clear_override(self, app: str, instance_id: str, status: InstanceStatus, dirty: str | None, now: float) -> bool:
        """Drop the override and set the status; without an override nothing changes.

        Raises:
            ValueError: `dirty` is no number. As in Eureka, the override is gone by then.
        """
        lease = self.find_even_expired(app, instance_id)
        if lease is None:
            return False
        lease.renew(now)
        had_override = instance_id in self._live_overrides(now)
        self._overrides.pop(instance_id, None)
        if had_override:
            lease.instance.overridden_status = InstanceStatus.UNKNOWN
            lease.instance.status = status
            self._touch(lease, dirty, now)
        return True

    def override_of(self, instance_id: str, now: float) -> InstanceStatus | None:
        """The override of this id, which stays alive by being read; None for none."""
        return self._override(instance_id, now)

    def store_override(self, app: str, instance_id: str, status: InstanceStatus, now: float) -> None:
        """Take over an override that a peer has; the status itself comes with the registration that follows."""
        lease = self.find_even_expired(app, instance_id)
        if lease is not None and self._override(instance_id, now) is not status:
            self._overrides[instance_id] = (status, now)
            lease.instance.overridden_status = status

    def evict(self, now: float) -> None:
        """Remove expired leases, oldest first, but never more than 15 % of the registry (and one) in one run."""
        leases = [lease for of_app in self._leases.values() for lease in of_app.values()]
        limit = len(leases) - int(len(leases) * RENEWAL_PERCENT_THRESHOLD)
        expired = sorted((lease for lease in leases if lease.expired(now)), key=lambda lease: lease.renewed_at)
        for lease in expired[:limit]:
            self.cancel(lease.instance.app, lease.instance.id, now)

    def find(self, app: str, instance_id: str, now: float) -> Lease | None:
        """The instance, unless its lease has expired."""
        lease = self.find_even_expired(app, instance_id)
        return None if lease is None or lease.expired(now) else lease

    def find_even_expired(self, app: str, instance_id: str) -> Lease | None:
        """The instance, as long as it was not evicted."""
        return self._leases.get(app, {}).get(instance_id)

    def find_anywhere(self, instance_id: str, now: float) -> Lease | None:
        """The first app's instance with this id, unless its lease has expired."""
        return next((found for app in self._leases if (found := self.find(app, instance_id, now))), None)

    def applications(self) -> dict[str, list[Lease]]:
        """Every listed instance by application, the expired ones that were not evicted yet included."""
        return {app: list(leases.values()) for app, leases in self._leases.items() if leases}

    def recent_changes(self, now: float) -> dict[str, list[Lease]]:
        """The instances that changed in the last three minutes, as they are now, by application."""
        while self._recent and self._recent[0][0] < now - DELTA_RETENTION:
            self._recent.popleft()
        changes: dict[str, dict[str, Lease]] = {}
        for _, lease in self._recent:
            of_app = changes.setdefault(lease.instance.app, {})
            of_app.pop(lease.instance.id, None)
            of_app[lease.instance.id] = lease
        return {app: list(leases.values()) for app, leases in changes.items()}

    def _effective_status(self, instance: Instance, existing: Lease | None, now: float) -> InstanceStatus:
        """The rule chain: believe DOWN and STARTING, then an override, then a lease that is there, then the sender."""
        in_or_out = (InstanceStatus.UP, InstanceStatus.OUT_OF_SERVICE)
        if instance.status not in in_or_out:
            return instance.status
        override = self._override(instance.id, now)
        if override is not None:
            return override
        if existing is not None and existing.instance.status in in_or_out:
            return existing.instance.status
        return instance.status

    def _touch(self, lease: Lease, dirty: str | None, now: float) -> None:
        if dirty is not None:
            lease.instance.last_dirty = max(lease.instance.last_dirty, int(dirty))
        self._record(lease, "MODIFIED", now)

    def _record(self, lease: Lease, action: str, now: float) -> None:
        lease.instance.action = action
        lease.instance.last_updated = millis(now)
        self._recent.append((now, lease))
        self._changed(lease.instance)

    def _override(self, instance_id: str, now: float) -> InstanceStatus | None:
        """The override, whose reading keeps it alive for another hour."""
        found = self._live_overrides(now).get(instance_id)
        if found is None:
            return None
        self._overrides[instance_id] = (found[0], now)
        return found[0]

    def _live_overrides(self, now: float) -> dict[str, tuple[InstanceStatus, float]]:
        oldest = now - OVERRIDE_IDLE_TIMEOUT
        for instance_id in [key for key, (_, read_at) in self._overrides.items() if read_at < oldest]:
            del self._overrides[instance_id]
        return self._overrides
