"""File descriptors that signal handlers write to: our own pipe, and a tap on the event loop's wake-up descriptor.

Everything here is async-signal careful in Python's sense: no logging, nothing that waits. Descriptors are
owned by objects that close them when the last user lets go, so that no thread ever writes to a number that the
operating system has given to another file in the meantime.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

__all__ = ["Pipe", "WakeupTap", "readable"]

_READ_SIZE = 512


class _Descriptor:
    """One file descriptor, closed when nobody refers to it any more."""

    __slots__ = ("_close", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        # Kept here because `os` may already be emptied when the last reference goes at interpreter exit.
        self._close: Callable[[int], None] = os.close

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        number, self.number = self.number, -1
        if number != -1:
            self._close(number)

    def write(self, data: bytes) -> bool:
        """Write without waiting; False when nobody reads any more or the buffer is full."""
        try:
            os.write(self.number, data)
        except OSError:
            return False
        return True


class Pipe:
    """A non-blocking pipe that child programs do not inherit; one byte is one message.

    The writing end is the signal handler's, the reading end is the event loop's. A full pipe drops what is written:
    it holds tens of thousands of unread signals by then.
    """

    def __init__(self) -> None:
        reading, writing = os.pipe()  # close-on-exec (PEP 446)
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._reading = _Descriptor(reading)
        self._writing: _Descriptor | None = _Descriptor(writing)

    @property
    def reading(self) -> int:
        """The descriptor to poll for input."""
        return self._reading.number

    @property
    def writing(self) -> int:
        """The descriptor to write to; -1 after `close_writing`."""
        return -1 if self._writing is None else self._writing.number

    def write(self, data: bytes) -> bool:
        """Write without waiting; False when the pipe is closed or full."""
        writing = self._writing
        return writing is not None and writing.write(data)

    def read(self) -> bytes | None:
        """What is there, without waiting: None when there is nothing yet, `b""` when the writing end is closed."""
        try:
            return os.read(self._reading.number, _READ_SIZE)
        except BlockingIOError:
            return None

    def close_writing(self) -> None:
        """Close the writing end; the reading end goes with the last reference to the pipe."""
        self._writing = None

    def close(self) -> None:
        """Close both ends at once: in a forked child, where nobody reads or writes any more."""
        self._writing = None
        self._reading.close()


class WakeupTap:
    """Stands between the interpreter and an event loop's wake-up descriptor (`signal.set_wakeup_fd`).

    `loop.add_signal_handler` callbacks are started by a byte that the interpreter writes to that descriptor, whatever
    Python-level handler is in place: replacing the handler holds nothing. With the tap in place the byte comes to us
    first, and `pass_on` decides what the loop gets to see.

    `take` and `give_back` belong to the main thread, `pass_on` to the thread that polls `pipe`.
    """

    def __init__(self) -> None:
        self.pipe = Pipe()
        """What the interpreter writes to while the tap is in place."""
        self._loop_number = -1
        # A duplicate, so that the loop's own descriptor may be closed, and its number reused, at any moment.
        self._loop: _Descriptor | None = None
        # No byte is to be read between the change of the descriptor and the knowledge where it belongs. Reentrant,
        # since a signal handler may run into the main thread's own change; never held while waiting.
        self._lock = threading.RLock()

    def take(self) -> None:
        """Put the tap before whatever wake-up descriptor is set now; with none set there is nothing to tap.

        To be repeated: uvloop sets its own at each `run_forever`, asyncio at each `add_signal_handler`.
        """
        with self._lock:
            found = signal.set_wakeup_fd(self.pipe.writing, warn_on_full_buffer=False)
            if found == -1:
                # Left in place it would be found, and later put back as its own, by the next loop that starts.
                signal.set_wakeup_fd(-1)
                self._loop, self._loop_number = None, -1
            elif found != self.pipe.writing:
                self._loop, self._loop_number = _Descriptor(os.dup(found)), found

    def give_back(self, held: Container[int]) -> None:
        """Put the loop's descriptor back, if the tap is still in place, pass on what is left, and close the tap."""
        with self._lock:
            self._restore()
            self.pass_on(held)
            self._loop, self._loop_number = None, -1
            self.pipe.close_writing()

    def leave_forked_child(self) -> None:
        """Put the loop's descriptor back in a forked child, whose pipe is the parent's: nothing is read from it."""
        self._lock = threading.RLock()  # the old one may be held by a thread that is no more
        self._restore()
        self.pipe.close()

    def pass_on(self, held: Container[int]) -> bool:
        """Hand every byte that came to the loop, the held signals' as 0; False when no more will come.

        A zero wakes the loop and means nothing to it (asyncio and uvloop skip it). Without the wake-up uvloop would
        sleep on, and the Python-level handler of the held signal would not run.
        """
        with self._lock:
            data = self.pipe.read()
            if data:
                self.send(bytes(0 if signum in held else signum for signum in data))
        return data != b""

    def send(self, data: bytes) -> bool:
        """Write to the loop as the interpreter would; False when no loop listens."""
        loop = self._loop
        return loop is not None and loop.write(data)

    def _restore(self) -> None:
        found = signal.set_wakeup_fd(-1)
        if found == self.pipe.writing:
            found = self._loop_number if self._loop_is_alive() else -1
        if found != -1:
            signal.set_wakeup_fd(found)

    def _loop_is_alive(self) -> bool:
        """Whether the loop's descriptor is still the file that was tapped, and not closed or reused since."""
        if self._loop is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._loop_number), os.fstat(self._loop.number))
        except OSError:
            return False


async def readable(descriptor: int) -> None:
    """Wait in an asyncio event loop until there is something to read, or the other end is closed."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
