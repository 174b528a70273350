"""Short answers of our own, in text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from graceful.http.asgi import Scope, Send

__all__ = ["answer", "closing"]

_CLOSE: Final = (b"connection", b"close")


async def answer(
    scope: Scope, send: Send, status: int, text: str, *headers: tuple[bytes, bytes], close: bool = False
) -> None:
    """Answer a request with a status and a line of text; with `close`, it is the connection's last."""
    body = text.encode() + b"\n"
    start = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *headers,
    ]
    await send(
        {"type": "http.response.start", "status": status, "headers": closing(scope, start) if close else start},
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def closing(scope: Scope, headers: Any) -> list[tuple[bytes, bytes]]:
    """The headers with `Connection: close`; HTTP/2 and later have no such header (RFC 9113 8.2.2)."""
    kept = [(name, value) for name, value in headers if name.lower() != b"connection"]
    return [*kept, _CLOSE] if scope.get("http_version", "1.1").startswith("1") else list(headers)
