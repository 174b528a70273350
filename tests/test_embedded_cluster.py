"""What only embedded nodes can do: replication that is lost, late, stuck or cut off when a test asks for it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from tests.eureka_caller import Caller, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graceful.rehearsal.eureka_replication import ReplicatedChange

UP, OUT, DOWN, UNKNOWN = "UP", "OUT_OF_SERVICE", "DOWN", "UNKNOWN"
KINDS = ["register", "heartbeat", "cancel", "status", "clear"]


@pytest.fixture
def cluster() -> Iterator[EmbeddedEurekaCluster]:
    """Two nodes that are quick, and give up soon."""
    with EmbeddedEurekaCluster(replication_delay=0.02, retry_timeout=20) as cluster:
        yield cluster


@pytest.fixture
def callers() -> Iterator[Callable[[EmbeddedEurekaCluster], list[Caller]]]:
    """Speak of one instance to every node of a cluster."""
    with ExitStack() as stack:

        def of(cluster: EmbeddedEurekaCluster) -> list[Caller]:
            name = uuid4().hex[:12]
            made = [Caller(url, name) for url in cluster.urls]
            for caller in made:
                stack.enter_context(caller.http)
            return made

        yield of


@pytest.fixture
def two(cluster: EmbeddedEurekaCluster, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> list[Caller]:
    """One instance, spoken of to both nodes."""
    return callers(cluster)


def ways(changes: list[ReplicatedChange]) -> list[tuple[str, int, int, str, int | None]]:
    """What the log says, shortly."""
    return [(each.kind, each.source, each.target, each.outcome, each.status) for each in changes]


def register_on_both(cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
    """Have the instance on both nodes, and an empty log."""
    two[0].register()
    cluster.replication.wait_for("register", "arrived")
    cluster.replication.forget()


class TestDelivery:
    def test_it_takes_its_time(self, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> None:
        """Asynchronous: the client has its answer long before the other node knows."""
        with EmbeddedEurekaCluster(replication_delay=0.4) as cluster:
            here, there = callers(cluster)
            begun = time.monotonic()
            here.register()
            assert there.read() is None
            cluster.replication.wait_for("register", "arrived")
            assert time.monotonic() - begun >= 0.4
            assert there.statuses() == (UP, UNKNOWN)

    def test_every_other_node_hears_it_once(self, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> None:
        """And none passes it on again."""
        with EmbeddedEurekaCluster(nodes=3, replication_delay=0.02) as cluster:
            _, middle, _ = callers(cluster)
            for change in (middle.register, middle.heartbeat, lambda: middle.override(OUT), middle.clear_override):
                change()
            middle.cancel()
            changes = ways(cluster.replication.wait_for("cancel", "arrived", count=2))
            assert sorted(changes) == [("cancel", 1, 0, "arrived", 200), ("cancel", 1, 2, "arrived", 200)]
            targets = [(each.kind.value, each.target) for each in cluster.replication.log()]
            assert sorted(targets) == sorted((kind, target) for kind in KINDS for target in (0, 2))

    def test_nodes_speak_past_what_is_meant_for_clients(
        self, cluster: EmbeddedEurekaCluster, two: list[Caller]
    ) -> None:
        """No fault hits replication, and no request of it is logged."""
        cluster.nodes[1].fail(503)
        two[0].register()
        assert ways(cluster.replication.wait_for("register")) == [("register", 0, 1, "arrived", 204)]
        assert cluster.nodes[1].requests() == []

    def test_credentials_are_those_of_every_node(self) -> None:
        """Inside the URLs, and nodes need none between them."""
        with EmbeddedEurekaCluster(user="u", password="p", replication_delay=0) as cluster:
            here = Caller(cluster.urls[0])
            with here.http:
                assert here.register().status_code == 204
            assert ways(cluster.replication.wait_for("register")) == [("register", 0, 1, "arrived", 204)]


def test_ports_follow_one_another() -> None:
    """From the one that was given."""
    cluster = EmbeddedEurekaCluster(nodes=3, port=8761)
    assert [node.address.split(":")[2] for node in cluster.nodes] == ["8761/eureka", "8762/eureka", "8763/eureka"]


class TestFaults:
    def test_dropped(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """Lost for good: a later change arrives, this one never."""
        register_on_both(cluster, two)
        cluster.replication.drop("status")
        two[0].override(OUT)
        two[0].heartbeat()
        assert ways(cluster.replication.wait_for("heartbeat", "arrived")) == [("heartbeat", 0, 1, "arrived", 200)]
        assert ways(cluster.replication.log("status")) == [("status", 0, 1, "dropped", None)]
        assert [caller.statuses() for caller in two] == [(OUT, OUT), (UP, UNKNOWN)]

    def test_everything_dropped(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """No kind named means all."""
        cluster.replication.drop()
        for change in (two[0].register, two[0].heartbeat, two[0].cancel):
            change()
        assert [each.kind for each in cluster.replication.log(outcome="dropped")] == ["register", "heartbeat", "cancel"]
        assert cluster.replication.log(outcome="arrived") == []

    @pytest.mark.parametrize("way", [{"source": 0}, {"target": 1}, {"source": 0, "target": 1}])
    def test_one_way_only(self, cluster: EmbeddedEurekaCluster, two: list[Caller], way: dict[str, int]) -> None:
        """The other direction works."""
        register_on_both(cluster, two)
        cluster.replication.drop("status", **way)
        two[0].override(OUT)
        two[1].override(DOWN)
        cluster.replication.wait_for("status", "arrived")
        assert [caller.statuses() for caller in two] == [(DOWN, DOWN), (DOWN, DOWN)]
        assert ways(cluster.replication.log("status")) == [
            ("status", 0, 1, "dropped", None),
            ("status", 1, 0, "arrived", 200),
        ]

    def test_held(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """It arrives as it was, after what was done later: a stale UP."""
        cluster.replication.hold("register")
        two[0].register()
        two[0].override(OUT)
        assert ways(cluster.replication.wait_for("status", "arrived")) == [("status", 0, 1, "arrived", 404)]
        assert two[1].read() is None
        with pytest.raises(TimeoutError, match="were they held or cut off"):
            cluster.replication.wait_until_quiet(timeout=0.01)
        cluster.replication.heal()
        cluster.replication.wait_until_quiet()
        assert [caller.statuses() for caller in two] == [(OUT, OUT), (UP, UNKNOWN)]

    def test_slowed_down(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """Overtaken by what is not."""
        cluster.replication.slow_down(0.3, "register")
        two[0].register()
        two[0].heartbeat()
        cluster.replication.wait_for("register", "arrived", count=2)
        assert [(each.kind, each.status) for each in cluster.replication.log()] == [
            ("heartbeat", 404),
            ("register", 204),
            ("register", 204),
        ]

    def test_the_newest_rule_counts(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """As with the faults of a single node."""
        cluster.replication.drop()
        cluster.replication.slow_down(0, "register")
        two[0].register()
        two[0].heartbeat()
        outcomes = {each.kind: each.outcome for each in cluster.replication.wait_for(count=2)}
        assert outcomes == {"register": "arrived", "heartbeat": "dropped"}

    def test_cut_and_healed(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """What was said in the meantime is said in its order, of each kind the newest."""
        register_on_both(cluster, two)
        cluster.replication.cut(1, 0)
        two[0].override(DOWN)
        two[0].heartbeat()
        two[0].override(OUT)
        two[1].heartbeat()
        with pytest.raises(TimeoutError, match="0 of 1 changes"):
            cluster.replication.wait_for(timeout=0.3)
        assert two[1].statuses() == (UP, UNKNOWN)
        cluster.replication.heal()
        cluster.replication.wait_until_quiet()
        changes = [(each.kind, each.target) for each in cluster.replication.log()]
        assert [kind for kind, target in changes if target == 1] == ["status", "heartbeat"]
        assert [kind for kind, target in changes if target == 0] == ["heartbeat"]
        assert two[1].statuses() == (OUT, OUT)

    def test_cut_off_for_too_long(self, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> None:
        """Given up, and not made up for when they reach each other again."""
        with EmbeddedEurekaCluster(replication_delay=0.02, retry_timeout=0.2) as cluster:
            two = callers(cluster)
            register_on_both(cluster, two)
            cluster.replication.cut(0, 1)
            two[0].override(OUT)
            assert ways(cluster.replication.wait_for("status")) == [("status", 0, 1, "expired", None)]
            cluster.replication.heal()
            two[0].heartbeat()
            cluster.replication.wait_for("heartbeat", "arrived")
            assert two[1].statuses() == (UP, UNKNOWN)

    def test_only_the_two_are_cut_off(self, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> None:
        """A third one hears both."""
        with EmbeddedEurekaCluster(nodes=3, replication_delay=0.02) as cluster:
            cluster.replication.cut(0, 1)
            first, second, third = callers(cluster)
            first.register()
            cluster.replication.wait_for("register", "arrived")
            second.register(status=DOWN)
            cluster.replication.wait_for("register", "arrived", count=2)
            assert (first.statuses(), third.statuses()) == ((UP, UNKNOWN), (DOWN, UNKNOWN))

    def test_a_node_that_is_away(self, cluster: EmbeddedEurekaCluster, two: list[Caller]) -> None:
        """It is told when it is back."""
        cluster.nodes[1].stop()
        two[0].register()
        two[0].override(OUT)
        cluster.nodes[1].start()
        cluster.replication.wait_for("status", "arrived")
        assert two[1].statuses() == (OUT, OUT)

    def test_a_new_change_does_not_wait_for_an_older_one(
        self, cluster: EmbeddedEurekaCluster, two: list[Caller]
    ) -> None:
        """Even while there is nothing else to wait for than the slow one."""
        cluster.replication.slow_down(30, "register")
        two[0].register()
        two[0].heartbeat()
        cluster.replication.wait_for("heartbeat", "arrived", timeout=5)


class TestMistakes:
    @pytest.mark.parametrize("wrong", [{"nodes": 1}, {"replication_delay": -1}, {"retry_timeout": -0.1}])
    def test_of_a_cluster(self, wrong: dict[str, Any]) -> None:
        """Say what was given and what to do."""
        with pytest.raises(ValueError, match=r"use 2 nodes|give 0 or more"):
            EmbeddedEurekaCluster(**wrong)

    def test_of_a_rule(self, cluster: EmbeddedEurekaCluster) -> None:
        """So do these."""
        with pytest.raises(ValueError, match=r"no change of kind 'all': use some of register, heartbeat"):
            cluster.replication.drop("all")
        with pytest.raises(ValueError, match=r"no node 2: use 0 to 1"):
            cluster.replication.hold(target=2)
        with pytest.raises(ValueError, match=r"no node -1"):
            cluster.replication.cut(-1, 0)
        with pytest.raises(ValueError, match=r"cut off from itself"):
            cluster.replication.cut(1, 1)
        with pytest.raises(ValueError, match=r"is -1 s: give 0 or more"):
            cluster.replication.slow_down(-1)

    def test_a_start_that_fails_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first node ends when the second does not come up."""
        cluster = EmbeddedEurekaCluster()
        monkeypatch.setattr(cluster.nodes[1], "start", cluster.nodes[0].start)
        with pytest.raises(RuntimeError, match="runs already"), cluster:
            pass
        cluster.nodes[0].start()
        cluster.nodes[0].stop()

    def test_a_cluster_can_be_started_again(self, callers: Callable[[EmbeddedEurekaCluster], list[Caller]]) -> None:
        """Empty, on the same ports, and what was on its way is lost."""
        cluster = EmbeddedEurekaCluster(replication_delay=0.02)
        with cluster:
            urls = cluster.urls
            cluster.replication.hold()
            here, there = callers(cluster)
            here.register()
        with cluster:
            assert cluster.urls == urls
            cluster.replication.heal()
            cluster.replication.wait_until_quiet()
            here, there = callers(cluster)
            assert cluster.replication.log(outcome="arrived") == []
            here.register()
            wait_until(lambda: there.statuses() == (UP, UNKNOWN), "it is replicated")
