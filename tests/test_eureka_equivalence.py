"""The embedded and the real Eureka answer the same to any sequence of operations, not only to those we thought of."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.eureka_caller import LEFT_OUT, Caller

if TYPE_CHECKING:
    import httpx

    from tests.eureka_servers import EurekaServers, RunningEureka

STATUSES = ["UP", "OUT_OF_SERVICE", "DOWN", "STARTING", "UNKNOWN"]
# What may differ between two servers that agree: their clocks' readings.
INSTANTS = ("lastUpdatedTimestamp", "leaseInfo")

# Two apps share two instance ids, because an override knows the id alone.
places = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]))
statuses = st.sampled_from([*STATUSES, "NONSENSE"])
dirt = st.sampled_from(["1000", "2000", "3000"])
# Who says so: a client, or another server.
peers = st.booleans()


class TwoServers(RuleBasedStateMachine):
    """Sends every operation to both servers and compares the answers, and what can be read afterwards."""

    embedded_url: str
    real_url: str

    def __init__(self) -> None:
        super().__init__()
        name = uuid4().hex[:12]
        self.servers = [
            {app: Caller(url, f"{name}-{app}") for app in "ab"} for url in (self.embedded_url, self.real_url)
        ]
        self.ids = {number: f"{name}-{number}" for number in "12"}
        self.touched: tuple[str, str] = ("a", "1")

    def teardown(self) -> None:
        for callers in self.servers:
            for caller in callers.values():
                with closing(caller.http):
                    for caller.id in self.ids.values():
                        caller.cancel()

    def both(self, place: tuple[str, str], method: str, *arguments: Any, peer: bool = False, **options: Any) -> None:
        """Call the method on both servers' callers and compare the status codes."""
        self.touched = place
        app, number = place
        codes = []
        for callers in self.servers:
            callers[app].id = self.ids[number]
            caller = callers[app].as_peer() if peer else callers[app]
            answer: httpx.Response = getattr(caller, method)(*arguments, **options)
            codes.append(answer.status_code)
        assert codes[0] == codes[1], f"{method} {arguments} {options}: embedded {codes[0]}, real {codes[1]}"

    @rule(place=places, status=statuses, overridden=st.sampled_from([*STATUSES, LEFT_OUT]), dirty=dirt, peer=peers)
    def register(self, place: tuple[str, str], status: str, overridden: object, dirty: str, peer: bool) -> None:
        self.both(place, "register", status=status, overriddenstatus=overridden, lastDirtyTimestamp=dirty, peer=peer)

    @rule(place=places, overridden=statuses, dirty=dirt, peer=peers)
    def heartbeat(self, place: tuple[str, str], overridden: str, dirty: str, peer: bool) -> None:
        self.both(place, "heartbeat", overriddenstatus=overridden, lastDirtyTimestamp=dirty, peer=peer)

    @rule(place=places, value=statuses, dirty=dirt | st.none(), peer=peers)
    def override(self, place: tuple[str, str], value: str, dirty: str | None, peer: bool) -> None:
        self.both(place, "override", value, lastDirtyTimestamp=dirty, peer=peer)

    @rule(place=places, value=statuses | st.none(), dirty=dirt | st.none())
    def clear_override(self, place: tuple[str, str], value: str | None, dirty: str | None) -> None:
        self.both(place, "clear_override", value, lastDirtyTimestamp=dirty)

    @rule(place=places)
    def cancel(self, place: tuple[str, str]) -> None:
        self.both(place, "cancel")

    @invariant()
    def both_show_the_same(self) -> None:
        app, number = self.touched
        seen = [callers[app].read(self.ids[number]) for callers in self.servers]
        embedded, real = (fields and fields | dict.fromkeys(INSTANTS) for fields in seen)
        assert embedded == real


@pytest.mark.timeout(120)
def test_any_sequence_of_operations(
    eureka_servers: EurekaServers, real_eureka: RunningEureka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status codes and instances are the same after every step."""
    monkeypatch.setattr(TwoServers, "embedded_url", eureka_servers.get("embedded").url, raising=False)
    monkeypatch.setattr(TwoServers, "real_url", real_eureka.url, raising=False)
    run_state_machine_as_test(
        TwoServers,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,  # a step is four requests, and the machine may be busy
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
