"""The app's end of the channel to the preStop hook: a Unix socket on which a hook says that the pod is to leave.

The processes of one container ask each other there, too, what they are doing (the verb `status`), and so does
`python -m graceful status`; `python -m graceful drain` has them leave without a hook (`drain`), and
`python -m graceful manifest --pid` asks what the manifest of their pod needs to have (`manifest`).

`serve_control` runs on graceful's own event loop. Whatever arrives on the socket (garbage, a line without an end, a
client that never reads, a process of another container) costs that connection alone. The lines are in `graceful.wire`,
the address and the check of the peer in `graceful.rendezvous`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.abc
from anyio.lowlevel import checkpoint

from graceful import rendezvous, wire
from graceful.listener import close_inherited, listening, owned

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping

__all__ = ["HookSession", "Leaver", "close_inherited", "serve_control"]

_logger = logging.getLogger("graceful.control")

_CONNECTION_LIMIT: Final = 128  # hooks come one or two at a time, and each of many workers may ask; the rest is noise
_READ_TIMEOUT: Final = 5.0  # for the request: it is sent with the connection
_WRITE_TIMEOUT: Final = 5.0  # for one line: it ends in the socket's buffer, unless the client never reads
_ACCEPT_RETRY_DELAY: Final = 0.5  # after accept() failed, when the process has no descriptors left
_CHATTER_LIMIT: Final = 65_536  # bytes after the request, which are read only to see the connection's end


class HookSession(Protocol):
    """One hook, or somebody else, that waits until the app has left.

    Every method runs on the event loop of `serve_control`. Exactly one of `answered` and `lost` is called, unless
    `serve_control` itself is cancelled while the hook waits.
    """

    @property
    def within(self) -> float:
        """Seconds until the answer, at most: when the propagation wait is over, or for `drain` the whole leave."""
        ...

    def messages(self) -> AsyncIterator[str]:
        """Lines for people, as things happen; it ends when the wait is over."""
        ...

    def summary(self) -> tuple[bool, str]:
        """After `messages` has ended: whether all went well, and one line that says what came of it."""
        ...

    def answered(self) -> None:
        """The hook has its answer: what comes next is the platform's SIGTERM."""
        ...

    def lost(self) -> None:
        """The connection broke before the hook was answered: it was killed, or its container's exec was."""
        ...


class Leaver(Protocol):
    """What can be told to leave: the coordinator."""

    def prestop(self, *, elapsed: float, grace: float | None) -> HookSession:
        """Begin to leave, or join a leave that is under way. Called on the event loop; must not block.

        Args:
            elapsed: seconds since the hook started, which is when the platform's grace period began.
            grace: seconds of the grace period as the hook knows it, None when it does not.
        """
        ...

    def drain_by_hand(self, *, pod: bool) -> HookSession:
        """Begin to leave, or join a leave that is under way; no SIGTERM follows. As `prestop`, it must not block.

        Args:
            pod: whether all processes of the container are told.
        """
        ...

    def describe(self) -> Mapping[str, str]:
        """What this process is doing, for its siblings and for people. Called on the event loop; must not block."""
        ...


async def serve_control(
    leaver: Leaver,
    *,
    address: str | None = None,
    manifest: Callable[[], str] | None = None,
    task_status: anyio.abc.TaskStatus[str | None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for the hook until cancelled.

    A process that cannot listen (the address is taken, there is no directory for it) goes on without this channel: that
    is a WARNING, not an error, because SIGTERM begins the same leave.

    Args:
        leaver: what to tell when a hook comes.
        address: where to listen, instead of where the environment says.
        manifest: gives what the pod's manifest needs to have, as JSON; None where nobody is to ask for it.
        task_status: is given the address once connections are accepted, or None when there will be none.
    """
    with contextlib.ExitStack() as resources:
        try:
            address = address or rendezvous.own_address(os.environ)
            sock = resources.enter_context(listening(address)) if address else None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            _logger.warning("no channel for the preStop hook: %s; SIGTERM begins the leave all the same", reason)
            sock = None
        task_status.started(address if sock else None)
        if sock:
            await _Server(leaver, manifest).accept_from(sock)


class _BrokenError(Exception):
    """The connection broke, or the client does not read what it is sent."""


class _Connection:
    """One accepted socket; every wait has a limit, except the one for its end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self) -> bytes:
        """Return what came next, nothing at the end. A reset is an end too."""
        while True:
            await checkpoint()  # a client that floods us must not keep the loop to itself
            try:
                return self._sock.recv(wire.LINE_LIMIT)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
            except OSError:
                return b""

    async def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            _BrokenError: it could not be sent in time, or at all.
        """
        view = memoryview(data)
        with anyio.move_on_after(_WRITE_TIMEOUT):
            while view:
                await checkpoint()
                try:
                    view = view[self._sock.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                except OSError as error:
                    raise _BrokenError(error.strerror) from None
        if view:
            raise _BrokenError(f"the client read nothing for {_WRITE_TIMEOUT:g} s")

    async def request(self) -> tuple[str, dict[str, float | None]] | None:
        """Return verb and values of the request, None if the client went away without one.

        Raises:
            wire.WireError: what came is no request.
            TimeoutError: it did not come in time.
        """
        reader = wire.LineReader()
        with anyio.fail_after(_READ_TIMEOUT):
            while data := await self.receive():
                if lines := reader.feed(data):
                    return wire.decode_first(lines[0])
        return None

    async def ended(self) -> None:
        """Wait until the client has closed its end, or talks so much that it is no hook."""
        chatter = 0
        while chatter < _CHATTER_LIMIT and (data := await self.receive()):
            chatter += len(data)


class _Server:
    """Accepts connections and answers each in a task of its own."""

    def __init__(self, leaver: Leaver, manifest: Callable[[], str] | None = None) -> None:
        self._leaver = leaver
        self._give_manifest = manifest
        self._open = 0
        self._warned = False
        self._verbs = {"prestop": self._prestop, "drain": self._drain, "status": self._status}
        if manifest is not None:
            self._verbs["manifest"] = self._manifest

    async def accept_from(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listener)
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    _logger.debug("a connection could not be accepted: %s", error)
                    await anyio.sleep(_ACCEPT_RETRY_DELAY)
                    continue
                tasks.start_soon(self._serve, sock)

    async def _serve(self, sock: socket.socket) -> None:
        """Answer one connection; nothing that happens on it leaves this function."""
        with owned(sock):
            sock.setblocking(False)
            if not self._admit(sock):
                return
            self._open += 1
            try:
                await self._answer(_Connection(sock))
            except (_BrokenError, TimeoutError) as error:
                _logger.debug("a connection to the hook's channel came to nothing: %s", str(error) or "it said nothing")
            except Exception:
                _logger.exception("answering the preStop hook failed")
            finally:
                self._open -= 1

    def _admit(self, sock: socket.socket) -> bool:
        """Whether to talk to a client at all."""
        try:
            refused = rendezvous.refuse_peer(sock)
        except OSError as error:
            refused = str(error)
        if refused and not self._warned:
            self._warned = True
            _logger.warning("refused a connection to the hook's channel: %s (said once)", refused)
        return not refused and self._open < _CONNECTION_LIMIT

    async def _answer(self, connection: _Connection) -> None:
        try:
            request = await connection.request()
            if request is None:
                return
            verb, values = request
            if verb not in self._verbs:
                raise wire.WireError(f"unknown verb {verb[:80]!r}, expected one of {', '.join(self._verbs)}")  # noqa: TRY301  same answer as for a line that cannot be read
        except wire.WireError as error:
            _logger.debug("a connection to the hook's channel made no sense: %s", error)
            await connection.send(wire.encode_first("refused") + wire.encode_line("failed", str(error)))
        else:
            await self._verbs[verb](connection, values)

    async def _status(self, connection: _Connection, _values: dict[str, float | None]) -> None:
        await connection.send(wire.encode_status(self._leaver.describe()))

    async def _manifest(self, connection: _Connection, _values: dict[str, float | None]) -> None:
        assert self._give_manifest is not None  # noqa: S101  else there is no such verb
        await connection.send(wire.encode_status(wire.encode_long(self._give_manifest()), "manifest"))

    async def _prestop(self, connection: _Connection, values: dict[str, float | None]) -> None:
        """Have the app leave, and keep the hook until the propagation wait is over."""
        elapsed, grace = values.get("elapsed") or 0.0, values.get("grace")
        await self._hold(connection, lambda: self._leaver.prestop(elapsed=elapsed, grace=grace))

    async def _drain(self, connection: _Connection, values: dict[str, float | None]) -> None:
        """Have the app leave, and keep whoever asked until it has, or until they close."""
        await self._hold(connection, lambda: self._leaver.drain_by_hand(pod=bool(values.get("pod"))))

    async def _hold(self, connection: _Connection, begin: Callable[[], HookSession]) -> None:
        try:
            session = begin()
        except Exception:
            await connection.send(wire.encode_first("refused") + wire.encode_line("failed", "the app could not leave"))
            raise
        answered = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_at_end, connection, tasks.cancel_scope)
            with contextlib.suppress(_BrokenError):
                await _relay(connection, session)
                session.answered()  # at once: SIGTERM may be here before any other task has run
                answered = True
            tasks.cancel_scope.cancel()
        if not answered:
            session.lost()


async def _cancel_at_end(connection: _Connection, scope: anyio.CancelScope) -> None:
    """A hook sends nothing after its request: when it closes, it is gone, and what waits for it is cancelled."""
    await connection.ended()
    scope.cancel()


async def _relay(connection: _Connection, session: HookSession) -> None:
    """Send the hook everything that it is to print, the answer last."""
    within = session.within
    await connection.send(wire.encode_first("leaving", within=max(within, 0.0) if math.isfinite(within) else None))
    try:
        async with _closing(session.messages()) as messages:
            async for message in messages:
                await connection.send(wire.encode_line("say", message))
        clean, text = session.summary()
    except _BrokenError:
        raise
    except Exception:
        _logger.exception("answering the preStop hook failed")
        clean, text = False, "the app failed while it left; its log says why"
    await connection.send(wire.encode_line("done" if clean else "failed", text))


@contextlib.asynccontextmanager
async def _closing(messages: AsyncIterator[str]) -> AsyncIterator[AsyncIterator[str]]:
    """End a generator with the connection that it speaks to, and not whenever it is collected."""
    try:
        yield messages
    finally:
        if isinstance(messages, AsyncGenerator):
            await messages.aclose()
