"""The manifest: valid, exactly what is meant, enough for the hook, and compared with the app's own numbers."""

from __future__ import annotations

import json
import logging
import os
import re
import string
from typing import TYPE_CHECKING, Any
from unittest import mock

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graceful import prestop_eureka, wire
from graceful.installation import planning
from graceful.kubernetes import needs
from graceful.kubernetes.drift import drift
from graceful.kubernetes.manifest import Snippets
from graceful.network import own_address
from graceful.selfcheck import report_environment, report_plan, warnings_about
from graceful.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EUREKA: dict[str, Any] = {"eureka_url": "http://eureka:8761/eureka", "app_name": "orders", "port": 8080}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
LAPTOP_IP, LAPTOP_NAME = "192.168.7.7", "laptop"
POD = {"status.podIP": "10.0.0.7", "metadata.name": "orders-6d4-x2"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "orders"},
    "spec": {
        "selector": {"matchLabels": {"app": "orders"}},
        "template": {
            "metadata": {"labels": {"app": "orders"}},
            "spec": {"containers": [{"name": "orders", "image": "orders:1"}]},
        },
    },
}


@pytest.fixture(autouse=True)
def _laptop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is no pod, with an empty environment."""
    monkeypatch.setattr(needs, "own_address", lambda: LAPTOP_IP)
    monkeypatch.setattr("socket.gethostname", lambda: LAPTOP_NAME)
    with mock.patch.dict(os.environ, {}, clear=True):
        yield


def settings_of(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    with mock.patch.dict(os.environ, environ, clear=True):
        return load_settings(arguments)


def snippets_of(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None, **rest: str) -> Snippets:
    settings = settings_of(arguments, environ or {})
    return Snippets(settings, settings.plan(registry=bool(settings.eureka_url)), environ=environ or {}, **rest)


def container_of(patch: str) -> dict[str, Any]:
    (container,) = yaml.safe_load(patch)["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def pod_environment(patch: str) -> dict[str, str]:
    """What the kubelet makes of `env`: fields of the pod, `$(NAME)` of what stands above, `$$` for a dollar."""
    environ = dict(KUBERNETES)
    for entry in container_of(patch)["env"]:
        if "valueFrom" in entry:
            environ[entry["name"]] = POD[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            environ[entry["name"]] = expanded(entry["value"], environ)
    return environ


def expanded(text: str, environ: Mapping[str, str]) -> str:
    def expand(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environ.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", expand, text)


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge: mappings by key, containers by name, `$patch: replace` in place of what was there."""
    if isinstance(base, dict) and isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(patch, list) and all(isinstance(entry, dict) and "name" in entry for entry in patch):
        by_name = {entry["name"]: entry for entry in base or []}
        return list(
            (by_name | {entry["name"]: merged(by_name.get(entry["name"], {}), entry) for entry in patch}).values()
        )
    return merged({}, patch) if isinstance(patch, dict) else patch


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_patch_of_a_service_in_eureka() -> None:
    """The whole of it, as a user sees it."""
    assert (
        snippets_of(EUREKA).patch
        == """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: "orders"  # must be the Deployment that is there
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 130  # announce 5s + propagation 95s + drain 20s + cleanup 5s + deregister 3s + \
margin 2s = 130s
      containers:
      - name: "orders"  # must be the container that is there
        env:
        - {name: GRACEFUL_GRACE_PERIOD, value: "130"}  # the same, for the app and the hook
        - {name: GRACEFUL_APP_NAME, value: "orders"}
        - {name: GRACEFUL_PORT, value: "8080"}  # port, an argument of install()
        - {name: GRACEFUL_EUREKA_URL, value: "http://eureka:8761/eureka"}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        lifecycle:
          preStop:
            $patch: replace
            exec: {command: ["python3", "-P", "-m", "graceful.prestop"]}
"""
    )


def test_status_only_keeps_no_time_for_deregistering_and_needs_no_port() -> None:
    """The hook knows the instance by its id."""
    status_only = {"eureka_status_only": True, "eureka_url": "http://e:1", "app_name": "orders", "instance_id": "o-1"}
    patch = snippets_of(status_only).patch
    assert yaml.safe_load(patch)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 127
    environ = pod_environment(patch)
    assert "GRACEFUL_PORT" not in environ
    assert prestop_eureka.identity(environ) == ("orders", "o-1")


def test_the_snippet_says_the_same_without_what_only_patches_have() -> None:
    """For a manifest of one's own."""
    snippets = snippets_of(EUREKA | {"drain_timeout": 7.5}, container="web", python="/venv/bin/python")
    container = container_of(snippets.patch)
    assert container["name"] == "web"
    assert container["lifecycle"]["preStop"].pop("$patch") == "replace"
    assert yaml.safe_load(snippets.snippet) == {
        "terminationGracePeriodSeconds": 118,
        "env": container["env"],
        "lifecycle": {"preStop": {"exec": {"command": ["/venv/bin/python", "-P", "-m", "graceful.prestop"]}}},
    }
    assert '# into the container "web":' in snippets.snippet


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("hook", [None, {"sleep": {"seconds": 5}}, {"exec": {"command": ["sleep", "5"]}}])
def test_a_patched_deployment_is_valid(version: str, hook: dict[str, Any] | None) -> None:
    """Whatever hook was there before: exactly one handler is left."""
    before = json.loads(json.dumps(DEPLOYMENT))
    if hook:
        before["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = {"preStop": hook}
    snippets = snippets_of(EUREKA | {"drain_timeout": 7, "instance_id": f"{LAPTOP_NAME}:1"})
    after = merged(before, yaml.safe_load(snippets.patch))
    kubernetes_validate.validate(after, version, strict=True)
    (container,) = after["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "orders:1"
    assert list(container["lifecycle"]["preStop"]) == ["exec"]
    after["spec"]["template"]["spec"]["bogus"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(after, version, strict=True)


def test_it_is_written_for_a_pod_wherever_it_is_made() -> None:
    """On a laptop nobody waits for endpoints and proxies; in a pod one does."""
    assert snippets_of({}).plan.propagation == 0
    assert snippets_of({}).grace_period == 37
    assert snippets_of({}, KUBERNETES).grace_period == 37
    assert snippets_of({"kubernetes": False}).grace_period == 27


def test_the_grace_period_is_never_less_than_what_was_set() -> None:
    """More is the user's choice; less would not fit, and is not refused here."""
    assert snippets_of(EUREKA | {"grace_period": 200.5}).grace_period == 201
    assert snippets_of(EUREKA | {"grace_period": 60}).grace_period == 130


def test_the_cleanup_callbacks_count() -> None:
    """`coordinator.snippets` has the plan with what is registered so far."""
    import graceful

    with planning() as installed:
        coordinator = graceful.install(**EUREKA)
        try:
            coordinator.on_cleanup(timeout=30)(lambda: None)
            assert installed() is coordinator
            assert coordinator.snippets.grace_period == 155
            assert yaml.safe_load(coordinator.snippets.snippet)["terminationGracePeriodSeconds"] == 155
        finally:
            coordinator.uninstall()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Orders", "orders"),
        ("my.orders_v2", "my-orders-v2"),
        ("a" * 80, "a" * 63),
        ("-._", "app"),
        ("Straße", "stra-e"),
    ],
)
def test_names_are_made_fit_for_kubernetes(name: str, label: str) -> None:
    """Eureka takes more than Kubernetes does."""
    assert snippets_of({"app_name": name}).name == label
    assert yaml.safe_load(snippets_of({"app_name": name}).patch)["metadata"]["name"] == label


@pytest.mark.parametrize("container", ["Web", "a_b", "-a", "a-", "a" * 64, "a b", "ä"])
def test_a_container_that_cannot_be_is_refused(container: str) -> None:
    """A wrong name would add a container without an image."""
    with pytest.raises(ValueError, match="is no name that Kubernetes takes: expected at most 63 lower-case"):
        snippets_of({}, container=container)


@pytest.mark.parametrize("python", ["", " ", "py\nthon"])
def test_an_interpreter_that_cannot_be_is_refused(python: str) -> None:
    """The hook would fail with a message that nobody sees."""
    with pytest.raises(ValueError, match="is no command: give the interpreter in the image"):
        snippets_of({}, python=python)


# --- the instance -----------------------------------------------------------------------------------------------------


def test_credentials_stay_out_of_it() -> None:
    """The address comes from a Secret; what else the hook needs is there."""
    snippets = snippets_of(EUREKA | {"eureka_url": "http://eureka,http://user:zQ7x@eureka2"})
    for text in (snippets.patch, snippets.snippet, repr(snippets)):
        assert "zQ7x" not in text
    assert "# GRACEFUL_EUREKA_URL has credentials: take it from a Secret" in snippets.patch
    assert "GRACEFUL_EUREKA_URL" not in pod_environment(snippets.patch)
    assert pod_environment(snippets.patch)["GRACEFUL_PORT"] == "8080"


def test_the_zones_of_the_servers_are_kept() -> None:
    """Given by variables, they stay; given by an argument, the hook gets all of them as one list."""
    zones = {"EUREKA_CLIENT_SERVICEURL_A": "http://a", "EUREKA_CLIENT_SERVICEURL_B": "http://b"}
    rest = {name: value for name, value in EUREKA.items() if name != "eureka_url"}
    patch = snippets_of(rest, zones).patch
    assert "# EUREKA_CLIENT_SERVICEURL_A and EUREKA_CLIENT_SERVICEURL_B stay as the manifest has them" in patch
    environ = pod_environment(patch) | zones
    assert "GRACEFUL_EUREKA_URL" not in environ
    in_pod = settings_of(rest, environ)
    assert drift(in_pod, in_pod.plan(registry=True), environ) == []
    given = {"eureka_url": {"a": "http://a", "b": "http://b"}}
    for seen in ({}, {"EUREKA_CLIENT_SERVICEURL_A": "http://a", "EUREKA_CLIENT_SERVICEURL_B": "http://c"}):
        environ = pod_environment(snippets_of(rest | given, seen).patch)
        assert environ["GRACEFUL_EUREKA_URL"] == "http://a,http://b"
        in_pod = settings_of(rest | given, environ)
        assert drift(in_pod, in_pod.plan(registry=True), environ) == []


def test_the_hook_gets_the_files_for_https_and_no_password() -> None:
    """Paths in the container, as they are; what is not set is left out. They need not be there where this runs."""
    files = {
        "eureka_ca_file": "/etc/eureka/ca.pem",
        "eureka_client_cert_file": "/etc/$(HOME)/$$/client.pem",
        "eureka_client_key_file": '/etc/eureka/a "key".pem',
    }
    snippets = snippets_of(EUREKA | files | {"eureka_client_key_password": "zQ7x"})
    environ = pod_environment(snippets.patch)
    assert {name: environ[f"GRACEFUL_{name.upper()}"] for name in files} == files
    assert "# GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD: take it from a Secret" in snippets.patch
    assert "zQ7x" not in snippets.patch + snippets.snippet + repr(snippets)
    assert "GRACEFUL_EUREKA_CLIENT_KEY_PASSWORD" not in environ
    in_pod = settings_of({}, environ)
    assert drift(in_pod, in_pod.plan(registry=True), environ) == []
    for text in (snippets_of(EUREKA).patch, snippets_of(files).patch):
        assert not [name for name in files if name.upper() in text]


@pytest.mark.parametrize(
    ("arguments", "environ", "identity"),
    [
        ({}, {}, "orders:10.0.0.7:8080"),
        ({"ip_addr": "203.0.113.9"}, {}, "orders:203.0.113.9:8080"),
        ({"ip_addr": LAPTOP_IP}, {}, "orders:10.0.0.7:8080"),
        ({}, {"POD_IP": "172.16.0.1"}, "orders:10.0.0.7:8080"),
        ({"instance_id": "orders-1"}, {}, "orders-1"),
        ({"instance_id": f"orders@{LAPTOP_IP}:1"}, {}, "orders@10.0.0.7:1"),
        ({"instance_id": f"{LAPTOP_NAME}:orders:8080"}, {}, "orders-6d4-x2:orders:8080"),
        ({"instance_id": f"{LAPTOP_NAME}-2:{LAPTOP_IP}1"}, {}, f"{LAPTOP_NAME}-2:{LAPTOP_IP}1"),
        ({"instance_id": f"a:{LAPTOP_IP}", "ip_addr": "203.0.113.9"}, {}, "a:10.0.0.7"),
        ({"instance_id": "a$(POD_IP)$$b"}, {}, "a$(POD_IP)$$b"),
    ],
)
def test_the_hook_finds_the_instance_that_the_app_registers(
    arguments: dict[str, str], environ: dict[str, str], identity: str
) -> None:
    """Its own in every pod: what the app made of this machine's address and name, each pod makes of its own."""
    patch = snippets_of(EUREKA | arguments, environ).patch
    assert prestop_eureka.identity(pod_environment(patch)) == ("orders", identity)


def test_an_instance_id_from_the_environment_is_not_made_the_same_for_all() -> None:
    """The manifest that gives it stays as it is."""
    patch = snippets_of(EUREKA, {"EUREKA_INSTANCE_INSTANCEID": "orders:1"}).patch
    assert "# EUREKA_INSTANCE_INSTANCEID stays as the manifest has it" in patch
    assert "orders:1" not in patch
    assert container_of(patch)


def test_an_address_of_this_machine() -> None:
    """Found without a look-up, and without sending anything."""
    import ipaddress

    ipaddress.ip_address(own_address())  # raises for what is none
    with mock.patch("socket.socket.connect", side_effect=OSError):
        assert own_address() == "127.0.0.1"


# --- for any settings -------------------------------------------------------------------------------------------------

READ_BY_THE_HOOK = [
    *prestop_eureka.CACHES,
    *prestop_eureka.AFTER,
    "kubernetes_propagation_delay",
    "propagation_delay",
]
durations = st.none() | st.floats(0, 8_000) | st.integers(0, 600)
names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=80).filter(
    lambda text: text[0].isalnum()
)
# What YAML, Kubernetes and the shell read something into, and some of what lies beyond ASCII.
words = st.text("aZ9:@$(){}'\"\\#&*!|>%,-_.?[]~`=+;<^äß漢😀\u0301", min_size=1, max_size=30).filter(
    lambda text: text not in {".", ".."}
)
urls = st.sampled_from(
    ["http://eureka:8761/eureka", "https://a.example,http://[::1]:8761/e$(HOME)$$ka/", "http://a/ü/\u2028x"]
)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `install()`, usable ones."""
    chosen: dict[str, Any] = {name: draw(durations) for name in READ_BY_THE_HOOK}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen |= {"app_name": draw(names), "port": draw(st.integers(1, 65_535))}
    chosen |= draw(st.sampled_from([{}, {"grace_period": 1}, {"grace_period": 80_000.5}]))
    if draw(st.booleans()):
        chosen["eureka_url"] = draw(urls)
        chosen |= draw(
            st.fixed_dictionaries(
                {}, optional={"instance_id": words, "ip_addr": st.sampled_from(["203.0.113.9", "2001:db8::7"])}
            )
        )
    return chosen


@given(arguments(), st.sampled_from(["", "web", "a" * 63]), st.sampled_from(["python3", '/a "b"/\\python', "/ü/😀"]))
def test_whatever_the_settings_the_yaml_is_what_is_meant(chosen: dict[str, Any], container: str, python: str) -> None:
    """Nothing in a name or a number can change its form."""
    snippets = snippets_of(chosen, container=container, python=python)
    patch = yaml.safe_load(snippets.patch)
    pod = patch["spec"]["template"]["spec"]
    assert list(patch) == ["apiVersion", "kind", "metadata", "spec"]
    assert list(pod) == ["terminationGracePeriodSeconds", "containers"]
    assert pod["terminationGracePeriodSeconds"] == snippets.grace_period
    found = container_of(snippets.patch)
    assert list(found) == ["name", "env", "lifecycle"]
    assert found["name"] == snippets.name
    assert found["lifecycle"]["preStop"]["exec"] == {"command": [python, "-P", "-m", "graceful.prestop"]}
    assert all(isinstance(entry.get("value", ""), str) for entry in found["env"])
    assert len({entry["name"] for entry in found["env"]}) == len(found["env"])
    assert yaml.safe_load(snippets.snippet)["env"] == found["env"]
    assert (snippets.patch + snippets.snippet).isascii()


@given(arguments())
def test_whatever_the_settings_the_pod_has_the_time_that_its_plan_takes(chosen: dict[str, Any]) -> None:
    """In the pod, with the manifest's environment, `install()` accepts the plan, and nothing has drifted."""
    snippets = snippets_of(chosen)
    environ = pod_environment(snippets.patch)
    in_pod = settings_of({name: value for name, value in chosen.items() if name != "grace_period"}, environ)
    plan = in_pod.plan(registry=bool(in_pod.eureka_url))
    assert snippets.grace_period >= plan.total - 0.01
    assert in_pod.grace_period == snippets.grace_period
    plan.check(snippets.grace_period)
    assert drift(in_pod, plan, environ) == []


@given(arguments())
def test_whatever_the_settings_the_hook_alone_does_what_the_app_would(chosen: dict[str, Any]) -> None:
    """It withdraws the same instance from the same servers, and waits as long."""
    environ = pod_environment(snippets_of(chosen).patch)
    in_pod = settings_of(chosen, environ)
    delays = prestop_eureka.Delays(environ, with_eureka="eureka_url" in chosen, say=pytest.fail)
    after = in_pod.plan(registry=bool(in_pod.eureka_url)).after_wait
    assert delays.propagation == pytest.approx(in_pod.propagation, abs=0.01)
    assert delays.after == pytest.approx(after, abs=0.01)
    if in_pod.eureka_url:
        assert prestop_eureka.split_urls(environ["GRACEFUL_EUREKA_URL"]) == [url.raw for url in in_pod.eureka_url]
        ip = in_pod.ip_addr or ""
        expected = in_pod.instance_id or wire.default_instance_id(in_pod.app_name or "", ip, in_pod.port or 0)
        assert prestop_eureka.identity(environ) == (in_pod.app_name, expected)


# --- drift ------------------------------------------------------------------------------------------------------------


def test_no_drift_where_no_manifest_is() -> None:
    """A laptop, or a pod without the patch."""
    settings = settings_of(EUREKA, {})
    assert drift(settings, settings.plan(registry=True), {}) == []


def test_a_plan_that_has_outgrown_its_grace_period_is_told() -> None:
    """A cleanup callback came in after the manifest was made."""
    environ = pod_environment(snippets_of(EUREKA).patch)
    settings = settings_of(EUREKA, environ)
    (sentence,) = drift(settings, settings.plan(registry=True, cleanup=35), environ)
    assert sentence.endswith(
        " + cleanup 35s + deregister 3s + margin 2s = 160s, but the manifest gives the pod 130s: "
        "set terminationGracePeriodSeconds and GRACEFUL_GRACE_PERIOD to 160"
    )


@pytest.mark.parametrize(
    ("argument", "variable", "text"),
    [
        ({"drain_timeout": 8}, "GRACEFUL_DRAIN_TIMEOUT", "15"),
        ({"propagation_delay": 8}, "GRACEFUL_PROPAGATION_DELAY", "15s"),
        ({"propagation_delay": None}, "GRACEFUL_PROPAGATION_DELAY", "15s"),
        ({"grace_period": 500}, "GRACEFUL_GRACE_PERIOD", "130"),
        ({"grace_period": 500}, "GRACEFUL_GRACE_PERIOD", "no number"),
        ({"app_name": "orders"}, "GRACEFUL_APP_NAME", "bills"),
        ({"port": 8080}, "GRACEFUL_PORT", "80"),
        ({"instance_id": "a"}, "GRACEFUL_INSTANCE_ID", "b"),
        ({"ip_addr": "10.0.0.1"}, "POD_IP", "10.0.0.2"),
        ({"eureka_ca_file": "/a.pem"}, "GRACEFUL_EUREKA_CA_FILE", "/b.pem"),
        ({"eureka_url": "http://user:zQ7x@a"}, "GRACEFUL_EUREKA_URL", "http://user:zQ7y@a"),
        ({"eureka_url": "http://user:zQ7x@a"}, "EUREKA_SERVER_URL", "zQ7y@a"),
    ],
)
def test_what_the_hook_reads_otherwise_than_the_app_is_told(argument: dict[str, Any], variable: str, text: str) -> None:
    """An argument wins in the app alone. The sentence has both values and what to do, and no credentials."""
    settings = settings_of(EUREKA | argument, {variable: text})
    sentences = [
        sentence
        for sentence in drift(settings, settings.plan(registry=True), {variable: text})
        if sentence.startswith("the app runs with ")
    ]
    assert len(sentences) == 1
    assert f"but {variable}, which the hook reads, is " in sentences[0]
    assert "zQ7" not in sentences[0]
    assert sentences[0].endswith(": leave the argument of install() out, or generate the manifest again")


def test_a_manifest_without_the_address_is_told() -> None:
    """The hook could not withdraw the instance; where there is no manifest of ours, nothing is said."""
    environ = {"GRACEFUL_GRACE_PERIOD": "130"}
    settings = settings_of(EUREKA, environ)
    (sentence,) = drift(settings, settings.plan(registry=True), environ)
    assert sentence.startswith("the manifest does not give the hook GRACEFUL_EUREKA_URL")


# --- at the start -----------------------------------------------------------------------------------------------------


def test_an_unknown_grace_period_in_kubernetes_is_told_with_its_cost_and_the_patch() -> None:
    """30 s are assumed."""
    settings = settings_of(EUREKA, KUBERNETES)
    (sentence,) = warnings_about(settings, settings.plan(registry=True), KUBERNETES)
    assert sentence.startswith("grace_period is not set, so the 30s that Kubernetes gives by default are assumed")
    assert (
        "the propagation wait is cut from 95s to 23s, so callers may go on calling for 72s after this pod" in sentence
    )
    assert sentence.endswith(Snippets(settings, settings.plan(registry=True), environ={}).patch)


def test_a_grace_period_that_is_known_or_long_enough_is_not_told() -> None:
    """Nor is anything outside Kubernetes."""
    cases: list[tuple[dict[str, Any], dict[str, str]]] = [
        (EUREKA, {}),
        (EUREKA | {"grace_period": 130}, KUBERNETES),
        ({"drain_timeout": 10}, KUBERNETES),
    ]
    for chosen, environ in cases:
        settings = settings_of(chosen, environ)
        assert warnings_about(settings, settings.plan(registry=bool(settings.eureka_url)), environ) == []


def test_the_plan_is_logged_and_what_is_wrong_with_it_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """INFO is invisible by default under uvicorn."""
    environ = {"GRACEFUL_GRACE_PERIOD": "100", "GRACEFUL_DRAIN_TIMEOUT": "5"}
    settings = settings_of({"drain_timeout": 8, "cleanup_timeout": 2}, environ)
    with caplog.at_level(logging.INFO, "graceful.plan"):
        report_plan(settings, settings.plan(registry=False), environ)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0].endswith("= 12s; grace period 100s")
    assert "the app runs with drain_timeout=8" in caplog.messages[1]


def test_start_up_says_which_part_of_the_propagation_delay_is_how_much(caplog: pytest.LogCaptureFixture) -> None:
    """And which is observed; of a delay that was set as a whole there is nothing more to say."""
    said = []
    for chosen in ({"eureka_load_balancer_delay": 5}, {"eureka_observe_cache": False}, {"propagation_delay": 60}):
        settings = settings_of(EUREKA | chosen, {})
        with caplog.at_level(logging.INFO, "graceful.plan"):
            report_plan(settings, settings.plan(registry=True), {})
        said.append(caplog.messages[1:])
        caplog.clear()
    until = "propagation, until the last caller has heard: server response cache 30s"
    observed = "observed: it ends when every server shows the change"
    assert said == [
        [f"{until} ({observed}) + client fetch 30s + load balancer 5s = 65s"],
        [f"{until} + client fetch 30s + load balancer 35s = 95s"],
        [],
    ]


def test_a_variable_that_means_nothing_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may be why the service never gets ready."""
    with caplog.at_level(logging.INFO, "graceful.plan"):
        report_environment({"GRACEFUL_DRAIN_TIMOUT": "5"})
    assert "did you mean GRACEFUL_DRAIN_TIMEOUT?" in caplog.messages[0]
