"""A service as PID 1 of a container, stopped as the kubelet stops it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.children import get, until
from tests.containers.podman import CPU_LIMIT, LOCKED_DOWN, PAUSE, SIGKILLED, UID

GRACE = 60
DONE = "the wait is over: nobody calls any more, ready for SIGTERM"

# Run inside: who it is, what it may, and where it could write.
LOOK = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mounts = [line.split()[1:3] for line in open("/proc/mounts")]
files = [path for path, kind in mounts if kind not in ("proc", "mqueue", "devpts")]
writable = [path for path in files if os.access(path, os.W_OK) and not path.startswith("/proc/")]
quotas = ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max"]
quota = [float(open(path).read().split()[0]) for path in quotas if os.path.exists(path)]
command = open("/proc/1/cmdline").read().split("\\0")
scope = os.stat("/proc/self/ns/mnt").st_ino
names = [line.split()[-1] for line in open("/proc/net/unix") if f"@graceful/{scope}/" in line]
print(json.dumps([os.getuid(), status["CapBnd"].strip(), writable, quota, command, names]))
"""


@pytest.mark.parametrize("kind", ["image", "distroless"])
def test_a_locked_down_service_leaves_at_a_tenth_of_a_processor(kind, request, service, hook):
    """1. No root, no capability, nothing to write to. 2. The hook of the manifest: OUT_OF_SERVICE, still served.

    3. SIGTERM for what the hook has left of the grace period: deleted from Eureka, exit 0.
    """
    image = request.getfixturevalue(kind)
    with service(image, options=(*LOCKED_DOWN, f"--cpus={CPU_LIMIT}")) as s:
        s.wait_until_up()
        code, told = s.container.run("python3", "-P", "-c", LOOK)
        assert code == 0, told
        uid, capabilities, writable, quota, command, names = json.loads(told)
        assert (uid, int(capabilities, 16), writable, quota) == (UID, 0, [], [CPU_LIMIT * 100_000])
        assert "uvicorn" in command
        scope = Path(f"/proc/{s.container.pid}/ns/mnt").stat().st_ino
        assert f"@graceful/{scope}/1" in names, names

        began = time.monotonic()
        hooking = s.container.begin(*hook)
        hooking.wait_for("begins to leave")
        until(lambda: s.status == "OUT_OF_SERVICE", "OUT_OF_SERVICE")
        assert get(s.port)[:2] == (200, "close")
        stopped = s.container.stop_after(hooking, began, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), s.log.text + stopped.hook_said
        assert "OUT_OF_SERVICE verified on 1 of 1 servers" in stopped.hook_said
        assert stopped.hook_said.endswith(DONE)
        assert s.log.in_order("OUT_OF_SERVICE verified", "phase draining", "cleanup", "left cleanly", "teardown")
        assert s.status is None
        assert stopped.seconds < GRACE / 2


@pytest.mark.parametrize("command", ["sh", "sleep", "curl", "python3.0"])
def test_what_a_distroless_image_has_not(command, distroless, bare):
    """A hook that needs it fails with 127, and the kubelet sends SIGTERM at once."""
    with bare(distroless) as running:
        code, said = running.run(command)
        assert code == 127, said


def test_where_no_process_answers_the_hook_speaks_in_the_containers_log(bare, image, hook, embedded_eureka):
    """1. PID 1 is not ours. 2. The hook withdraws by itself, and PID 1's standard output has its lines."""
    with bare(image, **elsewhere(embedded_eureka)) as running:
        code, said = running.run(*hook)
        assert code == 0, said
        running.log.wait_for("no process of this container listens for the hook")
        running.log.wait_for(said.splitlines()[-1][:40])


def elsewhere(eureka):
    """The environment of an instance that somebody else has registered."""
    return {
        "GRACEFUL_EUREKA_URL": eureka.url,
        "GRACEFUL_APP_NAME": "elsewhere",
        "GRACEFUL_PORT": "1",
        "GRACEFUL_IP_ADDR": "127.0.0.1",
        "GRACEFUL_PROPAGATION_DELAY": "0.1",
        "GRACEFUL_GRACE_PERIOD": "20",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
    }


# dash stays PID 1 for a single command too, as in `CMD python main.py`; for two of them every shell does.
SHELL_FORM = ("sh", "-c", "python3 -m uvicorn {arguments}; echo ended $?")


def test_a_shell_as_pid_1_swallows_sigterm_and_the_hook_saves_what_can_be_saved(service, image, hook):
    """1. The hook: OUT_OF_SERVICE, the wait. 2. SIGTERM reaches nobody. 3. The service leaves by itself, in time."""
    with service(image, command=SHELL_FORM, GRACEFUL_DRAIN_TIMEOUT="5", GRACEFUL_GRACE_PERIOD="24") as s:
        s.wait_until_up()
        assert s.container.run("readlink", "/proc/1/exe")[1].strip().endswith("sh")
        assert "PID 1 is a shell (sh -c …) that does not pass SIGTERM on" in s.log.text
        stopped = s.container.stop(hook, grace=24)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), s.log.text
        s.log.wait_for("no SIGTERM came after the preStop hook")
        s.log.wait_for("ended 0")
        assert s.status is None


def test_a_shell_as_pid_1_without_a_hook_is_killed(service, image):
    """SIGTERM reaches nobody: SIGKILL, nothing is finished, and Eureka sends callers there until the lease is over."""
    with service(image, command=SHELL_FORM) as s:
        s.wait_until_up()
        stopped = s.container.stop(None, grace=2)
        assert stopped.exit_code == SIGKILLED
        assert "leaving" not in s.log.text
        assert s.status == "UP"


# As gosu, su-exec and setpriv do it: root for the entrypoint, another user for the service, in the same process.
ROOT_AT_FIRST = ("--user=0:0",)
DROP = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")


def test_an_entrypoint_that_gives_up_root(service, image, hook):
    """The hook runs as root, the service does not, and neither may look at the other: they trust each other anyway."""
    with service(image, command=(*DROP, "python3", "-m", "uvicorn"), options=ROOT_AT_FIRST) as s:
        s.wait_until_up()
        assert Path(f"/proc/{s.container.pid}").stat().st_uid == UID
        code, said = s.container.run("python3", "-c", "import os; print(os.getuid()); os.readlink('/proc/1/ns/mnt')")
        assert (code, said.splitlines()[0], "PermissionError" in said) == (1, "0", True)
        stopped = s.container.stop(hook, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), s.log.text
        assert stopped.hook_said.endswith(DONE)
        assert "left cleanly" in s.log.text
        assert s.status is None


def test_after_such_an_entrypoint_the_containers_log_is_out_of_reach(bare, image, hook, embedded_eureka):
    """Where no process answers, the hook does its work all the same."""
    drop = {"command": (*DROP, *PAUSE), "options": ROOT_AT_FIRST}
    with bare(image, **drop, **elsewhere(embedded_eureka)) as running:
        code, said = running.run(*hook)
        assert (code, "no process of this container listens" in said) == (0, True)
        assert running.log.lines == ["ready"]


def test_a_hook_that_is_killed(service, image, hook):
    """1. SIGKILL to the hook. 2. SIGTERM at once. 3. The wait goes on to its end: the callers have not heard yet."""
    with service(image, GRACEFUL_PROPAGATION_DELAY="6") as s:
        s.wait_until_up()
        began = time.monotonic()
        hooking = s.container.begin(*hook)
        hooking.wait_for("begins to leave")
        until(lambda: s.status == "OUT_OF_SERVICE", "OUT_OF_SERVICE")
        (pid,) = s.container.pids("graceful.prestop")
        os.kill(pid, signal.SIGKILL)
        stopped = s.container.stop_after(hooking, began, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, SIGKILLED), s.log.text
        lame_duck = float(s.log.wait_for(r"left cleanly after the preStop hook \(lame_duck ([\d.]+)s")[1])
        assert lame_duck >= 6
        assert s.status is None


# The two seconds are the kubelet's: beside other tests they would be those tests' seconds too.
@pytest.mark.alone
def test_a_grace_period_that_was_cut(service, image, hook):
    """1. `--grace-period=4`, the hook waits for longer. 2. SIGTERM means 2 s: the service leaves at once, in time."""
    with service(image, GRACEFUL_PROPAGATION_DELAY="30", GRACEFUL_GRACE_PERIOD="70") as s:
        s.wait_until_up()
        stopped = s.container.stop(hook, grace=4)
        assert stopped.exit_code == 0, s.log.text
        assert stopped.seconds >= 4
        s.log.wait_for("SIGTERM came while the hook was still waiting: the grace period was cut short")
        assert s.log.in_order("phase draining", "cleanup", "left UNCLEANLY", "teardown")
        assert s.status is None


def test_two_hooks_and_a_third_when_they_have_ended(service, image, hook):
    """The kubelet runs it at least once: all have the same answer, and the leave happens once."""
    with service(image) as s:
        s.wait_until_up()
        began = time.monotonic()
        hooks = [s.container.begin(*hook) for _ in range(2)]
        assert [each.exit_code() for each in hooks] == [0, 0]
        third = s.container.begin(*hook)
        stopped = s.container.stop_after(third, began, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), s.log.text
        assert all(each.text.endswith(DONE) for each in (*hooks, third)), [each.text for each in (*hooks, third)]
        assert s.log.text.count("leaving because of the preStop hook") == 1
        changes = [each.method for each in s.eureka.requests() if "/status" in each.path or each.method == "DELETE"]
        assert changes == ["PUT", "DELETE"]


@pytest.mark.parametrize("end", ["in order", "killed while it waits"])
def test_a_restart_in_place(end, service, image, hook):
    """A liveness kill: the same name and instance id, and it comes up UP, whatever its former life left behind."""
    with service(image) as s:
        s.wait_until_up()
        if end == "in order":
            assert s.container.stop(hook, grace=GRACE).exit_code == 0, s.log.text
            assert s.status is None
        else:
            assert s.container.run(*hook)[0] == 0
            s.container.send("KILL")
            assert s.log.exit_code() == SIGKILLED
            assert s.status == "OUT_OF_SERVICE"
        s.container.start()
        s.wait_until_up()
        assert get(s.port)[:2] == (200, "")
        assert s.container.stop(hook, grace=GRACE).exit_code == 0, s.log.text
        assert s.status is None
