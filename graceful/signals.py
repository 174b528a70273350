"""Who owns SIGTERM and SIGINT: hold them, release them to their owner, restore them.

A server stops accepting connections the moment it sees SIGTERM. `SignalHold` stands before it: the signal is noticed,
the server serves on, and sees it when `release` is called. It works without the server's help, with the public
interface of `signal` alone:

1. Our handler is put over the owner's, and writes one byte to a pipe that graceful's own thread reads.
2. Servers take the signals when they start, mostly after us. `watch` polls `signal.getsignal` from that thread, and has
   the main thread, the only one that may, take them back: through a private handler of SIGURG, which is ignored by
   default, so that a stray one harms nobody.
3. A handler set by `loop.add_signal_handler` is only a stand-in, the event loop acts on a byte from its wake-up
   descriptor: that is tapped as well, and all other signals' bytes are passed on.
4. Whoever took a signal after us, and is no server, is named in a warning, by that thread.
5. `release` runs in the main thread too, and hands the signal to the owner that was found last.

This module knows nothing of phases or of what is to be done between the signal and its release.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from graceful._displaced import Displacements
from graceful._ending import in_hook, notice_lost_end
from graceful._forking import inherited
from graceful._owners import Handover, OwnerAdapter, QueueLibrary, runs_in
from graceful._takeover import Layer, Takeover
from graceful._wakeup import Pipe, readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from types import FrameType

    from graceful._wakeup import WakeupTap

__all__ = ["Handover", "OwnerAdapter", "SignalHold"]

logger = logging.getLogger("graceful.signals")

# The poll that notices a server taking its signals: close at first, since servers do it when they start, some of them
# after an application that takes long to import.
_POLL_START_DELAY = 0.05
_POLL_START_PERIOD = 60.0
_POLL_LATER_DELAY = 1.0
# A signal that comes just as the main thread enters a system call, or to another thread, is noted by the interpreter,
# but its handler runs only when the call returns, which may be never. So the main thread is interrupted now and then.
_PROD_PERIOD = 1.0
# After a release a server puts back what it found, and the process ends: a second SIGTERM would find that.
_POLL_RELEASED_DELAY = 0.01
# How long uninstall() in another thread waits for the main thread, which may be inside a long C call.
_UNINSTALL_TIMEOUT = 1.0


class SignalHold:
    """Holds signals back from whoever owns them, until they are released.

    The owner is whoever would have got the signal: a server, `loop.add_signal_handler`, a handler of the user's (set
    before or after us), or nobody. A signal that is ignored (`SIG_IGN`, as under `nohup` or for SIGINT in a shell's
    background job) is respected: it is not held, never received, and releasing it does nothing.

    `install`, `ensure` and `uninstall` are for the main thread; `receive`, `watch` and `release` for the thread that
    runs graceful's own event loop (asyncio). A forked child inherits nothing of it.

    Args:
        owners: what knows how to hand a signal to one kind of server, asked in this order.
        libraries: the queue libraries whose handlers are left alone: their worker gets its signals at once.
        signals: the signals to hold.
    """

    def __init__(
        self,
        *,
        owners: Sequence[OwnerAdapter] = (),
        libraries: Sequence[QueueLibrary] = (),
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self._owners = tuple(owners)
        self._libraries = tuple(libraries)
        self._left_alone: set[str] = set()
        self._signals = frozenset[int](signals)
        self._pid: int | None = None
        self._installed = False
        self._receiving = False
        self._pipe: Pipe | None = None
        self._takeover: Takeover | None = None
        self._released = False
        # Set by a release and at the end: watch() polls faster, or returns. Made anew for each watch().
        self._hurry = asyncio.Event()
        self._reported: set[int] = set()
        # What the main thread is asked to do. A deque, since a handler may interrupt its own thread anywhere.
        self._requests: deque[Callable[[FrameType | None], None]] = deque()
        # While a signal is handed over: until when its owner may take. Read by the layers beneath (see _arrived).
        self._handing_over: dict[int, float] = {}

    @property
    def signals(self) -> frozenset[int]:
        """The signals that are held."""
        return self._signals

    # -- in the main thread ------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Take the signals. What arrives from here on waits in a pipe until `receive` runs. Idempotent.

        Raises:
            RuntimeError: called in another thread than the main one; Python lets no other set signal handlers.
        """
        if self._active:
            return
        if not _in_main_thread():
            raise RuntimeError(
                f"the signals were to be held from thread {threading.current_thread().name!r}, but Python sets signal "
                "handlers in the main thread only: install graceful where the application is imported or created, or "
                "before the server's thread is started"
            )
        self._pipe = Pipe()
        self._takeover = Takeover(self._signals, self._owners, self._libraries, self._arrived)
        self._released = False
        self._reported.clear()
        self._requests.clear()
        self._pid = os.getpid()
        self._installed = True
        inherited.add(self)
        atexit.register(self._leave)
        self.ensure()

    def ensure(self) -> None:
        """Take back at once what somebody took since: for the start-up of a server, ahead of the next poll.

        In another thread than the main one it asks the main thread to, and does not wait for it.
        """
        if not self._active:
            return
        if not _in_main_thread():
            self._interrupt_main_thread()
            return
        if self._takeover is not None:
            for signum in self._takeover.take():
                if signum not in self._reported:
                    self._report(signum)

    def uninstall(self) -> None:
        """Put everything back: handlers where ours is the current one, SIGURG, the wake-up descriptor. Idempotent.

        In another thread than the main one this goes through the main thread and waits at most a second for it. When
        the main thread is busy for longer it follows later; a signal in between goes to its owner all the same.
        """
        if not self._active:
            return
        if _in_main_thread():
            self._put_back()
            return
        done = threading.Event()

        def put_back(_frame: FrameType | None) -> None:
            self._put_back()
            done.set()

        self._installed = False  # first, since nobody interrupts the main thread a second time
        self._requests.append(put_back)
        self._interrupt_main_thread()
        if not done.wait(_UNINSTALL_TIMEOUT):
            logger.warning(
                "the signal handlers are not put back yet: the main thread did not react in %s s", _UNINSTALL_TIMEOUT
            )

    # -- in the thread of graceful's event loop ----------------------------------------------------------------------

    async def receive(self) -> AsyncIterator[int]:
        """The signals as they come, those before this call included; ends after `uninstall`.

        Raises:
            RuntimeError: not installed, or another `receive` is under way.
        """
        pipe = self._pipe
        if pipe is None:
            raise RuntimeError("no signals are held: call install() in the main thread first")
        if self._receiving:
            raise RuntimeError("the signals are being received already: one signal cannot go to two receivers")
        self._receiving = True
        try:
            while (signums := pipe.read()) != b"":
                if signums is None:
                    await readable(pipe.reading)
                    continue
                for signum in signums:
                    yield signum
        finally:
            self._receiving = False

    async def watch(self) -> None:
        """Notice when a server takes the signals, and take them back; pass on what the tapped loop is to see.

        To be run for as long as the signals are held, and after a release too. Ends after `uninstall`.
        """
        takeover = self._takeover
        tap = None if takeover is None else takeover.tap
        if takeover is None or tap is None:
            return
        self._hurry = asyncio.Event()
        if self._released:
            self._hurry.set()
        displacements = Displacements()
        forwarder = asyncio.create_task(self._pass_on(tap), name="graceful-signal-tap")
        try:
            started = prodded = time.monotonic()
            while self._active and not forwarder.done():
                now = time.monotonic()
                self._say_what_is_left_alone(takeover)
                if self._requests or takeover.is_displaced() or now >= prodded + _PROD_PERIOD:
                    self._interrupt_main_thread()
                    prodded = now
                # What a server puts back when it has stopped, and we at the very end, is nobody's business.
                if not self._released:
                    displacements.tell(takeover)
                starting = now < started + _POLL_START_PERIOD
                await self._pause(_POLL_START_DELAY if starting else _POLL_LATER_DELAY)
        finally:
            forwarder.cancel()

    def _say_what_is_left_alone(self, takeover: Takeover) -> None:
        for signum in self._signals:
            library = takeover.library_of(signum)
            if library is not None and library.name not in self._left_alone:
                self._left_alone.add(library.name)
                logger.info(
                    "%s has signal handlers of its own: they are left alone, its worker stops by itself; %s",
                    library.name,
                    library.advice,
                )

    async def _pause(self, delay: float) -> None:
        if self._hurry.is_set():
            await asyncio.sleep(_POLL_RELEASED_DELAY)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hurry.wait()

    async def _pass_on(self, tap: WakeupTap) -> None:
        while tap.pass_on(self._signals):
            await readable(tap.pipe.reading)
        self._hurry.set()

    def release(self, signum: int, *, remaining: float) -> None:
        """Hand the signal to its owner, in the main thread. Returns at once, before the owner has seen it.

        A server begins its shutdown. A handler is called, a loop's callback is started. When nobody owns the signal the
        program ends with `SystemExit(0)`, raised in the main thread: out of the running event loop (never inside a
        coroutine), or from wherever the thread is; threads that are not daemons must end by themselves. Our handler
        stays: a later signal does not reach the owner and comes through `receive` like the first.

        After `uninstall` it does nothing: the owner has the signals.

        Args:
            signum: the signal, held or not received at all.
            remaining: seconds that the owner may take for its own shutdown.
        """
        if not self._active:
            return
        deadline = time.monotonic() + remaining

        def hand_over(frame: FrameType | None) -> None:
            self._release(signum, frame, deadline)

        # From the hook nothing can be raised: watch() has the main thread interrupted once more.
        notice_lost_end(lambda: self._requests.append(hand_over))
        self._requests.append(hand_over)
        self._interrupt_main_thread()
        self._released = True
        self._hurry.set()

    def finish(self) -> None:
        """Everything is done, and nobody is to be released: what comes now must only not change the exit code."""
        self._released = True

    def tell_library(self, signum: int) -> None:
        """Have the worker of a queue library stop, where it has the signal and has not had it yet. Returns at once.

        Its worker fetches until it hears of the leave, and what began that may have been a hook or a call.
        """
        if self._active:
            self._requests.append(lambda frame: self._tell_library(signum, frame))
            self._interrupt_main_thread()

    def stop_accepting(self, signum: int) -> None:
        """Have the owner of a signal, where it is a server that can, close its listener soon, ahead of a `release`."""
        self._ask_owner(signum, lambda server, handler: server.stop_accepting(handler))

    def serve_on(self, signum: int) -> None:
        """Have the owner of a signal, where it is a server that might, not stop by itself before a `release`."""
        self._ask_owner(signum, lambda server, handler: server.serve_on(handler))

    def _ask_owner(self, signum: int, ask: Callable[[OwnerAdapter, object], None]) -> None:
        def ask_in_main_thread(_frame: FrameType | None) -> None:
            layer = None if self._takeover is None else self._takeover.current(signum)
            if layer is not None:
                layer.takeover.ask_owner(layer, ask)

        if self._active:
            self._requests.append(ask_in_main_thread)
            self._interrupt_main_thread()

    # -- the machinery -----------------------------------------------------------------------------------------------

    @property
    def _active(self) -> bool:
        """Whether this process holds the signals: a forked child has the objects, but must not act."""
        return self._installed and self._pid == os.getpid()

    def _report(self, signum: int) -> None:
        self._reported.add(signum)
        if self._pipe is not None:
            self._pipe.write(bytes((signum,)))

    def _arrived(self, layer: Layer, signum: int, frame: FrameType | None) -> None:
        """A signal has reached one of our layers (in the main thread, anywhere in its code)."""
        if signum == signal.SIGURG and self._pid == os.getpid():
            layer.pass_down(signum, frame)
            self._run_requests(frame)
        elif not self._active:
            layer.pass_down(signum, frame)
        elif signum in self._handing_over:
            # The owner's handler called the one that it had found, ours: go on with the owner beneath.
            self._hand_over(layer, signum, frame)
        elif signum in self._reported and layer.takeover.is_echo(frame):
            # The server's own echo of a signal that we know of, after its shutdown. The exit code is 0 without it.
            pass
        else:
            self._report(signum)

    def _run_requests(self, frame: FrameType | None) -> None:
        self.ensure()
        if self._active and in_hook(frame):
            return  # the end of the program would be lost: watch() has the main thread interrupted once more
        while self._requests:
            self._requests.popleft()(frame)

    def _release(self, signum: int, frame: FrameType | None, deadline: float) -> None:
        layer = None if self._takeover is None else self._takeover.current(signum)
        if layer is None:
            self._tell_library(signum, frame)  # its worker may have taken the signal only now
            return
        self._handing_over[signum] = deadline
        try:
            self._hand_over(layer, signum, frame)
        finally:
            self._handing_over.pop(signum, None)

    def _tell_library(self, signum: int, frame: FrameType | None) -> None:
        library = None if self._takeover is None else self._takeover.library_of(signum)
        # Its handler may be running, and have begun the leave, before its worker is marked as stopping.
        if library is not None and not library.is_stopping() and not runs_in(signal.getsignal(signum), frame):
            signal.raise_signal(signum)

    def _hand_over(self, layer: Layer, signum: int, frame: FrameType | None) -> None:
        remaining = max(0.0, self._handing_over[signum] - time.monotonic())
        layer.takeover.hand_over(layer, signum, frame, remaining=remaining)

    def _interrupt_main_thread(self) -> None:
        """Have the main thread run _run_requests soon, whatever it is doing, short of one long C call."""
        if _threads_are_greenlets():
            self._run_requests(None)
            return
        main = threading.main_thread().ident
        takeover = self._takeover
        if takeover is not None and main is not None and takeover.current(signal.SIGURG) is not None:
            signal.pthread_kill(main, signal.SIGURG)

    def _put_back(self) -> None:
        self._installed = False
        if self._takeover is not None and self._pipe is not None:
            self._takeover.put_back()
            self._pipe.close_writing()
        self._forget()

    def _forget(self) -> None:
        # Who still reads from the pipes holds a reference of its own; the last one closes the reading ends.
        self._takeover = self._pipe = None
        inherited.discard(self)
        atexit.unregister(self._leave)

    def _leave(self) -> None:
        """At the interpreter's exit: let a second SIGTERM not change the exit code of a process that obeyed the first.

        The interpreter puts the default action back while it takes itself down, but leaves an ignored signal ignored.
        SIGINT is a person's, who may want out of an exit that hangs.
        """
        if not (self._active and self._released):
            return
        self.ensure()
        for signum in self._signals - {signal.SIGINT}:
            if self._takeover is not None and self._takeover.current(signum) is not None:
                signal.signal(signum, signal.SIG_IGN)

    def leave_forked_child(self) -> None:
        """Undo in a forked child what it inherited; frames of threads that are no more may hold the pipes."""
        self._installed = False
        if self._takeover is not None and self._pipe is not None:
            self._takeover.leave_forked_child()
            self._pipe.close()
        self._forget()
        self._requests.clear()
        self._receiving = False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread() or _threads_are_greenlets()


def _threads_are_greenlets() -> bool:
    """Whether gevent has put greenlets in the threads' place: all of them run in the main thread, whatever they say.

    Nobody has to be interrupted then, and the identifier that the main thread gives for that is none of a thread.
    """
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
