"""What each kind of connection sees of a leave, with real servers: kept alive, idle, quiet, and HTTP/2."""

import asyncio
import os
import signal
from contextlib import contextmanager

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.children import child, free_port
from tests.servers.http2 import Http2
from tests.servers.traffic import Connection, get, stream

APP = "tests.servers.asgi_app:app"
SERVERS = {
    "uvicorn": ("-m", "uvicorn", "--port={port}", "--log-level=warning", APP),
    "hypercorn": ("-m", "hypercorn", "--bind=127.0.0.1:{port}", "--workers=0", APP),
    "hypercorn on trio": ("-m", "tests.servers.asgi_app", "hypercorn-trio", "{port}"),
    "granian": ("-m", "granian", "--port={port}", "--interface=asgi", APP),
    "gunicorn": ("-m", "gunicorn", "--bind=127.0.0.1:{port}", "--worker-class=asgi", "--keep-alive=5", APP),
}
TLS = {
    "hypercorn": (*SERVERS["hypercorn"], "--certfile={certificate}", "--keyfile={key}"),
    "granian": (*SERVERS["granian"], "--ssl-certificate={certificate}", "--ssl-keyfile={key}", "--http=auto"),
}


@contextmanager
def serving(arguments, **values):
    port = free_port()
    env = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": "1.5",
        "GRACEFUL_DRAIN_TIMEOUT": "2",
        "GRACEFUL_SCOPE": f"protocols-{os.getpid()}-{port}",
    }
    with child(*(argument.format(port=port, **values) for argument in arguments), env=env) as service:
        service.wait_for("ready: serving")
        yield service, port


@pytest.mark.parametrize("server", SERVERS)
def test_idle_connections(server):
    """An event stream without a next event, a WebSocket nobody listens to, a connection kept for later."""
    with serving(SERVERS[server]) as (service, port):
        asyncio.run(idle_connections(service, port))
        assert service.exit_code() == 0
        assert service.in_order("phase draining", "phase cleanup", "left cleanly")


async def idle_connections(service, port):
    begun = asyncio.Event()
    async with asyncio.timeout(40), connect(f"ws://127.0.0.1:{port}/quiet") as quiet, asyncio.TaskGroup() as tasks:
        kept = await Connection.open(port)
        await kept.request("/fast")
        assert await kept.answer() == 200
        rest = tasks.create_task(kept._reader.read())
        idle = tasks.create_task(stream(port, "/idle", begun))
        await begun.wait()
        service.signal(signal.SIGTERM)
        assert await get(port, "/fast") == "200"
        await asyncio.to_thread(service.wait_for, "phase draining")
        assert not rest.done()
        assert await idle == "ended"
        with pytest.raises(ConnectionClosed):
            await quiet.recv()
        assert quiet.close_code == 1012
        assert not rest.done()
        # Not reset: what it reads is the end, and nothing before it.
        assert await rest == b""
        await kept.close()


@pytest.mark.parametrize(("server", "says_goaway"), [("hypercorn", False), ("granian", True)])
def test_http_2(server, says_goaway, tmp_path):
    """Late requests are new streams of the same connection, which the server ends once it is released."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("authority", "certificate", "key")}
    authority.cert_pem.write_to_path(files["authority"])
    certificate.cert_chain_pems[0].write_to_path(files["certificate"])
    certificate.private_key_pem.write_to_path(files["key"])
    with serving(TLS[server], **files) as (service, port):
        asyncio.run(over_http_2(service, port, files["authority"], says_goaway))
        assert service.exit_code() == 0
        assert service.in_order("phase draining", "phase cleanup", "left cleanly")


async def over_http_2(service, port, authority, says_goaway):
    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        connection = await Http2.open(port, authority)
        assert await connection.get("/fast") == 200
        slow = tasks.create_task(connection.get("/slow?seconds=2.2"))
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.wait_for, "leaving because of SIGTERM")
        assert await connection.get("/fast") == 200
        assert not connection.going_away.is_set()
        await asyncio.to_thread(service.wait_for, "phase draining")
        assert await connection.get("/fast") == 503
        assert await slow == 200
        assert not connection.closed.is_set()
        # hypercorn only ends a connection without streams.
        await (connection.going_away if says_goaway else connection.closed).wait()
        await connection.close()
