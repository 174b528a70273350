"""In-flight work: counted exactly, from any thread, and nothing slips in once the gate is closed."""

import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from graceful.core.inflight import InFlight, NotAcceptingError, Work
from graceful.core.obstacles import Obstacle


class Named:
    """A unit of work that has a name only."""

    def __init__(self, name):
        self.name = name

    def look(self, seconds, *, query):
        return Obstacle("job", self.name, seconds)


def test_snapshot_names_what_is_in_flight_oldest_first():
    """And since when."""
    in_flight = InFlight()
    in_flight.enter((Named, 1.0, "GET /slow"))
    in_flight.leave(in_flight.enter((Named, 2.0, "GET /fast")))
    in_flight.enter((Named, 3.0, "job 42"))
    assert in_flight.snapshot() == (Work("GET /slow", 1.0), Work("job 42", 3.0))
    assert (len(in_flight), in_flight.accepted) == (2, 3)


def test_entry_is_refused_after_the_gate_was_closed():
    """And what was in before still finishes."""
    in_flight = InFlight()
    key = in_flight.enter((Named, 0.0, "a"))
    in_flight.close()
    with pytest.raises(NotAcceptingError, match="POST /orders: this service is draining"):
        in_flight.enter((Named, 1.0, "POST /orders"))
    in_flight.leave(key)
    assert len(in_flight) == 0


def test_threads_never_slip_past_the_gate_uncounted():
    """Eight threads come and go while the gate closes: when the last has left, nothing is in and nobody was lost."""
    in_flight = InFlight()
    idle = threading.Event()
    entered = [0] * 8
    start = threading.Barrier(9)

    def work(index):
        start.wait()
        while True:
            try:
                key = in_flight.enter((Named, 0.0, str(index)))
            except NotAcceptingError:
                return
            entered[index] += 1
            in_flight.leave(key)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    while in_flight.accepted < 1000:
        pass
    in_flight.notify_idle(idle.set)
    in_flight.close()
    for thread in threads:
        thread.join(10)
    assert len(in_flight) == 0
    assert sum(entered) <= in_flight.accepted <= sum(entered) + len(threads)


class InFlightMachine(RuleBasedStateMachine):
    """In-flight work against a plain set as its model."""

    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.in_flight = InFlight()
        self.model = {}
        self.closed = False
        self.idle_calls = 0
        self.in_flight.notify_idle(self.became_idle)

    def became_idle(self):
        self.idle_calls += 1

    @rule(target=keys, name=st.text(max_size=5))
    def enter(self, name):
        try:
            key = self.in_flight.enter((Named, 0.0, name))
        except NotAcceptingError:
            assert self.closed
            return -1
        assert not self.closed
        assert key not in self.model
        self.model[key] = name
        return key

    @rule(key=consumes(keys), times=st.integers(1, 2))
    def leave(self, key, times):
        """Leaving twice with one key is one leave."""
        was_last = set(self.model) == {key}
        before = self.idle_calls
        for _ in range(times):
            self.in_flight.leave(key)
        self.model.pop(key, None)
        assert self.idle_calls - before == (1 if was_last else 0)

    @rule()
    def close(self):
        self.in_flight.close()
        self.closed = True

    @invariant()
    def agrees(self):
        assert sorted(work.name for work in self.in_flight.snapshot()) == sorted(self.model.values())
        assert len(self.in_flight) == len(self.model)


TestInFlightMachine = InFlightMachine.TestCase
