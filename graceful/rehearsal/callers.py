"""Callers that find a service in Eureka and remember what they found, as Spring Cloud's do.

What a caller believes is old by up to three caches: the server's response cache, its own registry fetched now and then,
and the load balancer's list. It goes on calling an instance that has left until the news has come through all three.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from graceful.rehearsal.exchange import Address, Outcome, Pool, Result, request

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["SPRING_DEFAULTS", "Cadence", "Caller", "Callers", "Tally", "up_instances"]

# The routes of the example service, and how often each is asked for.
_ROUTES: Final = {"/orders/1": 80, "/orders/1/invoice": 12, "/orders/export": 8}


@dataclass(frozen=True, slots=True)
class Cadence:
    """How old what a caller believes can be, in seconds: three caches, one behind the other.

    Attributes:
        server_cache: between two refreshes of the Eureka server's response cache.
        fetch: between two fetches of the registry by a caller.
        load_balancer: for how long a load balancer keeps its list of instances.
    """

    server_cache: float
    fetch: float
    load_balancer: float

    @property
    def bound(self) -> float:
        """The longest that news can be under way."""
        return self.server_cache + self.fetch + self.load_balancer

    def scaled(self, factor: float) -> Cadence:
        """The same three, each multiplied by `factor`."""
        return Cadence(self.server_cache * factor, self.fetch * factor, self.load_balancer * factor)


# eureka.server.response-cache-update-interval-ms, eureka.client.registry-fetch-interval-seconds and
# spring.cloud.loadbalancer.cache.ttl, each as it is when nobody sets it.
SPRING_DEFAULTS: Final = Cadence(server_cache=30.0, fetch=30.0, load_balancer=35.0)


@dataclass(slots=True)
class Tally:
    """What became of the requests. `sent` is counted as a request starts, the rest as it ends."""

    sent: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Enter how one request ended."""
        self.outcomes[result.outcome] += 1
        if result.outcome is not Outcome.ANSWERED:
            self.reasons[f"{result.outcome}: {result.reason}"] += 1

    @property
    def answered(self) -> int:
        """Requests answered to the last byte, with less than 500."""
        return self.outcomes[Outcome.ANSWERED]

    @property
    def lost(self) -> int:
        """Requests refused, cut or answered 5xx."""
        return self.outcomes.total() - self.answered


def up_instances(document: bytes, app_name: str) -> tuple[Address, ...]:
    """The addresses of an application's UP instances in Eureka's `GET apps` as JSON.

    Raises:
        ValueError: the document is not what Eureka answers.
    """
    try:
        applications = json.loads(document)["applications"]["application"]
        return tuple(
            (instance["ipAddr"], int(instance["port"]["$"]))
            for application in _listed(applications)
            if application["name"].upper() == app_name.upper()
            for instance in _listed(application["instance"])
            if instance["status"] == "UP"
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no applications in what Eureka answered: {document[:80]!r}") from error


def _listed(one_or_many: Any) -> list[Any]:
    """Some servers write a list of one as the one."""
    return one_or_many if isinstance(one_or_many, list) else [one_or_many]


class Caller:
    """One client process: its own registry, its own load balancer, its own connections."""

    def __init__(self, eureka_url: str, app_name: str, cadence: Cadence, chance: random.Random) -> None:
        parts = urlsplit(eureka_url)
        self._eureka: Address = (parts.hostname or "", parts.port or 80)
        self._path = f"{parts.path.rstrip('/')}/apps"
        self._app_name = app_name
        self._cadence = cadence
        self._chance = chance
        self._fetched: tuple[Address, ...] = ()
        self._balanced: tuple[Address, ...] = ()
        self._balanced_until = 0.0
        self._turn = itertools.count(chance.randrange(1_000))
        self._pools: dict[Address, Pool] = {}

    async def fetch(self) -> bool:
        """Fetch the registry once; what was there stays when that fails, as in Netflix's client."""
        result = await request(self._eureka, self._path)
        if result.outcome is not Outcome.ANSWERED:
            return False
        try:
            self._fetched = up_instances(result.body, self._app_name)
        except ValueError:
            return False
        return True

    async def follow(self) -> None:
        """Fetch now and then, until cancelled. Callers start at different moments, so their phases differ."""
        loop = asyncio.get_running_loop()
        self._balanced = self._fetched
        self._balanced_until = loop.time() + self._chance.uniform(0, self._cadence.load_balancer)
        due = loop.time() + self._chance.uniform(0, self._cadence.fetch)
        while True:
            await asyncio.sleep(due - loop.time())
            due += self._cadence.fetch
            await self.fetch()

    def instances(self, now: float) -> tuple[Address, ...]:
        """What the load balancer chooses from at `now` (the loop's time); an old list is renewed as it is asked."""
        if now >= self._balanced_until:
            self._balanced = self._fetched
            self._balanced_until = now + self._cadence.load_balancer
        return self._balanced

    def knows(self, address: Address) -> bool:
        """Whether a request of this caller may still go to `address`."""
        return address in self._fetched or address in self._balanced

    async def call(self, path: str, *, fresh: bool) -> Result:
        """One request to the next instance in turn: on a connection of its own if `fresh`, else on a kept one."""
        instances = self.instances(asyncio.get_running_loop().time())
        if not instances:
            return Result(Outcome.REFUSED, "no instance known")
        address = instances[next(self._turn) % len(instances)]
        if fresh:
            return await request(address, path)
        return await self._pools.setdefault(address, Pool(address)).request(path)

    def close(self) -> None:
        """Close the kept connections."""
        for pool in self._pools.values():
            pool.close()


class Callers:
    """A crowd of callers that keeps calling between `async with` and its end.

    The rate does not depend on the answers (a slow or dead instance does not slow the crowd down), and every request
    that was started is waited for and counted. Belongs to one event loop.

    Args:
        eureka_url: the server that all of them ask, such as `http://127.0.0.1:8761/eureka`.
        app_name: the application that they call.
        cadence: how old their lists get; the server's own cache is the server's matter.
        count: how many there are.
        rate: requests a second, all of them together.
        fresh: the share of requests that opens a connection of its own.
        seed: makes the mixture repeatable.
    """

    def __init__(
        self,
        eureka_url: str,
        app_name: str,
        cadence: Cadence,
        *,
        count: int = 16,
        rate: float = 300.0,
        fresh: float = 0.25,
        seed: int = 1,
    ) -> None:
        self.tally = Tally()
        self._chance = random.Random(seed)  # noqa: S311  a mixture of requests, not a secret
        self._callers = [
            Caller(eureka_url, app_name, cadence, random.Random(seed + number))  # noqa: S311
            for number in range(1, count + 1)
        ]
        self._interval = count / rate
        self._fresh = fresh
        self._loops: list[asyncio.Task[None]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        fetched = await asyncio.gather(*(caller.fetch() for caller in self._callers))
        if not all(fetched):
            raise ConnectionError("the callers could not fetch the registry: is the Eureka server answering?")
        for caller in self._callers:
            self._loops += [asyncio.create_task(caller.follow()), asyncio.create_task(self._keep_calling(caller))]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send no more, and wait for what was sent, unless the block failed. A caller that broke raises here."""
        broken = [task for task in self._loops if task.done()]
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if kind is not None:
            for call in self._calls:
                call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=kind is not None)
        for caller in self._callers:
            caller.close()
        if kind is None:
            for task in broken:
                task.result()

    def knows(self, addresses: Iterable[Address]) -> set[Address]:
        """Those of `addresses` that at least one caller may still call."""
        return {address for address in addresses if any(caller.knows(address) for caller in self._callers)}

    async def _keep_calling(self, caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._chance.uniform(0, self._interval)
        while True:
            await asyncio.sleep(due - loop.time())
            due += self._interval * self._chance.uniform(0.5, 1.5)
            call = asyncio.create_task(self._call(caller))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _call(self, caller: Caller) -> None:
        (path,) = self._chance.choices(list(_ROUTES), list(_ROUTES.values()))
        self.tally.sent += 1
        self.tally.add(await caller.call(path, fresh=self._chance.random() < self._fresh))
