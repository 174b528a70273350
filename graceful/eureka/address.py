"""Where an Eureka server is, and how to name it in public."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

__all__ = ["ServerAddress"]


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server's base URL, taken apart. Its `str` and `repr` never show the credentials.

    Attributes:
        host: name or IP address, without the brackets of IPv6.
        port: from the URL, else 443 for https and 80 for http.
        path: the base path without a slash at its end, e.g. `/eureka`.
        secure: whether it is https.
        authorization: the value of the Authorization field, or None.
        public: the URL, with `***` in the place of the credentials.
    """

    host: str = field(repr=False)
    port: int = field(repr=False)
    path: str = field(repr=False)
    secure: bool = field(repr=False)
    authorization: str | None = field(repr=False)
    public: str

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """Read a base URL such as `https://user:secret@eureka:8761/eureka`.

        Any host the operating system can look up will do (with underscores too), and IPv6 in brackets. Name and
        password may hold any character, percent-encoded; the password may be left out.

        Args:
            url: one URL; a list of servers is split by the caller.

        Raises:
            ValueError: it is no such URL. The message does not contain credentials.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = _host(parts), parts.port
        except ValueError:
            # Without the cause: urllib quotes what it could not read, and that may be a part of a password.
            raise _refusal(url) from None
        # An `@` further right means that a `/`, `?` or `#` of the password has cut the URL short.
        if parts.scheme not in {"http", "https"} or not host or port == 0 or "@" in parts.path:
            raise _refusal(url)
        if parts.query or parts.fragment:
            raise _refusal(url)
        secure = parts.scheme == "https"
        userinfo, at, location = parts.netloc.rpartition("@")
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        return cls(
            host=host,
            port=port or (443 if secure else 80),
            path=path,
            secure=secure,
            authorization=_basic(userinfo) if at else None,
            public=f"{parts.scheme}://{'***@' if at else ''}{location}{path}",
        )

    def __str__(self) -> str:
        return self.public

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL: ASCII, IPv6 in brackets, without the scheme's own port."""
        own = self.port == (443 if self.secure else 80)
        return self.authority_with_port.rpartition(":")[0] if own else self.authority_with_port

    @property
    def authority_with_port(self) -> str:
        """The same with the port in any case."""
        host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode("ascii")
        return f"{host}:{self.port}"


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if any(character.isspace() or not character.isprintable() for character in host):
        raise ValueError
    # Fails for labels that no look-up would take: empty ones, ones of more than 63 bytes.
    host.encode("idna")
    return host


def _basic(userinfo: str) -> str:
    name, _, password = userinfo.partition(":")
    pair = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
    return f"Basic {base64.b64encode(pair).decode()}"


def _refusal(url: str) -> ValueError:
    given = "the one given (not shown: it has credentials)" if "@" in url else repr(url)
    return ValueError(
        f"an Eureka URL must look like http://host:8761/eureka or https://user:password@host/eureka, and {given} does "
        "not; percent-encode every special character of name and password (@ is %40, / is %2F, # is %23, ? is %3F)"
    )
