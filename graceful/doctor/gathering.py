"""Gathers what the doctor judges in an image and its container. Nothing is changed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import graceful
from graceful import rendezvous
from graceful.core.names import one_line
from graceful.doctor.image import Bytecode, Module
from graceful.pid_one import look_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graceful.pid_one import Process

__all__ = [
    "DEPENDENCIES",
    "bytecode",
    "here",
    "import_module",
    "pid_one",
    "root_is_read_only",
    "start_hook",
    "try_socket",
    "unreadable",
]

DEPENDENCIES: Final = {
    "anyio": "anyio",
    "pydantic_settings": "pydantic-settings",
    "py_eureka_client": "py-eureka-client",
}
"""What graceful imports at run time, and the distribution that it is in."""

_HOOK: Final = ("__init__", "prestop", "prestop_eureka", "prestop_talk", "rendezvous", "wire")
_HEADER: Final = 16


def import_module(name: str, distribution: str) -> Module:
    """Import a module."""
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  what a module may raise has no bounds
        return Module(name, error=one_line(f"{type(error).__name__}: {error}"))
    try:
        return Module(name, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return Module(name)


def start_hook(python: str, timeout: float) -> tuple[float | None, str]:
    """The seconds in which the hook's command starts, or None and why it does not. It prints its help, and ends."""
    began = time.monotonic()
    try:
        ended = subprocess.run(  # noqa: S603  the interpreter is the user's own choice
            [python, "-P", "-m", "graceful.prestop", "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"it has not ended after {timeout:g} s"
    except (OSError, ValueError) as error:
        return None, (error.strerror if isinstance(error, OSError) else "") or "it cannot be started"
    if ended.returncode:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return None, one_line(last) or f"exit code {ended.returncode}"
    return time.monotonic() - began, ""


def bytecode() -> Bytecode:
    """Which of the hook's modules have a compiled file that Python would use, from before this command."""
    folder, began = Path(graceful.__file__).parent, time.time() - rendezvous.process_age()
    missing, fresh = [], []
    for name in _HOOK:
        source = folder / f"{name}.py"
        try:
            compiled = Path(importlib.util.cache_from_source(str(source)))
            with compiled.open("rb") as file:
                header = file.read(_HEADER)
            if not _is_current(header, source):
                missing.append(name)
            elif compiled.stat().st_mtime >= began:
                fresh.append(name)
        except (OSError, NotImplementedError):
            missing.append(name)
    return Bytecode(len(_HOOK), tuple(missing), tuple(fresh))


def _is_current(header: bytes, source: Path) -> bool:
    """Whether Python would use a compiled file (PEP 552): a copy with new times makes it worthless."""
    if len(header) < _HEADER or header[:4] != importlib.util.MAGIC_NUMBER:
        return False
    if int.from_bytes(header[4:8], "little"):
        return True  # it goes by the source's hash
    told, size = (int.from_bytes(header[at : at + 4], "little") for at in (8, 12))
    stat = source.stat()
    return (told, size) == (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)


def pid_one(proc: Path = Path("/proc")) -> Process | None:
    """The container's first process; None where it cannot be looked at."""
    try:
        return look_at(1, proc=proc)
    except (OSError, ValueError, LookupError):
        return None


def unreadable(proc: Path = Path("/proc")) -> list[str]:
    """What cannot be read of /proc, with why."""
    reads: dict[str, Callable[[Path], object]] = {
        "net/unix": lambda path: path.open("rb").close(),
        "self/ns/mnt": lambda path: path.readlink(),
    }
    problems = []
    for name, read in reads.items():
        try:
            read(proc / name)
        except OSError as error:
            problems.append(f"{proc / name} cannot be read ({error.strerror})")
    return problems


def try_socket(environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Where an application would listen for its hook, and why it could not. What was tried is gone afterwards."""
    try:
        address = rendezvous.own_address(environ)
    except ValueError as error:
        return None, str(error)
    if address is None:
        return None, ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.ExitStack() as undo:
            sock.bind(address)
            if not address.startswith("\0"):
                undo.callback(Path(address).unlink, missing_ok=True)
    except OSError as error:
        return None, f"{rendezvous.show_address(address)}: {error.strerror}"
    return rendezvous.show_address(address), ""


def root_is_read_only() -> bool:
    """Whether the container's root filesystem is mounted read-only."""
    return bool(os.statvfs("/").f_flag & os.ST_RDONLY)


def here() -> tuple[tuple[int, ...], str]:
    """The version of this Python, and where it is."""
    return sys.version_info[:3], sys.executable
