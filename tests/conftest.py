"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from graceful.rehearsal.eureka import EmbeddedEureka
from tests.eureka_servers import EmbeddedPair, EurekaServers, RealPair, RunningEureka, why_no_real_eureka

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _pytest.mark import ParameterSet
    from xdist.remote import Producer

    from tests.eureka_servers import EurekaPair, Security
    from tests.scheduling import Scheduling


# How long one example takes says how busy the machine is; a test that hangs has pytest's limit.
hypothesis.settings.register_profile("graceful", deadline=None)
hypothesis.settings.load_profile("graceful")

# A shell's background job has SIGINT ignored, and so would every process that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _real(shared: str) -> ParameterSet:
    """The parameter of tests on a real server; its id says which, and `Scheduling` keeps those tests together."""
    # The first test to ask for a real server pays for its build, which may have to fill an empty Maven repository.
    return pytest.param("real", id=f"real-{shared}", marks=[pytest.mark.real_eureka, pytest.mark.timeout(400)])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of `pytest -n`, begin with the slow tests: one that comes last would be waited for alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Have `pytest -n` give tests to processes as `Scheduling` says."""
    from tests.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A `tmp_path` with a short name: a socket's address has room for 107 bytes, and a message cuts long values."""
    with tempfile.TemporaryDirectory(prefix="g-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def eureka_servers() -> Iterator[EurekaServers]:
    """Every Eureka server of the session: one process or thread per variant, started when first needed."""
    with EurekaServers() as servers:
        yield servers


@pytest.fixture(scope="session", params=["embedded", _real("open")])
def eureka_server(request: pytest.FixtureRequest, eureka_servers: EurekaServers) -> RunningEureka:
    """An open Eureka, once embedded and once real, shared by the session: use unique app and instance names."""
    return _server(request, eureka_servers, "open")


@pytest.fixture(scope="session", params=["embedded", _real("basic")])
def eureka_server_basic(request: pytest.FixtureRequest, eureka_servers: EurekaServers) -> RunningEureka:
    """The same behind basic auth; `.url` has the credentials inside, `.address` has not."""
    return _server(request, eureka_servers, "basic")


@pytest.fixture(scope="session", params=[_real("open")])
def real_eureka(request: pytest.FixtureRequest, eureka_servers: EurekaServers) -> RunningEureka:
    """The real server of `eureka_server`, for tests that need it beside another."""
    return _server(request, eureka_servers, "open")


@pytest.fixture(scope="session", params=["embedded", _real("csrf")])
def eureka_server_csrf(request: pytest.FixtureRequest, eureka_servers: EurekaServers) -> RunningEureka:
    """A Eureka behind basic auth that was set up wrong: CSRF protection refuses every change."""
    return _server(request, eureka_servers, "csrf")


@pytest.fixture(scope="session")
def real_pair() -> Iterator[RealPair]:
    """The real pair of the session; ask for `eureka_pair` or `real_eureka_pair`, which know the reason to skip."""
    with RealPair() as pair:
        yield pair


@pytest.fixture(scope="session", params=[_real("pair")])
def real_eureka_pair(request: pytest.FixtureRequest) -> tuple[RunningEureka, RunningEureka]:
    """Two real servers that replicate to each other."""
    _require_java()
    pair: RealPair = request.getfixturevalue("real_pair")
    return pair.nodes


@pytest.fixture(scope="session")
def embedded_pair() -> Iterator[EmbeddedPair]:
    """The embedded pair of the session."""
    with EmbeddedPair() as pair:
        yield pair


@pytest.fixture(scope="session", params=["embedded", _real("pair")])
def eureka_pair(request: pytest.FixtureRequest) -> EurekaPair:
    """Two servers that replicate to each other, once embedded and once real: use unique app and instance names."""
    if request.param == "real":
        _require_java()
    pair: EurekaPair = request.getfixturevalue(f"{request.param}_pair")
    return pair


@pytest.fixture
def embedded_eureka() -> Iterator[EmbeddedEureka]:
    """A fresh embedded Eureka for one test, to inject faults and to count requests."""
    with EmbeddedEureka(cache_interval=1.0, eviction_interval=1.0) as embedded:
        yield embedded


def _server(request: pytest.FixtureRequest, servers: EurekaServers, security: Security) -> RunningEureka:
    if request.param == "real":
        _require_java()
    return servers.get(request.param, security)


def _require_java() -> None:
    if reason := why_no_real_eureka():
        # On the CI machine a skipped test would go unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
