"""The manifest in every form and mode: what Kubernetes takes, what each says, and that all forms say the same."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graceful.kubernetes import needs as needs_module
from graceful.kubernetes.formats import FORMATS, component, json_text, patch, snippet
from graceful.kubernetes.needs import Needs, needs_of
from graceful.kubernetes.parts import MODES, TOKEN, Choice, Manifest
from tests.kubectl import kubectl
from tests.test_cli import ROOT, command
from tests.test_manifest import DEPLOYMENT, EUREKA, LAPTOP_IP, LAPTOP_NAME, arguments, merged, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
VERSIONS = sorted(
    int(minor) for path in SCHEMAS.glob("v1.*-local-strict") if int(minor := path.name.split(".")[1]) >= 29
)
SCRIPT = "#!/bin/sh\n# what it does: 'this'\n\nsleep \"$1\"\n"
EVERYTHING = [
    Choice(mode=mode, probes=more, post_start=more, script=SCRIPT) for mode, more in product(MODES, [False, True])
]
names = [f"{choice.mode}{'-and-more' * choice.probes}" for choice in EVERYTHING]


@pytest.fixture(autouse=True)
def _laptop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is no pod, with an empty environment."""
    monkeypatch.setattr(needs_module, "own_address", lambda: LAPTOP_IP)
    monkeypatch.setattr("socket.gethostname", lambda: LAPTOP_NAME)
    with mock.patch.dict(os.environ, {}, clear=True):
        yield


def needs(arguments: Mapping[str, Any] = EUREKA, environ: Mapping[str, str] | None = None) -> Needs:
    settings = settings_of(arguments, environ or {})
    return needs_of(settings, settings.plan(registry=bool(settings.eureka_url)), environ or {})


def patched(manifest: Manifest) -> Any:
    return merged(copy.deepcopy(DEPLOYMENT), yaml.safe_load(patch(manifest)))


def assembled(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Any:
    """The Deployment, with the parts put where they belong."""
    deployment = copy.deepcopy(DEPLOYMENT)
    spec: Any = deployment["spec"]["template"]["spec"]  # type: ignore[index]
    spec.update(pod)
    spec["containers"][0].update(container)
    return deployment


# --- what Kubernetes takes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", VERSIONS)
@pytest.mark.parametrize("choice", EVERYTHING, ids=names)
def test_every_form_is_valid(choice: Choice, minor: int) -> None:
    """In the strict schemas from 1.29 to the newest there is; and every form says the same."""
    manifest = Manifest(needs(EUREKA | {"drain_timeout": 7}), choice)
    deployment = patched(manifest)
    kubernetes_validate.validate(deployment, f"1.{minor}", strict=True)
    parts, *objects = yaml.safe_load_all(snippet(manifest))
    pod = {key: parts[key] for key in ("terminationGracePeriodSeconds", "volumes") if key in parts}
    container = {key: value for key, value in parts.items() if key not in pod}
    assert assembled(pod, container) == deployment
    for each in objects:
        kubernetes_validate.validate(each, f"1.{minor}", strict=True)
    for_programs = json.loads(json_text(manifest))
    assert assembled(for_programs["pod"], for_programs["container"]) == deployment
    assert for_programs["objects"] == objects
    ((inner,),) = [[yaml.safe_load(each["patch"]) for each in yaml.safe_load(component(manifest))["patches"]]]
    assert inner == yaml.safe_load(patch(manifest))


@pytest.mark.parametrize("choice", EVERYTHING, ids=names)
def test_kubectl_builds_the_component(choice: Choice, tmp_path: Path) -> None:
    """In the place of another hook, and with everything else left as it was."""
    manifest = Manifest(needs(), choice)
    base = copy.deepcopy(DEPLOYMENT)
    base["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = {  # type: ignore[index]
        hook: {"tcpSocket": {"port": 1}} for hook in ("preStop", "postStart")
    }
    (tmp_path / "graceful").mkdir()
    (tmp_path / "graceful" / "kustomization.yaml").write_text(component(manifest))
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "kustomization.yaml").write_text("resources: [deployment.yaml]\ncomponents: [graceful]\n")
    built = subprocess.run(
        [kubectl(), "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert (built.returncode, built.stderr) == (0, "")
    by_kind = {each["kind"]: each for each in yaml.safe_load_all(built.stdout)}
    expected = merged(base, yaml.safe_load(patch(manifest)))
    if choice.mode == "script":
        config_map = by_kind["ConfigMap"]
        assert config_map["data"] == {"prestop.sh": SCRIPT}
        # The hash in its name has the pods replaced when the script changes.
        assert config_map["metadata"]["name"].startswith("orders-prestop-")
        expected["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"] = config_map["metadata"]["name"]
    assert by_kind["Deployment"] == expected
    (container,) = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert len(container["lifecycle"]["preStop"]) == 1  # the API server refuses two


# --- what each mode says ----------------------------------------------------------------------------------------------


def pre_stop(choice: Choice, **more: Any) -> Any:
    return yaml.safe_load(snippet(Manifest(needs(EUREKA | more), choice)))["lifecycle"]["preStop"]


def test_http_calls_the_apps_own_endpoint_with_a_token_that_is_filled_in_later() -> None:
    """The app has the token from a Secret; Kubernetes fills nothing into a header."""
    hook = pre_stop(Choice(mode="http"), prestop_path="/stop")["httpGet"]
    assert (hook["path"], hook["port"]) == ("/stop", 8080)
    assert hook["httpHeaders"] == [{"name": "X-Graceful-Token", "value": TOKEN}]
    manifest = Manifest(needs(EUREKA | {"prestop_token": "zQ7x" * 5}), Choice(mode="http"))
    for write in FORMATS.values():
        assert "zQ7x" not in write(manifest)
        assert "secretKeyRef" in write(manifest)
    assert any("Kubernetes puts no variable into a header" in note for note in manifest.notes())
    helm = pre_stop(Choice(mode="http", token="{{ .Values.token }}"))["httpGet"]
    assert helm["httpHeaders"][0]["value"] == "{{ .Values.token }}"


@pytest.mark.parametrize(("delay", "seconds"), [(10, 10), (0, 1), (0.2, 1), (12.4, 13)])
def test_sleep_comes_before_the_whole_plan(delay: float, seconds: int) -> None:
    """The app hears of nothing until SIGTERM, so it counts from there."""
    manifest = Manifest(needs(EUREKA | {"kubernetes_propagation_delay": delay}), Choice(mode="sleep"))
    parts = yaml.safe_load(snippet(manifest))
    assert parts["lifecycle"]["preStop"] == {"sleep": {"seconds": seconds}}
    assert parts["terminationGracePeriodSeconds"] == 130 + seconds
    assert parts["env"][0] == {"name": "GRACEFUL_GRACE_PERIOD", "value": "130"}
    assert Manifest(needs(EUREKA | {"grace_period": 500}), Choice(mode="sleep")).grace_period == 500


@pytest.mark.parametrize("version", [(1, 28), (1, 29)])
def test_sleep_is_refused_before_kubernetes_has_it(version: tuple[int, int]) -> None:
    """With the reason, and what to do."""
    with pytest.raises(ValueError, match=r"mode sleep needs Kubernetes 1\.30, and this is for 1\.2[89], where"):
        Choice(mode="sleep", kubernetes_version=version)
    Choice(mode="exec", kubernetes_version=version)
    Choice(mode="sleep", kubernetes_version=(1, 30))


def test_the_script_and_the_app_each_have_their_time() -> None:
    """The app does not know what the script has done."""
    manifest = Manifest(needs(), Choice(mode="script", script=SCRIPT))
    parts, config_map = yaml.safe_load_all(snippet(manifest))
    assert parts["terminationGracePeriodSeconds"] == 100 + 130
    assert parts["env"][0]["value"] == "130"
    assert config_map["data"] == {"prestop.sh": SCRIPT}
    assert parts["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"] == "orders-prestop"


def test_probes_are_those_that_the_app_answers() -> None:
    """And a slow readiness check has its time."""
    more = EUREKA | {"readyz_path": "/health/ready", "livez_path": "/health/live", "readiness_timeout": 2.5}
    parts = yaml.safe_load(snippet(Manifest(needs(more), Choice(probes=True))))
    assert parts["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": 8080}
    assert parts["readinessProbe"]["timeoutSeconds"] == 4
    assert parts["livenessProbe"]["httpGet"] == parts["startupProbe"]["httpGet"] == {
        "path": "/health/live",
        "port": 8080,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "choice", "message"),
    [
        ({}, {"mode": "http"}, "mode http needs the port"),
        ({}, {"probes": True}, "--probes needs the port"),
        ({"port": 80, "probes": False}, {"probes": True}, "--probes needs livez_path and readyz_path"),
        ({"port": 80, "readyz_path": None}, {"probes": True}, "--probes needs livez_path and readyz_path"),
    ],
)
def test_what_the_app_does_not_have_is_refused(arguments: dict[str, Any], choice: dict[str, Any], message: str) -> None:
    """Instead of a hook or a probe that would fail."""
    with pytest.raises(ValueError, match=message):
        Manifest(needs(arguments), Choice(**choice))


@pytest.mark.parametrize("token", ["", " ", "a\nb", "ä" * 20])
def test_a_token_that_is_no_header_is_refused(token: str) -> None:
    """And not shown."""
    with pytest.raises(ValueError, match="the token is not shown, but it is no header's value"):
        Choice(mode="http", token=token)


def test_every_number_says_where_it_comes_from() -> None:
    """As a comment, and in JSON as a pointer to it."""
    environ = {"GRACEFUL_DRAIN_TIMEOUT": "7s", "GRACEFUL_MARGIN": "3"}
    manifest = Manifest(needs(EUREKA | {"margin": 1}, environ), Choice(mode="http", probes=True))
    for line in snippet(manifest).splitlines():
        value = line.partition("  # ")[0].rstrip("}").rpartition(": ")[2].strip('"')
        assert not value.isdecimal() or "  # " in line, line
    sources = json.loads(json_text(manifest))["sources"]
    assert sources["/pod/terminationGracePeriodSeconds"].endswith("margin 1s = 116s")
    assert sources["/container/env/1"] == "drain_timeout, from GRACEFUL_DRAIN_TIMEOUT"
    assert sources["/container/env/2"] == "margin, an argument of install()"
    assert sources["/container/readinessProbe/timeoutSeconds"] == "readiness_timeout 1s, and one more"


# --- for any settings -------------------------------------------------------------------------------------------------


@given(arguments(), st.sampled_from(MODES), st.booleans())
def test_whatever_the_settings_and_the_form_the_grace_is_never_too_short(
    chosen: dict[str, Any], mode: Any, more: bool
) -> None:
    """The hook's own time and the whole plan after it, and the YAML is what is meant."""
    manifest = Manifest(needs(chosen), Choice(mode=mode, probes=more, post_start=more, script=SCRIPT))
    parts, *_ = yaml.safe_load_all(snippet(manifest))
    settings = settings_of(chosen, {}).in_kubernetes()
    plan = settings.plan(registry=bool(settings.eureka_url))
    grace, hook = parts["terminationGracePeriodSeconds"], parts["lifecycle"]["preStop"]
    own = hook["sleep"]["seconds"] if "sleep" in hook else 0
    if mode == "script":
        own = math.floor(plan.announce + plan.propagation)
    assert grace >= own + plan.total - 0.01
    assert int(parts["env"][0]["value"]) >= plan.total - 0.01
    assert int(parts["env"][0]["value"]) + own <= grace
    assert all(write(manifest).isascii() for write in FORMATS.values())
    assert merged({}, yaml.safe_load(patch(manifest))) == merged(
        {}, yaml.safe_load(yaml.safe_load(component(manifest))["patches"][0]["patch"])
    )
    for_programs = json.loads(json_text(manifest))
    assert {**for_programs["pod"], **for_programs["container"]} == {"name": manifest.name, **parts}


@given(arguments(), st.sampled_from([{}, {"EUREKA_INSTANCE_INSTANCEID": "a:1"}]))
def test_whatever_the_settings_another_process_reads_the_same_needs(
    chosen: dict[str, Any], environ: dict[str, str]
) -> None:
    """`--pid` gives what the process itself would."""
    here = needs(chosen, environ)
    assert Needs.from_json(here.to_json()) == here


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", '{"variables": [{"nme": 1}]}', '{"variables": []}', "{"])
def test_needs_of_another_version_are_refused(text: str) -> None:
    """In one sentence."""
    with pytest.raises(ValueError, match=r"expected the numbers of a manifest|Expecting"):
        Needs.from_json(text)


# --- with the script as it is -----------------------------------------------------------------------------------------


def test_the_script_is_in_the_manifest_as_the_command_prints_it() -> None:
    """All of it, in every form that has a place for it."""
    environ = {"GRACEFUL_EUREKA_URL": "http://eureka:8761/eureka", "GRACEFUL_PORT": "8080"}
    orders = ROOT / "examples" / "orders"
    script = command("prestop-script", "main", cwd=orders, environ=environ).out
    assert script.startswith("#!/bin/sh\n")
    ended = command("manifest", "main", "--mode", "script", "--format", "snippet", cwd=orders, environ=environ)
    assert ended.code == 0, ended.err
    parts, config_map = yaml.safe_load_all(ended.out)
    assert config_map["data"] == {"prestop.sh": script}
    assert parts["terminationGracePeriodSeconds"] == 230
    assert "has no ConfigMap in it" in ended.err
    component = command("manifest", "main", "--mode", "script", "--format", "kustomize", cwd=orders, environ=environ)
    (generated,) = yaml.safe_load(component.out)["configMapGenerator"]
    assert generated["literals"] == [f"prestop.sh={script}"]
