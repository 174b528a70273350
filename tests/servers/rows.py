"""One row of the matrix: a server is started for real, under traffic, and told to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from tests.children import Child, child, free_port
from tests.servers.traffic import LIMIT, Load, get, stream, websocket

Trigger = Literal["signal", "hook"]

PROPAGATION = 1.5
SLOW = 3.0
"""Seconds of the slow request and of the stream: they begin before the trigger and end in the drain."""
EDGE = 0.25
"""Requests that begin this shortly before the end of the lame duck may see the drain."""


@dataclass(frozen=True)
class Configuration:
    """One way to run one server.

    Attributes:
        name: as the table shows it.
        arguments: for `python`; `{port}` is replaced.
        kinds: what it can do: `slow`, `stream`, `sse`, `websocket`.
        exit_code: what it ends with.
    """

    name: str
    arguments: tuple[str, ...]
    kinds: frozenset[str] = frozenset({"slow", "stream", "sse", "websocket"})
    exit_code: int = 0
    env: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass
class Row:
    """What came of one leave."""

    late: Counter[str] = field(default_factory=Counter)
    ends: dict[str, str] = field(default_factory=dict)
    cleaned_up: bool = False
    exit_code: int | None = None
    seconds: float = 0.0
    text: str = ""


def play(configuration: Configuration, trigger: Trigger, *, graceful: bool = True) -> Row:
    """Start it, load it, have it leave."""
    port = free_port()
    env = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": str(PROPAGATION),
        "GRACEFUL_DRAIN_TIMEOUT": "8",
        "GRACEFUL_SCOPE": f"matrix-{os.getpid()}-{port}",
    } | configuration.env
    if not graceful:
        env["GRACEFUL_ENABLED"] = "false"
    arguments = [argument.format(port=port) for argument in configuration.arguments]
    with child(*arguments, env=env) as service:
        return asyncio.run(_leave(configuration, trigger, service, port, env, graceful=graceful))


async def _leave(
    configuration: Configuration, trigger: Trigger, service: Child, port: int, env: dict[str, str], *, graceful: bool
) -> Row:
    row = Row()
    if graceful:
        await asyncio.to_thread(service.wait_for, "ready: serving")
    await _until_it_answers(port)
    fresh, kept = Load(port), Load(port)
    async with asyncio.TaskGroup() as tasks:
        open_ended = await _begin(tasks, configuration, port, service)
        loads = [tasks.create_task(fresh.fresh()), tasks.create_task(kept.keep_alive())]
        began = time.monotonic()
        await _trigger(trigger, service, env)
        if graceful:
            await asyncio.to_thread(service.wait_for, "phase draining")
        else:
            await asyncio.sleep(PROPAGATION)
        ended = time.monotonic()
        fresh.stop()
        kept.stop()
        await asyncio.wait(loads)
        row.exit_code = await asyncio.to_thread(service.exit_code)
        row.seconds = time.monotonic() - began
        for kind, task in open_ended.items():
            row.ends[kind] = await task
    row.late = fresh.count(ended - EDGE) + kept.count(ended - EDGE)
    row.cleaned_up = service.in_order("drain", "cleanup begins", "cleanup ends")
    row.text = service.text
    return row


async def _until_it_answers(port: int) -> None:
    deadline = time.monotonic() + LIMIT
    while await get(port, "/fast") != "200":
        assert time.monotonic() < deadline, "the server does not answer"
        await asyncio.sleep(0.05)


async def _begin(
    tasks: asyncio.TaskGroup, configuration: Configuration, port: int, service: Child
) -> dict[str, asyncio.Task[str]]:
    """Open what is open when the leave begins, and wait until each has begun."""
    begun = {kind: asyncio.Event() for kind in configuration.kinds - {"slow"}}
    running = {}
    if "slow" in configuration.kinds:
        running["slow"] = tasks.create_task(get(port, f"/slow?seconds={SLOW}"))
    if "stream" in begun:
        running["stream"] = tasks.create_task(stream(port, f"/stream?seconds={SLOW}", begun["stream"]))
    if "sse" in begun:
        running["sse"] = tasks.create_task(stream(port, "/sse", begun["sse"]))
    if "websocket" in begun:
        running["websocket"] = tasks.create_task(websocket(port, begun["websocket"]))
    async with asyncio.timeout(LIMIT):
        for event in begun.values():
            await event.wait()
    await asyncio.sleep(0.2)
    return running


async def _trigger(trigger: Trigger, service: Child, env: dict[str, str]) -> None:
    if trigger == "hook":
        with child("-P", "-m", "graceful.prestop", env=env) as hook:
            await asyncio.to_thread(hook.exit_code)
    service.signal(signal.SIGTERM)
