"""The kubelet's kill sequence: hook, SIGTERM, SIGKILL, all inside one grace period."""

import asyncio
import math
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.rehearsal.kubelet import MINIMUM_GRACE, remaining_grace, stop_pod
from tests.rehearsal_server import until

pytestmark = pytest.mark.anyio

SECONDS = st.floats(min_value=0.0, max_value=1e5)
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
CLEAN = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); {SLEEP}"


@pytest.fixture
def anyio_backend() -> str:
    """The rehearsal runs on asyncio."""
    return "asyncio"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@asynccontextmanager
async def running(code: str) -> AsyncIterator[Process]:
    """A process that has said that it is ready."""
    process = await asyncio.create_subprocess_exec(*python(code), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@given(grace=SECONDS, took=SECONDS)
def test_the_hook_costs_whole_seconds_and_two_are_left_at_least(grace: float, took: float) -> None:
    """`grace -= int(seconds)`, then `max(grace, 2)`, as in killContainer."""
    left = remaining_grace(grace, took)

    assert left >= MINIMUM_GRACE
    assert left == MINIMUM_GRACE or left == grace - math.floor(took)


@given(grace=SECONDS, took=SECONDS)
def test_a_part_of_a_second_is_the_pods_to_keep(grace: float, took: float) -> None:
    """Never less than what is really left of the grace period, and less than a second more."""
    left = remaining_grace(grace, took)

    assert left >= grace - took
    assert left < max(grace - took + 1, math.nextafter(MINIMUM_GRACE, math.inf))


@pytest.mark.parametrize(
    ("grace", "took", "left"), [(30, 0.9, 30), (30, 5.0, 25), (30, 5.9, 25), (30, 28.0, 2), (30, 30.0, 2), (4, 32, 2)]
)
def test_examples(grace: float, took: float, left: float) -> None:
    """By hand."""
    assert remaining_grace(grace, took) == left


async def test_sigterm_alone() -> None:
    """Without a hook SIGTERM comes at once, and the signal is the exit code."""
    async with running(SLEEP) as process:
        left = await stop_pod(process, hook=None, env={}, grace=30)

    assert (left.exit_code, left.hook_exit, left.killed) == (-signal.SIGTERM, None, False)
    assert left.seconds < 20


@pytest.fixture
def typed() -> Iterator[None]:
    """Our own stdin is a pipe in which something waits to be read."""
    read, write = os.pipe()
    own = os.dup(0)
    os.dup2(read, 0)
    os.write(write, b"typed")
    os.close(write)
    yield
    os.dup2(own, 0)
    os.close(own)
    os.close(read)


@pytest.mark.usefixtures("typed")
async def test_the_hook_is_over_before_sigterm(tmp_path: Path) -> None:
    """It has the pod's environment and an empty stdin; its exit code is noted and changes nothing."""
    mark = tmp_path / "mark"
    hook = python(
        "import os, sys; assert sys.stdin.read() == ''; os.kill(int(os.environ['POD']), 0);"
        "open(os.environ['MARK'], 'x').close(); sys.exit(3)"
    )
    async with running(CLEAN) as process:
        left = await stop_pod(process, hook=hook, env={"MARK": str(mark), "POD": str(process.pid)}, grace=30)

    assert (left.exit_code, left.hook_exit, left.killed) == (0, 3, False)
    assert mark.exists()


async def test_the_hooks_output_goes_to_the_log(tmp_path: Path) -> None:
    """For whoever rehearses; in Kubernetes nobody reads it."""
    async with running(CLEAN) as process:
        with (tmp_path / "log").open("wb") as log:
            await stop_pod(process, hook=python("print('leaving')"), env={}, grace=30, log=log)

    assert (tmp_path / "log").read_bytes() == b"leaving\n"


async def test_a_hook_that_cannot_be_started() -> None:
    """An image without the command: SIGTERM at once."""
    async with running(CLEAN) as process:
        left = await stop_pod(process, hook=["/nonexistent/hook"], env={}, grace=30)

    assert (left.exit_code, left.hook_exit) == (0, 127)


async def test_a_hook_longer_than_the_grace_period() -> None:
    """SIGTERM comes at the grace period; the hook dies with the container."""
    async with running(CLEAN) as process:
        began = time.monotonic()
        left = await stop_pod(process, hook=python("import time; time.sleep(60)"), env={}, grace=0.5)

    assert (left.exit_code, left.hook_exit, left.killed) == (0, -signal.SIGKILL, False)
    assert 0.5 <= left.seconds <= time.monotonic() - began < 30


async def test_sigkill_ends_what_does_not_leave() -> None:
    """After what is left of the grace period, two seconds at least."""
    async with running(STUBBORN) as process:
        left = await stop_pod(process, hook=None, env={}, grace=0.1)

    assert (left.exit_code, left.killed) == (-signal.SIGKILL, True)
    assert left.seconds >= MINIMUM_GRACE


async def test_a_process_that_ends_while_its_hook_runs_takes_the_hook_along() -> None:
    """The hook runs in the container of the process."""
    async with running(SLEEP) as process:
        hook = python(f"import os, time; os.kill({process.pid}, {signal.SIGKILL}); time.sleep(60)")
        left = await stop_pod(process, hook=hook, env={}, grace=30)

    assert (left.exit_code, left.hook_exit, left.killed) == (-signal.SIGKILL, -signal.SIGKILL, False)
    assert left.seconds < 20


async def test_a_cancelled_stop_leaves_no_hook_behind(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a rehearsal."""
    mark = tmp_path / "pid"
    hook = python(f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)")
    async with running(SLEEP) as process:
        stop = asyncio.create_task(stop_pod(process, hook=hook, env={}, grace=30))
        await until(lambda: mark.exists() and mark.read_text().endswith("."))
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop

    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()[:-1]), 0)
