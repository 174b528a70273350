"""Adopting a user's own EurekaClient: it goes on as before, and from the leave on changes nothing any more."""

import asyncio
import logging
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import pytest
from fastapi import FastAPI
from py_eureka_client import eureka_client
from py_eureka_client.eureka_client import EurekaClient
from starlette.testclient import TestClient

import graceful
from graceful.core.registry import Registry, Verdict
from graceful.eureka.adopted import AdoptedRegistration
from graceful.eureka.client import CHANGES
from graceful.eureka.guard import ClientGuard
from graceful.eureka.rest import Server, Status, View
from graceful.eureka.status import now_ms
from graceful.installation import planning
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.children import ROOT, child, free_port, get, until
from tests.eureka_servers import RunningEureka

# What py_eureka_client says of a server that fails; as an error it would end its heartbeat thread.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")


class Heartbeats(threading.Thread):
    """The client's heartbeat thread, with a loop of its own; unlike the real one, it can be ended after a test."""

    def __init__(self, client: EurekaClient) -> None:
        super().__init__(name="HeartbeatThread", daemon=True)
        self.beat = client._EurekaClient__heartbeat
        self.ended = threading.Event()

    def cancel(self) -> None:
        """Does nothing, as the real one once it has fired."""

    def run(self) -> None:
        with asyncio.Runner() as runner:
            while not self.ended.wait(0.1):
                runner.run(self.beat())


class Adopted:
    """A client with an instance of its own, its fence, and a neutral observer."""

    def __init__(self, url: str, **options: Any) -> None:
        self.app = f"adopted-{uuid4().hex[:8]}"
        self.client = EurekaClient(
            eureka_server=url,
            app_name=self.app,
            instance_host="10.0.0.7",
            instance_ip="10.0.0.7",
            instance_port=8080,
            **options,
        )
        self.heartbeats = self.client._EurekaClient__heartbeat_timer = Heartbeats(self.client)
        self.id = f"10.0.0.7:{self.app}:8080"
        self.guard = ClientGuard(self.client)
        self.server = Server(url)
        self.url = url

    def registry(self, **options: Any) -> AdoptedRegistration:
        return AdoptedRegistration(
            self.guard,
            lambda: [Server(self.url)],
            self.app,
            **{"interval": 0.1, "recheck_interval": 0.1, **options},
        )

    async def view(self) -> View | None:
        return await self.server.look(self.app, self.id)

    async def until(self, status: Status | None) -> None:
        with anyio.fail_after(10):
            while (view.status if (view := await self.view()) else None) is not status:  # noqa: ASYNC110 - elsewhere
                await anyio.sleep(0.01)

    async def leave_behind(self) -> None:
        """A former life's OUT_OF_SERVICE."""
        await self.client.register()
        await self.server.set_status(self.app, self.id, Status.OUT_OF_SERVICE, now_ms())
        assert await self.view() == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)

    def end(self) -> None:
        if self.heartbeats.ident is not None:
            self.heartbeats.ended.set()
            self.heartbeats.join(20)


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def adopted(eureka_server: RunningEureka) -> Iterator[Adopted]:
    """On the embedded server and on the real one."""
    made = Adopted(eureka_server.url)
    yield made
    made.end()


@pytest.fixture
def embedded(embedded_eureka: EmbeddedEureka) -> Iterator[Adopted]:
    """On a server that misbehaves on demand."""
    made = Adopted(embedded_eureka.url)
    yield made
    made.end()


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(job)
        yield
        tasks.cancel_scope.cancel()


def soon(seconds: float = 5.0) -> float:
    return anyio.current_time() + seconds


async def two_beats(eureka: EmbeddedEureka) -> None:
    """Wait until the heartbeat thread has gone round twice: its discovery, which goes on, shows it."""
    eureka.forget_requests()
    await anyio.to_thread.run_sync(lambda: eureka.wait_for_requests("GET", "/delta", count=2))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message for record in caplog.records if record.levelno >= logging.WARNING and "graceful" in record.name
    ]


# --- the life -------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("started_first", [True, False])
async def test_a_whole_life(adopted: Adopted, started_first: bool) -> None:
    """Either order; heartbeats until the leave, then none; OUT_OF_SERVICE; the user's stop(); deleted by us."""
    registry: Registry = adopted.registry()
    if started_first:
        await adopted.client.start()
    assert registry.announced is started_first
    await registry.start()
    async with running(registry.serve):
        if not started_first:
            await adopted.client.start()
        await adopted.until(Status.UP)
        assert registry.announced
        registry.freeze()
        outcome = await registry.withdraw(soon())
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "OUT_OF_SERVICE")
    async with running(registry.keep_withdrawn):
        for change in (adopted.client.register, adopted.client.send_heartbeat, adopted.client.delete_status_override):
            await change()
        await adopted.client.status_update("UP")
        await adopted.client.stop()
        assert await adopted.view() == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
    deregistered = await registry.deregister(soon())
    assert deregistered is not None
    assert (deregistered.verdict, deregistered.servers[0].detail) == (Verdict.VERIFIED_ALL, "absent")
    await adopted.client.register()
    assert await adopted.view() is None


@pytest.mark.anyio
async def test_a_stale_override_is_cleared_once_ready(adopted: Adopted, caplog: pytest.LogCaptureFixture) -> None:
    """A restart in place: what the client registers is OUT_OF_SERVICE, until the service is ready."""
    await adopted.client.start()
    await adopted.leave_behind()
    registry = adopted.registry()
    await registry.start()
    assert await adopted.view() == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
    async with running(registry.serve):
        await adopted.until(Status.UP)
        await adopted.client.send_heartbeat()
        await adopted.until(Status.UP)
    assert ["left OUT_OF_SERVICE" in message for message in warnings(caplog)] == [True]


@pytest.mark.anyio
async def test_an_operators_override_is_respected(adopted: Adopted, caplog: pytest.LogCaptureFixture) -> None:
    """It stays, and one warning says how to undo it."""
    await adopted.client.start()
    await adopted.leave_behind()
    registry = adopted.registry(clear_former=False)
    await registry.start()
    async with running(registry.serve):
        with anyio.fail_after(5):
            while not warnings(caplog):  # noqa: ASYNC110 - logging has no event
                await anyio.sleep(0.01)
        await anyio.sleep(0.3)
    assert await adopted.view() == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
    assert ["to undo it: DELETE" in message for message in warnings(caplog)] == [True]


@pytest.mark.anyio
async def test_a_client_that_is_never_started_is_an_alarm(
    embedded: Adopted, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a leave then has nothing to withdraw."""
    monkeypatch.setattr("graceful.eureka.adopted._PATIENCE", 0.1)
    registry = embedded.registry()
    await registry.start()
    async with running(registry.serve):
        with anyio.fail_after(5):
            while not warnings(caplog):  # noqa: ASYNC110 - logging has no event
                await anyio.sleep(0.01)
        registry.freeze()
    assert "its EurekaClient has not been started" in warnings(caplog)[0]
    assert not registry.announced
    await embedded.client.start()
    assert await embedded.view() is None


# --- the fence ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_its_heartbeats_do_not_bring_back_what_the_server_forgot(
    embedded: Adopted, embedded_eureka: EmbeddedEureka
) -> None:
    """After an eviction, in the lame duck, a failed heartbeat would register as UP. Discovery goes on."""
    await embedded.client.start()
    registry = embedded.registry()
    await registry.start()
    await two_beats(embedded_eureka)
    assert embedded_eureka.requests("PUT")
    await registry.withdraw(soon())
    async with running(registry.keep_withdrawn):
        await embedded.server.deregister(embedded.app, embedded.id)
        await two_beats(embedded_eureka)
        assert await embedded.view() is None
    assert embedded_eureka.requests("POST") == []
    assert embedded_eureka.requests("PUT") == []


@pytest.mark.anyio
async def test_its_heartbeats_do_not_undo_a_stop_while_serving(
    embedded: Adopted, embedded_eureka: EmbeddedEureka
) -> None:
    """stop() cannot end the heartbeat thread, whose next beat would register as UP again."""
    await embedded.client.start()
    await embedded.registry().start()
    await two_beats(embedded_eureka)
    await embedded.client.stop()
    assert await embedded.view() is None
    await two_beats(embedded_eureka)
    assert embedded_eureka.requests("POST") == []
    await embedded.client.register()
    await embedded.until(Status.UP)


@pytest.mark.anyio
@pytest.mark.parametrize("change", ["register", "status_update"])
async def test_a_change_in_flight_is_reckoned_with(
    embedded: Adopted, embedded_eureka: EmbeddedEureka, change: str
) -> None:
    """It was sent by another thread's loop just before the leave: verified only after it has ended."""
    method, path = ("POST", "/apps/[^/]*$") if change == "register" else ("PUT", "/status$")
    arguments = ("UP",) if change == "status_update" else ()
    await embedded.client.start()
    await embedded.server.deregister(embedded.app, embedded.id)
    if change == "status_update":
        await embedded.leave_behind()
    registry = embedded.registry()
    await registry.start()
    embedded_eureka.forget_requests()
    embedded_eureka.delay(0.5, method=method, path=path, count=1)
    threading.Thread(target=lambda: asyncio.run(getattr(embedded.client, change)(*arguments))).start()
    await anyio.to_thread.run_sync(lambda: embedded_eureka.wait_for_requests(method, path))
    outcome = await registry.withdraw(soon())
    assert (outcome.verdict, outcome.servers[0].detail) == (Verdict.VERIFIED_ALL, "OUT_OF_SERVICE")
    assert await embedded.view() == View(Status.OUT_OF_SERVICE, Status.OUT_OF_SERVICE)
    await embedded.client.stop()


@pytest.mark.anyio
async def test_a_call_that_hangs_for_ever_is_not_waited_for(embedded: Adopted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's lock is shared by two event loops: who waits there may do so for ever."""
    monkeypatch.setattr("graceful.eureka.guard._LONGEST_CALL", 0.3)
    forever = asyncio.Event()
    monkeypatch.setattr(embedded.client, "register", forever.wait, raising=True)
    registry = embedded.registry()
    await registry.start()
    embedded.client._EurekaClient__instance.update(instanceId=embedded.id, status="UP")
    async with running(embedded.client.register):
        await anyio.sleep(0.01)
        assert not embedded.guard.settled
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL


def test_detaching_gives_the_client_its_methods_back(embedded: Adopted) -> None:
    """Even after a freeze; attaching twice wraps once."""
    before = {name: getattr(embedded.client, name) for name in CHANGES}
    embedded.guard.attach()
    embedded.guard.attach()
    embedded.guard.freeze()
    embedded.guard.detach()
    assert {name: getattr(embedded.client, name) for name in CHANGES} == before
    assert not set(CHANGES) & set(vars(embedded.client))


# --- install() ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client() -> EurekaClient:
    """One that is never started."""
    return EurekaClient(
        eureka_server="http://ann:s3cret@eureka:8761/eureka",
        app_name="orders",
        instance_id="orders-1",
        instance_port=80,
    )


@pytest.fixture
def uninstalled() -> Iterator[None]:
    """Nothing is installed afterwards."""
    yield
    graceful.install().uninstall()


@pytest.mark.usefixtures("uninstalled")
def test_what_the_client_knows_fills_in_the_settings(client: EurekaClient) -> None:
    """In a pytest process nothing is touched until a lifespan begins."""
    before = dict(vars(client))
    coordinator = graceful.install(eureka=client)
    settings = coordinator.settings
    assert (settings.app_name, settings.instance_id, settings.port) == ("orders", "orders-1", 80)
    assert [str(url) for url in settings.eureka_url] == ["http://***@eureka:8761/eureka"]
    assert coordinator.plan.deregister == 3
    assert vars(client) == before
    assert graceful.install(eureka=client) is graceful.install() is coordinator
    with pytest.raises(graceful.InstallError, match="with another EurekaClient"):
        graceful.install(
            eureka=EurekaClient(
                eureka_server="http://ann:s3cret@eureka:8761/eureka",
                app_name="orders",
                instance_id="orders-1",
                instance_port=80,
            )
        )


@pytest.mark.usefixtures("uninstalled")
def test_servers_of_several_zones_are_all_found() -> None:
    """Its own zone's first; the port that the service listens on is the setting's."""
    client = EurekaClient(
        eureka_availability_zones={"a": "http://a1/eureka,http://a2/eureka", "b": "http://b1/eureka"},
        zone="b",
        app_name="orders",
        instance_port=80,
    )
    settings = graceful.install(eureka=client, port=8080).settings
    assert [str(url) for url in settings.eureka_url] == ["http://b1/eureka", "http://a1/eureka", "http://a2/eureka"]
    assert (settings.port, settings.instance_id) == (8080, None)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ({}, "$(POD_IP):orders:80"),
        ({"instance_ip": "10.9.9.9"}, "10.9.9.9:orders:80"),
        ({"instance_host": "orders.example.org"}, None),
    ],
)
def test_the_manifest_foresees_the_id_that_the_client_will_make(address: dict[str, str], expected: str | None) -> None:
    """It is not the one that the hook would make of the same names."""
    with planning() as made:
        graceful.install(
            eureka=EurekaClient(eureka_server="http://e/eureka", app_name="Orders", instance_port=80, **address)
        )
        coordinator = made()
        assert coordinator is not None
        patch = coordinator.snippets.patch
        coordinator.uninstall()
    assert re.findall('GRACEFUL_INSTANCE_ID, value: "(.*)"', patch) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"app_name": "billing"}, "app_name is 'billing', but the EurekaClient has 'orders'"),
        ({"instance_id": "orders-2"}, "instance_id is 'orders-2', but the EurekaClient has 'orders-1'"),
        (
            {"eureka_url": "http://ann:0ther@eureka:8761/eureka"},
            r"eureka_url is http://\*\*\*@eureka:8761/eureka, but the EurekaClient has http://\*\*\*@eureka:8761/eureka:",
        ),
        ({"eureka_status_only": True}, "eureka and eureka_status_only contradict each other"),
        ({"registry": object()}, "registry and eureka were both given"),
    ],
)
def test_what_contradicts_the_client_is_refused(client: EurekaClient, settings: dict[str, Any], said: str) -> None:
    """With both facts, and no password."""
    with pytest.raises(graceful.InstallError, match=said) as error:
        graceful.install(eureka=client, **settings)
    assert "s3cret" not in str(error.value)
    assert "0ther" not in str(error.value)


class Renamed:
    """What a later release might be: the same methods, other private names."""

    should_register = True

    async def register(self) -> None: ...
    async def send_heartbeat(self) -> None: ...
    async def status_update(self, status: str) -> None: ...
    async def delete_status_override(self) -> None: ...
    async def cancel(self) -> None: ...


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (object(), "eureka is of type object .*it has no async register, .*expected an EurekaClient"),
        (EurekaClient, "eureka is the class EurekaClient"),
        (eureka_client, "eureka is the module py_eureka_client.eureka_client"),
        (EurekaClient(should_register=False), "should_register=False, so there is no registration to adopt"),
        (Renamed(), r"the servers of the EurekaClient cannot be found .*pass install\(eureka_url=…\)"),
    ],
)
def test_what_is_no_client_is_refused(given: object, said: str) -> None:
    """What was given, what was expected, what to do."""
    with pytest.raises(graceful.InstallError, match=said):
        graceful.install(eureka=given)


@pytest.mark.usefixtures("uninstalled")
def test_what_cannot_be_found_may_be_given() -> None:
    """Servers, name, port and id as settings."""
    given: dict[str, Any] = {"eureka_url": "http://e/eureka", "app_name": "orders", "port": 80}
    with pytest.raises(graceful.InstallError, match=r"the instance id .* cannot be found .*install\(instance_id=…\)"):
        graceful.install(eureka=Renamed(), **given)
    assert graceful.install(eureka=Renamed(), instance_id="orders-1", **given).settings.instance_id == "orders-1"


def test_a_fork(embedded_eureka: EmbeddedEureka) -> None:
    """The story of eureka_adopted_fork.py."""
    with child("-m", "tests.scenarios.eureka_adopted_fork", embedded_eureka.url) as program:
        assert program.exit_code() == 0, program.text
        assert "all is well" in program.text
    assert len(embedded_eureka.requests("DELETE")) == 1


def test_the_example_leaves_in_order(eureka_server: RunningEureka) -> None:
    """1. UP. 2. SIGTERM: OUT_OF_SERVICE, and it still serves. 3. What is in flight is finished. 4. Absent, exit 0."""
    port = free_port()
    observer, key = Server(eureka_server.url), ("orders", f"127.0.0.1:orders:{port}")
    environ = {
        "EUREKA_SERVER_URL": eureka_server.url,
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "GRACEFUL_PROPAGATION_DELAY": "1.5",
        "GRACEFUL_SCOPE": f"adopted-{port}",
    }
    with child("examples/adopted/service.py", env=environ) as program, ThreadPoolExecutor() as pool:
        until(lambda: anyio.run(observer.read, *key) is Status.UP, "UP")
        program.signal(signal.SIGTERM)
        until(lambda: anyio.run(observer.read, *key) is Status.OUT_OF_SERVICE, "withdrawn")
        slow = pool.submit(get, port, "/slow/7")
        assert get(port, "/orders/1")[2] == "order 1\n"
        assert slow.result()[::2] == (200, "order 7\n")
        assert program.exit_code() == 0, program.text
        assert "orders: client stopped" in program.text
    assert anyio.run(observer.read, *key) is None


def test_the_clients_log_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the line and in the traceback; and as it was before when graceful is uninstalled."""
    from py_eureka_client import eureka_client, http_client, logger

    from graceful.eureka.discretion import keep_credentials_out

    told: list[str] = []
    heard = logging.Logger("heard")  # noqa: LOG001  in no tree: the client's lines are not the tests' log
    handler = logging.Handler()
    handler.emit = lambda record: told.append(handler.format(record))  # type: ignore[method-assign]
    heard.addHandler(handler)
    monkeypatch.setattr(logger, "_custom_logger", heard)

    def say() -> str:
        try:
            http_client.parse_url("http://me:p@ss-sesame@eureka:1/eureka")
        except http_client.URLError:
            eureka_client._logger.warning("server [%s] is down", "http://me:p@ss-sesame@eureka:1/x", exc_info=True)
        return told.pop()

    undo = keep_credentials_out()
    hidden = say()
    undo()
    assert "server [http://***@eureka:1/x] is down" in hidden
    assert "url[http://***@eureka:1/eureka] is not a valid url" in hidden
    assert "sesame" not in hidden
    assert "sesame" in say()


def test_a_lifespan_that_starts_and_stops_the_client(embedded_eureka: EmbeddedEureka) -> None:
    """In a test client: guarded from the lifespan on, taken away before the teardown, whose stop() does no harm."""
    made = Adopted(embedded_eureka.url, should_discover=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await made.client.start()
        yield
        embedded_eureka.forget_requests()
        await made.client.stop()

    app = FastAPI(lifespan=lifespan)
    coordinator = graceful.install(app, eureka=made.client)
    assert not set(CHANGES) & set(vars(made.client))
    try:
        with TestClient(app):
            coordinator.ready()
            until(lambda: coordinator.phase is graceful.Phase.SERVING, "serving")
            assert set(CHANGES) <= set(vars(made.client))
            assert anyio.run(made.view) == View(Status.UP, None)
        assert embedded_eureka.requests() == []
        assert anyio.run(made.view) is None
        assert coordinator.report is not None
        assert coordinator.report.clean
    finally:
        coordinator.uninstall()
        made.end()
    assert not set(CHANGES) & set(vars(made.client))
