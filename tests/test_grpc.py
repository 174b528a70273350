"""gRPC servers leave in order: clients are told by health and GOAWAY, calls in hand complete, streams are told."""

import asyncio
import threading
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

import graceful
from graceful.core.inflight import InFlight
from graceful.core.phases import Phase
from graceful.servers.grpc import wire_grpc
from graceful.servers.grpc_calls import CallCounter
from graceful.stacks import Job, Worker
from tests.servers.grpc_rows import play
from tests.servers.rows import SLOW


@pytest.mark.parametrize("trigger", ["signal", "hook"])
@pytest.mark.parametrize("kind", ["threads", "aio"])
def test_a_grpc_server_leaves_in_order(kind, trigger):
    """Nobody owns SIGTERM here; every call through the lame duck is served, on fresh channels and on a kept one."""
    row = play(kind, trigger)
    assert set(row.late) == {"OK"}, row.text
    assert row.late["OK"] > 10
    assert row.ends["slow"] == "OK"
    assert row.ends["stream"] == "end"
    assert row.ends["ticks"] == "bye"
    assert row.ends["new"] == "UNAVAILABLE"
    assert row.ends["health"].startswith("NOT_SERVING ")
    assert row.cleaned_up
    assert row.exit_code == 0
    assert "left cleanly" in row.text
    assert "late requests served: 0" not in row.text
    assert row.seconds < SLOW + 3, row.text


class FakeService:
    """In-flight work, and callbacks that the test runs itself."""

    def __init__(self, *, drain_remaining=0.5, phase=Phase.SERVING):
        self.in_flight = InFlight()
        self.phase = phase
        self.drain_remaining = drain_remaining
        self.late = []
        self.callbacks = []
        self.adopted = 0

    def enter(self, *what):
        return self.in_flight.enter((Job, 0.0, what, Worker.found_here()))

    def leave(self, key):
        self.in_flight.leave(key)

    def enter_late(self, caller, route, *, served):
        self.late.append((caller, route, served))

    def add_drain_callback(self, callback):
        self.callbacks.append(callback.function)

    add_lame_duck_callback = add_drain_callback

    def adopt_loop(self):
        self.adopted += 1


def intercept(service, handler, method="/demo.Demo/Call"):
    details = SimpleNamespace(method=method, invocation_metadata=(("user-agent", "grpc-java/1.7 x"),))
    return CallCounter(service).intercept_service(lambda _: handler, details)


def test_a_call_counts_until_its_last_response():
    """Also where the handler is a plain function that hands back an iterator."""
    service = FakeService(phase=Phase.LAME_DUCK)
    handler = grpc.stream_stream_rpc_method_handler(lambda requests, _: map(bytes.upper, requests), bytes.fromhex)
    counted = intercept(service, handler)
    responses = counted.stream_stream([b"a", b"b"], None)
    seen = [(response, len(service.in_flight)) for response in responses]
    assert seen == [(b"A", 1), (b"B", 1)]
    assert len(service.in_flight) == 0
    assert counted.request_deserializer == bytes.fromhex
    assert service.late == [("unknown address (grpc-java/1.7)", "/demo.Demo/Call", True)]


def test_the_health_service_and_unknown_methods_are_left_as_they_are():
    """Probes are no work, and neither late."""
    service = FakeService(phase=Phase.LAME_DUCK)
    check = grpc.unary_unary_rpc_method_handler(lambda *_: b"")
    assert intercept(service, check, "/grpc.health.v1.Health/Check") is check
    assert intercept(service, None) is None
    assert service.late == []


@pytest.mark.parametrize("kind", ["threads", "aio"])
def test_calls_that_had_to_be_cancelled_make_the_leave_unclean(kind):
    """`stop` cancels them silently when its grace is over."""
    service = FakeService(drain_remaining=0.6)

    async def stop_aio(grace):
        await asyncio.sleep(grace)

    stop = stop_aio if kind == "aio" else lambda _: threading.Event()
    wire_grpc(SimpleNamespace(stop=stop, add_generic_rpc_handlers=None), None, service)
    (stopping,) = service.callbacks
    with pytest.raises(TimeoutError, match=r"had not ended after 0\.1s were cancelled"):
        asyncio.run(stopping()) if kind == "aio" else stopping()
    assert service.adopted == (kind == "aio")


def test_what_cannot_be_wired_is_said():
    """Not a server, a servicer of the other kind, and no event loop."""

    async def soon(*_):
        pass

    aio = SimpleNamespace(stop=soon, add_generic_rpc_handlers=None)
    with pytest.raises(TypeError, match="takes a server of grpc"):
        wire_grpc(grpc.unary_unary_rpc_method_handler(None), None, FakeService())
    with pytest.raises(TypeError, match="for a grpc"):
        wire_grpc(aio, SimpleNamespace(enter_graceful_shutdown=lambda: None), FakeService())
    coordinator = graceful.install(enabled=False)
    try:
        with pytest.raises(RuntimeError, match="call it in the event loop it runs in"):
            coordinator.wire_grpc(aio)
    finally:
        coordinator.uninstall()
