"""The contract of two Eureka servers that replicate, kept by the embedded pair and by a real one alike.

A change that only one server knows is made with the header of a peer: it is not passed on. That something is *not*
passed on is seen by a marker, a later change that is.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.eureka_caller import XML, Caller, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.eureka_servers import EurekaPair

UP, OUT, DOWN, UNKNOWN = "UP", "OUT_OF_SERVICE", "DOWN", "UNKNOWN"
INSTANTS = ("lastUpdatedTimestamp", "leaseInfo")

Two = tuple[Caller, Caller]


@pytest.fixture
def two(eureka_pair: EurekaPair) -> Iterator[Two]:
    """The same app and instance, spoken of to the first and to the second server."""
    name = uuid4().hex[:12]
    here, there = (Caller(node.url, name) for node in eureka_pair.nodes)
    with here.http, there.http:
        yield here, there
        for caller in (here, there):
            caller.as_peer().cancel()


def reads(caller: Caller, expected: tuple[str, str] | None) -> None:
    """Wait until the server reads this."""
    wait_until(lambda: caller.statuses() == expected, f"the server reads {expected}")


def on_both(two: Two, **changes: str) -> None:
    """Have the instance on both servers."""
    here, there = two
    here.register(**changes)
    reads(there, (UP, UNKNOWN))


def two_of_a_kind(two: Two) -> Two:
    """Another app and instance, spoken of to the same servers."""
    name = uuid4().hex[:12]
    here, there = (Caller(str(caller.http.base_url), name) for caller in two)
    return here, there


def everything_has_arrived(two: Two) -> None:
    """Wait until a change made now is known on the other server: what came before has arrived, or never will."""
    here, there = two_of_a_kind(two)
    with here.http, there.http:
        here.register()
        reads(there, (UP, UNKNOWN))
        here.cancel()
        reads(there, None)


class TestPassedOn:
    @pytest.mark.parametrize("order", [1, -1], ids=["first to second", "second to first"])
    def test_a_registration(self, two: Two, order: int) -> None:
        """With every field."""
        here, there = two[::order]
        here.register(metadata={"zone": "a"}, vipAddress="orders", lastDirtyTimestamp="1700000000000")
        reads(there, (UP, UNKNOWN))
        seen = [(caller.read() or {}) | dict.fromkeys(INSTANTS) for caller in two]
        assert seen[0] == seen[1]

    def test_an_override_and_its_end(self, two: Two) -> None:
        """With the status it has then, and the newer timestamp."""
        here, there = two
        on_both(two, lastDirtyTimestamp="1000")
        here.override(OUT, lastDirtyTimestamp="2000")
        reads(there, (OUT, OUT))
        assert (there.read() or {})["lastDirtyTimestamp"] == "2000"
        here.clear_override(UP)
        reads(there, (UP, UNKNOWN))

    def test_the_end_of_an_override_without_a_value(self, two: Two) -> None:
        """UNKNOWN there as well."""
        here, there = two
        on_both(two)
        here.override(OUT)
        reads(there, (OUT, OUT))
        here.clear_override()
        reads(there, (UNKNOWN, UNKNOWN))

    def test_a_cancel(self, two: Two) -> None:
        """The override goes too: the next life begins UP on both."""
        here, there = two
        on_both(two)
        here.override(OUT)
        reads(there, (OUT, OUT))
        here.cancel()
        reads(there, None)
        there.register()
        assert there.statuses() == (UP, UNKNOWN)
        reads(here, (UP, UNKNOWN))

    def test_metadata(self, two: Two) -> None:
        """As a registration."""
        here, there = two
        on_both(two)
        here.http.put(f"/apps/{here.app}/{here.id}/metadata", params={"zone": "b"})
        wait_until(lambda: (there.read() or {})["metadata"] == {"zone": "b"}, "the metadata arrives")


class TestNotPassedOn:
    def test_what_a_peer_has_sent(self, two: Two) -> None:
        """Neither a registration nor any change of it."""
        here, there = two
        here.as_peer().register()
        everything_has_arrived(two)
        assert there.read() is None
        on_both(two)
        here.as_peer().override(OUT)
        everything_has_arrived(two)
        assert there.statuses() == (UP, UNKNOWN)
        here.as_peer().cancel()
        everything_has_arrived(two)
        assert there.statuses() == (UP, UNKNOWN)

    def test_a_cancel_of_what_is_not_there(self, two: Two) -> None:
        """404, and the other server keeps what it has."""
        here, there = two
        there.as_peer().register()
        assert here.cancel().status_code == 404
        everything_has_arrived(two)
        assert there.statuses() == (UP, UNKNOWN)

    def test_an_override_where_the_instance_is_not_known(self, two: Two) -> None:
        """It is lost."""
        here, there = two
        here.as_peer().register()
        here.override(OUT)
        everything_has_arrived(two)
        assert there.read() is None


class TestRepairs:
    def test_a_heartbeat_brings_an_instance_that_is_missing(self, two: Two) -> None:
        """The peer answers 404 and is sent the registration, override included."""
        here, there = two
        here.as_peer().register()
        here.as_peer().override(OUT)
        assert here.heartbeat().status_code == 200
        reads(there, (OUT, OUT))

    def test_a_heartbeat_does_not_bring_a_lost_override(self, two: Two) -> None:
        """As long as the timestamps are equal, the servers differ for ever."""
        here, there = two
        on_both(two)
        here.as_peer().override(OUT)
        assert here.heartbeat().status_code == 200
        everything_has_arrived(two)
        assert here.statuses() == (OUT, OUT)
        assert there.statuses() == (UP, UNKNOWN)

    def test_a_newer_timestamp_brings_a_lost_override(self, two: Two) -> None:
        """An override with `lastDirtyTimestamp` is made up for by the next heartbeat."""
        here, there = two
        on_both(two, lastDirtyTimestamp="1000")
        here.as_peer().override(OUT, lastDirtyTimestamp="2000")
        assert here.heartbeat().status_code == 200
        reads(there, (OUT, OUT))

    def test_a_heartbeat_to_a_server_that_is_behind_brings_it_up_to_date(self, two: Two) -> None:
        """The peer answers 409 with what it knows, and that is taken over, override included."""
        here, there = two
        on_both(two, lastDirtyTimestamp="1000")
        there.as_peer().override(OUT, lastDirtyTimestamp="2000")
        assert here.heartbeat(lastDirtyTimestamp="1000").status_code == 200
        reads(here, (OUT, OUT))

    def test_what_the_peer_knows_replaces_an_older_override(self, two: Two) -> None:
        """An override that the peer has lifted since is not kept because it was there first."""
        here, there = two
        on_both(two, lastDirtyTimestamp="1000")
        here.override(OUT)
        reads(there, (OUT, OUT))
        there.as_peer().override(UP, lastDirtyTimestamp="2000")
        assert here.heartbeat(lastDirtyTimestamp="1000").status_code == 200
        reads(here, (UP, UP))

    def test_a_heartbeat_undoes_a_cancel_that_was_lost(self, two: Two) -> None:
        """The server that has not heard of it passes the instance on as soon as it is sent a heartbeat."""
        here, there = two
        on_both(two)
        here.as_peer().cancel()
        assert here.read() is None
        assert there.heartbeat().status_code == 200
        reads(here, (UP, UNKNOWN))


def test_a_restart(eureka_pair: EurekaPair, two: Two) -> None:
    """A server comes back empty, until a heartbeat to the other brings the instance; what came meanwhile it is told."""
    here, there = two
    on_both(two)
    here.override(OUT)
    reads(there, (OUT, OUT))
    late = two_of_a_kind(two)
    # A registration is kept for a peer that is away for as long as its heartbeats are apart.
    eureka_pair.restart(1, lambda: late[0].register(leaseInfo={"renewalIntervalInSecs": 300, "durationInSecs": 900}))
    with closing(late[0].http), closing(late[1].http):
        reads(late[1], (UP, UNKNOWN))
        late[0].cancel()
        reads(late[1], None)
    everything_has_arrived(two)
    assert there.read() is None
    assert there.heartbeat().status_code == 404
    assert there.override(OUT).status_code == 404
    assert here.heartbeat().status_code == 200
    reads(there, (OUT, OUT))


def test_the_status_page(eureka_pair: EurekaPair) -> None:
    """Each server names the other, in XML; it cannot say so in JSON."""
    for node, peer in zip(eureka_pair.nodes, reversed(eureka_pair.nodes), strict=True):
        caller = Caller(node.url)
        with caller.http:
            page = caller.get("/status", XML)
            assert page.status_code == 200
            assert f"<registered-replicas>{peer.address}/" in page.text
            assert caller.get("/status").status_code == 500
