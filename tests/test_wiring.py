"""Each framework's application is recognised by its shape, wired outermost, and given back as it was."""

import asyncio
import contextlib
import types
from collections.abc import Callable
from typing import Any

import pytest

import graceful
from graceful.wiring import wire

# Django leaves the file of a request's body to be collected.
pytestmark = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")


class FakeCoordinator:
    """Wraps with something that leaves a mark."""

    def __init__(self):
        self.marks = []

    def asgi(self, app):
        async def marked(scope, receive, send):
            self.marks.append(scope["type"])
            await app(scope, receive, send)

        return marked

    def wsgi(self, app):
        def marked(environ, start_response):
            self.marks.append("wsgi")
            return app(environ, start_response)

        return marked

    def wire_aiohttp(self, app):
        self.marks.append("aiohttp")
        return lambda: self.marks.append("aiohttp undone")


def fastapi():
    from fastapi import FastAPI

    app = FastAPI()
    app.get("/")(hello)
    return app


def starlette():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])


def litestar():
    from litestar import Litestar, get

    return Litestar([get("/")(hello)])


def quart():
    from quart import Quart

    app = Quart(__name__)
    app.get("/")(hello)
    return app


def django_asgi():
    configure_django()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def flask():
    from flask import Flask

    app = Flask(__name__)
    app.get("/")(lambda: "hello")
    return app


def django_wsgi():
    configure_django()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


async def hello() -> str:
    return "hello"


def configure_django():
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    if not settings.configured:
        urls = types.ModuleType("urls")
        urls.urlpatterns = [path("", lambda _: HttpResponse("hello"))]  # type: ignore[attr-defined]
        settings.configure(SECRET_KEY="only for tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls)


ASGI = [fastapi, starlette, litestar, quart, django_asgi]
WSGI = [flask, django_wsgi]


def ask_asgi(app):
    """The body of one request."""
    sent = []
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test")],
        "server": ("test", 80),
        "client": ("127.0.0.1", 1),
    }

    async def main():
        async with asyncio.timeout(20):
            await app(scope, receive, send)

    asyncio.run(main())
    return b"".join(message.get("body", b"") for message in sent)


def ask_wsgi(app):
    from wsgiref.util import setup_testing_defaults

    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    body = app(environ, lambda *_: None)
    with contextlib.closing(body):
        return b"".join(body)


def attributes(app):
    """Those of the instance, where its type has no slots instead."""
    return getattr(app, "__dict__", ())


def wired(app: Any, coordinator: Any) -> Callable[[], None]:
    unwire = wire(app, coordinator)
    assert unwire is not None
    return unwire


@pytest.mark.parametrize(
    ("make", "ask", "mark"),
    [*((make, ask_asgi, "http") for make in ASGI), *((make, ask_wsgi, "wsgi") for make in WSGI)],
)
def test_wired_in_place_and_given_back(make, ask, mark):
    """The application stays the object that the server has; unwired it is of its own type again."""
    coordinator, app = FakeCoordinator(), make()
    kind, names = type(app), set(attributes(app))
    unwire = wired(app, coordinator)
    assert b"hello" in ask(app)
    assert isinstance(app, kind)
    assert type(app).__name__ == kind.__name__
    assert coordinator.marks == [mark]
    unwire()
    assert type(app) is kind
    assert set(attributes(app)) == names
    assert b"hello" in ask(app)
    assert coordinator.marks == [mark]


def test_only_the_one_application_is_wired():
    """Two of one framework in one process: the other keeps its type."""
    coordinator, app, other = FakeCoordinator(), litestar(), litestar()
    wired(app, coordinator)
    ask_asgi(other)
    assert coordinator.marks == []


def test_aiohttps_application():
    """Wired by signals and a middleware of its own, see test_aiohttp."""
    from aiohttp import web

    coordinator = FakeCoordinator()
    wired(web.Application(), coordinator)()
    assert coordinator.marks == ["aiohttp", "aiohttp undone"]


@pytest.mark.parametrize("app", [object(), hello, lambda *_: []], ids=["object", "asgi", "wsgi"])
def test_what_is_not_known_is_not_wired(app):
    """A bare callable cannot be changed in place; the error says what to write instead."""
    nobody: Any = FakeCoordinator()
    assert wire(app, nobody) is None
    with pytest.raises(graceful.InstallError, match=r"serve coordinator.asgi\(app\) or\s+coordinator.wsgi\(app\)"):
        graceful.install(app)
    graceful.install().uninstall()


def test_nothing_of_a_framework_is_imported():
    """Recognising is done by attributes: a service pays for its own framework only."""
    import subprocess
    import sys

    program = (
        "import sys; from graceful.wiring import wire; wire(object(), None);"
        "print([name for name in ('aiohttp', 'django', 'fastapi', 'flask', 'litestar', 'quart', 'starlette')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout == "[]\n"
