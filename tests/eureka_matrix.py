"""What goes wrong with Eureka, when, and for whom: the rows of the fault matrix, and what runs one of them.

Of the two nodes of the bench the first one is in trouble (or both), and a real process leaves.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from graceful.eureka.status import now_ms
from tests.children import PATIENCE, Child, child, get
from tests.eureka_bench import Bench

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from graceful.rehearsal.eureka_changes import ChangeKind


__all__ = ["ROWS", "Leave", "Row", "leave", "table"]

Way = Literal["registered", "adopted", "status-only"]
Phase = Literal["STARTING", "SERVING", "PUT", "LAME_DUCK", "DRAINING", "DELETE"]
PHASES: tuple[Phase, ...] = get_args(Phase)
HANGING_NAME = "eureka.hanging.example"
CHANGED_ONLY: dict[Phase, dict[str, Any]] = {
    "PUT": {"method": "PUT", "path": "/status$"},
    "DELETE": {"method": "DELETE"},
}
"""Which requests a fault hits in a phase that is one request; elsewhere all."""


# --- what goes wrong -------------------------------------------------------------------------------------------------


def _stop(bench: Bench, _: dict[str, Any]) -> None:
    bench.first.stop()


def _restart(bench: Bench, _: dict[str, Any]) -> None:
    bench.first.stop()
    bench.first.start()


def _restart_both(bench: Bench, _: dict[str, Any]) -> None:
    for node in bench.cluster.nodes:
        node.stop()
    for node in bench.cluster.nodes:
        node.start()


def _evict(bench: Bench, _: dict[str, Any]) -> None:
    for node in (0, 1):
        bench.forget_on(node)


def _for_a_moment(bench: Bench, when: dict[str, Any]) -> None:
    bench.first.fail(503, for_seconds=0.7, **when)


def _fail_both(bench: Bench, when: dict[str, Any]) -> None:
    for node in bench.cluster.nodes:
        node.fail(503, **when)


def _refuse_changes(bench: Bench, when: dict[str, Any]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        bench.first.fail(403, **(when | {"method": method}))


def _lose(bench: Bench, _: dict[str, Any]) -> None:
    bench.cluster.replication.drop()


def _hang_look_ups(bench: Bench, _: dict[str, Any]) -> None:
    bench.hosts[0] = f"{HANGING_NAME}:8761"
    bench.env["HANGING_NAME"] = HANGING_NAME


def _skew(seconds: float, bench: Bench, _: dict[str, Any]) -> None:
    """The former life left the instance OUT_OF_SERVICE, by a clock that was right."""
    bench.env["CLOCK_SKEW"] = str(seconds)
    bench.tell(0, lambda server: server.register(bench.instance, now_ms()))
    bench.tell(0, lambda server: server.set_status(bench.app, bench.instance.instance_id, "OUT_OF_SERVICE", now_ms()))  # type: ignore[arg-type]
    bench.cluster.replication.wait_until_quiet()
    bench.observer.forget()


FAULTS: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "hung": lambda bench, when: bench.first.hang(**when),
    "refusing": _stop,
    "reset": lambda bench, when: bench.first.reset(**when),
    "500": lambda bench, when: bench.first.fail(500, **when),
    "503": lambda bench, when: bench.first.fail(503, **when),
    "503 for a moment": _for_a_moment,
    "503 on both": _fail_both,
    "login page": lambda bench, when: bench.first.redirect("http://login.example/?secret=1", **when),
    "401": lambda bench, when: bench.first.fail(401, **when),
    "403 to changes": _refuse_changes,
    "answered, not done": lambda bench, when: bench.first.fail(200, **(when | {"method": "PUT", "path": "/status$"})),
    "trickling": lambda bench, _: bench.trickles.set(),
    "restart": _restart,
    "restart of both": _restart_both,
    "eviction": _evict,
    "lost replication": _lose,
    "hanging look-up": _hang_look_ups,
    "clock behind": partial(_skew, -3600.0),
    "clock ahead": partial(_skew, 3600.0),
}

NOTHING_TO_DELETE = {"restart of both", "eviction"}
"""Faults after which the registry has forgotten the instance: there is no deletion that could take effect."""


# --- the rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One fault, the phase in which it begins (and stays), and how the service is in Eureka."""

    fault: str
    phase: Phase
    way: Way

    def __str__(self) -> str:
        return f"{self.fault} - {self.phase} - {self.way}"

    @property
    def beyond_reach(self) -> bool:
        """Whether no server can be told anything when the instance has to be deleted."""
        return self.fault == "503 on both"


def _rows() -> list[Row]:
    combinations: dict[Way, dict[Phase, str]] = {
        "registered": {
            "STARTING": "hung; refusing; 403 to changes; hanging look-up; clock behind; clock ahead; lost replication",
            "SERVING": "hung; reset; 401; trickling; restart; eviction; lost replication; 503 on both",
            "PUT": "hung; 500; 503 for a moment; login page; 403 to changes; answered, not done",
            "LAME_DUCK": "hung; refusing; restart; restart of both; eviction; lost replication; 503 on both",
            "DRAINING": "refusing; trickling; restart; eviction",
            "DELETE": "hung; reset; 503; 503 for a moment; login page; 503 on both",
        },
        "adopted": {
            "STARTING": "503; refusing; clock ahead",
            "SERVING": "hung; reset; 401; restart; eviction; lost replication; 503 on both",
            "PUT": "hung; 500; 503 for a moment; login page; answered, not done",
            "LAME_DUCK": "hung; refusing; restart; restart of both; eviction; lost replication",
            "DRAINING": "trickling; restart; eviction",
            "DELETE": "hung; reset; 503 for a moment",
        },
        "status-only": {
            "STARTING": "hung; refusing; 403 to changes; hanging look-up; clock ahead",
            "SERVING": "reset; 401; trickling; restart; lost replication; 503 on both",
            "PUT": "hung; 503 for a moment; login page; answered, not done",
            "LAME_DUCK": "hung; restart of both; eviction; lost replication",
            "DRAINING": "refusing; restart",
        },
    }
    return [
        Row(fault.strip(), phase, way)
        for way, phases in combinations.items()
        for phase, faults in phases.items()
        for fault in faults.split(";")
    ]


ROWS = _rows()


def table() -> str:
    """The rows for the documentation: faults down, phases across, and who meets them."""
    lines = [f"| fault | {' | '.join(PHASES)} |", f"|---{'|---' * len(PHASES)}|"]
    for fault in FAULTS:
        cells = [
            " ".join(row.way[0].upper() for row in ROWS if (row.fault, row.phase) == (fault, phase)) for phase in PHASES
        ]
        lines.append(f"| {fault} | {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines)


# --- one leave ------------------------------------------------------------------------------------------------------


@dataclass
class Leave:
    """What came of a row."""

    exit_code: int
    seconds: float
    answer: tuple[int, str]
    written: str
    up_again: list[tuple[int, ChangeKind, str | None]]
    deletions: Counter[int]
    left: list[str | None]


def leave(row: Row) -> Leave:
    """Run a row to its end."""
    with ExitStack() as stack:
        bench = Bench(row.way, stack)
        begin = partial(FAULTS[row.fault], bench, CHANGED_ONLY.get(row.phase, {}))
        if row.fault != "trickling":
            bench.hosts[0] = bench.first.address.split("/")[2]
        if row.way == "status-only" and not row.fault.startswith("clock"):
            bench.register_for_it()
        if row.phase == "STARTING":
            begin()
        if row.way == "status-only" and row.fault.startswith("clock"):
            bench.register_for_it()  # after the former life that the fault has left there
        arguments = ["-m", "tests.scenarios.eureka_leaving", row.way, str(bench.port)]
        service = stack.enter_context(child(*arguments, env=bench.settings()))
        service.wait_for("ready: serving")
        bench.observer.wait_for("UP")
        if row.phase == "SERVING":
            begin()
            time.sleep(0.4)  # a heartbeat long, so that the service can have met it; nothing depends on it
        return _leave(bench, row.phase, service, begin)


def _leave(bench: Bench, phase: Phase, service: Child, begin: Callable[[], None]) -> Leave:

    answers: list[tuple[int, str]] = []

    def call() -> None:
        status, _, body = get(bench.port, "/slow?seconds=2")
        answers.append((status, body))

    caller = threading.Thread(target=call)
    caller.start()
    service.wait_for("slow began")
    if phase in CHANGED_ONLY:
        begin()
    bench.observer.forget()
    told = time.monotonic()
    service.signal(signal.SIGTERM)
    if phase == "LAME_DUCK":
        bench.observer.wait_for("OUT_OF_SERVICE")
        begin()
    elif phase == "DRAINING":
        service.wait_for("phase draining")
        begin()
    exit_code = service.exit_code()
    seconds = time.monotonic() - told
    caller.join(PATIENCE)
    bench.cluster.replication.wait_until_quiet()
    return Leave(
        exit_code,
        seconds,
        answers[0],
        service.text,
        bench.observer.up_again(),
        bench.observer.deletions(),
        [bench.status_on(node) for node in (0, 1)],
    )
