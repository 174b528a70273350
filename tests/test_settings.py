"""Settings: where they come from, what they take, what their errors say, and what they never say."""

from __future__ import annotations

import copy
import math
import os
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from graceful import prestop_eureka, wire
from graceful.core.silence import EarlyEndRule
from graceful.environment import find_variable
from graceful.installation import install
from graceful.settings import ServiceUrl, Settings, SettingsError, load_settings, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EUREKA = {"eureka_url": "http://eureka:8761/eureka", "app_name": "orders", "port": 8080}
DURATIONS = [name for name, field in Settings.model_fields.items() if "float" in str(field.annotation)]
DURATIONS.remove("early_end_risk")
SWITCHES = [
    "enabled",
    "deadline_report_query",
    "early_end",
    "eureka_observe_cache",
    "eureka_status_only",
    "eureka_use_proxy",
    "hold_signals",
    "probes",
    "kubernetes",
    "scope_notice",
    "non_secure_port_enabled",
    "secure_port_enabled",
    "prefer_ip_address",
]
PAGES = ["home_page_url", "status_page_url", "health_check_url", "secure_health_check_url"]
POSITIVE = {"grace_period", "readiness_timeout", "eureka_fetch_interval", "heartbeat_interval", "lease_duration"}


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, values, clear=True):
        yield


def load(arguments: Mapping[str, Any] = {}, **environ: str) -> Settings:
    with environment(environ):
        return load_settings(arguments)


def refusal(arguments: Mapping[str, Any] = {}, **environ: str) -> str:
    with pytest.raises(SettingsError) as error:
        load(arguments, **environ)
    return str(error.value)


# --- where a value comes from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_read_from_every_one_of_its_variables(name: str) -> None:
    """Under its own name and those that users already have; blanks around a value are none of it."""
    texts: dict[str, tuple[str, object]] = {
        "eureka_url": ("http://e:1", (ServiceUrl("http://e:1"),)),
        "port": ("8123", 8123),
        "eureka_client_key_password": ("p4ss", SecretStr("p4ss")),
        "prestop_token": ("0123456789abcdef", SecretStr("0123456789abcdef")),
        "prestop_path": ("/stop", "/stop"),
        "early_end_risk": ("0.01", 0.01),
        "early_end_caller_header": ("X-Client-Id", "X-Client-Id"),
        "eureka_stale": ("respect", "respect"),
        "deadline_report_format": ("json", "json"),
        "termination_log": ("/dev/termination-log", "/dev/termination-log"),
        "websocket_close_code": ("3001", 3001),
        "secure_port": ("8443", 8443),
        "metadata": ("version=3", {"version": "3"}),
        **dict.fromkeys(["livez_path", "readyz_path", *PAGES], ("/live", "/live")),
        **dict.fromkeys(SWITCHES, ("true", True)),
        **dict.fromkeys(DURATIONS, ("1m30s", 90.0)),
    }
    text, value = texts.get(name, ("10.0.0.9", "10.0.0.9"))
    more: dict[str, dict[str, Any]] = {
        "eureka_url": {"app_name": "orders", "port": 8080},
        "eureka_status_only": {"eureka_url": "http://e:1", "app_name": "orders", "instance_id": "orders-1"},
    }
    for variable in wire.env_names(name):
        assert getattr(load(more.get(name, {}), **{variable: f" {text} "}), name) == value


def test_arguments_win_over_the_environment_also_when_they_are_none() -> None:
    """Over a variable of ours and over an alias."""
    assert load({"drain_timeout": 3}, GRACEFUL_DRAIN_TIMEOUT="9").drain_timeout == 3
    assert load({"drain_timeout": "3"}, SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE="9").drain_timeout == 3
    assert load({"app_name": "own"}, GRACEFUL_APP_NAME="env", OTEL_SERVICE_NAME="otel").app_name == "own"
    assert load({"app_name": None}, OTEL_SERVICE_NAME="otel").app_name is None
    assert load({"eureka_url": None}, EUREKA_SERVER_URL="http://e").eureka_url == ()


def test_the_own_variable_wins_over_aliases_unless_it_is_blank() -> None:
    """In the order of the hook's table."""
    everywhere = {name: name.lower() for name in wire.env_names("app_name")}
    for name in wire.env_names("app_name"):
        assert load({}, **everywhere).app_name == name.lower()
        everywhere[name] = "  "
    assert load({}, **everywhere).app_name is None


@given(st.dictionaries(st.sampled_from([name for names in wire.ENV_NAMES.values() for name in names]), st.text("a ")))
def test_app_and_hook_read_the_same(environ: dict[str, str]) -> None:
    """Whatever is set or blank, both take the same variable."""
    for setting in wire.ENV_NAMES:
        found = find_variable(setting, environ)
        assert (found.value if found else None) == wire.env_lookup(setting, environ)


zones = st.sampled_from(["DEFAULTZONE", "A", "B", "EU_WEST_1A"])
servers = st.lists(st.sampled_from(["http://a", "https://u:p,w@b/e", "http://c:1"]), max_size=2).map(",".join)


@given(st.dictionaries(zones, servers), st.sampled_from(["", "http://own"]))
def test_app_and_hook_know_the_same_servers(urls: dict[str, str], own: str) -> None:
    """Those of every zone, in the same order; the app asks each once, the hook may do so twice."""
    environ = {f"EUREKA_CLIENT_SERVICEURL_{zone}": text for zone, text in urls.items()} | {"GRACEFUL_EUREKA_URL": own}
    hook = prestop_eureka.split_urls(wire.env_lookup("eureka_url", environ) or "")
    app = load({"app_name": "orders", "port": 1}, **environ).eureka_url
    assert list(dict.fromkeys(hook)) == list(dict.fromkeys(url.raw for url in app))
    everywhere = [url for text in urls.values() for url in prestop_eureka.split_urls(text)]
    assert {*hook} == ({own} if own else {*everywhere})


def test_nothing_but_its_own_names_is_read() -> None:
    """Neither without the prefix, nor in lower case, which the hook does not read either."""
    settings = load(PORT="9", MARGIN="9", graceful_margin="9", port="9")
    assert (settings.port, settings.margin) == (None, 2.0)


def test_the_defaults() -> None:
    """Of a service that has set nothing, on a laptop and in Kubernetes."""
    laptop, pod = load(), load(KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert (laptop.kubernetes, laptop.propagation) == (False, 0.0)
    assert (pod.kubernetes, pod.propagation) == (True, 10.0)
    assert load(GRACEFUL_KUBERNETES="false", KUBERNETES_SERVICE_HOST="10.0.0.1").kubernetes is False
    assert laptop.in_kubernetes() == pod
    assert load({"kubernetes": False}).in_kubernetes().kubernetes is False


def test_the_propagation_is_the_longer_of_eureka_and_kubernetes() -> None:
    """Unless it is set."""
    assert load(EUREKA).propagation == 95
    assert load(EUREKA | {"eureka_client_fetch_delay": 5}).propagation == 70
    fast = dict.fromkeys(["eureka_server_cache_delay", "eureka_client_fetch_delay", "eureka_load_balancer_delay"], 1)
    assert load(EUREKA | fast, KUBERNETES_SERVICE_HOST="10.0.0.1").propagation == 10
    assert load(EUREKA | {"propagation_delay": 0}, KUBERNETES_SERVICE_HOST="10.0.0.1").propagation == 0


def test_the_plan_keeps_no_time_for_a_registry_that_is_not_there() -> None:
    """And as much for the cleanup as its callbacks ask for."""
    settings = load(EUREKA)
    assert settings.plan(registry=True).total == 130
    assert settings.plan(registry=False).total == 122
    assert settings.plan(registry=True, cleanup=3).cleanup == 5
    assert settings.plan(registry=True, cleanup=12).cleanup == 12


def test_the_grace_period_is_what_was_set_or_what_is_given_by_default() -> None:
    """In Kubernetes the 30 s of a pod that does not say, elsewhere the whole plan."""
    plan = load(EUREKA).plan(registry=True)
    assert load(EUREKA).effective_grace_period(plan) == 130
    assert load(EUREKA, KUBERNETES_SERVICE_HOST="x").effective_grace_period(plan) == 30
    assert load(EUREKA | {"grace_period": "2m"}, KUBERNETES_SERVICE_HOST="x").effective_grace_period(plan) == 120


# --- durations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "seconds"), [(20, 20), (1.5, 1.5), ("20", 20), ("20s", 20), ("2m", 120), ("1m30s", 90), ("PT1M", 60)]
)
@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_a_number_or_a_text(name: str, given_as: float | str, seconds: float) -> None:
    """Every one of them."""
    assert getattr(load({name: given_as}), name) == seconds


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1e-9,
        math.nan,
        math.inf,
        -math.inf,
        86_401,
        10**400,
        10**5000,
        True,
        b"5",
        [],
        "",
        "-1",
        "nan",
        "1e5",
        "soon",
    ],
    ids=lambda value: "huge" if isinstance(value, int) and value > 10**9 else repr(value),
)
@pytest.mark.parametrize("name", DURATIONS)
def test_what_is_no_duration_is_refused(name: str, value: object) -> None:
    """The message has what was given, what is expected and what to do."""
    message = refusal({name: value})
    expected = (
        "seconds, more than 0 and at most 86400 (a day)" if name in POSITIVE else "seconds from 0 to 86400 (a day)"
    )
    assert message.startswith(f"{name} is ")
    assert message.endswith(f": expected {expected}, or a text such as '20s' or '1m30s'; correct the argument {name}")
    assert len(message) < 250


@pytest.mark.parametrize("name", sorted(POSITIVE))
def test_no_time_at_all_is_refused_where_it_makes_no_sense(name: str) -> None:
    """A grace period of 0 is SIGKILL."""
    assert refusal({name: 0}).startswith(f"{name} is 0: expected seconds, more than 0")


@given(st.sampled_from(DURATIONS), st.text(max_size=30) | st.floats() | st.integers())
def test_any_value_for_a_duration_is_taken_or_refused(name: str, value: object) -> None:
    """Nothing else is raised, and what is taken is finite and within a day."""
    try:
        seconds = getattr(load({name: value}), name)
    except SettingsError as error:
        assert "\n" not in str(error)  # noqa: PT017  both ways are fine
    else:
        assert 0 <= seconds <= 86_400


def test_a_plan_of_more_than_a_day_is_refused() -> None:
    """Each part alone would do."""
    message = refusal({"drain_timeout": "20h", "propagation_delay": "5h"})
    assert "propagation 18000s + drain 72000s" in message
    assert message.endswith("is longer than a day: shorten the longest of them")


# --- other values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["eighty", 0, 65_536, -1, 80.5, True, "", "0x50", [], b"80"])
def test_what_is_no_port_is_refused(value: object) -> None:
    """A bool is none, though Python takes it for 1."""
    message = refusal({"port": value})
    assert message.startswith("port is ")
    assert message.endswith(": expected a whole number from 1 to 65535, such as 8080; correct the argument port")


def test_a_value_from_the_environment_is_refused_with_its_variable() -> None:
    """The one that was set, not the one that could have been."""
    assert refusal(GRACEFUL_PORT="eighty") == (
        "port is 'eighty' (GRACEFUL_PORT): expected a whole number from 1 to 65535, such as 8080; correct GRACEFUL_PORT"
    )
    message = refusal(SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE="soon")
    assert message.startswith("drain_timeout is 'soon' (SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE): expected seconds")
    assert message.endswith("; correct SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE")


def test_an_argument_is_not_blamed_on_a_variable_that_it_overrides() -> None:
    """Though the variable is set too."""
    assert refusal({"port": "eighty"}, GRACEFUL_PORT="80").endswith("; correct the argument port")


def test_all_problems_are_told_at_once() -> None:
    """One start, one list."""
    message = refusal({"port": 0, "margin": -1}, GRACEFUL_ENABLED="perhaps")
    assert "port is 0" in message
    assert "margin is -1" in message
    assert "enabled is 'perhaps' (GRACEFUL_ENABLED): expected true or false" in message


@pytest.mark.parametrize(("text", "value"), [("true", True), ("0", False), ("off", False), ("yes", True)])
def test_a_switch_takes_what_people_write(text: str, value: bool) -> None:
    """`GRACEFUL_ENABLED=off` too."""
    assert load(GRACEFUL_ENABLED=text).enabled is value


@pytest.mark.parametrize("path", ["live", "", "/a b", "/a?b", "/a#b", 5])
def test_what_is_no_path_is_refused(path: object) -> None:
    """A probe's path has no query; None switches the probe off."""
    assert refusal({"livez_path": path}).endswith(
        ": expected a path such as '/healthz'; correct the argument livez_path"
    )
    assert load({"livez_path": None}).livez_path is None


@pytest.mark.parametrize("risk", [0, -0.1, 0.2, 1, "often", True, math.nan, "1e-3s"])
def test_what_is_no_small_probability_is_refused(risk: object) -> None:
    """A risk of one in ten is a slip of the decimal point already."""
    assert ": expected a probability, more than 0 and at most 0.1, such as 0.001; correct the argument" in refusal(
        {"early_end_risk": risk}
    )
    assert load(GRACEFUL_EARLY_END_RISK="1e-4").early_end_risk == 1e-4


@pytest.mark.parametrize("name", ["X Client", "", "X-Client:", "x\n", "Übung", 7])
def test_what_is_no_header_is_refused(name: object) -> None:
    """A header's name is a token (RFC 9110 5.1)."""
    assert refusal({"early_end_caller_header": name}).endswith(
        ": expected the name of a header, such as 'X-Client-Id'; correct the argument early_end_caller_header"
    )


def test_the_early_end_waits_for_kubernetes() -> None:
    """What comes through a Service has its node's address: its silence says nothing of one caller."""
    assert load().early_end_rule is None
    assert load({"early_end": True, "kubernetes": False}).early_end_rule == EarlyEndRule(0.001)
    assert load({"early_end": True, "kubernetes": True, "early_end_risk": 0.01}).early_end_rule == EarlyEndRule(
        0.01, 10
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("app_name", "my orders", "letters, digits, '.', '_' and '-'"),
        ("app_name", "orders/v2", "letters, digits, '.', '_' and '-'"),
        ("app_name", "-", "letters, digits, '.', '_' and '-'"),
        ("instance_id", "orders/1", "printable text without spaces and slashes"),
        ("instance_id", "..", "printable text without spaces and slashes"),
        ("hostname", "http://orders", "a host name such as"),
        ("ip_addr", "orders", "an IP address such as"),
        ("ip_addr", "10.0.0", "an IP address such as"),
        ("vip_address", "orders v2", "the name that callers look up"),
        ("secure_vip_address", "orders/v2", "the name that callers look up"),
    ],
)
def test_what_eureka_cannot_use_is_refused(name: str, value: str, expected: str) -> None:
    """From an argument and from a variable; without Eureka it does no harm."""
    message = refusal(EUREKA | {name: value})
    assert message.startswith(f"{name} is {value!r}, which Eureka cannot use: expected {expected}")
    assert message.endswith(f"; correct the argument {name}")
    variable = wire.env_names(name)[-1]
    rest = {key: given for key, given in EUREKA.items() if key != name}
    assert refusal(rest, **{variable: value}).startswith(f"{name} is {value!r} ({variable}), which Eureka cannot use")
    assert getattr(load({name: value}), name) == value


def test_eureka_needs_name_and_port() -> None:
    """The message says where to give them."""
    assert refusal({"eureka_url": "http://e"}) == (
        "eureka_url is set, but app_name and port are not: Eureka needs to know what is where; pass "
        "install(app_name=…, port=…) or set GRACEFUL_APP_NAME and GRACEFUL_PORT"
    )
    assert "but port is not" in refusal({"app_name": "orders"}, EUREKA_SERVER_URL="http://e")


def test_status_only_needs_the_others_name_for_the_instance() -> None:
    """A wrong id would read as absent, which is verified: it is not guessed. The port is the service's own business."""
    status_only = {"eureka_status_only": True, "eureka_url": "http://e", "app_name": "orders"}
    assert refusal(status_only | {"port": 8080}) == (
        "eureka_status_only is set, but instance_id is not: the instance must be called as the one who registers it "
        "does; pass install(instance_id=…) or set GRACEFUL_INSTANCE_ID"
    )
    assert "but eureka_url and app_name are not" in refusal(
        GRACEFUL_EUREKA_STATUS_ONLY="true", GRACEFUL_INSTANCE_ID="orders-1"
    )
    settings = load(status_only | {"instance_id": "orders-1"})
    assert settings.port is None
    assert settings.plan(registry=True).deregister == 0


def test_stale_is_one_of_two() -> None:
    """Nothing else."""
    assert refusal({"eureka_stale": "keep"}) == (
        "eureka_stale is 'keep': expected 'clear' or 'respect'; correct the argument eureka_stale"
    )


def test_a_lease_outlives_its_heartbeats() -> None:
    """Otherwise Eureka would evict a healthy instance."""
    assert "Eureka would evict" in refusal(EUREKA | {"lease_duration": 30, "heartbeat_interval": 30})


@pytest.mark.parametrize("name", ["eureka_client_key_file", "eureka_client_key_password"])
def test_a_key_belongs_to_a_certificate(name: str) -> None:
    """The file or the password of a key alone is half of what is needed; which half is said, and no password."""
    said = refusal(EUREKA | {name: f"{MARK}/key"})
    assert said.startswith(f"{name} is set, but eureka_client_cert_file is not")
    assert "GRACEFUL_EUREKA_CLIENT_CERT_FILE" in said
    assert MARK not in said
    assert refusal(EUREKA, **{f"GRACEFUL_{name.upper()}": f"{MARK}/key"}) == said
    assert load({name: "key"}).eureka_url == ()


@pytest.mark.parametrize("password", ["", 7, ["zQ7x"]])
def test_what_is_no_password_is_refused_and_not_shown(password: object) -> None:
    """Not even the kind of value that a slip would be."""
    said = refusal(EUREKA | {"eureka_client_cert_file": "c.pem", "eureka_client_key_password": password})
    assert said.startswith("eureka_client_key_password: expected a text that is not empty; correct the argument")
    assert MARK not in said


# --- the instance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "metadata"),
    [
        ({"version": "3", "beta": True, "weight": 1.5}, {"version": "3", "beta": "true", "weight": "1.5"}),
        ('{"version": 3, "a=b": "c,d"}', {"version": "3", "a=b": "c,d"}),
        (" version=3 , team = a=b ", {"version": "3", "team": "a=b"}),
        ("version=3,team=", {"version": "3"}),
        ({}, {}),
    ],
)
def test_metadata_is_a_mapping_or_a_text(given_as: object, metadata: dict[str, str]) -> None:
    """Scalars become texts, and an empty value is left out, as Spring does it."""
    assert load({"metadata": given_as}).metadata == metadata


@pytest.mark.parametrize(
    "value",
    ["", "version", "{", "[1]", "{}}", "=3", ["a"], {"a": None}, {"a": ["b"]}, {1: "a"}, {"a": "b\n"}, {"": "a"}],
)
def test_what_is_no_metadata_is_refused(value: object) -> None:
    """With what is expected."""
    message = refusal({"metadata": value})
    assert message.startswith("metadata is ")
    assert ": expected printable texts by key: a mapping, as text in JSON or as 'version=3,team=orders'; " in message


def test_metadata_in_springs_variables_has_springs_keys() -> None:
    """What Spring Boot 4.0.9 makes of the names; our own wins as a whole, and the zone is a setting of its own."""
    prefix = "EUREKA_INSTANCE_METADATAMAP_"
    environ = {
        f"{prefix}MANAGEMENT_PORT": "8081",
        f"{prefix}MY_0_KEY": "a",
        f"{prefix}A__B": "b",
        f"{prefix}TRAIL_": "c",
        f"{prefix}my-Key": "d",
        f"{prefix}EMPTY": "",
        f"{prefix}ZONE": "west",
    }
    settings = load({}, **environ)
    assert settings.metadata == {"management.port": "8081", "my.0.key": "a", "a.b": "b", "trail": "c", "mykey": "d"}
    assert settings.zone == settings.own_zone == "west"
    assert load({}, **environ, GRACEFUL_METADATA="own=1").metadata == {"own": "1"}
    assert load({"metadata": {}}, **environ).metadata == {}
    assert "metadata is of type dict (EUREKA_INSTANCE_METADATAMAP_…): " in refusal({}, **{f"{prefix}A": "a\x01"})


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_a_path_or_a_whole_url(name: str) -> None:
    """Without credentials: everybody reads them in Eureka."""
    for page in ("/", "/actuator/health?full=1", "https://orders.example.org:1/x@y", "http://[::1]"):
        assert getattr(load({name: page}), name) == page
    for wrong in ("health", "ftp://e/", "http://", "http://user:zQ7x@e/", "/a b", 5, ""):
        message = refusal({name: wrong})
        assert ": expected a path such as '/healthz', or a URL such as 'https://orders.example.org/'" in message
        assert MARK not in message


def test_the_secure_port() -> None:
    """Given or enabled, it is there; one of the two ports has to be."""
    assert not load(EUREKA).has_secure_port
    assert load(EUREKA | {"secure_port": 8443}).has_secure_port
    assert load(EUREKA, EUREKA_INSTANCE_SECUREPORTENABLED="true").has_secure_port
    assert not load(EUREKA | {"secure_port": 8443, "secure_port_enabled": False}).has_secure_port
    assert load({"non_secure_port_enabled": False}).eureka_servers == []
    assert refusal(EUREKA, EUREKA_INSTANCE_NONSECUREPORTENABLED="false").startswith(
        "non_secure_port_enabled is false and there is no secure port: callers would have none; set secure_port_enabled"
    )


def test_springs_port_is_taken_unless_a_service_is_named_so() -> None:
    """A Service named `server` puts an address into SERVER_PORT; app and hook both leave it."""
    assert load(SERVER_PORT="8081").port == 8081
    assert load(SERVER_PORT="8081", EUREKA_INSTANCE_NONSECUREPORT="8082").port == 8082
    link = {"SERVER_PORT": "tcp://10.0.0.1:80", "SERVER_SERVICE_HOST": "10.0.0.1"}
    assert (load({}, **link).port, wire.env_lookup("port", link)) == (None, None)
    assert unknown_variables(link) == []


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("instance_id", "EUREKA_INSTANCE_INSTANCEID"),
        ("hostname", "EUREKA_INSTANCE_HOSTNAME"),
        ("app_name", "SPRING_APPLICATION_NAME"),
        ("metadata", "EUREKA_INSTANCE_METADATAMAP_A"),
        ("eureka_url", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE"),
    ],
)
def test_springs_placeholders_are_refused(name: str, variable: str) -> None:
    """They would be registered as they stand. Nobody fills them in; where an argument or our own name wins, no harm."""
    rest = {key: value for key, value in EUREKA.items() if key != name}
    environ = {variable: "${some.thing}"}
    message = refusal(rest, **environ)
    assert "Spring's placeholders (${…}) are not filled in here" in message
    assert variable.removesuffix("A") in message
    assert message.endswith(f"or set GRACEFUL_{name.upper()}, which wins")
    own = {"eureka_url": "http://own", "metadata": {"a": "1"}}.get(name, "own")
    assert load(rest | {name: own}, **environ).eureka_url
    if name not in EUREKA:
        assert load({}, **environ).eureka_url == ()
        texts = {"metadata": "a=${b}"}
        load(rest, **environ, **{f"GRACEFUL_{name.upper()}": texts.get(name, "${b}")})


def test_a_placeholder_in_an_address_shows_no_credentials() -> None:
    """A password with `${` in it has to be encoded, as for Spring."""
    message = refusal(
        {"app_name": "orders", "port": 1}, EUREKA_CLIENT_SERVICEURL_DEFAULTZONE=f"http://u:{MARK}${{x}}@e"
    )
    assert message.startswith("eureka_url (EUREKA_CLIENT_SERVICEURL_DEFAULTZONE): Spring's placeholders")
    assert MARK not in message


def test_a_zone_is_given_once() -> None:
    """In the metadata or as a setting; two that differ are refused."""
    assert load(EUREKA | {"metadata": {"zone": "west"}}).own_zone == "west"
    assert load(EUREKA | {"zone": "west", "metadata": {"zone": "west"}}).own_zone == "west"
    assert load(EUREKA).own_zone == ""
    assert refusal(EUREKA | {"zone": "east", "metadata": {"zone": "west"}}) == (
        "zone is 'east', but metadata has the zone 'west': leave one of them out"
    )
    assert refusal({"zone": "a b"}).endswith(
        ": expected a zone's name, such as 'eu-west-1a'; correct the argument zone"
    )


def test_the_servers_of_the_own_zone_come_first() -> None:
    """The others keep their order. A variable's name cannot have the dashes of a zone's."""
    zones = {"eu-west-1a": "http://a1,http://a2", "eu-west-1b": ["http://b", "http://a1"], "eu-west-1c": "http://c"}
    settings = load(EUREKA | {"eureka_url": zones, "zone": "eu-west-1b"})
    assert [url.raw for url in settings.eureka_url] == ["http://a1", "http://a2", "http://b", "http://c"]
    assert [url.raw for url in settings.eureka_servers] == ["http://b", "http://a1", "http://a2", "http://c"]
    assert [url.zone for url in settings.eureka_url] == ["eu-west-1a", "eu-west-1a", "eu-west-1b", "eu-west-1c"]
    prefix = "EUREKA_CLIENT_SERVICEURL_"
    environ = {f"{prefix}EU_WEST_1B": "http://b", f"{prefix}DEFAULTZONE": "http://d", f"{prefix}EU_WEST_1A": "http://a"}
    rest = {"app_name": "orders", "port": 8080}
    assert [url.raw for url in load(rest, **environ).eureka_servers] == ["http://d", "http://a", "http://b"]
    for own in ("eu-west-1b", "EUWEST1B"):
        servers = load(rest | {"zone": own}, **environ).eureka_servers
        assert [url.raw for url in servers] == ["http://b", "http://d", "http://a"]
    assert load(rest, EUREKA_CLIENT_SERVICEURL_DEFAULTZONE="http://d").eureka_url[0].zone == ""


def test_a_wrong_address_of_a_zone_is_told_with_its_variables() -> None:
    """All of them: they are one setting."""
    message = refusal(EUREKA_CLIENT_SERVICEURL_A="http://a", EUREKA_CLIENT_SERVICEURL_B="b:1")
    assert message.startswith("eureka_url (EUREKA_CLIENT_SERVICEURL_A and EUREKA_CLIENT_SERVICEURL_B): ")
    assert message.endswith("; correct EUREKA_CLIENT_SERVICEURL_A and EUREKA_CLIENT_SERVICEURL_B")


def test_a_variable_of_springs_with_other_underscores_is_told() -> None:
    """Spring itself would take it."""
    environ = {"EUREKA_INSTANCE_INSTANCE_ID": "a", "EUREKA_INSTANCE_PREFERIPADDRESS": "true", "POD_NAME": "b"}
    assert unknown_variables(environ) == [
        "EUREKA_INSTANCE_INSTANCE_ID is set but means nothing to graceful; did you mean EUREKA_INSTANCE_INSTANCEID?"
    ]
    assert unknown_variables(environ | {"EUREKA_INSTANCE_INSTANCEID": "c"}) == []


def test_an_unknown_argument_is_told_with_the_nearest() -> None:
    """As Python does it, and not as a setting that is wrong."""
    with pytest.raises(TypeError, match=r"^install\(\) has no argument 'drain_timout'; did you mean drain_timeout\?$"):
        load({"drain_timout": 5})
    with pytest.raises(TypeError, match=r"^install\(\) has no argument 'scope' \(set GRACEFUL_SCOPE: "):
        install(scope="here")
    with pytest.raises(TypeError, match=r"^install\(\) has no argument 'EUREKA_SERVER_URL'"):
        load({"EUREKA_SERVER_URL": "http://e"})


def test_settings_do_not_change() -> None:
    """A plan rests on them."""
    with pytest.raises(ValueError, match="frozen"):
        load().port = 5


# --- variables that mean nothing --------------------------------------------------------------------------------------


def test_an_unknown_variable_is_told_with_the_nearest() -> None:
    """A slip of the pen must not become a default that nobody notices."""
    environ = {
        "GRACEFUL_DRAIN_TIMOUT": "5",
        "graceful_margin": "1",
        "GRACEFUL_ZZZ": "",
        "GRACEFUL_MARGIN": "1",
        "X": "",
    }
    assert unknown_variables(environ) == [
        "GRACEFUL_DRAIN_TIMOUT is set but means nothing to graceful; did you mean GRACEFUL_DRAIN_TIMEOUT?",
        "GRACEFUL_ZZZ is set but means nothing to graceful",
        "graceful_margin is set but means nothing to graceful; did you mean GRACEFUL_MARGIN?",
    ]


def test_every_variable_that_is_read_is_known() -> None:
    """The hook's too."""
    names = {f"GRACEFUL_{name.upper()}" for name in Settings.model_fields} | {"GRACEFUL_SCOPE", "GRACEFUL_RUNTIME_DIR"}
    assert unknown_variables(dict.fromkeys(names, "1")) == []


SERVICE_LINKS = {
    "GRACEFUL_SERVICE_HOST": "10.0.0.1",
    "GRACEFUL_SERVICE_PORT": "80",
    "GRACEFUL_SERVICE_PORT_HTTP": "80",
    "GRACEFUL_PORT": "tcp://10.0.0.1:80",
    "GRACEFUL_PORT_80_TCP": "tcp://10.0.0.1:80",
    "GRACEFUL_PORT_80_TCP_PROTO": "tcp",
    "GRACEFUL_PORT_80_TCP_PORT": "80",
    "GRACEFUL_PORT_80_TCP_ADDR": "10.0.0.1",
    "GRACEFUL_DEMO_SERVICE_HOST": "10.0.0.2",
    "GRACEFUL_DEMO_PORT": "tcp://10.0.0.2:80",
}


def test_what_kubernetes_sets_for_a_service_named_graceful_is_no_setting() -> None:
    """Such a port is ignored with a warning, the rest without one."""
    assert load({}, **SERVICE_LINKS).port is None
    (sentence,) = unknown_variables(SERVICE_LINKS)
    assert sentence == (
        "GRACEFUL_PORT is tcp://10.0.0.1:80, which Kubernetes sets for a Service named graceful, so it is not used as "
        "the port: set GRACEFUL_PORT in the container's env, which wins, or enableServiceLinks: false in the pod's spec"
    )
    assert sentence in refusal({"eureka_url": "http://e", "app_name": "orders"}, **SERVICE_LINKS)
    assert load(EUREKA, **SERVICE_LINKS).port == 8080


def test_what_only_looks_like_a_service_is_told() -> None:
    """Without the Service's host it is a slip of the pen."""
    assert len(unknown_variables({"GRACEFUL_SERVICE_PORT": "80"})) == 1


# --- Eureka's addresses and their credentials -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "raw"),
    [
        ("http://a:1/eureka", ["http://a:1/eureka"]),
        (" http://a , https://b/ ,", ["http://a", "https://b/"]),
        (["http://a,http://b", "http://c"], ["http://a", "http://b", "http://c"]),
        (("http://a",), ["http://a"]),
        ("http://u:p,w@a,http://b", ["http://u:p,w@a", "http://b"]),
        ("", []),
        ([], []),
    ],
)
def test_several_servers(given_as: object, raw: list[str]) -> None:
    """In one text, as Spring's defaultZone has them, or in a list; a password may have a comma."""
    assert [url.raw for url in load(EUREKA | {"eureka_url": given_as}).eureka_url] == raw


@pytest.mark.parametrize(
    "value", ["eureka:8761", "ftp://e", "http://", "http://e:x", "http://a/eureka,b:8761/eureka", 5, {"a": 1}, [None]]
)
def test_what_is_no_address_is_refused(value: object) -> None:
    """A second server without its scheme would otherwise be taken for a path."""
    message = refusal(EUREKA | {"eureka_url": value})
    assert message.startswith("eureka_url: ")
    assert message.endswith("; correct the argument eureka_url")
    assert refusal(EUREKA_SERVER_URL="eureka:8761").startswith("eureka_url (EUREKA_SERVER_URL): ")


def test_an_address_is_a_value() -> None:
    """Equal by what it is, credentials included; the text of it is for people."""
    one, same, other = ServiceUrl(" http://u:p@e "), ServiceUrl("http://u:p@e"), ServiceUrl("http://u:q@e")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "http://u:p@e"
    assert (str(one), repr(one), one.has_credentials) == ("http://***@e", "ServiceUrl('http://***@e')", True)
    assert not ServiceUrl("http://e").has_credentials
    assert copy.deepcopy(one) == one


MARK = "zQ7x"


def passwords_of(letters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Passwords that are marked at both ends and in the middle, to be found again in part."""
    part = st.text(letters, max_size=8)
    # A password with a whole `http://` in it, not encoded, is beyond telling.
    return st.tuples(part, part).map(lambda two: MARK.join(["", *two, ""])).filter(lambda text: "://" not in text)


any_passwords = passwords_of(st.characters())  # with lone surrogates: bytes in the environment that are no UTF-8
passwords = passwords_of(st.characters(exclude_categories=["Cs"]))
printable_passwords = passwords_of(st.characters(exclude_categories=["C", "Zs", "Zl", "Zp"]))


@given(passwords)
def test_credentials_are_in_no_text_of_the_settings(password: str) -> None:
    """Neither in full nor in part, in whatever way they are shown."""
    key = {"eureka_client_cert_file": "c.pem", "eureka_client_key_password": password}
    url = f"http://user:{quote(password, safe='')}@eureka:8761/eureka"
    settings = load(EUREKA | key | {"eureka_url": {"west": url}, "zone": "west"})
    texts = [
        repr(settings.eureka_servers),
        repr(settings),
        str(settings),
        f"{settings}",
        repr(settings.model_dump()),
        str(settings.model_dump(mode="json")),
        settings.model_dump_json(),
        repr(vars(settings)),
        repr(list(settings)),
    ]
    assert not [text for text in texts if MARK in text]
    assert settings.model_dump(mode="json")["eureka_url"] == ["http://***@eureka:8761/eureka"]


@given(
    any_passwords,
    st.sampled_from(
        [
            "http://user:{}@eureka:port",
            "http://user:{}@",
            "http://user:{}@eureka:8761/eureka?a=b",
            "http://eureka:8761,http://user:{}@bad host/",
            "http://{}@[::1/eureka",
            "user:{}@eureka",
            "{}@eureka",
            "http://user:{}@eureka:8761/eureka,eureka2",
            "http://user:{}@eureka:8761/eureka, http://:{}@",
        ]
    ),
    st.sampled_from(sorted(Settings.model_fields.keys() - {"scope"})),
)
def test_credentials_are_in_no_error(password: str, template: str, field: str) -> None:
    """Nor in a traceback of one, chained causes included, and not when they went into the wrong setting either."""
    text = template.replace("{}", password)
    for given_as in (text, {"west": "http://eureka", "east": text}):
        arguments: dict[str, Any] = EUREKA | {field: text, "eureka_url": given_as}
        with environment({}), pytest.raises(SettingsError) as refused:
            load_settings(arguments)
        shown = "".join(traceback.format_exception(refused.value))
        assert MARK not in shown
        assert "ValidationError" not in shown


@given(printable_passwords)
def test_a_password_as_it_is_is_taken_whole_or_refused(password: str) -> None:
    """What people forget to encode; whatever comes of it, it is not shown."""
    try:
        settings = load(EUREKA | {"eureka_url": f"http://user:{password}@eureka:8761/eureka"})
    except SettingsError as error:
        assert MARK not in str(error)  # noqa: PT017  both ways are fine
    else:
        assert MARK not in repr(settings)
        assert len(settings.eureka_url) == 1
