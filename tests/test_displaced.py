"""Who took a signal after us is named once, and where nothing is wrong nothing is said."""

import asyncio
import functools
import logging
import os
import signal
import types
from asyncio import unix_events
from typing import Any

import pytest
import uvloop

from graceful._displaced import Displacements, Found, name_of
from graceful._takeover import Takeover
from graceful.servers.uvicorn import UvicornOwner
from graceful.signals import SignalHold
from tests.children import child, free_port

TERM, INT = signal.SIGTERM, signal.SIGINT


class Shop:
    def stop(self, *_):
        """What an application does."""

    def __call__(self, *_):
        """As an object."""


def from_module(module):
    def stop(*_):
        """A function of another module."""

    stop.__module__, stop.__qualname__ = module, "stop"
    return stop


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (Shop().stop, f"{__name__}.Shop.stop"),
        (Shop(), f"{__name__}.Shop"),
        (functools.partial(functools.partial(Shop().stop, 1), 2), f"{__name__}.Shop.stop"),
        (from_module("shop.main"), "shop.main.stop"),
        (from_module(None), "builtins.stop"),
        (asyncio.Event().set, "asyncio.locks.Event.set"),
        (print, "builtins.print"),
    ],
)
def test_a_handler_is_named_by_module_and_function(handler, name):
    """Whatever it is that can be called."""
    assert name_of(handler) == name


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_one_warning_names_every_signal_and_comes_once(caplog):
    """Also where the handler is set again and again."""
    displacements, stop = Displacements(), Shop().stop
    displacements.tell_found([Found(TERM, stop, None), Found(INT, stop, None)])
    displacements.tell_found([Found(TERM, stop, None)])
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"{__name__}.Shop.stop (signal.signal) took SIGINT and SIGTERM after install()")
    displacements.tell_found([Found(TERM, from_module("shop.main"), None)])
    assert len(warnings_of(caplog)) == 2


@pytest.mark.parametrize(
    "owner",
    [
        signal.SIG_DFL,
        signal.default_int_handler,
        from_module("hypercorn.asyncio.run"),
        from_module("granian.asgi"),
        from_module("gunicorn.workers.gasgi"),
        from_module("aiohttp.web_runner"),
        from_module("trio._core._ki"),
        from_module("sse_starlette.sse"),
    ],
)
def test_of_a_servers_own_start_nothing_is_said(owner, caplog):
    """Nor of a default that is put back."""
    Displacements().tell_found([Found(TERM, owner, None)])
    assert not warnings_of(caplog)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("known", [True, False])
def test_the_callback_behind_a_loops_stand_in_is_named(new_loop, known, caplog):
    """1. A loop handler takes SIGTERM. 2. The loop is asked for what it is. 3. A server's own is expected."""

    async def take():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(INT, from_module("aiohttp.web_runner"))
        loop.add_signal_handler(TERM, from_module("aiohttp.web_runner" if known else "shop.main"), 1)
        hold.ensure()
        assert hold._takeover is not None
        Displacements().tell(hold._takeover)

    hold = SignalHold()
    hold.install()
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(take())
    finally:
        hold.uninstall()
    told = [warning.partition(" after")[0] for warning in warnings_of(caplog)]
    assert told == ([] if known else ["shop.main.stop (loop.add_signal_handler) took SIGTERM"])


def test_a_loop_that_shows_nothing_is_named_as_such(caplog):
    """No loop ran when it was found, or another version hides its callbacks."""
    noop = unix_events._sighandler_noop  # type: ignore[attr-defined]  # it is private
    silent: Any = types.SimpleNamespace(_signal_handlers={})
    Displacements().tell_found([Found(TERM, noop, None)])
    Displacements().tell_found([Found(TERM, noop, silent)])
    assert [warning.partition(" took")[0] for warning in warnings_of(caplog)] == [
        "an event loop's add_signal_handler",
        "an event loop's add_signal_handler",
    ]


def test_a_handler_from_before_install_and_one_that_uvicorn_has_are_no_displacement():
    """The first owner is found, not displaced; a server that has an adapter is known by its shape."""

    class Server:
        config = types.SimpleNamespace(timeout_graceful_shutdown=None)
        should_exit = force_exit = False

        def handle_exit(self, *_):
            """As uvicorn's."""

    before = signal.signal(TERM, Shop().stop)
    try:
        takeover = Takeover([TERM], [UvicornOwner()], [], lambda *_: None)
        takeover.take()
        signal.signal(TERM, Server().handle_exit)
        takeover.take()
        assert not takeover.found
        signal.signal(TERM, Shop().stop)
        takeover.take()
        assert [found.signum for found in takeover.found] == [TERM]
        takeover.put_back()
    finally:
        signal.signal(TERM, before)


def test_what_cannot_be_held_is_told_when_it_is_seen_twice(caplog):
    """hypercorn ignores SIGINT for a moment, while it starts its workers: that is not worth a word."""
    displacements = Displacements()
    displacements.tell_unheld([INT], [])
    displacements.tell_unheld([], [])
    displacements.tell_unheld([INT, TERM], [])
    assert not warnings_of(caplog)
    for _ in range(3):
        displacements.tell_unheld([TERM], [])
    for _ in range(3):
        displacements.tell_unheld([], [INT])
    ignored, foreign = warnings_of(caplog)
    assert ignored.startswith("SIGTERM is set to be ignored")
    assert foreign.startswith("SIGINT has a handler that was not set from Python")


def test_a_sigint_that_was_ignored_from_the_start_is_a_shells_background_job(monkeypatch):
    """Ignored later it was an application; SIGTERM ignored is told in any case; None is a handler of C code."""
    handlers: dict[int, Any] = {TERM: signal.SIG_IGN, INT: signal.SIG_IGN, signal.SIGURG: signal.SIG_DFL}
    monkeypatch.setattr(signal, "getsignal", lambda signum: handlers[signum])
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    takeover = Takeover([TERM, INT], [], [], lambda *_: None)
    takeover.take()
    assert (takeover.ignored(), takeover.foreign()) == ({TERM}, set())
    handlers[INT] = signal.default_int_handler
    takeover.take()
    handlers[INT], handlers[TERM] = signal.SIG_IGN, None
    assert (takeover.ignored(), takeover.foreign()) == ({INT}, {TERM})


@pytest.mark.parametrize(
    ("how", "loop"), [("signal", "asyncio"), ("signal", "uvloop"), ("loop", "asyncio"), ("loop", "uvloop")]
)
def test_a_service_that_takes_sigterm_itself_leaves_in_order_and_is_told(how, loop):
    """The story of signals_displaced.py."""
    port = free_port()
    with child("-m", "tests.scenarios.signals_displaced", how, loop, str(port), env=environment(port)) as service:
        service.wait_for("ready: serving")
        called = "loop.add_signal_handler" if how == "loop" else "signal.signal"
        signals = "SIGTERM" if how == "loop" else "SIGINT and SIGTERM"
        service.wait_for(rf"WARNING graceful.signals __main__.Shop.stop \({called}\) took {signals} after install\(\)")
        service.signal(TERM)
        assert service.exit_code() == 0, service.text
        assert service.in_order("leaving because of SIGTERM", "cleanup", "left cleanly", "stop is called")
        assert service.in_order("left cleanly", "Shutting down", "teardown")
        assert service.text.count("stop is called") == 1
        assert service.text.count("took SIG") == 1
        assert "Traceback" not in service.text


def test_a_service_that_ignores_sigterm_is_told():
    """It is respected: SIGTERM does nothing then, as it would without us; SIGINT has it leave."""
    port = free_port()
    with child("-m", "tests.scenarios.signals_displaced", "ignore", "asyncio", str(port), env=environment(port)) as one:
        one.wait_for("WARNING graceful.signals SIGTERM is set to be ignored")
        one.wait_for("ready: serving")
        one.signal(TERM)
        one.signal(INT)
        assert one.exit_code() == 0, one.text
        assert "leaving because of SIGINT" in one.text


def environment(port):
    return {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": "0",
        "GRACEFUL_SCOPE": f"displaced-{os.getpid()}-{port}",
        "GRACEFUL_GRACE_PERIOD": "40",
    }
