"""The transition table: complete, forward only, and nothing changes when an event is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.core.phases import TRANSITIONS, Event, IllegalTransitionError, Lifecycle, Phase

ORDER = list(Phase)


def test_every_transition_goes_forward():
    """No event leads back: a service that has begun to leave is never ready again."""
    assert all(ORDER.index(after) > ORDER.index(before) for (before, _), after in TRANSITIONS.items())


def test_every_phase_is_reached_and_only_the_last_has_no_way_on():
    """The table has no dead end and no island."""
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.STARTING}
    assert {before for before, _ in TRANSITIONS} == set(Phase) - {Phase.STOPPED}


@pytest.mark.parametrize(
    ("phase", "event"), [pair for pair in itertools.product(Phase, Event) if pair not in TRANSITIONS]
)
def test_an_illegal_event_raises_and_changes_nothing(phase, event):
    """The message names the phase, the event and what would be possible."""
    lifecycle = Lifecycle(0.0)
    lifecycle.phase = phase
    with pytest.raises(IllegalTransitionError, match=f"{event.name} is not possible in phase {phase.name}"):
        lifecycle.apply(event, 1.0)
    assert lifecycle.phase is phase
    assert lifecycle.durations(5.0) == {Phase.STARTING: 5.0}


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 100)), max_size=30))
def test_whatever_comes_phases_only_advance_and_durations_add_up(events):
    """Any sequence of events, most of them refused."""
    lifecycle, now, seen = Lifecycle(0.0), 0.0, [Phase.STARTING]
    for event, seconds in events:
        now += seconds
        try:
            seen.append(lifecycle.apply(event, now))
        except IllegalTransitionError:
            assert lifecycle.phase is seen[-1]
    assert [ORDER.index(phase) for phase in seen] == sorted({ORDER.index(phase) for phase in seen})
    assert sum(lifecycle.durations(now).values()) == pytest.approx(now)
    assert all(lifecycle.entered(phase) is not None for phase in seen)


def test_work_is_accepted_until_the_drain():
    """The lame duck serves; that is the whole point of it."""
    assert [phase for phase in Phase if phase.accepts_work] == [Phase.STARTING, Phase.SERVING, Phase.LAME_DUCK]
    assert [phase for phase in Phase if phase.leaving] == ORDER[2:]
