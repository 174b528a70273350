"""A pod in virtual time: processes with a drain coordinator each, one Eureka between them, and a kernel's name."""

import asyncio
from typing import Any, cast

import anyio

from graceful.calling import AppCaller
from graceful.coordinator import DrainCoordinator
from graceful.core.budget import Plan
from graceful.core.callbacks import RegisteredCallback
from graceful.core.phases import Phase
from graceful.core.registry import RegistryOutcome, ServerResult
from graceful.core.siblings import Sibling
from graceful.readiness import Readiness
from tests.virtual_time import VirtualLoop

PLAN = Plan(announce=5, propagation=10, drain=20, cleanup=5, deregister=3, margin=2)
_CALL = 0.05  # seconds of one call to Eureka


class Eureka:
    """One instance, with Eureka's rules: an override outlives registrations, and goes with the lease."""

    def __init__(self):
        self.lease = False
        self.override = False
        self.deletions = 0
        self.changes = []

    @property
    def status(self):
        if not self.lease:
            return None
        return "OUT_OF_SERVICE" if self.override else "UP"

    def register(self):
        self.lease = True
        self.changes.append("register")

    def put_out_of_service(self):
        if self.lease:
            self.override = True
        self.changes.append("out of service")

    def delete(self):
        self.deletions += self.lease
        self.lease = self.override = False
        self.changes.append("delete")


class Name:
    """An `Ownership` whose kernel is a pod of the test."""

    def __init__(self, process):
        self._process = process
        self._pod = process.pod

    @property
    def held(self):
        return self._pod.owner is self._process

    def take(self):
        assert not self._process.dead
        if self._pod.owner is None:
            self._pod.take(self._process)
        return self.held

    async def own(self):
        while not self.take():
            await self._pod.released.wait()
            if self._pod.youngest_first:
                await anyio.sleep(0.001 / self._process.pid)

    async def until_held(self):
        while not self.held:
            await self._pod.taken.wait()

    def let_go(self):
        if self.held:
            self._pod.release()


class WorkerRegistry:
    """One process' own registry: what it does to the pod's Eureka, and what it must never do."""

    shared_as = "orders/1"
    calls = ()

    def __init__(self, process):
        self._process = process
        self._pod = process.pod
        self._eureka = process.pod.eureka
        self.announced = False
        self.frozen: Any = False
        self.cleared = False

    async def start(self):
        await anyio.sleep(_CALL)
        if self._eureka.lease:
            assert not self._pod.live_beside(self._process), "a live registration was taken for a former life's"
            self._eureka.delete()
        self.cleared = True

    def take_over(self):
        self.cleared = True

    async def serve(self):
        if not self.cleared and not self.frozen:
            await self.start()
        while not self.frozen:
            assert self._pod.owner is self._process, "two processes announce"
            self.announced = True
            await anyio.sleep(_CALL)
            if self.frozen:
                continue
            if not self._eureka.lease or "heartbeats" not in vars(self):
                self.heartbeats = True
                self._eureka.register()
            await anyio.sleep(5)

    def freeze(self):
        self.frozen = True

    async def withdraw(self, deadline):
        await anyio.sleep(_CALL)
        self._eureka.put_out_of_service()
        self._process.withdrew = True
        return self._outcome(self._eureka.status != "UP")

    async def see_withdrawn(self, deadline):
        return await self._see(lambda: self._eureka.status != "UP", deadline)

    async def see_absent(self, deadline):
        return await self._see(lambda: self._eureka.status is None, deadline)

    async def _see(self, holds, deadline):
        while True:
            await anyio.sleep(_CALL)
            if holds() or anyio.current_time() >= deadline:
                return self._outcome(holds())

    async def keep_withdrawn(self):
        while True:
            await anyio.sleep(0.5)
            if self._eureka.status == "UP":
                await anyio.sleep(_CALL)
                self._eureka.put_out_of_service()

    async def until_published(self):
        await anyio.sleep_forever()

    async def deregister(self, deadline):
        await anyio.sleep(_CALL)
        self._eureka.delete()
        return self._outcome(self._eureka.status is None)

    def _outcome(self, verified):
        now = anyio.current_time()
        return RegistryOutcome((ServerResult("http://a/eureka", verified, "as seen"),), now if verified else None)


class ClientRegistry:
    """One process' own client: it registers the instance whether others do or not."""

    shared_as = "orders/1"
    calls = ()

    def __init__(self, process):
        self._one = WorkerRegistry(process)
        self.withdraw, self.keep_withdrawn, self.deregister = (
            self._one.withdraw,
            self._one.keep_withdrawn,
            self._one.deregister,
        )
        self._eureka = process.pod.eureka
        self.announced = False
        self.until_published = self._one.until_published

    async def start(self):
        """What a former life left is no matter of the client's."""

    async def serve(self):
        while not self._one.frozen:
            self.announced = True
            if not self._eureka.lease:
                self._eureka.register()
            await anyio.sleep(5)

    def freeze(self):
        self._one.freeze()


class Process:
    """One worker; also what `graceful.siblings.Siblings` is to it."""

    instance = "orders/1"

    def __init__(self, pod, pid):
        self.pod, self.pid = pod, pid
        self.dead = self.hung = self.withdrew = False
        self.stopped_at = None
        self.exits: list[int] = []
        self.ownership = Name(self)
        caller = AppCaller()
        self.readiness = Readiness(caller)
        self.coordinator = DrainCoordinator(
            lambda: PLAN,
            grace_period=lambda _told: 60.0,
            readiness=self.readiness,
            caller=caller,
            exit_process=lambda status, _report: self.exits.append(status),
            make_registry=lambda: pod.make_registry(self),
            make_siblings=lambda _registry: cast("Any", self),
            stop_server=self._stop_server,
            clock=pod.loop.time,
        )
        self.task = pod.loop.create_task(self._live())

    @property
    def phase(self):
        return self.coordinator.phase

    async def look(self):
        await anyio.sleep(0.005)
        others = [each for each in self.pod.processes if each is not self]
        return [
            Sibling(pid=each.pid, answered=False)
            if each.hung
            else Sibling.described(each.pid, each.coordinator.describe())
            for each in others
        ]

    async def _stop_server(self, within):
        """The server stops in its own order: requests first, then the lifespan's end comes to us."""
        self.pod.loop.call_later(self.pod.server_stop_delay, lambda: self.dead or self.coordinator.server_stops())
        return True

    async def _live(self):
        await self.coordinator.run(self.pod.loop.call_soon)
        await anyio.sleep(0.3)  # the server, and the interpreter's end
        self.pod.gone(self)

    def on_cleanup(self, seconds):
        async def callback():
            await anyio.sleep(seconds)

        self.coordinator.add_cleanup_callback(RegisteredCallback(callback, "callback", None))

    def kill(self):
        """SIGKILL: nothing of it happens any more, and the kernel gives its name back."""
        self.dead = True
        self.task.cancel()
        self.pod.gone(self)


class Pod:
    def __init__(self, make_registry):
        self.make_registry = make_registry
        self.loop = VirtualLoop()
        self.eureka = Eureka()
        self.processes = []
        self.broken = []
        self.owner = None
        self.youngest_first = False
        self.server_stop_delay = 0.2
        self.taken = asyncio.Event()
        self.released = asyncio.Event()
        self._pids = iter(range(1, 1000))

    def spawn(self, *, ready=False):
        process = Process(self, next(self._pids))
        self.processes.append(process)
        process.readiness.by_hand = ready
        return process

    def take(self, process):
        self.owner = process
        self.taken.set()
        self.taken = asyncio.Event()

    def release(self):
        self.owner = None
        self.released.set()
        self.released = asyncio.Event()

    def gone(self, process):
        process.dead = True
        self.broken += [each for each in process.coordinator.life.problems if " failed: " in each]
        if process in self.processes:
            self.processes.remove(process)
        if self.owner is process:
            self.release()

    @property
    def withdrawing(self):
        """Whether a process that took the pod out of service is still about to leave."""
        return any(each.withdrew and not each.coordinator.life.finished for each in self.processes)

    def live_beside(self, process):
        return [
            each
            for each in self.processes
            if each is not process and each.phase is Phase.SERVING and each.coordinator._registry._registry.announced
        ]

    def advance(self, seconds):
        self.loop.advance(seconds)

    def close(self):
        for process in list(self.processes):
            process.kill()
        self.loop.settle()
        self.loop.close()
