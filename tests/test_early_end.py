"""The early end in virtual time: when the wait ends, what is said of it, and when it does not."""

import logging
import signal

import pytest

from graceful.core.phases import Phase
from graceful.core.silence import EarlyEndRule
from tests.coordinators import Rig

TERM, INT = signal.SIGTERM, signal.SIGINT
RULE = EarlyEndRule(0.001)


@pytest.fixture
def rig():
    rigs = []

    def make(*, early_end=RULE, calls=12, every=2.0, **how):
        """Serving, with a caller that called so often and at these intervals until now."""
        rigs.append(Rig(grace_period=200.0, early_end=early_end, **how).serving())
        for _ in range(calls):
            rigs[-1].coordinator.note_caller("10.0.0.1")
            rigs[-1].loop.advance(every)
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()


def late(r, *, served=True):
    """A late request, as the middleware notes and enters it."""
    r.coordinator.note_caller("10.0.0.1")
    r.coordinator.enter_late("10.0.0.1", "GET /orders", served=served)


def test_the_wait_ends_when_everybody_is_silent(rig):
    """OUT_OF_SERVICE is verified after 0.5 s; a caller with a call every 2 s is gone after 4 s without."""
    r = rig()
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(4.5)
    r.until(Phase.STOPPED)
    report = r.coordinator.report
    assert report.clean
    assert str(report.early_end) == "early end after 4.0 s: 1 caller silent: 10.0.0.1"
    assert f"; {report.early_end}; " in str(report)
    assert report.as_dict()["early_end"] == {
        "after": 4.0,
        "silent": 1,
        "rare": 0,
        "last": "10.0.0.1",
        "risk": 0.001,
    }


def test_it_is_said_for_whom_the_wait_stands(rig, caplog):
    """Once, when the wait begins: that it was not ended early has a reason."""
    caplog.set_level(logging.INFO)
    r = rig(calls=8)
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    told = [record.getMessage() for record in caplog.records if record.name == "graceful.early_end"]
    assert told == ["early end: 1 caller waited for, of whom 10.0.0.1 called too few times or too irregularly"]


def test_a_late_request_starts_the_silence_anew(rig):
    """It calls for 21 s more and then never again."""
    r = rig()
    r.coordinator.signalled(TERM)
    for _ in range(10):
        late(r)
        r.loop.advance(2)
    late(r)
    last = r.now
    assert r.until(Phase.DRAINING) - last == pytest.approx(4)
    r.until(Phase.STOPPED)
    late_requests = r.coordinator.report.late
    # It ended because nobody called any more, not although somebody did: there is nothing to advise.
    assert (late_requests.total, late_requests.advice) == (11, None)
    assert late_requests.wait == pytest.approx(23.5)


def test_it_wakes_for_instants_and_not_for_requests(rig, monkeypatch):
    """A thousand late requests cost no more judgements than none."""
    r = rig()
    judged = []
    judge = r.coordinator.life.callers.judge

    def counting(*how):
        judged.append(r.now)
        return judge(*how)

    monkeypatch.setattr(r.coordinator.life.callers, "judge", counting)
    r.coordinator.signalled(TERM)
    for _ in range(1000):
        late(r)
        r.loop.advance(0.02)
    r.until(Phase.DRAINING)
    assert len(judged) < 15


def test_the_hook_is_answered_and_told_why(rig):
    """The kubelet's SIGTERM comes moments later; the service serves until then."""
    r = rig()
    visit = r.coordinator.prestop(elapsed=0.0, grace=200.0)
    r.loop.advance(4.6)
    assert r.coordinator.life.wait_is_over
    assert r.phase is Phase.LAME_DUCK
    assert r.coordinator.life.journal[-1] == "early end after 4.0 s: 1 caller silent: 10.0.0.1"
    visit.answered()
    r.coordinator.signalled(TERM)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.clean


def test_kubernetes_is_waited_for_in_any_case(rig):
    """Endpoints and proxies take their time, whoever is silent."""
    r = rig(early_end=EarlyEndRule(0.001, least=10))
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(10.5)


def test_without_a_registry_silence_counts_from_the_trigger(rig):
    """A wait that was set by hand."""
    r = rig(registry=False)
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(4)


@pytest.mark.parametrize("how", [{"early_end": None}, {"calls": 0}, {"calls": 8}])
def test_the_whole_wait_stands(rig, how):
    """Where it is off, where nobody has called, and where nobody has called often enough."""
    r = rig(**how)
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.early_end is None
    assert r.coordinator.report.as_dict()["early_end"] is None


def test_nobody_is_gone_who_was_not_told(rig):
    """Eureka is down: the silence has another reason, perhaps the same network."""
    r = rig(withdraw_after=None)
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95)


def test_silence_that_comes_too_late_changes_nothing(rig):
    """The caller calls until the end of the wait: it ends as planned, and nothing is said of an early end."""
    r = rig()
    began = r.now
    r.coordinator.signalled(TERM)
    for _ in range(47):
        late(r)
        r.loop.advance(2)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.early_end is None
    assert "only just enough: raise propagation_delay" in r.coordinator.report.late.advice


def test_an_end_at_the_instant_of_the_planned_one_is_not_early(rig):
    """A call every 47.5 s: twice that is the whole wait."""
    r = rig(every=47.5)
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    assert r.coordinator.life.early_end is None


def test_a_person_who_interrupts_ends_it_otherwise(rig):
    """The early end has no say any more."""
    r = rig()
    r.coordinator.signalled(TERM)
    r.loop.advance(2)
    r.coordinator.signalled(INT)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.early_end is None


def test_a_judgement_that_breaks_leaves_the_wait_whole(rig, monkeypatch):
    """It is recorded, as every stage that fails."""
    r = rig()
    monkeypatch.setattr(r.coordinator.life.callers, "judge", lambda *_: 1 / 0)
    began = r.now
    r.coordinator.signalled(TERM)
    assert r.until(Phase.DRAINING) - began == pytest.approx(95.5)
    r.until(Phase.STOPPED)
    assert r.coordinator.report.problems == ("the early end failed: ZeroDivisionError: division by zero",)


def test_an_early_end_that_was_too_early_is_what_is_blamed(rig, caplog):
    """A longer propagation_delay or grace period would have changed nothing."""
    r = rig()
    r.coordinator.signalled(TERM)
    key = r.coordinator.enter("GET", "/slow")
    r.until(Phase.DRAINING)
    r.loop.advance(3)
    late(r, served=False)
    r.coordinator.leave(key)
    r.until(Phase.STOPPED)
    advice = "the wait was ended early, after 4 s, which was too early: lower early_end_risk, or leave early_end out"
    assert r.coordinator.report.late.advice == advice
    assert [str(r.coordinator.report.late)] == [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
