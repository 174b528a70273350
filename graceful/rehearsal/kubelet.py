"""The kubelet's part: how a container is told to leave, and when it is no longer asked.

After `killContainer` and `executePreStopHook` of the kubelet (pkg/kubelet/kuberuntime/kuberuntime_container.go): the
preStop hook runs inside the grace period, what it took is subtracted in whole seconds, at least 2 s are left for
SIGTERM, then comes SIGKILL.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping, Sequence

__all__ = ["MINIMUM_GRACE", "Departure", "remaining_grace", "stop_pod"]

# minimumGracePeriodInSeconds of the kubelet: left for SIGTERM even when the hook has used the whole grace period.
MINIMUM_GRACE: Final = 2.0
# As a shell says it: the command was not found.
_NOT_FOUND: Final = 127


@dataclass(frozen=True, slots=True)
class Departure:
    """How a pod left.

    Attributes:
        seconds: from the hook's start (or SIGTERM, without a hook) until the process was gone.
        exit_code: of the process, negative for a signal, as in `subprocess`.
        hook_exit: of the hook, likewise; 127 if it could not be started, -9 if it had not ended when the process had;
            None if there was none.
        killed: whether it took SIGKILL.
    """

    seconds: float
    exit_code: int
    hook_exit: int | None
    killed: bool


def remaining_grace(grace: float, hook_took: float) -> float:
    """What is left for SIGTERM after the hook.

    Args:
        grace: the grace period.
        hook_took: how long the hook took.

    Returns:
        The grace period less the hook's time in whole seconds (a part of a second is the pod's to keep), and never less
        than 2 s. These are real seconds, also where a rehearsal scales the caches' times: give it a grace period in
        which only the caches' part is scaled, and neither the whole seconds nor the minimum weigh too much.
    """
    return max(grace - math.floor(hook_took), MINIMUM_GRACE)


async def stop_pod(
    process: Process,
    *,
    hook: Sequence[str] | None,
    env: Mapping[str, str],
    grace: float,
    log: IO[bytes] | None = None,
) -> Departure:
    """Have one process leave as a pod's only container does.

    Args:
        process: what runs in the container.
        hook: the preStop command, or None. It gets the pod's environment and an empty stdin.
        env: the pod's environment.
        grace: terminationGracePeriodSeconds.
        log: where the hook's output goes (to nobody, by default, as in Kubernetes).

    Returns:
        How it left. The hook is gone too: a container's processes do not outlive their first.
    """
    began = time.monotonic()
    hook_process = await _start(hook, env, log) if hook and grace > 0 else None
    try:
        if hook_process:
            await _first_gone(hook_process, process, within=grace)
        left = remaining_grace(grace, time.monotonic() - began)
        killed = await _terminate(process, within=left)
        seconds = time.monotonic() - began
    finally:
        if hook_process and hook_process.returncode is None:
            hook_process.kill()
            await hook_process.wait()
    exit_code = await process.wait()
    return Departure(seconds, exit_code, _exit_of(hook_process) if hook and grace > 0 else None, killed)


def _exit_of(hook: Process | None) -> int | None:
    return hook.returncode if hook else _NOT_FOUND


async def _start(command: Sequence[str], env: Mapping[str, str], log: IO[bytes] | None) -> Process | None:
    try:
        return await asyncio.create_subprocess_exec(
            *command, env=env, stdin=DEVNULL, stdout=log or DEVNULL, stderr=log or DEVNULL, process_group=0
        )
    except OSError:
        # A hook that cannot be started is a FailedPreStopHook event; SIGTERM follows at once.
        return None


async def _first_gone(hook: Process, process: Process, *, within: float) -> None:
    """Wait until the hook has ended; or the process, whose container the hook runs in; or the time is over."""
    waits = [asyncio.create_task(hook.wait()), asyncio.create_task(process.wait())]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _terminate(process: Process, *, within: float) -> bool:
    """SIGTERM, and SIGKILL when the time is over. Returns whether it came to that."""
    if process.returncode is not None:
        return False
    process.terminate()
    try:
        async with asyncio.timeout(within):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return True
    return False
