"""Other services, looked up in Eureka: the embedded one and the real one, from threads and from event loops."""

import asyncio
import random
import signal
import threading
import time
import urllib.request
import uuid
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from py_eureka_client.eureka_client import EurekaClient

import graceful
from graceful import DiscoveryError, NoInstanceError, ServiceInstance
from graceful.eureka.discovery import Discovery
from graceful.eureka.instances import _key_of
from graceful.eureka.rest import EurekaError, Server, Status
from graceful.rehearsal.eureka_wire import _tag_of
from graceful.runtime import Runtime
from tests.children import child, free_port, get, until
from tests.eureka_raw_server import RawServer, answering, hanging

BODY = """{"instance": {"instanceId": "%(id)s", "hostName": "%(host)s", "app": "%(app)s", "ipAddr": "10.0.0.7",
"status": "UP", "port": {"$": 8080, "@enabled": "%(open)s"}, "securePort": {"$": 8443, "@enabled": "%(secure)s"},
"dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
"metadata": %(metadata)s}}"""


def register(eureka, app, name="1", *, host="10.0.0.7", secure=False, metadata="{}", status=None, body=BODY):
    """Put an instance into a registry, as any client would."""
    fields = {"id": f"{app}-{name}", "host": host, "app": app.upper(), "metadata": metadata}
    body %= fields | {"open": str(not secure).lower(), "secure": str(secure).lower()}
    send(eureka, "POST", f"/apps/{app}", body.encode())
    if status is not None:
        send(eureka, "PUT", f"/apps/{app}/{app}-{name}/status?value={status}")


def send(eureka, method, path, body=None):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(eureka.address + path, body, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10):
        pass


def unique(name="payments"):
    return f"{name}-{uuid.uuid4().hex[:8]}"


@contextmanager
def discovering(*urls, try_timeout=5.0, **options):
    """A discovery with a thread of its own."""
    options = {"interval": 0.05, "random": random.Random(7), **options}
    runtime = Runtime(lambda: discovery.run())  # noqa: PLW0108 - it is made in the next line
    discovery = Discovery(lambda: [Server(url, try_timeout=try_timeout) for url in urls], runtime, **options)
    runtime.start()
    try:
        yield discovery
    finally:
        runtime.stop()


def known(discovery, name):
    """Ask until there is an answer that has instances: a server shows what is new at its next refresh."""
    until(lambda: discovery.instances(name), f"instances of {name}")
    return discovery.instances(name)


# --- what is known of an instance -------------------------------------------------------------------------------------


def test_only_what_is_up_is_given(eureka_server):
    """Several instances of every status, one of them overridden; the name's case does not matter."""
    app = unique()
    for status in Status:
        register(eureka_server, app, status.value, status=status)
    register(eureka_server, app, "second")
    with discovering(eureka_server.url) as discovery:
        until(lambda: len(discovery.instances(app)) == 2, "both that are UP")
        found = discovery.instances(app.upper())
    assert sorted(each.instance_id for each in found) == [f"{app}-UP", f"{app}-second"]


def test_every_field(eureka_server):
    """Host, ports, zone and metadata, whatever characters its keys have, as they were registered."""
    app = unique()
    metadata = '{"zone": "a", "my_key": "1", "dotted.key": "x & <y>", "$odd key": "2", "empty": ""}'
    register(eureka_server, app, "1", host="pay_1.example", metadata=metadata)
    register(eureka_server, app, "2", host="fd00::7", secure=True)
    with discovering(eureka_server.url) as discovery:
        until(lambda: len(discovery.instances(app)) == 2, "both")
        first, second = sorted(discovery.instances(app), key=lambda each: each.instance_id)
    assert first.metadata == {"zone": "a", "my_key": "1", "dotted.key": "x & <y>", "$odd key": "2", "empty": ""}
    assert (first.base_url, first.zone, first.secure) == ("http://pay_1.example:8080", "a", False)
    assert (second.base_url, second.zone, second.secure) == ("https://[fd00::7]:8443", None, True)
    assert (second.ip, second.port, second.host) == ("10.0.0.7", 8443, "fd00::7")


@given(st.text(st.characters(max_codepoint=0xD7FF, exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_metadata_key_comes_back(key):
    """XStream's escapes, undone."""
    assert _key_of(_tag_of(key)) == key


def test_an_instance_is_a_value():
    """Equal, hashable, and not to be changed."""
    one, other = (ServiceInstance(instance_id="p", host="p", ip="10.0.0.7", port=1, metadata={"a": "b"}) for _ in "12")
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(AttributeError):
        one.port = 2  # type: ignore[misc]


# --- which one is called ----------------------------------------------------------------------------------------------


def test_the_own_zone_comes_first_then_chance(embedded_eureka):
    """An instance of another zone is called only when those of the own are excluded or gone."""
    for name, zone in (("1", "a"), ("2", "b"), ("3", "b"), ("4", "")):
        register(embedded_eureka, "payments", name, host=f"host-{name}", metadata=f'{{"zone": "{zone}"}}')
    with discovering(embedded_eureka.url, zone="b") as discovery:
        until(lambda: len(discovery.instances("payments")) == 4, "all")
        seen = {discovery.base_url("payments") for _ in range(60)}
        assert seen == {"http://host-2:8080", "http://host-3:8080"}
        left = {discovery.base_url("payments", exclude=seen) for _ in range(60)}
        assert left == {"http://host-1:8080", "http://host-4:8080"}
        with pytest.raises(NoInstanceError, match=r"payments.*all 4 that are UP are excluded \(as of 0 s ago\)"):
            discovery.base_url("payments", exclude=seen | left)


def test_without_a_zone_it_is_chance_alone(embedded_eureka):
    """A zone that nobody told is no zone that two could have in common."""
    register(embedded_eureka, "payments", "1", host="host-1", metadata='{"zone": "a"}')
    register(embedded_eureka, "payments", "2", host="host-2")
    with discovering(embedded_eureka.url) as discovery:
        until(lambda: len(discovery.instances("payments")) == 2, "all")
        assert len({discovery.base_url("payments") for _ in range(60)}) == 2


def test_no_instance_is_an_answer(eureka_server):
    """Eureka has answered, there is none: an empty tuple, and an error where one is needed."""
    app = unique()
    with discovering(eureka_server.url) as discovery:
        assert discovery.instances(app) == ()
        with pytest.raises(NoInstanceError, match=f"no instance of '{app}' to call: none is UP in Eureka"):
            discovery.base_url(app)


# --- servers that fail ------------------------------------------------------------------------------------------------


def test_what_was_known_is_kept_while_eureka_is_down(embedded_eureka, caplog):
    """Its age tells; one line when it goes and one when it is back, and then the answer is fresh again."""
    register(embedded_eureka, "payments")
    with discovering(embedded_eureka.url) as discovery:
        before = known(discovery, "payments")
        embedded_eureka.stop()
        until(lambda: discovery.age("payments") > 0.3, "old")
        assert discovery.instances("payments") == before
        assert discovery.base_url("payments") == "http://10.0.0.7:8080"
        # Its age grows, too, while nothing has been asked: only the line says that it was.
        until(lambda: "no Eureka server tells of payments" in caplog.text, "the line when it goes")
        embedded_eureka.start()
        until(lambda: discovery.instances("payments") == (), "the new registry, which is empty")
        until(lambda: "Eureka tells of payments again" in caplog.text, "the line when it is back")
    lines = [record.message for record in caplog.records if record.name == "graceful.eureka"]
    assert len(lines) == 2
    assert lines[0].startswith("no Eureka server tells of payments, what it said last is kept, retrying: http://")
    assert lines[1] == "Eureka tells of payments again"


def test_the_next_server_is_asked(embedded_eureka):
    """One refuses, one hangs; the one that answered is asked first from then on."""
    register(embedded_eureka, "payments")
    with RawServer(hanging) as hung:
        urls = ("http://127.0.0.1:1/eureka", f"http://127.0.0.1:{hung.port}/eureka", embedded_eureka.url)
        with discovering(*urls, try_timeout=1.0) as discovery:
            assert len(known(discovery, "payments")) == 1
            embedded_eureka.wait_for_requests("GET", count=4)
        assert len(hung.requests) == 1


def test_a_server_that_is_wrong_is_no_answer(embedded_eureka):
    """A login page, another service's answer, broken XML, a redirect: never taken for an empty service."""
    pages = [
        answering("200 OK", b"<html><body>please log in</body></html>"),
        answering("200 OK", b"<application><name>OTHER</name></application>"),
        answering("200 OK", b"<application><name>PAYMENTS</name><instance><port enabled='true'>x</port></instance>"),
        answering("200 OK", b"<application><name>PAYMENTS</name><instance><port>80</port></instance></application>"),
        answering("200 OK", b""),
        answering("302 Found", b"", "Location: https://login.example/"),
        answering("500 Internal Server Error"),
    ]
    for page in pages:
        with RawServer(page) as raw, discovering(f"http://me:sesame@127.0.0.1:{raw.port}/eureka") as discovery:
            with pytest.raises(DiscoveryError, match=r"nothing is known of 'payments' yet.*\*\*\*@") as caught:
                discovery.instances("payments")
            assert not isinstance(caught.value, NoInstanceError)
            assert "sesame" not in str(caught.value)


def test_a_refusal_says_what_to_correct(eureka_server_basic):
    """Wrong credentials: as for the registration."""
    server = Server(eureka_server_basic.address.replace("://", "://wrong:sesame@"))
    with pytest.raises(EurekaError, match="HTTP 401: wrong credentials"):
        anyio.run(server.instances, "PAYMENTS")


def test_credentials_are_used_and_not_shown(eureka_server_basic):
    """Behind basic auth an answer is an answer."""
    with discovering(eureka_server_basic.url) as discovery:
        assert discovery.instances(unique()) == ()


def test_the_first_answer_has_a_deadline():
    """A hung server: the call ends at its time-out, and later ones do not wait again for what failed."""
    with RawServer(hanging) as hung, discovering(f"http://127.0.0.1:{hung.port}/eureka", try_timeout=1.0) as discovery:
        began = time.monotonic()
        with pytest.raises(DiscoveryError, match=r"no Eureka server has answered within 0\.2 s"):
            discovery.instances("payments", timeout=0.2)
        assert time.monotonic() - began < 0.9
        with pytest.raises(DiscoveryError, match="no answer in 1 s"):
            discovery.instances("payments")
        began = time.monotonic()
        with pytest.raises(DiscoveryError):
            discovery.instances("payments")
        assert time.monotonic() - began < 0.5


def test_two_services_do_not_wait_for_each_other(embedded_eureka):
    """One hangs, the other is known; and each is asked for once at the beginning, whoever asks."""
    embedded_eureka.hang(path="/apps/SLOW")
    register(embedded_eureka, "payments")
    with discovering(embedded_eureka.url, interval=60.0) as discovery:
        threads = [threading.Thread(target=discovery.instances, args=("payments",)) for _ in range(8)]
        with pytest.raises(DiscoveryError):
            discovery.instances("slow", timeout=0.1)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert len(discovery.instances("payments")) == 1
    assert len(embedded_eureka.requests("GET", "/apps/PAYMENTS")) == 1


def test_names_are_bounded(embedded_eureka):
    """A name made of a request's text would make the memory grow."""
    with discovering(embedded_eureka.url, interval=60.0) as discovery:
        embedded_eureka.hang()
        for number in range(256):
            with pytest.raises(DiscoveryError, match="nothing is known"):
                discovery.instances(f"s{number}", timeout=0.0001)
        with pytest.raises(DiscoveryError, match=r"256 services are watched already.*'one-more'"):
            discovery.instances("one-more")
        with pytest.raises(ValueError, match="the name is empty"):
            discovery.instances("")


# --- threads and event loops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_is_never_blocked(embedded_eureka, backend):
    """Unknown: `instances` raises at once and says what to do, `fetch` waits; known: both answer from memory."""
    register(embedded_eureka, "payments")
    embedded_eureka.delay(0.3, count=1)

    async def main(discovery):
        began = anyio.current_time()
        with pytest.raises(DiscoveryError, match=r"await coordinator\.eureka\.fetch\('payments'\) first"):
            discovery.instances("payments")
        with pytest.raises(DiscoveryError, match="event loop must not wait"):
            discovery.base_url("payments")
        assert anyio.current_time() - began < 0.2
        with anyio.move_on_after(0.05) as scope:
            await discovery.fetch("payments")
        assert scope.cancelled_caught
        with pytest.raises(DiscoveryError, match=r"within 0\.01 s"):
            await discovery.fetch("payments", timeout=0.01)
        fetched = await discovery.fetch("payments")
        assert fetched == discovery.instances("payments") != ()
        assert discovery.base_url("payments") == "http://10.0.0.7:8080"

    with discovering(embedded_eureka.url) as discovery:
        anyio.run(main, discovery, backend=backend)


def test_a_thread_of_an_event_loop_may_wait(embedded_eureka):
    """A synchronous endpoint runs in one: by asyncio's own way, and by anyio's."""
    for name in ("one", "two"):
        register(embedded_eureka, name)

    async def main():
        assert len(await asyncio.to_thread(discovery.instances, "one")) == 1
        assert len(await anyio.to_thread.run_sync(discovery.instances, "two")) == 1

    with discovering(embedded_eureka.url) as discovery:
        anyio.run(main)


# --- the coordinator --------------------------------------------------------------------------------------------------


@pytest.fixture
def install():
    """`install` for one test."""
    made = []

    def once(*arguments, **settings):
        made.append(graceful.install(*arguments, **settings))
        return made[-1]

    yield once
    for coordinator in made:
        coordinator.uninstall()


def test_without_an_eureka_it_says_what_to_set(install):
    """Not None, which would fail later and elsewhere."""
    with pytest.raises(graceful.SettingsError, match=r"set eureka_url, in install\(\) or as GRACEFUL_EUREKA_URL or"):
        _ = install().eureka


@pytest.mark.parametrize(("enabled", "says"), [(None, "until an application's lifespan begins"), (False, "at all")])
def test_where_nothing_runs_it_says_why(install, enabled, says):
    """In a test that only imports the application, and where graceful is switched off."""
    coordinator = install(eureka_url="http://127.0.0.1:1", app_name="orders", port=8080, enabled=enabled)
    with pytest.raises(DiscoveryError, match=f"thread does not run in this process.*starts nothing {says}"):
        coordinator.eureka.instances("payments")


def test_in_an_application(install, embedded_eureka):
    """From its start-up on, in async and sync endpoints, in its own zone; what is known stays when it has ended."""
    register(embedded_eureka, "payments", metadata='{"zone": "a"}')
    register(embedded_eureka, "payments", "2", host="far", metadata='{"zone": "b"}')

    @asynccontextmanager
    async def lifespan(_):
        assert len(await coordinator.eureka.fetch("payments")) == 2
        yield

    app = FastAPI(lifespan=lifespan)
    coordinator = install(app, eureka_url=embedded_eureka.url, app_name="orders", port=8080, zone="a")

    @app.get("/async")
    async def asynchronous():
        return len(coordinator.eureka.instances("payments"))

    @app.get("/sync")
    def synchronous():
        return coordinator.eureka.base_url("payments")

    for _ in range(2):
        with TestClient(app) as client:
            assert {client.get("/sync").json() for _ in range(20)} == {"http://10.0.0.7:8080"}
            assert client.get("/async").json() == 2
    assert coordinator.eureka.base_url("payments") == "http://10.0.0.7:8080"


def test_with_an_adopted_client(install, embedded_eureka):
    """Its servers are asked, over connections of ours: the client itself is not even started."""
    register(embedded_eureka, "payments")
    app = FastAPI()
    client = EurekaClient(eureka_server=embedded_eureka.url, app_name="orders", instance_port=8080)
    coordinator = install(app, eureka=client)
    with TestClient(app):
        assert coordinator.eureka.base_url("payments") == "http://10.0.0.7:8080"


def test_a_leave_calls_others_and_is_never_held_up(embedded_eureka):
    """Eureka hangs: what is known is called in the lame duck and in the callbacks; exit 0, with a fetch under way."""
    port = free_port()
    env = {
        "GRACEFUL_EUREKA_URL": embedded_eureka.url,
        "GRACEFUL_EUREKA_FETCH_INTERVAL": "0.1",
        "GRACEFUL_APP_NAME": "orders",
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_IP_ADDR": "127.0.0.1",
        "GRACEFUL_ANNOUNCE_TIMEOUT": "1",
        "GRACEFUL_PROPAGATION_DELAY": "1.5",
        "GRACEFUL_DEREGISTER_TIMEOUT": "1",
        "GRACEFUL_SCOPE": f"caller-{port}",
    }
    with RawServer(answering("200 OK", b"paid")) as payments:
        body = BODY.replace("8080", str(payments.port))
        register(embedded_eureka, "payments", host="127.0.0.1", body=body)
        with child("-m", "tests.scenarios.service_caller", str(port), env=env) as service:
            service.wait_for("is UP on")
            assert get(port, "/pay")[2] == '"paid"'
            embedded_eureka.hang()
            service.wait_for("no Eureka server tells of payments, what it said last is kept")
            service.signal(signal.SIGTERM)
            began = time.monotonic()
            service.wait_for("leaving because of SIGTERM")
            assert get(port, "/pay")[1:] == ("close", '"paid"')
            assert service.exit_code() == 0, service.text
            assert time.monotonic() - began < 15
    assert service.in_order(
        "drain: 1 paid",
        "cleanup: paid",
        r"cleanup: nothing is known of 'unheard-of' yet.*within 0\.3 s",
        "left UNCLEANLY",
    )


def test_a_forked_child_knows_nothing_of_its_parents(embedded_eureka):
    """Its memory would never be refreshed; the names are kept, for the child's own thread."""
    register(embedded_eureka, "payments")
    with discovering(embedded_eureka.url, starts="everything") as discovery:
        before = known(discovery, "payments")
    assert discovery.instances("payments") == before
    discovery._lock.acquire()  # as a thread of the parent's may have done
    discovery.reset_after_fork()
    with pytest.raises(DiscoveryError, match="thread does not run"):
        discovery.instances("payments")
    assert discovery.age("payments") is None
    assert list(discovery._watched) == ["PAYMENTS"]
