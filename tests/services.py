"""A service as the middlewares see it, in the phase that a test says."""

from types import SimpleNamespace
from typing import Any

from graceful.core.inflight import InFlight
from graceful.core.phases import Phase
from graceful.draining import Draining, LongConnection, LongConnections


class FakeService:
    """Its work, its long connections and what it heard are there to look at."""

    def __init__(self, phase=Phase.SERVING):
        self.phase = phase
        self.work = InFlight()
        self.life: Any = SimpleNamespace(lifecycle=self, in_flight=self.work)
        self.not_ready = None
        self.lifespan = []
        self.late = []
        self.draining = Draining()
        self.long_connections = LongConnections()

    def hold_open(self, end, cut):
        return self.long_connections.add(LongConnection(end, cut))

    def let_go(self, key):
        self.long_connections.remove(key)

    def drain(self):
        """Ask every long connection to end."""
        self.phase = Phase.DRAINING
        for each in self.long_connections.all():
            each.end()

    def cut(self):
        for each in self.long_connections.all():
            each.cut()

    def enter_late(self, caller, route, *, served):
        self.late.append((caller, route, served))

    async def reason_not_ready(self):
        return self.not_ready

    def reason_not_ready_in_thread(self):
        return self.not_ready

    def lifespan_begins(self):
        self.lifespan.append("begins")

    def lifespan_started(self):
        self.lifespan.append("started")

    def lifespan_unanswered(self):
        self.lifespan.append("unanswered")

    async def lifespan_ends(self):
        self.lifespan.append("ends")
