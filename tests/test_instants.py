"""SIGTERM and SIGINT at every instant from `install()` on: the service leaves in order, whatever it was just doing."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.children import PATIENCE, child, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from tests.children import Child

TERM, INT = signal.SIGTERM, signal.SIGINT
GRACE = 20.0
# What a machine that is busy with other tests adds: a start of Python, a second of no processor.
SLACK = 10.0


class Burst(NamedTuple):
    """Signals, and the seconds to wait between them."""

    name: str
    signals: tuple[signal.Signals, ...]
    pause: float = 0.0


TERM_ALONE = Burst("term", (TERM,))
INT_ALONE = Burst("int", (INT,))
INT_TERM = Burst("int-term", (INT, TERM))
TERM_LATER_TERM = Burst("term-later-term", (TERM, TERM), 1.2)
BURSTS = (
    TERM_ALONE,
    INT_ALONE,
    Burst("term-int", (TERM, INT)),
    INT_TERM,
    Burst("term-term", (TERM, TERM)),
    TERM_LATER_TERM,
    Burst("term-later-int", (TERM, INT), 1.2),
    Burst("int-later-int", (INT, INT), 1.2),
)
PLACES = (
    *("import", "startup", "ready", "connected", "request", "lame-duck", "on-drain", "on-cleanup"),
    *("teardown", "atexit-before", "atexit-after", "finalize"),
)
Case = tuple[str, str, Burst]


def cases(kinds: tuple[str, ...], bursts: tuple[Burst, ...]) -> list[Case]:
    every = itertools.product(kinds, PLACES, bursts)
    return [(kind, place, burst) for kind, place, burst in every if place != "connected" or kind == "uvicorn"]


# In every run: each place with each kind of program, and with signals that mean something else each.
USUAL = [
    *cases(("uvicorn",), (TERM_ALONE,)),
    *cases(("asyncio",), (TERM_LATER_TERM,)),
    *cases(("threads",), (INT_TERM,)),
    *(("ends", place, TERM_ALONE) for place in ("on-drain", "atexit-before", "atexit-after", "finalize")),
]
# INSTANTS=5 runs all the rest, and five times as many drawn rows; otherwise every fifth of the rest, which meets all
# places and all bursts, is enough.
EFFORT = int(os.environ.get("INSTANTS", "1"))
REST = [case for case in cases(("uvicorn", "asyncio", "threads"), BURSTS) if case not in USUAL]
REST = REST if EFFORT > 1 else REST[::5]


def environment(port: int) -> dict[str, str]:
    return {
        "GRACEFUL_SCOPE": f"instants-{os.getpid()}-{port}",
        "GRACEFUL_PROPAGATION_DELAY": "0.3",
        "GRACEFUL_DRAIN_TIMEOUT": "6",
        "GRACEFUL_CLEANUP_TIMEOUT": "4",
        "GRACEFUL_GRACE_PERIOD": str(GRACE),
    }


def send(service: Child, burst: Burst) -> None:
    for number, signum in enumerate(burst.signals):
        if number:
            time.sleep(burst.pause)
        service.signal(signum)


def run_case(kind: str, place: str, burst: Burst) -> None:
    """Stand still at a place, be told, go on; and see how it ended."""
    port = free_port()
    settings = environment(port) | ({"GRACEFUL_PORT": str(port)} if kind == "uvicorn" else {})
    where = "ready" if place == "connected" else place
    with child("-m", "tests.scenarios.instants", kind, where, str(port), env=settings) as service:
        with contextlib.ExitStack() as stack:
            request = None
            if place in {"request", "connected"} and kind == "uvicorn":
                request = stack.enter_context(connected(service, port))
                if place == "request":
                    request.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            service.wait_for(f"^at {where}$")
            began = time.monotonic()
            # The rest of a slow burst comes while it goes on.
            send(service, burst if not burst.pause else Burst("", burst.signals[:1]))
            with contextlib.suppress(BrokenPipeError):  # a person's SIGINT may have ended it, at the very end
                service.tell("")
            if request is not None and place == "connected":
                request.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if burst.pause:
                time.sleep(burst.pause)
                send(service, Burst("", burst.signals[1:]))
            answer = "" if request is None else read(request)
            code = service.exit_code()
        judge(service, code, time.monotonic() - began, INT in burst.signals)
        if request is not None and "forced it" not in service.text:
            check_answer(answer, place, burst, service)


def judge(service: Child, code: int, seconds: float, interrupted: bool) -> None:
    # What a signal did before install() is Python's own.
    text = service.text.partition("installed")[2]
    forced = "forced it" in text
    if code == -INT and interrupted:
        # A person may get out of an exit that hangs: all that is left to do then is the interpreter's.
        assert "torn down" in text, text
    else:
        assert code == (1 if forced else 0), f"exit code {code}\n{text}"
    assert "Traceback" not in text, text
    assert seconds < GRACE + SLACK
    if not forced and "registered" in text:
        assert service.in_order("^drained$", "^cleaned up$"), text


def check_answer(answer: str, place: str, burst: Burst, service: Child) -> None:
    """What was in flight is answered whole; a request on its way is served in the lame duck, else refused."""
    served = answer.startswith("HTTP/1.1 200") and "one " in answer and "two" in answer and answer.endswith("0\r\n\r\n")
    if place == "request" or INT not in burst.signals:
        assert served, f"{answer!r}\n{service.text}"
    else:
        assert served or answer.startswith("HTTP/1.1 503") or not answer, answer


@contextlib.contextmanager
def connected(service: Child, port: int) -> Iterator[socket.socket]:
    """A connection that the server has accepted, and nothing sent over it yet."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            break
        except OSError:
            assert time.monotonic() < until, service.text
            assert service.process.poll() is None, service.text
            time.sleep(0.02)
    with connection:
        yield connection


def read(connection: socket.socket) -> str:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            parts.append(part)
            if b"".join(parts).endswith((b"0\r\n\r\n", b"down\n")):
                break
    return b"".join(parts).decode()


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Callable[[Case], Future[None]]]:
    """All selected cases side by side: each of them mostly waits."""
    selected: list[Any] = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "runs" in item.fixturenames
    ]
    with ThreadPoolExecutor(max_workers=8) as pool:
        futures = {case: pool.submit(run_case, *case) for case in selected}
        yield lambda case: futures[case]
        for future in futures.values():
            future.cancel()


def name(case: Case) -> str:
    kind, place, burst = case
    return f"{kind}-{place}-{burst.name}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", USUAL, ids=name)
def test_a_signal_at_a_place(case: Case, runs: Callable[[Case], Future[None]]) -> None:
    """Exit code 0, or 1 where it was forced; all callbacks run; what is in flight is answered."""
    runs(case).result()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", REST, ids=name)
def test_a_signal_at_a_place_all_of_them(case: Case, runs: Callable[[Case], Future[None]]) -> None:
    """The rest of the table."""
    runs(case).result()


# -- at any instant ------------------------------------------------------------------------------------------------


class Draw(NamedTuple):
    """One drawn row: which program, and when it is sent what, in parts of its whole life."""

    kind: str
    burst: Burst
    instants: tuple[float, ...]


def draws(number: int, seed: int) -> list[Draw]:
    drawing = random.Random(seed)
    bursts = [burst for burst in BURSTS if not burst.pause]
    return [
        Draw(kind, burst, tuple(sorted(drawing.uniform(0.0, 1.1) for _ in burst.signals)))
        for kind, burst in itertools.islice(itertools.cycle(itertools.product(KINDS, bursts)), number)
    ]


KINDS = ("asyncio", "threads", "uvicorn", "ends")


def run_draw(draw: Draw, life: float) -> None:
    """Start a program that leaves by itself as soon as it is ready, and send it signals at those instants."""
    port = free_port()
    settings = environment(port) | ({"GRACEFUL_PORT": str(port)} if draw.kind == "uvicorn" else {})
    began = time.monotonic()
    with child("-m", "tests.scenarios.instants", draw.kind, "leave", str(port), env=settings) as service:
        for signum, instant in zip(draw.burst.signals, draw.instants, strict=True):
            time.sleep(max(0.0, began + life * instant - time.monotonic()))
            service.signal(signum)
        code = service.exit_code()
        if "installed" in service.text:
            judge(service, code, time.monotonic() - began, INT in draw.burst.signals)


def sweep(number: int) -> None:
    seed = int(os.environ.get("INSTANTS_SEED", "0")) or random.randrange(1, 10**6)
    with ThreadPoolExecutor(max_workers=4) as pool:
        lives = {kind: pool.submit(life_of, kind) for kind in KINDS}
        rows = [(draw, pool.submit(run_draw, draw, lives[draw.kind].result())) for draw in draws(number, seed)]
        failures = [f"{draw}: {error}" for draw, row in rows if (error := row.exception())]
    assert not failures, f"INSTANTS_SEED={seed}, {len(failures)} of {number}:\n" + "\n\n".join(failures)


def life_of(kind: str) -> float:
    """Seconds that such a program lives without a signal, beside three others."""
    began = time.monotonic()
    run_draw(Draw(kind, Burst("", ()), ()), 0.0)
    return time.monotonic() - began


@pytest.mark.timeout(240)
def test_signals_at_drawn_instants_of_a_whole_life() -> None:
    """From the start of Python to its end. Before install() the default action holds; from there on all is in order."""
    sweep(20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_signals_at_many_drawn_instants_of_a_whole_life() -> None:
    """The same, more often."""
    sweep(60 * EFFORT)
