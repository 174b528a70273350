"""What the tests in containers share."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.children import ROOT, free_port, until
from tests.containers.podman import LOCKED_DOWN, PAUSE, Image, container, why_no_containers
from tests.test_service_eureka import Registered

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = "tests.scenarios.service_workers:app"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of them starts containers, most at a tenth of a processor: once is enough, and longer than the usual."""
    for item in items:
        if "tests/containers/" in item.nodeid:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(150))


@pytest.fixture(scope="session")
def _podman() -> None:
    if reason := why_no_containers():
        # On the CI machine a skipped test would go unseen.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def image(_podman, tmp_path_factory) -> Image:
    """With a shell and all that this machine has in /usr."""
    return Image(tmp_path_factory.mktemp("image"), shell=True)


@pytest.fixture(scope="session")
def distroless(_podman, tmp_path_factory) -> Image:
    """With nothing but the interpreter, its packages and the shared libraries."""
    return Image(tmp_path_factory.mktemp("distroless"), shell=False)


@pytest.fixture(scope="session")
def hook() -> list[str]:
    """The preStop command, as the generated manifest has it."""
    command = [sys.executable, "-m", "graceful", "manifest", "--format", "snippet", "--container", "orders"]
    manifest = yaml.safe_load(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    (argv,) = _found(manifest, "preStop")
    return list(argv["exec"]["command"])


def _found(document, key) -> Iterator[Any]:
    """Every value of that key, however deep."""
    if isinstance(document, dict):
        yield from (value for name, value in document.items() if name == key)
    children = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    for each in children:
        yield from _found(each, key)


class Service(Registered):
    """A service in a container, and how Eureka sees it."""

    def __init__(self, eureka, running, port, app, env):
        super().__init__(eureka, running.log, port, app, env)
        self.container = running

    @property
    def log(self):
        """The lines of the container's present life."""
        return self.container.log

    def wait_until_up(self, workers=1):
        """Wait until it is announced and all its processes serve."""
        self.log.wait_for("ready: serving", times=workers)
        until(lambda: self.status == "UP", f"UP, and not {self.status}:\n{self.log.text}")


@pytest.fixture
def service(embedded_eureka):
    """`with service(image, …) as s` runs the service with uvicorn as PID 1, in a fresh Eureka of this machine."""

    @contextmanager
    def start(image, *extra, command=("python3", "-m", "uvicorn"), options=LOCKED_DOWN, **env):
        port, app = free_port(), f"orders-{uuid.uuid4().hex[:8]}"
        settings = {
            "GRACEFUL_EUREKA_URL": embedded_eureka.url,
            "GRACEFUL_APP_NAME": app,
            "GRACEFUL_PORT": str(port),
            "GRACEFUL_IP_ADDR": "127.0.0.1",
            "GRACEFUL_PROPAGATION_DELAY": "2",
            "GRACEFUL_GRACE_PERIOD": "60",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        } | env
        arguments = [APP, f"--port={port}", *extra]
        if command[0] == "sh":
            command = (*command[:-1], command[-1].format(arguments=" ".join(arguments)))
            arguments = []
        with container(image, *command, *arguments, env=settings, options=options) as running:
            yield Service(embedded_eureka, running, port, app, settings)

    return start


@pytest.fixture
def bare():
    """`with bare(image) as running`: a container in which no process is ours."""

    @contextmanager
    def start(image, command=PAUSE, options=LOCKED_DOWN, **env):
        with container(image, *command, env=env, options=options) as running:
            running.log.wait_for("ready")
            yield running

    return start
