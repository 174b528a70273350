"""A leave in virtual time: the order, the waits to the instant, and what every trigger means."""

import logging
import signal

import anyio
import pytest

from graceful.core.budget import Plan
from graceful.core.caches import CacheChain
from graceful.core.callbacks import RegisteredCallback
from graceful.core.inflight import NotAcceptingError
from graceful.core.leave import Trigger
from graceful.core.phases import Phase
from tests.coordinators import Rig

OBSERVED = Plan(propagation=95, caches=CacheChain(server=30, fetch=30, load_balancer=35, observed=True))
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture
def rig():
    rigs = []

    def make(**how):
        rigs.append(Rig(**how))
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()


def test_everything_of_ours_happens_in_order(rig):
    """Withdraw, wait, stop consuming, finish, clean up last-first, deregister; then stopped."""
    r = rig()
    r.on_drain("pause")
    r.on_cleanup("close pool")
    r.on_cleanup("flush")
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert r.calls == [
        *("start", "serve", "withdraw", "keep_withdrawn", "pause", "pause done"),
        *("flush", "flush done", "close pool", "close pool done", "deregister"),
    ]
    assert r.coordinator.report.clean
    assert r.exits == []


def test_the_wait_is_whole_and_counts_from_the_first_verification(rig):
    """OUT_OF_SERVICE is verified after 0.5 s: the lame duck ends 95 s later, not 95 s after SIGTERM."""
    r = rig(grace_period=200.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)


def test_the_wait_is_whole_when_the_registry_is_down(rig):
    """Nothing could be verified: the whole window is served all the same, from the first try on, and it is said."""
    r = rig(withdraw_after=None).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95)
    r.until(Phase.STOPPED)
    assert not r.coordinator.report.clean
    assert "HTTP 503" in str(r.coordinator.report)


def test_after_a_hook_the_app_serves_until_sigterm(rig):
    """The wait is over after 95.5 s, the hook is answered; the kubelet's SIGTERM comes 7 s later."""
    r = rig(grace_period=200.0).serving()
    visit = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    r.loop.advance(95.6)
    assert r.coordinator.life.wait_is_over
    visit.answered()
    r.loop.advance(7)
    assert r.phase is Phase.LAME_DUCK
    call(r)
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) == pytest.approx(r.now, abs=0.1)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.late_requests == 1
    assert r.coordinator.report.clean
    # By luck: had SIGTERM come at once, it would have been refused.
    assert "your wait is 95 s, too short: raise propagation_delay to" in r.coordinator.report.late.advice


def test_sigterm_while_the_hook_waits_means_two_seconds_are_left(rig):
    """The kubelet has given up on its hook: drain at once, and be gone before SIGKILL."""
    r = rig().serving()
    r.coordinator.prestop(elapsed=0.0, grace=130.0)
    r.loop.advance(10)
    r.coordinator.enter("GET", "/slow")
    told = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - told < 0.1
    assert r.until(Phase.STOPPED) - told < 2
    assert r.coordinator.report.unfinished[0].name == "GET /slow"


def test_a_hook_that_was_killed_does_not_cut_the_wait(rig):
    """Its connection broke: SIGTERM is the ordinary one, and the wait goes on to its end."""
    r = rig(grace_period=200.0).serving()
    began = r.now
    visit = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    r.loop.advance(10)
    visit.lost()
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)


def test_a_hook_run_by_hand_leads_to_a_drain_all_the_same(rig):
    """No SIGTERM comes: the app drains in time for its deadline, and says why."""
    r = rig(grace_period=130.0).serving()
    began = r.now
    r.coordinator.prestop(elapsed=0.0, grace=130.0).answered()
    assert r.until(Phase.DRAINING) - began == pytest.approx(100)
    r.until(Phase.STOPPED)
    assert "no SIGTERM came after the preStop hook" in str(r.coordinator.report)
    assert r.exits == []


def test_the_hooks_own_time_counts(rig):
    """The hook started 40 s ago (a slow CPU, a paused node): the deadline is the hook's start plus the grace period."""
    r = rig(grace_period=130.0).serving()
    began = r.now
    r.coordinator.prestop(elapsed=40.0, grace=130.0)
    assert r.coordinator.life.leave.budget.deadline - began == pytest.approx(90)
    # 90 s for what was planned as 95 + 30: the wait gets its proportion. Then SIGTERM is given two seconds to come.
    r.loop.advance(90 * 95 / 125 - 0.1)
    assert not r.coordinator.life.wait_is_over
    r.loop.advance(0.2)
    assert r.coordinator.life.wait_is_over
    assert r.until(Phase.DRAINING) - began == pytest.approx(90 * 95 / 125 + 2)


def test_a_plan_without_slack_still_serves_until_sigterm(rig):
    """The grace period is the plan to the second: the hook is answered, and SIGTERM comes a second later."""
    plan = Plan(announce=0, propagation=10, deregister=0)
    r = rig(registry=False, plan=plan, grace_period=plan.total).serving()
    r.coordinator.prestop(elapsed=0.0, grace=plan.total).answered()
    r.loop.advance(11)
    assert r.phase is Phase.LAME_DUCK
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.clean


def test_a_hook_that_knows_of_less_grace_shortens_the_leave(rig):
    """The pod was deleted with --grace-period, or a policy cut it."""
    r = rig(grace_period=130.0).serving()
    r.coordinator.prestop(elapsed=0.0, grace=50.0)
    assert r.coordinator.life.leave.budget.deadline - r.now == pytest.approx(50)


def test_two_hooks_are_one_leave(rig):
    """The kubelet may run the hook twice: both join, both are answered, every callback runs once."""
    r = rig(grace_period=200.0)
    r.on_cleanup("once")
    r.serving()
    first = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    r.loop.advance(50)
    second = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    assert second.within < first.within
    r.loop.advance(46)
    first.answered()
    second.answered()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    late = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    assert late.within == 0
    assert r.calls.count("once") == r.calls.count("withdraw") == r.calls.count("deregister") == 1


def test_a_hook_hears_what_happens(rig):
    """Its messages end when the wait is over."""
    r = rig().serving()
    visit = r.coordinator.prestop(elapsed=0.0, grace=130.0)

    async def listen():
        return [line async for line in visit.messages()]

    heard = r.loop.run_until_complete(listen())
    assert heard[0].startswith("leaving because of the preStop hook")
    assert "OUT_OF_SERVICE verified on 1 of 1 servers" in heard[1]
    assert visit.summary() == (True, "the wait is over: nobody calls any more, ready for SIGTERM")


def test_an_interrupt_is_a_person_and_waits_for_nobody(rig):
    """Ctrl-C on a laptop."""
    r = rig().serving()
    began = r.now
    r.coordinator.signalled(INT)
    assert r.until(Phase.STOPPED) - began < 1.5
    assert "deregister" in r.calls
    assert r.coordinator.signum == INT


def test_an_interrupt_ends_the_wait_that_a_sigterm_began(rig):
    """A person loses patience; what is in flight still finishes."""
    r = rig().serving()
    r.coordinator.signalled(TERM)
    r.loop.advance(10)
    key = r.coordinator.enter("GET", "/slow")
    r.coordinator.signalled(INT)
    r.loop.advance(3)
    assert r.phase is Phase.DRAINING
    r.coordinator.leave(key)
    r.until(Phase.STOPPED, 1)
    assert r.exits == []


def test_a_second_interrupt_forces(rig):
    """After the second Ctrl-C nothing is waited for: exit 1, with the report."""
    r = rig().serving()
    r.coordinator.enter("job 42")
    r.coordinator.signalled(INT)
    r.loop.advance(0.5)
    r.coordinator.signalled(INT)
    assert r.exits == []  # within a second of the first: dumb-init and the terminal both delivered it
    r.loop.advance(0.6)
    r.coordinator.signalled(INT)
    (status, report, _) = r.exits[0]
    assert status == 1
    assert "a second SIGINT forced it" in str(report)


def test_what_a_parent_tells_begins_the_leave_and_its_sigterm_is_no_second_wish(rig):
    """hypercorn's parent terminates its other workers when the first has ended, however far they are."""
    r = rig(plan=Plan(propagation=10, drain=20))
    key = r.coordinator.enter("job")
    r.serving().coordinator.told_to_stop()
    assert r.until(Phase.DRAINING) - r.coordinator.life.lifecycle.entered(Phase.LAME_DUCK) >= 10
    r.loop.advance(2)
    r.coordinator.signalled(TERM)
    r.loop.advance(2)
    assert r.phase is Phase.DRAINING
    assert not r.exits
    r.coordinator.signalled(TERM)  # but this is one
    r.coordinator.leave(key)
    assert [status for status, *_ in r.exits] == [1]


def test_what_a_parent_tells_after_a_hook_begins_the_drain(rig):
    r = rig(plan=Plan(propagation=10, drain=20))
    visit = r.serving().coordinator.prestop(elapsed=0, grace=None)
    r.loop.advance(15)
    visit.answered()
    assert r.phase is Phase.LAME_DUCK
    r.coordinator.told_to_stop()
    r.until(Phase.STOPPED, limit=5)
    assert not r.coordinator.report.problems


def test_a_second_sigterm_is_ignored_in_the_lame_duck_and_forces_from_the_drain_on(rig):
    """The platform may repeat itself; a person with `kill` who means it is heard when waiting can help no more."""
    r = rig().serving()
    r.coordinator.signalled(TERM)
    r.loop.advance(30)
    r.coordinator.signalled(TERM)
    r.loop.advance(1)
    assert r.phase is Phase.LAME_DUCK
    r.coordinator.enter("GET", "/endless")
    r.until(Phase.DRAINING)
    r.coordinator.signalled(TERM)
    assert [status for status, *_ in r.exits] == [1]
    assert r.exits[0][1].unfinished[0].name == "GET /endless"


def test_signals_within_a_second_are_one(rig):
    """A forwarding parent and the group both deliver; in the drain that must not force."""
    r = rig(plan=Plan(propagation=0), grace_period=60.0).serving()
    r.coordinator.enter("GET", "/slow")
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    r.loop.advance(0.3)
    r.coordinator.signalled(TERM)
    assert r.exits == []


def test_the_drain_ends_when_nothing_is_in_flight(rig):
    """Not a moment later, and not before."""
    r = rig(registry=False, plan=Plan(propagation=10, announce=0, deregister=0), grace_period=60.0).serving()
    keys = [r.coordinator.enter("GET", f"/{n}") for n in range(3)]
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    for key in keys:
        r.loop.advance(2)
        assert r.phase is Phase.DRAINING
        r.coordinator.leave(key)
    r.loop.settle()
    assert r.phase is Phase.STOPPED
    with pytest.raises(NotAcceptingError):
        r.coordinator.enter("GET", "/late")


def test_requests_of_a_serving_process_do_not_wake_graceful(rig):
    """Every idle moment would cost ten times what the middleware does."""
    r = rig().serving()
    for _ in range(10):
        r.coordinator.leave(r.coordinator.enter("GET", "/"))
    assert r.wake_ups == 0


def test_what_does_not_finish_is_named_and_does_not_keep_the_rest_from_happening(rig):
    """After the drain timeout: the report names it, the pools are closed, the instance is deregistered."""
    r = rig()
    r.on_cleanup("close pool")
    r.serving()
    r.coordinator.enter("GET", "/endless")
    r.coordinator.signalled(TERM)
    drained = r.until(Phase.CLEANUP) - r.coordinator.life.lifecycle.entered(Phase.DRAINING)
    assert drained == pytest.approx(20)
    r.until(Phase.STOPPED)
    assert "GET /endless" in str(r.coordinator.report)
    assert r.calls[-2:] == ["close pool done", "deregister"]


def test_consumers_finish_what_they_have_in_hand_while_they_are_told_to_stop(rig):
    """`on_drain` takes two seconds to stop the consumer; a message fetched meanwhile may still come in."""
    r = rig()
    r.on_drain("stop consumer", seconds=2)
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    r.loop.advance(1)
    key = r.coordinator.enter("message 7")
    r.loop.advance(1.5)
    with pytest.raises(NotAcceptingError):
        r.coordinator.enter("message 8")
    assert r.phase is Phase.DRAINING
    r.coordinator.leave(key)
    r.until(Phase.STOPPED, 2)
    assert r.coordinator.report.clean


def test_the_registry_is_watched_until_it_is_told_to_forget_the_instance(rig):
    """What came back UP during the drain would get requests that are refused."""
    r = rig().serving()
    r.coordinator.enter("GET", "/slow")
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    r.loop.advance(1)
    assert r.registry.watching
    r.until(Phase.STOPPED)
    assert not r.registry.watching


@pytest.mark.parametrize("broken", ["start", "serve", "withdraw", "keep_withdrawn", "until_published", "deregister"])
def test_a_registry_that_breaks_never_skips_a_later_stage(rig, broken):
    """The failure is in the report; everything after it still happens."""
    r = rig(plan=OBSERVED, fails=(broken,))
    r.on_cleanup("close pool")
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert f"{broken} is broken" in str(r.coordinator.report)
    assert "close pool done" in r.calls
    assert "deregister" in r.calls


def test_callbacks_that_fail_or_hang_do_not_keep_the_others_from_running(rig):
    """LIFO, each with its own time, all recorded by name."""
    r = rig()
    r.on_cleanup("first registered")
    r.on_cleanup("hangs", seconds=1000, timeout=1)
    r.on_cleanup("fails", error=ValueError("no"))
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert [str(record).split(" after")[0] for record in r.coordinator.report.callbacks] == [
        "fails failed",
        "hangs timed out",
        "first registered completed",
    ]
    assert "hangs timed out after 1.00s" in str(r.coordinator.report)


def test_every_callback_runs_even_when_the_time_is_over(rig):
    """Five that hang use up the phase's five seconds; the last still gets its moment."""
    r = rig()
    r.on_cleanup("last")
    for n in range(5):
        r.on_cleanup(f"hangs {n}", seconds=1000, timeout=2)
    r.serving()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert "last done" in r.calls
    assert r.exits == []


def test_at_the_deadline_the_process_ends_itself(rig):
    """A callback blocks graceful's own event loop: the thread that keeps the deadline ends the process, exit 1."""
    r = rig(plan=Plan(propagation=0), grace_period=35.0).serving()
    r.coordinator.enter("GET", "/endless")
    began = r.now
    r.coordinator.signalled(TERM)
    r.tasks[0].cancel()
    r.loop.advance(35)
    (status, report, when) = r.exits[0]
    assert status == 1
    assert when - began == pytest.approx(34.75)
    assert report.overdue
    assert "GET /endless (34.8s)" in str(report)
    assert "the deadline was there" in str(report)


def test_a_service_that_was_never_ready_has_nobody_to_wait_for(rig):
    """SIGTERM during the start-up: out at once, nothing was announced, nothing is deregistered."""
    r = rig()
    r.on_cleanup("close pool")
    r.loop.advance(1)
    assert r.phase is Phase.STARTING
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED, 2)
    assert r.calls == ["start", "close pool", "close pool done"]


def test_a_service_that_was_never_ready_but_was_called_waits(rig):
    """A request came before it was ready (no readiness probe is set up): there are callers."""
    r = rig()
    r.coordinator.leave(r.coordinator.enter("GET", "/"))
    r.coordinator.signalled(TERM)
    r.loop.advance(90)
    assert r.phase is Phase.LAME_DUCK


def test_a_server_that_stops_by_itself_is_followed_at_once(rig):
    """`limit_max_requests`, a test client's end: nobody can reach us, nobody is ended by force."""
    r = rig().serving()
    stopped = r.coordinator.server_stops()
    r.until(Phase.STOPPED, 3)
    assert stopped.is_set()
    assert r.coordinator.server_stopped_first
    r.loop.advance(1000)
    assert r.exits == []


def test_drain_by_call_is_the_same_leave(rig):
    """`coordinator.drain()`: the wait, the order, the report with its reason."""
    r = rig(grace_period=200.0).serving()
    began = r.now
    r.coordinator.begin(Trigger.CALL, "the queue is empty")
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    r.until(Phase.STOPPED)
    assert "after the queue is empty" in str(r.coordinator.report)
    assert r.coordinator.signum == TERM


def test_ready_and_leave_at_the_same_instant_never_becomes_ready(rig):
    """The leave was first: the service goes from STARTING to the lame duck and is not announced."""
    r = rig()
    r.loop.settle()
    r.readiness.by_hand = True
    r.coordinator.begin(Trigger.CALL)
    r.until(Phase.STOPPED, 5)
    assert "serve" not in r.calls


def test_a_new_life_begins_with_the_callbacks_of_the_import_and_not_of_the_last_start_up(rig):
    """A test client starts and stops one application several times."""
    r = rig()
    r.on_cleanup("from the import")
    r.readiness.starting = True
    r.on_cleanup("from the start-up")
    r.serving()
    r.coordinator.server_stops()
    r.until(Phase.STOPPED)
    r.coordinator.new_life()
    assert r.phase is Phase.STARTING
    names = [callback.name for callback in r.coordinator.life.cleanup_callbacks.drain()]
    assert names == ["from the import"]


def test_cut_grace_shortens_every_part_and_starves_none(rig):
    """30 s instead of 130: the wait is cut, but drain, cleanup and deregistration still get their turn."""
    r = rig(grace_period=30.0)
    r.on_cleanup("close pool", seconds=0.3)
    r.serving()
    began = r.now
    key = r.coordinator.enter("GET", "/slow")
    r.coordinator.signalled(TERM)
    waited = r.until(Phase.DRAINING) - began
    assert 20 < waited < 25
    r.loop.advance(2)
    r.coordinator.leave(key)
    assert r.until(Phase.STOPPED) - began < 30
    assert r.exits == []
    assert r.coordinator.report.clean


def call(r, *, route="GET /orders", served=True):
    """A late request, as the middleware enters it."""
    r.coordinator.enter_late("10.0.3.7 (Java/17)", route, served=served)


def test_late_requests_are_told_with_their_age_since_out_of_service(rig, caplog):
    """OUT_OF_SERVICE is verified 0.5 s after SIGTERM; one line says who called last, before the report."""
    caplog.set_level(logging.INFO)
    r = rig(grace_period=200.0).serving()
    r.coordinator.signalled(TERM)
    r.loop.advance(0.2)
    call(r)
    r.loop.advance(41.3)
    call(r)
    r.until(Phase.STOPPED)
    late = r.coordinator.report.late
    assert [each.last_age for each in late.callers] == [pytest.approx(41)]
    assert (late.wait, late.advice) == (pytest.approx(95), None)
    *_, line, report = [record for record in caplog.records if record.name == "graceful.coordinator"]
    assert (
        line.getMessage()
        == str(late)
        == (
            "last late request 41 s after OUT_OF_SERVICE, from 10.0.3.7 (Java/17): GET /orders; "
            "2 late requests from 1 caller"
        )
    )
    assert (line.levelno, line.late_requests) == (logging.INFO, late.as_dict())
    assert "late requests served: 2;" in report.getMessage()
    assert report.drain_report["late"] == late.as_dict()


def test_requests_that_are_refused_make_a_wait_too_short(rig, caplog):
    """A slow one holds the drain open, and a caller comes meanwhile: that is a warning with what to set."""
    r = rig(grace_period=200.0).serving()
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    r.until(Phase.DRAINING)
    r.loop.advance(6)
    call(r, served=False)
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    report = r.coordinator.report
    assert (report.late_requests, report.late.refused) == (0, 1)
    assert "late requests served: 0, refused: 1" in str(report)
    assert "your wait is 95 s, too short: raise propagation_delay to at least 127 s" in report.late.advice
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [str(report.late)]


def test_without_a_registry_ages_count_from_the_trigger(rig):
    """Nothing is verified there, nor where every server failed: the line says so."""
    for how in ({"registry": False}, {"withdraw_after": None}):
        r = rig(grace_period=200.0, **how).serving()
        r.coordinator.signalled(TERM)
        r.loop.advance(90)
        call(r)
        r.until(Phase.STOPPED)
        assert str(r.coordinator.report.late).startswith("last late request 90 s after the leave began, from")
        assert "your wait is 95 s, only just enough" in r.coordinator.report.late.advice


def test_a_wait_that_was_cut_short_says_nothing_about_the_setting(rig):
    """A person interrupts, or the server stops: the wait was not too short, it was not held."""
    for cut in (lambda r: r.coordinator.signalled(INT), lambda r: r.coordinator.server_stops()):
        r = rig(grace_period=200.0).serving()
        r.coordinator.signalled(TERM)
        r.loop.advance(10)
        cut(r)
        key = r.coordinator.enter("GET", "/slow")
        r.until(Phase.DRAINING)
        call(r, served=False)
        r.coordinator.leave(key)
        r.until(Phase.STOPPED)
        late = r.coordinator.report.late
        assert (late.refused, late.wait, late.advice) == (1, None, None)


def test_an_interrupt_in_the_drain_does_not_unsay_that_the_wait_was_held(rig):
    """The wait was over by then; the server's own stop comes later as well."""
    r = rig(grace_period=200.0).serving()
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    r.until(Phase.DRAINING)
    call(r, served=False)
    r.coordinator.server_stops()
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    assert "your wait is 95 s, too short" in r.coordinator.report.late.advice


def test_a_grace_period_that_cut_the_wait_is_what_has_to_be_raised(rig):
    """A longer propagation_delay would be cut as well."""
    r = rig(grace_period=40.0).serving()
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    r.until(Phase.DRAINING)
    call(r, served=False)
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    late = r.coordinator.report.late
    assert late.wait < 40
    assert late.advice.endswith(" of the 95 s planned, too short: raise the grace period to at least 130 s")


def test_jobs_are_not_late_requests(rig, caplog):
    """A consumer goes on fetching until it is told to stop; nobody has called, and no line says so."""
    caplog.set_level(logging.INFO)
    r = rig(grace_period=200.0).serving()
    r.coordinator.signalled(TERM)
    r.loop.advance(80)
    r.coordinator.leave(r.coordinator.enter("job 42"))
    r.until(Phase.STOPPED)
    assert r.coordinator.report.late_requests == 0
    assert str(r.coordinator.report.late) == "no late requests"
    assert not [record for record in caplog.records if hasattr(record, "late_requests")]


def test_the_report_at_the_deadline_has_the_late_requests_too(rig):
    """A second SIGTERM forces the end in the drain."""
    r = rig(grace_period=200.0).serving()
    r.coordinator.signalled(TERM)
    r.coordinator.enter("GET", "/endless")
    r.until(Phase.DRAINING)
    call(r, served=False)
    r.coordinator.signalled(TERM)
    ((_, report, _),) = r.exits
    assert (report.overdue, report.late.refused) == (True, 1)
    assert report.late.advice


def test_lame_duck_callbacks_run_at_once_and_delay_nothing(rig):
    """One that hangs is given up at its time, one that fails is recorded; the wait is as long as ever."""
    r = rig().serving()
    instants = []

    async def hangs():
        instants.append((r.phase, r.now))
        await anyio.sleep_forever()

    async def fails():
        raise LookupError("no watcher")

    for callback in (hangs, fails):
        r.coordinator.add_lame_duck_callback(RegisteredCallback(callback, callback.__name__, 200.0))
    assert r.coordinator.drain_remaining == 0
    began = r.now
    r.coordinator.begin(Trigger.SIGTERM)
    assert r.until(Phase.DRAINING) == pytest.approx(began + 0.5 + 95, abs=0.1)
    assert instants == [(Phase.LAME_DUCK, pytest.approx(began, abs=0.1))]
    r.until(Phase.STOPPED)
    assert "fails failed after 0.00s: LookupError: no watcher" in str(r.coordinator.report)
    assert r.now < began + 101


# --- what is seen of the servers' cache ------------------------------------------------------------------------------


def test_the_wait_ends_what_is_left_after_every_server_shows_the_change(rig):
    """Seen 18.3 s after OUT_OF_SERVICE: 65 s more, instead of 95 in all; the hook is told so."""
    r = rig(plan=OBSERVED, grace_period=200.0, publish_after=18.3).serving()
    began = r.now
    visit = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    r.loop.advance(19)
    assert "every server shows the change after 18.3 s: 65 s more" in r.coordinator.life.journal
    r.loop.advance(0.5 + 83.3 - 19 - 0.1)
    assert not r.coordinator.life.wait_is_over
    r.loop.advance(0.2)
    assert r.coordinator.life.wait_is_over
    visit.answered()
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(83.9, abs=0.2)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.clean
    assert r.coordinator.report.late.wait == pytest.approx(83.3)


@pytest.mark.parametrize(
    ("publish_after", "wait"), [(None, 95), (0.0, 65), (29.0, 94), (30.0, 95), (40.0, 95), (94.0, 95)]
)
def test_the_wait_is_never_longer_than_the_sum(rig, publish_after, wait):
    """Whatever is seen, and when."""
    r = rig(plan=OBSERVED, grace_period=200.0, publish_after=publish_after).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(0.5 + wait)
    assert not r.registry.observing
    r.until(Phase.STOPPED)
    assert r.coordinator.report.clean


def test_nothing_is_observed_before_out_of_service(rig):
    """Nor after the wait; and it is a task beside the wait, which a registry that breaks does not end."""
    r = rig(plan=OBSERVED, grace_period=200.0, withdraw_after=3.0, publish_after=10.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    r.loop.advance(2.9)
    assert "until_published" not in r.calls
    assert r.until(Phase.DRAINING) - began == pytest.approx(3 + 10 + 65)
    r = rig(plan=OBSERVED, grace_period=200.0, fails=("until_published",)).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(propagation=95),
        Plan(propagation=95, caches=CacheChain(server=30, fetch=30, load_balancer=35)),
    ],
)
def test_a_delay_that_was_set_is_waited_whole(rig, plan):
    """As a whole, or in parts with `eureka_observe_cache=false`: the registry is not even asked."""
    r = rig(plan=plan, grace_period=200.0, publish_after=1.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    assert "until_published" not in r.calls


def test_a_withdrawal_that_was_verified_late_can_still_be_observed(rig):
    """No server took it in time: the whole wait counts from the first try, and what is seen later brings it forward."""
    r = rig(plan=OBSERVED, grace_period=200.0, withdraw_after=None, publish_after=12.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(5 + 12 + 65, abs=0.5)


def test_a_short_grace_period_still_ends_the_wait_earlier(rig):
    """22.8 s are all there is; what is seen changes nothing, and the grace period is what has to be raised."""
    r = rig(plan=OBSERVED, grace_period=30.0, publish_after=18.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    assert r.until(Phase.DRAINING) - began < 24
    call(r, served=False)
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    assert (
        "of the 95 s planned, too short: raise the grace period to at least 130 s" in r.coordinator.report.late.advice
    )


@pytest.mark.parametrize(("age", "refused"), [(80.0, False), (90.0, True)])
def test_the_advice_for_a_wait_that_was_shortened_by_what_was_seen(rig, age, refused):
    """Callers may call up to its very end: that is what their caches are set to. Later, those are slower than told."""
    r = rig(plan=OBSERVED, grace_period=200.0, publish_after=18.0).serving()
    began = r.now
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    r.loop.advance(began + 0.5 + age - r.now)
    call(r, served=not refused)
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    late = r.coordinator.report.late
    assert late.wait == pytest.approx(83)
    assert late.advice == (
        "your wait was 65 s after every server showed the change, too short: raise eureka_client_fetch_delay and "
        "eureka_load_balancer_delay to at least 90 s together and the grace period to at least 155 s"
        if refused
        else None
    )


def hold_open(rig, count):
    """Open connections; gives the instants at which each was asked to end, and cut off."""
    ended, cut = [], []

    def open_one():
        key = rig.coordinator.enter("WEBSOCKET")

        def end():
            ended.append(rig.now)
            rig.coordinator.let_go(held)
            rig.coordinator.leave(key)

        held = rig.coordinator.hold_open(end, lambda: cut.append(rig.now))

    for _ in range(count):
        open_one()
    return ended, cut


def test_a_thousand_connections_are_asked_one_after_the_other(rig):
    """Over half of the drain's time, evenly; who waits for the drain hears of it at its start."""
    r = rig().serving()
    ended, cut = hold_open(r, 1000)
    r.coordinator.signalled(TERM)
    began = r.until(Phase.DRAINING)
    assert r.coordinator.draining.is_set()
    r.until(Phase.STOPPED)
    assert len(ended) == 1000
    assert began <= ended[0]
    assert began + 9.9 < ended[-1] <= began + 10.01
    in_second = [sum(began + second <= instant < began + second + 1 for instant in ended) for second in range(10)]
    assert all(95 <= count <= 105 for count in in_second)
    assert cut == []
    assert r.coordinator.report.clean


def test_a_few_connections_do_not_hold_the_leave_up(rig):
    """The drain is over when they have ended."""
    r = rig().serving()
    hold_open(r, 5)
    r.coordinator.signalled(TERM)
    began = r.until(Phase.DRAINING)
    assert r.until(Phase.CLEANUP) - began < 0.2


def test_a_connection_that_does_not_end_is_cut_off_before_the_drain_runs_out(rig):
    """Its application has the last fifth to tidy up."""
    r = rig().serving()
    asked, cut = [], []
    key = r.coordinator.enter("WEBSOCKET")

    def cut_off():
        cut.append(r.now)
        r.coordinator.leave(key)

    r.coordinator.hold_open(lambda: asked.append(r.now), cut_off)
    r.coordinator.signalled(TERM)
    began = r.until(Phase.DRAINING)
    r.until(Phase.STOPPED)
    assert len(asked) == 1
    assert cut == [pytest.approx(began + 16, abs=0.1)]
    assert r.coordinator.report.clean


def test_a_connection_whose_end_raises_holds_nothing_up(rig):
    """It is said, and what is in flight finishes."""
    r = rig().serving()
    r.coordinator.hold_open(lambda: 1 / 0)
    key = r.coordinator.enter("GET", "/slow")
    r.coordinator.signalled(TERM)
    r.until(Phase.DRAINING)
    r.loop.advance(1)
    assert r.phase is Phase.DRAINING
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    assert "ending long connections failed: ZeroDivisionError" in str(r.coordinator.report)
    assert r.coordinator.report.unfinished == ()
