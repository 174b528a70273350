"""`track`: whatever kind of function or block it stands around, the work counts from its first step to its end."""

import contextlib
import functools
import inspect
import threading

import anyio
import pytest

from graceful.core.inflight import InFlight, NotAcceptingError
from graceful.stacks import Job, Worker
from graceful.tracking import Tracking


class FakeGate:
    """In-flight work without a coordinator around it."""

    def __init__(self):
        self.in_flight = InFlight()

    def enter(self, *what):
        return self.in_flight.enter((Job, 0.0, what, Worker.found_here()))

    def leave(self, key):
        self.in_flight.leave(key)

    @property
    def names(self):
        return [work.name for work in self.in_flight.snapshot()]


@pytest.fixture
def gate():
    return FakeGate()


@pytest.fixture
def track(gate):
    return lambda name=None: Tracking(gate, name)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_block_counts_until_it_ends(gate, track, anyio_backend):
    """Sync and async, nested, by an exception and by a cancellation."""
    with track("a"):
        async with track("b") as tracking, tracking:
            assert gate.names == ["a", "b", "b"]
    with contextlib.suppress(ZeroDivisionError):
        async with track("c"):
            raise ZeroDivisionError
    with anyio.move_on_after(0):
        async with track("d"):
            await anyio.sleep_forever()
    assert gate.names == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_coroutine_function_counts_for_its_whole_run(gate, track, anyio_backend):
    """Not from the creation of the coroutine, and until it returns, raises or is cancelled."""

    @track("job")
    async def job(seconds, *, result):
        await anyio.sleep(seconds)
        assert gate.names == ["job"]
        return 1 / result

    coroutine = job(0, result=2)
    assert gate.names == []
    assert await coroutine == 0.5
    with pytest.raises(ZeroDivisionError):
        await job(0, result=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(functools.partial(job, 60, result=1))
        tasks.start_soon(functools.partial(job, 60, result=1))
        await anyio.wait_all_tasks_blocked()
        assert gate.names == ["job", "job"]
        tasks.cancel_scope.cancel()
    assert gate.names == []


def test_a_sync_function_counts_in_its_thread(gate, track):
    """And is called with what it was called with."""
    seen, go = threading.Event(), threading.Event()

    @track()
    def work(*args, **kwargs):
        seen.set()
        assert go.wait(10)
        raise LookupError(args, kwargs)

    raised = []

    def run():
        with pytest.raises(LookupError) as error:
            work(1, two=2)
        raised.append(error.value.args)

    thread = threading.Thread(target=run)
    thread.start()
    assert seen.wait(10)
    assert gate.names == [f"{__name__}.test_a_sync_function_counts_in_its_thread.<locals>.work"]
    go.set()
    thread.join(10)
    assert gate.names == []
    assert raised == [((1,), {"two": 2})]


def test_a_generator_counts_while_it_is_open(gate, track):
    """From the first value to its end or its close; what is sent, thrown and returned passes through."""

    @track("rows")
    def rows():
        try:
            sent = yield "first"
        except LookupError:
            sent = "thrown"
        yield sent
        return "returned"

    generator = rows()
    assert gate.names == []
    assert [next(generator), generator.send("sent")] == ["first", "sent"]
    assert gate.names == ["rows"]
    with pytest.raises(StopIteration, match="returned"):
        next(generator)
    assert gate.names == []
    left = rows()
    next(left)
    assert left.throw(LookupError()) == "thrown"
    left.close()
    assert gate.names == []


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_an_async_generator_counts_while_it_is_open(gate, track, anyio_backend):
    """What is sent and thrown passes through, as an async context manager needs it."""
    closed = []

    @track("rows")
    async def rows():
        try:
            try:
                sent = yield "first"
            except LookupError:
                sent = "thrown"
            yield sent
        finally:
            await anyio.lowlevel.checkpoint()
            closed.append(gate.names)

    generator = rows()
    assert gate.names == []
    assert [await anext(generator), await generator.asend("sent")] == ["first", "sent"]
    assert [value async for value in generator] == []
    generator = rows()
    assert [await anext(generator), await generator.athrow(LookupError())] == ["first", "thrown"]
    await generator.aclose()
    with anyio.move_on_after(0) as scope:
        async with contextlib.asynccontextmanager(track("block")(cancelled))():
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert closed == [["rows"], ["rows"]]
    assert gate.names == []


async def cancelled():
    try:
        yield
    except anyio.get_cancelled_exc_class():
        raise
    except BaseException as error:
        raise AssertionError("the cancellation of the block was not thrown in") from error
    raise AssertionError("the block was not cancelled")


@pytest.mark.anyio
async def test_a_function_stays_what_it_is(track):
    """Frameworks look at the kind, the name and the signature of a function."""

    class Jobs:
        @track()
        async def run(self, number: int) -> int:
            """One job."""
            return number

        @track()
        async def __call__(self):
            return "called"

    assert inspect.iscoroutinefunction(Jobs.run)
    assert inspect.isasyncgenfunction(track()(cancelled))
    assert list(inspect.signature(Jobs.run).parameters) == ["self", "number"]
    assert (Jobs.run.__name__, Jobs.run.__doc__) == ("run", "One job.")
    assert await Jobs().run(7) == 7
    assert inspect.iscoroutinefunction(track()(functools.partial(Jobs().run, 7)))
    assert inspect.iscoroutinefunction(track("object")(Jobs()))
    assert await track("object")(Jobs())() == "called"


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_nothing_begins_once_the_gate_is_closed(gate, track):
    """And what had begun still ends."""

    @track("late")
    async def job():
        raise AssertionError("it ran")

    @track("late")
    def work():
        raise AssertionError("it ran")

    @track("late")
    async def rows():
        yield "it ran"

    async with track("early"):
        gate.in_flight.close()
        for refused in (job, work, lambda: anext(rows())):
            with pytest.raises(NotAcceptingError, match="late: this service is draining"):
                await refused()
        assert gate.names == ["early"]
    assert gate.names == []


def test_what_cannot_be_tracked_is_said(gate, track):
    """A block without a name, a class, a number."""
    with pytest.raises(TypeError, match=r"give it one, track\(\"job 42\"\)"), track():
        pass
    for wrong in (int, 42):
        with pytest.raises(TypeError, match="decorates a function"):
            track()(wrong)
    assert gate.names == []
