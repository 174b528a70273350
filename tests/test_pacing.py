"""When each of many connections is closed: in its own slot, over a window that is never overrun."""

import math
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.core.pacing import closing_instants

COUNTS = st.integers(0, 3000)
WINDOWS = st.floats(0.0, 60.0)
NOWS = st.floats(0.0, 1e6)
SEEDS = st.integers(0, 99)


@given(COUNTS, NOWS, WINDOWS, SEEDS)
def test_every_close_is_within_the_window_and_in_order(count, now, window, seed):
    """As many as there are connections, none before the window and none after it."""
    instants = list(closing_instants(count, now=now, longest=window, random=Random(seed)))
    assert len(instants) == count
    assert all(now <= instant <= now + window for instant in instants)
    assert all(earlier <= later for earlier, later in pairwise(instants))


@given(st.integers(1, 3000), st.floats(0.1, 60.0), SEEDS)
def test_no_part_of_the_window_has_more_than_its_share(count, window, seed):
    """Between any two instants there are at most as many closes as slots, and one at either end."""
    instants = list(closing_instants(count, now=0.0, longest=window, random=Random(seed)))
    slot = min(0.01, window / count)
    for span in (slot, 10 * slot):
        most = max(
            sum(begin <= other < begin + span for other in instants[at : at + 50]) for at, begin in enumerate(instants)
        )
        assert most <= math.ceil(span / slot) + 1


def test_a_thousand_sockets_over_ten_seconds():
    """A hundred in each second, and never in a beat that all instances share."""
    instants = list(closing_instants(1000, now=100.0, longest=10.0, random=Random(1)))
    in_second = [sum(100.0 + second <= instant < 101.0 + second for instant in instants) for second in range(10)]
    assert in_second == [100] * 10
    others = list(closing_instants(1000, now=100.0, longest=10.0, random=Random(2)))
    assert instants != others
    places = sorted((instant - 100.0) % 0.01 for instant in instants)
    assert places[50] < 0.001
    assert places[-50] > 0.009


@pytest.mark.parametrize(("count", "longest"), [(3, 0.03), (1, 0.01)])
def test_a_few_need_no_long_window(count, longest):
    """They are closed a hundred a second, however much time there is."""
    assert max(closing_instants(count, now=0.0, longest=60.0, random=Random(3))) <= longest
