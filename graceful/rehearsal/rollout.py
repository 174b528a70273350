"""One rollout under load: every replica is replaced in turn while the callers go on calling."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful.core.budget import Plan
from graceful.rehearsal.callers import SPRING_DEFAULTS, Cadence, Callers
from graceful.rehearsal.cluster import Eureka, Machine, Pod, Service
from graceful.rehearsal.kubelet import Departure, stop_pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from graceful.rehearsal.exchange import Address

__all__ = ["EXAMPLE", "GRACEFUL", "WAYS", "Conditions", "Rollout", "Way", "under_load"]

EXAMPLE: Final = Path(__file__).parent.parent.parent / "examples" / "orders"
_POLL_INTERVAL: Final = 0.05
# The callers get into their stride before the first pod is told to leave.
_WARM_UP: Final = 1.0
# Waited on top of the scaled caches by whoever knows them (graceful, and the recipe sized right): a busy machine's
# timers are late by so much, and that does not shrink with the factor.
_SLACK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a rollout is rehearsed under.

    Attributes:
        factor: what a second of a cache takes here. Only what depends on the callers' caches is scaled (their three
            intervals, the sleeps meant to outlast them, graceful's propagation delay): starting a process, serving a
            request or writing to Eureka takes as long here as anywhere.
        rate: requests a second.
        replicas: how many pods are replaced.
        callers: how many client processes' worth of caches there are.
        fault: for how many seconds Eureka answers 503 from the moment on at which a pod is told to leave; 0 for none.
    """

    factor: float = 1 / 25
    rate: float = 300.0
    replicas: int = 3
    callers: int = 16
    fault: float = 0.0

    @property
    def cadence(self) -> Cadence:
        """How old what the callers believe can be, here."""
        return SPRING_DEFAULTS.scaled(self.factor)

    @property
    def propagation_delay(self) -> float:
        """Until the last caller has heard, and a little more for this machine's own delays."""
        return self.cadence.bound + _SLACK

    @property
    def grace_period(self) -> float:
        """The pods' grace period, the same for every way to leave: what graceful's plan needs for these caches."""
        return float(Plan(propagation=self.propagation_delay).grace_period)

    @property
    def pod_env(self) -> dict[str, str]:
        """The times that a pod is told: how long news is under way here, and everything else as it is by default."""
        return {
            "GRACEFUL_PROPAGATION_DELAY": f"{self.propagation_delay:.3f}",
            "GRACEFUL_GRACE_PERIOD": f"{self.grace_period:.0f}",
        }


@dataclass(frozen=True, slots=True)
class Way:
    """One way to leave.

    Attributes:
        name: as the table has it.
        app: what uvicorn runs, of `examples/orders`.
        hook: the preStop command under some conditions, or None.
    """

    name: str
    app: str
    hook: Callable[[Conditions], list[str] | None]


def _no_hook(_conditions: Conditions) -> None:
    return None


def _put_and_sleep(seconds: float) -> list[str]:
    return [sys.executable, "-P", "-m", "graceful.rehearsal.recipe", str(seconds)]


def _recipe(conditions: Conditions) -> list[str]:
    """PUT OUT_OF_SERVICE and `sleep 30`, as everybody copies it."""
    return _put_and_sleep(30.0 * conditions.factor)


def _recipe_sized(conditions: Conditions) -> list[str]:
    """The same, with a sleep that outlasts the callers' caches."""
    return _put_and_sleep(conditions.propagation_delay)


def _prestop(_conditions: Conditions) -> list[str]:
    return [sys.executable, "-P", "-m", "graceful.prestop"]


GRACEFUL: Final = "graceful"
WAYS: Final = (
    Way("nothing", "plain:app", _no_hook),
    Way("recipe", "plain:app", _recipe),
    Way("recipe-sized", "plain:app", _recipe_sized),
    Way(GRACEFUL, "main:app", _prestop),
)


@dataclass(slots=True)
class Rollout:
    """A service that is being called, and whose pods can be replaced. Made by `under_load`.

    Attributes:
        conditions: what it is rehearsed under.
        callers: who calls, and what became of the requests.
        departures: how each pod left, in order.
        gone: where the pods listened that have left.
    """

    conditions: Conditions
    callers: Callers
    hook: list[str] | None
    eureka: Eureka
    service: Service
    pods: list[Pod]
    departures: list[Departure] = field(default_factory=list)
    gone: list[Address] = field(default_factory=list)

    async def replace_in_turn(self, report: Callable[[Departure], None]) -> None:
        """Replace one pod after the other, each as soon as its replacement is ready; report each as it has left.

        The next replacement starts while a pod is leaving, as a Deployment's would (maxSurge 1, maxUnavailable 0). The
        next pod is told only when the one before is gone, so that one pod's fault does not disturb another's leave.
        """
        old, self.pods = self.pods, [await self.service.start_pod()]
        for pod in old:
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(self._leave(pod))
                if len(self.pods) < len(old):
                    group.create_task(self._start_another())
            report(leaving.result())

    async def replace_together(self) -> None:
        """Replace all pods at once: when all replacements are ready, all the old ones are told."""
        old, self.pods = self.pods, await start_pods(self.service, len(self.pods))
        async with asyncio.TaskGroup() as group:
            for pod in old:
                group.create_task(self._leave(pod))

    async def settle(self) -> int:
        """Wait until no caller believes in a pod that is gone, but no longer than such news can be under way.

        Returns:
            How many ghosts are left: pods that were gone and that some caller believes in all the same.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.conditions.propagation_delay):
                while self.callers.knows(self.gone):  # noqa: ASYNC110  looked up in many lists, which tell nobody
                    await asyncio.sleep(_POLL_INTERVAL)
        return len(self.callers.knows(self.gone))

    async def _start_another(self) -> None:
        await asyncio.sleep(self.conditions.fault)
        self.pods.append(await self.service.start_pod())

    async def _leave(self, pod: Pod) -> Departure:
        if self.conditions.fault:
            await self.eureka.fail_for(self.conditions.fault)
        grace = self.conditions.grace_period
        departure = await stop_pod(pod.process, hook=self.hook, env=pod.env, grace=grace, log=pod.log)
        self.gone.append(pod.address)
        self.departures.append(departure)
        return departure


@contextlib.asynccontextmanager
async def under_load(way: Way, conditions: Conditions, logs: Path) -> AsyncIterator[Rollout]:
    """Start Eureka, the pods and the callers; end them all. After the block every request is accounted for.

    Args:
        way: how the pods leave.
        conditions: what it is rehearsed under.
        logs: a directory for the processes' output.

    Raises:
        RehearsalError: something did not start (inside an ExceptionGroup where several things start at once).
    """
    async with Machine(logs) as machine:
        cadence = conditions.cadence
        eureka = await Eureka.start(machine, cache_interval=cadence.server_cache)
        service = Service(machine, eureka, app=way.app, directory=EXAMPLE, env=conditions.pod_env)
        pods = await start_pods(service, conditions.replicas)
        await eureka.wait_until_listed(service.app_name, pods)
        crowd = Callers(eureka.url, service.app_name, cadence, count=conditions.callers, rate=conditions.rate)
        async with crowd as callers:
            await asyncio.sleep(_WARM_UP)
            yield Rollout(conditions, callers, way.hook(conditions), eureka, service, pods)


async def start_pods(service: Service, count: int) -> list[Pod]:
    """Start several pods at the same time."""
    async with asyncio.TaskGroup() as group:
        starts = [group.create_task(service.start_pod()) for _ in range(count)]
    return [start.result() for start in starts]
