"""What the preStop hook and the app must agree on: the settings that both read, and what they say to each other.

The hook talks to every process of its container in lines:

    hook  graceful/1 prestop elapsed=0.041 grace=130
    app   graceful/1 leaving within=100.0
    app   say out of service on 2 of 2 servers
    app   done left after 95.2 s

The processes of one container ask each other in the same way what they are doing:

    asks     graceful/1 status
    answers  graceful/1 status
             is phase serving
             is instance orders/orders:10.0.0.7:8080
             done

`python -m graceful status` asks so too. `drain pod=1` (`pod=0` where only one process is asked) is answered like
`prestop`, but `within` and `done` are about the whole leave; whoever closes before that does not stop it.
`manifest` is asked and answered like `status`: what the pod's manifest needs to have, in JSON and in pieces
(`encode_long`).

The first line of each side carries the version of the protocol and `key=value` words; whoever does not know a key
ignores it, and so it is with the lines that begin with `is`. The lines after the first are a kind and free text.
Instants are never sent, only durations: the two sides need no common clock.

Where the two meet is in `graceful.rendezvous`. The hook imports both before anything else can happen, at a CPU limit
that may be a twentieth of a core: this module imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the module typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ENV_NAMES",
    "LINE_LIMIT",
    "LineReader",
    "WireError",
    "decode_first",
    "decode_line",
    "decode_long",
    "decode_status",
    "default_instance_id",
    "encode_first",
    "encode_line",
    "encode_long",
    "encode_status",
    "env_duration",
    "env_lookup",
    "env_names",
    "parse_duration",
    "zone_urls",
]

PROTOCOL = "graceful"
VERSION = "1"
LINE_LIMIT = 4096
PIECE = 1000  # characters, of up to four bytes each
"""Bytes of the longest line, its newline included."""
KINDS = ("say", "done", "failed")

ENV_NAMES = {
    "eureka_url": ("GRACEFUL_EUREKA_URL", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "EUREKA_SERVER_URL"),
    "eureka_fetch_interval": ("GRACEFUL_EUREKA_FETCH_INTERVAL", "EUREKA_CLIENT_REGISTRYFETCHINTERVALSECONDS"),
    "app_name": (
        "GRACEFUL_APP_NAME",
        "EUREKA_INSTANCE_APPNAME",
        "SPRING_APPLICATION_NAME",
        "OTEL_SERVICE_NAME",
    ),
    "port": ("GRACEFUL_PORT", "EUREKA_INSTANCE_NONSECUREPORT", "SERVER_PORT"),
    "non_secure_port_enabled": ("GRACEFUL_NON_SECURE_PORT_ENABLED", "EUREKA_INSTANCE_NONSECUREPORTENABLED"),
    "secure_port": ("GRACEFUL_SECURE_PORT", "EUREKA_INSTANCE_SECUREPORT"),
    "secure_port_enabled": ("GRACEFUL_SECURE_PORT_ENABLED", "EUREKA_INSTANCE_SECUREPORTENABLED"),
    "instance_id": ("GRACEFUL_INSTANCE_ID", "EUREKA_INSTANCE_INSTANCEID"),
    "hostname": ("GRACEFUL_HOSTNAME", "EUREKA_INSTANCE_HOSTNAME"),
    "ip_addr": ("GRACEFUL_IP_ADDR", "EUREKA_INSTANCE_IPADDRESS", "POD_IP"),
    "prefer_ip_address": ("GRACEFUL_PREFER_IP_ADDRESS", "EUREKA_INSTANCE_PREFERIPADDRESS"),
    "vip_address": ("GRACEFUL_VIP_ADDRESS", "EUREKA_INSTANCE_VIRTUALHOSTNAME"),
    "secure_vip_address": ("GRACEFUL_SECURE_VIP_ADDRESS", "EUREKA_INSTANCE_SECUREVIRTUALHOSTNAME"),
    "home_page_url": ("GRACEFUL_HOME_PAGE_URL", "EUREKA_INSTANCE_HOMEPAGEURL", "EUREKA_INSTANCE_HOMEPAGEURLPATH"),
    "status_page_url": (
        "GRACEFUL_STATUS_PAGE_URL",
        "EUREKA_INSTANCE_STATUSPAGEURL",
        "EUREKA_INSTANCE_STATUSPAGEURLPATH",
    ),
    "health_check_url": (
        "GRACEFUL_HEALTH_CHECK_URL",
        "EUREKA_INSTANCE_HEALTHCHECKURL",
        "EUREKA_INSTANCE_HEALTHCHECKURLPATH",
    ),
    "secure_health_check_url": ("GRACEFUL_SECURE_HEALTH_CHECK_URL", "EUREKA_INSTANCE_SECUREHEALTHCHECKURL"),
    "zone": ("GRACEFUL_ZONE", "EUREKA_INSTANCE_METADATAMAP_ZONE"),
    "heartbeat_interval": ("GRACEFUL_HEARTBEAT_INTERVAL", "EUREKA_INSTANCE_LEASERENEWALINTERVALINSECONDS"),
    "lease_duration": ("GRACEFUL_LEASE_DURATION", "EUREKA_INSTANCE_LEASEEXPIRATIONDURATIONINSECONDS"),
    "drain_timeout": ("GRACEFUL_DRAIN_TIMEOUT", "SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE"),
}
"""The environment variables of the settings that have more than `GRACEFUL_…`, the first that is set wins."""

ZONE_URL = "EUREKA_CLIENT_SERVICEURL_"
DEFAULT_ZONE = "DEFAULTZONE"


class WireError(ValueError):
    """The other side sent what is no line of this protocol, or of another version of it."""


# --- settings that both sides read ---------------------------------------------------------------------------------


def env_names(setting: str) -> tuple[str, ...]:
    """Return the environment variables that can give a setting its value; the first that is set does."""
    return ENV_NAMES.get(setting, (f"GRACEFUL_{setting.upper()}",))


def env_lookup(setting: str, environ: Mapping[str, str]) -> str | None:
    """Return the value that the environment gives to a setting, under its own name or one users already have.

    Args:
        setting: the setting's name in lower case, such as `"eureka_url"`. For this one the servers of all zones are
            returned, separated by commas.
        environ: the environment; a blank value counts as not set, and so does the address (`tcp://…`) that
            Kubernetes puts into `GRACEFUL_PORT` for a Service named `graceful`.
    """
    for name in env_names(setting):
        value = environ.get(name, "").strip()
        if name == ZONE_URL + DEFAULT_ZONE:
            value = ",".join(zone_urls(environ).values())
        if value and not (setting.endswith("port") and "://" in value):
            return value
    return None


def zone_urls(environ: Mapping[str, str]) -> dict[str, str]:
    """Return Eureka's servers by zone, as `EUREKA_CLIENT_SERVICEURL_<ZONE>` names them: the default zone first."""
    zones = [name[len(ZONE_URL) :] for name in environ if name.startswith(ZONE_URL) and environ[name].strip()]
    zones.sort(key=lambda zone: (zone != DEFAULT_ZONE, zone))
    return {zone: environ[ZONE_URL + zone].strip() for zone in zones}


def env_duration(setting: str, environ: Mapping[str, str]) -> float | None:
    """Return the seconds that the environment gives to a setting, None if it gives nothing.

    Raises:
        ValueError: it gives what is no duration.
    """
    value = env_lookup(setting, environ)
    return None if value is None else parse_duration(value)


def default_instance_id(app: str, ip: str, port: int | str) -> str:
    """Return the id under which an instance registers when none is configured: `orders:10.0.0.7:8080`."""
    return f"{app}:{ip}:{port}".lower()


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "M": 0.001}  # M stands for ms while it is parsed


def parse_duration(text: str) -> float:
    """Return the seconds that a duration in an environment variable stands for.

    Accepts seconds (`"20"`, `"1.5"`), numbers with a unit, the larger first (`"20s"`, `"2m"`, `"1m30s"`, `"500ms"`),
    and the ISO-8601 form that Spring's settings use (`"PT1M30S"`).

    Raises:
        ValueError: `text` is none of these; the message says what was expected.
    """
    rest = text.strip().lower()
    if _is_number(rest):
        return float(rest)
    rest = rest.removeprefix("pt").replace("ms", "M")
    parts = []
    for unit, seconds in _UNITS.items():
        number, found, tail = rest.partition(unit)
        if found and _is_number(number):
            parts.append(float(number) * seconds)
            rest = tail
    if rest or not parts:
        raise ValueError(
            f"{text[:80]!r} is not a duration: expected seconds (20 or 1.5), or numbers with the units h, m, s or ms, "
            "the larger first (20s, 2m, 1m30s)"
        )
    return sum(parts)


def _is_number(text: str) -> bool:
    """Whether `text` is a plain decimal: no sign, exponent, infinity or digits of other scripts, as float() takes."""
    return len(text) <= 24 and text.isascii() and text.replace(".", "", 1).isdigit()


def encode_first(verb: str, **values: float | None) -> bytes:
    """Return the first line of a side, such as `encode_first("prestop", elapsed=0.04, grace=None)`.

    Args:
        verb: what the line is about, in lower-case letters.
        values: durations in seconds; None is sent as `unknown`.
    """
    words = [f"{key}={'unknown' if value is None else format(value, '.3f')}" for key, value in values.items()]
    return " ".join([f"{PROTOCOL}/{VERSION}", verb, *words]).encode("ascii") + b"\n"


def decode_first(line: bytes) -> tuple[str, dict[str, float | None]]:
    """Return verb and durations of a side's first line.

    Raises:
        WireError: it is no such line, or one of another version.
    """
    try:
        text = line.decode("ascii")
    except UnicodeDecodeError:
        raise WireError(f"expected a line of {PROTOCOL}/{VERSION}, got bytes that are not ASCII") from None
    protocol, _, version = text.partition(" ")[0].partition("/")
    if protocol != PROTOCOL or not version:
        raise WireError(f"expected a line that begins with {PROTOCOL}/{VERSION}, got {text[:80]!r}")
    if version != VERSION:
        raise WireError(
            f"the other side speaks {PROTOCOL}/{version[:16]}, this one {PROTOCOL}/{VERSION}: "
            "app and hook must come from the same installation of graceful"
        )
    verb, *words = text.split()[1:] or [""]
    if not (verb.isalpha() and verb.islower()):
        raise WireError(f"expected a verb after {PROTOCOL}/{VERSION}, got {verb[:80]!r}")
    return verb, dict(_decode_word(word) for word in words)


def _decode_word(word: str) -> tuple[str, float | None]:
    key, equals, value = word.partition("=")
    if not (key.isidentifier() and equals):
        raise WireError(f"expected key=value, got {word[:80]!r}")
    if value == "unknown":
        return key, None
    if not _is_number(value):
        raise WireError(f"expected {key}=<seconds> or {key}=unknown, got {word[:80]!r}")
    return key, float(value)


def encode_line(kind: str, text: str) -> bytes:
    """Return a line of free text: `say`, `done` or `failed`.

    What could end the line or drive a terminal becomes a space; what is too long is cut.
    """
    clean = "".join(char if char.isprintable() else " " for char in text)
    room = LINE_LIMIT - len(kind) - 2
    cut = clean.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    return f"{kind} {cut}\n".encode()


def decode_line(line: bytes) -> tuple[str, str]:
    """Return kind and text of a line after the first.

    Raises:
        WireError: its kind is none of `say`, `done` and `failed`.
    """
    kind, _, text = line.decode("utf-8", "replace").partition(" ")
    if kind not in KINDS:
        raise WireError(f"expected one of {', '.join(KINDS)}, got {kind[:80]!r}")
    return kind, "".join(char if char.isprintable() else " " for char in text)


def encode_status(values: Mapping[str, str], verb: str = "status") -> bytes:
    """Return the whole answer to `status`, or to another verb that asks: what a process says of itself."""
    lines = (encode_line("is", f"{key} {value}") for key, value in values.items())
    return b"".join((encode_first(verb), *lines, encode_line("done", "")))


def decode_status(lines: list[bytes], verb: str = "status") -> dict[str, str] | None:
    """Return what `encode_status` was given, None while the answer is not complete.

    Args:
        lines: what has come so far.
        verb: what was asked.

    Raises:
        WireError: it is no such answer.
    """
    if not lines:
        return None
    answered, _ = decode_first(lines[0])
    if answered != verb:
        raise WireError(f"expected the answer to {verb}, got {answered[:80]!r}")
    parts = [line.decode("utf-8", "replace").split(" ", 2) for line in lines[1:]]
    if not any(part[0] == "done" for part in parts):
        return None
    return {part[1]: part[2] for part in parts if part[0] == "is" and len(part) == 3}


def encode_long(text: str) -> dict[str, str]:
    """Return a text that may be longer than a line in pieces, as values for `encode_status`.

    Args:
        text: printable; what is not would become spaces.
    """
    return {str(at): text[at : at + PIECE] for at in range(0, len(text), PIECE)}


def decode_long(values: Mapping[str, str]) -> str:
    """Return the text that `encode_long` was given."""
    return "".join(values[key] for key in sorted(filter(str.isdigit, values), key=int))


class LineReader:
    """Cuts a stream of bytes into lines, and never holds more of it than the longest line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newlines.

        Raises:
            WireError: a line is longer than `LINE_LIMIT`.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= LINE_LIMIT or any(len(line) >= LINE_LIMIT for line in lines):
            self._rest = b""
            raise WireError(f"a line is longer than {LINE_LIMIT} bytes")
        return lines
