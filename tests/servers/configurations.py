"""Every way to run a server that the matrix has, and what is expected of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ASGI: Final = "tests.servers.asgi_app:app"
WSGI: Final = "tests.servers.wsgi_app:app"
_ASYNC_ENDS: Final = {"slow": "200", "stream": "complete", "sse": "ended", "websocket": "1012"}
_SYNC_ENDS: Final = {"slow": "200", "stream": "complete"}

GRPC: Final[dict[str, Literal["threads", "aio"]]] = {"grpc": "threads", "grpc.aio": "aio"}
"""Their traffic is their own (`grpc_rows`, played in `tests/test_grpc.py`)."""


@dataclass(frozen=True)
class Configuration:
    """One way to run one server.

    Attributes:
        name: as the table shows it.
        arguments: for `python`; `{port}` is replaced.
        ends: how what is open when the leave begins comes to its end: of `slow`, `stream`, `sse` and `websocket` those
            that the server can serve.
        workers: how many processes say that they are ready.
    """

    name: str
    arguments: tuple[str, ...]
    ends: dict[str, str]
    workers: int = 1


def _asgi(name: str, *arguments: str, workers: int = 1, **ends: str) -> Configuration:
    return Configuration(name, arguments, _ASYNC_ENDS | ends, workers)


def _wsgi(name: str, *arguments: str, workers: int = 1) -> Configuration:
    return Configuration(name, arguments, _SYNC_ENDS, workers)


def _program(text: str) -> tuple[str, ...]:
    return ("-c", text)


_UVICORN = ("-m", "uvicorn", "--port={port}", "--log-level=warning")
_UVICORN_RUN = "import uvicorn; from tests.servers.asgi_app import app; uvicorn.run(app, port={port})"
_UVICORN_STRING = f"from uvicorn import Config, Server; Server(Config('{ASGI}', port={{port}})).run()"
_HYPERCORN = ("-m", "hypercorn", "--bind=127.0.0.1:{port}")
_GUNICORN = ("-m", "gunicorn", "--bind=127.0.0.1:{port}", "--no-control-socket", "--graceful-timeout=60")
_UVICORN_WORKER = "--worker-class=uvicorn_worker.UvicornWorker"
_GRANIAN_ASGI = ("-m", "granian", "--port={port}", "--interface=asgi")
_GRANIAN_WSGI = ("-m", "granian", "--port={port}", "--interface=wsgi", "--blocking-threads=8")
_APP = ("-m", "tests.servers.asgi_app")
_WSGI_APP = ("-m", "tests.servers.wsgi_app")
_AIOHTTP = ("-m", "tests.servers.aiohttp_app")
_PLAIN = ("-m", "tests.servers.plain_app")

CONFIGURATIONS: Final = (
    _asgi("uvicorn", *_UVICORN, "--loop=asyncio", ASGI),
    _asgi("uvicorn, uvloop", *_UVICORN, "--loop=uvloop", ASGI),
    _asgi("uvicorn --workers 2", *_UVICORN, "--workers=2", ASGI, workers=2),
    _asgi("uvicorn.run(app)", *_program(_UVICORN_RUN)),
    _asgi("uvicorn.run(workers=2) in the main module", *_APP, "uvicorn-workers", "{port}", workers=2),
    _asgi('uvicorn.Server(Config("main:app"))', *_program(_UVICORN_STRING)),
    _asgi("uvicorn.Server in asyncio.run", *_APP, "uvicorn", "{port}"),
    _asgi("uvicorn.Server in a thread", *_APP, "uvicorn-thread", "{port}"),
    _asgi("gunicorn, uvicorn worker", *_GUNICORN, _UVICORN_WORKER, "--workers=2", ASGI, workers=2),
    _asgi("gunicorn --preload, uvicorn worker", *_GUNICORN, _UVICORN_WORKER, "--preload", ASGI),
    _asgi("gunicorn -k asgi", *_GUNICORN, "--worker-class=asgi", "--workers=2", ASGI, workers=2),
    _asgi("gunicorn -k asgi --preload", *_GUNICORN, "--worker-class=asgi", "--preload", ASGI),
    _wsgi("gunicorn -k sync", *_GUNICORN, "--worker-class=sync", "--workers=6", WSGI, workers=6),
    _wsgi("gunicorn -k sync --preload", *_GUNICORN, "--workers=6", "--preload", WSGI, workers=6),
    _wsgi("gunicorn -k gthread", *_GUNICORN, "--threads=8", WSGI),
    _wsgi("gunicorn -k gthread --preload", *_GUNICORN, "--threads=8", "--preload", WSGI),
    _wsgi("gunicorn -k gthread, 2 workers", *_GUNICORN, "--threads=8", "--workers=2", WSGI, workers=2),
    _wsgi("gunicorn -k gevent", *_GUNICORN, "--worker-class=gevent", WSGI),
    _asgi("hypercorn", *_HYPERCORN, ASGI),
    _asgi("hypercorn -w 2", *_HYPERCORN, "--workers=2", ASGI, workers=2),
    _asgi("hypercorn -w 0", *_HYPERCORN, "--workers=0", ASGI),
    _asgi("hypercorn -w 0 -k uvloop", *_HYPERCORN, "--workers=0", "--worker-class=uvloop", ASGI),
    _asgi("hypercorn -k uvloop", *_HYPERCORN, "--worker-class=uvloop", ASGI),
    _asgi("hypercorn -k trio", *_HYPERCORN, "--worker-class=trio", ASGI),
    _asgi("hypercorn's run() in the main module", *_APP, "hypercorn-workers", "{port}", workers=2),
    _asgi("hypercorn.asyncio.serve()", *_APP, "hypercorn", "{port}"),
    _asgi("hypercorn.trio.serve()", *_APP, "hypercorn-trio", "{port}"),
    _asgi("granian asgi", *_GRANIAN_ASGI, "--loop=asyncio", ASGI),
    _asgi("granian asgi, uvloop", *_GRANIAN_ASGI, "--loop=uvloop", ASGI),
    _asgi("granian asgi --workers 2", *_GRANIAN_ASGI, "--workers=2", ASGI, workers=2),
    _wsgi("granian wsgi", *_GRANIAN_WSGI, WSGI),
    _wsgi("granian wsgi --workers 2", *_GRANIAN_WSGI, "--workers=2", WSGI, workers=2),
    _asgi("aiohttp run_app", *_AIOHTTP, "run_app", "{port}"),
    _asgi("aiohttp run_app, uvloop", *_AIOHTTP, "run_app-uvloop", "{port}"),
    _asgi("aiohttp AppRunner", *_AIOHTTP, "runner", "{port}"),
    _asgi("daphne", "-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI, websocket="cut"),
    _wsgi("waitress", *_WSGI_APP, "waitress", "{port}"),
    _wsgi("werkzeug", *_WSGI_APP, "werkzeug", "{port}"),
    _wsgi("werkzeug in a thread", *_WSGI_APP, "werkzeug-thread", "{port}"),
    _wsgi("wsgiref in a thread", *_WSGI_APP, "wsgiref-thread", "{port}"),
    *(Configuration(name, (), {"slow": "OK", "stream": "end", "ticks": "bye"}) for name in GRPC),
    _wsgi("anyio on asyncio", *_PLAIN, "asyncio", "{port}"),
    _wsgi("anyio on uvloop", *_PLAIN, "uvloop", "{port}"),
    _wsgi("anyio on trio", *_PLAIN, "trio", "{port}"),
)
