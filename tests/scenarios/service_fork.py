"""A service forks. Usage: `-m tests.scenarios.service_fork`.

1. graceful is installed and serving, its hook's socket is open.
2. A child is forked that did not install: default handlers, no descriptor of ours, no listening socket, no thread.
3. SIGTERM ends the child by its default action (-15), also right after the fork; the parent goes on serving.
4. A child of multiprocessing is ended by `terminate()` in the same way.
5. The parent leaves by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import graceful


def descriptors() -> set[str]:
    names = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return names


def check(holds: object, what: str) -> None:
    if not holds:
        print("not so:", what, flush=True)
        os._exit(70)


def until(holds: object, what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        check(time.monotonic() < deadline, what)
        time.sleep(0.01)


def in_child() -> None:
    check(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "default action of SIGTERM")
    check(signal.getsignal(signal.SIGINT) is signal.default_int_handler, "default action of SIGINT")
    check([thread.name for thread in threading.enumerate()] == ["MainThread"], "one thread")
    ours = descriptors() - BEFORE
    check(not [name for name in ours if name.startswith(("pipe:", "socket:", "anon_inode:[eventpoll]"))], f"{ours}")
    check(coordinator.phase is graceful.Phase.STARTING, "a new life")
    os.write(CHECKED, b"!")
    time.sleep(60)


REPORT, CHECKED = os.pipe()
BEFORE = descriptors()
coordinator = graceful.install()
coordinator.ready()
until(lambda: coordinator.phase is graceful.Phase.SERVING, "serving")

pid = os.fork()
if pid == 0:
    in_child()
os.close(CHECKED)
check(os.read(REPORT, 1), "the child has checked all of it")
os.kill(pid, signal.SIGTERM)
_, status = os.waitpid(pid, 0)
check(os.waitstatus_to_exitcode(status) == -15, f"forked child ends by SIGTERM, not {status}")

process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
process.start()
process.terminate()
process.join(30)
check(process.exitcode == -15, f"terminate() ends the child, not {process.exitcode}")
check(coordinator.phase is graceful.Phase.SERVING, "the parent still serves")
print("all is well", flush=True)
coordinator.drain()
threading.Event().wait()
