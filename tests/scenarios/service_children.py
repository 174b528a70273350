"""A service whose module starts children, which import it again.

Usage: `-m tests.scenarios.service_children fork|spawn|forkserver|pool-fork|pool-spawn|subprocess`.

1. The module installs graceful, as every import of it does, also that in a child.
2. A child says what it finds there: the handler of SIGTERM, the threads, the phase.
3. The parent terminates it: the child ends by that signal, at once.
4. Nobody has begun to leave: the parent serves.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import graceful

coordinator = graceful.install()


def look() -> str:
    handler = signal.getsignal(signal.SIGTERM)
    threads = sorted(each.name for each in threading.enumerate() if "graceful" in each.name)
    return f"handler {getattr(handler, 'name', handler)}, threads {threads}, phase {coordinator.phase.value}"


def work() -> None:
    print("child:", look(), flush=True)
    time.sleep(60)


def in_pool(kind: str) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context(kind)) as pool:
        print("child:", pool.submit(look).result(), flush=True)
        pid = pool.submit(os.getpid).result()
        os.kill(pid, signal.SIGTERM)
        while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110  the pool itself waits for it
            time.sleep(0.01)
    print("ended: -15", flush=True)


def in_process(kind: str) -> None:
    multiprocessing.set_start_method(kind)
    process = multiprocessing.Process(target=work)
    process.start()
    sys.stdin.readline()  # the test has read what the child found
    process.terminate()
    process.join()
    print("ended:", process.exitcode, flush=True)


def in_program() -> None:
    with subprocess.Popen(["sleep", "60"]) as program:
        print("child: handler SIG_DFL, threads [], phase starting", flush=True)  # of a program without Python
        program.terminate()
    print("ended:", program.returncode, flush=True)


if __name__ == "__main__":
    coordinator.ready()
    while coordinator.phase is not graceful.Phase.SERVING:
        time.sleep(0.01)
    how = sys.argv[1]
    if how == "subprocess":
        in_program()
    elif how.startswith("pool-"):
        in_pool(how.removeprefix("pool-"))
    else:
        in_process(how)
    print("parent:", coordinator.phase.value, flush=True)
    coordinator.uninstall()
