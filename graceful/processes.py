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
from graceful.importing import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

Result = TypeVar("Result")

__all__ = ["Answer", "Conversation", "ForeignError", "ask_status", "at_once", "is_there"]


class ForeignError(Exception):
    """What listens there is not of this container; the message says why."""


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
    addresses = rendezvous.discover(environ)
    deadline = time.monotonic() + timeout
    talks = [Conversation(address, wire.encode_first("status"), deadline) for address in addresses]
    answers = at_once(talks, lambda talk: _status(talk, timeout))
    return [answer for answer in answers if answer is not None]


def at_once(talks: Sequence[Conversation], hold: Callable[[Conversation], Result]) -> list[Result]:
    """Hold every conversation at the same time; what came of each, in their order."""
    with ThreadPoolExecutor(max_workers=max(1, len(talks))) as pool:
        return list(pool.map(hold, talks))


def _status(talk: Conversation, timeout: float) -> Answer | None:
    lines: list[bytes] = []
    try:
        for line in talk.lines():
            lines.append(line)
            if (words := wire.decode_status(lines)) is not None:
                return Answer(talk.pid, {key: one_line(value) for key, value in words.items()})
    except ForeignError as error:
        return Answer(talk.pid, problem=str(error), foreign=True)
    except TimeoutError:
        return Answer(talk.pid, problem=f"it listens, but did not answer in {timeout:g} s")
    except wire.WireError as error:
        return Answer(talk.pid, problem=f"it is not understood: {one_line(str(error))}")
    except OSError as error:
        # A socket file that a process left behind when it was killed, or one that ended this moment.
        return Answer(talk.pid, problem=error.strerror or str(error)) if is_there(talk.pid) else None
    return Answer(talk.pid, problem="it closed the connection before it had answered") if is_there(talk.pid) else None


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
