"""A state machine over the whole coordinator: whatever comes in whatever order, the promises hold."""

import signal

import anyio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graceful.core.budget import Plan
from graceful.core.callbacks import RegisteredCallback
from graceful.core.inflight import NotAcceptingError
from graceful.core.leave import Trigger
from graceful.core.phases import Phase
from tests.coordinators import Rig

SECONDS = st.sampled_from([0.0, 0.3, 1.1, 5.0, 30.0])


class LeaveMachine(RuleBasedStateMachine):
    """Signals, hooks, calls, work and time in any order.

    The promises: phases only advance; once leaving, never ready again and the registry stays frozen; every callback
    runs exactly once in a leave that is not forced; work is counted exactly; the platform's deadline is never passed.
    """

    @initialize(
        plan=st.builds(Plan, propagation=st.sampled_from([0.0, 10.0, 95.0]), drain=st.sampled_from([0.0, 20.0])),
        grace=st.sampled_from([2.0, 30.0, 130.0, 600.0]),
        withdraw_after=st.sampled_from([0.0, 0.5, None]),
        callbacks=st.lists(st.tuples(st.booleans(), SECONDS, st.sampled_from([None, 0.5, 3.0])), max_size=4),
        registry=st.booleans(),
    )
    def start(self, plan, grace, withdraw_after, callbacks, registry):
        self.rig = Rig(plan=plan, grace_period=grace, withdraw_after=withdraw_after, registry=registry)
        self.grace = grace
        self.runs = [0] * len(callbacks)
        for index, (on_drain, seconds, timeout) in enumerate(callbacks):
            self._register(index, on_drain, seconds, timeout)
        self.keys = []
        self.hooks = []
        self.phases = [Phase.STARTING]
        self.first_trigger = None

    def _register(self, index, on_drain, seconds, timeout):
        async def callback():
            self.runs[index] += 1
            await anyio.sleep(seconds)

        registered = RegisteredCallback(callback, str(index), timeout)
        if on_drain:
            self.rig.coordinator.add_drain_callback(registered)
        else:
            self.rig.coordinator.add_cleanup_callback(registered)

    def _triggered(self):
        if self.first_trigger is None:
            self.first_trigger = self.rig.now

    @rule()
    def become_ready(self):
        self.rig.readiness.by_hand = True

    @rule(seconds=SECONDS)
    def time_passes(self, seconds):
        self.rig.loop.advance(seconds)

    @rule(signum=st.sampled_from([signal.SIGTERM, signal.SIGINT]))
    def signal_comes(self, signum):
        self._triggered()
        self.rig.coordinator.signalled(signum)

    @rule(trigger=st.sampled_from([Trigger.CALL, Trigger.SERVER]))
    def leave_is_asked_for(self, trigger):
        if trigger is Trigger.SERVER:
            self.rig.coordinator.server_stops()
        else:
            self.rig.coordinator.begin(trigger)
        self._triggered()

    @rule(elapsed=st.sampled_from([0.0, 3.0]), grace=st.sampled_from([None, 20.0, 130.0]))
    def hook_comes(self, elapsed, grace):
        self.hooks.append(self.rig.coordinator.prestop(elapsed=elapsed, grace=grace))
        self._triggered()

    @precondition(lambda self: self.hooks)
    @rule(lost=st.booleans())
    def hook_goes(self, lost):
        hook = self.hooks.pop()
        if lost or not self.rig.coordinator.life.wait_is_over:
            hook.lost()
        else:
            hook.answered()

    @rule()
    def request_comes(self):
        accepts = self.rig.phase.accepts_work
        try:
            self.keys.append(self.rig.coordinator.enter("GET", "/"))
        except NotAcceptingError:
            assert not accepts

    @precondition(lambda self: self.keys)
    @rule()
    def request_ends(self):
        self.rig.coordinator.leave(self.keys.pop())

    @invariant()
    def promises_hold(self):
        if not hasattr(self, "rig"):
            return
        self.rig.loop.settle()
        phase, life = self.rig.phase, self.rig.coordinator.life
        if phase is not self.phases[-1]:
            self.phases.append(phase)
        order = list(Phase)
        assert [order.index(each) for each in self.phases] == sorted({order.index(each) for each in self.phases})
        assert len(life.in_flight) == len(self.keys)
        assert all(runs <= 1 for runs in self.runs)
        if life.leave is None:
            return
        assert phase.leaving
        assert self.rig.registry.frozen or self.rig.coordinator._registry is None
        assert life.leave.budget.deadline <= self.first_trigger + self.grace
        if phase is Phase.STOPPED:
            assert all(runs == 1 for runs in self.runs)
            assert life.stopped.is_set()
            stopped = life.lifecycle.entered(Phase.STOPPED) or 0.0
            # Every callback is given its least time even when the phase's is over, and no more.
            assert stopped <= life.leave.budget.deadline + 0.05 * len(self.runs) or self.rig.exits
        elif life.leave.hard_deadline and self.rig.now > life.leave.budget.deadline:
            assert self.rig.exits, "the deadline has passed and the process goes on"

    def teardown(self):
        if hasattr(self, "rig"):
            for key in self.keys:
                self.rig.coordinator.leave(key)
            self.rig.close()


TestLeaveMachine = LeaveMachine.TestCase
TestLeaveMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
