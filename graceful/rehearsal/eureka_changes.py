"""What one node of an embedded Eureka passes on to another: a change, as the request that repeats it there. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from graceful.rehearsal.eureka_messages import REPLICATION_HEADER, Request
from graceful.rehearsal.eureka_model import InstanceStatus, Lease
from graceful.rehearsal.eureka_wire import JSON, instance_view

if TYPE_CHECKING:
    from graceful.rehearsal.eureka_model import Instance

__all__ = ["Change", "ChangeKind"]

HEADERS = {REPLICATION_HEADER: "true", "content-type": JSON, "accept": JSON}


class ChangeKind(StrEnum):
    """What a client did; `status` sets an override and `clear` removes it."""

    REGISTER = "register"
    HEARTBEAT = "heartbeat"
    CANCEL = "cancel"
    STATUS = "status"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as it was when it was made.

    Attributes:
        kind: what was done.
        app: the application, in capitals.
        instance_id: the instance.
        request: what has the peer do the same.
        registration: of a heartbeat: what is sent when the peer does not know the instance, or knows less of it.
    """

    kind: ChangeKind
    app: str
    instance_id: str
    request: Request
    registration: Change | None = None

    @classmethod
    def of(cls, kind: ChangeKind, instance: Instance, override: InstanceStatus | None = None) -> Self:
        """The change that leaves the instance as it is now.

        Args:
            kind: what was done.
            instance: after the change.
            override: the override of its id.
        """
        registration = cls.of(ChangeKind.REGISTER, instance) if kind is ChangeKind.HEARTBEAT else None
        return cls(kind, instance.app, instance.id, _request(kind, instance, override), registration)


def _request(kind: ChangeKind, instance: Instance, override: InstanceStatus | None) -> Request:
    path = ("apps", instance.app, instance.id)
    dirty = {"lastDirtyTimestamp": str(instance.last_dirty)}
    match kind:
        case ChangeKind.REGISTER:
            return Request("POST", path[:2], {}, HEADERS, instance_view(Lease(instance, 0, 0), JSON))
        case ChangeKind.HEARTBEAT:
            query = {"status": instance.status.value, "overriddenstatus": override or InstanceStatus.UNKNOWN, **dirty}
            return Request("PUT", path, query, HEADERS)
        case ChangeKind.CANCEL:
            return Request("DELETE", path, {}, HEADERS)
        case ChangeKind.STATUS | ChangeKind.CLEAR:
            method = "PUT" if kind is ChangeKind.STATUS else "DELETE"
            return Request(method, (*path, "status"), {"value": instance.status.value} | dirty, HEADERS)
