"""graceful's own registration: its whole life, and that it never comes back."""

import base64
import logging
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graceful.core.registry import Registry, RegistryOutcome, Verdict
from graceful.eureka.instance import Instance
from graceful.eureka.registration import EurekaRegistration
from graceful.eureka.rest import Server, Status
from graceful.eureka.status import REPLICATION_DELAY, now_ms
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.eureka_raw_server import RawServer, answering, hanging, resetting, trickling
from tests.eureka_servers import RunningEureka

pytestmark = pytest.mark.anyio

INSTANCE = Instance(app="orders", ip="10.0.0.7", port=8080)
KEY = (INSTANCE.app, INSTANCE.instance_id)
ITEM = "/ORDERS/|/orders/"
HEARTBEAT = r"/orders/[^/]+$"


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def eureka(embedded_eureka: EmbeddedEureka) -> EmbeddedEureka:
    """A server of the test's own."""
    return embedded_eureka


@pytest.fixture
def other() -> Iterator[EmbeddedEureka]:
    """A second server; the two do not know each other."""
    with EmbeddedEureka() as server:
        yield server


def registration(*urls: str, instance: Instance = INSTANCE, **options: Any) -> EurekaRegistration:
    """One with short times."""
    given_options = {
        "heartbeat_interval": 0.05,
        "try_timeout": 0.5,
        "recheck_interval": 0.1,
        "random": random.Random(7),
        **options,
    }
    return EurekaRegistration(urls, instance, **given_options)


def soon(seconds: float = 5.0) -> float:
    """A deadline."""
    return anyio.current_time() + seconds


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Have these run meanwhile."""
    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(job)
        yield
        tasks.cancel_scope.cancel()


async def status_on(server: EmbeddedEureka) -> Status | None:
    """What a neutral observer reads."""
    return await Server(server.url).read(*KEY)


async def until(server: EmbeddedEureka, status: Status | None) -> None:
    """Wait until a neutral observer reads this."""
    with anyio.fail_after(10):
        while await status_on(server) is not status:  # noqa: ASYNC110 - it happens in another process
            await anyio.sleep(0.01)


async def received(server: EmbeddedEureka, method: str, path: str | None = None, count: int = 1) -> None:
    """Wait until the server has received as many such requests."""
    await anyio.to_thread.run_sync(lambda: server.wait_for_requests(method, path, count=count))


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What an operator sees by default."""
    return [record.message for record in caplog.records if record.levelno >= level and "graceful" in record.name]


# --- the life -------------------------------------------------------------------------------------------------------


async def test_a_whole_life(eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture) -> None:
    """Absent until served, UP, OUT_OF_SERVICE, absent; one DELETE; nothing to warn of."""
    registry: Registry = registration(eureka.url)
    await registry.start()
    assert await status_on(eureka) is None
    announced = [registry.announced]
    async with running(registry.serve):
        await until(eureka, Status.UP)
        announced.append(registry.announced)
        await received(eureka, "PUT", HEARTBEAT, 3)
        begun = anyio.current_time()
        registry.freeze()
        outcome = await registry.withdraw(soon())
        assert outcome.verdict is Verdict.VERIFIED_ALL
        assert outcome.servers[0].detail == "OUT_OF_SERVICE"
        assert outcome.first_verified_at is not None
        assert begun <= outcome.first_verified_at <= anyio.current_time()
        assert await status_on(eureka) is Status.OUT_OF_SERVICE
    async with running(registry.keep_withdrawn):
        await anyio.sleep(0.2)
    deregistered = await registry.deregister(soon())
    assert deregistered is not None
    assert (deregistered.verdict, deregistered.servers[0].detail) == (Verdict.VERIFIED_ALL, "absent")
    assert await status_on(eureka) is None
    assert len(eureka.requests("DELETE")) == 1
    assert announced == [False, True]
    assert messages(caplog) == []


async def test_one_life_after_another_on_any_server(eureka_server_basic: RunningEureka) -> None:
    """A life that ended without deregistering, and the next one under the same instance id."""
    instance = Instance(app="registration-lives", ip="10.0.0.7", port=8080)
    observer = Server(eureka_server_basic.url, try_timeout=5)

    async def read() -> Status | None:
        return await observer.read(instance.app, instance.instance_id)

    for _ in range(2):
        registry = registration(eureka_server_basic.url, instance=instance, try_timeout=5)
        await registry.start()
        assert await read() is None
        async with running(registry.serve):
            with anyio.fail_after(10):
                while await read() is not Status.UP:  # noqa: ASYNC110 - it happens in another process
                    await anyio.sleep(0.01)
            outcome = await registry.withdraw(soon())
        assert outcome.verdict is Verdict.VERIFIED_ALL
        assert await read() is Status.OUT_OF_SERVICE
    outcome = await registry.deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert await read() is None


async def test_a_leave_before_anything_has_begun(eureka: EmbeddedEureka) -> None:
    """Nothing is registered afterwards, and what was never there is verified."""
    registry = registration(eureka.url)
    outcome = await registry.withdraw(soon())
    await registry.serve()
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "absent")
    assert eureka.requests("POST") == []
    assert not registry.announced


async def test_a_passed_deadline_is_a_result(eureka: EmbeddedEureka) -> None:
    """Not an error."""
    outcome = await registration(eureka.url).withdraw(anyio.current_time() - 1)
    assert (outcome.verdict, outcome.first_verified_at) == (Verdict.FAILED, None)


async def test_starting_twice_is_starting_once(eureka: EmbeddedEureka) -> None:
    """Everything was cleared the first time: no server is asked again."""
    registry = registration(eureka.url)
    await registry.start()
    eureka.forget_requests()
    await registry.start()
    assert eureka.requests() == []


def test_no_server_is_a_mistake() -> None:
    """It is refused when it is made."""
    with pytest.raises(ValueError, match="there is no Eureka server"):
        registration()


# --- what a former life left ----------------------------------------------------------------------------------------


async def test_a_stale_override_is_cleared_at_the_start(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """A life that ended OUT_OF_SERVICE without deregistering does not keep the next one out of service."""
    former = Server(eureka.url)
    await former.register(INSTANCE, now_ms())
    await former.set_status(*KEY, Status.OUT_OF_SERVICE, now_ms())
    registry = registration(eureka.url)
    await registry.start()
    assert await status_on(eureka) is None
    async with running(registry.serve):
        await until(eureka, Status.UP)
    assert ["left behind by a former life" in message for message in messages(caplog)] == [True]


async def test_an_override_that_only_shows_when_registered_is_cleared(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """Between expiry and eviction a read says absent, but the override lives: cancel, and register once more."""
    former = Server(eureka.url)
    await former.register(INSTANCE, now_ms())
    await former.set_status(*KEY, Status.OUT_OF_SERVICE, now_ms())
    registry = registration(eureka.url)
    eureka.fail(404, method="GET", count=1)
    await registry.start()
    async with running(registry.serve):
        await until(eureka, Status.UP)
    assert len(eureka.requests("DELETE")) == 1
    assert len(eureka.requests("POST")) == 3  # the former life's one included
    assert ["clearing the override" in message for message in messages(caplog)] == [True]


async def test_what_is_there_may_be_respected(eureka_server: RunningEureka, caplog: pytest.LogCaptureFixture) -> None:
    """OUT_OF_SERVICE before this start stays: nothing is deleted, one warning says how to undo it; then it is UP."""
    caplog.set_level(logging.INFO)
    instance = Instance(app="registration-respect", ip="10.0.0.7", port=8080)
    key = (instance.app, instance.instance_id)
    observer = Server(eureka_server.url, try_timeout=5)
    await observer.register(instance, now_ms())
    await observer.set_status(*key, Status.OUT_OF_SERVICE, now_ms())
    registry = registration(eureka_server.url, instance=instance, clear_former=False)
    await registry.start()
    assert await observer.read(*key) is Status.OUT_OF_SERVICE
    async with running(registry.serve):
        with anyio.fail_after(10):
            while not messages(caplog):  # noqa: ASYNC110 - logging has no event to wait for
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        assert await observer.read(*key) is Status.OUT_OF_SERVICE
        undo = f"to undo it: DELETE {eureka_server.address}/apps/{key[0]}/{key[1]}/status?value=UP"
        assert [undo in message for message in messages(caplog)] == [True]
        await observer.clear_override(*key, now_ms())
        with anyio.fail_after(10):
            while "is UP on" not in caplog.text:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await registry.withdraw(soon())
    await registry.deregister(soon())


async def test_an_operators_override_is_left_alone(eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture) -> None:
    """Once this life has been UP, what is set later was set on purpose; even when it registers again."""
    registry = registration(eureka.url)
    await registry.start()
    async with running(registry.serve):
        await until(eureka, Status.UP)
        await Server(eureka.url).set_status(*KEY, Status.OUT_OF_SERVICE, now_ms())
        eureka.fail(404, method="PUT", path=HEARTBEAT, count=1)
        await received(eureka, "POST", None, 2)
        await received(eureka, "PUT", HEARTBEAT, len(eureka.requests("PUT", HEARTBEAT)) + 3)
        assert await status_on(eureka) is Status.OUT_OF_SERVICE
    assert eureka.requests("DELETE") == []
    assert any("callers are not sent here" in message for message in messages(caplog))


async def test_a_server_that_is_down_at_the_start_is_cleared_before_registering(
    eureka: EmbeddedEureka, other: EmbeddedEureka
) -> None:
    """The start does not wait longer than it may, and what is stale there is gone all the same."""
    await Server(other.url).register(INSTANCE, now_ms())
    other.hang()
    registry = registration(eureka.url, other.url, clear_timeout=0.3, try_timeout=3.0)
    begun = anyio.current_time()
    await registry.start()
    assert anyio.current_time() - begun < 2.5
    other.clear_faults()
    async with running(registry.serve):
        await until(eureka, Status.UP)
    assert await status_on(other) is None


async def test_independent_servers_are_both_cleared(eureka: EmbeddedEureka, other: EmbeddedEureka) -> None:
    """What the deletion on one does not take along is deleted on the other too."""
    for server in (eureka, other):
        await Server(server.url).register(INSTANCE, now_ms())
    await registration(eureka.url, other.url).start()
    for server in (eureka, other):
        assert await status_on(server) is None
        assert len(server.requests("DELETE")) == 1


@pytest.mark.slow
async def test_a_replicated_deletion_does_not_meet_the_new_registration(
    real_eureka_pair: tuple[RunningEureka, RunningEureka], caplog: pytest.LogCaptureFixture
) -> None:
    """Two servers that replicate, a former life on both: the new one is UP on both, and registered once."""

    async def both(servers: list[Server], status: Status | None) -> None:
        with anyio.fail_after(15):
            for server in servers:
                while await server.read(*KEY) is not status:  # noqa: ASYNC110 - it happens in another process
                    await anyio.sleep(0.05)

    urls = [server.url for server in real_eureka_pair]
    servers = [Server(url, try_timeout=5) for url in urls]
    await servers[0].register(INSTANCE, now_ms())
    await both(servers, Status.UP)
    await servers[1].set_status(*KEY, Status.OUT_OF_SERVICE, now_ms())
    await both(servers, Status.OUT_OF_SERVICE)
    registry = registration(*urls, heartbeat_interval=0.2, try_timeout=5)
    await registry.start()
    async with running(registry.serve):
        await both(servers, Status.UP)
        # Longer than a replicated deletion would have taken to arrive.
        await anyio.sleep(1.5)
        await both(servers, Status.UP)
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    async with running(registry.keep_withdrawn):
        await anyio.sleep(1.0)
    await both(servers, Status.OUT_OF_SERVICE)
    assert (await registry.deregister(soon())).verdict is Verdict.VERIFIED_ALL
    await both(servers, None)
    assert [message for message in messages(caplog) if "left behind" not in message] == []


# --- while serving --------------------------------------------------------------------------------------------------


async def test_an_eviction_while_serving_is_mended(eureka: EmbeddedEureka) -> None:
    """A heartbeat's 404 means: register again."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        await Server(eureka.url).deregister(*KEY)
        await until(eureka, Status.UP)


async def test_an_outage_is_reported_once_and_its_end_too(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning each, however long it takes; and the instance is UP again."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        eureka.stop()
        with anyio.fail_after(5):
            while not messages(caplog):  # noqa: ASYNC110 - logging has no event to wait for
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        eureka.start()
        # The server knows that it is UP before its answer is read.
        with anyio.fail_after(5):
            while not any("Eureka answers again" in message for message in messages(caplog)):  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)
        await until(eureka, Status.UP)
    said = messages(caplog)
    assert [message.split(" orders")[0] for message in said if "no Eureka server takes" in message] == [
        "no Eureka server takes"
    ]
    assert len([message for message in said if "Eureka answers again" in message]) == 1


async def test_the_next_server_takes_over(eureka: EmbeddedEureka, other: EmbeddedEureka) -> None:
    """It stays in use; the first is not asked again as long as the second answers."""
    registry = registration(eureka.url, other.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        assert other.requests("POST") == []
        eureka.fail(500)
        await until(other, Status.UP)
        eureka.clear_faults()
        eureka.forget_requests()
        await received(other, "PUT", HEARTBEAT, 3)
        assert eureka.requests() == []


# --- the fence ------------------------------------------------------------------------------------------------------


async def test_nothing_is_announced_after_freeze(eureka: EmbeddedEureka) -> None:
    """No heartbeat and no register, from the call on, and serve ends."""
    registry = registration(eureka.url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve)
        await received(eureka, "PUT", HEARTBEAT, 3)
        registry.freeze()
    eureka.forget_requests()
    await anyio.sleep(0.5)
    assert eureka.requests() == []


async def test_freeze_from_another_thread_ends_serve_at_once(
    eureka: EmbeddedEureka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for the next heartbeat, and may be called again and afterwards."""
    monkeypatch.setattr("graceful.eureka.registration._FIRST_HEARTBEAT", 60)
    registry = registration(eureka.url, heartbeat_interval=60)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(registry.serve)
            await until(eureka, Status.UP)
            threading.Thread(target=registry.freeze).start()
    registry.freeze()


def test_freeze_after_the_loop_has_ended() -> None:
    """A closed loop is no error."""
    registry = registration("http://127.0.0.1:1/eureka")

    async def main() -> None:
        with anyio.move_on_after(0.1):
            await registry.serve()

    anyio.run(main)
    registry.freeze()


async def test_a_register_that_is_not_sent_yet_is_never_sent(
    eureka: EmbeddedEureka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was still looking up the server's name when the leave began."""
    registry = registration(eureka.url, try_timeout=5.0)
    await registry.start()
    real = socket.getaddrinfo
    looking_up, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        looking_up.set()
        go_on.wait(5)
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registry.serve)
        await anyio.to_thread.run_sync(looking_up.wait)
        registry.freeze()
        go_on.set()
    assert eureka.requests("POST") == []
    assert registry.announced


async def test_a_register_in_flight_is_reckoned_with(eureka: EmbeddedEureka) -> None:
    """What is absent now may be UP in a moment: the withdrawal is verified only after the register has ended."""
    eureka.delay(0.3, method="POST")
    registry = registration(eureka.url, try_timeout=2.0)
    async with running(registry.serve):
        await received(eureka, "POST")
        outcome = await registry.withdraw(soon())
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "OUT_OF_SERVICE")
    assert await status_on(eureka) is Status.OUT_OF_SERVICE


async def test_a_register_that_arrives_after_the_leave_is_undone(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """Its thread was abandoned, the server takes it later: whoever keeps withdrawn sees it and withdraws again."""
    registry = registration(eureka.url)
    outcome = await registry.withdraw(soon())
    assert outcome.servers[0].detail == "absent"
    async with running(registry.keep_withdrawn):
        await Server(eureka.url).register(INSTANCE, now_ms())
        await until(eureka, Status.OUT_OF_SERVICE)
    assert any("is UP again" in message for message in messages(caplog))


async def test_an_abandoned_register_is_undone_as_well(eureka: EmbeddedEureka) -> None:
    """Serving was cancelled while the server still worked on the registration, which it finishes later."""
    eureka.delay(0.4, method="POST")
    registry = registration(eureka.url)
    async with running(registry.serve):
        await received(eureka, "POST")
    outcome = await registry.withdraw(soon())
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "absent")
    async with running(registry.keep_withdrawn):
        await until(eureka, Status.OUT_OF_SERVICE)


async def test_an_evicted_registration_stays_absent(eureka: EmbeddedEureka) -> None:
    """An eviction while leaving is an early deregister."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        await registry.withdraw(soon())
    async with running(registry.keep_withdrawn):
        eureka.stop()
        eureka.start()
        eureka.forget_requests()
        await received(eureka, "GET", None, 5)
    assert await status_on(eureka) is None
    assert eureka.requests("POST") == []


# --- servers that misbehave while leaving ---------------------------------------------------------------------------

MISBEHAVING = {
    "hanging": hanging,
    "trickling": trickling,
    "resetting": resetting,
    "login page": answering("302 Found", b"", "Location: https://login.example/"),
    "a page with 200": answering("200 OK", b"<html>log in</html>"),
    "401": answering("401 Unauthorized"),
    "403": answering("403 Forbidden"),
    "500": answering("500 Internal Server Error"),
}


@pytest.mark.parametrize("behave", MISBEHAVING.values(), ids=MISBEHAVING)
async def test_a_bad_server_does_not_delay_a_good_one(
    eureka: EmbeddedEureka, behave: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """The good one is verified at once, the bad one is reported, and the deadline holds."""
    with RawServer(behave) as bad:
        url = f"http://me:sesame@127.0.0.1:{bad.port}/eureka"
        registry = registration(url, eureka.url, clear_timeout=0.1)
        async with running(registry.serve):
            await until(eureka, Status.UP)
            begun = anyio.current_time()
            outcome = await registry.withdraw(begun + 1.2)
            ended = anyio.current_time()
    assert outcome.verdict is Verdict.VERIFIED_SOME
    assert [result.verified for result in outcome.servers] == [False, True]
    assert outcome.servers[0].server == f"http://***@127.0.0.1:{bad.port}/eureka"
    assert outcome.first_verified_at is not None
    assert outcome.first_verified_at - begun < 1.2
    assert ended - begun < 4.0
    assert any("verified on 1 of 2 servers" in message for message in messages(caplog))


async def test_a_refusing_server_does_not_delay_a_good_one(eureka: EmbeddedEureka, other: EmbeddedEureka) -> None:
    """Nor one that is simply down."""
    registry = registration(other.url, eureka.url)
    other.stop()
    async with running(registry.serve):
        await until(eureka, Status.UP)
        outcome = await registry.withdraw(soon(1.0))
    assert [result.detail for result in outcome.servers] == ["connection refused", "OUT_OF_SERVICE"]


async def test_a_short_fault_is_outlasted(eureka: EmbeddedEureka) -> None:
    """503 for a moment, just as the leave begins: the change is retried until it is read back."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        eureka.fail(503, for_seconds=0.5)
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert await status_on(eureka) is Status.OUT_OF_SERVICE
    assert len(eureka.requests("PUT", "/status$")) >= 2


async def test_a_change_that_is_answered_but_not_done_is_not_believed(eureka: EmbeddedEureka) -> None:
    """Only the read-back counts: 200 to the change proves nothing."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        eureka.fail(200, method="PUT", path="/status$")
        outcome = await registry.withdraw(soon(0.5))
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.FAILED, "UP")


async def test_a_refused_change_says_why(eureka: EmbeddedEureka) -> None:
    """Reads work and changes do not, as with CSRF left on."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        eureka.fail(403, method="PUT", path="/status$")
        outcome = await registry.withdraw(soon(0.5))
    assert outcome.servers[0].detail.startswith("UP (the status change: HTTP 403 to changes, though reading works")


async def test_a_straggler_is_withdrawn_later(eureka: EmbeddedEureka, other: EmbeddedEureka) -> None:
    """A server that was away during the leave is withdrawn as soon as it is back."""
    await Server(other.url).register(INSTANCE, now_ms())
    registry = registration(eureka.url, other.url)
    other.fail(503)
    outcome = await registry.withdraw(soon(0.3))
    assert outcome.verdict is Verdict.VERIFIED_SOME
    async with running(registry.keep_withdrawn):
        other.clear_faults()
        await until(other, Status.OUT_OF_SERVICE)


# --- the end --------------------------------------------------------------------------------------------------------


async def test_deregistering_what_is_not_there_is_success(eureka: EmbeddedEureka) -> None:
    """404 is what it wants."""
    outcome = await registration(eureka.url).deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert len(eureka.requests("DELETE")) == 1


async def test_an_unanswered_delete_is_repeated(eureka: EmbeddedEureka) -> None:
    """Until it is confirmed."""
    await Server(eureka.url).register(INSTANCE, now_ms())
    eureka.fail(503, method="DELETE", count=2)
    outcome = await registration(eureka.url).deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert len(eureka.requests("DELETE")) == 3


async def test_a_delete_whose_confirmation_fails_is_not_repeated(eureka: EmbeddedEureka) -> None:
    """It was answered; only the look afterwards is tried again."""
    await Server(eureka.url).register(INSTANCE, now_ms())
    eureka.fail(503, method="GET", count=2)
    outcome = await registration(eureka.url).deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert len(eureka.requests("DELETE")) == 1


async def test_an_instance_that_comes_back_is_deleted_again(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """A DELETE that is answered and not done looks the same as one that was undone."""
    await Server(eureka.url).register(INSTANCE, now_ms())
    eureka.fail(200, method="DELETE", count=1)
    outcome = await registration(eureka.url).deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert len(eureka.requests("DELETE")) == 2
    assert any("there again: deleting it" in message for message in messages(caplog))


async def test_a_register_that_arrives_after_the_confirmation_is_deleted(
    eureka: EmbeddedEureka, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was silent when it was told, and does it when the instance was seen to be absent already."""
    eureka.delay(1.0, method="POST")
    registry = registration(eureka.url)
    async with running(registry.serve):
        await received(eureka, "POST")
    await registry.withdraw(soon())
    outcome = await registry.deregister(soon(2.5))
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert len(eureka.requests("DELETE")) == 2
    assert any("there again: deleting it" in message for message in messages(caplog))
    assert await status_on(eureka) is None


async def test_a_register_in_flight_at_the_end_is_waited_for(eureka: EmbeddedEureka) -> None:
    """What is absent now may be UP in a moment."""
    eureka.delay(0.4, method="POST")
    registry = registration(eureka.url, try_timeout=2.0)
    async with running(registry.serve):
        await received(eureka, "POST")
        outcome = await registry.deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert await status_on(eureka) is None
    assert len(eureka.requests("DELETE")) == 2


async def test_a_quiet_end_costs_no_second_look(eureka: EmbeddedEureka) -> None:
    """Where the last heartbeat was sent long enough ago, one deletion and one look are all."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        await registry.withdraw(soon())
    await anyio.sleep(REPLICATION_DELAY)
    eureka.forget_requests()
    await registry.deregister(soon())
    assert [request.method for request in eureka.requests()] == ["DELETE", "GET"]


async def test_a_server_that_dies_before_the_last_look_stays_verified(eureka: EmbeddedEureka) -> None:
    """No answer is no news."""
    registry = registration(eureka.url)
    async with running(registry.serve):
        await until(eureka, Status.UP)
        await registry.withdraw(soon())
    before = len(eureka.requests("GET"))

    async def die() -> None:
        await received(eureka, "GET", None, before + 1)
        eureka.fail(503)

    async with running(die):
        outcome = await registry.deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL


async def test_a_server_that_is_away_at_the_end_is_reported(eureka: EmbeddedEureka, other: EmbeddedEureka) -> None:
    """And the deadline holds."""
    other.hang()
    begun = anyio.current_time()
    outcome = await registration(eureka.url, other.url).deregister(begun + 1.2)
    assert anyio.current_time() - begun < 3.0
    assert [result.verified for result in outcome.servers] == [True, False]


# --- credentials ----------------------------------------------------------------------------------------------------


async def whole_life(urls: list[str]) -> list[RegistryOutcome]:
    """Everything that can be said about a server, good or bad."""
    registry = registration(*urls, clear_timeout=0.1, try_timeout=0.2)
    await registry.start()
    with anyio.move_on_after(0.15):
        await registry.serve()
    outcomes = [await registry.withdraw(soon(0.1))]
    with anyio.move_on_after(0.1):
        await registry.keep_withdrawn()
    return [*outcomes, await registry.deregister(soon(0.1))]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(middle=st.text(max_size=8), status=st.sampled_from(["200 OK", "302 Found", "401 Unauthorized", "500 No"]))
def test_credentials_appear_nowhere(caplog: pytest.LogCaptureFixture, middle: str, status: str) -> None:
    """Whatever characters they have and whatever goes wrong: not in a log record, not in a result, not in a repr."""
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    password = f"Zq7{middle}Xk9"
    with RawServer(answering(status, b"<html>", "Location: /login")) as bad:
        url = f"http://me:{quote(password, safe='')}@127.0.0.1:{bad.port}/eureka"
        outcomes = anyio.run(whole_life, [url])
        pair = base64.b64encode(f"me:{password}".encode())
        assert b"Authorization: Basic " + pair in bad.requests[0]
    said = [str(vars(record)) + record.getMessage() for record in caplog.records if "graceful" in record.name]
    said += [repr(outcome) + str(outcome) for outcome in outcomes]
    assert len(said) >= 4
    for text in said:
        assert "Zq7" not in text
        assert "Xk9" not in text
        assert pair.decode() not in text


async def test_basic_auth_with_every_special_character() -> None:
    """The server sees the password as it is."""
    with EmbeddedEureka(user="ann@example", password="p@ss$+*=&%2F#-,:/?") as eureka:
        registry = registration(eureka.url)
        async with running(registry.serve):
            await until(eureka, Status.UP)
            outcome = await registry.withdraw(soon())
    assert outcome.servers[0].server == f"http://***@{eureka.address.removeprefix('http://')}"


async def test_servers_of_a_list_are_independent(eureka: EmbeddedEureka) -> None:
    """Many bad ones, one good: still the good one at once."""
    with ExitStack() as stack:
        bad = [stack.enter_context(RawServer(hanging)) for _ in range(4)]
        registry = registration(*(f"http://127.0.0.1:{one.port}" for one in bad), eureka.url)
        begun = anyio.current_time()
        outcome = await registry.withdraw(begun + 1.5)
    assert outcome.first_verified_at is not None
    assert outcome.first_verified_at - begun < 1.2
    assert outcome.verdict is Verdict.VERIFIED_SOME


# --- what the report tells ------------------------------------------------------------------------------------------


async def test_every_operation_is_told_with_its_effort(eureka: EmbeddedEureka) -> None:
    """A former life is cleared, a refused register retried, a heartbeat sent; withdrawn, watched, deleted."""
    await Server(eureka.url).register(INSTANCE, now_ms())
    registry = registration(eureka.url.replace("://", "://me:sesame@"))
    await registry.start()
    eureka.fail(503, method="POST", count=2)
    async with running(registry.serve):
        await received(eureka, "PUT", HEARTBEAT, 2)
        await registry.withdraw(soon())
    async with running(registry.keep_withdrawn):
        eureka.forget_requests()
        await Server(eureka.url).set_status(*KEY, Status.UP, now_ms())
        await received(eureka, "PUT", "/status$", 2)
        eureka.forget_requests()
        await received(eureka, "GET", None, 3)
    await registry.deregister(soon())
    told = {call.operation: call for call in registry.calls}
    assert list(told) == ["clear", "register", "heartbeat", "withdraw", "look again", "withdraw again", "deregister"]
    assert {call.server for call in registry.calls} == {eureka.url.replace("://", "://***@")}
    assert {name: (call.verified, call.detail) for name, call in told.items()} == {
        "clear": (True, "absent"),
        "register": (True, "UP"),
        "heartbeat": (True, "renewed"),
        "withdraw": (True, "OUT_OF_SERVICE"),
        "look again": (True, "OUT_OF_SERVICE"),
        "withdraw again": (True, "OUT_OF_SERVICE"),
        "deregister": (True, "absent"),
    }
    assert told["register"].tries == 3
    assert told["clear"].tries >= 2
    assert told["heartbeat"].tries >= 2
    assert all(0 < call.seconds < 5 for call in registry.calls)


async def test_a_hung_server_is_told_with_the_time_it_took(eureka: EmbeddedEureka) -> None:
    """The good server took one try; the hung one's tries, the last of them cut off, took what the deadline gave."""
    with RawServer(hanging) as raw:
        registry = registration(f"http://127.0.0.1:{raw.port}/eureka", eureka.url, try_timeout=0.3)
        await registry.withdraw(soon(1.0))
    hung, good = registry.calls if "no answer" in registry.calls[0].detail else registry.calls[::-1]
    assert (good.verified, good.tries) == (True, 1)
    assert (hung.verified, hung.detail) == (False, "no answer in 0.3 s")
    assert 2 <= hung.tries <= 4
    assert 0.5 < hung.seconds <= 1.5


async def test_a_try_that_is_cut_off_is_told(eureka: EmbeddedEureka) -> None:
    """The deadline was there before any answer."""
    eureka.hang(method="PUT")
    registry = registration(eureka.url, try_timeout=5)
    await registry.withdraw(soon(0.2))
    assert [(call.detail, call.tries) for call in registry.calls] == [("no answer in time", 1)]
    assert registry.calls[0].seconds >= 0.15
