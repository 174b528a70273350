"""A shell before the service is noticed where it would keep SIGTERM to itself, and nowhere else."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.pid_one import Process, ancestors_of, deaf_shell, warning_about

SCRIPT = ("sh", "-c", "python main.py; true")


def chain(*commands, traps=()):
    """The ancestors, the parent first; the last is PID 1."""
    pids = [*range(20, 20 + len(commands) - 1), 1]
    return [
        Process(pid, command, catches_sigterm=command in traps) for pid, command in zip(pids, commands, strict=True)
    ]


@pytest.mark.parametrize(
    ("commands", "found"),
    [
        ([SCRIPT], 1),
        ([("/bin/dash", "/entrypoint.sh")], 1),
        ([("/bin/bash", "-ec", "python main.py | tee log")], 1),
        ([("-sh", "/start")], 1),
        ([("/bin/busybox", "sh", "/start")], 1),
        ([("python3.11", "/usr/bin/gunicorn"), SCRIPT], 1),
        ([("make", "run"), ("/bin/sh", "run.sh")], 1),
        ([SCRIPT, ("/usr/bin/tini", "--", *SCRIPT)], 20),
        ([("python3", "/usr/bin/gunicorn"), SCRIPT, ("dumb-init", *SCRIPT)], 21),
        # Nothing to tell: another program is PID 1, or what is signalled passes it on, or a person is at the keyboard.
        ([("/sbin/init",)], None),
        ([("bash",), ("sshd",), ("/usr/lib/systemd/systemd", "--system")], None),
        ([("sh", "-c", "make run"), ("gnome-terminal",), ("/sbin/init",)], None),
        ([("/sbin/tini", "--", "python")], None),
        ([("/usr/bin/gunicorn",), ("/sbin/docker-init",)], None),
        ([SCRIPT, ("/usr/bin/python3", "supervise.py")], None),
        ([("bash",)], None),
        ([("-bash",)], None),
        ([("/bin/sh", "-i")], None),
        ([("busybox",)], None),
        ([()], None),
        ([("python", "sh", "-c")], None),
    ],
)
def test_the_shell_that_sigterm_ends_at(commands, found):
    """PID 1 itself, or what a small init starts."""
    shell = deaf_shell(chain(*commands))
    assert (shell and shell.pid) == found


def test_a_shell_with_a_trap_may_pass_it_on():
    """`trap 'kill -TERM $!' TERM`: whether it does cannot be seen, so nothing is said."""
    assert deaf_shell(chain(SCRIPT, traps=[SCRIPT])) is None


@given(st.lists(st.builds(Process, st.integers(2, 99), st.just(SCRIPT), st.booleans())))
def test_without_pid_1_among_the_ancestors_there_is_nothing_to_tell(ancestors):
    """`kubectl exec`, a shared process namespace: the container's SIGTERM goes elsewhere."""
    assert deaf_shell(ancestors) is None


@given(st.lists(st.tuples(st.integers(1, 99), st.lists(st.text(max_size=8)), st.booleans())))
def test_whatever_proc_says_it_is_an_answer(facts):
    """Any command line at all, none included."""
    ancestors = [Process(pid, tuple(command), catches) for pid, command, catches in facts]
    shell = deaf_shell(ancestors)
    assert shell is None or (shell in ancestors and not shell.catches_sigterm)


def test_the_warning_names_the_shell_and_the_fix_and_no_password():
    """What `-c` runs is not shown."""
    text = warning_about(Process(1, ("/bin/sh", "-c", "DB=postgres://me:secret@db/ python main.py"), False))
    assert "PID 1 is a shell (sh -c …) that does not pass SIGTERM on" in text
    assert "exec python main.py" in text
    assert 'CMD ["python", "main.py"]' in text
    assert "secret" not in text
    assert "(sh /start.sh)" in warning_about(Process(7, ("busybox", "sh", "/start.sh"), False))


@pytest.mark.parametrize(
    ("script", "catches"), [("{}; true", False), ("trap 'kill $!' TERM; {} & wait", True)], ids=["deaf", "trap"]
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_real_shell_is_read(script, catches):
    """1. A shell starts a program. 2. The program's parent is that shell, with its trap or without."""
    # Not by its input: what a shell starts in the background has none.
    program = "import signal; print(flush=True); signal.pause()"
    with subprocess.Popen(
        ["/bin/sh", "-c", script.format(f"{sys.executable} -c '{program}'")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(shell.kill)
            pid = int(Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text())
            cleanup.callback(os.kill, pid, 9)
            parent, *others = ancestors_of(pid)
    assert (parent.pid, parent.words[:2], parent.catches_sigterm) == (shell.pid, ("sh", "-c"), catches)
    assert parent.is_script
    assert os.getpid() in [other.pid for other in others]


def test_where_proc_cannot_be_read_there_are_no_ancestors(tmp_path):
    """Another system, or one that hides its processes: what was read before counts."""
    assert ancestors_of(1234, proc=tmp_path) == []
    for pid, parent in ((7, 6), (6, 5)):
        directory = tmp_path / str(pid)
        directory.mkdir()
        (directory / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t0\t0\t0\t0\nSigCgt:\t0000000000004000\n")
        (directory / "cmdline").write_bytes(b"sh\0/x\0")
    assert ancestors_of(7, proc=tmp_path) == [Process(6, ("sh", "/x"), catches_sigterm=True)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs process namespaces")
def test_a_service_behind_a_shell_says_so_at_its_start():
    """1. A process namespace whose PID 1 is `sh -c`. 2. The service in it gets ready, and says what is wrong."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespaces may be made here")
    program = (
        "import logging, os, graceful, threading, time; logging.basicConfig(); c = graceful.install(); c.ready()\n"
        "while c.phase is not graceful.Phase.SERVING: time.sleep(0.01)\n"
        "os.kill(os.getpid(), 15)\n"
        "threading.Event().wait()\n"
    )
    for script, warned in (('"$0" -c "$1"; true', True), ('exec "$0" -c "$1"', False)):
        ran = subprocess.run(
            [*unshare, "/bin/sh", "-c", script, sys.executable, program],
            env=os.environ | {"GRACEFUL_SCOPE": f"pid-one-{os.getpid()}"},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ("PID 1 is a shell (sh -c …) that does not pass SIGTERM on" in ran.stderr) == warned, ran.stderr
