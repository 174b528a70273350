"""One row of the matrix: a server is started for real, under traffic, and told to leave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tests.children import Child, child, free_port
from tests.servers.traffic import LIMIT, Load, get, stream, websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.configurations import Configuration

Trigger = Literal["signal", "hook"]

PROPAGATION = 1.5
SLOW = 3.0
"""Seconds of the slow request and of the stream: they begin before the trigger and end in the drain."""
EDGE = 0.25
"""Requests that begin this shortly before the end of the lame duck may see the drain."""
FEWEST = 5
"""Requests that must come in the lame duck, on however busy a machine, for their answers to tell something."""
GRACE_PERIOD = 30.0
ALONE = 12.0
"""Seconds after which a server that would do without graceful counts as one that does not end."""
_SETTLING = 1.5
"""Seconds for the other workers of a server without graceful, which nobody hears of."""
_WELL_WITHIN = 0.3
"""Seconds after the trigger at which something else happens in the lame duck."""


@dataclass
class Row:
    """What came of one leave.

    Attributes:
        late: what came of the requests that began in the lame duck.
        ends: how what was open when the leave began came to its end.
        cleaned_up: whether the cleanup callback ran to its end, after `on_drain`.
        exit_code: of the process that was told to leave; None if it had to be killed.
        seconds: from the trigger to its end.
        text: all that it said.
    """

    late: Counter[str] = field(default_factory=Counter)
    ends: dict[str, str] = field(default_factory=dict)
    cleaned_up: bool = False
    exit_code: int | None = None
    seconds: float = 0.0
    text: str = ""

    @property
    def lost(self) -> int:
        """How many requests of the lame duck got no answer, or another one than 200."""
        return self.late.total() - self.late["200"] - self.late["OK"]  # as gRPC names it

    def faults(self, ends: dict[str, str]) -> list[str]:
        """What is not as it should be."""
        what = {
            f"lost in the lame duck: {dict(self.late)}": self.lost,
            f"no request came in the lame duck: {dict(self.late)}": self.late.total() < FEWEST,
            f"ends {self.ends}, expected {ends}": self.ends != ends,
            "the cleanup did not run to its end": not self.cleaned_up,
            f"exit code {self.exit_code}": self.exit_code != 0,
            f"it took {self.seconds:.1f} s": self.seconds > GRACE_PERIOD,
        }
        return [fault for fault, holds in what.items() if holds]


def play(
    configuration: Configuration,
    trigger: Trigger,
    *,
    graceful: bool = True,
    meanwhile: Callable[[Child], object] = lambda _: None,
) -> Row:
    """Start it, load it, have it leave; without graceful, as the server does it alone.

    Args:
        configuration: the server.
        trigger: what it is told to leave by.
        graceful: whether graceful is active in it.
        meanwhile: is called in the lame duck.
    """
    port = free_port()
    env = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": str(PROPAGATION),
        "GRACEFUL_DRAIN_TIMEOUT": "8",
        "GRACEFUL_GRACE_PERIOD": str(GRACE_PERIOD),
        "GRACEFUL_SCOPE": f"matrix-{os.getpid()}-{port}",
    }
    if not graceful:
        env["GRACEFUL_ENABLED"] = "false"
    arguments = [argument.format(port=port) for argument in configuration.arguments]
    with child(*arguments, env=env) as service, _ended(service):
        scene = _Scene(configuration, trigger, service, port, env, graceful, meanwhile)
        return asyncio.run(_leave(scene))


@contextmanager
def _ended(service: Child) -> Iterator[None]:
    """End what is left of a parent and its workers: they have the pipe that the test reads."""
    try:
        yield
    finally:
        _kill(service.process.pid)


def _kill(pid: int) -> None:
    with suppress(OSError):
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
        for worker in workers:
            _kill(int(worker))


@dataclass(frozen=True)
class _Scene:
    configuration: Configuration
    trigger: Trigger
    service: Child
    port: int
    env: dict[str, str]
    graceful: bool
    meanwhile: Callable[[Child], object]


async def _leave(scene: _Scene) -> Row:
    row, service, port = Row(), scene.service, scene.port
    if scene.graceful:
        await asyncio.to_thread(service.wait_for, "ready: serving", times=scene.configuration.workers)
    await _until_it_answers(port)
    if not scene.graceful:
        await asyncio.sleep(_SETTLING)
    fresh, kept = Load(port), Load(port)
    async with asyncio.TaskGroup() as tasks:
        open_ended = await _begin(tasks, scene.configuration, port)
        loads = [tasks.create_task(fresh.fresh()), tasks.create_task(kept.keep_alive())]
        began = time.monotonic()
        await _trigger(scene)
        if scene.graceful:
            await asyncio.to_thread(service.wait_for, "phase draining")
        else:
            await asyncio.sleep(PROPAGATION)
        ended = time.monotonic()
        fresh.stop()
        kept.stop()
        await asyncio.wait(loads)
        with suppress(subprocess.TimeoutExpired):
            row.exit_code = await asyncio.to_thread(service.process.wait, GRACE_PERIOD + 5 if scene.graceful else ALONE)
        if row.exit_code is None:
            _kill(service.process.pid)
        row.seconds = time.monotonic() - began
        for kind, task in open_ended.items():
            row.ends[kind] = await task
    row.late = fresh.count(ended - EDGE) + kept.count(ended - EDGE)
    await asyncio.to_thread(service.exit_code)  # its last lines
    row.cleaned_up = service.in_order("drain", "cleanup begins", "cleanup ends")
    row.text = service.text
    return row


async def _until_it_answers(port: int) -> None:
    deadline = time.monotonic() + LIMIT
    while await get(port, "/fast") != "200":
        assert time.monotonic() < deadline, "the server does not answer"
        await asyncio.sleep(0.05)


async def _begin(tasks: asyncio.TaskGroup, configuration: Configuration, port: int) -> dict[str, asyncio.Task[str]]:
    """Open what is open when the leave begins, and wait until each has begun."""
    begun = {kind: asyncio.Event() for kind in configuration.ends.keys() - {"slow"}}
    running = {}
    if "slow" in configuration.ends:
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


async def _trigger(scene: _Scene) -> None:
    async def meanwhile() -> None:
        await asyncio.sleep(_WELL_WITHIN)
        await asyncio.to_thread(scene.meanwhile, scene.service)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(meanwhile())
        if scene.trigger == "hook":
            with child("-P", "-m", "graceful.prestop", env=scene.env) as hook:
                await asyncio.to_thread(hook.exit_code)
        scene.service.signal(signal.SIGTERM)
