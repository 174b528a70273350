"""Signals are held, released to their owner, and restored: real child processes, real signals, real requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import uvicorn

from graceful._wakeup import WakeupTap
from graceful.servers.uvicorn import UvicornOwner
from graceful.signals import Handover, SignalHold
from tests.children import Child, child, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCENARIOS = "tests.scenarios"
# uvicorn looks at its flag every 0.1 s: a signal that got through has closed the listener well before this is over.
HOLD_PERIOD = 0.4


def serve_on(port: int, period: float) -> list[int]:
    """Request again and again for that time; an exception when one is refused."""
    until = time.monotonic() + period
    statuses = []
    while time.monotonic() < until:
        statuses.append(get(port)[0])
        time.sleep(0.02)
    return statuses


# -- uvicorn -------------------------------------------------------------------------------------------------------

UVICORN_RUNNING = r"Uvicorn running on http://127.0.0.1:(\d+)"
STYLES = ("cli", "run-object", "run-string", "server-object", "server-string", "serve-before", "serve-inside")
LOOPS = ("asyncio", "uvloop")
UvicornCase = tuple[str, str, str, signal.Signals]
UVICORN_CASES: list[UvicornCase] = [
    *itertools.product(STYLES, LOOPS, ("on",), (signal.SIGTERM, signal.SIGINT)),
    *itertools.product(STYLES, LOOPS, ("off",), (signal.SIGTERM,)),
]


def run_uvicorn(style: str, loop: str, lifespan: str, signum: signal.Signals) -> None:
    """The story of signals_uvicorn.py, from the outside."""
    if style == "cli":
        application = f"{SCENARIOS}.signals_uvicorn:app"
        arguments = ["-m", "uvicorn", application, "--port=0", f"--loop={loop}", f"--lifespan={lifespan}"]
    else:
        arguments = ["-m", f"{SCENARIOS}.signals_uvicorn", style, loop, lifespan]
    with child(*arguments) as service:
        port = int(service.wait_for(UVICORN_RUNNING)[1])
        # Without a lifespan it is the poll that takes the signals back.
        service.tell("tell-when-taken")
        service.wait_for("taken-back")
        assert get(port)[0] == 200

        service.signal(signum)
        service.wait_for(f"held {int(signum)}$")
        assert set(serve_on(port, HOLD_PERIOD)) == {200}
        service.signal(signum)
        service.wait_for(f"held {int(signum)}$", times=2)
        assert set(serve_on(port, HOLD_PERIOD)) == {200}
        assert "Shutting down" not in service.text

        service.tell("release")
        service.wait_for("Shutting down")
        service.signal(signal.SIGTERM)
        assert service.exit_code() == 0, service.text
        assert ("lifespan-end" in service.text) == (lifespan == "on")
        assert "Traceback" not in service.text
        if "object" in style or "serve" in style.split("-"):
            assert "main-ends" in service.text


@pytest.fixture(scope="module")
def uvicorn_runs(request: pytest.FixtureRequest) -> Iterator[Callable[[UvicornCase], Future[None]]]:
    """All selected cases side by side: each of them mostly waits."""
    cases = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "uvicorn_runs" in item.fixturenames
    ]
    with ThreadPoolExecutor(max_workers=6) as pool:
        runs = {case: pool.submit(run_uvicorn, *case) for case in UVICORN_CASES if case in cases}
        yield lambda case: runs[case]
        for run in runs.values():
            run.cancel()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", UVICORN_CASES, ids=lambda case: "-".join(map(str, case)))
def test_uvicorn_serves_until_released_and_exits_0(
    case: UvicornCase, uvicorn_runs: Callable[[UvicornCase], Future[None]]
) -> None:
    """Requests are answered while the signal is held; released, the server shuts down in order."""
    uvicorn_runs(case).result()


def test_a_persons_second_interrupt_is_told_and_uvicorns_own_is_not() -> None:
    """During uvicorn's shutdown a real Ctrl-C is received; what uvicorn raises again at its end is swallowed."""
    with (
        child("-m", f"{SCENARIOS}.signals_uvicorn", "server-object", "asyncio", "on") as service,
        ThreadPoolExecutor(1) as pool,
    ):
        port = int(service.wait_for(UVICORN_RUNNING)[1])
        slow = pool.submit(get, port, "/slow")
        service.wait_for("slow-begins")
        service.signal(signal.SIGINT)
        service.wait_for("held 2$")
        service.tell("release")
        service.wait_for("Waiting for connections to close")

        service.signal(signal.SIGINT)
        service.wait_for("held 2$", times=2)
        service.tell("finish")
        assert slow.result()[0] == 200
        assert service.exit_code() == 0, service.text
        assert service.text.count("held") == 2
        # The server got what remained.
        timeout = float(service.wait_for(r"lifespan-end (\S+)")[1])
        assert 4.0 < timeout <= 5.0


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("style", ["server-object", "run-string"])
def test_a_signal_during_start_up_neither_hangs_nor_crashes(style: str, delay: float) -> None:
    """Caught by us or by uvicorn before we had it back: the process tells of it, and leaves with 0."""
    with child("-m", f"{SCENARIOS}.signals_uvicorn", style, "asyncio", "on") as service:
        service.wait_for("installed")
        time.sleep(delay)
        service.signal(signal.SIGTERM)
        service.wait_for("held 15$")
        with contextlib.suppress(BrokenPipeError):
            service.tell("release")
        # While the loop is being made nobody owns the signal: SystemExit there may leave a half-made loop's message.
        assert service.exit_code() == 0, service.text


# -- programs that nobody manages ----------------------------------------------------------------------------------


def program(*arguments: str) -> contextlib.AbstractContextManager[Child]:
    return child("-m", f"{SCENARIOS}.signals_program", *arguments)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=str)
@pytest.mark.parametrize(
    "style",
    [
        "asyncio-before",
        "asyncio-inside",
        "uvloop-before",
        "uvloop-inside",
        "asyncio-busy-before",
        "wait",
        "join",
        "sleep",
        "select",
        "busy",
    ],
)
def test_a_program_without_an_owner_ends_with_0_when_released(style: str, signum: signal.Signals) -> None:
    """Asyncio, or a main thread that is blocked in some call: SystemExit(0), and `finally` blocks run."""
    with program(style) as running:
        running.wait_for("working")
        running.signal(signum)
        running.wait_for(f"held {int(signum)}$")
        running.signal(signum)
        running.wait_for(f"held {int(signum)}$", times=2)
        assert "cleaned" not in running.lines
        running.tell("release")
        assert running.exit_code() == 0, running.text
        assert "cleaned" in running.lines
        assert "Traceback" not in running.text
        # Not one exception inside the coroutine, but the cancellation that asyncio.run makes of it.
        assert ("cancelled" in running.lines) == ("before" in style or "inside" in style)


@pytest.mark.parametrize("style", ["handler-before", "handler-inside", "handler-two-runs"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loops_signal_handler_runs_at_the_release_and_once(style: str, loop: str) -> None:
    """`loop.add_signal_handler` is an owner; the loop's other signals are passed on meanwhile."""
    with program(style, loop) as running:
        running.wait_for("working")
        running.wait_for("tapped")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$")
        running.signal(signal.SIGHUP)
        running.wait_for("hang-up")
        assert "stop" not in running.lines

        running.tell("release")
        running.wait_for("^stop$")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$", times=2)
        running.tell("finish")
        assert running.exit_code() == 0, running.text
        assert running.lines.count("stop") == 1
        assert running.lines[-1] == "main-ends"


@pytest.mark.parametrize("style", ["elsewhere", "elsewhere-asyncio"])
def test_a_signal_that_another_thread_took_is_noticed(style: str) -> None:
    """The interpreter runs handlers in the main thread only, and does not wake it for that."""
    with program(style) as running:
        running.wait_for("working")
        running.wait_for("held 15$")
        running.tell("release")
        assert running.exit_code() == 0, running.text


@pytest.mark.parametrize("style", ["finalizer", "finalizer-at-once"])
def test_an_end_that_was_lost_in_a_finalizer_comes_again(style: str) -> None:
    """What a signal handler raises there is only printed: the program would run on until its deadline."""
    with program(style) as running:
        running.wait_for("working")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$")
        running.tell("release")
        assert running.exit_code() == 0, running.text
        assert running.in_order("lost", "cleaned")
        assert "ignored" not in running.text


def test_no_end_is_raised_in_the_hook_that_would_lose_it() -> None:
    """What is raised inside `sys.unraisablehook` no hook hears of: the end comes when the hook is done."""
    with program("hook") as running:
        running.wait_for("working")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$")
        running.tell("release")
        running.tell("finish")
        assert running.exit_code() == 0, running.text
        assert running.in_order("hook-ends", "cleaned")
        assert "ignored" not in running.text


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyios_signal_receiver_receives_at_the_release(backend: str) -> None:
    """The way out for programs on trio, where nothing else can end the run in order."""
    with program("receiver", backend) as running:
        running.wait_for("working")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$")
        assert "received 15" not in running.lines
        running.tell("release")
        assert running.exit_code() == 0, running.text
        assert running.lines[-2:] == ["received 15", "main-ends"]


@pytest.mark.parametrize("style", ["user-before", "user-after", "user-after-chained"])
def test_a_users_own_handler_is_called_at_the_release(style: str) -> None:
    """Set before us or after us; one that calls the handler it found reaches whoever is beneath."""
    with program(style) as running:
        running.wait_for("working")
        running.signal(signal.SIGTERM)
        running.wait_for("held 15$")
        assert "user-handler" not in running.lines
        running.tell("release")
        assert running.exit_code() == (0 if style == "user-after-chained" else 3), running.text
        assert running.lines.count("user-handler") == 1
        assert running.text.count("held") == 1


@pytest.mark.parametrize(
    ("style", "code"),
    [
        ("early", 0),
        ("ignored", 0),
        ("urgent", 0),
        ("uninstall", -signal.SIGTERM),
        ("uninstall-elsewhere", -signal.SIGTERM),
        ("put-back-late", -signal.SIGTERM),
        ("fork", 0),
        ("fork-window", 0),
        ("fork-unnoticed", 0),
        ("multiprocessing", 0),
        ("subprocess", 0),
        ("descriptors", 0),
    ],
)
def test_program(style: str, code: int) -> None:
    """Each story is told in signals_program.py, which checks itself; the exit code says how it ended."""
    with program(style) as running:
        assert running.exit_code() == code, running.text
        assert "Traceback" not in running.text


# -- in this process -----------------------------------------------------------------------------------------------


def test_install_off_the_main_thread_says_what_to_do() -> None:
    """Only the main thread can set handlers; the error names the thread and the way out."""
    hold = SignalHold()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="server") as pool,
        pytest.raises(RuntimeError, match=r"thread 'server_0'.* in the main thread only: install graceful where"),
    ):
        pool.submit(hold.install).result()
    hold.uninstall()  # nothing to put back


def test_receive_needs_a_hold_and_has_one_receiver() -> None:
    """Both mistakes are named at once, and not found as a signal that went elsewhere."""
    hold = SignalHold()

    async def receive_twice() -> None:
        first = hold.receive()
        waiting = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one signal cannot go to two receivers"):
            await anext(hold.receive())
        hold.uninstall()
        with pytest.raises(StopAsyncIteration):
            await waiting

    with pytest.raises(RuntimeError, match=r"call install\(\) in the main thread first"):
        asyncio.run(anext(hold.receive()))  # type: ignore[arg-type]
    hold.install()
    try:
        asyncio.run(receive_twice())
    finally:
        hold.uninstall()


def test_release_and_ensure_without_a_hold_do_nothing() -> None:
    """After uninstall() the owners have their signals: there is nothing to hand over or to take back."""
    hold = SignalHold()
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGURG)]
    hold.release(signal.SIGTERM, remaining=1.0)
    hold.ensure()
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGURG)] == before


@pytest.fixture
def loop_end() -> Iterator[socket.socket]:
    """The wake-up descriptor of a loop, as far as the interpreter and the tap can see: what arrives there."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno())
        yield reading
        signal.set_wakeup_fd(before)


def test_the_tap_passes_on_all_but_the_held_signals_and_wakes_the_loop_for_those(loop_end: socket.socket) -> None:
    """A held signal's byte comes as 0: uvloop would sleep on without it, and our own handler would not run."""
    tap = WakeupTap()
    hang_up = signal.signal(signal.SIGHUP, lambda *_: None)
    window = signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        tap.take()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGWINCH)
        assert tap.pass_on({signal.SIGHUP})
        assert loop_end.recv(16) == bytes((0, signal.SIGWINCH))
        # What is still on its way when the tap is taken out arrives too, and all that comes after it.
        signal.raise_signal(signal.SIGWINCH)
        tap.give_back({signal.SIGHUP})
        signal.raise_signal(signal.SIGHUP)
        assert loop_end.recv(16) == bytes((signal.SIGWINCH, signal.SIGHUP))
        assert not tap.pass_on(())
    finally:
        signal.signal(signal.SIGHUP, hang_up)
        signal.signal(signal.SIGWINCH, window)


def test_the_tap_does_not_put_back_a_descriptor_that_is_another_file_by_now(loop_end: socket.socket) -> None:
    """A loop that was closed meanwhile: its number may be anybody's."""
    tap = WakeupTap()
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    tap.take()
    other, far = socket.socketpair()
    with other, far:
        os.dup2(other.fileno(), number)
        tap.give_back(())
        assert signal.set_wakeup_fd(-1) == -1


# -- the uvicorn adapter -------------------------------------------------------------------------------------------


def uvicorn_server(timeout: int | None) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config("never:imported", timeout_graceful_shutdown=timeout))


def hand_over(
    server: uvicorn.Server, signum: signal.Signals, *, remaining: float = 3.5, over_ours: bool = True
) -> None:
    handover = Handover(signum=signum, handler=server.handle_exit, frame=None, remaining=remaining, over_ours=over_ours)
    UvicornOwner().release(handover)


@pytest.mark.parametrize(("given", "expected"), [(None, 3.5), (2, 2), (60, 3.5)])
def test_uvicorn_gets_what_remains_and_never_more_than_the_user_gave(given: int | None, expected: float) -> None:
    """A shorter timeout of the user's is not lengthened."""
    server = uvicorn_server(given)
    hand_over(server, signal.SIGTERM)
    assert server.config.timeout_graceful_shutdown == expected
    assert server.should_exit


@pytest.mark.parametrize("over_ours", [True, False])
def test_uvicorn_is_forced_by_a_second_interrupt_that_is_released(over_ours: bool) -> None:
    """As without us: SIGTERM asks, SIGINT after it forces."""
    server = uvicorn_server(None)
    hand_over(server, signal.SIGTERM, over_ours=over_ours)
    assert not server.force_exit
    hand_over(server, signal.SIGINT, over_ours=over_ours)
    assert server.force_exit


def test_uvicorn_captures_nothing_when_it_was_there_first() -> None:
    """What it captured it would raise again, into the default action that it found."""
    server = uvicorn_server(None)
    hand_over(server, signal.SIGTERM, over_ours=False)
    assert server.should_exit
    assert not UvicornOwner().missed(server.handle_exit)
    hand_over(server, signal.SIGTERM, over_ours=True)
    assert set(UvicornOwner().missed(server.handle_exit)) == {signal.SIGTERM}


def test_a_signal_that_uvicorn_had_before_us_is_told_once() -> None:
    """It came in the gap of the poll: the server is going, and the others have to hear of it."""
    hold = SignalHold(owners=[UvicornOwner()])
    found = signal.getsignal(signal.SIGTERM)
    server = uvicorn_server(None)

    async def first_two() -> list[int]:
        received = hold.receive()
        return [await anext(received), await anext(received)]

    hold.install()
    try:
        server.handle_exit(signal.SIGTERM, None)
        for _ in range(2):
            signal.signal(signal.SIGTERM, server.handle_exit)
            hold.ensure()
        signal.raise_signal(signal.SIGINT)  # comes next, if SIGTERM is told once
        assert asyncio.run(first_two()) == [signal.SIGTERM, signal.SIGINT]
    finally:
        hold.uninstall()
        signal.signal(signal.SIGTERM, found)


def test_uvicorn_is_known_by_its_shape() -> None:
    """Subclasses and patched methods are, functions and other servers' methods are not."""

    class Patched(uvicorn.Server):
        pass

    def handle_exit(*args: object) -> None:
        """What sse-starlette puts in its place is a function of another name."""

    Patched.handle_exit = handle_exit  # type: ignore[assignment]
    owner = UvicornOwner()
    assert owner.owns(Patched(uvicorn.Config("never:imported")).handle_exit)
    for other in (signal.SIG_DFL, signal.default_int_handler, print, None, threading.Event().set):
        assert not owner.owns(other)


def test_the_running_server_is_found_through_our_handler() -> None:
    """sse-starlette looks for the server behind `getsignal(SIGTERM).__self__`."""
    hold = SignalHold()
    found = signal.getsignal(signal.SIGTERM)
    server = uvicorn_server(None)
    signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        hold.install()
        assert getattr(signal.getsignal(signal.SIGTERM), "__self__", None) is server
        hold.uninstall()
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit
    finally:
        hold.uninstall()
        signal.signal(signal.SIGTERM, found)
