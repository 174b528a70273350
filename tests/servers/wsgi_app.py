"""A raw WSGI application for every WSGI server: what a service can be doing when it is told to leave.

Started by each server's own command line as `tests.servers.wsgi_app:app`, or by `main` as a program of one's own.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any
from urllib.parse import parse_qs

import graceful

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
coordinator = graceful.install()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _app(environ: Any, start_response: Any) -> Any:
    seconds = float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["0"])[0])
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _chunks(seconds)
    time.sleep(seconds)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def _chunks(seconds: float) -> Any:
    for _ in range(10):
        yield b"chunk\n"
        time.sleep(seconds / 10)
    yield b"end\n"


@coordinator.on_drain
def drain() -> None:
    say("drain")


@coordinator.on_cleanup
def cleanup() -> None:
    say("cleanup begins")
    time.sleep(0.5)
    say("cleanup ends")


app = coordinator.wsgi(_app)


def main(style: str, port: str) -> None:
    """Start a server as a program of one's own does."""
    if style == "waitress":
        import waitress

        waitress.serve(app, host="127.0.0.1", port=int(port), threads=16)
    elif style == "werkzeug":
        from werkzeug.serving import run_simple

        run_simple("127.0.0.1", int(port), app, threaded=True)
    elif style == "werkzeug-thread":
        from werkzeug import serving

        server = serving.make_server("127.0.0.1", int(port), app, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Event().wait()
    elif style == "wsgiref-thread":
        from socketserver import ThreadingMixIn
        from wsgiref.simple_server import WSGIServer, make_server

        class Server(ThreadingMixIn, WSGIServer):
            daemon_threads = True

        listening = make_server("127.0.0.1", int(port), app, Server)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
