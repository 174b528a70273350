"""One connection to one Eureka server: directly or through a proxy, in plain text or over TLS."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from graceful.eureka.address import ServerAddress
    from graceful.eureka.proxy import Proxy

__all__ = ["Connection"]


class Connection(http.client.HTTPConnection):
    """A connection that hands every socket it opens to its exchange before it blocks on it.

    Args:
        address: where the server is.
        timeout: for each step, in seconds; the exchange has the upper bound of the whole.
        attach: takes the socket, so that another thread can shut it down.
        tls: the context of an https server, else None.
        proxy: what to connect to in place of the server.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        timeout: float,
        attach: Callable[[socket.socket], None],
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        # Read by the base class: a port that is not the default belongs into the Host field.
        self.default_port = http.client.HTTPS_PORT if address.secure else http.client.HTTP_PORT
        super().__init__(address.host, address.port, timeout=timeout)
        self._address = address
        self._attach = attach
        self._tls = tls
        self._proxy = proxy

    def connect(self) -> None:
        """Connect to the first address that answers."""
        failure: OSError | None = None
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self.host, self.port)
        for family, kind, protocol, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                self.sock = self._open(socket.socket(family, kind, protocol), target)
            except TimeoutError:
                raise
            except OSError as error:
                failure = error
            else:
                return
        raise failure or OSError(f"the name {host} has no address")

    def target(self, path: str) -> str:
        """What stands in the request line: for a proxy of plain http the whole URL."""
        return f"http://{self._address.authority}{path}" if self._proxy and self._tls is None else path

    def headers(self) -> dict[str, str]:
        """The fields that are meant for the proxy and not for the server."""
        if self._proxy is None or self._tls is not None or self._proxy.authorization is None:
            return {}
        return {"Proxy-Authorization": self._proxy.authorization}

    def _open(self, sock: socket.socket, target: object) -> socket.socket:
        try:
            self._attach(sock)
            sock.settimeout(self.timeout)
            sock.connect(target)  # type: ignore[arg-type]  # typeshed has no name for getaddrinfo's address
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                if self._proxy is not None:
                    self._pass_through(sock, self._proxy)
                # The handshake comes second: it blocks, and must not do so on a socket that cannot be shut down.
                sock = self._tls.wrap_socket(sock, server_hostname=self.host, do_handshake_on_connect=False)
                self._attach(sock)
                sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock

    def _pass_through(self, sock: socket.socket, proxy: Proxy) -> None:
        """Have the proxy connect to the server (RFC 9110, 9.3.6); from then on it only passes bytes on.

        Raises:
            OSError: it does not. An HTTP status of the proxy's is none of the server's: a 404 would read as absent.
        """
        authority = self._address.authority_with_port
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
        # Its buffer takes no byte of the server's: in TLS the client speaks first.
        with http.client.HTTPResponse(sock, method="CONNECT") as answer:
            answer.begin()
            if not 200 <= answer.status < 300:
                raise OSError(f"HTTP {answer.status} to CONNECT")
