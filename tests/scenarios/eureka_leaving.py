"""A service of plain threads in Eureka, for leaves in which something is wrong with Eureka.

Usage: `-m tests.scenarios.eureka_leaving registered|adopted|status-only PORT`; the rest is in GRACEFUL_….

1. It answers `/slow?seconds=` on PORT, each request of it tracked, and says `slow began`.
2. It is in Eureka by one of the three ways; it says `phase serving` when it is ready.
3. It is told to leave: what is in flight is answered, and it exits with 0.

`CLOCK_SKEW`: its wall clock is wrong by so many seconds. `HANGING_NAME`: the look-up of this name never ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import graceful

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")


def skew_the_clock(seconds: float) -> None:
    real = time.time_ns
    time.time_ns = lambda: real() + int(seconds * 1e9)


def hang_look_ups_of(name: str) -> None:
    real = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == name:
            threading.Event().wait()
        return real(host, *arguments, **options)

    socket.getaddrinfo = look_up


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with coordinator.track(self.path):
            print("slow began", flush=True)
            time.sleep(float(parse_qs(urlsplit(self.path).query)["seconds"][0]))
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"done")

    def log_message(self, *_: Any) -> None:
        pass


def new_client(port: int) -> Any:
    from py_eureka_client import eureka_client

    return eureka_client.EurekaClient(
        eureka_server=os.environ["CLIENT_URL"],
        app_name=os.environ["CLIENT_APP"],
        instance_id=os.environ["CLIENT_ID"],
        instance_host="127.0.0.1",
        instance_ip="127.0.0.1",
        instance_port=port,
        renewal_interval_in_secs=0.3,
    )


if __name__ == "__main__":
    way, port = sys.argv[1], int(sys.argv[2])
    if "CLOCK_SKEW" in os.environ:
        skew_the_clock(float(os.environ["CLOCK_SKEW"]))
    if "HANGING_NAME" in os.environ:
        hang_look_ups_of(os.environ["HANGING_NAME"])
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = new_client(port) if way == "adopted" else None
    coordinator = graceful.install(eureka=client) if client else graceful.install()
    if client:
        # After install(): what the client logs of its start has no credentials in it either.
        asyncio.run(client.start())
    threading.Event().wait()
