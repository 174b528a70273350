"""Containers for the tests: podman and runc, on a root file system that borrows this machine's files read-only.

No image is pulled or built. A container gets what a strict cluster gives it: a user that is not root, no capability,
a root file system that nobody can write to, and not one writable volume.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful.rehearsal.kubelet import remaining_grace
from tests.children import PATIENCE, ROOT, Child

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# crun, which podman prefers, does not start on every kernel on which runc does.
PODMAN: Final = ("podman", "--runtime=runc", "--log-level=error")
UID: Final = 1000
SIGKILLED: Final = 128 + 9
CPU_LIMIT: Final = 0.1
"""`resources.limits.cpu: 100m`."""
LOCKED_DOWN: Final = (f"--user={UID}:{UID}", "--cap-drop=all")
PAUSE: Final = ("python3", "-c", "import time; print('ready', flush=True); time.sleep(200)")
"""A PID 1 that is not ours."""
# Where the project is in the container.
_PROJECT: Final = "/app"
_LIFETIME: Final = 300  # seconds; podman ends a container whose test was killed
_MERGED: Final = ("bin", "sbin", "lib", "lib64")
# What podman asks for by default is more than a machine without CAP_SYS_RESOURCE may give.
_LIMITS: Final = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")


def why_no_containers() -> str | None:
    """The reason why containers cannot run on this machine; None if they can."""
    if missing := [tool for tool in ("podman", "runc") if shutil.which(tool) is None]:
        return f"a container needs {' and '.join(missing)} on the PATH"
    if os.geteuid() != 0:
        return "a container with a root file system of this machine's directories and a CPU limit needs podman as root"
    with tempfile.TemporaryDirectory(prefix="g-") as directory:
        image = Image(Path(directory), shell=False)
        options = (*LOCKED_DOWN, f"--cpus={CPU_LIMIT}")
        trial = _podman("run", "--rm", *image.options({}), *options, "--rootfs", str(image.root), "python3", "-c", "")
    return f"podman cannot run a container here: {' '.join(trial.stdout.split())[-500:]}" if trial.returncode else None


def _podman(*arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PODMAN, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


class Image:
    """A root file system, made of mount points only.

    Args:
        directory: where it is made; empty.
        shell: with this machine's whole `/usr`; or without a shell, with nothing but the interpreter, its packages and
            the shared libraries, as a distroless image is.
    """

    def __init__(self, directory: Path, *, shell: bool) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        self.root.chmod(0o755)
        self._nothing = directory / "nothing"
        self._nothing.mkdir()
        self._mounts = list(_shared_with_all() if shell else _shared_without_shell())
        for name in _MERGED:
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(Path("/", name).readlink())
            elif shell or name.startswith("lib"):
                self._mounts.append(f"/{name}")

    def options(self, env: Mapping[str, str]) -> list[str]:
        """What `podman run` is told: everything read-only, this machine's network, the pod's environment."""
        settings = {"PATH": f"{sys.prefix}/bin:/usr/bin", "PYTHONPATH": _PROJECT, "PYTHONUNBUFFERED": "1"} | dict(env)
        return [
            "--read-only",
            "--read-only-tmpfs=false",
            "--network=host",
            "--workdir=/",
            *_LIMITS,
            # Not the checkout itself, which may be its owner's alone.
            *(f"--volume={ROOT / name}:{_PROJECT}/{name}:ro" for name in ("graceful", "tests")),
            # In Kubernetes it can be written to: here nothing can, so that what works needs no such place.
            f"--volume={self._nothing}:/dev/shm:ro",
            *(f"--volume={path}:{path}:ro" for path in dict.fromkeys(self._mounts)),
            *(f"--env={name}={value}" for name, value in settings.items()),
        ]


def _interpreter() -> Iterator[str]:
    yield sys.prefix
    yield str(Path(sys.executable).resolve()) if sys.base_prefix == "/usr" else sys.base_prefix


def _shared_with_all() -> Iterator[str]:
    yield "/usr"
    yield from (path for path in _interpreter() if not path.startswith("/usr/"))


def _shared_without_shell() -> Iterator[str]:
    yield f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    if Path("/usr/lib64").is_dir():
        yield "/usr/lib64"
    if sys.base_prefix == "/usr":
        yield sysconfig.get_path("stdlib")
    yield from _interpreter()


@dataclass(frozen=True)
class Stopped:
    """How a container was stopped.

    Attributes:
        exit_code: of PID 1; 137 for SIGKILL.
        hook_exit: of the hook; 137 if it was killed, also with its container; None if there was none.
        hook_said: what the hook wrote, which in Kubernetes nobody reads.
        seconds: from the hook's start until the container had ended.
    """

    exit_code: int
    hook_exit: int | None
    hook_said: str
    seconds: float


class Container:
    """One container that was created, with `log` for its lines as they come."""

    log: Child

    def __init__(self, name: str, processes: contextlib.ExitStack) -> None:
        self.name = name
        self._processes = processes

    def start(self) -> None:
        """Start it, for the first time or in place, as the kubelet does after a liveness kill: with the same name."""
        self.log = self._attached("start", "--attach", self.name)

    def _attached(self, *arguments: str) -> Child:
        process = subprocess.Popen(
            [*PODMAN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return Child(self._processes.enter_context(process))

    @property
    def pid(self) -> int:
        """Of its PID 1, as this machine counts."""
        return int(json.loads(_podman("inspect", "--format={{json .State.Pid}}", self.name).stdout))

    def begin(self, *command: str) -> Child:
        """Begin to run a command inside, as the kubelet does it: PID 1's user, the pod's environment, no stdin."""
        return self._attached("exec", self.name, *command)

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command inside to its end: exit code and output."""
        done = _podman("exec", self.name, *command)
        return done.returncode, done.stdout

    def pids(self, words: str) -> list[int]:
        """This machine's ids of the processes inside whose command line has these words."""
        namespace = Path(f"/proc/{self.pid}/ns/mnt").readlink()
        return [pid for pid in _all_pids() if _is_in(pid, namespace, words)]

    def send(self, signal: str) -> None:
        """Send a signal to PID 1."""
        done = _podman("kill", f"--signal={signal}", self.name)
        assert done.returncode == 0, done.stdout

    def stop(self, hook: Sequence[str] | None, *, grace: int) -> Stopped:
        """Stop it with the kubelet's arithmetic: the hook inside the grace period, SIGTERM for what is left, SIGKILL.

        Args:
            hook: the preStop command, or None.
            grace: seconds of the grace period. A hook that takes longer is left alone, and dies with its container.
        """
        return self.stop_after(self.begin(*hook) if hook else None, time.monotonic(), grace=grace)

    def stop_after(self, hook: Child | None, began: float, *, grace: int) -> Stopped:
        """The same for a hook that was begun already, at that monotonic instant."""
        if hook:
            with contextlib.suppress(subprocess.TimeoutExpired):
                hook.process.wait(max(grace - (time.monotonic() - began), 0))
        left = remaining_grace(grace, time.monotonic() - began)
        _podman("stop", f"--time={left:.0f}", self.name, timeout=PATIENCE + left)
        exit_code = self.log.exit_code()
        seconds = time.monotonic() - began
        return Stopped(exit_code, hook.exit_code() if hook else None, hook.text if hook else "", seconds)


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _is_in(pid: int, namespace: Path, words: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return words in command and Path(f"/proc/{pid}/ns/mnt").readlink() == namespace
    except OSError:  # it has ended
        return False


@contextlib.contextmanager
def container(
    image: Image, *command: str, env: Mapping[str, str] | None = None, options: Sequence[str] = LOCKED_DOWN
) -> Iterator[Container]:
    """Run a command as PID 1 of a container; it is gone afterwards, whatever happened."""
    name = f"graceful-{uuid.uuid4().hex[:12]}"
    given = [*image.options(env or {}), *options, f"--timeout={_LIFETIME}", "--rootfs", str(image.root)]
    created = _podman("create", f"--name={name}", *given, *command)
    assert created.returncode == 0, created.stdout
    # Whatever waits for the container ends with it, so it goes first.
    with contextlib.ExitStack() as processes:
        processes.callback(_podman, "rm", "--force", "--time=0", name)
        running = Container(name, processes)
        running.start()
        try:
            yield running
        finally:
            _podman("rm", "--force", "--time=0", name)
