"""A server that says byte for byte what a test tells it to, for everything a well-behaved one would not do."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class RawServer:
    """Listens on loopback; every connection's request is noted and its socket handed to `behave`."""

    def __init__(self, behave: Callable[[socket.socket, "RawServer"], None], host: str = "127.0.0.1") -> None:
        self.requests: list[bytes] = []
        self.received = threading.Event()
        self.peer_gone = threading.Event()
        self.closing = threading.Event()
        self._behave = behave
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
            self.requests.append(head)
            self.received.set()
            self._behave(sock, self)


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
