"""The processes of this container as a command meets them: found, asked all at once, and listened to.

Each is spoken to on a connection and in a thread of its own, until one deadline: nothing that one of them does keeps
the others from being heard.
"""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from graceful import rendezvous, wire
from graceful.asking import ForeignError, ask
from graceful.core.names import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

Process = TypeVar("Process")
Result = TypeVar("Result")

__all__ = ["Answer", "Conversation", "ask_status", "at_once", "is_there"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process says it is doing.

    Attributes:
        pid: its process id.
        words: what it says, as `graceful.describing` puts it; empty where it says nothing.
        problem: why there is nothing, for people.
        foreign: whether it is not of this container, and was not asked.
    """

    pid: int
    words: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    foreign: bool = False


@dataclass(slots=True)
class Conversation:
    """One request to one process, and its answer.

    Attributes:
        address: where it listens, as `rendezvous.discover` gives it.
        request: the first line.
        deadline: the monotonic instant until which it may speak; it may be moved while it does.
    """

    address: str
    request: bytes
    deadline: float

    @property
    def pid(self) -> int:
        """The process."""
        return rendezvous.address_pid(self.address)

    def lines(self) -> Generator[bytes]:
        """Send the request, and yield the lines of the answer, until the process closes.

        Raises:
            ForeignError: it is not of this container.
            TimeoutError: the deadline was there.
            OSError: the connection broke, or nobody listens any more.
            wire.WireError: a line is too long.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(self._left)
            sock.connect(self.address)
            # A person's shell in the container may be root where the app is not.
            if refused := rendezvous.refuse_peer(sock, trust_all_as_root=True):
                raise ForeignError(refused)
            sock.sendall(self.request)
            reader = wire.LineReader()
            while True:
                sock.settimeout(self._left)
                data = sock.recv(wire.LINE_LIMIT)
                if not data:
                    return
                yield from reader.feed(data)

    @property
    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def ask_status(environ: Mapping[str, str], timeout: float) -> list[Answer]:
    """Ask every process of this container what it is doing. One that has ended meanwhile is left out.

    Args:
        environ: says where the processes of this container meet.
        timeout: seconds for all of them together.

    Raises:
        OSError: they cannot be looked for.
    """
    deadline = time.monotonic() + timeout
    answers = at_once(rendezvous.discover(environ), lambda address: _status(address, deadline, timeout))
    return [answer for answer in answers if answer is not None]


def at_once(each: Sequence[Process], do: Callable[[Process], Result]) -> list[Result]:
    """Do something that blocks with every process at the same time; what came of it, in their order."""
    with ThreadPoolExecutor(max_workers=max(1, len(each))) as pool:
        return list(pool.map(do, each))


def _status(address: str, deadline: float, timeout: float) -> Answer | None:
    pid = rendezvous.address_pid(address)
    try:
        words = ask(address, "status", deadline)
    except ForeignError as error:
        return Answer(pid, problem=str(error), foreign=True)
    except TimeoutError:
        return Answer(pid, problem=f"it listens, but did not answer in {timeout:g} s")
    except wire.WireError as error:
        return Answer(pid, problem=f"it is not understood: {one_line(str(error))}")
    except OSError as error:
        # A socket file that a process left behind when it was killed, or one that ended this moment.
        return Answer(pid, problem=error.strerror or str(error)) if is_there(pid) else None
    return Answer(pid, {key: one_line(value) for key, value in words.items()})


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
