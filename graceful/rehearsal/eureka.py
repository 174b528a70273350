"""An embedded Eureka: a small registry that answers as Spring Cloud Eureka Server does, for rehearsals and tests.

In a test, `with EmbeddedEureka(cache_interval=1.0) as eureka` runs it in a thread. As a process of its own it is
`python -m graceful.rehearsal.eureka`; see [`main`][graceful.rehearsal.eureka_command.main].
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING, Self, TypedDict
from urllib.parse import quote

from graceful.rehearsal.eureka_faults import Fault, FaultPlan, ReceivedRequest, RequestLog
from graceful.rehearsal.eureka_http import CONTEXT_PATH
from graceful.rehearsal.eureka_rest import Node
from graceful.rehearsal.eureka_thread import ServerThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Unpack

    from graceful.rehearsal.eureka_changes import Change
    from graceful.rehearsal.eureka_messages import Answer, Request

__all__ = ["EVICTION_INTERVAL", "EmbeddedEureka"]

# Spring Cloud Eureka's default, as is 30 s for the cache.
EVICTION_INTERVAL = 60.0


class When(TypedDict, total=False):
    """Which requests a fault is for; see [`Fault`][graceful.rehearsal.eureka_faults.Fault]."""

    method: str
    path: str
    count: int
    for_seconds: float


class EmbeddedEureka:
    """A Eureka server in a thread of this process, from `with` to the end of its block. It forgets all when it ends.

    Its methods are thread-safe.

    Args:
        cache_interval: seconds between refreshes of the cached views (Eureka's default is 30); 0 for no such cache.
        eviction_interval: seconds between evictions of expired leases.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        user: asks for basic auth with this user and `password`.
        password: see `user`.
        csrf: refuses every change with 401, as a server does where Spring Security's CSRF protection was left on;
            reading works. Needs `user`.
        on_change: called with every change that a client has made, in the server's thread; it must not block. An
            [`EmbeddedEurekaCluster`][graceful.rehearsal.eureka_cluster.EmbeddedEurekaCluster] passes them on.
        peers: gives the URLs of the peers, for the status page.

    Raises:
        ValueError: an interval is negative, only one of user and password is given, or `csrf` without them.
        OSError: the address is in use or not of this machine.
    """

    def __init__(
        self,
        *,
        cache_interval: float = 30.0,
        eviction_interval: float = EVICTION_INTERVAL,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        csrf: bool = False,
        on_change: Callable[[Change], None] = lambda _change: None,
        peers: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        if cache_interval < 0 or eviction_interval <= 0:
            raise ValueError(
                f"cache interval {cache_interval:g} s, eviction interval {eviction_interval:g} s: "
                "the first must be 0 or more, the second more than 0"
            )
        if (user is None) != (password is None):
            raise ValueError("basic auth needs a user and a password: give both or none")
        if csrf and user is None:
            raise ValueError("CSRF protection comes with basic auth: give user and password, too")
        self.cache_interval = cache_interval
        self._eviction_interval = eviction_interval
        self._address = (host, port)
        self._credentials = None if user is None else (user, str(password))
        self._csrf = csrf
        self._on_change = on_change
        self._peers = peers
        self._faults = FaultPlan()
        self._log = RequestLog()
        self._running: ServerThread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What clients are given: the URL with the context path, credentials inside."""
        if self._credentials is None:
            return self.address
        user, password = (quote(part, safe="") for part in self._credentials)
        return self.address.replace("://", f"://{user}:{password}@", 1)

    @property
    def address(self) -> str:
        """The URL without credentials."""
        host, port = self._address
        return f"http://{host}:{port}{CONTEXT_PATH}"

    def start(self) -> None:
        """Listen, with an empty registry. After a `stop` it listens on the same port again, like a restarted server.

        Raises:
            RuntimeError: it runs already, or does not come up within 10 s.
        """
        if self._running is not None:
            raise RuntimeError(f"the embedded Eureka at {self.address} runs already: stop it first")
        listener = socket.create_server(self._address)
        # asyncio does this only for sockets that name their protocol, and create_server's do not: without it every
        # answer with a body waits 40 ms for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address = listener.getsockname()[:2]
        node = Node(
            cache_interval=self.cache_interval,
            eviction_interval=self._eviction_interval,
            now=time.time(),
            on_change=self._on_change,
            peers=self._peers,
        )
        running = ServerThread(listener, node, self._faults, self._log, self._credentials, csrf=self._csrf)
        running.launch()
        self._running = running

    def stop(self) -> None:
        """Close every connection and end. Does nothing when it does not run.

        Raises:
            RuntimeError: the thread has not ended within 10 s.
        """
        running, self._running = self._running, None
        if running is not None:
            running.shut_down()

    def replicate(self, request: Request) -> Answer | None:
        """Take a change from a peer, as a request that says it is one; None when this server does not run."""
        running = self._running
        return None if running is None else running.application.ask(request)

    def adopt(self, body: bytes) -> None:
        """Take over the instance of a peer's answer 409: it knows more of it."""
        running = self._running
        if running is not None:
            running.application.adopt(body)

    def fail(self, status: int = 503, **when: Unpack[When]) -> None:
        """Answer with this status, and change nothing."""
        self._faults.add(Fault("fail", status=status, **when))

    def hang(self, **when: Unpack[When]) -> None:
        """Never answer, and change nothing."""
        self._faults.add(Fault("hang", **when))

    def delay(self, seconds: float, **when: Unpack[When]) -> None:
        """Wait before answering as usual."""
        self._faults.add(Fault("delay", seconds=seconds, **when))

    def reset(self, **when: Unpack[When]) -> None:
        """Break the connection with a TCP reset, and change nothing."""
        self._faults.add(Fault("reset", **when))

    def redirect(self, location: str = "/login", **when: Unpack[When]) -> None:
        """Answer 302, and change nothing."""
        self._faults.add(Fault("redirect", location=location, **when))

    def clear_faults(self) -> None:
        """Behave well again, for new requests."""
        self._faults.clear()

    def requests(self, method: str | None = None, path: str | None = None) -> list[ReceivedRequest]:
        """What was received, faults included, in order.

        Args:
            method: only requests with this method.
            path: only requests whose decoded path contains this regular expression.
        """
        return self._log.matching(method, path)

    def wait_for_requests(
        self, method: str | None = None, path: str | None = None, *, count: int = 1, timeout: float = 10.0
    ) -> list[ReceivedRequest]:
        """Wait until `count` such requests have been received since the last `forget_requests`, and return them.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        return self._log.wait_for(method, path, count, timeout)

    def forget_requests(self) -> None:
        """Empty the log of received requests."""
        self._log.clear()


if __name__ == "__main__":
    from graceful.rehearsal.eureka_command import main

    sys.exit(main())
