"""The budget: a plan that fits is given whole, one that does not is shortened fairly, and the deadline holds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.core.budget import Budget, BudgetError, Plan, share_of
from graceful.core.caches import CacheChain

PARTS = ["announce", "propagation", "drain", "cleanup", "deregister", "margin"]
EUREKA = Plan(propagation=95)
TINY = 1e-6

seconds = st.floats(0, 86_400) | st.integers(0, 300).map(float) | st.just(0.0)
plans = st.builds(Plan, **dict.fromkeys(PARTS, seconds))


def test_the_default_plan_with_eureka_takes_130_seconds() -> None:
    """The number that everything else is written from."""
    assert EUREKA.total == 130
    assert EUREKA.grace_period == 130
    assert (EUREKA.after_wait, EUREKA.after_drain) == (30, 10)
    assert str(EUREKA) == ("announce 5s + propagation 95s + drain 20s + cleanup 5s + deregister 3s + margin 2s = 130s")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, -math.inf, 86_400.1])
def test_a_part_that_is_no_duration_is_refused(part: str, value: float) -> None:
    """The message has the part, its value and what is expected."""
    with pytest.raises(BudgetError, match=rf"^{part} is {value}s; expected between 0 and 86400 seconds"):
        Plan(**{part: value})  # type: ignore[arg-type]


def test_the_grace_period_is_rounded_up_and_never_zero() -> None:
    """Kubernetes counts in whole seconds; 0 would mean SIGKILL at once."""
    nothing: dict[str, Any] = dict.fromkeys(PARTS, 0.0)
    assert Plan(**nothing).grace_period == 1
    assert Plan(**nothing | {"drain": 20.001}).grace_period == 21
    # 0.1 + 0.2 + 0.7 is a little more than 1 in binary, and still 1 second.
    assert Plan(**nothing | {"drain": 0.1, "cleanup": 0.2, "margin": 0.7}).grace_period == 1


def test_a_grace_period_that_is_too_short_is_refused_with_both_facts_and_the_fix() -> None:
    """The plan, the grace period, what to set it to, and what else would help."""
    with pytest.raises(BudgetError) as refusal:
        EUREKA.check(60)
    assert str(refusal.value) == (
        "announce 5s + propagation 95s + drain 20s + cleanup 5s + deregister 3s + margin 2s = 130s does not fit "
        "grace_period 60s; set terminationGracePeriodSeconds (and grace_period) to at least 130, or bring "
        "propagation_delay down to 25s (only if every caller's caches are that fast)"
    )


@pytest.mark.parametrize("plan", [Plan(), EUREKA])
def test_a_shorter_propagation_is_no_advice_where_it_would_not_be_enough(plan: Plan) -> None:
    """With 10 s of grace, 35 s of timeouts are what does not fit."""
    with pytest.raises(BudgetError, match=r"to at least (35|130), or shorten the timeouts$"):
        plan.check(10)


@pytest.mark.parametrize("grace", [0, -5, math.nan, math.inf, 1e9])
def test_a_grace_period_that_is_none_is_refused(grace: float) -> None:
    """Not as too short: as what it is."""
    with pytest.raises(BudgetError, match=rf"^grace_period is {grace}s; expected more than 0 and at most 86400"):
        EUREKA.check(grace)


@given(st.builds(Plan, **dict.fromkeys(PARTS, st.floats(0, 14_400) | st.integers(0, 300).map(float))))
def test_the_grace_period_of_a_plan_fits_it_and_a_second_less_does_not(plan: Plan) -> None:
    """What the message tells a user to set is accepted, and is not more than needed."""
    plan.check(plan.grace_period)
    if plan.grace_period > 1:
        with pytest.raises(BudgetError):
            plan.check(plan.grace_period - 1)


@given(plans, st.floats(0.001, 86_400))
def test_the_advice_of_a_refusal_is_right(plan: Plan, grace: float) -> None:
    """A propagation delay brought down as the message says does fit."""
    try:
        plan.check(grace)
    except BudgetError as refusal:
        _, found, rest = str(refusal).partition("bring propagation_delay down to ")
        if found:
            shorter = {part: getattr(plan, part) for part in PARTS} | {"propagation": float(rest.partition("s")[0])}
            assert Plan(**shorter).total <= grace + 0.001


# --- sharing what remains ---------------------------------------------------------------------------------------------


@given(seconds, seconds, seconds, st.none() | seconds)
def test_a_share_is_never_negative_and_never_more_than_remains(
    remaining: float, share: float, later: float, ratio: float | None
) -> None:
    """Nor more than was asked for."""
    got = share_of(remaining, share, later, ratio=ratio)
    assert 0 <= got <= min(share, remaining)


@given(seconds, seconds, seconds)
def test_a_share_is_whole_where_the_rest_has_its_own(share: float, later: float, more: float) -> None:
    """What is left over goes to nobody in particular."""
    assert share_of(share + later + more, share, later) == pytest.approx(share)


@given(st.floats(0.01, 1000), st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_a_share_is_never_starved(remaining: float, share: float, later: float) -> None:
    """However short the time is, everybody gets some of it."""
    assert share_of(remaining, share, later) > 0
    assert share_of(remaining, share, later) <= remaining * share / (share + later) + max(0, remaining - later) + TINY


def leave_using_all_time(plan: Plan, grace: float, start: float) -> tuple[Budget, dict[str, float]]:
    """A leave in which every part takes as long as it may: the budget, and what each part got."""
    budget, now, took = Budget(plan, start + grace), start, {}
    parts = {
        "announce": budget.announce_until,
        "propagation": lambda now: budget.wait_until(now, since=now),
        "drain": budget.drain_until,
        "cleanup": budget.cleanup_until,
        "deregister": budget.deregister_until,
    }
    for part, until in parts.items():
        took[part] = until(now) - now
        now = until(now)
    took["margin"] = budget.remaining(now)
    return budget, took


@given(plans, st.floats(0, 3600), st.floats(0, 1e6))
def test_a_plan_that_fits_is_given_whole(plan: Plan, spare: float, start: float) -> None:
    """Every part gets all it asked for, and at least the margin is left."""
    _, took = leave_using_all_time(plan, plan.total + spare, start)
    for part in PARTS[:-1]:
        assert took[part] == pytest.approx(getattr(plan, part), abs=TINY)
    assert took["margin"] >= plan.margin - TINY


@given(plans, st.floats(0, 200_000), st.floats(0, 1e6))
def test_no_part_ever_goes_past_the_deadline(plan: Plan, grace: float, start: float) -> None:
    """Whatever the plan and the grace period: no share is negative, and they add up to no more than there is."""
    _, took = leave_using_all_time(plan, grace, start)
    assert all(-TINY <= seconds <= grace + TINY for seconds in took.values())
    assert sum(took.values()) <= grace + TINY
    assert all(took[part] <= getattr(plan, part) + TINY for part in PARTS[:-1])


@given(st.floats(1, 129))
def test_a_cut_grace_period_starves_nobody(grace: float) -> None:
    """Every part of the default plan gets some time, down to a second."""
    _, took = leave_using_all_time(EUREKA, grace, 0.0)
    assert all(seconds > 0 for seconds in took.values())


@pytest.mark.parametrize(("grace", "waited"), [(130, 95), (125, 95), (60, 45.6), (30, 22.8), (500, 95)])
def test_wait_within_a_grace_period(grace: float, waited: float) -> None:
    """Whole where it fits; else the wait and what comes after it share in proportion, and neither is starved."""
    assert EUREKA.wait_within(grace) == pytest.approx(waited)


def test_time_that_a_part_did_not_take_is_not_given_to_the_next() -> None:
    """The wait is counted from when it began, and is not longer because the withdrawal was quick."""
    budget = Budget(EUREKA, deadline=130.0)
    assert budget.announce_until(0.0) == 5
    assert budget.wait_until(0.2, since=0.2) == pytest.approx(95.2)
    assert budget.latest_wait(0.2) == pytest.approx(100)
    assert budget.drain_until(100.0) == 120


def test_the_wait_is_cut_when_the_withdrawal_took_longer() -> None:
    """The deadline does not move: of 110 s that are left, 95 of 125 parts are the wait's."""
    budget = Budget(EUREKA, deadline=130.0)
    assert budget.wait_until(20.0, since=20.0) == pytest.approx(20 + 110 * 95 / 125)


def test_a_deadline_only_comes_nearer() -> None:
    """The kubelet gives up on a hook: 2 s are left, and a later word changes nothing."""
    budget = Budget(EUREKA, deadline=130.0)
    budget.shorten(12.0)
    budget.shorten(50.0)
    assert budget.deadline == 12
    assert budget.remaining(10.0) == 2
    assert budget.remaining(99.0) == 0
    assert budget.drain_until(99.0) == 99


@pytest.mark.parametrize(("margin", "reserve"), [(2, 0.25), (0.1, 0.05), (0, 0)])
def test_the_process_ends_itself_a_little_before_the_platform_does(margin: float, reserve: float) -> None:
    """Half a margin at most: the margin is for more than that."""
    assert Budget(Plan(margin=margin), deadline=10.0).last_call == pytest.approx(10 - reserve)


# --- the chain of caches ----------------------------------------------------------------------------------------------

DEFAULTS = CacheChain(server=30, fetch=30, load_balancer=35, observed=True)
chains = st.builds(
    CacheChain, server=seconds, fetch=seconds, load_balancer=seconds, kubernetes=seconds, observed=st.just(True)
)


def observing(chain: CacheChain) -> Budget:
    """The budget of a plan with this chain, and with time enough."""
    return Budget(Plan(propagation=min(chain.total, 86_400), caches=chain), deadline=1e9)


@pytest.mark.parametrize(("published", "ends"), [(18.3, 83.3), (0, 65), (29.9, 94.9), (30, 95), (45, 95), (-5, 60)])
def test_what_is_left_counts_from_the_moment_the_servers_showed_it(published: float, ends: float) -> None:
    """65 s of the default 95, and never more than those in all."""
    assert observing(DEFAULTS).wait_once_published(100 + published, since=100) == pytest.approx(100 + ends)


def test_endpoints_and_proxies_have_their_time_whatever_eureka_shows() -> None:
    """Short caches, and a cluster that needs 10 s."""
    chain = CacheChain(server=8, fetch=1, load_balancer=1, kubernetes=10, observed=True)
    assert observing(chain).wait_once_published(102, since=100) == 110


def test_a_delay_that_was_set_as_a_whole_has_no_parts() -> None:
    """Nothing that is seen makes it shorter."""
    assert Budget(EUREKA, deadline=1e9).wait_once_published(101, since=100) == 195


@given(chains, st.floats(0, 1e6), st.floats(0, 86_400), st.floats(0, 86_400))
def test_an_observed_wait_is_never_longer_than_the_sum_and_never_shorter_than_what_is_left(
    chain: CacheChain, since: float, after: float, later: float
) -> None:
    """And a server that shows it later never ends it earlier."""
    budget = observing(chain)
    ends = budget.wait_once_published(since + after, since=since)
    assert ends <= since + budget.plan.propagation
    assert ends >= min(since + after + chain.after_server, since + budget.plan.propagation)
    assert ends >= min(since + chain.kubernetes, since + budget.plan.propagation)
    assert budget.wait_once_published(since + after + later, since=since) >= ends


@given(chains)
def test_a_server_that_takes_its_whole_interval_leaves_the_sum_as_it_is(chain: CacheChain) -> None:
    """What is observed is the first part, and nothing else."""
    budget = observing(chain)
    assert budget.wait_once_published(chain.server, since=0.0) == pytest.approx(budget.plan.propagation)


def test_the_chain_says_which_part_is_how_much() -> None:
    """As start-up logs it."""
    observed = "observed: it ends when every server shows the change"
    assert str(DEFAULTS) == f"server response cache 30s ({observed}) + client fetch 30s + load balancer 35s = 95s"
    short = CacheChain(server=3, fetch=1.5, load_balancer=2, kubernetes=10)
    assert str(short) == (
        "server response cache 3s + client fetch 1.5s + load balancer 2s = 6.5s, at least 10s in Kubernetes"
    )
