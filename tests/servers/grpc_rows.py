"""A row of the matrix for a gRPC server: its traffic is its own, what comes of it is told as of any other server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from typing import Literal

from tests.children import child, free_port
from tests.servers.rows import EDGE, PROPAGATION, SLOW, Row, Trigger

__all__ = ["play"]


def play(kind: Literal["threads", "aio"], trigger: Trigger, *, graceful: bool = True) -> Row:
    """Start it, load it, have it leave.

    Returns:
        The row; `late` has gRPC's status names, `ends` those of `slow`, the last messages of `stream` and `ticks`,
        as `new` that of a call in the drain, and as `health` what a watch was told from the trigger on.
    """
    port = free_port()
    env = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": str(PROPAGATION),
        "GRACEFUL_DRAIN_TIMEOUT": "8",
        "GRACEFUL_SCOPE": f"matrix-{os.getpid()}-{port}",
    }
    if not graceful:
        env["GRACEFUL_ENABLED"] = "false"
    row = Row()
    with (
        child("-m", "tests.servers.grpc_app", kind, str(port), env=env) as service,
        child("-m", "tests.servers.grpc_traffic", str(port), str(SLOW)) as traffic,
    ):
        traffic.wait_for("begun")
        if graceful:
            service.wait_for("ready: serving")
        began = time.monotonic()
        if trigger == "hook":
            with child("-P", "-m", "graceful.prestop", env=env) as hook:
                assert hook.exit_code() == 0, hook.text
        service.signal(signal.SIGTERM)
        if graceful:
            service.wait_for("phase draining")
        else:
            time.sleep(PROPAGATION)
        ended = time.monotonic()
        traffic.tell("stop")
        row.exit_code = service.exit_code()
        row.seconds = time.monotonic() - began
        told = json.loads(traffic.wait_for(r"^\{.*\}$")[0])
    row.late = Counter(status for at, status in told["late"] if at < ended - EDGE)
    row.ends = told["ends"] | {"health": " ".join(status for at, status in told["health"] if at >= began)}
    row.cleaned_up = service.in_order("drain", "cleanup begins", "cleanup ends")
    row.text = service.text
    return row
