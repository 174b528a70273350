"""The user's callbacks run where they belong, and nothing they do hangs or hurts graceful's own loop."""

import asyncio
import functools
import threading
import time
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import current_token

from graceful.calling import AppCaller
from graceful.core.callbacks import CallbackOutcome, CallbackStack, RegisteredCallback


@pytest.fixture
def application():
    """Start an event loop of an application's in its own thread; gives its token and its thread."""
    running = []

    def start(backend):
        started, stop = threading.Event(), anyio.Event
        state: dict[str, Any] = {}

        async def main():
            state["token"], state["stop"] = current_token(), stop()
            state["thread"] = threading.current_thread()
            started.set()
            await state["stop"].wait()

        thread = threading.Thread(target=anyio.run, args=(main,), kwargs={"backend": backend}, daemon=True)
        thread.start()
        assert started.wait(10)
        running.append((thread, state))
        return state

    yield start
    for thread, state in running:
        anyio.from_thread.run_sync(state["stop"].set, token=state["token"])
        thread.join(10)
        assert not thread.is_alive()


def call(function, *, timeout=5.0, token=None):
    """Call from graceful's side: an asyncio loop of its own."""

    async def main():
        caller = AppCaller()
        if token is not None:
            caller.adopt(token)
        return await caller.call_for_value(RegisteredCallback.checked(function), timeout)

    return anyio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_callback_runs_in_the_applications_loop(application, backend):
    """Asyncio and trio alike: an asyncio pool must be closed in its own loop."""
    app = application(backend)

    async def where():
        await anyio.lowlevel.checkpoint()
        return threading.current_thread()

    record, thread = call(where, token=app["token"])
    assert record.outcome is CallbackOutcome.COMPLETED
    assert thread is app["thread"]


def test_a_sync_callback_runs_in_a_thread_of_its_own():
    """It may block without blocking anybody."""
    record, thread = call(threading.current_thread)
    assert record.outcome is CallbackOutcome.COMPLETED
    assert thread is not threading.main_thread()


def test_partials_callables_and_lambdas_that_return_awaitables_are_understood(application):
    """Whatever a user can write that is async, is awaited in the application's loop."""
    app = application("asyncio")

    async def where(_argument=None):
        return threading.current_thread()

    class Callable:
        async def __call__(self):
            return await where()

    for function in (functools.partial(where, 1), Callable(), lambda: where()):  # noqa: PLW0108  the lambda is the point
        assert call(function, token=app["token"])[1] is app["thread"]


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError("stray"), KeyboardInterrupt()])
def test_what_a_sync_callback_raises_is_a_record(error):
    """Whatever it is: even a stray cancellation must not take graceful's loop with it."""

    def fail():
        raise error

    record, _ = call(fail)
    assert record.outcome is CallbackOutcome.FAILED
    assert type(error).__name__ in record.error


@pytest.mark.parametrize("error", [ValueError("no"), asyncio.CancelledError("stray")])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_an_async_callback_raises_is_a_record(application, error, elsewhere):
    """In the application's loop and in graceful's own."""

    async def fail():
        raise error

    record, _ = call(fail, token=application("asyncio")["token"] if elsewhere else None)
    assert record.outcome is CallbackOutcome.FAILED
    assert "Cancelled" in record.error or "no" in record.error


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_callback_that_hangs_is_cancelled_where_it_runs(application, backend):
    """The time limit holds in the application's loop too: its `finally` runs."""
    app, cleaned = application(backend), threading.Event()

    async def hang():
        try:
            await anyio.sleep(60)
        finally:
            cleaned.set()

    record, _ = call(hang, timeout=0.1, token=app["token"])
    assert record.outcome is CallbackOutcome.TIMED_OUT
    assert record.name.endswith("hang")
    assert cleaned.wait(10)


def test_a_sync_callback_that_hangs_is_left_behind():
    """Graceful does not wait for it."""
    release = threading.Event()

    def hang():
        release.wait(30)

    async def main():
        record = await AppCaller().call(RegisteredCallback.checked(hang), 0.1)
        release.set()
        return record

    assert anyio.run(main).outcome is CallbackOutcome.TIMED_OUT


def test_a_blocked_application_loop_is_a_record_and_nothing_starts_late(application):
    """1. The loop is blocked. 2. The callback times out. 3. The loop is free again: the callback is not run then."""
    app, release, blocked, ran = application("asyncio"), threading.Event(), threading.Event(), []

    def block():
        blocked.set()
        release.wait(30)

    app["token"].native_token.call_soon_threadsafe(block)
    assert blocked.wait(10)

    async def late():
        ran.append(True)

    record, _ = call(late, timeout=0.1, token=app["token"])
    assert record.outcome is CallbackOutcome.TIMED_OUT
    release.set()
    anyio.from_thread.run(anyio.sleep, 0.01, token=app["token"])
    assert not ran


def test_a_closed_application_loop_is_a_record(application):
    """The loop has ended before the callback's turn."""

    async def main():
        return current_token()

    token = anyio.run(main)

    async def never():
        raise AssertionError("it cannot run")

    record, _ = call(never, token=token)
    assert record.outcome is CallbackOutcome.FAILED
    assert "event loop has ended" in record.error


def test_a_stopped_trio_loop_is_a_record():
    """Trio says so itself."""

    async def main():
        return current_token()

    token = trio.run(main)

    async def never():
        raise AssertionError("it cannot run")

    record, _ = call(never, token=token)
    assert record.outcome is CallbackOutcome.FAILED


def test_run_times_are_recorded():
    """In seconds, on the event loop's clock."""
    record, _ = call(lambda: time.sleep(0.05))
    assert 0.05 <= record.seconds < 5
    assert "completed after 0." in str(record)


def test_callbacks_are_handed_out_once_last_first():
    """Also one that is registered while others run."""
    stack = CallbackStack()
    for name in "abc":
        stack.push(RegisteredCallback(print, name))
    names = []
    for callback in stack.drain():
        names.append(callback.name)
        if callback.name == "b":
            stack.push(RegisteredCallback(print, "late"))
    assert names == ["c", "b", "late", "a"]
    assert len(stack) == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_an_impossible_timeout_is_refused(timeout):
    """With the callback's name and what was expected."""
    with pytest.raises(ValueError, match="expected seconds, more than 0"):
        RegisteredCallback.checked(print, timeout)


def test_what_is_not_callable_is_refused():
    """`on_cleanup(pool.close())` is the usual slip."""
    with pytest.raises(TypeError, match="must be callable without arguments, not None"):
        RegisteredCallback.checked(None)  # type: ignore[arg-type]
