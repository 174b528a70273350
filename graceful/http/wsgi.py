"""One WSGI middleware: in-flight requests, late requests, the 503 of the drain, and probes. For any threaded server.

No framework is imported. It adds no hop-by-hop header: PEP 3333 ("Other HTTP Features") leaves those to the server, and
waitress answers 500 to an application that sends one. Where the server has a way of its own, it is asked to close.
"""

from __future__ import annotations

from functools import partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from graceful.core.inflight import NotAcceptingError
from graceful.core.ledger import name_caller, name_route
from graceful.core.names import name_peer, name_query
from graceful.core.obstacles import Obstacle
from graceful.http.saying import KUBELET, SHUTTING_DOWN
from graceful.stacks import stack_of_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from graceful.life import Life

    Environ: TypeAlias = dict[str, Any]
    StartResponse: TypeAlias = Callable[..., Any]
    WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

__all__ = ["WsgiMiddleware", "WsgiService"]


class WsgiService(Protocol):
    """What the middleware needs of the service it stands in front of. Every method may be called from any thread."""

    @property
    def life(self) -> Life:
        """What it lives just now. Its parts are used as they are: every call in between would cost each request."""
        ...

    def enter_late(self, caller: str, route: str, *, served: bool) -> None:
        """A request came after the leave had begun."""
        ...

    def reason_not_ready_in_thread(self) -> str | None:
        """Why the service must get no new callers now, or None; blocks until the checks have answered."""
        ...


class WsgiMiddleware:
    """Wraps a WSGI application; outermost, so that it sees every request. Thread-safe.

    A request is in flight until its iterable is closed, which the server does when the last byte is on its way
    (PEP 3333, "The Server/Gateway Side").

    Args:
        app: the application.
        service: the service that it belongs to.
        livez_path: answered with 200 for as long as the process runs; None to leave the path to the application.
        readyz_path: answered with 200 when ready, else 503; None to leave the path to the application.
        retry_after: seconds for `Retry-After` of the 503 that is answered from the drain on.
    """

    def __init__(
        self,
        app: WSGIApp,
        service: WsgiService,
        *,
        livez_path: str | None = "/livez",
        readyz_path: str | None = "/readyz",
        retry_after: float = 1.0,
    ) -> None:
        self.app = app
        self.service = service
        self._livez = livez_path
        self._probes = {path for path in (livez_path, readyz_path) if path is not None}
        # Whole seconds, RFC 9110 10.2.3.
        self._retry_after = ("Retry-After", str(max(0, round(retry_after))))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        life, path = self.service.life, environ.get("PATH_INFO", "")
        if path in self._probes:
            return self._probe(environ, path, start_response)
        method = environ["REQUEST_METHOD"]
        phase = life.lifecycle.phase
        if not phase.accepts_work:
            return self._refuse(environ, method, path, start_response)
        try:
            key = life.in_flight.enter((_Request, monotonic(), environ, get_ident()))
        except NotAcceptingError:
            return self._refuse(environ, method, path, start_response)
        if phase.leaving:
            self._enter_late(environ, method, path, served=True)
            _close_after(start_response)
        try:
            body = self.app(environ, start_response)
        except BaseException:
            life.in_flight.leave(key)
            raise
        return _until_closed(body, environ.get("wsgi.file_wrapper"), partial(life.in_flight.leave, key))

    def _refuse(self, environ: Environ, method: str, path: str, start_response: StartResponse) -> Iterable[bytes]:
        self._enter_late(environ, method, path, served=False)
        _close_after(start_response)
        return _answer(environ, start_response, "503 Service Unavailable", SHUTTING_DOWN, self._retry_after)

    def _probe(self, environ: Environ, path: str, start_response: StartResponse) -> Iterable[bytes]:
        reason = None if path == self._livez else self.service.reason_not_ready_in_thread()
        status = "503 Service Unavailable" if reason else "200 OK"
        return _answer(environ, start_response, status, f"not ready: {reason}" if reason else "ok")

    def _enter_late(self, environ: Environ, method: str, path: str, *, served: bool) -> None:
        agent = environ.get("HTTP_USER_AGENT", "").encode("latin-1", "replace")
        if not agent.startswith(KUBELET):
            caller = name_caller(environ.get("REMOTE_ADDR") or None, agent)
            self.service.enter_late(caller, name_route(method, path), served=served)


class _Request(NamedTuple):
    """A request as a unit of work: its environ and its thread."""

    environ: Environ
    thread: int

    @property
    def name(self) -> str:
        return name_route(self.environ["REQUEST_METHOD"], self.environ.get("PATH_INFO", ""))

    def look(self, seconds: float, *, query: bool) -> Obstacle:
        environ, thread = self
        name = name_query(self.name, environ.get("QUERY_STRING", "") if query else "")
        peer = name_peer(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"))
        return Obstacle("request", name, seconds, peer, stack_of_thread(thread))


class _Counted:
    """An application's body, whose close says that the request has ended."""

    __slots__ = ("_body", "_ended")

    def __init__(self, body: Iterable[bytes], ended: Callable[[], None]) -> None:
        self._body = body
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        # The application's own iterator: nothing of ours stands between its chunks and the server.
        return iter(self._body)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            self._ended()


class _CountedWithLength(_Counted):
    """The same for a body whose length a server may use to work out the Content-Length (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        length: int = self._body.__len__()  # type: ignore[attr-defined]
        return length


def _until_closed(body: Iterable[bytes], file_wrapper: Any, ended: Callable[[], None]) -> Iterable[bytes]:
    counted = _CountedWithLength(body, ended) if hasattr(body, "__len__") else _Counted(body, ended)
    if not isinstance(file_wrapper, type) or not isinstance(body, file_wrapper):
        return counted
    # A server knows its own file wrapper by its type, and sends the file without reading it: it must stay what it is.
    close = getattr(body, "close", None)

    def close_and_end() -> None:
        try:
            if close is not None:
                close()
        finally:
            ended()

    try:
        body.close = close_and_end  # type: ignore[attr-defined]
    except AttributeError:  # a type without attributes of one's own: then it is read
        return counted
    return body


def _close_after(start_response: StartResponse) -> None:
    """Have the server close the connection after this response, if it has a way.

    gunicorn's workers give a method of their response, which also has this one; the server then says so in a header of
    its own.
    """
    force_close = getattr(getattr(start_response, "__self__", None), "force_close", None)
    if force_close is not None:
        force_close()


def _answer(
    environ: Environ, start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    body = text.encode() + b"\n"
    start = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *headers,
    ]
    start_response(status, start)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
