"""Status only: somebody else registers the instance, graceful takes it out of service and lets it back in."""

import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import pytest

from graceful.core.registry import Verdict
from graceful.eureka.instance import Instance
from graceful.eureka.rest import EurekaError, Server, Status, View
from graceful.eureka.status import now_ms
from graceful.eureka.status_only import StatusOnly
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.eureka_servers import RunningEureka

pytestmark = pytest.mark.anyio

OVERRIDE = r"/status$"


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


class Sidecar:
    """What registers the instance: it beats on, and registers again as UP when it is not known."""

    def __init__(self, url: str, instance: Instance) -> None:
        self.server = Server(url)
        self.instance = instance
        self.registrations = 0

    async def run(self) -> None:
        await self.register()
        while True:
            await anyio.sleep(0.05)
            await self.beat()

    async def register(self) -> None:
        self.dirty = now_ms()
        self.registrations += 1
        await self.server.register(self.instance, self.dirty)

    async def beat(self) -> None:
        try:
            await self.server.heartbeat(self.instance.app, self.instance.instance_id, self.dirty)
        except EurekaError as error:
            if error.status == 404:
                await self.register()

    async def view(self) -> View | None:
        return await self.server.look(self.instance.app, self.instance.instance_id)

    async def until(self, status: Status | None) -> None:
        """Wait until a neutral observer reads this."""
        with anyio.fail_after(10):
            while (view.status if (view := await self.view()) else None) is not status:  # noqa: ASYNC110 - elsewhere
                await anyio.sleep(0.01)


@pytest.fixture
def sidecar(eureka_server: RunningEureka) -> Sidecar:
    """One with an instance of its own, on the embedded server and on the real one."""
    return Sidecar(eureka_server.url, an_instance())


@pytest.fixture
def embedded_sidecar(embedded_eureka: EmbeddedEureka) -> Sidecar:
    """One on a server that misbehaves on demand."""
    return Sidecar(embedded_eureka.url, an_instance())


def an_instance() -> Instance:
    return Instance(app=f"sidecar-{uuid4().hex[:8]}", ip="10.0.0.7", port=8080)


def status_only(sidecar: Sidecar, *more_urls: str, **options: Any) -> StatusOnly:
    """graceful's side of it, with short times."""
    instance, urls = sidecar.instance, [sidecar.server.name, *more_urls]
    return StatusOnly(
        lambda: [Server(url, try_timeout=1.0) for url in urls],
        instance.app,
        instance.instance_id,
        **{"interval": 0.1, "recheck_interval": 0.1, "random": random.Random(7), **options},
    )


async def until_seen_up(registry: StatusOnly) -> None:
    """Eureka may say so before the registry has heard of it: a leave in between would cut that off."""
    with anyio.fail_after(10):
        while not registry.seen_up:  # noqa: ASYNC110 - elsewhere
            await anyio.sleep(0.01)


def soon(seconds: float = 5.0) -> float:
    return anyio.current_time() + seconds


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(job)
        yield
        tasks.cancel_scope.cancel()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message for record in caplog.records if record.levelno >= logging.WARNING and "graceful" in record.name
    ]


async def leave_behind(sidecar: Sidecar) -> None:
    """A former life's OUT_OF_SERVICE, in force when the sidecar registers."""
    await sidecar.register()
    await sidecar.server.set_status(sidecar.instance.app, sidecar.instance.instance_id, Status.OUT_OF_SERVICE, now_ms())
    view = await sidecar.view()
    assert view == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)


async def test_one_life_after_another(sidecar: Sidecar, caplog: pytest.LogCaptureFixture) -> None:
    """Each leaves the override behind, under heartbeats that go on; the next one clears it once it is ready."""
    async with running(sidecar.run):
        await sidecar.until(Status.UP)
        for life in (1, 2):
            registry = status_only(sidecar)
            await registry.start()
            if life == 2:
                await sidecar.beat()
                assert (await sidecar.view()) == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE), "not before ready"
            async with running(registry.serve):
                await until_seen_up(registry)
                registry.freeze()
                outcome = await registry.withdraw(soon())
            assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "OUT_OF_SERVICE")
            async with running(registry.keep_withdrawn):
                for _ in range(3):
                    await sidecar.beat()
                    assert (await sidecar.view()) == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
            await registry.deregister(soon())
        await sidecar.beat()
        await sidecar.until(Status.OUT_OF_SERVICE)
    assert sidecar.registrations == 1, "never deleted"
    assert ["left OUT_OF_SERVICE" in message for message in warnings(caplog)] == [True]


async def test_an_absent_instance_that_comes_back_is_withdrawn_again(sidecar: Sidecar) -> None:
    """An eviction or a restart of the server takes the override along: the next heartbeat registers as UP."""
    registry = status_only(sidecar)
    outcome = await registry.withdraw(soon())
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "absent")
    async with running(registry.keep_withdrawn, sidecar.run):
        await sidecar.until(Status.OUT_OF_SERVICE)
        for _ in range(5):
            await sidecar.beat()
            await sidecar.until(Status.OUT_OF_SERVICE)


async def test_nothing_is_ever_deleted_or_registered(
    embedded_sidecar: Sidecar, embedded_eureka: EmbeddedEureka
) -> None:
    """In a whole life that has something to clear: GET, PUT status, and one DELETE of the override."""
    await leave_behind(embedded_sidecar)
    embedded_eureka.forget_requests()
    registry = status_only(embedded_sidecar)
    await registry.start()
    async with running(registry.serve):
        await embedded_sidecar.until(Status.UP)
        await registry.withdraw(soon())
    with anyio.move_on_after(0.3):
        await registry.keep_withdrawn()
    await registry.deregister(soon())
    assert len(embedded_eureka.requests("DELETE", OVERRIDE)) == 1
    assert len(embedded_eureka.requests("DELETE")) == 1
    assert embedded_eureka.requests("POST") == []
    assert len(embedded_eureka.requests("PUT")) == len(embedded_eureka.requests("PUT", OVERRIDE))


async def test_an_instance_that_appears_later_is_cleared_then(sidecar: Sidecar) -> None:
    """The sidecar starts after the service, over an override that only shows when it registers."""
    registry = status_only(sidecar)
    async with running(registry.serve):
        await anyio.sleep(0.1)
        await leave_behind(sidecar)
        await sidecar.until(Status.UP)


async def test_an_operators_override_is_left_alone(
    sidecar: Sidecar, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after the first UP is not of a former life; it is said, once, and so is its end."""
    monkeypatch.setattr("graceful.eureka.watch._PATIENCE", 0.2)
    registry = status_only(sidecar)
    await sidecar.register()
    key = (sidecar.instance.app, sidecar.instance.instance_id)
    watch = registry._watch
    async with running(registry.serve):
        with anyio.fail_after(10):
            while watch._not_up_yet:  # noqa: ASYNC110 - it happens in another process
                await anyio.sleep(0.01)
        await sidecar.server.set_status(*key, Status.OUT_OF_SERVICE, now_ms())
        said = f"{key[1]} is OUT_OF_SERVICE on {sidecar.server.name} although the service is ready"
        await until_warned(caplog, said, patience=10)
        assert (await sidecar.view()) == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
        await sidecar.server.clear_override(*key, now_ms())
        await until_warned(caplog, "is UP again", patience=10)
    assert len(warnings(caplog)) == 2


async def until_warned(caplog: pytest.LogCaptureFixture, text: str, *, patience: float) -> None:
    with anyio.fail_after(patience):
        while not any(text in message for message in warnings(caplog)):  # noqa: ASYNC110 - logging has no event
            await anyio.sleep(0.01)


async def test_respect_leaves_it_and_says_how_to_undo_it(sidecar: Sidecar, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, at once; the instance comes back when the operator says so, and that is said too."""
    await leave_behind(sidecar)
    registry = status_only(sidecar, clear_former=False)
    app, instance_id = sidecar.instance.app, sidecar.instance.instance_id
    async with running(registry.serve):
        undo = f"DELETE {sidecar.server.name}/apps/{app}/{instance_id}/status?value=UP"
        await until_warned(caplog, undo, patience=3)
        await anyio.sleep(0.3)
        await sidecar.until(Status.OUT_OF_SERVICE)
        assert len(warnings(caplog)) == 1
        await sidecar.server.clear_override(app, instance_id, now_ms())
        await until_warned(caplog, "is UP again", patience=5)


async def test_an_instance_that_nobody_registers_is_an_alarm(
    embedded_sidecar: Sidecar, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong id, wrong server, a sidecar that is down: one warning, not one a look."""
    monkeypatch.setattr("graceful.eureka.watch._PATIENCE", 0.2)
    async with running(status_only(embedded_sidecar).serve):
        await until_warned(caplog, "is absent on", patience=5)
        await anyio.sleep(0.3)
    assert len(warnings(caplog)) == 1


async def test_a_clearing_that_fails_is_tried_again(embedded_sidecar: Sidecar, embedded_eureka: EmbeddedEureka) -> None:
    """503 for a moment."""
    await leave_behind(embedded_sidecar)
    embedded_eureka.fail(503, method="DELETE", count=2)
    async with running(status_only(embedded_sidecar).serve):
        await embedded_sidecar.until(Status.UP)
    assert len(embedded_eureka.requests("DELETE", OVERRIDE)) == 3


async def test_a_clearing_in_flight_is_reckoned_with(
    embedded_sidecar: Sidecar, embedded_eureka: EmbeddedEureka
) -> None:
    """It makes the instance UP after OUT_OF_SERVICE was set: verified is only what is read after it has ended."""
    await leave_behind(embedded_sidecar)
    embedded_eureka.delay(0.4, method="DELETE")
    registry = status_only(embedded_sidecar)
    async with running(registry.serve):
        await anyio.to_thread.run_sync(lambda: embedded_eureka.wait_for_requests("DELETE", OVERRIDE))
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    await embedded_sidecar.until(Status.OUT_OF_SERVICE)
    assert len(embedded_eureka.requests("PUT", OVERRIDE)) >= 3, "one of the former life, one too early, one after it"


async def test_nothing_is_cleared_after_freeze(embedded_sidecar: Sidecar, embedded_eureka: EmbeddedEureka) -> None:
    """Whatever was about to be."""
    await leave_behind(embedded_sidecar)
    registry = status_only(embedded_sidecar)
    registry.freeze()
    registry.freeze()
    await registry.serve()
    assert embedded_eureka.requests("DELETE") == []
    with pytest.raises(EurekaError, match="not sent"):
        await registry._watch._servers[0].clear_override("app", "id", now_ms())


async def test_every_server_is_cleared(embedded_sidecar: Sidecar, embedded_eureka: EmbeddedEureka) -> None:
    """Also one that was down at first, and one that does not replicate."""
    with EmbeddedEureka() as other:
        await leave_behind(embedded_sidecar)
        second = Sidecar(other.url, embedded_sidecar.instance)
        await leave_behind(second)
        other.fail(503, count=2)
        async with running(status_only(embedded_sidecar, other.url).serve):
            await embedded_sidecar.until(Status.UP)
            await anyio.to_thread.run_sync(lambda: other.wait_for_requests("DELETE", OVERRIDE))
            await second.until(Status.UP)


async def test_the_leave_imports_nothing(embedded_eureka: EmbeddedEureka, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little CPU the import takes seconds: it is done with at the start, though nothing is changed before."""
    registry = StatusOnly(lambda: [Server(embedded_eureka.url)], "orders", "orders:1")
    await registry.start()
    monkeypatch.setattr("graceful.eureka.rest.load_basic", None)
    outcome = await registry.withdraw(anyio.current_time() + 5)
    assert outcome.servers[0].detail == "absent"
    assert embedded_eureka.requests("PUT", OVERRIDE)
