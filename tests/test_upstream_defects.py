"""A canary: the defects of py_eureka_client that graceful works around are still there.

A test that fails here is good news: upstream has mended something, and the message says which guard of graceful's may
go. These are no tests of graceful. That its users do not have the defects is tested where the table on the page
"Eureka, and what can go wrong" says.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from py_eureka_client import eureka_basic, eureka_client, http_client
from py_eureka_client import logger as eureka_logger

from graceful.eureka.rest import Server, Status
from tests.eureka_raw_server import RawServer, answering, trickling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graceful.rehearsal.eureka import EmbeddedEureka

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")

ID = "canary:1"
KEY = ("canary", ID)
HEARTBEAT = r"(?i)/canary/[^/]+$"
PASSWORD = "zQ7xsesame"


def check_still_there(defect: str, what: str, guard: str, shown: object) -> None:
    """Fail with what there is to do if a defect does not show any more."""
    if not shown:
        pytest.fail(
            f"py-eureka-client {version('py-eureka-client')} has mended defect {defect}: {what}; the guard in "
            f"graceful/eureka/{guard} may go, and the defect's line on the page docs/explanation/eureka-troubles.md",
            pytrace=False,
        )


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the client's loggers say. By default they print it, from a thread of their own that never ends."""
    texts: list[str] = []
    logger = logging.Logger("canary")  # noqa: LOG001  in no tree: what it hears is not the tests' own log
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    monkeypatch.setattr(eureka_logger, "_custom_logger", logger)
    return texts


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class _TestIsOverError(Exception):
    pass


class Beats:
    """The pauses of the client's heartbeat thread: it beats when it is told to, and ends with the test."""

    def __init__(self) -> None:
        self._due = threading.Semaphore(0)
        self._over = False
        self._loops: list[asyncio.AbstractEventLoop] = []

    def sleep(self, _seconds: float) -> None:
        self._due.acquire()
        if self._over:
            raise _TestIsOverError  # the only way out of the client's endless loop

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        self._loops.append(asyncio.new_event_loop())
        return self._loops[-1]

    def steer(self, client: Any) -> None:
        """Have the client's thread, which still runs its own function, end with the test."""
        timer = client._EurekaClient__heartbeat_timer
        endless = timer.function

        def run() -> None:
            with suppress(_TestIsOverError):
                endless()

        timer.function = run

    def beat(self) -> None:
        self._due.release()

    def end(self) -> None:
        self._over = True
        self._due.release()
        for thread in threading.enumerate():
            if thread.name == "HeartbeatThread":
                thread.join(10)
        for loop in self._loops:
            loop.close()


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> Iterator[Beats]:
    """Steers the heartbeat thread of a client that is started."""
    beats = Beats()
    clock = types.SimpleNamespace(time=time.time, sleep=beats.sleep)
    loops = types.SimpleNamespace(**vars(asyncio) | {"new_event_loop": beats.new_event_loop})
    monkeypatch.setattr(eureka_client, "time", clock)
    monkeypatch.setattr(eureka_client, "asyncio", loops)
    yield beats
    beats.end()


def new_client(url: str, **options: Any) -> Any:
    return eureka_client.EurekaClient(
        eureka_server=url,
        app_name="canary",
        instance_id=ID,
        instance_host="127.0.0.1",
        instance_ip="127.0.0.1",
        instance_port=8080,
        should_discover=False,
        renewal_interval_in_secs=options.pop("renewal_interval_in_secs", 60),
        **options,
    )


async def register(client: Any) -> None:
    """Register it as `start` does, without the heartbeat thread."""
    await client._EurekaClient__parepare_instance_info()
    await client.register()


def status_on(eureka: EmbeddedEureka) -> Status | None:
    return anyio.run(Server(eureka.url).read, *KEY)


def soon(holds: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Whether it holds within that time."""
    until = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.01)
    return held


def test_a_stop_does_not_stop_the_heartbeats(embedded_eureka: EmbeddedEureka, beats: Beats) -> None:
    """Cancelled, and UP again with the next beat."""
    client = new_client(embedded_eureka.url, renewal_interval_in_secs=0.01)
    beats.steer(client)
    asyncio.run(client.start())
    embedded_eureka.wait_for_requests("PUT", HEARTBEAT)
    asyncio.run(client.stop())
    assert status_on(embedded_eureka) is None
    beats.beat()
    came_back = soon(lambda: status_on(embedded_eureka) is Status.UP)
    check_still_there("a", "stop() now ends the heartbeat thread", "adopted.py (frozen heartbeats)", came_back)


def test_b_a_failed_heartbeat_registers_as_up(embedded_eureka: EmbeddedEureka) -> None:
    """Also when it had been taken out of service."""
    client = new_client(embedded_eureka.url)

    async def story() -> None:
        await register(client)
        await client.status_update("OUT_OF_SERVICE")
        embedded_eureka.stop()
        embedded_eureka.start()
        await client.send_heartbeat()

    asyncio.run(story())
    what = "a failed heartbeat no longer registers a withdrawn instance as UP"
    check_still_there("b", what, "adopted.py (frozen heartbeats)", status_on(embedded_eureka) is Status.UP)


@pytest.mark.parametrize("call", ["status_update", "cancel"])
def test_c_errors_are_swallowed(embedded_eureka: EmbeddedEureka, call: str) -> None:
    """And an async on_error is called, but not awaited."""
    heard: list[str] = []

    async def on_error(error_type: str, _error: Exception) -> None:
        heard.append(error_type)

    client = new_client(embedded_eureka.url, on_error=on_error)

    async def story() -> None:
        await register(client)
        embedded_eureka.fail(503)
        await (client.cancel() if call == "cancel" else client.status_update("OUT_OF_SERVICE"))

    raised = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "… was never awaited"
        try:
            asyncio.run(story())
        except Exception:  # noqa: BLE001  whatever upstream may raise one day
            raised = True
    what = f"{call} now tells that it failed"
    check_still_there("c", what, "status.py (every change is read back)", not raised and not heard)


def test_c2_redirects_are_followed() -> None:
    """A login page counts as success."""
    login = answering("200 OK", b"<html>log in</html>")
    redirect = answering("302 Found", b"", "Location: /login")
    with RawServer(
        lambda sock, server: (login if b" /login" in server.head_of(sock) else redirect)(sock, server)
    ) as raw:
        raised = False
        try:
            asyncio.run(eureka_basic.status_update(f"http://127.0.0.1:{raw.port}/eureka", *KEY, 1))
        except Exception:  # noqa: BLE001  as above
            raised = True
    check_still_there("c2", "a redirect is no success any more", "transport.py (no redirects)", not raised)


def test_d_the_lock_belongs_to_one_event_loop(embedded_eureka: EmbeddedEureka) -> None:
    """Two threads that meet at it: the second one's status change is lost without a word."""
    client = new_client(embedded_eureka.url)
    asyncio.run(register(client))
    client._EurekaClient__cache_eureka_url.clear()  # as after any trouble: with a good server cached there is no lock

    async def meet() -> None:
        await asyncio.gather(client.status_update("DOWN"), client.status_update("DOWN"))

    asyncio.run(meet())
    client._EurekaClient__cache_eureka_url.clear()
    embedded_eureka.forget_requests()
    embedded_eureka.delay(0.5, path="/status$", count=1)
    heartbeat = threading.Thread(target=lambda: asyncio.run(client.status_update("DOWN")))
    heartbeat.start()
    embedded_eureka.wait_for_requests("PUT", "/status$")
    with suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(client.status_update("OUT_OF_SERVICE"), 2))
    heartbeat.join(10)
    sent = [request.query for request in embedded_eureka.requests("PUT", "/status$")]
    lost = not any("OUT_OF_SERVICE" in query for query in sent)
    check_still_there("d", "two event loops may use one client", "adopted.py (its lock is never touched)", lost)


def test_e_credentials_are_logged(embedded_eureka: EmbeddedEureka, said: list[str]) -> None:
    """At WARNING, with the first server that is down."""
    embedded_eureka.fail(503)
    url = embedded_eureka.url.replace("://", f"://admin:{PASSWORD}@")
    asyncio.run(register(new_client(url)))
    check_still_there(
        "e", "credentials are logged no more", "rest.py (nothing of theirs logs)", PASSWORD in "".join(said)
    )


def test_f_there_is_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out starts anew with every byte."""
    monkeypatch.setattr(eureka_basic, "_DEFAULT_TIME_OUT", 0.2)
    with RawServer(trickling) as raw:
        call = eureka_basic.status_update(f"http://127.0.0.1:{raw.port}/eureka", *KEY, 1)
        ended = True
        try:
            asyncio.run(asyncio.wait_for(call, 0.8))
        except TimeoutError:
            ended = False
        except Exception:  # noqa: BLE001  as above
            ended = True
    check_still_there("f", "a call ends by its time-out", "transport.py (one deadline a call)", not ended)


REFUSED = [
    "http://eureka_1:8761/eureka",
    "http://[::1]:8761/eureka",
    "http://eüreka:8761/eureka",
    "http://user@eureka:8761/eureka",
    *(f"http://user:pa{sign}ss@eureka:8761/eureka" for sign in "$+*=&"),
]


@pytest.mark.parametrize("url", REFUSED)
def test_g_good_addresses_are_refused(url: str) -> None:
    """Although the operating system and every server would take them."""
    refused = False
    try:
        http_client.parse_url(url)
    except Exception:  # noqa: BLE001  as above
        refused = True
    check_still_there("g", f"{url} is understood", "address.py (its own parser)", refused)


@pytest.mark.parametrize(("first", "what"), [("http://127.0.0.1:99999/eureka", "port"), ("http://a@b@c/eureka", "@")])
def test_h_one_bad_address_stops_the_failover(embedded_eureka: EmbeddedEureka, first: str, what: str) -> None:
    """The good server behind it is never asked."""
    with suppress(Exception):
        asyncio.run(register(new_client(f"{first},{embedded_eureka.url}")))
    asked = embedded_eureka.requests()
    check_still_there("h", f"a bad {what} is skipped", "broadcast.py (each server by itself)", not asked)


def test_i_a_forked_child_deregisters_its_parent(embedded_eureka: EmbeddedEureka) -> None:
    """A preloaded worker that stops takes the others' instance with it."""
    script = (
        "import asyncio, os, sys\n"
        "from tests.test_upstream_defects import new_client, register\n"
        "client = new_client(sys.argv[1])\n"
        "asyncio.run(register(client))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    asyncio.run(client.stop())\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, embedded_eureka.url]
    subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)
    gone = status_on(embedded_eureka) is None
    check_still_there(
        "i", "a forked child leaves the parent's instance alone", "adopted.py (the PID is compared)", gone
    )


def test_i_stop_cannot_be_called_in_an_event_loop() -> None:
    """The sync function, as a FastAPI handler would call it."""

    async def story() -> None:
        eureka_client.stop()

    raised = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "… was never awaited"
        try:
            asyncio.run(story())
        except RuntimeError:
            raised = True
        finally:
            gc.collect()  # the coroutine that it made in vain, while its warning is ignored
            eureka_client.get_event_loop().close()
            del eureka_client._thread_local.event_loop
    check_still_there("i", "stop() works inside a running loop", "adopted.py (never calls stop)", raised)


def test_j_stop_does_nothing_after_a_failed_register(embedded_eureka: EmbeddedEureka) -> None:
    """The server has it all the same: from before, or because only the answer was lost."""
    client = new_client(embedded_eureka.url)

    async def story() -> None:
        await register(client)
        embedded_eureka.fail(503, method="POST")
        await client.register()
        embedded_eureka.clear_faults()
        await client.stop()

    asyncio.run(story())
    left = status_on(embedded_eureka) is not None
    check_still_there("j", "stop() deregisters what may be there", "status.py (deletes on every server)", left)


def test_j_a_cleared_override_leaves_unknown(embedded_eureka: EmbeddedEureka) -> None:
    """Without a value Eureka makes it UNKNOWN, and refuses its heartbeats."""
    client = new_client(embedded_eureka.url)

    async def story() -> None:
        await register(client)
        await client.status_update("OUT_OF_SERVICE")
        await client.delete_status_override()

    asyncio.run(story())
    unknown = status_on(embedded_eureka) is Status.UNKNOWN
    check_still_there("j", "delete_status_override sends a value", "status.py (its own call)", unknown)


def test_j_a_heartbeat_in_flight_undoes_a_cancel(embedded_eureka: EmbeddedEureka) -> None:
    """It is answered with 404, and registers as UP."""
    client = new_client(embedded_eureka.url)
    embedded_eureka.delay(0.4, method="PUT", path=HEARTBEAT)

    async def story() -> None:
        await register(client)
        heartbeat = asyncio.ensure_future(client.send_heartbeat())
        await asyncio.to_thread(embedded_eureka.wait_for_requests, "PUT", HEARTBEAT)
        await client.cancel()
        await heartbeat

    asyncio.run(story())
    came_back = status_on(embedded_eureka) is Status.UP
    check_still_there("j", "cancel waits for heartbeats", "adopted.py (waits for what is in flight)", came_back)


def test_j_a_name_look_up_cannot_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call's time is over, and the event loop's end waits for the look-up all the same."""
    answered = threading.Event()
    threading.Timer(0.7, answered.set).start()

    def look_up(*_: Any, **__: Any) -> Any:
        answered.wait(10)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with suppress(Exception):
        asyncio.run(asyncio.wait_for(eureka_basic.status_update("http://eureka.example/eureka", *KEY, 1), 0.1))
    waited = answered.wait(0)
    answered.wait(10)
    check_still_there("j", "a look-up can be given up", "transport.py (threads that are left behind)", waited)


def test_j_get_instance_gives_a_coroutine(embedded_eureka: EmbeddedEureka) -> None:
    """An await is missing."""
    result = asyncio.run(eureka_basic.get_instance(embedded_eureka.url, ID))
    still = asyncio.iscoroutine(result)
    if still:
        result.close()
    check_still_there("j", "get_instance gives an instance", "rest.py (its own read)", still)


def test_j_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set them meant calls to the outside."""
    with RawServer(answering("200 OK")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        with suppress(Exception):
            asyncio.run(eureka_basic.status_update("http://eureka.example/eureka", *KEY, 1))
        asked = list(proxy.requests)
    check_still_there("j", "HTTP_PROXY is ignored", "transport.py (proxies only if asked)", asked)


def test_the_page_names_tests_that_are_there() -> None:
    """Which test holds a defect off is said on the page, and a test that is renamed would leave it behind."""
    root = Path(__file__).parent.parent
    page = (root / "docs" / "explanation" / "eureka-troubles.md").read_text()
    there = "".join(path.read_text() for path in (root / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in there] == []
