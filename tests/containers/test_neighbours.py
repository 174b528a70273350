"""Containers that share more than they should: the network, its abstract socket names, even the process ids."""

import json
import re
import socket
from contextlib import suppress
from pathlib import Path

from graceful import wire
from tests.children import PATIENCE, get, until
from tests.containers.podman import LOCKED_DOWN

GRACE = 60
WORKERS = 3


def scope(running):
    """The mount namespace of a container: what keeps its names apart."""
    return Path(f"/proc/{running.pid}/ns/mnt").stat().st_ino


def names(running):
    """What listens in a container, by the ids that its processes have inside."""
    table = Path("/proc/net/unix").read_text()
    return {int(pid) for pid in re.findall(rf"@graceful/{scope(running)}/(\d+)$", table, re.MULTILINE)}


def served_by(running):
    """The workers that say that they serve."""
    return {int(line.split()[0]) for line in running.log.lines if "ready: serving" in line}


def shown(running):
    """The processes that `status` shows."""
    code, said = running.container.run("python3", "-P", "-m", "graceful", "status", "-o", "json")
    assert code == 0, said
    return {process["pid"] for process in json.loads(said)["processes"]}


def asked(said):
    """The processes that a hook spoke to; it names them where there are several."""
    return {int(pid) for pid in re.findall(r"^\[(\d+)\]", said, re.MULTILINE)}


def test_two_containers_of_three_workers_on_one_network(service, image, hook):
    """1. Six workers, with the same ids inside. 2. A hook has its own three leave, the others serve on. 3. Theirs."""
    workers = f"--workers={WORKERS}"
    with service(image, workers) as first, service(image, workers) as second:
        for each in (first, second):
            each.wait_until_up(WORKERS)
            assert names(each.container) == served_by(each) == shown(each)
        assert scope(first.container) != scope(second.container)

        stopped = first.container.stop(hook, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), first.log.text + stopped.hook_said
        assert asked(stopped.hook_said) == served_by(first)
        assert "is not asked" not in stopped.hook_said
        assert first.log.text.count("left cleanly") == WORKERS
        assert first.status is None

        assert "leaving" not in second.log.text
        assert second.status == "UP"
        assert get(second.port)[:2] == (200, "")

        stopped = second.container.stop(hook, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), second.log.text + stopped.hook_said
        assert asked(stopped.hook_said) == served_by(second)
        assert second.status is None


def test_a_shared_process_namespace(service, bare, image, hook):
    """1. PID 1 is a pause process, and both services see each other. 2. A hook has only its own service leave."""
    with bare(image) as pause:
        shared = (*LOCKED_DOWN, f"--pid=container:{pause.name}")
        with service(image, options=shared) as first, service(image, options=shared) as second:
            for each in (first, second):
                each.wait_until_up()
            (mine,), (other,) = served_by(first), served_by(second)
            assert mine != other
            code, said = first.container.run(
                "python3", "-c", f"open('/proc/{other}/cmdline'); open('/proc/{mine}/stat')"
            )
            assert code == 0, said

            stopped = first.container.stop(hook, grace=GRACE)
            assert (stopped.exit_code, stopped.hook_exit) == (0, 0), first.log.text + stopped.hook_said
            assert "is not asked" not in stopped.hook_said
            assert first.status is None
            assert "OUT_OF_SERVICE verified on 1 of 1 servers" in first.log.text
            assert "leaving" not in second.log.text
            assert second.status == "UP"
            assert pause.log.lines == ["ready"]
            assert second.container.stop(hook, grace=GRACE).exit_code == 0


def test_one_name_for_two_containers(service, bare, image, hook):
    """`GRACEFUL_SCOPE` is the same by mistake: the kernel's word on who a peer is still keeps them apart."""
    with service(image, GRACEFUL_SCOPE="shop") as first:
        first.wait_until_up()
        with bare(image, GRACEFUL_SCOPE="shop") as second:
            code, said = second.run(*hook, "--timeout", "4")
            assert "is not asked: it runs in another pid namespace" in said
            assert code == 0, said
        assert "leaving" not in first.log.text


def test_a_stranger_on_the_network(service, image, hook):
    """1. A process of another container takes a name of this one: not asked. 2. It asks this one: refused."""
    with service(image) as s, socket.socket(socket.AF_UNIX) as squatter, socket.socket(socket.AF_UNIX) as asking:
        s.wait_until_up()
        squatter.bind(f"\0graceful/{scope(s.container)}/99")
        squatter.listen()
        asking.settimeout(PATIENCE)
        asking.connect(f"\0graceful/{scope(s.container)}/1")
        with suppress(BrokenPipeError):  # it may be refused before it could ask
            asking.sendall(wire.encode_first("prestop", elapsed=0.0, grace=1.0))
        assert answer(asking) == b""
        s.log.wait_for("refused a connection to the hook's channel: it runs in another pid namespace")
        assert "leaving" not in s.log.text
        assert s.status == "UP"

        stopped = s.container.stop(hook, grace=GRACE)
        assert (stopped.exit_code, stopped.hook_exit) == (0, 0), s.log.text
        assert "/99 is not asked: it runs in another pid namespace" in stopped.hook_said
        until(lambda: s.status is None, "deregistered")


def answer(asking):
    try:
        return asking.recv(wire.LINE_LIMIT)
    except ConnectionResetError:
        return b""
