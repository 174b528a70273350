"""Silence as evidence: bounded, monotonous, honest about whom it cannot judge; and what it costs, simulated."""

import math
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graceful.core.silence import Callers, EarlyEnd, needed_silence
from tests.simulated_callers import CHANGING, RISK, STEADY, WAIT, as_markdown, play

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "early-end.md"
GAPS = st.lists(st.floats(0, 5000), max_size=40)
RISKS = st.floats(1e-9, 0.1)


def regular(table, name="10.0.0.1", *, every=2.0, times=12, until=0.0):
    """A caller that called so often, the last time at `until`."""
    for number in reversed(range(times)):
        table.note(name, until - number * every)


# --- one caller -------------------------------------------------------------------------------------------------------


@given(GAPS, RISKS, RISKS, st.floats(0, 5000), st.floats(0, 5000))
def test_less_risk_and_a_longer_wait_ask_for_longer_silence(gaps, risk, other, wait, longer):
    """And never for less than a missed call and a lost connection take."""
    less, more = sorted((risk, other))
    needed = needed_silence(gaps, wait, more)
    assert needed <= needed_silence(gaps, wait, less)
    assert needed <= needed_silence(gaps, wait + longer, more)
    assert needed >= max(3, 2 * max(gaps, default=0))


@given(GAPS, RISKS, st.floats(0, 5000), st.floats(0, 5000))
def test_who_is_known_for_longer_may_have_had_odd_pauses(gaps, risk, known, longer):
    """A pause that cannot be judged is forgiven or is not; it makes no silence longer."""
    needed = needed_silence(gaps, WAIT, risk, known=known + longer)
    assert needed <= needed_silence(gaps, WAIT, risk, known=known)
    assert needed >= max(3, 2 * max(gaps, default=0))


def test_an_odd_pause_does_not_keep_the_wait():
    """A collection of two seconds in an hour; a long one does, and pauses that fill the time are none that are odd."""
    calls = [0.1] * 30
    assert needed_silence([*calls, 2.0], WAIT, 0.001, known=3600) == 4
    assert needed_silence([*calls, 2.0], WAIT, 0.001, known=30) == math.inf
    assert needed_silence([*calls, *[2.0] * 7], WAIT, 0.001, known=270) == math.inf
    assert needed_silence([*calls, 3.1], WAIT, 0.001, known=3600) == math.inf


@given(GAPS, RISKS, st.floats(1, 100))
def test_a_slower_caller_is_given_as_much_more_time(gaps, risk, factor):
    """The judgement has no time scale of its own: ten times the gaps in ten times the wait, ten times the silence."""
    slower = needed_silence([gap * factor for gap in gaps], 100 * factor, risk)
    assert slower <= needed_silence(gaps, 100, risk) * factor * (1 + 1e-6)


def test_a_periodic_caller_has_missed_a_call():
    """Gaps that hardly differ need no more than that."""
    assert needed_silence([30.0] * 8, WAIT, 0.001) == 60
    assert 60 <= needed_silence([29.5, 30.0, 30.5, 30.2] * 4, WAIT, 0.001) < 65


def test_a_busy_caller_may_have_lost_a_packet():
    """A thousand calls a second, and a connection that is tried again after 1 s and after 3 s."""
    assert needed_silence([0.001] * 32, WAIT, 0.001) == 3


def test_pauses_are_judged_by_pauses():
    """Fifty calls in a second and then a minute without: the mean rate is one a second and says nothing."""
    bursts = [0.02] * 24
    assert needed_silence([*bursts, 55.0], WAIT, 0.1) == math.inf
    assert needed_silence([*bursts, *[55.0, 60.0] * 3], WAIT, 0.1) == math.inf
    assert 120 <= needed_silence([*bursts, *[55.0, 60.0] * 4], WAIT, 0.1) < 200


@pytest.mark.parametrize("seen", [0, 1, 7])
def test_fewer_than_eight_gaps_say_nothing(seen):
    """However regular they were."""
    assert needed_silence([1.0] * seen, WAIT, 0.1) == math.inf
    assert needed_silence([1.0] * 8, WAIT, 0.1) < WAIT


# --- all of them ------------------------------------------------------------------------------------------------------

CALLS = st.lists(st.tuples(st.integers(0, 9), st.floats(0, 500)), max_size=200)


@given(CALLS, st.integers(1, 5), st.floats(1, 1000))
def test_any_stream_keeps_the_table_bounded(calls, most, period):
    """Any order of instants too: threads overtake one another."""
    table = Callers(most=most, period=period)
    for name, at in calls:
        table.note(str(name), at)
        assert len(table) <= most
    assert all(len(kept) <= 32 for each in table._callers.values() for kept in (each.gaps, each.before))
    assert table.judge(500.0, WAIT, RISK).at >= 500


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=200))
@example([1 + number * 7 % 50 / 10 for number in range(100)])
def test_the_longest_gaps_are_kept(gaps):
    """Within a period, exactly those."""
    table, at, made = Callers(), 1000.0, []
    table.note("a", at)
    for gap in gaps:
        made.append(at + gap - at)
        at += gap
        table.note("a", at)
    assert sorted(table._callers["a"].gaps) == sorted(made)[-32:]


@given(st.lists(st.floats(-60, 60), min_size=9, max_size=40), st.floats(0, 60), st.floats(60, 90))
def test_a_late_request_only_puts_the_end_off(calls, since, late):
    """Nothing that is heard after OUT_OF_SERVICE makes the wait end before that caller is silent anew."""
    table = Callers()
    for at in sorted(calls):
        table.note("a", at)
    before = table.judge(since, WAIT, RISK)
    assert before.at >= since + 3
    table.note("a", late)
    after = table.judge(since, WAIT, RISK)
    assert after.at >= late + 3
    assert after.at >= table.judge(since, WAIT, RISK * 5).at


def test_silence_counts_from_the_last_request_or_from_out_of_service():
    """The later of the two."""
    table = Callers()
    regular(table, until=-10)
    assert table.judge(0.0, WAIT, RISK).at == pytest.approx(4)
    table.note("10.0.0.1", 1.0)  # and the gap of 11 s is one of its gaps from now on
    assert table.judge(0.0, WAIT, RISK).at == math.inf


def test_an_instant_that_comes_out_of_order_changes_nothing():
    """The thread that brought it was overtaken."""
    table = Callers()
    regular(table)
    before = table.judge(-1.0, WAIT, RISK)
    table.note("10.0.0.1", -1.5)
    assert table.judge(-1.0, WAIT, RISK) == before


def test_the_risk_is_shared_by_all_callers():
    """Ten callers, each with a tenth of it: the sum is what was stated."""
    table = Callers()
    gaps = [1.0, 1.5, 2.0, 2.5] * 5
    for name in range(10):
        for number in range(len(gaps) + 1):
            table.note(f"10.0.0.{name}", sum(gaps[:number]) - sum(gaps))
    judgement = table.judge(0.0, WAIT, RISK)
    assert (judgement.judged, judgement.rare) == (10, 0)
    assert judgement.at == pytest.approx(needed_silence(gaps, WAIT, RISK / 10))
    assert judgement.at > needed_silence(gaps, WAIT, RISK) > 5


def test_who_calls_rarely_is_left_out_and_counted_until_it_calls_late():
    """Then it is known to be still there, and cannot be judged: the wait stands."""
    table = Callers()
    regular(table, "cron", every=1200, times=3, until=-600)
    table.note("once", -200.0)
    assert table.judge(0.0, WAIT, RISK).at == math.inf  # nobody is judged
    regular(table)
    judgement = table.judge(0.0, WAIT, RISK)
    assert (judgement.judged, judgement.rare, judgement.last) == (1, 2, "10.0.0.1")
    assert judgement.at == pytest.approx(4)
    table.note("cron", 2.0)
    assert table.judge(0.0, WAIT, RISK).at == math.inf


def test_a_newcomer_keeps_the_wait():
    """It has called too few times to be judged, but might well call again: that is no reason to leave it out."""
    table = Callers()
    regular(table)
    regular(table, "new", times=3)
    judgement = table.judge(0.0, WAIT, RISK)
    assert (judgement.at, judgement.judged, judgement.rare) == (math.inf, 2, 0)


def test_a_caller_between_rare_and_regular_keeps_the_wait():
    """Two minutes of silence after an hour of a call a minute: it may well call in the next two."""
    table = Callers()
    regular(table)
    regular(table, "slow", every=60, times=60, until=-120)
    judgement = table.judge(0.0, WAIT, RISK)
    assert (judgement.judged, judgement.rare) == (2, 0)
    assert judgement.at > WAIT


def test_who_has_not_called_for_an_hour_is_not_known_any_more():
    """The addresses of all callers of last week would only blur what is told."""
    table = Callers()
    regular(table, "gone", until=-3700)
    regular(table)
    judgement = table.judge(0.0, WAIT, RISK)
    assert (judgement.judged, judgement.rare) == (1, 0)


def test_a_pause_is_forgotten_after_two_periods():
    """A night must not be a reason to wait all day."""
    table = Callers(period=60.0)
    table.note("a", -30_000.0)
    regular(table, "a", times=60, until=118 - 200)
    assert table.judge(-82.0, WAIT, RISK).at == math.inf
    regular(table, "a", times=41)
    assert table.judge(0.0, WAIT, RISK).at == pytest.approx(4)


def test_more_callers_than_are_kept_keep_the_wait():
    """Whoever had to be forgotten may call again; one that was silent for a whole wait is as good as gone."""
    for until, ends in ((-50.0, math.inf), (-96.0, 4.0)):
        table = Callers(most=4)
        regular(table, "old", until=until)
        for name in "abcd":
            regular(table, name)
        assert len(table) == 4
        judgement = table.judge(0.0, WAIT, RISK)
        assert judgement.judged == 4
        assert judgement.at == pytest.approx(ends)


def test_names_reach_people_printable_and_short():
    """A header is what its sender wrote into it."""
    for name, told in ((b"\x1b[31mred\n", "\ufffd[31mred\ufffd"), (b"a" * 500, "a" * 120), ("", "unknown address")):
        table = Callers()
        regular(table, name)
        assert table.judge(0.0, WAIT, RISK).last == told


def test_people_are_told_for_whom_the_wait_stands():
    """One line, whatever the reason."""
    table = Callers(most=4)
    assert str(table.judge(0.0, WAIT, RISK)) == "nobody has called whom silence could tell of"
    regular(table, "rare", every=1000, until=-500)
    regular(table)
    assert str(table.judge(0.0, WAIT, RISK)) == "1 caller waited for, 10.0.0.1 longest; 1 too rare to judge"
    table.note("new", 0.0)
    told = "2 callers waited for, of whom new called too few times or too irregularly; 1 too rare to judge"
    assert str(table.judge(0.0, WAIT, RISK)) == told
    for name in "abc":
        table.note(name, 0.5)
    table.note("d", 1.0)
    assert str(table.judge(0.0, WAIT, RISK)) == "more callers than the 4 that are kept"


def test_threads_may_note_at_the_same_time():
    """None of them breaks the table, whoever is judged meanwhile."""
    table = Callers(most=8)
    stop = threading.Event()

    def call(name):
        for at in range(3000):
            table.note(f"{name} {at % 5}", at / 100)

    def judge():
        while not stop.is_set():
            table.judge(30.0, WAIT, RISK)

    threads = [threading.Thread(target=call, args=(name,)) for name in range(4)]
    judging = threading.Thread(target=judge)
    for each in (*threads, judging):
        each.start()
    for each in threads:
        each.join()
    stop.set()
    judging.join()
    assert len(table) <= 8


def test_the_evidence_is_one_line():
    """For the log and for the hook."""
    assert str(EarlyEnd(21.42, 12, 3, "10.0.3.7", 0.001)) == (
        "early end after 21.4 s: 12 callers silent, the last of them 10.0.3.7; 3 too rare to judge"
    )
    assert str(EarlyEnd(4.0, 1, 0, "10.0.3.7", 0.001)) == "early end after 4.0 s: 1 caller silent: 10.0.3.7"


# --- what it costs ----------------------------------------------------------------------------------------------------


def at_most(lost, leaves, risk):
    """Whether so few losses would be seen less than once in twenty times if the probability were `risk`.

    That is: whether the upper limit of Clopper and Pearson for the probability, at 95 %, is not above it.
    """
    seen = sum(math.comb(leaves, each) * risk**each * (1 - risk) ** (leaves - each) for each in range(lost + 1))
    return seen <= 0.05


def test_the_loss_is_below_the_stated_risk():
    """Of steady callers of every kind; and the table of the page is the one that comes out."""
    steady, changing = [play(each) for each in STEADY], [play(each) for each in CHANGING]
    for result in steady:
        assert at_most(result.lost, result.scenario.leaves, RISK), result.row
        assert result.blind == 0
    # It is of use, but for the one whose pauses are longer than it can judge.
    assert [result.scenario.name for result in steady if not result.early] == ["1 caller, bursts of 50, pauses of 60 s"]
    *_, never_seen = changing
    assert never_seen.blind > 0  # a blind spot is one: the page says how large
    assert as_markdown([*steady, *changing]) in PAGE.read_text()
