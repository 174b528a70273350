"""Where the preStop hook and the app meet, and who is trusted there.

Every process that can leave listens on one abstract Unix socket, named after its container and its pid. The hook runs
in the same container and finds all of them in `/proc/net/unix`: no volume, no environment, no stale file. Abstract
names are shared by everything in the network namespace and carry no permissions, so both sides check whom they talk to.

The hook imports this module at a CPU limit that may be a twentieth of a core, so it imports only what it must:
`pathlib` alone would cost more than all the rest.
"""
# ruff: noqa: PTH110, PTH115, PTH116, PTH120, PTH123, PTH208 - pathlib is what this module must not import.

from __future__ import annotations

import os
import socket
import struct
import time

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "address_pid",
    "discover",
    "own_address",
    "owner_address",
    "peer_pid",
    "process_age",
    "refuse_peer",
    "scope",
    "show_address",
]

_MOUNT_NAMESPACE = "/proc/{}/ns/mnt"
_SOCKET_TABLE = "/proc/net/unix"
_NAME = "graceful"
_LISTENING = 0x10000  # __SO_ACCEPTCON, in the column Flags of /proc/net/unix
_ADDRESS_LIMIT = 107  # sockaddr_un.sun_path has 108 bytes; a file's name needs its NUL


def scope(environ: Mapping[str, str]) -> str:
    """Return what keeps this container's processes apart from those of others that share its network namespace.

    It is a hash of `GRACEFUL_SCOPE` where that is set, else the inode of the mount namespace: containers of one pod
    share their network (and with it abstract socket names), but never their mounts.
    """
    given = environ.get("GRACEFUL_SCOPE", "").strip()
    if given:
        return _fnv1a(given.encode("utf-8", "surrogateescape"))
    try:
        return str(os.stat(_MOUNT_NAMESPACE.format("self")).st_ino)
    except OSError:  # no /proc, or a sandbox that has no such namespace; the peer check still keeps others out
        return "0"


def _fnv1a(data: bytes) -> str:
    """FNV-1a, 64 bits, in hexadecimal: a name of fixed length for any text; hashlib would load OpenSSL for it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def own_address(environ: Mapping[str, str]) -> str | None:
    r"""Return the address on which this process listens for its hook.

    That is an abstract name, `"\0graceful/<scope>/<pid>"`, or the path of a socket file in `GRACEFUL_RUNTIME_DIR` where
    that is set. None means that this system has no abstract sockets and no directory was given.

    Raises:
        ValueError: the directory's name is too long for a socket address (107 bytes).
    """
    prefix = _prefix(environ)
    return None if prefix is None else _checked(prefix + str(os.getpid()) + _suffix(prefix))


def owner_address(environ: Mapping[str, str], instance: str) -> str | None:
    r"""Return the name that the one process of this container has which speaks for an instance.

    That is `"\0graceful/<scope>/owner-<hash>"`, or a socket file, as in `own_address`. `discover` does not take it for
    a process, because what follows the scope is no number.

    Raises:
        ValueError: as in `own_address`.
    """
    prefix = _prefix(environ)
    name = f"owner-{_fnv1a(instance.encode('utf-8', 'surrogateescape'))}"
    return None if prefix is None else _checked(prefix + name + _suffix(prefix))


def _prefix(environ: Mapping[str, str]) -> str | None:
    """Return what the addresses of all processes of this container begin with, or None if there can be none."""
    directory = environ.get("GRACEFUL_RUNTIME_DIR", "").strip()
    if directory:
        return f"{directory.rstrip('/')}/{_NAME}-{scope(environ)}-"
    return f"\0{_NAME}/{scope(environ)}/" if os.path.exists(_SOCKET_TABLE) else None


def _suffix(prefix: str) -> str:
    return "" if prefix.startswith("\0") else ".sock"


def _checked(address: str) -> str:
    length = len(os.fsencode(address))
    if length > _ADDRESS_LIMIT:
        raise ValueError(
            f"{show_address(address)} has {length} bytes, and a socket address at most {_ADDRESS_LIMIT}: "
            "set GRACEFUL_RUNTIME_DIR to a shorter path"
        )
    return address


def discover(environ: Mapping[str, str]) -> list[str]:
    """Return the addresses on which processes of this container listen, as far as can be seen, by pid.

    Anybody can take such a name: whoever connects to one checks the peer with `refuse_peer`.

    Raises:
        OSError: the table of sockets or the directory cannot be read.
    """
    prefix = _prefix(environ)
    if prefix is None:
        return []
    suffix = _suffix(prefix)
    names = _files(prefix) if suffix else _listening()
    pids = {name[len(prefix) : len(name) - len(suffix)] for name in names if name.startswith(prefix)}
    return [prefix + pid + suffix for pid in sorted(filter(_is_pid, pids), key=int)]


def _is_pid(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


def _files(prefix: str) -> list[str]:
    directory = os.path.dirname(prefix)
    try:
        return [f"{directory}/{name}" for name in os.listdir(directory) if name.endswith(".sock")]
    except FileNotFoundError:
        return []


def _listening() -> list[str]:
    r"""Return the names of all listening abstract sockets of this network namespace, each beginning with a NUL."""
    names = []
    with open(_SOCKET_TABLE, "rb") as table:
        for line in table:
            # Num RefCount Protocol Flags Type St Inode Path; an accepted connection shows its listener's name too.
            columns = line.split(None, 7)
            if len(columns) == 8 and columns[7].startswith(b"@") and _is_listening(columns[3]):
                names.append("\0" + os.fsdecode(columns[7].rstrip(b"\n")[1:]))
    return names


def _is_listening(flags: bytes) -> bool:
    try:
        return bool(int(flags, 16) & _LISTENING)
    except ValueError:  # a name with a line break in it can make any line
        return False


def address_pid(address: str) -> int:
    """Return the pid in an address made by `own_address` or found by `discover`."""
    return int(address.removesuffix(".sock").replace("-", "/").rpartition("/")[2])


def show_address(address: str) -> str:
    """Return an address as people and `ss -x` write it: `@graceful/4026532591/7`."""
    return "@" + address[1:] if address.startswith("\0") else address


def _credentials(sock: socket.socket) -> tuple[int, int] | None:
    """Return pid and uid of the other end, as its kernel vouches for them; None where it does not (macOS)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def peer_pid(sock: socket.socket) -> int | None:
    """Return the pid of the other end, None if it is not known or not of our pid namespace."""
    credentials = _credentials(sock)
    return credentials[0] or None if credentials else None


def refuse_peer(sock: socket.socket, *, trust_all_as_root: bool = False) -> str | None:
    """Return why the other end of a connection is not of this container; None when it is.

    Abstract names belong to the whole network namespace and carry no permissions, so both sides check: a genuine peer
    is visible in our pid namespace and has our mount namespace. Where looking at that is denied (the peer has another
    uid, and we lack CAP_SYS_PTRACE), root and our own uid are trusted.

    Args:
        sock: a connected Unix socket.
        trust_all_as_root: where looking is denied, root trusts every uid of its pid namespace. For the hook, which runs
            as root when the entrypoint starts as root and gives the app another uid. Not for the app: it obeys.
    """
    credentials = _credentials(sock)
    if credentials is None:
        return None  # a socket file then, guarded by the permissions of its directory
    pid, uid = credentials
    if pid == 0:
        return "it runs in another pid namespace"
    try:
        mine = os.readlink(_MOUNT_NAMESPACE.format("self"))
        if os.readlink(_MOUNT_NAMESPACE.format(pid)) == mine:
            return None
    except PermissionError:
        pass
    except OSError as error:
        if os.path.exists(_MOUNT_NAMESPACE.format("self")):
            return f"process {pid} cannot be looked at: {error.strerror}"
    else:
        return f"process {pid} runs in another container (its mount namespace is not ours)"
    if uid in (0, os.geteuid()) or (trust_all_as_root and os.geteuid() == 0):
        return None
    return f"process {pid} has the uid {uid}, not ours ({os.geteuid()}), and looking at it is denied"


def process_age() -> float:
    """Return the seconds since this process started: the interpreter's own start counts as time of the hook.

    At a CPU limit of a twentieth of a core that is more than a second. 0 where the kernel does not say.
    """
    try:
        with open("/proc/self/stat", "rb") as status:
            # The second field, the program's name, may contain spaces; field 22 is the start in ticks since boot.
            ticks = int(status.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return age if 0 <= age <= 60 else 0.0  # a sandbox may count from another origin
