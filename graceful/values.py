"""The kinds of values that settings have: what each takes, and how it says what it expects."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from graceful.eureka.address import ServerAddress
from graceful.wire import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DAY",
    "EUREKA_NAMES",
    "Flag",
    "Port",
    "Seconds",
    "Secret",
    "ServiceUrl",
    "ServiceUrls",
    "Stale",
    "Text",
    "Timeout",
    "UrlPath",
    "to_urls",
]

DAY: Final = 86_400
"""Seconds of the longest duration that a setting takes: anything longer is a slip of the unit."""

_PATH: Final = re.compile(r"/[^\s?#]*")


class ServiceUrl:
    """The address of one Eureka server. Its credentials never appear in a text form."""

    __slots__ = ("_public", "_raw")

    def __init__(self, raw: str) -> None:
        self._raw = raw.strip()
        self._public = ServerAddress.parse(self._raw).public

    @property
    def raw(self) -> str:
        """The whole address, credentials included: for the transport only."""
        return self._raw

    @property
    def has_credentials(self) -> bool:
        """Whether a user name or a password stands in the address."""
        return "***@" in self._public

    def __str__(self) -> str:
        """`http://***@host:8761/eureka`."""
        return self._public

    def __repr__(self) -> str:
        return f"ServiceUrl({self._public!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ServiceUrl) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)


def _expecting(what: str) -> WrapValidator:
    """Have every refusal of a value say what is expected, and nothing of what was given: that may be a secret."""

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except (ValueError, OverflowError):  # pydantic's own error is a ValueError
            raise ValueError(f"expected {what}") from None

    return WrapValidator(validate)


def _to_seconds(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    return _no_bool(value)


def _no_bool(value: object) -> object:
    if isinstance(value, bool | bytes):  # which pydantic would take for a number
        raise ValueError  # noqa: TRY004  pydantic takes ValueError; `_expecting` has the words
    return value


def _checked_path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError
    return value


def to_urls(value: object) -> tuple[ServiceUrl, ...]:
    """The servers that a setting names.

    One text may name several, separated by commas; a comma that no scheme follows is part of a password.

    Raises:
        ValueError: it names none, or one in a form that cannot be used. Credentials are not quoted.
    """
    if value is None:  # install(eureka_url=os.environ.get("…"))
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str | ServiceUrl) for each in value):
        raise ValueError("expected the address of an Eureka server, or several, as text")
    return tuple(url for each in value for url in ([each] if isinstance(each, ServiceUrl) else _split_urls(each)))


def _split_urls(text: str) -> list[ServiceUrl]:
    parts = [part for part in re.split(r",\s*(?=https?://)", text.strip().rstrip(", ")) if part]
    try:
        return [_one_url(part) for part in parts]
    except ValueError:
        if "@" not in text:
            raise
    # Said of the whole text: what looks like an address without credentials may be the first half of a password.
    raise ValueError(
        "expected addresses such as https://user:password@host:8761/eureka, separated by commas (what was given is not "
        "shown: it has credentials); percent-encode every special character of name and password (@ is %40, / is %2F, "
        "# is %23, ? is %3F, a comma is %2C)"
    )


def _one_url(text: str) -> ServiceUrl:
    if "," in text.rpartition("@")[2]:
        raise ValueError(f"expected every server of a list with its own http:// or https://, got {text!r}")
    return ServiceUrl(text)


Seconds = Annotated[
    float,
    BeforeValidator(_to_seconds),
    Field(ge=0, le=DAY, allow_inf_nan=False),
    _expecting(f"seconds from 0 to {DAY} (a day), or a text such as '20s' or '1m30s'"),
]
Timeout = Annotated[
    float,
    BeforeValidator(_to_seconds),
    Field(gt=0, le=DAY, allow_inf_nan=False),
    _expecting(f"seconds, more than 0 and at most {DAY} (a day), or a text such as '20s' or '1m30s'"),
]
Port = Annotated[
    int, BeforeValidator(_no_bool), Field(ge=1, le=65_535), _expecting("a whole number from 1 to 65535, such as 8080")
]
Flag = Annotated[bool, _expecting("true or false")]
Stale = Annotated[Literal["clear", "respect"], _expecting("'clear' or 'respect'")]
Text = Annotated[str, Field(min_length=1), _expecting("a text that is not empty")]
Secret = Annotated[SecretStr, Field(min_length=1), _expecting("a text that is not empty")]
UrlPath = Annotated[str, AfterValidator(_checked_path), _expecting("a path such as '/healthz'")]
ServiceUrls = Annotated[
    tuple[ServiceUrl, ...],
    BeforeValidator(to_urls),
    PlainSerializer(lambda urls: [str(url) for url in urls], when_used="json"),
]


def _is_app_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None


def _is_host(text: str) -> bool:
    return re.fullmatch(r"[^\s/@?#\\]+", text) is not None


def _is_path_segment(text: str) -> bool:
    return text not in {".", ".."} and text.isprintable() and not set(text) & {"/", " "}


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


EUREKA_NAMES: Final[tuple[tuple[str, Callable[[str], bool], str], ...]] = (
    ("app_name", _is_app_name, "letters, digits, '.', '_' and '-', beginning with a letter or digit"),
    ("instance_id", _is_path_segment, "printable text without spaces and slashes, such as 'orders:10.0.0.7:8080'"),
    ("hostname", _is_host, "a host name such as 'orders.example.org', or an IP address"),
    ("ip_addr", _is_ip_address, "an IP address such as '10.0.0.7'"),
)
"""Settings that become part of what is registered: the name, whether a text will do, and what is expected."""
