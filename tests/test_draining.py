"""The beginning of the drain, for whoever waits for it; and the connections that are asked to end."""

import asyncio
import threading
from functools import partial

import anyio
import pytest

from graceful.draining import Draining, LongConnection, LongConnections
from graceful.loops import run_soon_here


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    return request.param


def set_in_thread(draining):
    thread = threading.Thread(target=draining.set)
    thread.start()
    thread.join(20)


def test_many_tasks_wait_and_a_thread_sets_it(backend):
    """Each is woken in its own event loop; who comes later does not wait."""
    draining = Draining()

    async def main():
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(draining.wait)
                await anyio.wait_all_tasks_blocked()
                assert not draining.is_set()
                set_in_thread(draining)
            await draining.wait()

    anyio.run(main, backend=backend)
    assert draining.is_set()
    assert repr(draining) == "<Draining set>"


def test_two_event_loops_at_once():
    """An application may run in several threads, with several kinds of event loop."""
    draining, waiting, woken = Draining(), threading.Barrier(3), []

    def serve(backend):
        async def main():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(draining.wait)
                await anyio.wait_all_tasks_blocked()
                waiting.wait(20)
            woken.append(backend)

        anyio.run(main, backend=backend)

    threads = [threading.Thread(target=serve, args=(backend,)) for backend in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    waiting.wait(20)
    draining.set()
    for thread in threads:
        thread.join(20)
    assert sorted(woken) == ["asyncio", "trio"]


def test_a_wait_that_is_cancelled_leaves_nothing_behind(backend):
    """A service may wait with a time-out, over and over, for all its life."""
    draining = Draining()

    async def main():
        for _ in range(3):
            with anyio.move_on_after(0.001):
                await draining.wait()

    anyio.run(main, backend=backend)
    assert draining._waiters == {}


def test_an_event_loop_that_has_ended_does_nothing(backend):
    """Whoever waited in it is gone, and whoever begins the drain must not hear of that."""

    async def main():
        return run_soon_here()

    soon = anyio.run(main, backend=backend)
    soon(lambda: pytest.fail("it has ended"))


def test_a_thread_waits():
    """With a time-out of its own, in seconds."""
    draining = Draining()
    assert not draining.wait_in_thread(0.001)
    heard = []
    thread = threading.Thread(target=lambda: heard.append(draining.wait_in_thread(20)))
    thread.start()
    draining.set()
    thread.join(20)
    assert heard == [True]
    assert draining.wait_in_thread()


def test_set_twice_is_set_once():
    """Every waiter is woken once."""
    draining = Draining()

    async def main():
        task = asyncio.create_task(draining.wait())
        await asyncio.sleep(0)
        draining.set()
        draining.set()
        await task

    asyncio.run(main())
    assert draining._waiters == {}


def test_connections_are_known_until_they_have_ended():
    """And those that come when the others have been asked are asked at once."""
    asked = []

    def connection(name):
        return LongConnection(lambda: asked.append(name), lambda: asked.append(f"cut {name}"))

    connections = LongConnections()
    first = connections.add(connection("a"))
    connections.add(connection("b"))
    assert (len(connections), asked) == (2, [])
    connections.remove(first)
    connections.remove(first)
    for each in connections.all():
        each.end()
    assert asked == ["b"]
    connections.add(connection("late"))
    assert asked == ["b", "late"]
    assert len(connections) == 2


def test_none_slips_between_the_asking_and_the_coming():
    """Connections come in four threads while all are asked: each is asked at least once."""
    connections = LongConnections()
    asked: set[tuple[int, int]] = set()
    start = threading.Barrier(5)

    def come(number):
        start.wait(20)
        for index in range(300):
            name = (number, index)
            connections.add(LongConnection(partial(asked.add, name), lambda: None))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    start.wait(20)
    for each in connections.all():
        each.end()
    for thread in threads:
        thread.join(20)
    assert len(asked) == 1200
