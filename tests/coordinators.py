"""A drain coordinator in virtual time, with a registry that answers as it is told."""

import asyncio
from typing import TYPE_CHECKING

import anyio

from graceful.calling import AppCaller
from graceful.coordinator import DrainCoordinator
from graceful.core.budget import Plan
from graceful.core.callbacks import RegisteredCallback
from graceful.core.phases import Phase
from graceful.core.registry import RegistryOutcome, ServerResult
from graceful.readiness import Readiness
from tests.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from graceful.core.report import DrainReport

PLAN = Plan(announce=5, propagation=95, drain=20, cleanup=5, deregister=3, margin=2)


class FakeRegistry:
    """Records the order of calls.

    `withdraw_after` seconds until OUT_OF_SERVICE is verified, and `publish_after` seconds until every server shows it,
    from when it is asked; None for never.
    """

    def __init__(self, order, *, withdraw_after=0.5, publish_after=None, fails=()):
        self.order = order
        self.calls = ()
        self.announced = False
        self.frozen = False
        self.watching = False
        self.withdraw_after = withdraw_after
        self.publish_after = publish_after
        self.observing = False
        self.fails = fails

    def _note(self, name):
        self.order.append(name)
        if name in self.fails:
            raise RuntimeError(f"{name} is broken")

    async def start(self):
        self._note("start")

    async def serve(self):
        assert not self.frozen
        self.announced = True
        self._note("serve")
        await anyio.sleep_forever()

    def freeze(self):
        self.frozen = True

    async def withdraw(self, deadline):
        self._note("withdraw")
        if self.withdraw_after is None:
            await anyio.sleep_until(deadline)
            return RegistryOutcome((ServerResult("http://a/eureka", False, "HTTP 503"),))
        await anyio.sleep(self.withdraw_after)
        return RegistryOutcome((ServerResult("http://a/eureka", True, "OUT_OF_SERVICE"),), anyio.current_time())

    async def keep_withdrawn(self):
        self._note("keep_withdrawn")
        self.watching = True
        try:
            await anyio.sleep_forever()
        finally:
            self.watching = False

    async def until_published(self):
        self._note("until_published")
        self.observing = True
        try:
            await (anyio.sleep_forever() if self.publish_after is None else anyio.sleep(self.publish_after))
        finally:
            self.observing = False
        return anyio.current_time()

    async def deregister(self, deadline):
        self._note("deregister")
        await anyio.sleep(0.1)
        return RegistryOutcome((ServerResult("http://a/eureka", True, "absent"),), anyio.current_time())


class Rig:
    """A coordinator, its loop and everything that it did."""

    def __init__(
        self,
        *,
        plan=PLAN,
        grace_period=130.0,
        registry=True,
        withdraw_after=0.5,
        publish_after=None,
        fails=(),
        early_end=None,
    ):
        self.loop = VirtualLoop()
        self.calls: list[str] = []
        self.wake_ups = 0
        self.exits: list[tuple[int, DrainReport, float]] = []
        self.registry = FakeRegistry(
            self.calls, withdraw_after=withdraw_after, publish_after=publish_after, fails=fails
        )
        caller = AppCaller()
        self.readiness = Readiness(caller)
        self.coordinator = DrainCoordinator(
            lambda: plan,
            grace_period=lambda told: min(grace_period, told or grace_period),
            readiness=self.readiness,
            caller=caller,
            make_registry=(lambda: self.registry) if registry else None,
            early_end=early_end,
            exit_process=lambda status, report: self.exits.append((status, report, self.now)),
            clock=self.loop.time,
        )
        self.tasks = [
            self.loop.create_task(self.coordinator.run(self._call_soon)),
            self.loop.create_task(self._keep_deadline()),
        ]

    def _call_soon(self, function):
        self.wake_ups += 1
        self.loop.call_soon(function)

    async def _keep_deadline(self):
        while not self.exits:  # noqa: ASYNC110  what a thread does in earnest
            await asyncio.sleep(self.coordinator.enforce_deadline())

    @property
    def now(self):
        return self.loop.time()

    @property
    def phase(self):
        return self.coordinator.phase

    def serving(self):
        """Let the service become ready."""
        self.readiness.by_hand = True
        self.loop.advance(1)
        assert self.phase is Phase.SERVING
        return self

    def until(self, phase, limit=1000.0):
        """Advance until a phase; gives the instant at which it was entered."""

        async def reached():
            deadline = self.now + limit
            while self.coordinator.life.lifecycle.entered(phase) is None:
                assert self.now < deadline, f"{phase} was not reached, it is {self.phase}"
                await asyncio.sleep(0.05)

        self.loop.run_until_complete(reached())
        return self.coordinator.life.lifecycle.entered(phase)

    def on_drain(self, name, **how):
        self.coordinator.add_drain_callback(self._callback(name, **how))

    def on_cleanup(self, name, **how):
        self.coordinator.add_cleanup_callback(self._callback(name, **how))

    def _callback(self, name, *, seconds=0.0, error=None, timeout=None):
        async def callback():
            self.calls.append(name)
            await anyio.sleep(seconds)
            if error is not None:
                raise error
            self.calls.append(f"{name} done")

        return RegisteredCallback(callback, name, timeout)

    def close(self):
        for task in self.tasks:
            task.cancel()
        self.loop.settle()
        self.loop.close()
