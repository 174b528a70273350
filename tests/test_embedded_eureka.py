"""What only the embedded Eureka can do: time as an argument, faults on demand, a log of requests, a command."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.rehearsal.eureka_cache import CacheKey, ResponseCache
from graceful.rehearsal.eureka_faults import Fault, FaultPlan
from graceful.rehearsal.eureka_model import OVERRIDE_IDLE_TIMEOUT, DataCenter, Instance, InstanceStatus, Registry
from graceful.rehearsal.eureka_rest import Node, Request
from tests.eureka_caller import Caller, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

UP, OUT = InstanceStatus.UP, InstanceStatus.OUT_OF_SERVICE
JSON = {"content-type": "application/json", "accept": "application/json"}


def instance(number: int = 1, *, app: str = "A", lease_duration: int = 90) -> Instance:
    data_center = DataCenter("com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "MyOwn")
    return Instance(f"i{number}", "host", app, "10.0.0.1", data_center, lease_duration=lease_duration)


def ask(node: Node, now: float, method: str, *path: str, body: object = None, **query: str) -> Any:
    """Ask the node at an instant: the status code, or the status of the first instance it shows."""
    answer = node.answer(Request(method, path, query, JSON, json.dumps(body).encode()), now)
    if not answer.body or answer.status != 200:
        return answer.status
    found = re.search(rb'"status":"(\w+)"', answer.body)
    return found and found[1].decode()


@pytest.fixture
def caller(embedded_eureka: EmbeddedEureka) -> Iterator[Caller]:
    caller = Caller(embedded_eureka.url)
    with closing(caller.http):
        yield caller


class TestCacheOverTime:
    KEY = CacheKey("apps", "", "application/json")

    @pytest.mark.parametrize(("now", "due"), [(1000.0, 1020.0), (1019.9, 1020.0), (1020.0, 1050.0)])
    def test_refreshes_are_aligned_to_the_wall_clock(self, now: float, due: float) -> None:
        """Every 30 s means at :00 and :30, whenever the server was started."""
        assert ResponseCache(lambda _key, _now: b"", 30, now).next_refresh == due

    def test_a_view_changes_at_a_refresh_only(self) -> None:
        """Invalidation alone is not seen."""
        state = [b"old"]
        cache = ResponseCache(lambda _key, _now: state[0], 30, 1000)
        assert cache.get(self.KEY, 1001) == b"old"
        state[0] = b"new"
        cache.invalidate([self.KEY])
        assert cache.get(self.KEY, 1002) == b"old"
        cache.refresh(1020)
        assert cache.get(self.KEY, 1020) == b"new"

    def test_a_view_that_nothing_invalidates_is_made_anew_after_three_minutes(self) -> None:
        """As a heartbeat's effect on a status, which Eureka does not tell its cache."""
        state = [b"old"]
        cache = ResponseCache(lambda _key, _now: state[0], 30, 1000)
        cache.get(self.KEY, 1001)
        state[0] = b"new"
        cache.refresh(1170)
        assert cache.get(self.KEY, 1171) == b"old"
        cache.refresh(1200)
        assert cache.get(self.KEY, 1201) == b"new"

    def test_without_the_read_only_cache_a_change_is_seen_at_once(self) -> None:
        """`useReadOnlyResponseCache=false`: invalidation is all it takes."""
        state = [b"old"]
        cache = ResponseCache(lambda _key, _now: state[0], 0, 1000)
        assert cache.get(self.KEY, 1001) == b"old"
        state[0] = b"new"
        cache.invalidate([self.KEY])
        assert cache.get(self.KEY, 1001) == b"new"


class TestNodeOverTime:
    def node(self, *, eviction_interval: float = 60.0) -> Node:
        """A node at 1000 with one UP instance that sends no heartbeats: its lease ends at 1090."""
        node = Node(cache_interval=30.0, eviction_interval=eviction_interval, now=1000.0)
        node.registry.register(instance(), 1000.0)
        return node

    def test_a_refresh_shows_the_state_of_its_own_instant(self) -> None:
        """Not that of the first request after it: nobody asks between the tick at 1020 and the change at 1025."""
        node = self.node()
        assert ask(node, 1001, "GET", "apps", "A") == UP
        assert ask(node, 1010, "PUT", "apps", "A", "i1", "status", value="DOWN") == 200
        assert ask(node, 1025, "PUT", "apps", "A", "i1", "status", value="OUT_OF_SERVICE") == 200
        assert ask(node, 1026, "GET", "apps", "A") == "DOWN"
        assert ask(node, 1049, "GET", "apps", "A") == "DOWN"
        assert ask(node, 1050, "GET", "apps", "A") == OUT

    def test_a_lease_without_heartbeats_ends_after_its_duration(self) -> None:
        """90 s, to the second; it is listed on until the next eviction, and the refresh after that."""
        node = self.node()
        assert ask(node, 1001, "GET", "apps", "A") == UP
        assert ask(node, 1090, "GET", "apps", "A", "i1") == UP
        assert ask(node, 1091, "GET", "apps", "A", "i1") == 404
        assert ask(node, 1119, "GET", "apps", "A") == UP
        assert ask(node, 1120, "GET", "apps", "A") == UP, "both timers are due, and the cache's is first"
        assert ask(node, 1140, "GET", "apps", "A") == 404

    def test_timers_run_in_the_order_in_which_they_were_due(self) -> None:
        """Nobody asks for 100 s: refresh at 1020 and 1050, eviction at 1060, and the refresh at 1080 shows it."""
        node = self.node()
        assert ask(node, 1001, "GET", "apps", "A") == UP
        node.registry.register(instance(lease_duration=20), 1002)
        assert ask(node, 1100, "GET", "apps", "A") == 404

    def test_a_lease_with_a_heartbeat_lasts_twice_as_long(self) -> None:
        """180 s after the heartbeat."""
        node = self.node(eviction_interval=1.0)
        assert ask(node, 1010, "PUT", "apps", "A", "i1") == 200
        assert ask(node, 1190, "GET", "apps", "A", "i1") == UP
        assert ask(node, 1191, "GET", "apps", "A", "i1") == 404

    def test_changes_are_told_for_three_minutes(self) -> None:
        """Then the list of changes forgets them."""
        registry = Registry()
        registry.register(instance(), 1000)
        assert [lease.instance.id for lease in registry.recent_changes(1180)["A"]] == ["i1"]
        assert registry.recent_changes(1181) == {}

    def test_an_override_outlives_anything_but_an_hour_of_silence(self) -> None:
        """Heartbeats read it, and keep it alive by that."""
        registry = Registry()
        for moment in (0.0, OVERRIDE_IDLE_TIMEOUT - 1, 2 * OVERRIDE_IDLE_TIMEOUT - 2):
            registry.register(instance(lease_duration=100_000), moment)
            registry.override("A", "i1", OUT, None, moment)
            assert registry.renew("A", "i1", moment)
        other = instance(app="B")
        registry.register(other, 3 * OVERRIDE_IDLE_TIMEOUT - 3)
        assert other.status is OUT
        late = instance(app="C")
        registry.register(late, 4 * OVERRIDE_IDLE_TIMEOUT)
        assert late.status is UP

    def test_an_eviction_never_empties_the_registry_at_once(self) -> None:
        """Of twenty expired leases three go in one run: 15 %."""
        registry = Registry()
        for number in range(20):
            registry.register(instance(number), 0)
        registry.evict(90)
        assert len(registry.applications()["A"]) == 20
        registry.evict(91)
        assert len(registry.applications()["A"]) == 17


class TestFaults:
    def test_failures_are_counted(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """Exactly as many as asked for, only where asked for, and nothing is changed by them."""
        caller.register()
        embedded_eureka.fail(status=503, count=2, method="PUT", path=r"/status$")
        assert caller.heartbeat().status_code == 200
        assert [caller.override(OUT).status_code for _ in range(3)] == [503, 503, 200]

    def test_a_failure_ends_with_its_time(self) -> None:
        """Not later, and it is forgotten then."""
        now = [100.0]
        plan = FaultPlan(lambda: now[0])
        plan.add(Fault("fail", for_seconds=5))
        now[0] = 104.9
        assert plan.take("GET", "/") is not None
        now[0] = 105
        assert plan.take("GET", "/") is None

    def test_the_newest_fault_counts(self) -> None:
        """And the older one again when that is used up."""
        plan = FaultPlan()
        plan.add(Fault("fail", status=500))
        plan.add(Fault("reset", count=1))
        kinds = [fault and fault.kind for fault in (plan.take("GET", "/"), plan.take("GET", "/"))]
        assert kinds == ["reset", "fail"]

    def test_faults_can_be_cleared(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """For the next request on."""
        embedded_eureka.fail()
        assert caller.get("/apps").status_code == 503
        embedded_eureka.clear_faults()
        assert caller.get("/apps").status_code == 200

    def test_a_redirect(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """302 to where it was told."""
        embedded_eureka.redirect("/login", count=1)
        answer = caller.get("/apps")
        assert (answer.status_code, answer.headers["location"]) == (302, "/login")

    def test_a_reset(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """A TCP reset, not an orderly close, before any byte of an answer."""
        embedded_eureka.reset(count=1)
        with pytest.raises(httpx.ReadError, match="reset"):
            caller.register()
        assert caller.read() is None

    def test_a_delay(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """The answer comes, late; others are not held up."""
        caller.register()
        embedded_eureka.delay(0.5, count=1, method="PUT")
        started = time.monotonic()
        late = threading.Thread(target=caller.heartbeat)
        late.start()
        embedded_eureka.wait_for_requests("PUT")
        assert caller.statuses() == (UP, "UNKNOWN")
        assert late.is_alive()
        late.join(10)
        assert time.monotonic() - started >= 0.5

    def test_a_hang_ends_with_the_server(self) -> None:
        """No answer; a stop of the server resets the connection instead of waiting for ever."""
        failures: list[Exception] = []

        def ask_once() -> None:
            try:
                httpx.get(f"{eureka.url}/apps", timeout=30, trust_env=False)
            except httpx.HTTPError as error:
                failures.append(error)

        with EmbeddedEureka() as eureka:
            eureka.hang()
            asker = threading.Thread(target=ask_once)
            asker.start()
            eureka.wait_for_requests("GET", "/apps")
            assert asker.is_alive()
        asker.join(10)
        assert [type(failure) for failure in failures] == [httpx.ReadError]

    @pytest.mark.parametrize("wrong", [{"kind": "explode"}, {"status": 42}])
    def test_a_wrong_fault(self, wrong: dict[str, Any]) -> None:
        """Says what it knows."""
        with pytest.raises(ValueError, match="use "):
            Fault(**wrong)


class TestLog:
    def test_requests_are_logged_in_order(self, embedded_eureka: EmbeddedEureka, caller: Caller) -> None:
        """Faults included, and no others."""
        embedded_eureka.fail(count=1)
        caller.register()
        caller.register()
        caller.cancel()
        assert [each.method for each in embedded_eureka.requests()] == ["POST", "POST", "DELETE"]
        (cancel,) = embedded_eureka.requests("DELETE", caller.id)
        assert cancel.path == f"/eureka/apps/{caller.app}/{caller.id}"
        assert abs(cancel.at - time.time()) < 60
        embedded_eureka.forget_requests()
        assert embedded_eureka.requests() == []

    def test_a_request_that_does_not_come(self, embedded_eureka: EmbeddedEureka) -> None:
        """The error says how many came."""
        with pytest.raises(TimeoutError, match=r"0 of 1 requests DELETE /apps came in 0\.01 s"):
            embedded_eureka.wait_for_requests("DELETE", "/apps", timeout=0.01)


class TestServer:
    def test_a_restart_forgets_everything_but_its_port(self) -> None:
        """As a real one does, which keeps all in memory."""
        eureka = EmbeddedEureka()
        with eureka, closing((caller := Caller(eureka.url)).http):
            caller.register()
        with eureka:
            assert eureka.url == str(caller.http.base_url).rstrip("/")
            again = httpx.get(f"{eureka.url}/instances/{caller.id}", trust_env=False)
            assert again.status_code == 404

    def test_credentials_are_quoted(self) -> None:
        """So that the URL can be used as it is; the address and the repr do not have them."""
        with EmbeddedEureka(user="a@b", password="p:/#?") as eureka:
            assert "a%40b:p%3A%2F%23%3F@" in eureka.url
            assert "p%3A" not in eureka.address + repr(eureka)
            assert httpx.get(f"{eureka.url}/apps", trust_env=False).status_code == 200
            assert httpx.get(f"{eureka.address}/apps", trust_env=False).status_code == 401

    @pytest.mark.parametrize(
        "wrong", [{"cache_interval": -1}, {"eviction_interval": 0}, {"user": "u"}, {"password": "p"}]
    )
    def test_wrong_arguments(self, wrong: dict[str, Any]) -> None:
        """Say what was given and what to do."""
        with pytest.raises(ValueError, match=r"must be|give both"):
            EmbeddedEureka(**wrong)

    def test_twice(self, embedded_eureka: EmbeddedEureka) -> None:
        """A server is started once."""
        with pytest.raises(RuntimeError, match="stop it first"):
            embedded_eureka.start()

    def test_the_port_is_taken(self) -> None:
        """The error of the operating system."""
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
            EmbeddedEureka(port=taken.getsockname()[1]).start()


class TestCommand:
    @pytest.fixture
    def process(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "graceful.rehearsal.eureka", "--port", "0", "--cache-interval", "0.5"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_prints_its_url_and_ends_when_told(self, process: subprocess.Popen[str], number: int) -> None:
        """The URL works as soon as it is there, and the exit code is 0."""
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/apps", trust_env=False).status_code == 200
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0

    def test_it_is_steered_over_http(self, process: subprocess.Popen[str]) -> None:
        """Faults and the log of requests, neither of which is logged itself."""
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        bench = url.removesuffix("/eureka")
        with httpx.Client(trust_env=False) as client:
            fault = {"kind": "fail", "status": 500, "count": 1, "path": "/apps"}
            assert client.post(f"{bench}/_faults", json=fault).status_code == 204
            assert [client.get(f"{url}/apps").status_code for _ in range(2)] == [500, 200]
            client.post(f"{bench}/_faults", json={"kind": "fail"})
            assert client.delete(f"{bench}/_faults").status_code == 204
            assert client.put(f"{url}/apps/A/i").status_code == 404
            (put,) = client.get(f"{bench}/_requests", params={"method": "PUT"}).json()
            assert (put["method"], put["path"], put["query"]) == ("PUT", "/eureka/apps/A/i", "")
            assert client.delete(f"{bench}/_requests").status_code == 204
            assert client.get(f"{bench}/_requests").json() == []
            wrongs: list[object] = [{"kind": "explode"}, {"colour": 1}, [], "x"]
            for wrong in wrongs:
                assert client.post(f"{bench}/_faults", json=wrong).status_code == 400
            assert client.get(f"{bench}/_nope").status_code == 404

    def test_several_nodes(self) -> None:
        """A URL for each; what one is told the other hears, and each is steered by itself."""
        command = [sys.executable, "-m", "graceful.rehearsal.eureka", "--port", "0", "--nodes", "2"]
        command += ["--replication-delay", "0", "--user", "u", "--password", "p"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                here, there = (Caller(process.stdout.readline().strip().replace("//", "//u:p@"), "node") for _ in "12")
                with here.http, there.http:
                    assert here.register().status_code == 204
                    wait_until(lambda: there.statuses() == ("UP", "UNKNOWN"), "the other node hears of it")
                    bench = there.http.base_url.join("/_faults")
                    assert there.http.post(bench, json={"kind": "fail", "status": 500}).status_code == 204
                    assert [caller.heartbeat().status_code for caller in (here, there)] == [200, 500]
            finally:
                process.terminate()
            assert process.wait(20) == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            ["--cache-interval", "-1"],
            ["--user", "u"],
            ["--csrf"],
            ["--port", "99999"],
            ["--nodes", "0"],
            ["--nodes", "2", "--port", "65535"],
            ["--nodes", "2", "--replication-delay", "-1"],
        ],
    )
    def test_wrong_arguments(self, wrong: list[str]) -> None:
        """Exit code 2 and one clear line, no traceback."""
        command = [sys.executable, "-m", "graceful.rehearsal.eureka", *wrong]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == 2
        assert "error: " in ended.stderr
        assert "Traceback" not in ended.stderr
