"""The sockets of the app's end of the hook's channel: taking an address, and giving everything back.

An abstract name is free again when its socket is closed. A socket file stays behind a process that was killed, so the
next one to take its place recognises it as stale; and a forked child inherits open sockets, which `close_inherited`
closes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful import rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, TypeVar

    Resource = TypeVar("Resource", socket.socket, IO[bytes])

__all__ = ["close_inherited", "listening", "owned"]

_BACKLOG: Final = 128

_open: set[socket.socket | IO[bytes]] = set()
"""Every socket of ours, and every lock, that is open in this process."""


def close_inherited() -> None:
    """Close our sockets in a forked child; the parent's stay as they are.

    Without it the child would keep the parent's names taken after the parent has died, and a hook would wait on a
    connection whose other end is gone. For `os.register_at_fork(after_in_child=…)`.
    """
    while _open:
        _open.pop().close()


@contextlib.contextmanager
def owned(resource: Resource) -> Iterator[Resource]:
    """Close a socket or a file at the end, or before that in a forked child that calls `close_inherited`."""
    _open.add(resource)
    try:
        yield resource
    finally:
        _open.discard(resource)
        resource.close()


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Listen on an abstract name or a path; a socket file is removed at the end, unless it is somebody else's by then.

    The socket does not block, and is not inherited by a program that this process starts.

    Raises:
        OSError: the address is taken by another process, or cannot be used; the message says which.
    """
    with owned(_listen(address)) as sock:
        identity = _identity(address)
        try:
            yield sock
        finally:
            if identity is not None and _identity(address) == identity:
                Path(address).unlink(missing_ok=True)


def _listen(address: str) -> socket.socket:
    """Return a listening socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _bind(sock, address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, address: str) -> None:
    """Bind to an address, in place of a stale socket file."""
    is_file = not address.startswith("\0")
    try:
        if is_file:
            Path(address).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sock.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise OSError(
                error.errno, f"cannot listen on {rendezvous.show_address(address)}: {error.strerror}"
            ) from None
        if not (is_file and _is_stale(address)):
            raise OSError(error.errno, f"{rendezvous.show_address(address)} is taken by {_owner(address)}") from None
        Path(address).unlink()
        sock.bind(address)
    if is_file:
        Path(address).chmod(0o600)  # before listen(), so that there is no moment at which others may connect


def _is_stale(path: str) -> bool:
    """Whether a socket file is left over from a process that is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return Path(path).is_socket() and probe.connect_ex(path) == errno.ECONNREFUSED


def _owner(address: str) -> str:
    """Return who listens on an address, for people."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        pid = None if probe.connect_ex(address) else rendezvous.peer_pid(probe)
    return "another process" if pid is None else f"process {pid}"


def _identity(address: str) -> tuple[int, int] | None:
    """Return what tells our socket file from one that another process put in its place; None for an abstract name."""
    if address.startswith("\0"):
        return None
    try:
        status = Path(address).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
