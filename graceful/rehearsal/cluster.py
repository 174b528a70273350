"""The machine that a rehearsal runs on: an Eureka server and the pods of one service, as processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import graceful
from graceful.rehearsal.callers import up_instances
from graceful.rehearsal.exchange import Address, Outcome, request

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["Eureka", "Machine", "Pod", "RehearsalError", "Service", "free_port"]

_EUREKA: Final = ["-m", "graceful.rehearsal.eureka"]
_LOOPBACK: Final = "127.0.0.1"
_START_TIMEOUT: Final = 30.0
_POLL_INTERVAL: Final = 0.03
# Somebody's own settings would change what is rehearsed, a proxy would stand between, and inside a cluster the
# application would take the demo's grace period for the cluster's.
_NOT_INHERITED: Final = (
    "GRACEFUL_",
    "EUREKA_",
    "SPRING_",
    "OTEL_",
    "POD_IP",
    "KUBERNETES_",
    "UVICORN_",
    "WEB_CONCURRENCY",
)
_LOG_TAIL: Final = 2_000


class RehearsalError(RuntimeError):
    """The rehearsal could not be held: something did not start, or stopped on its own."""


def free_port() -> int:
    """A port that nobody listens on, outside the range from which the kernel gives ports to outgoing connections.

    The callers open many of these, and one could otherwise hold the port by the time the pod binds it.

    Raises:
        RehearsalError: none was found.
    """
    for _ in range(200):
        port = random.randint(15_000, 32_000)  # noqa: S311  a port, not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_LOOPBACK, port))
            return port
    raise RehearsalError("found no free port on loopback between 15000 and 32000")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_NOT_INHERITED) and not name.lower().endswith("_proxy")
    }
    # The children import the very package that runs here, whether it is installed or not.
    package_root = str(Path(graceful.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package_root, inherited.get("PYTHONPATH")]))
    return {**inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


class Machine:
    """Starts processes, and ends every one of them, by its own id, at the end of its `async with` block.

    Args:
        logs: a directory for the processes' output.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[Process] = []
        self._files = contextlib.ExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes))
        self._files.close()

    def log(self, name: str) -> IO[bytes]:
        """The file for the output of `name`, which is new to this machine."""
        return self._files.enter_context((self._logs / f"{name}.log").open("wb"))

    def log_tail(self, name: str) -> str:
        """The last of what `name` has written."""
        return (self._logs / f"{name}.log").read_bytes()[-_LOG_TAIL:].decode(errors="replace")

    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: IO[bytes],
        cwd: Path | None = None,
        read_stdout: bool = False,
    ) -> Process:
        """Start a process in a group of its own: Ctrl-C at the terminal is for the rehearsal alone."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=env,
            cwd=cwd,
            stdin=DEVNULL,
            stdout=PIPE if read_stdout else log,
            stderr=log,
            process_group=0,
        )
        self._processes.append(process)
        return process


class Eureka:
    """The embedded Eureka server, in a process of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._address: Address = (parts.hostname or "", parts.port or 80)
        self._path = parts.path.rstrip("/")

    @classmethod
    async def start(cls, machine: Machine, *, cache_interval: float) -> Self:
        """Start it, and wait until it has said where it listens.

        Args:
            machine: who owns the process.
            cache_interval: seconds between two refreshes of its response cache.

        Raises:
            RehearsalError: it did not come up.
        """
        command = [sys.executable, "-P", *_EUREKA, "--port", "0", "--cache-interval", str(cache_interval)]
        log = machine.log("eureka")
        process = await machine.start(command, env=_environment({}), log=log, read_stdout=True)
        if process.stdout is None:
            raise RehearsalError("no pipe from the Eureka server")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT):
                line = (await process.stdout.readline()).decode().strip()
                if line.startswith("http"):
                    return cls(line)
        raise RehearsalError(f"the embedded Eureka did not start; its last words:\n{machine.log_tail('eureka')}")

    async def status(self, app_name: str, instance_id: str) -> str | None:
        """The status of an instance as the registry has it now (not through the cache), or None if it is not there."""
        result = await request(self._address, f"{self._path}/apps/{app_name}/{instance_id}")
        if result.outcome is not Outcome.ANSWERED or result.status != 200:
            return None
        return str(json.loads(result.body)["instance"]["status"])

    async def wait_until_listed(self, app_name: str, pods: Sequence[Pod]) -> None:
        """Wait until callers are told of all these pods: until they have come through the response cache.

        Raises:
            TimeoutError: they have not.
        """
        wanted = {pod.address for pod in pods}
        async with asyncio.timeout(_START_TIMEOUT):
            while True:
                result = await request(self._address, f"{self._path}/apps")
                if result.status == 200 and wanted <= set(up_instances(result.body, app_name)):
                    return
                await asyncio.sleep(_POLL_INTERVAL)

    async def fail_for(self, seconds: float) -> None:
        """Answer 503 to everything for a while, beginning now.

        Raises:
            RehearsalError: it would not.
        """
        fault = json.dumps({"kind": "fail", "status": 503, "for_seconds": seconds}).encode()
        result = await request(self._address, "/_faults", method="POST", content=fault)
        if result.status is None or result.status >= 300:
            raise RehearsalError(f"the embedded Eureka refused the fault: {result.reason or result.status}")


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica: a process, and where it is found.

    Attributes:
        name: for the log; also its GRACEFUL_SCOPE, which its hook shares.
        address: where it listens.
        instance_id: its id in Eureka.
        env: the environment that its process and its hook have.
        process: the process.
        log: where both write to.
    """

    name: str
    address: Address
    instance_id: str
    env: Mapping[str, str]
    process: Process
    log: IO[bytes]


class Service:
    """A Deployment: starts pods of one application, all alike.

    Args:
        machine: who owns the processes.
        eureka: where they register.
        app: what uvicorn runs, such as `main:app`.
        directory: the working directory of the container.
        env: environment variables of the pod's spec, beside those that differ from pod to pod.
    """

    app_name: Final = "ORDERS"

    def __init__(self, machine: Machine, eureka: Eureka, *, app: str, directory: Path, env: Mapping[str, str]) -> None:
        self._machine = machine
        self._eureka = eureka
        self._app = app
        self._directory = directory
        self._env = env
        self._numbers = itertools.count(1)

    async def start_pod(self) -> Pod:
        """Start a pod and wait until it is ready: UP in Eureka, and its port accepts.

        Raises:
            RehearsalError: it ended, or was not ready in time; with the last of its output.
        """
        name, port = f"orders-{next(self._numbers)}", free_port()
        instance_id = f"{name}:{port}"
        env = _environment(
            {
                **self._env,
                "PORT": str(port),
                "GRACEFUL_PORT": str(port),
                "GRACEFUL_SCOPE": f"{os.getpid()}/{instance_id}",
                "EUREKA_SERVER_URL": self._eureka.url,
                "EUREKA_INSTANCE_INSTANCEID": instance_id,
                "EUREKA_INSTANCE_HOSTNAME": _LOOPBACK,
                "EUREKA_INSTANCE_IPADDRESS": _LOOPBACK,
            }
        )
        log = self._machine.log(name)
        command = [sys.executable, "-m", "uvicorn", self._app, "--host", _LOOPBACK, "--port", str(port)]
        process = await self._machine.start([*command, "--no-access-log"], env=env, log=log, cwd=self._directory)
        pod = Pod(name, (_LOOPBACK, port), instance_id, env, process, log)
        await self._wait_until_ready(pod)
        return pod

    async def _wait_until_ready(self, pod: Pod) -> None:
        problem = f"was not ready within {_START_TIMEOUT:g} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT):
                while pod.process.returncode is None:
                    if await self._is_ready(pod):
                        return
                    await asyncio.sleep(_POLL_INTERVAL)
                problem = f"ended with exit code {pod.process.returncode}"
        raise RehearsalError(f"{pod.name} ({self._app}) {problem}; its last words:\n{self._machine.log_tail(pod.name)}")

    async def _is_ready(self, pod: Pod) -> bool:
        if await self._eureka.status(self.app_name, pod.instance_id) != "UP":
            return False
        try:
            _reader, writer = await asyncio.open_connection(*pod.address)
        except OSError:
            return False
        writer.close()
        return True
