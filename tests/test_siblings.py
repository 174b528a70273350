"""Who owns a name, who else is there and what they say: with real sockets."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import anyio
import pytest

from graceful import rendezvous, wire
from graceful.control import serve_control
from graceful.core.phases import Phase
from graceful.core.siblings import Sibling, leaves_alone
from graceful.listener import close_inherited
from graceful.ownership import Ownership
from graceful.siblings import Siblings, _Process, starting_workers
from tests.children import ROOT, child

STAYING = Sibling(pid=1, phase=Phase.SERVING)
STARTING = Sibling(pid=2)
SILENT = Sibling(pid=3, answered=False)
LEAVING = Sibling(pid=4, phase=Phase.LAME_DUCK)


@pytest.mark.parametrize(
    ("others", "waited", "alone"),
    [
        ([], 0.0, False),
        ([LEAVING], 0.0, False),
        ([STAYING, LEAVING], 0.9, None),
        ([STAYING, LEAVING], 1.0, True),
        ([STARTING], 1.0, None),
        ([STARTING, SILENT], 9.9, None),
        ([STARTING], 10.0, True),
        ([STARTING, STAYING], 1.0, True),
        ([SILENT], 2.9, None),
        ([SILENT], 3.0, True),
    ],
)
def test_whether_one_process_leaves_or_the_pod(others, waited, alone):
    """What the siblings do says it; starting ones have ten seconds here, silent ones three."""
    assert leaves_alone(others, waited, 10.0) is alone


def test_a_server_that_serves_no_more_waits_for_nobody_to_start():
    """Its requests could not be served meanwhile anyway."""
    assert leaves_alone([STARTING], 1.0, 0.0) is True


@pytest.fixture(params=["abstract", "files"])
def environ(request):
    scope = {"GRACEFUL_SCOPE": uuid.uuid4().hex}
    with tempfile.TemporaryDirectory(prefix="g-") as short:  # a socket's address has 107 bytes
        yield scope if request.param == "abstract" else scope | {"GRACEFUL_RUNTIME_DIR": f"{short}/run"}


def name(environ):
    return Ownership(rendezvous.owner_address(environ, "orders/1"))


def test_one_owner_at_a_time_and_the_next_one_is_told(environ):
    """1. The first takes it. 2. The second waits. 3. The first lets go. 4. The second has it, and the first not."""

    async def story():
        first, second = name(environ), name(environ)
        assert first.take()
        assert first.take()
        assert not second.take()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.own)
            await anyio.sleep(0.1)
            assert not second.held
            first.let_go()
            with anyio.fail_after(20):
                await second.until_held()
        assert not first.take()
        second.let_go()

    anyio.run(story)


def test_an_owner_that_is_killed_is_followed(environ):
    """Another process has the name and dies by SIGKILL: it is ours then, whatever that process left behind."""
    code = (
        "import os, time; from graceful import rendezvous; from graceful.ownership import Ownership;"
        "name = Ownership(rendezvous.owner_address(os.environ, 'orders/1')); print(name.take(), flush=True);"
        "time.sleep(100)"
    )

    async def story(process):
        ours = name(environ)
        assert not ours.take()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.own)
            await anyio.sleep(0.1)
            process.kill()
            with anyio.fail_after(20):
                await ours.until_held()
        ours.let_go()

    with child("-c", code, env=environ) as other:
        other.wait_for("True")
        anyio.run(story, other.process)


def test_a_forked_child_does_not_keep_the_name(environ):
    """It closes what it inherited: the parent's end of ownership is the end, whether the child lives or not."""
    ours, next_one = name(environ), name(environ)
    assert ours.take()
    (closed, tell_closed), (may_end, tell_may_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        close_inherited()
        os.write(tell_closed, b"!")
        os.read(may_end, 1)
        os._exit(0)
    assert os.read(closed, 1)
    ours.let_go()
    assert next_one.take()
    next_one.let_go()
    os.write(tell_may_end, b"!")
    os.waitpid(pid, 0)


def test_the_hook_does_not_take_the_owners_name_for_a_process(environ):
    """It looks for numbers."""
    ours = name(environ)
    assert ours.take()
    assert rendezvous.discover(environ) == []
    ours.let_go()


def test_without_any_name_every_process_is_an_owner_and_that_is_said_once(caplog):
    """No abstract sockets, no directory."""
    ours = Ownership(None)
    assert ours.take()
    ours.let_go()
    assert ours.take()
    assert caplog.text.count("several workers would each register") == 1


def test_a_strangers_name_is_not_waited_for(environ, monkeypatch, caplog):
    """Another container has taken it: this process stands for itself."""
    theirs, ours = name(environ), name(environ)
    assert theirs.take()
    monkeypatch.setattr(rendezvous, "refuse_peer", lambda _sock: "it runs in another pid namespace")
    anyio.run(ours.own)
    assert ours.held
    assert "taken by a stranger" in caplog.text
    theirs.let_go()


class Process:
    """Another process, as its control socket shows it; a number that no process has stands for its id."""

    def __init__(self, **words):
        self.words = {"phase": "serving", "instance": "orders/1"} | words

    def describe(self):
        return self.words

    def prestop(self, *, elapsed, grace):
        raise AssertionError

    def drain_by_hand(self, *, pod):
        raise AssertionError


def look(environ, *others, silent=()):
    """What a process sees when others are there."""

    async def story():
        ours = Siblings("orders/1", environ)
        own = rendezvous.own_address(environ)
        assert own is not None
        with contextlib.ExitStack() as sockets:
            for pid in silent:
                listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(own.replace(str(os.getpid()), str(pid)))
                listener.listen()
            async with anyio.create_task_group() as tasks:
                for pid, other in enumerate(others, start=9_000_000):
                    address = own.replace(str(os.getpid()), str(pid))

                    async def serve(other=other, address=address, *, task_status):
                        await serve_control(other, address=address, task_status=task_status)

                    await tasks.start(serve)
                seen = await ours.look()
                tasks.cancel_scope.cancel()
        return seen

    return sorted(anyio.run(story), key=lambda sibling: sibling.pid)


def test_siblings_say_what_they_do_and_others_are_left_out(environ):
    """One serves the same instance, one leaves alone, one is another service, one makes no sense."""
    seen = look(
        environ,
        Process(announced="yes", unknown="a b"),
        Process(phase="cleanup", alone="yes", finished="yes"),
        Process(instance="payments/1"),
        Process(phase="flying"),
    )
    assert seen == [
        Sibling(pid=9_000_000, phase=Phase.SERVING, announced=True),
        Sibling(pid=9_000_001, phase=Phase.CLEANUP, alone=True, finished=True),
        Sibling(pid=9_000_003, answered=False),
    ]


def test_one_that_listens_and_says_nothing_is_there_all_the_same(environ):
    """It may be hung, and it may serve."""
    if "GRACEFUL_RUNTIME_DIR" in environ:
        Path(environ["GRACEFUL_RUNTIME_DIR"]).mkdir()
    assert look(environ, silent=[9_000_007]) == [Sibling(pid=9_000_007, answered=False)]


def test_a_status_survives_any_text():
    """What ends a line or is no text does not break the answer."""
    words = {"phase": "serving", "instance": "a b\nc=d é"}
    *lines, rest = wire.encode_status(words).split(b"\n")
    assert rest == b""
    assert wire.decode_status(lines[:-1]) is None
    assert wire.decode_status(lines) == {"phase": "serving", "instance": "a b c=d é"}
    with pytest.raises(wire.WireError, match="expected the answer to status"):
        wire.decode_status([b"graceful/1 refused"])


def test_workers_that_were_only_just_started_are_seen():
    """1. A parent forks two workers. 2. The first one sees the second, which does nothing yet, and not the reverse."""
    code = (
        "import os, time\n"
        "from graceful.siblings import starting_workers\n"
        "for number in range(2):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(0.5)\n"
        "        print(number, len(list(starting_workers({os.getpid()}))), flush=True)\n"
        "        time.sleep(100 if number else 0.5)\n"
        "        os._exit(0)\n"
        "    time.sleep(0.1)\n"
        "    last = number\n"
        "os.wait()\n"
        "os.kill(0, 9)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        start_new_session=True,
        check=False,
    )
    assert sorted(process.stdout.split("\n")[:-1]) == ["0 1", "1 0"], process.stderr


def test_a_process_that_was_not_forked_as_a_worker_looks_at_nobody():
    """A single server in a test or in a shell has neighbours that are no workers of its parent."""
    with child("-c", "import time; print('up', flush=True); time.sleep(100)") as neighbour:
        neighbour.wait_for("up")
        assert list(starting_workers({os.getpid()})) == []


def test_a_process_whose_name_has_brackets_is_read():
    """The second field of /proc/PID/stat is free text."""
    stat = b"7 (a) S (b) R 3 " + b"0 " * 17 + b"4711 0"
    process = _Process(stat, b"gunicorn\x00-w\x0012")
    assert (process.parent, process.began, process.running) == (3, 4711, True)
    assert process.command == b"gunicorn\x00-w\x00"
