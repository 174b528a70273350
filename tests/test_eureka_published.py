"""What is seen of the servers' response cache: never believed too early, whatever goes wrong."""

from __future__ import annotations

import gzip
import logging
import os
import random
import socket
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.eureka import published
from graceful.eureka.instance import Instance
from graceful.eureka.proxy import Proxies
from graceful.eureka.published import CachedView
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.eureka.shown import peers_of, shown_by
from graceful.eureka.status import StatusManager, now_ms
from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from tests.eureka_raw_server import RawServer, answering
from tests.eureka_servers import start_real_eureka, why_no_real_eureka

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from graceful.core.registry import RegistryOutcome
    from tests.eureka_servers import EurekaPair, RunningEureka

INTERVAL = 2.0
APP = "published"
KEY = (APP, "one")
VIEW = r"/apps/published$"

UP, OUT = Status.UP, Status.OUT_OF_SERVICE


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def eureka() -> Iterator[EmbeddedEureka]:
    """A server whose views are made anew every two seconds of the wall clock."""
    with EmbeddedEureka(cache_interval=INTERVAL) as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer for a look than a server in production."""
    monkeypatch.setattr(published, "_FIRST_LOOK", 4.0)


# --- one view, in theory ----------------------------------------------------------------------------------------------


def looked(view: CachedView, *looks: tuple[Status | None, float]) -> CachedView:
    """The same after these looks, each answered a tenth of a second after it was sent."""
    for shown, sent in looks:
        view.looked(shown, sent=sent, answered=sent + 0.1)
    return view


def verified(at: float = 100.0) -> CachedView:
    """A view of the default interval, of an instance that is out of service since then."""
    view = CachedView(30.0)
    view.withdrawn(at)
    return view


def test_a_change_that_shows_and_stays_is_published() -> None:
    """From when the pass that brought it must be over; not before a look has confirmed it then."""
    view = looked(verified(), (UP, 101), (UP, 102.5), (OUT, 118), (OUT, 119.5))
    assert view.published_at is None
    assert looked(view, (OUT, 120.2)).published_at == pytest.approx(120.1)
    assert looked(view, (OUT, 125)).published_at == pytest.approx(120.1)
    assert view.watched


@pytest.mark.parametrize(
    ("looks", "problem"),
    [
        ([(OUT, 100.1)], "it showed the change at once"),
        ([(UP, 101.9), (OUT, 103)], "it showed the change at once"),
        ([(UP, 103), (None, 110)], "shows the instance as absent"),
        ([(UP, 103), (Status.UNKNOWN, 110)], "shows the instance as UNKNOWN"),
        ([(UP, 103), (OUT, 110), (UP, 111)], "shows the instance UP again"),
        ([(UP, 103), (OUT, 110), (OUT, 113), (UP, 114)], "shows the instance UP again"),
        ([(UP, 103), (UP, 134.1)], "its view still shows the instance UP after 34 s"),
    ],
)
def test_what_cannot_be_told_is_given_up(looks: list[tuple[Status | None, float]], problem: str) -> None:
    """And for good: nothing that shows later is believed."""
    view = looked(verified(), *looks)
    assert problem in str(view.problem)
    assert not view.watched
    looked(view, (UP, 140), (OUT, 150), (OUT, 160))
    assert view.published_at is None


def test_nothing_counts_before_the_change_is_verified() -> None:
    """What shows until then may be another change."""
    view = looked(CachedView(30.0), (UP, 95), (OUT, 98), (OUT, 101))
    view.withdrawn(101.0)
    assert (view.published_at, view.problem) == (None, None)


@given(
    first_tick=st.floats(0, 30),
    offsets=st.lists(st.floats(0, 2), min_size=2, max_size=6),
    changed=st.floats(0, 40),
    verification=st.floats(0, 5),
    pauses=st.lists(st.tuples(st.floats(0.05, 3), st.floats(0, 0.5), st.floats(0, 0.5)), min_size=60, max_size=90),
    asked_before=st.booleans(),
)
def test_no_view_shows_the_old_state_once_it_is_published(
    first_tick: float,
    offsets: list[float],
    changed: float,
    verification: float,
    pauses: list[tuple[float, float, float]],
    *,
    asked_before: bool,
) -> None:
    """A timer makes views one by one, in passes of up to two seconds; the change comes at any moment, in one as well.

    The first view is ours. Where it was not asked for before the change, it shows that from the first look on.
    """
    shows_from = [next(t for n in range(9) if (t := first_tick + 30 * n + offset) >= changed) for offset in offsets]
    if not asked_before:
        shows_from[0] = changed
    view = CachedView(30.0)
    now = changed + verification
    view.withdrawn(now)
    for pause, out, back in pauses:
        now += pause
        served = now + out
        view.looked(OUT if served >= shows_from[0] else UP, sent=now, answered=served + back)
        now = served + back
    assert view.published_at is None or view.published_at >= max(shows_from)


# --- servers ----------------------------------------------------------------------------------------------------------


def manager(*urls: str, interval: float | None = INTERVAL, **more: Any) -> StatusManager:
    """One that watches, with short times."""
    servers = [Server(url, try_timeout=5.0, **more) for url in urls]
    return StatusManager(servers, *KEY, recheck_interval=0.1, cache_interval=interval, random=random.Random(7))


async def register(*servers: EmbeddedEureka) -> None:
    """Have the instance UP there; the server's time begins right after a tick, which gives every test the same time."""
    interval = servers[0].cache_interval
    await anyio.sleep(interval - time.time() % interval + 0.05)
    for server in servers:
        await Server(server.url).register(Instance(app=APP, ip="10.0.0.7", port=8080, instance_id=KEY[1]), now_ms())


async def withdrawn(status: StatusManager, within: float = 10.0) -> RegistryOutcome:
    """Have it withdrawn."""
    return await status.withdraw(anyio.current_time() + within)


@asynccontextmanager
async def watching(status: StatusManager) -> AsyncIterator[list[float]]:
    """Watch the servers, and keep the instance withdrawn; gives the instant at which it was published, once it is."""
    seen: list[float] = []

    async def watch() -> None:
        seen.append(await status.until_published())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        tasks.start_soon(status.keep_withdrawn)
        yield seen
        tasks.cancel_scope.cancel()


async def until(holds: Any, within: float = 10.0) -> None:
    """Wait until something holds."""
    with anyio.fail_after(within):
        while not holds():  # noqa: ASYNC110  it happens elsewhere
            await anyio.sleep(0.01)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why servers are not watched."""
    return [record.message for record in caplog.records if "is not shortened" in record.message]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log with its INFO lines."""
    caplog.set_level(logging.INFO, "graceful.eureka")
    return caplog


def fetch(server: str, view: str, headers: dict[str, str]) -> str:
    """A view as a caller fetches it."""
    request = urllib.request.Request(f"{server}/{view}", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
        body = answer.read()
        return (gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body).decode()


async def is_old(server: str, view: str, **headers: str) -> bool:
    """Whether a view does not show the withdrawal."""
    return OUT not in await anyio.to_thread.run_sync(fetch, server, view, headers)


JSON, XML = {"Accept": "application/json"}, {"Accept": "application/xml"}
VIEWS: list[tuple[str, dict[str, str]]] = [
    *((view, accept) for view in ("apps", "apps/delta", f"apps/{APP}", f"vips/{APP}") for accept in (JSON, XML)),
    ("apps", JSON | {"Accept-Encoding": "gzip"}),
    ("apps/delta", JSON | {"Accept-Encoding": "gzip"}),
]


@pytest.mark.anyio
async def test_the_change_is_seen_when_it_shows(eureka: EmbeddedEureka, told: pytest.LogCaptureFixture) -> None:
    """At the tick, and no view that callers fetch shows the old state then; no earlier look was believed."""
    await register(eureka)
    assert all([await is_old(eureka.url, view, **headers) for view, headers in VIEWS])
    status = manager(eureka.url)
    outcome = await withdrawn(status)
    tick = anyio.current_time() + INTERVAL - time.time() % INTERVAL
    async with watching(status) as seen:
        await until(lambda: seen)
    assert outcome.first_verified_at is not None
    assert tick <= seen[0] <= tick + 3.0
    assert not any([await is_old(eureka.url, view, **headers) for view, headers in VIEWS])
    assert reasons(told) == []
    puts = eureka.requests("PUT")
    assert len(puts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("fault", ["fail", "redirect", "reset", "hang", "delay"])
async def test_a_server_whose_first_look_fails_is_not_watched(
    eureka: EmbeddedEureka, told: pytest.LogCaptureFixture, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its status change all the same, right away, and counts with its whole interval."""
    await register(eureka)
    monkeypatch.setattr(published, "_FIRST_LOOK", 0.3)
    how = {"seconds": 3.0} if fault == "delay" else {}
    getattr(eureka, fault)(method="GET", path=VIEW, count=1, **how)
    status = manager(eureka.url)
    begun = anyio.current_time()
    outcome = await withdrawn(status, 10.0)
    assert outcome.first_verified_at is not None
    assert outcome.first_verified_at - begun < 2.5
    assert len(reasons(told)) == 1
    assert "the look before the change" in reasons(told)[0]
    async with watching(status) as seen:
        await anyio.sleep(0.4)
    assert seen == []
    # There is nothing to be seen any more, so it is not looked at either.
    assert len(eureka.requests("GET", VIEW)) == 1


@pytest.mark.anyio
async def test_a_view_that_nobody_could_see_before_is_not_relied_on(
    eureka: EmbeddedEureka, told: pytest.LogCaptureFixture
) -> None:
    """That there is no such application is cached too, and stands there in the place of UP."""
    with pytest.raises(urllib.error.HTTPError, match="404") as refusal:
        await is_old(eureka.url, f"apps/{APP}", **JSON)
    refusal.value.close()
    await Server(eureka.url).register(Instance(app=APP, ip="10.0.0.7", port=8080, instance_id=KEY[1]), now_ms())
    await withdrawn(manager(eureka.url))
    assert "its view showed the instance as absent before the change" in reasons(told)[0]


@pytest.mark.anyio
async def test_the_slowest_server_counts(told: pytest.LogCaptureFixture) -> None:
    """Two servers with different ticks: the change is published when both show it."""
    with EmbeddedEureka(cache_interval=1.0) as quick, EmbeddedEureka(cache_interval=4.0) as slow:
        await register(slow, quick)
        status = manager(quick.url, slow.url, interval=4.0)
        await withdrawn(status)
        tick = anyio.current_time() + 4.0 - time.time() % 4.0
        async with watching(status) as seen:
            await until(lambda: any("shows the change" in record.message for record in told.records))
            assert anyio.current_time() < tick
            assert not await is_old(quick.url, "apps", **JSON)
            await until(lambda: seen)
    assert seen[0] >= tick


@pytest.mark.anyio
async def test_a_straggler_counts_from_its_own_change(eureka: EmbeddedEureka) -> None:
    """It took no change at first, is told later, looked at before that, and published last."""
    with EmbeddedEureka(cache_interval=INTERVAL) as late:
        await register(eureka, late)
        late.fail(method="PUT")
        status = manager(eureka.url, late.url)
        outcome = await withdrawn(status, 1.5)
        assert [result.verified for result in outcome.servers] == [True, False]
        async with watching(status) as seen:
            await anyio.sleep(INTERVAL - time.time() % INTERVAL + 0.4)
            assert seen == []
            late.clear_faults()
            await until(lambda: late.requests("PUT"))
            tick = anyio.current_time() + INTERVAL - time.time() % INTERVAL
            await until(lambda: seen)
    assert seen[0] >= tick


@pytest.mark.anyio
async def test_a_server_that_was_restarted_is_not_relied_on(
    eureka: EmbeddedEureka, told: pytest.LogCaptureFixture
) -> None:
    """Its views are made anew one by one, whenever they are asked for."""
    await register(eureka)
    status = manager(eureka.url)
    await withdrawn(status)
    async with watching(status) as seen:
        await until(lambda: len(eureka.requests("GET", VIEW)) >= 3)
        await anyio.to_thread.run_sync(eureka.stop)
        await until(lambda: reasons(told))
        await anyio.to_thread.run_sync(eureka.start)
        await anyio.sleep(INTERVAL)
    assert seen == []
    assert "a look failed" in reasons(told)[0]


@pytest.mark.anyio
async def test_every_server_of_a_cluster_has_to_be_configured(told: pytest.LogCaptureFixture) -> None:
    """Callers of one that nobody watches may hear later; a load balancer in front of them looks the same."""
    with EmbeddedEurekaCluster(cache_interval=INTERVAL, replication_delay=0.02) as cluster:
        await register(cluster.nodes[0])
        some = manager(cluster.urls[0])
        await withdrawn(some)
        async with watching(some):
            await until(lambda: reasons(told))
        assert "it has 1 peers, but there are 0 other servers in eureka_url" in reasons(told)[0]
        assert await manager(*cluster.urls)._publication._can_be_watched()


@pytest.mark.anyio
async def test_a_name_with_several_addresses_is_not_watched(
    eureka: EmbeddedEureka, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change and the looks may reach two servers."""
    look_up = socket.getaddrinfo

    def two(host: str, port: int, **more: Any) -> list[Any]:
        found = look_up(host, port, **more)
        return found + [(*each[:4], ("127.0.0.2", port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    await register(eureka)
    status = manager(eureka.url)
    await withdrawn(status)
    async with watching(status) as seen:
        await until(lambda: reasons(told))
        await anyio.sleep(0.3)
    assert seen == []
    assert "its name has 2 addresses" in reasons(told)[0]
    assert len(eureka.requests("GET", VIEW)) == 1


@pytest.mark.anyio
async def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread that is left behind."""
    server = Server("http://eureka.example/eureka", try_timeout=0.1)
    hung = [True]

    def hang(*_: object, **__: object) -> list[Any]:
        while hung[0]:
            time.sleep(0.01)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(EurekaError, match=r"no answer in 0\.1 s"):
        await server.addresses()
    hung[0] = False


@pytest.mark.anyio
async def test_a_server_behind_a_proxy_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which server the proxy speaks to is its own affair."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    status = manager("http://eureka.example/eureka", proxies=Proxies())
    assert await status._publication._problem_of(status.servers[0]) == "it is reached through a proxy"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("page", "peers"),
    [
        ("<registered-replicas></registered-replicas>", 0),
        ("<registered-replicas/>", 0),
        ("<registered-replicas>http://b:1/eureka/, http://u:p@c:1/eureka/</registered-replicas>", 2),
        ("<registered-replicas>http://localhost:8761/eureka/</registered-replicas>", 1),
        (
            '<registered-replicas>http://localhost:8761/eureka/</registered-replicas><port enabled="true">8761</port>',
            0,
        ),
        ("<html>Sign in</html>", None),
    ],
)
async def test_how_many_peers_a_server_names(page: str, peers: int | None) -> None:
    """A single server out of the box names itself; a page that is no status page says nothing."""
    with RawServer(answering("200 OK", page.encode())) as raw:
        server = Server(f"http://127.0.0.1:{raw.port}/eureka")
        if peers is None:
            with pytest.raises(EurekaError, match="does not name its peers"):
                await peers_of(server)
        else:
            assert await peers_of(server) == peers


@pytest.mark.anyio
async def test_nothing_is_looked_at_unless_it_is_asked_for(eureka: EmbeddedEureka) -> None:
    """With `eureka_observe_cache=false`, or with a delay that was set as a whole."""
    await register(eureka)
    status = manager(eureka.url, interval=None)
    await withdrawn(status)
    async with watching(status) as seen:
        await anyio.sleep(0.3)
    assert seen == []
    assert eureka.requests("GET", VIEW) == []


# --- real servers -----------------------------------------------------------------------------------------------------


def times_of_change(server: str, views: list[tuple[str, dict[str, str]]], within: float) -> dict[int, float]:
    """When each view was seen to change, on the clock of the event loop; asked about ten times a second."""
    seen: dict[int, float] = {}
    until = time.monotonic() + within
    while len(seen) < len(views) and time.monotonic() < until:
        for number, (view, headers) in enumerate(views):
            if number not in seen and OUT in fetch(server, view, headers):
                seen[number] = time.monotonic()
        time.sleep(0.1)
    return seen


@pytest.mark.anyio
async def test_a_real_server_with_a_short_refresh(real_eureka: RunningEureka, told: pytest.LogCaptureFixture) -> None:
    """Seen within an interval and a little; only a change right at a tick has to be tried again."""
    for attempt in range(5):
        key = (APP, f"attempt-{attempt}")
        server = Server(real_eureka.url)
        await server.register(Instance(app=APP, ip="10.0.0.7", port=8080, instance_id=key[1]), now_ms())
        with anyio.fail_after(5):
            while await shown_by(server, *key) is not UP:  # noqa: ASYNC110  another instance's view is cached
                await anyio.sleep(0.05)
        status = StatusManager([server], *key, cache_interval=real_eureka.cache_interval)
        outcome = await withdrawn(status, 2.0)
        with anyio.move_on_after(5):
            shown_at = await status.until_published()
            break
    assert outcome.first_verified_at is not None
    assert shown_at - outcome.first_verified_at <= real_eureka.cache_interval + 0.5
    assert not await is_old(real_eureka.url, "apps", **JSON)
    await server.deregister(*key)


@pytest.mark.anyio
async def test_a_pair_is_watched_only_as_a_pair(eureka_pair: EurekaPair) -> None:
    """Each names the other; so does a node of the embedded cluster."""
    urls = [node.url for node in eureka_pair.nodes]
    assert [await peers_of(Server(url)) for url in urls] == [1, 1]
    assert await manager(*urls)._publication._can_be_watched()
    assert not await manager(urls[0])._publication._can_be_watched()


@pytest.mark.anyio
@pytest.mark.real_eureka
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_real_server_at_its_default_of_30_s(told: pytest.LogCaptureFixture) -> None:
    """Every kind of request that callers make shows the change no later than it is believed, and it saves time."""
    if reason := why_no_real_eureka():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with start_real_eureka(cache_interval=30.0) as eureka:
        server = Server(eureka.url)
        await server.register(Instance(app=APP, ip="10.0.0.7", port=8080, instance_id=KEY[1]), now_ms())
        # In the midst of an interval, where the change must be seen: the timer's ticks fall on :00 and :30.
        await anyio.sleep((10 - time.time()) % 30)
        assert all([await is_old(eureka.address, view, **headers) for view, headers in VIEWS])
        status = manager(eureka.url, interval=30.0)
        outcome = await withdrawn(status, 2.0)
        changed: dict[int, float] = {}

        async def observe() -> None:
            changed.update(await anyio.to_thread.run_sync(times_of_change, eureka.address, VIEWS, 40.0))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(observe)
            with anyio.fail_after(40):
                shown_at = await status.until_published()
    assert outcome.first_verified_at is not None
    assert len(changed) == len(VIEWS)
    # A look at ten views takes the observer a moment: it sees each a little after it has changed.
    assert max(changed.values()) <= shown_at
    assert 10 < shown_at - outcome.first_verified_at < 27
    assert reasons(told) == []
