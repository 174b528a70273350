"""Several processes of one pod, in virtual time: one speaks for all, none takes the instance away from the others."""

import signal

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graceful.core.phases import Phase
from graceful.stacks import Job, Worker
from tests.pods import ClientRegistry, Pod, WorkerRegistry

TERM = signal.SIGTERM


@pytest.fixture
def pod(request):
    pod = Pod(getattr(request, "param", WorkerRegistry))
    yield pod
    pod.close()


def serving(pod, count=2):
    processes = [pod.spawn(ready=True) for _ in range(count)]
    pod.advance(3)
    assert pod.eureka.status == "UP"
    pod.eureka.changes.clear()
    return processes


def owner_first(pod):
    return sorted(pod.processes, key=lambda process: process is not pod.owner)


def test_one_registers_and_the_former_life_is_cleared_once(pod):
    """A lease and an override were left: three processes start, it is deleted once and registered once."""
    pod.eureka.lease = pod.eureka.override = True
    processes = [pod.spawn(ready=True) for _ in range(3)]
    pod.advance(3)
    assert pod.eureka.changes == ["delete", "register"]
    assert pod.eureka.status == "UP"
    assert all(process.phase is Phase.SERVING for process in processes)


@pytest.mark.parametrize("step", [step / 50 for step in range(16)])
def test_no_start_takes_a_registration_for_a_former_lifes(pod, step):
    """A lease was left, and the second process starts at any instant of the first one's start and announcement."""
    pod.eureka.lease = True
    pod.spawn(ready=True)
    pod.advance(step)
    pod.spawn(ready=True)
    pod.advance(3)
    assert pod.eureka.changes == ["delete", "register"]


def test_who_is_ready_first_announces(pod):
    """The first process to start is not ready for a minute: the second one does not wait for it."""
    slow, quick = pod.spawn(), pod.spawn(ready=True)
    pod.advance(3)
    assert pod.eureka.status == "UP"
    assert pod.owner is quick
    assert slow.phase is Phase.STARTING


def test_the_pod_leaves_once(pod):
    """SIGTERM reaches all: one change of the status, one deletion, by the last one out; each waits the whole time."""
    processes = serving(pod, 3)
    for process in processes:
        process.coordinator.signalled(TERM)
    pod.advance(5)
    assert pod.eureka.changes == ["out of service"]
    assert {process.phase for process in processes} == {Phase.LAME_DUCK}
    pod.advance(30)
    assert pod.eureka.changes == ["out of service", "delete"]
    assert pod.processes == []
    outcomes = [process.coordinator.report.deregistered for process in processes]
    assert len([each for each in outcomes if each is not None]) >= 1
    assert all(process.coordinator.report.clean for process in processes)
    assert all(process.coordinator.report.withdrawn is not None for process in processes)


@pytest.mark.parametrize("which", ["owner", "follower"])
def test_a_recycled_worker_leaves_the_registry_alone(pod, which):
    """One process is told to leave: it is gone within seconds, and the instance was UP all the time."""
    serving(pod)
    owner, follower = owner_first(pod)
    leaving, staying = (owner, follower) if which == "owner" else (follower, owner)
    leaving.coordinator.signalled(TERM)
    pod.advance(4)
    assert leaving.dead
    assert leaving.coordinator.report.alone
    assert leaving.coordinator.report.clean
    assert set(pod.eureka.changes) <= {"register"}
    assert pod.eureka.status == "UP"
    assert pod.owner is staying


def test_a_slow_request_of_a_recycled_owner_does_not_keep_the_instance_without_an_owner(pod):
    """Its server needs ten seconds for what is in flight: the other has announced the instance long before."""
    pod.server_stop_delay = 10
    serving(pod)
    owner, follower = owner_first(pod)
    owner.coordinator.signalled(TERM)
    pod.advance(2)
    assert not owner.dead
    assert pod.owner is follower
    assert pod.eureka.changes == ["register"]


def test_a_parent_that_repeats_itself_forces_nothing(pod):
    """SIGTERM every second until the worker is gone (gunicorn with fewer workers): its clean-up runs to its end."""
    worker, _ = serving(pod)
    worker.on_cleanup(4)
    for _ in range(8):
        worker.coordinator.signalled(TERM)
        pod.advance(1)
    assert worker.exits == []
    assert worker.coordinator.report.clean
    assert worker.dead


def test_a_worker_that_was_never_ready_does_not_keep_the_others_from_deregistering(pod):
    """It leaves with them, ends last, and has nothing to deregister."""
    serving(pod)
    starting = pod.spawn()
    starting.coordinator.life.in_flight.enter(
        (Job, pod.loop.time(), ("job",), Worker())
    )  # until the drain's time is over
    pod.advance(1)
    for process in list(pod.processes):
        process.coordinator.signalled(TERM)
    pod.advance(14)
    assert pod.processes == [starting]
    assert pod.eureka.status is None
    assert pod.eureka.deletions == 1


def test_a_start_beside_a_worker_that_is_recycled_clears_nothing(pod):
    """The last one that served has handed over to one that only starts, and a third one finds the name free."""
    (recycled,) = serving(pod, 1)
    recycled.on_cleanup(4)
    pod.spawn()
    recycled.coordinator.server_stops()
    pod.advance(1.5)
    assert pod.owner is None
    pod.spawn()
    pod.advance(1)
    assert not recycled.dead
    assert pod.eureka.changes == []


def test_an_operators_override_survives_a_take_over(pod):
    """Out of service by hand, then the owner is killed: the next owner registers, and leaves the override alone."""
    serving(pod)
    pod.eureka.override = True
    pod.owner.kill()
    pod.advance(3)
    assert pod.eureka.changes == ["register"]
    assert pod.eureka.status == "OUT_OF_SERVICE"


def test_a_reload_is_no_leave_of_the_pod(pod):
    """Both workers are told to leave while their successors start: they serve on until one of these does."""
    old = serving(pod)
    new = [pod.spawn(), pod.spawn()]
    for process in old:
        process.coordinator.signalled(TERM)
    pod.advance(8)
    assert {process.phase for process in old} == {Phase.LAME_DUCK}
    new[0].readiness.by_hand = True
    pod.advance(4)
    assert all(process.dead for process in old)
    assert pod.owner is new[0]
    assert pod.eureka.changes == ["register"]


def test_starting_workers_that_leave_after_all_make_it_the_pods_leave(pod):
    """A worker is just starting when the pod is told to leave, and hears it late: the instance is taken out then."""
    old = serving(pod)
    new = pod.spawn()
    for process in old:
        process.coordinator.signalled(TERM)
    pod.advance(3)
    assert pod.eureka.status == "UP"
    new.coordinator.signalled(TERM)
    pod.advance(3)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    assert {process.phase for process in old} == {Phase.LAME_DUCK}


def test_a_hook_decides_at_once_that_the_pod_leaves(pod):
    """One process had its SIGTERM a moment before the hook reached all of them."""
    first, second = serving(pod)
    first.coordinator.signalled(TERM)
    pod.advance(0.3)
    visits = [process.coordinator.prestop(elapsed=0.0, grace=60.0) for process in (first, second)]
    pod.advance(0.5)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    assert first.coordinator.life.leave.alone is False
    assert len(visits) == 2


def test_a_staggered_stop_ends_with_the_pods_leave(pod):
    """One is told, the other half a minute later: the second finds nobody else, and takes the instance out."""
    first, second = serving(pod)
    first.coordinator.signalled(TERM)
    pod.advance(30)
    assert pod.eureka.status == "UP"
    second.coordinator.signalled(TERM)
    pod.advance(3)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    pod.advance(30)
    assert pod.eureka.status is None


@pytest.mark.parametrize("when", [0.03, 3, 10.2])
def test_an_owner_that_dies_while_the_pod_leaves_is_followed(pod, when):
    """Killed before it withdrew, in the lame duck, or at the end: out of service stays, and one process deregisters."""
    serving(pod)
    owner, follower = owner_first(pod)
    for process in (owner, follower):
        process.coordinator.signalled(TERM)
    pod.advance(when)
    owner.kill()
    pod.advance(4)
    assert pod.eureka.status != "UP"
    pod.advance(30)
    assert pod.eureka.status is None
    assert follower.coordinator.report.clean


def test_an_owner_that_does_nothing_is_not_waited_for(pod):
    """It hangs: the other takes the instance out of service itself, within the time for it, and watches over it."""
    serving(pod)
    owner, follower = owner_first(pod)
    owner.coordinator._registry._registry.withdraw = owner.coordinator._registry._registry.keep_withdrawn = _never
    for process in (owner, follower):
        process.coordinator.signalled(TERM)
    pod.advance(5)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    pod.eureka.override = False
    pod.advance(2)
    assert pod.eureka.status == "OUT_OF_SERVICE"


async def _never(*_):
    await anyio.sleep_forever()


def test_a_worker_started_in_the_pods_leave_announces_nothing_until_that_is_over(pod):
    """All were told one by one, a supervisor starts another: it is UP once the last of them has deregistered."""
    old = serving(pod)
    for process in old:
        process.coordinator.signalled(TERM)
    pod.advance(3)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    pod.spawn(ready=True)
    pod.advance(5)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    pod.advance(30)
    assert pod.eureka.status == "UP"
    assert len(pod.processes) == 1


def test_the_leaving_processes_watch_over_the_instance_not_one_that_was_started_meanwhile(pod):
    """The owner dies in the lame duck, and of those that want its place the new worker is the quickest."""
    pod.youngest_first = True
    serving(pod)
    owner, follower = owner_first(pod)
    for process in (owner, follower):
        process.coordinator.signalled(TERM)
    pod.advance(3)
    pod.spawn(ready=True)
    pod.advance(1)
    owner.kill()
    pod.advance(3)
    assert pod.eureka.changes == ["out of service"]
    assert pod.owner is follower
    pod.eureka.override = False
    pod.advance(2)
    assert pod.eureka.changes == ["out of service", "out of service"]


def test_one_process_watches_over_the_instance(pod):
    """It is UP again in the lame duck, whoever did that: it is taken out of service again, once."""
    processes = serving(pod, 3)
    for process in processes:
        process.coordinator.signalled(TERM)
    pod.advance(3)
    pod.eureka.override = False
    pod.advance(2)
    assert pod.eureka.changes == ["out of service", "out of service"]


@pytest.mark.parametrize("pod", [ClientRegistry], indirect=True)
def test_workers_with_a_client_each_leave_alone_or_together(pod):
    """Each registers the same instance. One is recycled: it stays UP. All leave: the last one out deregisters."""
    first, second = serving(pod)
    first.coordinator.signalled(TERM)
    pod.advance(8)
    assert first.dead
    assert first.coordinator.report.alone
    assert pod.eureka.changes == []
    third = pod.spawn(ready=True)
    pod.advance(3)
    for process in (second, third):
        process.coordinator.signalled(TERM)
    pod.advance(3)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    fourth = pod.spawn(ready=True)
    pod.advance(3)
    assert pod.eureka.status == "OUT_OF_SERVICE"
    fourth.coordinator.signalled(TERM)
    pod.advance(40)
    assert pod.eureka.deletions == 1  # two that end in one moment both delete; the second finds nothing
    assert pod.processes == []


class PodMachine(RuleBasedStateMachine):
    """Workers start, become ready, are told to leave one by one or all together, and are killed, at any instant.

    The promises, some of which the model itself asserts: never two processes announce; a registration that is in use is
    never cleared; nothing is made UP while the pod leaves; who serves is UP soon; at the end nothing is left.
    """

    def __init__(self):
        super().__init__()
        self.pod = Pod(WorkerRegistry)

    def _pick(self, index):
        return self.pod.processes[index % len(self.pod.processes)]

    @precondition(lambda self: len(self.pod.processes) < 4)
    @rule(ready=st.booleans())
    def starts(self, ready):
        self.pod.spawn(ready=ready)

    @precondition(lambda self: self.pod.processes)
    @rule(index=st.integers(0, 3))
    def becomes_ready(self, index):
        self._pick(index).readiness.by_hand = True

    @precondition(lambda self: self.pod.processes)
    @rule(index=st.integers(0, 3))
    def one_is_told(self, index):
        self._pick(index).coordinator.signalled(TERM)

    @rule(hook=st.booleans())
    def all_are_told(self, hook):
        for process in list(self.pod.processes):
            if hook:
                process.coordinator.prestop(elapsed=0.0, grace=None)
            process.coordinator.signalled(TERM)

    @precondition(lambda self: self.pod.processes)
    @rule(index=st.integers(0, 3))
    def is_killed(self, index):
        self._pick(index).kill()

    @rule(seconds=st.sampled_from([0.02, 0.3, 1.1, 4.0, 12.0]))
    def time_passes(self, seconds):
        self.pod.advance(seconds)

    @invariant()
    def no_process_breaks(self):
        self.pod.loop.settle()
        for process in self.pod.processes:
            assert not process.task.done() or process.task.exception() is None
            assert not [each for each in process.coordinator.life.problems if " failed: " in each]
        assert self.pod.broken == []

    def teardown(self):
        pod = self.pod
        try:
            pod.advance(100)  # every leave that has begun is over
            serving = any(process.phase is Phase.SERVING for process in pod.processes)
            assert pod.eureka.status == "UP" or not serving
            deletions = pod.eureka.deletions
            for process in list(pod.processes):
                process.coordinator.signalled(TERM)
            pod.advance(100)
            self.no_process_breaks()
            assert pod.processes == []
            if serving:
                assert pod.eureka.status is None
                assert pod.eureka.deletions == deletions + 1
        finally:
            pod.close()


TestPodMachine = PodMachine.TestCase
TestPodMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
