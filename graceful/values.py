"""The kinds of values that settings have: what each takes, and how it says what it expects."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

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
    "CloseCode",
    "FilePath",
    "Flag",
    "HeaderName",
    "Layout",
    "Metadata",
    "PageUrl",
    "Port",
    "Probability",
    "Seconds",
    "Secret",
    "ServiceUrl",
    "ServiceUrls",
    "Stale",
    "Text",
    "Timeout",
    "Token",
    "UrlPath",
    "Zone",
    "same_zone",
    "to_urls",
]

DAY: Final = 86_400
"""Seconds of the longest duration that a setting takes: anything longer is a slip of the unit."""

_PATH: Final = re.compile(r"/[^\s?#]*")
_TOKEN: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
"""RFC 9110 5.6.2."""
_LIKELIEST: Final = 0.1
"""A risk of losing requests that is larger is a slip of the decimal point."""
_SHORTEST_TOKEN: Final = 16
"""Characters: fewer can be guessed, by somebody with time."""
_PAGE: Final = re.compile(r"(https?://[^\s/?#@]+)?/\S*|https?://[^\s/?#@]+")


class ServiceUrl:
    """The address of one Eureka server. Its credentials never appear in a text form.

    Args:
        raw: the whole address.
        zone: the zone that it serves, if one was named.
    """

    __slots__ = ("_public", "_raw", "zone")

    def __init__(self, raw: str, zone: str = "") -> None:
        self.zone = zone
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


def _matching(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return value

    return AfterValidator(check)


def _checked_close_code(value: int) -> int:
    # RFC 6455 7.4 and the IANA registry: the others are for endpoints' own use, or never on the wire.
    if value not in {1000, 1001, 1008, 1011, 1012, 1013, 1014} and not 3000 <= value <= 4999:
        raise ValueError
    return value


def _printable_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < _SHORTEST_TOKEN or not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError
    return value


def to_urls(value: object) -> tuple[ServiceUrl, ...]:
    """The servers that a setting names.

    One text may name several, separated by commas; a comma that no scheme follows is part of a password. A mapping
    names the servers of each zone; one that stands in two zones belongs to the first.

    Raises:
        ValueError: it names none, or one in a form that cannot be used. Credentials are not quoted.
    """
    if value is None:  # install(eureka_url=os.environ.get("…"))
        return ()
    if isinstance(value, Mapping):
        zoned = [ServiceUrl(url.raw, str(zone)) for zone, urls in value.items() for url in to_urls(urls)]
        return tuple(dict.fromkeys(zoned))
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(each, str | ServiceUrl) for each in value):
        raise ValueError("expected the address of an Eureka server, or several, as text")
    return tuple(url for each in value for url in ([each] if isinstance(each, ServiceUrl) else _split_urls(each)))


def same_zone(one: str, other: str) -> bool:
    """Whether two names mean the same zone: by letters and digits alone, since a variable's name has no others."""
    return _letters_and_digits(one) == _letters_and_digits(other)


def _letters_and_digits(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _to_metadata(value: object) -> dict[str, str]:
    """Texts by key, from a mapping, from JSON, or from `key=value,key=value`; empty values are left out, as by Spring.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, str):
        value = json.loads(value) if value.strip().startswith("{") else dict(map(_pair, value.split(",")))
    if not isinstance(value, Mapping):
        raise ValueError  # noqa: TRY004  pydantic takes ValueError; `_expecting` has the words
    entries = {key: _as_text(entry) for key, entry in value.items()}
    if not all(isinstance(text, str) and text.isprintable() for entry in entries.items() for text in entry):
        raise ValueError
    if "" in entries or "@class" in entries:  # the latter is Jackson's own, and lost on the server
        raise ValueError
    return {key: entry for key, entry in entries.items() if entry}


def _as_text(entry: Any) -> Any:
    return json.dumps(entry) if isinstance(entry, bool | int | float) else entry


def _pair(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise ValueError
    return key.strip(), value.strip()


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
CloseCode = Annotated[
    int,
    BeforeValidator(_no_bool),
    AfterValidator(_checked_close_code),
    _expecting("a close code that a server may send: 1000, 1001, 1008, 1011 to 1014, or 3000 to 4999"),
]
Probability = Annotated[
    float,
    BeforeValidator(_no_bool),
    Field(gt=0, le=_LIKELIEST, allow_inf_nan=False),
    _expecting(f"a probability, more than 0 and at most {_LIKELIEST}, such as 0.001"),
]
Flag = Annotated[bool, _expecting("true or false")]
Stale = Annotated[Literal["clear", "respect"], _expecting("'clear' or 'respect'")]
Layout = Annotated[Literal["auto", "text", "json"], _expecting("'auto', 'text' or 'json'")]
Text = Annotated[str, Field(min_length=1), _expecting("a text that is not empty")]
Secret = Annotated[SecretStr, Field(min_length=1), _expecting("a text that is not empty")]
Token = Annotated[
    SecretStr,
    AfterValidator(_printable_secret),
    _expecting("a secret of at least 16 printable ASCII characters, such as `openssl rand -hex 16` prints"),
]
HeaderName = Annotated[str, _matching(_TOKEN), _expecting("the name of a header, such as 'X-Client-Id'")]
FilePath = Annotated[str, _matching(re.compile(r"/[^\0]*|off")), _expecting("an absolute path, or 'off'")]
UrlPath = Annotated[str, _matching(_PATH), _expecting("a path such as '/healthz'")]
PageUrl = Annotated[
    str,
    _matching(_PAGE),
    _expecting("a path such as '/healthz', or a URL such as 'https://orders.example.org/' without credentials"),
]
Zone = Annotated[str, _matching(re.compile(r"[^\s,]*\w[^\s,]*")), _expecting("a zone's name, such as 'eu-west-1a'")]
Metadata = Annotated[
    Mapping[str, str],
    BeforeValidator(_to_metadata),
    _expecting("printable texts by key: a mapping, as text in JSON or as 'version=3,team=orders'"),
]
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


_VIP: Final = "the name that callers look up, such as 'orders', without spaces and slashes"
EUREKA_NAMES: Final[tuple[tuple[str, Callable[[str], bool], str], ...]] = (
    ("app_name", _is_app_name, "letters, digits, '.', '_' and '-', beginning with a letter or digit"),
    ("instance_id", _is_path_segment, "printable text without spaces and slashes, such as 'orders:10.0.0.7:8080'"),
    ("hostname", _is_host, "a host name such as 'orders.example.org', or an IP address"),
    ("ip_addr", _is_ip_address, "an IP address such as '10.0.0.7'"),
    ("vip_address", _is_path_segment, _VIP),
    ("secure_vip_address", _is_path_segment, _VIP),
)
"""Settings that become part of what is registered: the name, whether a text will do, and what is expected."""
