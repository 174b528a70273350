"""What one Eureka server shows to callers, and what it says of its cluster."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from graceful.eureka.basic import quote_segment
from graceful.eureka.rest import EurekaError, status_of

if TYPE_CHECKING:
    from graceful.eureka.rest import Server, Status

__all__ = ["peers_of", "shown_by"]

_REPLICAS = re.compile(r"<registered-replicas>(?P<urls>[^<]*)</registered-replicas>|<registered-replicas\s*/>")
_OWN_PORT = re.compile(r'<port enabled="true">(\d+)</port>')


async def shown_by(server: Server, app: str, instance_id: str) -> Status | None:
    """The instance's status as callers are shown it, from the server's response cache; None if it is absent there.

    Raises:
        EurekaError: the server did not say, or the application's view is larger than an answer may be.
    """
    try:
        text = await server.get(f"apps/{quote_segment(app)}", "application/json")
    except EurekaError as error:
        if error.status == 404:
            return None
        raise
    try:
        return _status_among(json.loads(text)["application"]["instance"], instance_id)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise server.error("the answer is not the application that was asked for") from error


async def peers_of(server: Server) -> int:
    """How many other servers this one says that it replicates to.

    Raises:
        EurekaError: the server did not say.
    """
    # In XML: asked for JSON, Spring Cloud Eureka Server 5.0.2 answers 500.
    page = await server.get("status", "application/xml")
    found = _REPLICAS.search(page)
    if found is None:
        raise server.error("its status page does not name its peers")
    # A single server as it comes out of the box takes itself for its peer, by this name.
    own = [f"//localhost:{port}/" for port in _OWN_PORT.findall(page)]
    urls = [url.strip() for url in (found["urls"] or "").split(",")]
    return sum(bool(url) and not any(name in url for name in own) for url in urls)


def _status_among(instances: Any, instance_id: str) -> Status | None:
    """The status of one of an application's instances; a single one may stand there without a list around it."""
    listed = [instances] if isinstance(instances, dict) else instances
    return next((status_of(each) for each in listed if each["instanceId"] == instance_id), None)
