"""One server's REST API through py_eureka_client's functions and a transport of ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from graceful.eureka.instance import Instance
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.rehearsal.eureka import EmbeddedEureka
from tests.eureka_raw_server import RawServer, answering
from tests.eureka_servers import RunningEureka

pytestmark = pytest.mark.anyio

SCENARIOS = Path(__file__).parent / "scenarios"
INSTANCE = Instance(app="orders", ip="10.0.0.7", port=8080, metadata={"version": "3"})


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def eureka(embedded_eureka: EmbeddedEureka) -> EmbeddedEureka:
    """A server of the test's own."""
    return embedded_eureka


# --- instances ------------------------------------------------------------------------------------------------------


def test_an_instance_needs_three_facts() -> None:
    """All else follows from name, address and port."""
    assert INSTANCE.instance_id == "orders:10.0.0.7:8080"
    assert (INSTANCE.hostname, INSTANCE.vip) == ("10.0.0.7", "orders")
    assert INSTANCE.health_url == "http://10.0.0.7:8080/readyz"
    assert INSTANCE.status_url == "http://10.0.0.7:8080/livez"
    assert INSTANCE.home_url == "http://10.0.0.7:8080/"


def test_an_instance_says_what_it_is_told() -> None:
    """What is given is not made up."""
    instance = Instance(app="Orders", ip="fd00::7", port=80, instance_id="o-1", vip="o", health_check="/h")
    assert (instance.instance_id, instance.vip, instance.health_url) == ("o-1", "o", "http://[fd00::7]:80/h")


@pytest.mark.parametrize(
    "wrong",
    [
        {"app": ""},
        {"app": "a/b"},
        {"app": ".."},
        {"ip": ""},
        {"instance_id": "a/b"},
        {"instance_id": " x"},
        {"hostname": "a\nb"},
        {"port": 0},
        {"port": 70000},
    ],
)
def test_an_impossible_instance_is_refused(wrong: dict[str, Any]) -> None:
    """The message names the field and what it was."""
    (field, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"^{field} is {value!r}".replace("\\", r"\\").replace(".", r"\.")):
        Instance(**{"app": "orders", "ip": "10.0.0.7", "port": 8080, **wrong})


# --- calls ----------------------------------------------------------------------------------------------------------


async def test_a_life(eureka_server_basic: RunningEureka) -> None:
    """Absent, UP, OUT_OF_SERVICE, absent: each call does what it says."""
    server = Server(eureka_server_basic.url, try_timeout=5)
    instance = Instance(app="rest-life", ip="10.0.0.7", port=8080)
    key = (instance.app, instance.instance_id)
    assert await server.read(*key) is None
    await server.register(instance, 1)
    assert await server.read(*key) is Status.UP
    await server.heartbeat(*key, 1)
    await server.set_status(*key, Status.OUT_OF_SERVICE, 2)
    assert await server.read(*key) is Status.OUT_OF_SERVICE
    await server.deregister(*key)
    assert await server.read(*key) is None
    await server.deregister(*key)
    with pytest.raises(EurekaError) as caught:
        await server.heartbeat(*key, 1)
    assert caught.value.status == 404


async def test_callers_see_what_was_registered(eureka: EmbeddedEureka) -> None:
    """Field for field."""
    await Server(eureka.url).register(INSTANCE, 1_700_000_000_000)
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"{eureka.url}/apps/ORDERS/{INSTANCE.instance_id}"
        seen = (await client.get(url, headers={"Accept": "application/json"})).json()["instance"]
    assert {
        "instanceId": "orders:10.0.0.7:8080",
        "app": "ORDERS",
        "hostName": "10.0.0.7",
        "ipAddr": "10.0.0.7",
        "status": "UP",
        "vipAddress": "orders",
        "homePageUrl": "http://10.0.0.7:8080/",
        "statusPageUrl": "http://10.0.0.7:8080/livez",
        "healthCheckUrl": "http://10.0.0.7:8080/readyz",
    }.items() <= seen.items()
    assert seen["port"] == {"$": 8080, "@enabled": "true"}
    assert seen["metadata"]["version"] == "3"
    assert seen["leaseInfo"]["renewalIntervalInSecs"] == 30
    assert seen["leaseInfo"]["durationInSecs"] == 90
    assert str(seen["lastDirtyTimestamp"]) == "1700000000000"


@pytest.mark.parametrize("odd", ["a b", "50%", "50%2F", "a?b#c", "ü", "a&status=UP"])
async def test_any_name_stays_one_part_of_the_path(eureka: EmbeddedEureka, odd: str) -> None:
    """An id is quoted whole: it can neither change the path nor add a parameter."""
    instance = Instance(app=odd, ip="10.0.0.7", port=8080, instance_id=odd)
    server = Server(eureka.url)
    await server.register(instance, 1)
    await server.set_status(odd, odd, Status.OUT_OF_SERVICE, 1)
    assert await server.read(odd, odd) is Status.OUT_OF_SERVICE
    await server.deregister(odd, odd)
    assert await server.read(odd, odd) is None
    assert [request.path for request in eureka.requests("DELETE")] == [f"/eureka/apps/{odd}/{odd}"]


async def test_what_servers_refuse_in_a_path_does_not_reach_another_address() -> None:
    """A slash is sent as %2F, a semicolon as %3B, whatever the server makes of it."""
    with RawServer(answering("200 OK")) as raw:
        await Server(f"http://127.0.0.1:{raw.port}/eureka").deregister("A;b", "../B/status")
    assert raw.requests[0].startswith(b"DELETE /eureka/apps/A%3Bb/..%2FB%2Fstatus HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>please log in</body></html>",
        b'{"instance": {"instanceId": "someone-else", "status": "UP"}}',
        b'{"instance": {"instanceId": "orders:10.0.0.7:8080"}}',
        b'{"instance": {"instanceId": "orders:10.0.0.7:8080", "status": ["UP"]}}',
        b'{"instance": []}',
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_a_page_that_is_no_instance_is_an_error(body: bytes) -> None:
    """A login page's 200 is neither a status nor absence."""
    with RawServer(answering("200 OK", body)) as raw, pytest.raises(EurekaError, match="answer is not"):
        await Server(f"http://127.0.0.1:{raw.port}/eureka").read("ORDERS", INSTANCE.instance_id)


@pytest.mark.parametrize("status", Status)
async def test_every_status_is_told_apart(eureka_server: RunningEureka, status: Status) -> None:
    """The server's XML would not: it says DOWN for OUT_OF_SERVICE and for UNKNOWN."""
    server = Server(eureka_server.url, try_timeout=5)
    instance = Instance(app="rest-statuses", ip="10.0.0.7", port=8080)
    key = (instance.app, instance.instance_id)
    await server.deregister(*key)
    await server.register(instance, 1)
    await server.set_status(*key, status, 2)
    assert await server.read(*key) is status
    await server.deregister(*key)


async def test_a_status_nobody_knows_is_unknown() -> None:
    """It is not UP, and not safe."""
    body = b'{"instance": {"instanceId": "i", "status": "SLEEPY"}}'
    with RawServer(answering("200 OK", body)) as raw:
        assert await Server(f"http://127.0.0.1:{raw.port}").read("A", "i") is Status.UNKNOWN


async def test_a_closed_server_object_sends_nothing(eureka: EmbeddedEureka) -> None:
    """The other objects for the same server go on."""
    server = Server(eureka.url)
    server.close()
    with pytest.raises(EurekaError, match="not sent"):
        await server.register(INSTANCE, 1)
    assert eureka.requests("POST") == []
    assert await Server(eureka.url).read(INSTANCE.app, INSTANCE.instance_id) is None


async def test_the_client_of_the_process_stays_as_it_is(eureka: EmbeddedEureka) -> None:
    """A user's own Eureka client keeps its transport, its settings and its module."""
    from py_eureka_client import eureka_basic, http_client

    before = (http_client.http_client, http_client.HttpRequest, eureka_basic.http_client, eureka_basic.quote)
    server = Server(eureka.url)
    await server.register(INSTANCE, 1)
    after = (http_client.http_client, http_client.HttpRequest, eureka_basic.http_client, eureka_basic.quote)
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert type(http_client.http_client).__module__ == "py_eureka_client.http_client"
    assert sys.modules["py_eureka_client.eureka_basic"] is eureka_basic


def test_py_eureka_client_is_quiet_and_imported_late() -> None:
    """It is imported with the first call; it prints nothing, logs nothing and starts nothing."""
    run = subprocess.run(
        [sys.executable, str(SCENARIOS / "eureka_quiet_import.py")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCENARIOS.parents[1])},
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_server_shows_no_credentials() -> None:
    """Neither by name nor by repr."""
    server = Server("http://me:sesame@eureka:8761/eureka/")
    assert (server.name, repr(server)) == (
        "http://***@eureka:8761/eureka",
        "<Server http://***@eureka:8761/eureka>",
    )
