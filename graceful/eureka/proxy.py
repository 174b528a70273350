"""The proxies that the environment names, for those who ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second; proxy_bypass differs on a Mac
    getproxies_environment,
    proxy_bypass_environment,
)

from graceful.eureka.address import ServerAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Proxies", "Proxy"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. Its `str` and `repr` never show the credentials.

    Attributes:
        host: name or IP address, without the brackets of IPv6.
        port: from the URL, else 80.
        authorization: the value of the Proxy-Authorization field, or None.
        public: the URL, with `***` in the place of the credentials.
    """

    host: str = field(repr=False)
    port: int = field(repr=False)
    authorization: str | None = field(repr=False)
    public: str

    @classmethod
    def parse(cls, text: str, variable: str) -> Proxy:
        """Read `http://user:password@proxy:3128`; the scheme may be left out.

        Args:
            text: what the variable says.
            variable: its name, for the error.

        Raises:
            ValueError: it is no such address. The message quotes nothing of it.
        """
        url = text.strip()
        try:
            address = ServerAddress.parse(url if "://" in url else f"http://{url}")
        except ValueError:
            address = None
        if address is None or address.secure or address.path:
            raise ValueError(
                f"{variable} (not shown: it may have credentials) must look like http://proxy:3128 or "
                "http://user:password@proxy:3128, with special characters percent-encoded: only plain-text HTTP "
                "proxies are supported; correct it, put the Eureka server into NO_PROXY, or leave eureka_use_proxy out"
            )
        return cls(address.host, address.port, address.authorization, address.public)

    def __str__(self) -> str:
        return self.public


class Proxies:
    """What `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say, in capitals or small letters, at the time of the call.

    `NO_PROXY` is read as `urllib.request` does: names and their subdomains, `host:port`, `*`; no networks
    (`10.0.0.0/8`). In a CGI process `HTTP_PROXY` is not believed, because a request's field could set it.
    """

    def __init__(self) -> None:
        self._texts: Mapping[str, str] = getproxies_environment()

    def for_server(self, address: ServerAddress) -> Proxy | None:
        """The proxy on the way to a server, or None where there is none.

        Raises:
            ValueError: the environment names one in a form that cannot be used.
        """
        scheme = "https" if address.secure else "http"
        text = self._texts.get(scheme)
        if not text or self._bypasses(address):
            return None
        return Proxy.parse(text, f"{scheme.upper()}_PROXY")

    def _bypasses(self, address: ServerAddress) -> bool:
        # Without its port too: urllib takes the end of a bare IPv6 address for one.
        forms = (address.host, address.authority_with_port)
        return any(proxy_bypass_environment(form, dict(self._texts)) for form in forms)
