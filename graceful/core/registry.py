"""What the coordinator needs of a service registry, and what a registry answers.

[`Registry`][graceful.core.registry.Registry] is a protocol: Eureka is the registry that ships with graceful, and
Consul or Nacos can be added by a user without touching the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

__all__ = ["Registry", "RegistryOutcome", "ServerResult", "Verdict"]


class Verdict(Enum):
    """How much of a registry is known to have taken a change."""

    VERIFIED_ALL = "verified_all"
    VERIFIED_SOME = "verified_some"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServerResult:
    """What came of one change on one server of the registry.

    Attributes:
        server: the server's address with its credentials taken out.
        verified: whether the change was read back from it.
        detail: what it said, for people: `"OUT_OF_SERVICE"`, `"absent"`, `"HTTP 503"`, `"no answer in 1.5 s"`.
        operation: what was to be changed, in one or two words: `"register"`, `"withdraw"`.
        seconds: how long the tries took together, without the pauses between them.
        tries: how often it was tried; reading it back is part of a try.
    """

    server: str
    verified: bool
    detail: str
    operation: str = ""
    seconds: float = 0.0
    tries: int = 1

    def __str__(self) -> str:
        """`http://b/eureka: HTTP 503`, and what it took if that was more than one try."""
        effort = f", {self.tries} tries in {self.seconds:.1f}s" if self.tries > 1 else ""
        return f"{self.server}: {self.detail}{effort}"

    def as_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        return {
            "server": self.server,
            "operation": self.operation,
            "verified": self.verified,
            "outcome": self.detail,
            "seconds": round(self.seconds, 3),
            "tries": self.tries,
        }


@dataclass(frozen=True, slots=True)
class RegistryOutcome:
    """What came of one change on every server of the registry.

    Attributes:
        servers: one result per configured server, in the configured order.
        first_verified_at: when the first server was seen to have the change (an instant of the event loop's clock),
            or None when none was.
    """

    servers: tuple[ServerResult, ...]
    first_verified_at: float | None = None

    @property
    def verdict(self) -> Verdict:
        """All, some or none of the servers verified."""
        verified = sum(result.verified for result in self.servers)
        if verified == len(self.servers):
            return Verdict.VERIFIED_ALL
        return Verdict.VERIFIED_SOME if verified else Verdict.FAILED

    def __str__(self) -> str:
        """`verified on 1 of 2 servers (http://b/eureka: HTTP 503)`."""
        missing = [str(result) for result in self.servers if not result.verified]
        verified = len(self.servers) - len(missing)
        problem = f" ({'; '.join(missing)})" if missing else ""
        return f"verified on {verified} of {len(self.servers)} servers{problem}"


class Registry(Protocol):
    """Where callers look the service up. Every method runs on graceful's own event loop.

    No method raises for a registry that is down or refuses: that is a result, or a log record. The order of calls is
    `start`, `serve`, `freeze`, `withdraw`, `keep_withdrawn` with `until_published` beside it, `deregister`; a leave
    may begin before any of the first two has ended or even begun.

    A registry may have `seen_up` as well: whether a server was seen to have this instance UP, in this life and by this
    process. Without it, `announced` stands for that.
    """

    @property
    def announced(self) -> bool:
        """Whether callers may have learned of this instance: an UP was at least tried in this life."""
        ...

    @property
    def calls(self) -> tuple[ServerResult, ...]:
        """What came of the changes of this life so far, for the report. Asked from any thread."""
        ...

    async def start(self) -> None:
        """Clear what a former life left behind (a lease, an override), so that the instance is absent until ready."""
        ...

    async def serve(self) -> None:
        """Announce the instance as UP, read it back, and keep it so until cancelled or frozen."""
        ...

    def freeze(self) -> None:
        """From this call on nothing in this process makes the instance UP. Synchronous, idempotent, thread-safe."""
        ...

    async def withdraw(self, deadline: float) -> RegistryOutcome:
        """Take the instance out of service on every server at once and read it back, until verified or `deadline`."""
        ...

    async def keep_withdrawn(self) -> None:
        """Retry the servers that did not verify and watch the others, until cancelled."""
        ...

    async def until_published(self) -> float:
        """Wait until every server was seen to show the withdrawal to its callers.

        Does not return, until cancelled, where that cannot be told for certain of every server: a server that shows it
        late costs nothing but time, one that is believed too early costs requests.

        Returns:
            The instant of the event loop's clock at which the last server showed it.
        """
        ...

    async def deregister(self, deadline: float) -> RegistryOutcome | None:
        """Delete the instance from every server and confirm that it is absent, by `deadline`.

        None where the registration is somebody else's, who deletes it.
        """
        ...
