"""Twenty rollouts in a row, under load, and not one request is lost."""

from pathlib import Path

import pytest

from graceful.rehearsal.exchange import Outcome
from graceful.rehearsal.rollout import WAYS, Conditions, Way, under_load
from tests.rehearsal_server import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

ROLLOUTS = 20
REQUESTS = 20_000
# News takes up to 1.6 s instead of 95; 16 callers, each with kept connections of its own and some that are new.
CONDITIONS = Conditions(factor=1 / 60, rate=350, replicas=2, callers=16)

BY_HOOK = next(way for way in WAYS if way.name == "graceful")
BY_SIGNAL = Way("graceful, without a hook", BY_HOOK.app, lambda _conditions: None)


@pytest.fixture
def anyio_backend() -> str:
    """The rehearsal runs on asyncio."""
    return "asyncio"


@pytest.mark.parametrize("way", [BY_HOOK, BY_SIGNAL], ids=["hook and SIGTERM", "SIGTERM alone"])
async def test_twenty_rollouts_lose_nothing(way: Way, tmp_path: Path) -> None:
    """Every pod is replaced twenty times while the callers' lists are always a little old."""
    async with under_load(way, CONDITIONS, tmp_path) as rollout:
        for _ in range(ROLLOUTS):
            await rollout.replace_together()
        assert await rollout.settle() == 0
        await until(lambda: rollout.callers.tally.sent >= REQUESTS, within=60)

    tally = rollout.callers.tally
    assert dict(tally.reasons) == {}
    assert tally.outcomes == {Outcome.ANSWERED: tally.sent}
    assert tally.sent >= REQUESTS
    hook_exit = None if way is BY_SIGNAL else 0
    assert len(rollout.departures) == ROLLOUTS * CONDITIONS.replicas
    assert {(left.exit_code, left.hook_exit, left.killed) for left in rollout.departures} == {(0, hook_exit, False)}
    # Nobody left before the news could have reached everyone.
    assert min(left.seconds for left in rollout.departures) >= CONDITIONS.cadence.bound
