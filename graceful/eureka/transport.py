"""One HTTP exchange with one Eureka server, which ends when it is told to, whatever the server does.

httpx, which py_eureka_client uses, follows what Eureka must not do to a leaving service: redirects (a login page's 200
would count as success), proxies nobody asked for, and time-outs that start anew with each byte. Here an exchange
runs on `http.client` in a worker thread that can be abandoned: the caller goes on at its deadline, and the thread ends
because its socket is shut down under it. A name look-up cannot be interrupted; its thread is left behind, sends nothing
when it comes back, and does not hold up the exit of the process as long as the event loop runs in a daemon thread
(worker threads inherit that).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from graceful.eureka.connection import Connection
from graceful.eureka.tls import TlsFileError, default_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graceful.eureka.address import ServerAddress
    from graceful.eureka.proxy import Proxy

__all__ = ["EurekaError", "NotSentError", "Request", "Response", "Transport"]

_MEBIBYTE = 1 << 20
# Threads of one server that may hang in a name look-up at the same time; one more would only hang as well.
_MOST_UNFINISHED = 8
# OpenSSL's X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, …_SELF_SIGNED_CERT_IN_CHAIN, …_UNABLE_TO_GET_ISSUER_CERT_LOCALLY.
_UNKNOWN_ISSUER = frozenset({18, 19, 20})


class EurekaError(Exception):
    """One Eureka server did not do what it was asked to.

    Attributes:
        server: the server's address without credentials.
        reason: what went wrong, for people: `"HTTP 503"`, `"connection refused"`, `"no answer in 1.5 s"`.
        status: the HTTP status, or None when there was no HTTP answer.
    """

    def __init__(self, server: str, reason: str, status: int | None = None) -> None:
        super().__init__(f"{server}: {reason}")
        self.server = server
        self.reason = reason
        self.status = status


class NotSentError(EurekaError):
    """Nothing was sent: the transport had been closed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: field for field the request of py_eureka_client, whose functions build it.

    Attributes:
        url: the request target, from the first slash on; the server is the transport's business.
        headers: further header fields.
        method: the HTTP method.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Response:
    """A 2xx answer.

    Attributes:
        body_text: the body, decoded as UTF-8.
        date: the server's time, as its Date field has it; None where there is none.
    """

    body_text: str
    date: str | None = None


class Transport:
    """Exchanges with one server, each on a connection of its own.

    Args:
        address: where the server is, and as whom to speak to it.
        timeout: the upper bound of a whole exchange in seconds, look-up and TLS handshake included.
        body_limit: the largest body that is read, in bytes.
        make_ssl_context: gives the context for https, in a worker thread; called for every exchange.
        proxy: what to go through; the variables of the environment are not read here.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        timeout: float,
        body_limit: int = _MEBIBYTE,
        make_ssl_context: Callable[[], ssl.SSLContext] = default_context,
        proxy: Proxy | None = None,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.body_limit = body_limit
        self._make_ssl_context = make_ssl_context
        self._proxy = proxy
        self._lock = threading.Lock()
        self._closed = False
        self._unfinished = 0
        # Ours, so that hung exchanges never use up the worker threads of anything else, nor of another server.
        self._limiter = anyio.CapacityLimiter(_MOST_UNFINISHED)

    def close(self) -> None:
        """From this call on nothing is sent. Thread-safe, idempotent.

        An exchange that has begun to send is left to come to its end; one that has not fails.
        """
        with self._lock:
            self._closed = True

    async def urlopen(self, request: Request | str, data: bytes | None = None, timeout: float = 0.0) -> Response:  # noqa: ARG002, ASYNC109 - py_eureka_client's signature
        """Exchange one request for one answer.

        Args:
            request: the request, or the target of a GET.
            data: the body.
            timeout: ignored: py_eureka_client passes a constant; the transport's own holds.

        Raises:
            EurekaError: for anything but a 2xx answer within the time-out. A redirect is not followed.
        """
        request = Request(request) if isinstance(request, str) else request
        exchange = _Exchange(self, request, data)
        try:
            with anyio.fail_after(self.timeout):
                return await anyio.to_thread.run_sync(exchange.run, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError as error:
            raise self.error(f"no answer in {self.timeout:g} s") from error
        finally:
            exchange.abandon()

    async def addresses(self) -> int:
        """How many addresses the server's name has, 0 if there is a proxy in between.

        Raises:
            EurekaError: they cannot be looked up in time.
        """
        if self._proxy is not None:
            return 0
        try:
            with anyio.fail_after(self.timeout):
                return await anyio.to_thread.run_sync(self._look_up, abandon_on_cancel=True, limiter=self._limiter)
        except TimeoutError as error:
            raise self.error(f"no answer in {self.timeout:g} s") from error

    def _look_up(self) -> int:
        self.enter()
        try:
            found = socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            raise self.error(_reason(error)) from error
        finally:
            self.leave()
        return len({target[0] for *_, target in found})

    def error(self, reason: str, status: int | None = None) -> EurekaError:
        """An error of this server, named without its credentials, and of the proxy that may be to blame."""
        way = f", through the proxy {self._proxy}" if self._proxy else ""
        return EurekaError(str(self.address), f"{reason}{way}", status)

    def enter(self) -> None:
        """Count an exchange that begins (in its worker thread)."""
        with self._lock:
            if self._unfinished >= _MOST_UNFINISHED:
                raise self.error(f"{_MOST_UNFINISHED} earlier calls still hang (is the name look-up stuck?)")
            self._unfinished += 1

    def leave(self) -> None:
        """Count an exchange that has ended (in its worker thread)."""
        with self._lock:
            self._unfinished -= 1

    def check_open(self) -> None:
        """Refuse to send once the transport is closed."""
        with self._lock:
            if self._closed:
                raise NotSentError(str(self.address), "not sent: the instance is being withdrawn")

    def connection(self, attach: Callable[[socket.socket], None]) -> Connection:
        """A connection of its own for one exchange, which is not connected yet."""
        tls = self._make_ssl_context() if self.address.secure else None
        return Connection(self.address, timeout=self.timeout, attach=attach, tls=tls, proxy=self._proxy)


class _Exchange:
    """One request and its answer in a worker thread, and the handle by which the event loop gives it up."""

    def __init__(self, transport: Transport, request: Request, body: bytes | None) -> None:
        self._transport = transport
        self._request = request
        self._body = body
        self._lock = threading.Lock()
        self._abandoned = False
        self._socket: socket.socket | None = None

    def abandon(self) -> None:
        """Give the exchange up: what is blocked on its socket returns, and nothing is sent any more."""
        with self._lock:
            self._abandoned = True
            if self._socket is not None:
                _shut_down(self._socket)

    def attach(self, sock: socket.socket) -> None:
        """Make `sock` the one that `abandon` shuts down.

        Raises:
            TimeoutError: the exchange was given up in the meantime.
        """
        with self._lock:
            self._socket = sock
            if self._abandoned:
                raise TimeoutError

    def run(self) -> Response:
        """Do the exchange; blocking."""
        self._transport.enter()
        try:
            return self._exchange(self._transport.connection(self.attach))
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._transport.error(_reason(error)) from error
        finally:
            self._transport.leave()

    def _exchange(self, connection: Connection) -> Response:
        transport, request = self._transport, self._request
        try:
            connection.connect()
            # The last look before the first byte: the connection may have taken its time.
            transport.check_open()
            headers = self._headers() | connection.headers()
            connection.request(request.method, connection.target(request.url), self._body, headers)
            with connection.getresponse() as answer:
                return self._checked(answer)
        finally:
            with self._lock:
                self._socket = None
            connection.close()

    def _checked(self, answer: http.client.HTTPResponse) -> Response:
        transport = self._transport
        if 300 <= answer.status < 400:
            raise transport.error(_redirection(answer), answer.status)
        if not 200 <= answer.status < 300:
            raise transport.error(f"HTTP {answer.status}", answer.status)
        body = answer.read(transport.body_limit + 1)
        if len(body) > transport.body_limit:
            raise transport.error(f"an answer of more than {transport.body_limit} bytes")
        if answer.length:
            raise transport.error("the answer breaks off")
        return Response(body.decode(errors="replace"), answer.getheader("Date"))

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/xml", "Connection": "close", **self._request.headers}
        if self._transport.address.authorization is not None:
            headers["Authorization"] = self._transport.address.authorization
        return headers


def _shut_down(sock: socket.socket) -> None:
    # It may not be connected yet, or no longer.
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: it would pull the TLS state from under the thread that is reading.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _redirection(answer: http.client.HTTPResponse) -> str:
    # The host alone: a login page's address carries what the browser sent, and there may be secrets in it.
    try:
        target = urlsplit(answer.getheader("Location", "")).hostname
    except ValueError:
        target = None
    where = f"to {target}" if target else "elsewhere"
    return f"HTTP {answer.status}, a redirect {where} (is a login page or a proxy in front of Eureka?)"


def _reason(error: Exception) -> str:
    match error:
        case socket.gaierror():
            return f"the name cannot be looked up ({error.strerror})"
        case ssl.SSLCertVerificationError():
            hint = "; a private CA belongs into eureka_ca_file" if error.verify_code in _UNKNOWN_ISSUER else ""
            return f"its certificate is not trusted ({error.verify_message}){hint}"
        case ssl.SSLError(reason="TLSV13_ALERT_CERTIFICATE_REQUIRED"):
            return "it wants a client certificate: set eureka_client_cert_file"
        case ssl.SSLEOFError():
            return "TLS fails (the connection breaks off)"
        case ssl.SSLError():
            return f"TLS fails ({error.reason})"
        case TlsFileError():
            return str(error)
        case ConnectionRefusedError():
            return "connection refused"
        case http.client.HTTPException():
            return f"no HTTP answer ({type(error).__name__})"
        case OSError():
            return error.strerror or str(error)
        case _:
            return f"the request cannot be sent ({type(error).__name__})"
