"""Our handlers over the owners' of some signals: put there, handed down through, put back. In the main thread only."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from graceful._displaced import Found
from graceful._ending import end_program
from graceful._owners import Handover, is_loop_handler, is_nobody
from graceful._wakeup import WakeupTap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType

    from graceful._owners import Handler, OwnerAdapter, QueueLibrary

__all__ = ["Layer", "Takeover"]

_FOUND_MAX: Final = 100
"""Displacements kept until somebody looks: enough for all, and no leak where nobody does."""


class Layer:
    """One handler of ours over one owner's.

    Each owner that is displaced gets a layer of its own. So when a server puts back the handler that it found, we know
    by the object which one came back, and with it who owns the signal from then on.

    Attributes:
        takeover: what the layer belongs to.
        owner: the handler that it displaced.
        over_ours: see `Handover`.
        told: whether the owner was handed its signal.
    """

    def __init__(
        self,
        takeover: Takeover,
        owner: Handler,
        *,
        over_ours: bool,
    ) -> None:
        self.takeover = takeover
        self.owner = owner
        self.over_ours = over_ours
        self.told = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.takeover.arrived(self, signum, frame)

    @property
    def __self__(self) -> object:
        """What the owner's handler is bound to: sse-starlette finds the running server by it."""
        bound_to = getattr(self.owner, "__self__", None)
        if bound_to is None:
            raise AttributeError("__self__")
        return bound_to

    def pass_down(self, signum: int, frame: FrameType | None) -> None:
        """Behave as the owner, as if there were no layer."""
        if callable(self.owner):
            self.owner(signum, frame)
        elif self.owner == signal.SIG_DFL and signum != signal.SIGURG:  # SIGURG's default is to be ignored
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)


class Takeover:
    """Some signals, each with our layers over its owners; SIGURG is always one of them.

    Args:
        signals: the signals to take.
        owners: what knows how to hand a signal to one kind of server, asked in this order.
        libraries: whose handlers are not taken over.
        arrived: called when a signal reaches one of our layers, as a signal handler is, with the layer.
    """

    def __init__(
        self,
        signals: Iterable[int],
        owners: Sequence[OwnerAdapter],
        libraries: Sequence[QueueLibrary],
        arrived: Callable[[Layer, int, FrameType | None], None],
    ) -> None:
        self._signals = frozenset(signals)
        self._layers: dict[int, list[Layer]] = {signum: [] for signum in (*self._signals, signal.SIGURG)}
        self._owners = owners
        self._libraries = libraries
        self.arrived = arrived
        self.found: deque[Found] = deque(maxlen=_FOUND_MAX)
        """What stood in the place of ours, oldest first; for another thread to take out."""
        self.tap: WakeupTap | None = WakeupTap()
        """None once everything is put back: its last user closes it."""

    def current(self, signum: int) -> Layer | None:
        """Our layer, where it is the handler in place (any thread)."""
        handler = signal.getsignal(signum)
        return handler if isinstance(handler, Layer) and handler.takeover is self else None

    def ignored(self) -> set[int]:
        """The signals that are not held because they are ignored, but for a SIGINT that was so from the start.

        A shell starts its background jobs with SIGINT ignored: nothing to tell anybody.
        """
        return {
            signum
            for signum in self._signals
            if signal.getsignal(signum) == signal.SIG_IGN and (self._layers[signum] or signum != signal.SIGINT)
        }

    def foreign(self) -> set[int]:
        """The signals that are not held because their handler was not set from Python."""
        return {signum for signum in self._signals if signal.getsignal(signum) is None}

    def is_displaced(self) -> bool:
        """Whether `take` has something to do, as far as another thread can see.

        A tapped loop may set its wake-up descriptor anew at any time, and only the main thread can look.
        """
        lost = any(
            self.current(signum) is None and self._can_be_held(signum, signal.getsignal(signum))
            for signum in self._layers
        )
        return lost or self._loop_is_owner()

    def take(self) -> list[int]:
        """Put our handlers over those in place. The signals that reached a server before that."""
        missed = [signum for signum in self._layers if self._take(signum)]
        if self.tap is not None and self._loop_is_owner():
            self.tap.take()
        return missed

    def put_back(self) -> None:
        """Put the owners' handlers back where ours are in place, and the loop's wake-up descriptor."""
        self._put_back_handlers()
        if self.tap is not None:
            self.tap.give_back(self._signals)
        self.tap = None

    def leave_forked_child(self) -> None:
        """The same in a forked child, where the descriptors are the parent's too."""
        self._put_back_handlers()
        if self.tap is not None:
            self.tap.leave_forked_child()
        self.tap = None

    def hand_over(self, layer: Layer, signum: int, frame: FrameType | None, *, remaining: float) -> None:
        """Give the signal to the owner beneath the layer."""
        owner, layer.told = layer.owner, True
        if is_nobody(owner):
            end_program()
        elif is_loop_handler(owner):
            # What the interpreter does for a real signal. A loop that listens no more is nobody.
            if self.tap is None or not self.tap.send(bytes((signum,))):
                end_program()
            self._tell_displaced_servers(signum, frame, remaining)
        elif callable(owner):
            adapter = self._adapter_of(owner)
            if adapter is None:
                owner(signum, frame)
                self._tell_displaced_servers(signum, frame, remaining)
                return
            adapter.release(
                Handover(signum=signum, handler=owner, frame=frame, remaining=remaining, over_ours=layer.over_ours)
            )

    def _tell_displaced_servers(self, signum: int, frame: FrameType | None, remaining: float) -> None:
        """Hand the signal to a server whose handler somebody replaced, and did not call: it would never stop."""
        for layer in self._layers[signum]:
            if not layer.told and self._adapter_of(layer.owner) is not None:
                self.hand_over(layer, signum, frame, remaining=remaining)

    def ask_owner(self, layer: Layer, ask: Callable[[OwnerAdapter, object], None]) -> None:
        """Ask something of the owner beneath the layer, if it is a known server: of its adapter, and handler."""
        adapter = self._adapter_of(layer.owner)
        if adapter is not None:
            ask(adapter, layer.owner)

    def is_echo(self, frame: FrameType | None) -> bool:
        """Whether a server raises, at its end, a signal again that it has had (see `OwnerAdapter.raises_again`)."""
        return any(adapter.raises_again(frame) for adapter in self._owners)

    def _take(self, signum: int) -> bool:
        """Take one signal, unless it is ours or not to be held; whether it reached its owner before that."""
        owner = signal.getsignal(signum)
        layers = self._layers[signum]
        if self.current(signum) is not None or not self._can_be_held(signum, owner):
            return False
        layer = next((known for known in layers if known.owner == owner), None)
        if layer is None:
            layer = Layer(self, owner, over_ours=bool(layers))
            layers.append(layer)
        adapter = self._adapter_of(owner)
        if layers[1:] and adapter is None and signum in self._signals:
            self.found.append(Found(signum, owner, asyncio._get_running_loop()))  # noqa: SLF001  documented, never raises
        signal.signal(signum, layer)
        return adapter is not None and signum in adapter.missed(owner)

    def _put_back_handlers(self) -> None:
        for signum in self._layers:
            layer = self.current(signum)
            if layer is not None:
                signal.signal(signum, layer.owner)
                if is_loop_handler(layer.owner):
                    signal.siginterrupt(signum, False)  # as the loop had set it

    def _adapter_of(self, owner: Handler) -> OwnerAdapter | None:
        return next((adapter for adapter in self._owners if adapter.owns(owner)), None)

    def _loop_is_owner(self) -> bool:
        layers = (self.current(signum) for signum in self._signals)
        return any(layer is not None and is_loop_handler(layer.owner) for layer in layers)

    def library_of(self, signum: int) -> QueueLibrary | None:
        """The library that has the signal, and keeps it (any thread)."""
        handler = signal.getsignal(signum)
        return next((library for library in self._libraries if library.owns(handler)), None)

    def _can_be_held(self, signum: int, handler: Handler) -> bool:
        """Not what is ignored on purpose, is a library's, or could not be put back because it was set by C code."""
        if handler is None or self.library_of(signum) is not None:
            return False
        return handler != signal.SIG_IGN or signum == signal.SIGURG
