"""How the preStop hook talks to all processes of its container at once: one thread, one poll, one deadline.

Nothing that a process does keeps it longer than that: not one that never answers, that answers a byte at a time, that
is stopped, or whose socket somebody else has taken.
"""

from __future__ import annotations

import select
import socket
import time

from graceful import rendezvous, wire

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Conversation", "Peer"]

# The first two are at most a quarter of the budget each: the rest is needed when nobody answers.
SEARCH_TIMEOUT = 2.5  # for a process to appear: one that is just starting binds its socket soon
ANSWER_TIMEOUT = 5.0  # for a process to say that it begins to leave
SEARCH_DELAY = 0.25  # between two looks for processes, while none has answered
LOOK_DELAY = 2.0  # between two looks after that: a worker that was replaced has to hear of the leave as well
SLACK = 5.0  # beyond the time that a process announced for itself

_ASKED, _REFUSED, _LEAVING, _LEFT, _FAILED, _GONE, _FOREIGN = range(7)


class Peer:
    """A process that was asked to leave.

    Args:
        address: where it listens.
        sock: the connection to it.
        due: the instant until which it is waited for.
    """

    __slots__ = ("answered", "due", "pid", "reader", "sock", "state")

    def __init__(self, address: str, sock: socket.socket, due: float) -> None:
        self.pid = rendezvous.address_pid(address)
        self.sock = sock
        self.reader = wire.LineReader()
        self.state = _ASKED
        self.answered = False  # whether it said that it begins to leave
        self.due = due

    @property
    def is_open(self) -> bool:
        """Whether more is to come."""
        return self.state in {_ASKED, _REFUSED, _LEAVING}


class Conversation:
    """Talks to all processes of the container at once.

    Args:
        started: the instant at which the hook started.
        deadline: the instant at which it ends, whatever the processes say.
        grace: seconds of the grace period, None if not known.
        say: takes the lines for people.
    """

    def __init__(self, started: float, deadline: float, grace: float | None, say: Callable[[str], None]) -> None:
        self._started = started
        self._deadline = deadline
        self._grace = grace
        self._say = say
        self._peers: dict[str, Peer] = {}
        self._poller = select.poll()
        self._cannot_look = False

    @property
    def peers(self) -> list[Peer]:
        """The processes of this container, as far as they were found."""
        return [peer for peer in self._peers.values() if peer.state != _FOREIGN]

    @property
    def answered(self) -> bool:
        """Whether any process said that it begins to leave."""
        return any(peer.answered for peer in self.peers)

    @property
    def clean(self) -> bool:
        """Whether there are processes, and all of them have left as they should."""
        return bool(self.peers) and all(peer.state == _LEFT for peer in self.peers)

    def hold(self, environ: Mapping[str, str]) -> None:
        """Ask every process to leave; return when each has answered in full, or its time is over."""
        search_ends = self._in_time(SEARCH_TIMEOUT)
        look_at = 0.0
        while (now := time.monotonic()) < self._deadline:
            if now >= look_at:
                look_at = now + (LOOK_DELAY if self.answered else SEARCH_DELAY)
                self._ask_new(environ)
            due = [peer.due for peer in self.peers if peer.is_open and peer.due > now]
            if not due and (self.answered or now >= search_ends):
                return
            self._receive(min(look_at, self._deadline, max(due, default=search_ends)) - now)

    def abandon(self) -> None:
        """Have `hold` return soon, from another thread: within `LOOK_DELAY`."""
        self._deadline = 0.0

    def close(self) -> None:
        """Close the connections: to a process that still waits, its hook is gone."""
        for peer in self.peers:
            if peer.sock.fileno() >= 0:
                self._poller.unregister(peer.sock)
                peer.sock.close()

    def _in_time(self, timeout: float) -> float:
        """Return the instant at which a wait for what may never come is over."""
        return time.monotonic() + min(timeout, (self._deadline - self._started) / 4)

    def give_up(self) -> None:
        """Say which processes have not left, after `hold`. They are left alone: what comes next is SIGTERM."""
        for peer in self.peers:
            if peer.is_open and peer.answered:
                elapsed = time.monotonic() - self._started
                self._tell(peer, f"has not left after {elapsed:.1f} s; the hook ends, SIGTERM comes next")
            elif peer.is_open:
                self._tell(peer, "does not answer; SIGTERM is the first that it hears")

    def _ask_new(self, environ: Mapping[str, str]) -> None:
        """Connect to the processes that are not known yet, then have all of them begin at once."""
        new = [peer for address in self._look(environ) if (peer := self._connect(address))]
        for peer in new:
            elapsed = time.monotonic() - self._started
            try:
                peer.sock.send(wire.encode_first("prestop", elapsed=elapsed, grace=self._grace))
            except OSError as error:
                self._end(peer, _GONE, f"cannot be asked to leave: {error.strerror}")

    def _look(self, environ: Mapping[str, str]) -> list[str]:
        try:
            return [address for address in rendezvous.discover(environ) if address not in self._peers]
        except OSError as error:
            if not self._cannot_look:
                self._cannot_look = True
                self._say(f"cannot look for the app: {error}; GRACEFUL_RUNTIME_DIR names a directory to use instead")
            return []

    def _connect(self, address: str) -> Peer | None:
        """Return a process that is connected and of this container; None for one that may be tried again."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(address)
            refused = rendezvous.refuse_peer(sock, trust_all_as_root=True)
        except OSError:  # it has ended, its socket file is stale, or it has too many waiting
            sock.close()
            return None
        peer = self._peers[address] = Peer(address, sock, self._in_time(ANSWER_TIMEOUT))
        self._poller.register(sock, select.POLLIN)
        if refused:
            self._end(peer, _FOREIGN, f"{rendezvous.show_address(address)} is not asked: {refused}")
            return None
        return peer

    def _receive(self, timeout: float) -> None:
        ready = {descriptor for descriptor, _event in self._poller.poll(max(timeout, 0.0) * 1000 + 1)}
        for peer in self.peers:
            if peer.is_open and peer.sock.fileno() in ready:
                self._read(peer)

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(peer, _GONE, "ended before it had answered")
            return
        try:
            for line in peer.reader.feed(data):
                if peer.is_open:
                    self._hear(peer, line)
        except wire.WireError as error:
            self._end(peer, _FAILED, f"is not understood: {error}")

    def _hear(self, peer: Peer, line: bytes) -> None:
        """Take one line of a process."""
        if peer.state == _ASKED:
            verb, values = wire.decode_first(line)
            peer.answered = verb == "leaving"
            peer.state = _LEAVING if peer.answered else _REFUSED
            if peer.answered:
                within = values.get("within")
                peer.due = self._deadline if within is None else time.monotonic() + within + SLACK
                self._tell(
                    peer, "begins to leave" + ("" if within is None else f": the wait takes {within:.1f} s at most")
                )
            return
        kind, text = wire.decode_line(line)
        if kind == "say":
            self._tell(peer, text)
        elif peer.state == _REFUSED:
            self._end(peer, _GONE, f"refused: {text}")
        else:
            self._end(peer, _LEFT if kind == "done" else _FAILED, text)

    def _tell(self, peer: Peer, text: str) -> None:
        """Say something about a process, with its pid where there are several."""
        self._say(f"[{peer.pid}] {text}" if len(self.peers) > 1 else text)

    def _end(self, peer: Peer, state: int, text: str) -> None:
        """Take what a process said last, or what became of it."""
        if peer.sock.fileno() >= 0:
            self._poller.unregister(peer.sock)
            peer.sock.close()
        peer.state = state
        self._tell(peer, text)
