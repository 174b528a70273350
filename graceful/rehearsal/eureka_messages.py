"""What is asked of a node of an embedded Eureka, and what it answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from graceful.rehearsal.eureka_wire import JSON, XML

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from http import HTTPStatus

__all__ = ["REPLICATION_HEADER", "Answer", "Request", "refusal", "status_page"]

# With the value `true` it marks a change that a peer passes on: it is not passed on again.
REPLICATION_HEADER = "x-netflix-discovery-replication"
READABLE_RANGES = {JSON, XML, "application/*", "*/*"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request below the context path.

    Attributes:
        method: in capitals.
        path: the decoded segments without the context path, such as `("apps", "ORDERS", "host:8080")`.
        query: the first value of every parameter.
        headers: by lower-case name.
        body: as received.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def replicated(self) -> bool:
        """Whether a peer passes this on."""
        return self.headers.get(REPLICATION_HEADER) == "true"

    @property
    def accepted(self) -> dict[str, float]:
        """The media ranges that an answer could be written in, with their quality."""
        ranges = {}
        for part in self.headers.get("accept", "").split(",") if self.headers.get("accept") else ["*/*"]:
            name, _, parameters = part.partition(";")
            _, _, quality = parameters.partition("q=")
            ranges[name.strip()] = float(quality or 1)
        return {name: quality for name, quality in ranges.items() if name in READABLE_RANGES}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node answers."""

    status: int
    body: bytes = b""
    media_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: HTTPStatus, headers: Mapping[str, str] | None = None, message: str = "") -> Answer:
    """An error in the shape of Spring's error page."""
    page = {"status": status.value, "error": message or status.phrase}
    return Answer(status, json.dumps(page, separators=(",", ":")).encode(), JSON, headers or {})


def status_page(peers: Sequence[str]) -> bytes:
    """What a node says of itself: of all that a real one says, the peers that it replicates to."""
    replicas = escape(", ".join(peers))
    return (
        "<com.netflix.eureka.util.StatusInfo>\n  <applicationStats>\n"
        f"    <registered-replicas>{replicas}</registered-replicas>\n"
        "  </applicationStats>\n</com.netflix.eureka.util.StatusInfo>"
    ).encode()
