"""When every Eureka server shows its callers that an instance was withdrawn: the first cache, seen instead of assumed.

A server answers its callers from a response cache, whose views one timer makes anew, every 30 s by default. In which
moment of these 30 s an instance leaves is seen from one view, the application's own, which is asked for before the
status change and once a second after it. Being wrong would cost requests, and not knowing only time; so a server counts
with its whole interval unless all of this holds:

- The view was asked for *before* the change, and showed the instance UP. The cache only holds views that somebody has
  asked for: one that is first asked for afterwards is made at once, and would show the change before any other does.
- The view showed UP for a while after the change was verified. The timer makes the views one after the other, which
  takes long in a large registry. A change in the midst of such a pass is missed by the views that come before ours in
  it, and they stay as they were for an interval more.
- The change was seen for as long again: by then the other views of the same pass, which callers fetch, are made too.
- No look failed, and the instance was never absent or UP again. A server that was restarted makes each view when it is
  asked for, in whatever state its registry is just then.
- It is one server that answers. Behind a name with several addresses, a proxy or a load balancer, the change and a
  look can reach two. A server says how many peers it has: with more of them than there are other servers configured,
  either there are several behind this address, or callers may be asking one that nobody watches.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio

from graceful.eureka.rest import EurekaError, Status
from graceful.eureka.shown import peers_of, shown_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from graceful.eureka.rest import Server

__all__ = ["CachedView", "Publication"]

logger = logging.getLogger("graceful.eureka")

_FIRST_LOOK: Final = 0.3
"""Seconds for the look before the status change, which waits for it: a server that answers takes a few milliseconds."""

_PASS: Final = 1 / 15
"""The share of its interval that a server may need to make all its views anew: 2 of 30 s. Real servers with a small
registry need milliseconds; one with thousands of instances writes some ten views of several megabytes each."""

_LEAST_PASS: Final = 0.1
_LONGEST_PAUSE: Final = 1.0

_GONE: Final = frozenset({Status.OUT_OF_SERVICE, Status.DOWN})
"""What a view must say in so many words: an instance that is absent may also be one that the server has forgotten."""


class CachedView:
    """What one server's view shows of an instance that is being withdrawn. Pure: instants are arguments.

    Args:
        interval: of the server's cache, in seconds.

    Attributes:
        problem: why the server's whole interval counts, or None.
        published_at: the instant from which on the server shows the change to everybody, or None.
    """

    def __init__(self, interval: float) -> None:
        self.problem: str | None = None
        self.published_at: float | None = None
        self._interval = interval
        self._pass = max(_PASS * interval, _LEAST_PASS)
        self._verified_at: float | None = None
        self._up_at: float | None = None
        self._gone_at: float | None = None

    @property
    def pause(self) -> float:
        """Seconds between two looks, at most: short enough for one within the time that a pass may take."""
        return min(_LONGEST_PAUSE, self._pass / 2)

    @property
    def watched(self) -> bool:
        """Whether it is worth looking: the change is verified, and nothing has gone wrong."""
        return self._verified_at is not None and self.problem is None

    def withdrawn(self, at: float) -> None:
        """The server's registry has the change, and has had it since `at` at the latest."""
        self._verified_at = at

    def give_up(self, problem: str) -> None:
        """Whatever the view shows from now on: it cannot be relied on."""
        self.problem = self.problem or problem
        self.published_at = None

    def looked(self, shown: Status | None, *, sent: float, answered: float) -> None:
        """Take in what the view showed.

        Args:
            shown: the instance's status, None if it is absent.
            sent: when it was asked.
            answered: when the answer was there.
        """
        if self._verified_at is None or self.problem is not None:
            return
        if shown is Status.UP:
            self._still_up(sent, self._verified_at)
        elif shown in _GONE:
            self._gone(sent, answered, self._verified_at)
        else:
            self.give_up(f"its view shows the instance as {shown or 'absent'}")

    def _still_up(self, sent: float, verified_at: float) -> None:
        if self._gone_at is not None:
            self.give_up("its view shows the instance UP again (is this a load balancer?)")
        elif sent - verified_at > self._interval + 2 * self._pass:
            self.give_up(
                f"its view still shows the instance UP after {sent - verified_at:.0f} s: is its response cache slower "
                f"than eureka_server_cache_delay says, which is {self._interval:g} s?"
            )
        self._up_at = sent

    def _gone(self, sent: float, answered: float, verified_at: float) -> None:
        if self._gone_at is not None:
            if self.published_at is None and sent >= self._gone_at + self._pass:
                self.published_at = self._gone_at + self._pass
        elif self._up_at is None or self._up_at < verified_at + self._pass:
            self.give_up("it showed the change at once: other views may come an interval later")
        else:
            self._gone_at = answered


class Publication:
    """Watches every server's view of one instance. All of it runs on one event loop.

    Args:
        servers: every server of the registry.
        app: the application's name.
        instance_id: the instance.
        interval: of the servers' response cache, in seconds; None to watch none of them.
        random: shortens pauses, so that many instances do not look in step.
    """

    def __init__(
        self, servers: Sequence[Server], app: str, instance_id: str, *, interval: float | None, random: Random
    ) -> None:
        self._servers = tuple(servers)
        self._key = (app, instance_id)
        self._interval = interval
        self._random = random
        self._views: dict[Server, CachedView] = {}

    async def look_first(self, server: Server) -> None:
        """Look at a server's view, right before it is told; a server that does not answer is not waited for."""
        if self._interval is None:
            return
        view = self._views[server] = CachedView(self._interval)
        shown: Status | None = None
        with anyio.move_on_after(_FIRST_LOOK) as patience:
            try:
                shown = await shown_by(server, *self._key)
            except EurekaError as error:
                view.give_up(f"the look before the change failed ({error.reason})")
        if patience.cancelled_caught:
            view.give_up(f"the look before the change took more than {_FIRST_LOOK:g} s")
        elif shown is not Status.UP:
            view.give_up(f"its view showed the instance as {shown or 'absent'} before the change")

    def withdrawn(self, server: Server) -> None:
        """The server was just seen to have the change."""
        if (view := self._views.get(server)) is not None:
            view.withdrawn(anyio.current_time())
            if view.problem is not None:
                _report(server, view.problem)

    async def until_published(self) -> float:
        """Wait until every server shows the change to everybody; for ever, if that cannot be told of each for certain.

        Returns:
            The instant of the event loop's clock at which the last of them did.
        """
        if self._interval is None or not await self._can_be_watched():
            await anyio.sleep_forever()
        async with anyio.create_task_group() as tasks:
            for server in self._servers:
                tasks.start_soon(self._watch, server, tasks.cancel_scope)
        return max(self._published())

    def _published(self) -> list[float]:
        return [view.published_at for view in self._views.values() if view.published_at is not None]

    async def _watch(self, server: Server, all_watches: anyio.CancelScope) -> None:
        pause = CachedView(self._interval or 0.0).pause
        while True:
            await anyio.sleep(pause * self._random.uniform(0.75, 1.0))
            # Another one after each new status change.
            view = self._views.get(server)
            if view is not None and view.watched:
                await self._look(server, view)
            # A server is looked at until the last one shows the change: it may show the instance UP again.
            if len(self._published()) == len(self._servers):
                all_watches.cancel()

    async def _look(self, server: Server, view: CachedView) -> None:
        before, sent = view.published_at, anyio.current_time()
        try:
            view.looked(await shown_by(server, *self._key), sent=sent, answered=anyio.current_time())
        except EurekaError as error:
            view.give_up(f"a look failed ({error.reason})")
        if view.problem is not None:
            _report(server, view.problem)
        elif view.published_at != before:
            logger.info("%s shows the change to callers", server.name, extra=_extra(server))

    async def _can_be_watched(self) -> bool:
        problems: dict[Server, str | None] = {}

        async def check(server: Server) -> None:
            problems[server] = await self._problem_of(server)

        async with anyio.create_task_group() as tasks:
            for server in self._servers:
                tasks.start_soon(check, server)
        for server, problem in problems.items():
            if problem is not None:
                _report(server, problem)
        return not any(problems.values())

    async def _problem_of(self, server: Server) -> str | None:
        """Why it cannot be known which server answers, or None."""
        try:
            addresses = await server.addresses()
            if addresses != 1:
                return f"its name has {addresses} addresses" if addresses else "it is reached through a proxy"
            peers, others = await peers_of(server), len(self._servers) - 1
        except EurekaError as error:
            return f"it cannot be told whether it is one server ({error.reason})"
        if peers > others:
            return f"it has {peers} peers, but there are {others} other servers in eureka_url: give all of them there"
        return None


def _report(server: Server, problem: str) -> None:
    logger.info(
        "the wait for the response cache of %s is not shortened: %s", server.name, problem, extra=_extra(server)
    )


def _extra(server: Server) -> dict[str, str]:
    return {"eureka_operation": "watch", "eureka_server": server.name}
