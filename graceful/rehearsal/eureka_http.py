"""The HTTP side of an embedded Eureka: an ASGI application around a node, its faults and its request log."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import socket
import struct
import time
from dataclasses import asdict
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from graceful.rehearsal.eureka_faults import Fault, FaultPlan, ReceivedRequest, RequestLog
from graceful.rehearsal.eureka_messages import Answer, Request, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope

    from graceful.rehearsal.eureka_rest import Node

__all__ = ["CONTEXT_PATH", "EurekaApplication"]

CONTEXT_PATH = "/eureka"
# What CSRF protection lets pass without its token.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class EurekaApplication:
    """Answers below `/eureka` as the node does, and below `/_faults` and `/_requests` as a test bench does.

    Args:
        node: the registry.
        faults: how to misbehave.
        log: where every request below `/eureka` is noted, before any fault.
        credentials: `user:password` when basic auth is asked for.
        csrf: whether every change is refused, whatever its credentials.
        transport_of: finds the connection of a client address, for `reset`.
    """

    def __init__(
        self,
        node: Node,
        faults: FaultPlan,
        log: RequestLog,
        *,
        credentials: str | None,
        csrf: bool,
        transport_of: Callable[[tuple[str, int] | None], asyncio.Transport | None],
    ) -> None:
        self._node = node
        # A peer's changes come from another thread.
        self._node_lock = Lock()
        self._faults = faults
        self._log = log
        self._authorization = credentials and "Basic " + base64.b64encode(credentials.encode()).decode()
        self._csrf = csrf
        self._transport_of = transport_of
        self.closing = asyncio.Event()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise TypeError(f"this application serves HTTP only, not {scope['type']}")
        body = await _read_body(receive)
        path = unquote(scope["raw_path"].decode("latin-1"))
        if path.startswith("/_"):
            await _send(send, self._steer(scope, path, body))
            return
        self._log.add(ReceivedRequest(scope["method"], path, scope["query_string"].decode("latin-1"), time.time()))
        fault = self._faults.take(scope["method"], path)
        if fault is not None and fault.kind == "delay":
            await self._wait(asyncio.sleep(fault.seconds))
            fault = None
        answer = self._answer(scope, body) if fault is None else await self._misbehave(fault, scope, receive)
        if answer is not None:
            await _send(send, answer)

    def _answer(self, scope: HTTPScope, body: bytes) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._authorized(headers) or (self._csrf and scope["method"] not in SAFE_METHODS):
            return refusal(HTTPStatus.UNAUTHORIZED, {"www-authenticate": 'Basic realm="Realm"'})
        segments = _segments(scope["raw_path"].decode("latin-1"))
        if segments is None:
            return refusal(HTTPStatus.BAD_REQUEST)
        if segments[:1] != (CONTEXT_PATH[1:],):
            return refusal(HTTPStatus.NOT_FOUND)
        # reversed: of a repeated parameter the first value counts
        query = dict(reversed(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)))
        return self.ask(Request(scope["method"], segments[1:], query, headers, body))

    def ask(self, request: Request) -> Answer:
        """The node's answer. Thread-safe; no fault, no log, no credentials: peers ask this way."""
        with self._node_lock:
            return self._node.answer(request, time.time())

    def adopt(self, body: bytes) -> None:
        """Take over what a peer knows better. Thread-safe."""
        with self._node_lock:
            self._node.adopt(body, time.time())

    def _authorized(self, headers: Mapping[str, str]) -> bool:
        if self._authorization is None:
            return True
        return secrets.compare_digest(headers.get("authorization", "").encode(), self._authorization.encode())

    async def _misbehave(self, fault: Fault, scope: HTTPScope, receive: ASGIReceiveCallable) -> Answer | None:
        """Act out a fault instead of answering; None when there is nobody left to answer."""
        match fault.kind:
            case "fail":
                return Answer(fault.status)
            case "redirect":
                return Answer(HTTPStatus.FOUND, headers={"location": fault.location})
            case "hang":
                await self._wait(_disconnected(receive))
                self._break(scope)
            case "reset":
                self._break(scope)
                await self._wait(_disconnected(receive))
        return None

    async def _wait(self, waited_for: Awaitable[None]) -> None:
        """Wait, but no longer than the server runs."""
        tasks = {asyncio.ensure_future(waited_for), asyncio.ensure_future(self.closing.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _break(self, scope: HTTPScope) -> None:
        """End the connection with a TCP reset."""
        transport = self._transport_of(scope["client"])
        if transport is not None:
            raw = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):  # the peer may have gone already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def _steer(self, scope: HTTPScope, path: str, body: bytes) -> Answer:
        """The test bench: faults and the request log."""
        match scope["method"], path:
            case "POST", "/_faults":
                try:
                    self._faults.add(Fault(**json.loads(body)))
                except (TypeError, ValueError) as error:
                    return refusal(HTTPStatus.BAD_REQUEST, message=str(error))
            case "DELETE", "/_faults":
                self._faults.clear()
            case "GET", "/_requests":
                query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
                found = self._log.matching(query.get("method"), query.get("path"))
                return Answer(HTTPStatus.OK, json.dumps([asdict(each) for each in found]).encode(), "application/json")
            case "DELETE", "/_requests":
                self._log.clear()
            case _:
                return refusal(HTTPStatus.NOT_FOUND)
        return Answer(HTTPStatus.NO_CONTENT)


def _segments(raw_path: str) -> tuple[str, ...] | None:
    """The decoded segments of a path; None for what Tomcat and Spring's firewall refuse."""
    raw = raw_path.removesuffix("/").split("/")[1:]
    segments = tuple(unquote(segment) for segment in raw)
    refused = any(not segment or set(segment) & {"/", ";", "\\", "\0"} for segment in segments)
    return None if refused else segments


async def _read_body(receive: ASGIReceiveCallable) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _disconnected(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: ASGISendCallable, answer: Answer) -> None:
    headers = dict(answer.headers)
    if answer.media_type:
        headers["content-type"] = answer.media_type
    if answer.status != HTTPStatus.NO_CONTENT:
        headers["content-length"] = str(len(answer.body))
    start: Any = {
        "type": "http.response.start",
        "status": int(answer.status),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
