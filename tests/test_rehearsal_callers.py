"""Callers believe what their caches say, and every request of theirs is accounted for."""

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.rehearsal.callers import SPRING_DEFAULTS, Cadence, Caller, Callers, Tally, up_instances
from graceful.rehearsal.eureka import EmbeddedEureka
from graceful.rehearsal.exchange import Address, Outcome, Result
from tests.rehearsal_server import FAILED, WHOLE, Answer, ScriptedServer, closed_address, scripted, until

pytestmark = pytest.mark.anyio

NEVER = Cadence(server_cache=3600.0, fetch=3600.0, load_balancer=3600.0)


@pytest.fixture
def anyio_backend() -> str:
    """The rehearsal runs on asyncio."""
    return "asyncio"


def registry(*addresses: Address, status: str = "UP") -> bytes:
    """What Eureka answers to `GET apps`, as bytes of HTTP."""
    instances = [{"ipAddr": host, "port": {"$": port}, "status": status} for host, port in addresses]
    body = json.dumps({"applications": {"application": [{"name": "ORDERS", "instance": instances}]}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def url(server: ScriptedServer) -> str:
    return f"http://{server.address[0]}:{server.address[1]}/eureka"


def caller_of(server: ScriptedServer, cadence: Cadence = NEVER) -> Caller:
    return Caller(url(server), "orders", cadence, random.Random(1))


def test_the_defaults_come_to_95_seconds() -> None:
    """30 s of response cache, 30 s until the next fetch, 35 s of load-balancer cache."""
    assert SPRING_DEFAULTS.bound == 95.0


@given(st.floats(min_value=1e-4, max_value=1.0))
def test_one_factor_scales_the_whole_chain(factor: float) -> None:
    """The proportions stay."""
    assert SPRING_DEFAULTS.scaled(factor).bound == pytest.approx(95.0 * factor)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"applications": {"application": [{"name": "ORDERS"}]}}'])
def test_what_is_no_registry_is_refused(document: bytes) -> None:
    """Rather than taken for an empty one."""
    with pytest.raises(ValueError):
        up_instances(document, "orders")


def test_only_up_instances_of_the_application_are_called() -> None:
    """A single instance may come as itself, and not in a list."""
    instance = {"ipAddr": "10.0.0.1", "port": {"$": 80, "@enabled": "true"}, "status": "UP"}
    applications = [
        {"name": "ORDERS", "instance": [instance, {**instance, "ipAddr": "10.0.0.2", "status": "OUT_OF_SERVICE"}]},
        {"name": "OTHERS", "instance": [{**instance, "ipAddr": "10.0.0.3"}]},
        {"name": "orders", "instance": {**instance, "ipAddr": "10.0.0.4", "port": {"$": "81"}}},
    ]
    document = json.dumps({"applications": {"application": applications}}).encode()

    assert up_instances(document, "Orders") == (("10.0.0.1", 80), ("10.0.0.4", 81))


async def test_the_registry_of_the_embedded_eureka_is_understood() -> None:
    """The callers read what the demo's own server writes."""
    with EmbeddedEureka(cache_interval=60.0) as eureka:
        caller = Caller(eureka.url, "orders", NEVER, random.Random(1))
        assert await asyncio.wait_for(caller.fetch(), 10)


async def test_a_load_balancer_keeps_its_list_for_its_whole_time() -> None:
    """News that was fetched is used only when the list has grown old."""
    old, new = ("10.0.0.1", 80), ("10.0.0.2", 80)
    async with scripted(Answer(registry(old)), Answer(registry(new))) as eureka:
        caller = caller_of(eureka, Cadence(1.0, 1.0, load_balancer=10.0))
        await caller.fetch()
        assert caller.instances(100.0) == (old,)
        await caller.fetch()

        assert caller.instances(109.9) == (old,)
        assert caller.knows(old)
        assert caller.knows(new)
        assert caller.instances(110.0) == (new,)
        assert not caller.knows(old)


@pytest.mark.parametrize("answer", [FAILED, WHOLE], ids=["503", "no registry"])
async def test_a_fetch_that_fails_leaves_what_was_known(answer: bytes) -> None:
    """Eureka in trouble does not empty the callers' lists."""
    address = ("10.0.0.1", 80)
    async with scripted(Answer(registry(address)), Answer(answer)) as eureka:
        caller = caller_of(eureka)

        assert await caller.fetch()
        assert not await caller.fetch()
        assert caller.instances(0.0) == (address,)


async def test_instances_take_turns() -> None:
    """Round robin over what is UP, on connections of their own and on kept ones."""
    async with (
        scripted(Answer(WHOLE), again=True) as one,
        scripted(Answer(WHOLE), again=True) as two,
        scripted(Answer(registry(one.address, two.address))) as eureka,
    ):
        caller = caller_of(eureka)
        await caller.fetch()
        for number in range(8):
            assert (await caller.call("/", fresh=number < 2)).outcome is Outcome.ANSWERED
        caller.close()

    assert (len(one.requests), len(two.requests)) == (4, 4)
    assert (one.connections, two.connections) == (2, 2)


async def test_a_caller_without_an_instance_has_lost_its_request() -> None:
    """The load balancer's own 503 is a loss to whoever called."""
    async with scripted(Answer(registry(("10.0.0.1", 80), status="DOWN"))) as eureka:
        caller = caller_of(eureka)
        await caller.fetch()

        assert await caller.call("/", fresh=True) == Result(Outcome.REFUSED, "no instance known")


def test_a_tally_has_a_place_for_every_outcome() -> None:
    """Lost is all but answered, and has a reason."""
    tally = Tally()
    for outcome in Outcome:
        tally.add(Result(outcome, "why"))

    assert (tally.answered, tally.lost) == (1, 3)
    assert tally.reasons == {"refused: why": 1, "cut: why": 1, "5xx: why": 1}


async def test_every_request_is_accounted_for_exactly() -> None:
    """Three instances that answer, fail, cut and refuse: the callers' books agree with the servers'."""
    script = [Answer(WHOLE), Answer(FAILED), Answer(WHOLE[:-1], "close"), Answer(b"", "reset")]
    async with scripted(*script, again=True) as bad, scripted(Answer(WHOLE), again=True) as good:
        addresses = (good.address, bad.address, closed_address())
        async with scripted(Answer(registry(*addresses)), again=True) as eureka:
            async with Callers(url(eureka), "orders", NEVER, count=4, rate=400) as callers:
                await until(lambda: callers.tally.sent >= 200)
            tally = callers.tally

    whole_rounds, rest = divmod(len(bad.requests), len(script))
    assert tally.sent == tally.outcomes.total()
    assert tally.answered == len(good.requests) + whole_rounds + (rest > 0)
    assert tally.outcomes[Outcome.SERVER_ERROR] == whole_rounds + (rest > 1)
    assert tally.outcomes[Outcome.CUT] == 2 * whole_rounds + (rest > 2)
    assert tally.outcomes[Outcome.REFUSED] == tally.sent - len(good.requests) - len(bad.requests)
    assert tally.outcomes[Outcome.REFUSED] > 0


async def test_the_end_waits_for_what_was_sent() -> None:
    """A request that is on its way when the callers stop is not forgotten."""
    async with (
        scripted(Answer(WHOLE[:-1], "hang"), again=True) as slow,
        scripted(Answer(registry(slow.address)), again=True) as eureka,
        Callers(url(eureka), "orders", NEVER, count=2, rate=200) as callers,
    ):
        await until(lambda: len(slow.requests) >= 10)
        assert callers.tally.outcomes.total() == 0
        slow.hanging.set()

    assert callers.tally.sent == callers.tally.outcomes[Outcome.CUT] == len(slow.requests) >= 10


async def test_callers_that_cannot_fetch_do_not_start() -> None:
    """Without a registry there is nobody to call."""
    host, port = closed_address()
    with pytest.raises(ConnectionError, match="could not fetch the registry"):
        async with Callers(f"http://{host}:{port}/eureka", "orders", NEVER):
            pytest.fail("they started")


async def test_callers_follow_what_eureka_says() -> None:
    """An instance that is no longer listed is called no more once the chain of caches is through."""
    async with scripted(Answer(WHOLE), again=True) as old, scripted(Answer(WHOLE), again=True) as new:
        eureka_says = [Answer(registry(old.address))] * 2 + [Answer(registry(new.address))] * 1000
        async with scripted(*eureka_says) as eureka:
            cadence = Cadence(0.0, fetch=0.1, load_balancer=0.1)
            async with Callers(url(eureka), "orders", cadence, count=2, rate=200) as callers:
                assert callers.knows([old.address, new.address]) == {old.address}
                await until(lambda: not callers.knows([old.address]))
                before, seen = len(old.requests), len(new.requests)
                await until(lambda: len(new.requests) >= seen + 20)

    # What had been chosen before the list changed may still have been on its way.
    assert len(old.requests) - before <= 1
    assert callers.tally.lost == 0
