"""Programs that no server manages, with their signals held. Usage: `-m tests.scenarios.signals_program STORY [LOOP]`.

Each function is one story; those without a test's orders check themselves with `check`.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

WINDOW = threading.Event()
PARENT = os.getpid()


def _terminate_in_the_window() -> None:
    """Registered ahead of graceful's own hook: SIGTERM reaches the child while it still has our handlers."""
    if WINDOW.is_set():
        signal.raise_signal(signal.SIGTERM)


os.register_at_fork(after_in_child=_terminate_in_the_window)

import anyio  # noqa: E402  after the hook above

from graceful import _ending  # noqa: E402
from graceful.signals import SignalHold  # noqa: E402
from tests.scenarios.signals_support import Keeper, say  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGURG)
keeper = Keeper()


def check(condition: object, what: str) -> None:
    if not condition:
        say("Traceback: not so:", what)
        os._exit(70)


def handlers() -> list[Any]:
    return [signal.getsignal(signum) for signum in SIGNALS]


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


# -- nobody owns the signals ---------------------------------------------------------------------------------------


async def work_forever(*, install: bool) -> None:
    if install:
        keeper.start()
    say("working")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        say("cancelled")
        raise
    finally:
        say("cleaned")


async def compute_forever() -> None:
    """Almost always inside the coroutine: that is where a signal finds the main thread."""
    say("working")
    try:
        while True:
            time.sleep(0.01)  # noqa: ASYNC251  on purpose
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        say("cancelled")
        raise
    finally:
        say("cleaned")


def busy_asyncio_program() -> None:
    keeper.start()
    asyncio.run(compute_forever())


def asyncio_program(loop: str, *, inside: bool) -> None:
    if not inside:
        keeper.start()
    run(work_forever(install=inside), loop)


def blocked_in(call: Callable[[], object]) -> None:
    keeper.start()
    try:
        say("working")  # inside: on a busy machine both signals and the release may come before this call returns
        call()
    finally:
        say("cleaned")


def signalled_elsewhere(*, in_loop: bool) -> None:
    """1. Held. 2. SIGTERM is delivered to another thread, while the main thread waits. 3. It is held all the same."""
    keeper.start()
    say("working")

    def signal_itself() -> None:
        time.sleep(0.3)  # until the main thread waits; too early, and the test proves less
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=signal_itself, daemon=True).start()
    if in_loop:
        asyncio.run(work_forever(install=False))
    else:
        threading.Event().wait()


class Slow:
    def __del__(self) -> None:
        try:
            say("working")
            time.sleep(1000)
        finally:
            say("lost")


def released_in_a_finalizer() -> None:
    """1. The release finds the main thread in a `__del__`, which no exception leaves. 2. The program ends after it."""
    keeper.start()
    try:
        Slow()
        threading.Event().wait()
    finally:
        say("cleaned")


class Failing:
    def __del__(self) -> None:
        raise ValueError


def released_in_the_hook() -> None:
    """1. The release finds the main thread in the program's own hook for what a `__del__` raises. 2. It comes later."""

    def hook(_unraisable: object, /) -> None:
        say("working")
        keeper.finish.wait()
        say("hook-ends")

    sys.unraisablehook = hook
    keeper.start()
    try:
        Failing()
        threading.Event().wait()
    finally:
        say("cleaned")


def asked_again_in_our_hook() -> None:
    """Like `released_in_a_finalizer`, but the main thread is asked again before it has left graceful's own hook."""

    def interrupt(frame: FrameType, event: str, _arg: object) -> None:
        if event == "return" and frame.f_code.co_filename == _ending.__file__:
            signal.raise_signal(signal.SIGURG)

    sys.setprofile(interrupt)
    released_in_a_finalizer()


def join_a_thread() -> None:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    thread.join()


def compute() -> None:
    total = 0
    while True:
        total += 1


# -- a loop's handler ----------------------------------------------------------------------------------------------


async def be_stopped(*, install: bool, stop: asyncio.Event) -> None:
    add_handlers(stop)
    if install:
        keeper.start()
    await until_finished(stop)


def add_handlers(stop: asyncio.Event) -> None:
    def stopped() -> None:
        say("stop")
        stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped)
    loop.add_signal_handler(signal.SIGHUP, say, "hang-up")


async def until_finished(stop: asyncio.Event) -> None:
    say("working")
    keeper.hold.ensure()
    say("tapped")
    await stop.wait()
    await asyncio.to_thread(keeper.finish.wait)


async def only_add_handlers(stop: asyncio.Event) -> None:
    add_handlers(stop)
    keeper.hold.ensure()


def loop_handler(when: str, loop: str) -> None:
    stop = asyncio.Event()
    if when != "inside":
        keeper.start()
    if when == "two-runs":
        factory = None
        if loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(only_add_handlers(stop))
            runner.run(until_finished(stop))
    else:
        run(be_stopped(install=when == "inside", stop=stop), loop)
    say("main-ends")


def receiver(backend: str) -> None:
    """1. Held. 2. anyio's receiver takes SIGTERM, on asyncio or trio. 3. It receives it at the release."""

    async def main() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            keeper.hold.ensure()
            say("working")
            async for signum in signals:
                say("received", int(signum))
                break

    keeper.start()
    anyio.run(main, backend=backend)
    say("main-ends")


# -- a user's handler ----------------------------------------------------------------------------------------------


def user_handler(order: str) -> None:
    """1. A handler is set before or after us. 2. At the release it is called, and ends the program in its way."""
    found: Any = None

    def handle(signum: int, frame: Any) -> None:
        say("user-handler")
        if order == "after-chained":
            found(signum, frame)
        raise SystemExit(3)

    if order == "before":
        signal.signal(signal.SIGTERM, handle)
        keeper.start()
    else:
        keeper.start()
        found = signal.signal(signal.SIGTERM, handle)
        while signal.getsignal(signal.SIGTERM) is handle:  # until the poll has noticed
            time.sleep(0.01)
    say("working")
    threading.Event().wait()


# -- stories that check themselves ---------------------------------------------------------------------------------


def receive_one(hold: SignalHold) -> int:
    async def first() -> int:
        async for signum in hold.receive():
            return signum
        return 0

    return asyncio.run(asyncio.wait_for(first(), 30))


def early() -> None:
    """1. Held. 2. SIGTERM and SIGINT come before anybody receives. 3. Nothing is lost. 4. Released: exit 0."""
    hold = SignalHold()
    hold.install()
    os.kill(os.getpid(), signal.SIGTERM)
    check(receive_one(hold) == signal.SIGTERM, "SIGTERM is received")
    threading.Thread(target=hold.release, args=(signal.SIGTERM,), kwargs={"remaining": 1.0}).start()
    threading.Event().wait()


def ignored() -> None:
    """1. SIGINT is ignored, then held. 2. It comes: it stays ignored. 3. SIGTERM is held all the same."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hold = SignalHold()
    hold.install()
    check(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, "SIGINT is left alone")
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    check(receive_one(hold) == signal.SIGTERM, "only SIGTERM is received")


def urgent() -> None:
    """1. Two handlers of SIGURG, one before us, one after us that calls ours. 2. Both are called. 3. Restored."""
    calls = []
    found: Any = None

    def before(_signum: int, _frame: Any) -> None:
        calls.append("before")

    def after(signum: int, frame: Any) -> None:
        calls.append("after")
        found(signum, frame)

    signal.signal(signal.SIGURG, before)
    hold = SignalHold()
    hold.install()
    signal.raise_signal(signal.SIGURG)
    check(calls == ["before"], "the first is chained")
    found = signal.signal(signal.SIGURG, after)
    hold.ensure()
    signal.raise_signal(signal.SIGURG)
    check(calls == ["before", "after", "before"], "the second is chained, and the first by it")
    hold.uninstall()
    check(signal.getsignal(signal.SIGURG) is after, "SIGURG is restored")


def uninstall() -> None:
    """1. Held, twice, and let go, twice. 2. All is as it was. 3. SIGTERM ends the program as it would have."""
    before = handlers()
    hold = SignalHold()
    for _ in range(2):
        hold.install()
        ours = handlers()
        hold.install()
        check(handlers() == ours, "installing again does nothing")
        check(all(now is not was for now, was in zip(ours, before, strict=True)), "the signals are held")
        hold.uninstall()
        hold.uninstall()
        check(handlers() == before, "the handlers are put back")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def uninstall_elsewhere() -> None:
    """1. Held. 2. Another thread lets go, while the main thread waits. 3. All is as it was, SIGTERM included."""
    before = handlers()
    hold = SignalHold()
    hold.install()
    check(handlers() != before, "the signals are held")
    thread = threading.Thread(target=hold.uninstall)
    thread.start()
    thread.join()
    check(handlers() == before, "the handlers are put back")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def put_back_late() -> None:
    """1. A server takes SIGTERM over us; we take it back. 2. We let go. 3. The server puts ours back: it delegates."""
    hold = SignalHold()
    hold.install()

    def serve(_signum: int, _frame: Any) -> None:
        raise SystemExit(3)

    found = signal.signal(signal.SIGTERM, serve)
    hold.ensure()
    hold.uninstall()
    check(signal.getsignal(signal.SIGTERM) is serve, "the server's handler is put back")
    signal.signal(signal.SIGTERM, found)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def in_child(body: Callable[[], None]) -> int:
    """Fork; the child runs the body and leaves with 0. What it exited with."""
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork() -> None:
    """1. Held, with the loop's wake-up tapped. 2. Forked. 3. The child has none of it. 4. The parent still does."""
    before = handlers()
    descriptors = open_descriptors()
    hold = SignalHold()
    hold.install()

    def child() -> None:
        check(handlers() == before, "the child has the handlers from before")
        check(open_descriptors() == descriptors, "the child's pipes are closed")
        check(signal.set_wakeup_fd(-1) == -1, "the child has no wake-up descriptor")
        hold.install()
        check(handlers() != before, "the child may hold its own")
        check(not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "nothing is blocked in the child")

    check(in_child(child) == 0, "the child is free")
    check(in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == -signal.SIGTERM, "SIGTERM ends a child")
    check(not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "nothing is blocked in the parent")
    os.kill(os.getpid(), signal.SIGINT)
    check(receive_one(hold) == signal.SIGINT, "the parent received its own signal first, and no other")


def fork_window() -> None:
    """1. Held. 2. A fork, and SIGTERM in the child before anything was put back. 3. It ends the child only."""
    hold = SignalHold()
    hold.install()
    WINDOW.set()
    check(in_child(lambda: None) == -signal.SIGTERM, "the child ends by SIGTERM")
    WINDOW.clear()
    os.kill(os.getpid(), signal.SIGINT)
    check(receive_one(hold) == signal.SIGINT, "the parent received nothing of it")


def fork_unnoticed() -> None:
    """1. Held. 2. A C library forks, so that no hook runs. 3. SIGTERM ends the child, and the parent hears nothing."""
    hold = SignalHold()
    hold.install()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    check(code == -signal.SIGTERM, "SIGTERM ends the child")
    os.kill(os.getpid(), signal.SIGINT)
    check(receive_one(hold) == signal.SIGINT, "the parent received nothing of it")


def nap() -> None:
    time.sleep(60)


def multiprocessing_child() -> None:
    """1. Held. 2. Forked workers are terminated at once. 3. They end with -15, and the parent has received nothing."""
    hold = SignalHold()
    hold.install()
    for _ in range(20):
        worker = multiprocessing.get_context("fork").Process(target=nap)
        worker.start()
        worker.terminate()
        worker.join(30)
        check(worker.exitcode == -signal.SIGTERM, "the worker ends by SIGTERM")
    os.kill(os.getpid(), signal.SIGINT)
    check(receive_one(hold) == signal.SIGINT, "the parent received nothing of it")


def subprocess_child() -> None:
    """1. Held. 2. A program is started and terminated. 3. It ends with -15 and inherited no descriptor."""
    hold = SignalHold()
    hold.install()
    code = "import os, time; print(*os.listdir('/proc/self/fd'), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, close_fds=False, text=True) as process:
        assert process.stdout is not None
        inherited = {int(number) for number in process.stdout.readline().split()}
        process.terminate()
    check(process.returncode == -signal.SIGTERM, "the program ends by SIGTERM")
    check(inherited <= {0, 1, 2, 3}, f"no descriptor of ours in {inherited}")  # 3: the listing's own


def descriptors_closed() -> None:
    """1. Held and received. 2. Let go from the receiving side's own thread. 3. The iteration ends, all is closed."""
    before = open_descriptors()
    hold = SignalHold()
    hold.install()
    seen = []

    async def keep() -> None:
        watching = asyncio.create_task(hold.watch())
        async for signum in hold.receive():
            seen.append(signum)
            hold.uninstall()
        await watching

    thread = threading.Thread(target=asyncio.run, args=(keep(),))
    thread.start()
    os.kill(os.getpid(), signal.SIGTERM)
    thread.join()
    check(seen == [signal.SIGTERM], "received once, and then the end")
    check(open_descriptors() == before, "no descriptor is left")


STORIES: dict[str, Callable[..., None]] = {
    "asyncio-before": functools.partial(asyncio_program, "asyncio", inside=False),
    "asyncio-inside": functools.partial(asyncio_program, "asyncio", inside=True),
    "uvloop-before": functools.partial(asyncio_program, "uvloop", inside=False),
    "uvloop-inside": functools.partial(asyncio_program, "uvloop", inside=True),
    "asyncio-busy-before": busy_asyncio_program,
    "finalizer": released_in_a_finalizer,
    "hook": released_in_the_hook,
    "finalizer-at-once": asked_again_in_our_hook,
    "elsewhere": functools.partial(signalled_elsewhere, in_loop=False),
    "elsewhere-asyncio": functools.partial(signalled_elsewhere, in_loop=True),
    "receiver": receiver,
    "wait": functools.partial(blocked_in, threading.Event().wait),
    "join": functools.partial(blocked_in, join_a_thread),
    "sleep": functools.partial(blocked_in, functools.partial(time.sleep, 60)),
    "select": functools.partial(blocked_in, functools.partial(select.select, [], [], [])),
    "busy": functools.partial(blocked_in, compute),
    "handler-before": functools.partial(loop_handler, "before"),
    "handler-inside": functools.partial(loop_handler, "inside"),
    "handler-two-runs": functools.partial(loop_handler, "two-runs"),
    "user-before": functools.partial(user_handler, "before"),
    "user-after": functools.partial(user_handler, "after"),
    "user-after-chained": functools.partial(user_handler, "after-chained"),
    "early": early,
    "ignored": ignored,
    "urgent": urgent,
    "uninstall": uninstall,
    "uninstall-elsewhere": uninstall_elsewhere,
    "put-back-late": put_back_late,
    "fork": fork,
    "fork-window": fork_window,
    "fork-unnoticed": fork_unnoticed,
    "multiprocessing": multiprocessing_child,
    "subprocess": subprocess_child,
    "descriptors": descriptors_closed,
}

if __name__ == "__main__":
    STORIES[sys.argv[1]](*sys.argv[2:])
