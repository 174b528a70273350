"""A fence around a user's own `EurekaClient`: what it may still change, and what is on its way."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from graceful.eureka.client import CHANGES, ClientView
from graceful.eureka.status import REPLICATION_DELAY, UNANSWERED_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ClientGuard"]

_LONGEST_CALL: Final = 15.0
"""Seconds after which a call is taken for one that hangs. py_eureka_client gives one server up after 5 s, but two event
loops share its lock, and who waits there may do so for ever."""


class ClientGuard:
    """Stands before the methods of one client that change its registration. Every method is thread-safe.

    The methods are replaced on the object, because its own heartbeat thread calls them through it. Discovery, the
    client's lock and its threads are left alone.

    Once frozen, none of these methods does anything: what is to be done with the registration, graceful does on
    connections of its own, and a `stop()` in a user's teardown has nothing left to do. In a forked child, the parent's
    registration is out of reach from the first moment.

    Args:
        client: the user's own.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.view = ClientView(client)
        """What the client says of itself."""
        self._originals: dict[str, Any] = {}
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._frozen = False
        self._cancelled = False
        self._began: dict[object, float] = {}
        self._arrived_at = -math.inf

    # --- the fence --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Stand before the client, open; for a new life, or in a forked child, anew."""
        self._forget()
        for name in CHANGES:
            if name not in self._originals:
                self._originals[name] = self._client.__dict__.get(name)
                setattr(self._client, name, self._guarded(name, getattr(self._client, name)))

    def freeze(self) -> None:
        """Let nothing pass any more; what is under way comes to its end. Idempotent."""
        with self._lock:
            self._frozen = True

    def detach(self) -> None:
        """Put the client's own methods back, open."""
        self._forget()
        while self._originals:
            name, original = self._originals.popitem()
            if original is not None:
                setattr(self._client, name, original)
            elif name in self._client.__dict__:
                delattr(self._client, name)

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def is_the_parents(self) -> bool:
        """Whether this is a forked child, and the client was started before the fork."""
        return self._pid != os.getpid() and self.view.is_of_another_process

    @property
    def settled(self) -> bool:
        """Whether no call that may make the instance UP is under way."""
        oldest = time.monotonic() - _LONGEST_CALL
        with self._lock:
            return not any(began > oldest for began in self._began.values())

    @property
    def on_its_way(self) -> float:
        """Seconds for which what such calls have sent may still be on its way: to a server, or from one to another."""
        with self._lock:
            return max(0.0, self._arrived_at - time.monotonic())

    # --- the calls --------------------------------------------------------------------------------------------------

    def _guarded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def guarded(*arguments: Any, **options: Any) -> Any:
            if not self._may_pass(name):
                return None
            # A heartbeat by itself makes nothing UP: what it does when it fails is a `register`, counted by itself.
            if name == "send_heartbeat":
                return await original(*arguments, **options)
            with self._counted(name):
                return await original(*arguments, **options)

        return guarded

    def _may_pass(self, name: str) -> bool:
        if self._pid != os.getpid():
            # The lock may have been held by a thread that is gone.
            return not self.is_the_parents
        with self._lock:
            if self._frozen:
                return False
            if name == "cancel":
                self._cancelled = True
            elif name == "register" and not self.view.in_heartbeat_thread:
                self._cancelled = False
            # Its heartbeats cannot be stopped, and would register what was cancelled as UP again.
            return not (self._cancelled and self.view.in_heartbeat_thread)

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        call = object()
        with self._lock:
            self._began[call] = time.monotonic()
        try:
            yield
        finally:
            # Its other methods do not tell whether a server has answered.
            answered = name == "register" and self.view.has_answer
            arrived_at = time.monotonic() + (REPLICATION_DELAY if answered else UNANSWERED_DELAY)
            with self._lock:
                self._began.pop(call, None)
                self._arrived_at = max(self._arrived_at, arrived_at)
