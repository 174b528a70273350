"""Where other services are: asked of Eureka in graceful's own thread, answered from memory in everybody else's.

A service is watched from the first time somebody asks for it: it is fetched at once and then again at an interval, and
what was last known is kept while no server answers. So a request never waits for Eureka but for the very first answer,
and the leave never waits at all: what is on its way is dropped with the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import anyio
from anyio.lowlevel import current_token

from graceful.eureka.backoff import pauses
from graceful.eureka.rest import EurekaError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from graceful.eureka.instances import ServiceInstance
    from graceful.eureka.rest import Server

__all__ = ["Discovery", "DiscoveryError", "NoInstanceError"]

logger = logging.getLogger("graceful.eureka")

_FIRST_ANSWER: Final = 5.0
"""Seconds for the first answer: three servers of which two hang."""

_LOOK: Final = 0.02
"""Seconds between two looks for the first answer in async code: of any event loop, and cancelled with its caller."""

_MOST: Final = 256
"""Services that are watched at most: more than that are no names out of a program, but out of its requests."""


class DiscoveryError(RuntimeError):
    """Nothing is known of a service, which is not the same as that it has no instance."""


class NoInstanceError(DiscoveryError):
    """Eureka knows of no instance of the service that could be called."""


class _Known(NamedTuple):
    instances: tuple[ServiceInstance, ...]
    at: float


@dataclass
class _Watched:
    """A service that somebody has asked for; written by graceful's thread, read by all."""

    name: str
    known: _Known | None = None
    problem: str = ""
    tried: threading.Event = field(default_factory=threading.Event)


class _Thread(Protocol):
    """graceful's own thread."""

    @property
    def running(self) -> bool: ...
    def call_soon(self, function: Callable[[], object]) -> None: ...


class Discovery:
    """Looks other services up in Eureka. Every method may be called from any thread and any event loop.

    Args:
        make_servers: gives the servers to ask; the first that answers is asked first from then on.
        thread: where `run` runs.
        interval: seconds between two fetches of a service.
        zone: the caller's own, whose instances are called first; empty if it is not known.
        starts: what `install()` starts in this process, for errors.
        random: spreads the calls.
    """

    def __init__(
        self,
        make_servers: Callable[[], Sequence[Server]],
        thread: _Thread,
        *,
        interval: float = 30.0,
        zone: str = "",
        starts: str = "",
        random: Random | None = None,
    ) -> None:
        self._make_servers = make_servers
        self._thread = thread
        self._interval = interval
        self._zone = zone
        self._starts = starts
        self._random = random or Random()  # noqa: S311 - which instance is called is no secret
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._asked: anyio.Event | None = None
        self._servers: list[Server] = []

    # For users

    def instances(self, name: str, *, timeout: float = _FIRST_ANSWER) -> tuple[ServiceInstance, ...]:
        """The instances of a service that are UP, as Eureka said last; empty if it said that there is none.

        From memory. The first time that a service is asked for there is nothing in memory yet: in a thread the call
        waits for the first answer; in an event loop, which must not be blocked, it raises (`await fetch(name)` first).

        Args:
            name: the service's name in Eureka, in upper or lower case.
            timeout: upper bound of that first wait in seconds.

        Raises:
            DiscoveryError: nothing is known of the service: no Eureka server has answered yet, or nobody asks them.
            ValueError: the name is empty.
        """
        watched = self._watch(name)
        if not watched.tried.is_set() and _in_event_loop():
            raise DiscoveryError(
                f"nothing is known of {name!r} yet, and an event loop must not wait for Eureka: "
                f"await coordinator.eureka.fetch({name!r}) first, at the start-up for example"
            )
        watched.tried.wait(timeout)
        return _told(watched, timeout)

    async def fetch(self, name: str, *, timeout: float = _FIRST_ANSWER) -> tuple[ServiceInstance, ...]:  # noqa: ASYNC109 - as in instances
        """As `instances`, for async code: waits for the first answer where there is none yet. Asyncio and trio.

        Args:
            name: the service's name in Eureka, in upper or lower case.
            timeout: upper bound of that first wait in seconds.

        Raises:
            DiscoveryError: nothing is known of the service: no Eureka server has answered yet, or nobody asks them.
            ValueError: the name is empty.
        """
        watched = self._watch(name)
        with anyio.move_on_after(timeout):
            while not watched.tried.is_set():  # noqa: ASYNC110 - it is set by another thread
                await anyio.sleep(_LOOK)
        return _told(watched, timeout)

    def base_url(self, name: str, *, exclude: Collection[str] = ()) -> str:
        """Where to call a service: one of its instances at random, of the own zone if there is one.

        Args:
            name: the service's name in Eureka, in upper or lower case.
            exclude: base URLs that are not to be given: those that were tried already.

        Returns:
            Scheme, host and port: `http://10.0.3.7:8080`.

        Raises:
            NoInstanceError: no instance is UP, or all that are are excluded.
            DiscoveryError: as `instances`.
            ValueError: the name is empty.
        """
        up = self.instances(name)
        left = [each for each in up if each.base_url not in exclude]
        if not left:
            which = f"all {len(up)} that are UP are excluded" if up else "none is UP in Eureka"
            raise NoInstanceError(f"no instance of {name!r} to call: {which} (as of {self.age(name) or 0:.0f} s ago)")
        near = [each for each in left if each.zone and each.zone == self._zone]
        return self._random.choice(near or left).base_url

    def age(self, name: str) -> float | None:
        """Seconds since Eureka last told of a service; None if it never did. More than the interval: it is down."""
        with self._lock:
            watched = self._watched.get(name.upper())
        known = watched.known if watched else None
        return time.monotonic() - known.at if known else None

    def _watch(self, name: str) -> _Watched:
        """What is known of a service, which is fetched from now on if it was not.

        Raises:
            DiscoveryError: nothing is known of it, and nothing will be.
        """
        if not name:
            raise ValueError("the name is empty: give the one under which the service is registered in Eureka")
        with self._lock:
            watched = self._watched.get(name.upper())
            if watched is None:
                if len(self._watched) >= _MOST:
                    raise DiscoveryError(
                        f"{_MOST} services are watched already: are names like {name!r} made of what requests contain?"
                    )
                watched = self._watched[name.upper()] = _Watched(name)
                self._thread.call_soon(self._notify)
        if watched.known is None and not self._thread.running:
            raise DiscoveryError(
                f"nothing is known of {name!r}: graceful's thread does not run in this process, so Eureka is not asked "
                f"(install() starts {self._starts})"
            )
        return watched

    # In graceful's own thread

    async def run(self) -> None:
        """Fetch what is asked for, and keep it fresh, until cancelled."""
        self._servers = list(self._make_servers())
        begun: set[str] = set()
        async with anyio.create_task_group() as tasks:
            while True:
                # Before the look at the names: one that is added after it sets this event.
                self._asked = anyio.Event()
                with self._lock:
                    new = [(key, watched) for key, watched in self._watched.items() if key not in begun]
                for key, watched in new:
                    begun.add(key)
                    tasks.start_soon(self._keep_fresh, key, watched)
                await self._asked.wait()

    def reset_after_fork(self) -> None:
        """In a forked child: nobody keeps the parent's knowledge fresh here, and it may have held the lock."""
        self._lock = threading.Lock()
        self._watched = {key: _Watched(watched.name) for key, watched in self._watched.items()}
        # The workers of one parent must not all call the same instances in the same order.
        self._random.seed()

    def _notify(self) -> None:
        if self._asked is not None:
            self._asked.set()

    async def _keep_fresh(self, key: str, watched: _Watched) -> None:
        waits = self._retries()
        while True:
            try:
                watched.known = _Known(await self._fetch(key), time.monotonic())
            except DiscoveryError as error:
                self._report_outage(watched, str(error))
                pause = next(waits)
            else:
                self._report_recovery(watched)
                waits, pause = self._retries(), self._interval
            watched.tried.set()
            await anyio.sleep(pause)

    async def _fetch(self, key: str) -> tuple[ServiceInstance, ...]:
        """What the first server that answers says."""
        failures: list[str] = []
        for server in tuple(self._servers):
            try:
                found = await server.instances(key)
            except EurekaError as error:
                failures.append(str(error))
            else:
                self._servers.remove(server)
                self._servers.insert(0, server)
                return found
        raise DiscoveryError("; ".join(failures))

    def _retries(self) -> Iterator[float]:
        return pauses(self._random, first=0.5, ceiling=self._interval)

    def _report_outage(self, watched: _Watched, problem: str) -> None:
        if not watched.problem:
            kept = "what it said last is kept" if watched.known else "nothing is known"
            logger.warning("no Eureka server tells of %s, %s, retrying: %s", watched.name, kept, problem, extra=_EXTRA)
        watched.problem = problem

    def _report_recovery(self, watched: _Watched) -> None:
        if watched.problem:
            # As loud as the line that said it was gone.
            logger.warning("Eureka tells of %s again", watched.name, extra=_EXTRA)
        watched.problem = ""


_EXTRA: Final = {"eureka_operation": "fetch"}


def _told(watched: _Watched, timeout: float) -> tuple[ServiceInstance, ...]:
    known = watched.known
    if known is None:
        why = watched.problem or f"no Eureka server has answered within {timeout:g} s"
        raise DiscoveryError(f"nothing is known of {watched.name!r} yet, asking goes on: {why}")
    return known.instances


def _in_event_loop() -> bool:
    try:
        current_token()
    except RuntimeError:  # anyio's NoEventLoopError is one, and so is what asyncio says in a thread of `to_thread`
        return False
    return True
