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

from graceful import wire
from graceful.environment import find_variable
from graceful.installation import install
from graceful.settings import ServiceUrl, Settings, SettingsError, load_settings, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EUREKA = {"eureka_url": "http://eureka:8761/eureka", "app_name": "orders", "port": 8080}
DURATIONS = [name for name, field in Settings.model_fields.items() if "float" in str(field.annotation)]
SWITCHES = ["enabled", "eureka_observe_cache", "eureka_use_proxy", "hold_signals", "probes", "kubernetes"]
POSITIVE = {"grace_period", "readiness_timeout", "heartbeat_interval", "lease_duration"}


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
        "livez_path": ("/live", "/live"),
        "readyz_path": ("/live", "/live"),
        **dict.fromkeys(SWITCHES, ("true", True)),
        **dict.fromkeys(DURATIONS, ("1m30s", 90.0)),
    }
    text, value = texts.get(name, ("10.0.0.9", "10.0.0.9"))
    rest = {"app_name": "orders", "port": 8080} if name == "eureka_url" else {}
    for variable in wire.env_names(name):
        assert getattr(load(rest, **{variable: f" {text} "}), name) == value


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
    settings = load(EUREKA | key | {"eureka_url": url})
    texts = [
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
    arguments: dict[str, Any] = EUREKA | {"eureka_url": text} | {field: text}
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
