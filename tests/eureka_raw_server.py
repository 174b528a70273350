"""A server that says byte for byte what a test tells it to, for everything a well-behaved one would not do."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from select import select
from types import TracebackType
from typing import Self

import trustme


class RawServer:
    """Listens on loopback; every connection's request is noted and its socket handed to `behave`."""

    def __init__(self, behave: Callable[[socket.socket, "RawServer"], None], host: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self.received = threading.Event()
        self.peer_gone = threading.Event()
        self.closing = threading.Event()
        self._behave = behave
        self._heads: dict[socket.socket, bytes] = {}
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        # A close alone does not wake a thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def head_of(self, sock: socket.socket) -> bytes:
        """What this connection's client has sent so far: the head, and perhaps more."""
        return self._heads[sock]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            self._heads[sock] = head
            self.requests.append(head)
            self.received.set()
            self._behave(sock, self)


class TlsServer(RawServer):
    """The same over TLS.

    Args:
        certificate: the server's own.
        behave: as of `RawServer`.
        client_ca: whose certificate a client must have; by default it needs none.
    """

    def __init__(
        self,
        certificate: trustme.LeafCert,
        behave: Callable[[socket.socket, RawServer], None],
        client_ca: trustme.CA | None = None,
    ) -> None:
        super().__init__(behave)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        if client_ca is not None:
            client_ca.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(sock, True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLError:
                # What the client has sent meanwhile is read away: a reset would overtake the alert that tells it why.
                while socket.socket.recv(tls, 65536):
                    pass
                raise
            super()._serve(tls)


def answering(status: str, body: bytes = b"", *headers: str) -> Callable[[socket.socket, RawServer], None]:
    """Answer every request so."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    return lambda sock, _: sock.sendall(answer)


def hanging(sock: socket.socket, server: RawServer) -> None:
    """Say nothing, and note when the other side goes away."""
    sock.settimeout(0.05)
    while not server.closing.is_set():
        with suppress(TimeoutError):
            if sock.recv(65536) == b"":
                server.peer_gone.set()
                return


def trickling(sock: socket.socket, server: RawServer) -> None:
    """Promise a long body and send it byte by byte, for ever."""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    try:
        while not server.closing.wait(0.02):
            sock.sendall(b".")
    except OSError:
        server.peer_gone.set()


def resetting(sock: socket.socket, server: RawServer) -> None:
    """Break the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def reading(then: Callable[..., None], *, changes: Callable[..., None]) -> Callable[[socket.socket, RawServer], None]:
    """Behave in one way to a GET and in another to everything else."""

    def behave(sock: socket.socket, server: RawServer) -> None:
        (then if server.head_of(sock).startswith(b"GET ") else changes)(sock, server)

    return behave


def forwarding(port: int) -> Callable[[socket.socket, RawServer], None]:
    """Hand the one request of a connection on to a server on loopback, and its answer back."""

    def behave(sock: socket.socket, server: RawServer) -> None:
        request = server.head_of(sock)
        head, _, body = request.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        rest = int(lengths[0]) - len(body) if lengths else 0
        while rest > 0:
            data = sock.recv(65536)
            request, rest = request + data, rest - len(data)
        with socket.create_connection(("127.0.0.1", port), 5) as upstream:
            upstream.sendall(request)
            while data := upstream.recv(65536):
                sock.sendall(data)

    return behave


def proxying(sock: socket.socket, server: RawServer) -> None:
    """Be an HTTP proxy: of plain http by the whole URL in the request line, of anything else by CONNECT."""
    request = server.head_of(sock)
    method, target, _ = request.split(b" ", 2)
    authority, slash, path = target.removeprefix(b"http://").partition(b"/")
    host, _, port = authority.decode().rpartition(":")
    with socket.create_connection((host, int(port)), 5) as upstream:
        if method == b"CONNECT":
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            upstream.sendall(request.replace(target, slash + path, 1))
        _pump(sock, upstream)


def _pump(one: socket.socket, other: socket.socket) -> None:
    while ready := select([one, other], [], [], 10)[0]:
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
