"""graceful's registration against two servers that replicate, while replication loses, delays and reorders."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from graceful.core.registry import Verdict
from graceful.eureka.rest import Server, Status
from graceful.eureka.status import now_ms
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster
from tests.test_eureka_registration import INSTANCE, KEY, messages, received, registration, running, soon, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from graceful.core.registry import RegistryOutcome
    from graceful.eureka.registration import EurekaRegistration
    from graceful.rehearsal.eureka_replication import Outcome

pytestmark = pytest.mark.anyio

KINDS = ["register", "heartbeat", "cancel", "status", "clear"]
WITHDRAWN = {None, Status.OUT_OF_SERVICE}


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


@pytest.fixture
def cluster() -> Iterator[EmbeddedEurekaCluster]:
    """Two quick nodes."""
    with EmbeddedEurekaCluster(replication_delay=0.02) as cluster:
        yield cluster


async def statuses(cluster: EmbeddedEurekaCluster) -> list[Status | None]:
    """What a neutral observer reads from every node."""
    return [await Server(url).read(*KEY) for url in cluster.urls]


async def replicated(cluster: EmbeddedEurekaCluster, kind: str, outcome: Outcome = "arrived", count: int = 1) -> None:
    """Wait until so many such changes have had this outcome."""
    await anyio.to_thread.run_sync(lambda: cluster.replication.wait_for(kind, outcome, count=count))


async def quiet(cluster: EmbeddedEurekaCluster) -> None:
    """Wait until the nodes have nothing to say to each other."""
    await anyio.to_thread.run_sync(cluster.replication.wait_until_quiet)


@asynccontextmanager
async def serving(cluster: EmbeddedEurekaCluster, registry: EurekaRegistration) -> AsyncIterator[None]:
    """Have the instance UP on the first node, whatever the second has heard of it."""
    await registry.start()
    async with running(registry.serve):
        await until(cluster.nodes[0], Status.UP)
        yield


@asynccontextmanager
async def serving_on_both(cluster: EmbeddedEurekaCluster, registry: EurekaRegistration) -> AsyncIterator[None]:
    """Have the instance UP on both nodes."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(cluster, registry))
        await until(cluster.nodes[1], Status.UP)
        yield


def details(outcome: RegistryOutcome) -> list[str]:
    """What the servers said."""
    return [result.detail for result in outcome.servers]


# --- the start ------------------------------------------------------------------------------------------------------


async def test_a_former_life_whose_deletion_is_lost(cluster: EmbeddedEurekaCluster) -> None:
    """Deleted on one node, and on the other as well when it has not heard of it; UP on both then."""
    first = Server(cluster.urls[0])
    await first.register(INSTANCE, now_ms())
    await until(cluster.nodes[1], Status.UP)
    await first.set_status(*KEY, Status.OUT_OF_SERVICE, now_ms())
    await until(cluster.nodes[1], Status.OUT_OF_SERVICE)
    cluster.replication.drop("cancel")
    async with serving_on_both(cluster, registration(*cluster.urls)):
        assert [len(node.requests("DELETE")) for node in cluster.nodes] == [1, 1]


# --- while serving --------------------------------------------------------------------------------------------------


async def test_a_lost_registration_is_made_up_for(cluster: EmbeddedEurekaCluster) -> None:
    """The next heartbeat finds out, and the node sends it again."""
    cluster.replication.drop("register")
    async with serving(cluster, registration(*cluster.urls)):
        await replicated(cluster, "register", "dropped")
        assert await statuses(cluster) == [Status.UP, None]
        cluster.replication.heal()
        await until(cluster.nodes[1], Status.UP)
    assert cluster.nodes[1].requests("POST") == []


@pytest.mark.parametrize("number", [0, 1])
async def test_a_node_restarts(cluster: EmbeddedEurekaCluster, number: int) -> None:
    """The one that hears the heartbeats, or the other: UP on both again."""
    async with serving_on_both(cluster, registration(*cluster.urls)):
        cluster.nodes[number].stop()
        cluster.nodes[number].start()
        for node in cluster.nodes:
            await until(node, Status.UP)


# --- the withdrawal -------------------------------------------------------------------------------------------------


async def test_a_lost_status_is_seen_by_those_who_ask_every_server(cluster: EmbeddedEurekaCluster) -> None:
    """Both are told and read, so that replication does not matter."""
    registry = registration(*cluster.urls)
    async with serving_on_both(cluster, registry):
        cluster.replication.drop("status")
        outcome = await registry.withdraw(soon())
    assert (outcome.verdict, details(outcome)) == (Verdict.VERIFIED_ALL, ["OUT_OF_SERVICE"] * 2)
    assert await statuses(cluster) == [Status.OUT_OF_SERVICE] * 2
    assert cluster.replication.log("status", "arrived") == []


async def test_a_lost_status_is_not_seen_by_those_who_ask_one(cluster: EmbeddedEurekaCluster) -> None:
    """With one server configured the other goes on saying UP: every server of a cluster has to be configured."""
    registry = registration(cluster.urls[0])
    async with serving_on_both(cluster, registry):
        cluster.replication.drop("status")
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert await statuses(cluster) == [Status.OUT_OF_SERVICE, Status.UP]


async def test_nodes_that_do_not_reach_each_other(cluster: EmbeddedEurekaCluster) -> None:
    """Both verified; and what they say to each other afterwards makes nothing UP."""
    registry = registration(*cluster.urls)
    async with serving_on_both(cluster, registry):
        cluster.replication.cut(0, 1)
        outcome = await registry.withdraw(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    async with running(registry.keep_withdrawn):
        cluster.replication.forget()
        cluster.replication.heal()
        await replicated(cluster, "status", count=2)
        assert await statuses(cluster) == [Status.OUT_OF_SERVICE] * 2


async def test_a_registration_that_is_replicated_late(
    cluster: EmbeddedEurekaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that read absent is UP in the end: whoever keeps withdrawn takes it back."""
    cluster.replication.hold("register")
    registry = registration(*cluster.urls)
    async with serving(cluster, registry):
        outcome = await registry.withdraw(soon())
    assert (outcome.verdict, details(outcome)) == (Verdict.VERIFIED_ALL, ["OUT_OF_SERVICE", "absent"])
    # The status, which found nobody there, must not be the one that takes it back.
    await replicated(cluster, "status", count=len(cluster.nodes[0].requests("PUT", "/status$")))
    async with running(registry.keep_withdrawn):
        cluster.replication.heal()
        await replicated(cluster, "register")
        await until(cluster.nodes[1], Status.OUT_OF_SERVICE)
    assert any("is UP again on" in message for message in messages(caplog))
    assert await statuses(cluster) == [Status.OUT_OF_SERVICE] * 2


@pytest.mark.parametrize("number", [0, 1])
async def test_a_node_restarts_in_the_middle_of_a_leave(cluster: EmbeddedEurekaCluster, number: int) -> None:
    """It comes back empty and stays so: nothing registers there any more. The other is OUT_OF_SERVICE throughout."""
    registry = registration(*cluster.urls)
    async with serving_on_both(cluster, registry):
        assert (await registry.withdraw(soon())).verdict is Verdict.VERIFIED_ALL
    async with running(registry.keep_withdrawn):
        cluster.nodes[number].stop()
        cluster.nodes[number].start()
        cluster.nodes[number].forget_requests()
        await received(cluster.nodes[number], "GET", None, 5)
        expected: list[Status | None] = [Status.OUT_OF_SERVICE] * 2
        expected[number] = None
        assert await statuses(cluster) == expected
    outcome = await registry.deregister(soon())
    assert (outcome.verdict, details(outcome)) == (Verdict.VERIFIED_ALL, ["absent"] * 2)
    assert await statuses(cluster) == [None, None]


async def test_a_node_that_is_away_hears_the_rest_when_it_is_back(cluster: EmbeddedEurekaCluster) -> None:
    """A node that was down when the leave began, and was told of the registration only then: withdrawn as well."""
    registry = registration(*cluster.urls)
    async with serving(cluster, registry):
        cluster.nodes[1].stop()
        await received(cluster.nodes[0], "PUT", r"/orders/[^/]+$", 3)
        outcome = await registry.withdraw(soon(0.5))
    assert outcome.verdict is Verdict.VERIFIED_SOME
    async with running(registry.keep_withdrawn):
        # The heartbeats that were kept for it meet an empty node, and bring the registration.
        cluster.nodes[1].start()
        await until(cluster.nodes[1], Status.OUT_OF_SERVICE)


# --- the end --------------------------------------------------------------------------------------------------------


async def test_a_lost_cancel(cluster: EmbeddedEurekaCluster) -> None:
    """Every server is told, and every server is looked at."""
    registry = registration(*cluster.urls)
    async with serving_on_both(cluster, registry):
        await registry.withdraw(soon())
    cluster.replication.drop("cancel")
    outcome = await registry.deregister(soon())
    assert (outcome.verdict, details(outcome)) == (Verdict.VERIFIED_ALL, ["absent"] * 2)
    assert await statuses(cluster) == [None, None]
    assert [len(node.requests("DELETE")) for node in cluster.nodes] == [1, 1]


async def test_an_instance_that_comes_back_is_deleted_again(
    cluster: EmbeddedEurekaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A registration arrives between the deletion and the look afterwards: a second deletion, on that node alone."""
    cluster.replication.hold("register")
    registry = registration(*cluster.urls, try_timeout=5.0)
    async with serving(cluster, registry):
        await registry.withdraw(soon())
    for node in cluster.nodes:
        node.forget_requests()
    cluster.nodes[1].delay(0.5, method="GET", count=1)
    outcomes: list[RegistryOutcome] = []

    async def deregister() -> None:
        outcomes.append(await registry.deregister(soon()))

    async with running(deregister):
        await received(cluster.nodes[1], "GET")
        await replicated(cluster, "cancel")
        cluster.replication.heal()
        await received(cluster.nodes[1], "DELETE", None, 2)
        await until(cluster.nodes[1], None)
        with anyio.fail_after(10):
            while not outcomes:  # noqa: ASYNC110 - the answer to the second deletion is on its way
                await anyio.sleep(0.01)
    assert outcomes[0].verdict is Verdict.VERIFIED_ALL
    assert [len(node.requests("DELETE")) for node in cluster.nodes] == [1, 2]
    assert any("there again: deleting it" in message for message in messages(caplog))
    assert await statuses(cluster) == [None, None]


async def test_a_registration_that_is_replicated_after_the_confirmation_is_deleted(
    cluster: EmbeddedEurekaCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Both nodes were seen to be without it: the last look finds it, and deletes it on that node."""
    cluster.replication.hold("register")
    registry = registration(*cluster.urls)
    async with serving(cluster, registry):
        await registry.withdraw(soon())
    for node in cluster.nodes:
        node.forget_requests()

    async def heal() -> None:
        # The second look is one after the confirmation.
        for node in cluster.nodes:
            await received(node, "GET", None, 2)
        cluster.replication.heal()

    async with running(heal):
        outcome = await registry.deregister(soon())
    assert outcome.verdict is Verdict.VERIFIED_ALL
    assert [len(node.requests("DELETE")) for node in cluster.nodes] == [1, 2]
    assert any("there again: deleting it" in message for message in messages(caplog))
    assert await statuses(cluster) == [None, None]


# --- whatever goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop", "hold", "slow down"])
@pytest.mark.parametrize("kind", KINDS)
async def test_never_up_once_verified_and_kept(cluster: EmbeddedEurekaCluster, kind: str, fault: str) -> None:
    """A kind of change that is lost, stuck or late: withdrawn on both while it is looked after, and absent then."""
    faults = {
        "drop": lambda: cluster.replication.drop(kind),
        "hold": lambda: cluster.replication.hold(kind),
        "slow down": lambda: cluster.replication.slow_down(0.3, kind),
    }
    faults[fault]()
    registry = registration(*cluster.urls)
    async with serving(cluster, registry):
        await received(cluster.nodes[0], "PUT", r"/orders/[^/]+$", 2)
        assert (await registry.withdraw(soon())).verdict is Verdict.VERIFIED_ALL
    async with running(registry.keep_withdrawn):
        cluster.replication.heal()
        await quiet(cluster)
        with anyio.fail_after(10):
            while not set(await statuses(cluster)) <= WITHDRAWN:  # noqa: ASYNC110 - it happens in another thread
                await anyio.sleep(0.01)
    # What the last withdrawal has set off, too: a deletion must be the last word.
    await quiet(cluster)
    assert (await registry.deregister(soon())).verdict is Verdict.VERIFIED_ALL
    assert await statuses(cluster) == [None, None]
