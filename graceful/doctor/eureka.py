"""Whether Eureka can be reached, lets us in, and has the same time. It is only read from: nothing is changed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import anyio

from graceful.doctor.findings import Finding, Verdict
from graceful.eureka.described import instance_of
from graceful.eureka.refusal import REFUSALS
from graceful.eureka.rest import EurekaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graceful.eureka.rest import Server
    from graceful.eureka.transport import Response
    from graceful.settings import Settings

__all__ = ["Seen", "check_clock", "check_server", "look_at", "who"]

CLOCK_TOLERANCE: Final = 5.0
"""Seconds of a clock's skew that are nothing to speak of: a registration is told from an older one by its time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server showed.

    Attributes:
        server: its address without credentials.
        seconds: how long the answer took.
        error: why there was none that makes sense; empty where there was.
        status: the HTTP status of a refusal, None where there was none.
        instance: what it says of the instance: `UP`, `absent`; empty where it was not asked.
        skew: seconds by which this machine's clock is ahead of the server's, None where that was not told.
        uncertainty: how far `skew` may be off: the answer's way, and the second to which a Date is given.
    """

    server: str
    seconds: float = 0.0
    error: str = ""
    status: int | None = None
    instance: str = ""
    skew: float | None = None
    uncertainty: float = 1.0


def who(settings: Settings) -> tuple[str, str]:
    """Name and id under which the instance is registered; empty where that is not known here."""
    if settings.eureka_status_only or not settings.port:
        return (settings.app_name or "").upper(), settings.instance_id or ""
    instance = instance_of(settings)
    return instance.app, instance.instance_id


async def look_at(servers: Sequence[Server], app: str, instance_id: str) -> list[Seen]:
    """Read from every server at the same time; each bounds its own answers.

    Args:
        servers: the servers, in the order in which they are configured.
        app: the application's name, empty where it is not known.
        instance_id: the instance's id, empty where it is not known.
    """
    seen: dict[int, Seen] = {}

    async def look(at: int, server: Server) -> None:
        seen[at] = await _look(server, app, instance_id)

    async with anyio.create_task_group() as tasks:
        for at, server in enumerate(servers):
            tasks.start_soon(look, at, server)
    return [seen[at] for at in sorted(seen)]


async def _look(server: Server, app: str, instance_id: str) -> Seen:
    asked, began, known = time.time(), time.monotonic(), bool(app and instance_id)
    try:
        answer = await _changes(server, may_be_off=known)
        took = time.monotonic() - began
        view = await server.look(app, instance_id) if known else None
    except EurekaError as error:
        if error.status == 404:
            return Seen(server.name, error="HTTP 404: there is no Eureka under this path", status=404)
        return Seen(server.name, time.monotonic() - began, server.reading_error(error).reason, error.status)
    skew = _skew(answer.date, asked + took / 2) if answer and answer.date else None
    told = ("absent" if view is None else view.status.value) if known else ""
    return Seen(server.name, took, instance=told, skew=skew, uncertainty=1.0 + took / 2)


async def _changes(server: Server, *, may_be_off: bool) -> Response | None:
    """The changes of the last minutes: small, and nothing but an Eureka has them. None where they are switched off.

    Raises:
        EurekaError: there is no such answer.
    """
    try:
        answer = await server.fetch("apps/delta", "application/json")
    except EurekaError as error:
        if error.status == 403 and may_be_off:  # eureka.server.disable-delta; the instance shows whether it is that
            return None
        raise
    if not _is_eureka(answer.body_text):
        raise server.error("its answer is not Eureka's (a login page, or another service?)")
    return answer


def _is_eureka(text: str) -> bool:
    try:
        return isinstance(json.loads(text)["applications"], dict)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _skew(date: str, now: float) -> float | None:
    try:
        # Given in whole seconds, cut off: half a second more is what it is on average.
        return now - (parsedate_to_datetime(date).timestamp() + 0.5)
    except (ValueError, TypeError, OverflowError):
        return None


def check_server(seen: Seen, *, others_answer: bool) -> Finding:
    """Whether one server can be used.

    Args:
        seen: what it showed.
        others_answer: whether another server does: then one that is down is no failure.
    """
    name = f"eureka {seen.server}"
    if not seen.error:
        instance = f"; this instance is {seen.instance} there" if seen.instance else ""
        text = f"answers in {seen.seconds:.2f} s{instance}; whether it takes changes (CSRF) is not tried"
        return Finding(name, Verdict.OK, text)
    if seen.status in REFUSALS:
        return Finding(name, Verdict.FAIL, seen.error, "the page 'An Eureka that is secured' has what to look for")
    if seen.status == 404:
        return Finding(name, Verdict.FAIL, seen.error, "correct eureka_url: Spring's servers have it under /eureka")
    verdict = Verdict.WARNING if others_answer else Verdict.FAIL
    return Finding(name, verdict, seen.error, "look at the address, the network policy, and the server")


def check_clock(seen: Sequence[Seen]) -> Finding:
    """Whether this machine's clock agrees with the servers': Eureka takes the registration with the later time."""
    told = [(each.skew, each.uncertainty, each.server) for each in seen if each.skew is not None]
    if not told:
        return Finding("clock", Verdict.UNKNOWN, "no server told its time (a Date in its answer)")
    skew, uncertainty, server = max(told, key=lambda each: abs(each[0]) - each[1])
    if abs(skew) - uncertainty <= CLOCK_TOLERANCE:
        return Finding("clock", Verdict.OK, f"within {CLOCK_TOLERANCE:g} s of the servers'")
    return Finding(
        "clock",
        Verdict.WARNING,
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {server}: of two registrations Eureka takes the one "
        "with the later lastDirtyTimestamp, so an older one may win",
        "synchronise the clocks of the nodes (NTP)",
    )
