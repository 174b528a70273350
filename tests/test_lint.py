"""The linter: every rule with a good and a bad example, what it does with files that are none, and its command."""

from __future__ import annotations

import json
import os
import re
import runpy
import textwrap
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graceful.kubernetes.lint.checking import Options, Report, lint
from graceful.kubernetes.lint.report import as_json, as_text
from graceful.kubernetes.lint.rules import RULES, Severity
from tests.test_cli import ROOT, command, write
from tests.test_docs import fences

EUREKA = """
        - {name: GRACEFUL_EUREKA_URL, value: "http://eureka:8761/eureka"}
        - {name: GRACEFUL_APP_NAME, value: orders}
        - {name: GRACEFUL_PORT, value: "8080"}"""
GOOD = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders
spec:
  replicas: 2
  selector: {matchLabels: {app: orders}}
  template:
    metadata:
      labels: {app: orders}
    spec:
      terminationGracePeriodSeconds: 37
      containers:
      - name: orders
        image: registry.example/orders:1
        command: ["python", "main.py"]
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /readyz, port: 8080}}
        livenessProbe: {httpGet: {path: /livez, port: 8080}}
        env:
        - {name: GRACEFUL_GRACE_PERIOD, value: "37"}
        lifecycle:
          preStop:
            exec: {command: ["python3", "-P", "-m", "graceful.prestop"]}
"""
"""drain 20s + cleanup 5s + margin 2s, and 10s until Kubernetes has heard: 37s."""
OTHER = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
      - name: web
        image: nginx:1.27
        lifecycle:
          preStop:
            exec: {command: ["sleep", "5"]}
"""
"""Nothing of graceful in it."""

HOOK = 'exec: {command: ["python3", "-P", "-m", "graceful.prestop"]}'
SLEEP = 'exec: {command: ["sleep", "5"]}'
LIFECYCLE = f"""
        lifecycle:
          preStop:
            {HOOK}"""
COMMAND = 'command: ["python", "main.py"]'
GRACE = "terminationGracePeriodSeconds: 37"
VARIABLE = '- {name: GRACEFUL_GRACE_PERIOD, value: "37"}'
REPLICAS = "replicas: 2"
PROBES = """\
        readinessProbe: {httpGet: {path: /readyz, port: 8080}}
        livenessProbe: {httpGet: {path: /livez, port: 8080}}
"""
SPEC = "    spec:\n      term"


def report_of(text: str, **options: object) -> Report:
    return lint([("it.yaml", text.encode("utf-8", "surrogatepass"))], Options(**options))  # type: ignore[arg-type]


def found(text: str, **options: object) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in report_of(text, **options).findings}


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def ours(*edits: tuple[str, str]) -> str:
    return edited(GOOD, *edits)


def other(*edits: tuple[str, str]) -> str:
    return edited(OTHER, *edits)


def more(variable: str) -> tuple[str, str]:
    return VARIABLE, f"{VARIABLE}\n        - {variable}"


def shell(script: str, name: str = "sh") -> tuple[str, str]:
    return COMMAND, f"command: [{name}, -c, {json.dumps(script)}]"


def rolling(numbers: str) -> tuple[str, str]:
    return REPLICAS, f"replicas: 2\n  strategy: {{type: RollingUpdate, rollingUpdate: {numbers}}}"


def sidecar(text: str) -> tuple[str, str]:
    return "      - name: orders\n", f"      - {text}\n      - name: orders\n"


PROXY = "{name: istio-proxy, image: docker.io/istio/proxyv2:1.26}"
ISTIO = ("labels: {app: orders}", 'labels: {app: orders, sidecar.istio.io/inject: "true"}')
REGISTERED = (VARIABLE, VARIABLE.replace("37", "130") + EUREKA)
LONG = (GRACE, "terminationGracePeriodSeconds: 130")

# Each rule: what it must find, and the nearest that it must not.
BAD = {
    "G001": [GOOD + "\n]", "a: [", "\x00", "a: b: c", "%YAML 9", "&a [*b]", "a: \ud800"],
    "G002": [
        ours(("  replicas: 2\n", "  replicas: 2\n  replicas: 3\n")),
        ours((VARIABLE, VARIABLE + "\n        env: []")),
    ],
    "G003": [
        ours((GRACE, GRACE + "  # graceful: ignore")),
        ours((GRACE, GRACE + "  # graceful: ignore G999 because")),
        ours(("labels: {app", "annotations: {graceful/ignore: all}\n      labels: {app")),
    ],
    "G004": ["", "kind: Service", "[]", "42", "# nothing", "kind: Deployment\nspec: {template: {spec: {}}}"],
    "G005": [
        ours((VARIABLE, "- {name: GRACEFUL_DRAIN_TIMEOUT, valueFrom: {configMapKeyRef: {name: c, key: k}}}")),
        ours((VARIABLE, "- {name: GRACEFUL_DRAIN_TIMEOUT, value: $(DRAIN)}")),
        ours(("        env:", "        envFrom: [{secretRef: {name: s}}]\n        env:")),
    ],
    "G007": [
        ours(("replicas: 2", "replicas: {{ .Values.replicas }}")),
        "{{- if .Values.on }}\n" + GOOD + "{{- end }}\n",
        ours(("        ports:", "        {{- toYaml .Values.x | nindent 8 }}\n        ports:")),
    ],
    "G008": [ours(("        image: registry.example/orders:1\n", ""), (GRACE, "x: 1"))],
    "G101": [
        ours((GRACE, "terminationGracePeriodSeconds: 36")),
        ours((GRACE + "\n", "\n")),
        ours((VARIABLE, VARIABLE + EUREKA)),
        ours((HOOK, 'exec: {command: [sh, -c, "sleep 1; python3 -P -m graceful.prestop"]}')),
    ],
    "G102": [
        ours((HOOK, "sleep: {seconds: 37}")),
        other((SLEEP, "sleep: {seconds: 30}")),
        other((SLEEP, 'exec: {command: ["/bin/sh", "-c", "sleep 20 && nginx -s quit; sleep 10s"]}')),
        other((SLEEP, 'exec: {command: ["sleep", "1m"]}')),
        other(("    spec:\n      cont", "    spec:\n      terminationGracePeriodSeconds: 0\n      cont")),
    ],
    "G103": [
        ours((VARIABLE, VARIABLE.replace("37", "38"))),
        ours((HOOK, "sleep: {seconds: 2}")),  # 35 s are left when SIGTERM comes
    ],
    "G104": [
        ours((VARIABLE, VARIABLE.replace("37", "36"))),
        ours((VARIABLE, "- {name: GRACEFUL_PORT, value: '8080'}")),
        # SIGTERM comes when the sleep is over: 35 s are left, and 34 are too few.
        ours((VARIABLE, VARIABLE.replace("37", "34")), (HOOK, "sleep: {seconds: 2}")),
    ],
    "G105": [ours((GRACE, "terminationGracePeriodSeconds: 51")), ours(LONG, REGISTERED)],
    "G106": [ours((GRACE, "terminationGracePeriodSeconds: 601"))],
    "G201": [
        ours((HOOK, HOOK + "\n            sleep: {seconds: 5}")),
        ours((HOOK, "$patch: replace")),
        other((SLEEP, "exec: null\n            sleep:")),
    ][:2],
    "G202": [ours((HOOK, "tcpSocket: {port: 80}")), other((SLEEP, "tcpSocket: {port: 80}"))],
    "G204": [
        ours(("registry.example/orders:1", "gcr.io/distroless/python3"), (HOOK, "exec: {command: [sh, -c, true]}")),
        other((SLEEP, "exec: {command: [/bin/sleep, '5']}"), ("nginx:1.27", "cgr.dev/chainguard/nginx:latest")),
    ],
    "G205": [
        other((SLEEP, "exec: {command: [curl, localhost]}")),
        other((SLEEP, "exec: {command: [bash, -ec, 'x=1 /usr/bin/wget -q localhost']}")),
    ],
    "G206": [ours((LIFECYCLE, "")), ours((LIFECYCLE, "\n        lifecycle: {preStop: null}"))],
    "G207": [ours((HOOK, 'exec: {command: [sh, -c, "sleep 5; python3 -P -m graceful.prestop"]}'))],
    "G208": [
        ours(('"-P", ', "")),
        ours((HOOK, "exec: {command: [sh, -c, exec python3 -m graceful.prestop]}")),
    ],
    "G301": [
        ours(shell("cd /app && python main.py")),
        ours(shell("python migrate.py\npython main.py", "/bin/bash")),
        ours((COMMAND, 'args: [sh, -euo, pipefail, -c, "a; b"]')),
        other(("image: nginx:1.27", 'image: nginx:1.27\n        command: [sh, -c, "while true; do sleep 1; done"]')),
    ],
    "G302": [ours(shell("python main.py")), ours(shell("PORT=1 python 'a;b' # or exec python"))],
    "G401": [ours(("        readinessProbe: {httpGet: {path: /readyz, port: 8080}}\n", ""))],
    "G402": [
        ours(("readinessProbe: {httpGet: {path: /readyz", "readinessProbe: {httpGet: {path: /livez")),
        ours(("livenessProbe: {httpGet: {path: /livez", "livenessProbe: {httpGet: {path: /readyz")),
    ],
    "G403": [
        ours(rolling("{maxUnavailable: 0, maxSurge: 0}")),
        ours(rolling('{maxUnavailable: "0%", maxSurge: 0%}')),
        ours((REPLICAS, "minReadySeconds: 600")),
        other(("spec:\n  sel", "spec:\n  minReadySeconds: 60\n  progressDeadlineSeconds: 60\n  sel")),
        other(
            ("kind: Deployment", "kind: DaemonSet"),
            ("spec:\n  sel", "spec:\n  updateStrategy: {rollingUpdate: {maxUnavailable: 0}}\n  sel"),
        ),
    ],
    "G404": [
        ours(rolling("{maxUnavailable: 2}")),
        ours(rolling("{maxUnavailable: 100%}")),
        other(("spec:\n  sel", "spec:\n  strategy: {rollingUpdate: {maxUnavailable: '100%'}}\n  sel")),
    ],
    "G405": [ours((REPLICAS, "strategy: {type: Recreate}"))],
    "G406": [
        ours((REPLICAS, "replicas: 1")),
        ours((REPLICAS, "replicas: 1"), ("kind: Deployment", "kind: StatefulSet")),
    ],
    "G501": [ours((SPEC, "    spec:\n      shareProcessNamespace: true\n      term"))],
    "G502": [ours((SPEC, "    spec:\n      hostNetwork: true\n      term"), LONG, REGISTERED)],
    "G503": [
        ours(sidecar(PROXY)),
        ours(sidecar("{name: db, image: gcr.io/cloud-sql-connectors/cloud-sql-proxy:2.14, args: [--port=5432]}")),
        ours(sidecar("{name: proxy, image: envoyproxy/envoy:v1.33}")),
    ],
    "G504": [ours(ISTIO), ours(("labels: {app", "annotations: {linkerd.io/inject: enabled}\n      labels: {app"))],
    "G601": [
        ours((VARIABLE, VARIABLE.replace("37", "soon"))),
        ours(more("{name: GRACEFUL_EUREKA_URL, value: 'eureka:8761'}")),
        ours(more("{name: SPRING_LIFECYCLE_TIMEOUT_PER_SHUTDOWN_PHASE, value: long}")),
    ],
    "G602": [
        ours(more("{name: GRACEFUL_DRAIN_TIME, value: '5'}")),
        ours(more("{name: EUREKA_INSTANCE_APP_NAME, value: orders}")),
    ],
    "G603": [ours((VARIABLE, VARIABLE.replace("37", "30") + "\n        " + VARIABLE))],
}
CLEAN = {
    "G001": [
        '{"kind": "Pod",\n\t"spec":\t{"containers": [{"name": "a\\tb"}]}}',
        "\ufeff" + OTHER,
        OTHER.replace("\n", "\t\r\n"),
    ],
    "G002": [ours(("      labels: {app: orders}", "      labels: {app: orders, name: orders}"))],
    "G003": [ours((GRACE, GRACE + "  # graceful: ignore G105, G106 our cluster has no autoscaler"))],
    "G004": ["kind: List\nitems:\n- kind: Service\n-\n" + textwrap.indent(OTHER, "  ")],
    "G005": [
        ours(more("{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}")),
        ours(("        env:", "        envFrom: [{configMapRef: {name: c}}]\n        env:"))
        + "---\nkind: ConfigMap\nmetadata: {name: c}\ndata: {GRACEFUL_MARGIN: '2'}\n",
        other(("image: nginx:1.27", "image: nginx:1.27\n        envFrom: [{secretRef: {name: s}}]")),
    ],
    "G007": [
        ours(("labels: {app: orders}", 'labels: {app: orders}\n      annotations: {text: "{{ .Values.x }}"}')),
        GOOD + '---\nkind: ConfigMap\ndata:\n  alert: |\n    {{ define "x" }}\n  other: "{{ x }}"\n',
    ],
    "G008": [other()],
    "G101": [
        ours((GRACE, "terminationGracePeriodSeconds: 130"), REGISTERED),
        ours((GRACE, "terminationGracePeriodSeconds: 30"), (VARIABLE, "- {name: GRACEFUL_DRAIN_TIMEOUT, value: 13s}")),
        other(),
    ],
    "G102": [
        other((SLEEP, "sleep: {seconds: 29}")),
        other((SLEEP, 'exec: {command: [sh, -c, "while x; do sleep 60; done"]}')),
        other((SLEEP, "exec: {command: [sleep, infinity]}")),
        other((SLEEP, "exec: {command: [sleep, $SECONDS]}")),
    ],
    "G103": [GOOD, ours((VARIABLE, VARIABLE.replace("37", "35")), (HOOK, "sleep: {seconds: 2}"))],
    "G104": [
        ours((GRACE + "\n", "\n"), (VARIABLE, "- {name: GRACEFUL_DRAIN_TIMEOUT, value: '13'}")),
        ours((VARIABLE, "- {name: GRACEFUL_GRACE_PERIOD, valueFrom: {secretKeyRef: {name: s, key: k}}}")),
        ours((VARIABLE, VARIABLE.replace("37", "35")), (HOOK, "sleep: {seconds: 2}")),
        ours((VARIABLE, VARIABLE.replace("37", "12")), (HOOK, "exec: {command: [/bin/sh, /prestop.sh]}")),
    ],
    "G105": [ours((GRACE, "terminationGracePeriodSeconds: 50"))],
    "G106": [ours((GRACE, "terminationGracePeriodSeconds: 600"))],
    "G201": [ours((HOOK, "sleep: {seconds: 5}")), other((SLEEP, "exec: null\n            sleep: {seconds: 1}"))],
    "G202": [ours((HOOK, "httpGet: {path: /graceful/prestop, port: 8080}"))],
    "G204": [
        ours(("registry.example/orders:1", "gcr.io/distroless/python3")),
        other((SLEEP, "exec: {command: [sh, -c, x]}"), ("nginx:1.27", "gcr.io/distroless/python3:debug")),
        other(("nginx:1.27", "cgr.dev/chainguard/nginx:latest-dev")),
    ],
    "G205": [other(), other((SLEEP, "exec: {command: [sh, -c, echo curl wget]}"))],
    "G206": [
        ours((LIFECYCLE, "\n        lifecycle: {preStop: {sleep: {seconds: 1}}}")),
        ours((LIFECYCLE, ""), ("kind: Deployment", "kind: Job")),
    ],
    "G207": [ours((HOOK, 'exec: {command: [sh, -c, "exec python3 -P -m graceful.prestop"]}'))],
    "G208": [ours(('"-P"', '"-IB"')), ours(('"-P", ', ""), more("{name: PYTHONSAFEPATH, value: '1'}"))],
    "G301": [
        ours(shell("cd /app && exec python main.py")),
        ours(shell("trap 'kill $!' TERM; python main.py & wait")),
        ours((COMMAND, "command: [sh, /start.sh, -c, 'a; b']")),
        ours((COMMAND, "command: [tini, --, sh, -c, 'a; b']")),
        ours(shell("a; b"), ("kind: Deployment", "kind: Job")),
        ours(shell("python -c 'a; b' \"c && d\" e\\;f 2>&1")),
    ],
    "G302": [
        ours(shell("exec python main.py")),
        ours(shell("python main.py", "bash")),
        ours(shell("python main.py"), ("orders:1", "orders:1-alpine")),
    ],
    "G401": [
        ours(
            (
                PROBES,
                "",
            ),
            ("        ports: [{containerPort: 8080}]\n", ""),
        )
    ],
    "G402": [ours(("readinessProbe: {httpGet: {path: /readyz", "readinessProbe: {httpGet: {path: /healthz"))],
    "G403": [
        ours(rolling("{maxUnavailable: 0, maxSurge: 1}")),
        ours(rolling("{maxUnavailable: 0}")),
        ours(rolling("{maxSurge: 0}")),
        other(("kind: Deployment", "kind: StatefulSet"), ("spec:\n  sel", "spec:\n  minReadySeconds: 700\n  sel")),
        ours((REPLICAS, "minReadySeconds: 599")),
        other(
            ("kind: Deployment", "kind: DaemonSet"),
            ("spec:\n  sel", "spec:\n  updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}\n  sel"),
        ),
    ],
    "G404": [
        ours(rolling("{maxUnavailable: 1}")),
        ours(rolling("{maxUnavailable: 99%}")),
        other(("spec:\n  sel", "spec:\n  strategy: {rollingUpdate: {maxUnavailable: 3}}\n  sel")),
    ],
    "G405": [GOOD, other(("spec:\n  sel", "spec:\n  strategy: {type: Recreate}\n  sel"))],
    "G406": [GOOD, other(("spec:\n  sel", "spec:\n  replicas: 1\n  sel"))],
    "G501": [ours((SPEC, "    spec:\n      shareProcessNamespace: false\n      term"))],
    "G502": [
        ours((SPEC, "    spec:\n      hostNetwork: true\n      term")),
        ours(
            (SPEC, "    spec:\n      hostNetwork: true\n      term"),
            LONG,
            REGISTERED,
            (EUREKA, EUREKA + "\n        - {name: GRACEFUL_INSTANCE_ID, value: $(POD_NAME)}"),
        ),
    ],
    "G503": [
        ours(
            (
                "      containers:",
                f"      initContainers:\n      - {PROXY[:-1]}, restartPolicy: Always}}\n      containers:",
            )
        ),
        ours(sidecar(f"{PROXY[:-1]}, lifecycle: {{preStop: {{sleep: {{seconds: 30}}}}}}}}")),
        ours(sidecar("{name: cloud-sql-proxy, image: x, args: [--max-sigterm-delay=30s]}")),
        ours(sidecar("{name: logs, image: fluent/fluent-bit:3}")),
        other(("      - name: web", f"      - {PROXY}\n      - name: web")),
    ],
    "G504": [
        ours(ISTIO, ("labels: {app", 'annotations: {sidecar.istio.io/nativeSidecar: "true"}\n      labels: {app')),
        ours(("labels: {app: orders}", 'labels: {app: orders, sidecar.istio.io/inject: "false"}')),
    ],
    "G601": [
        ours(LONG, REGISTERED),
        ours(more("{name: GRACEFUL_EUREKA_URL, value: 'http://eureka:8761/eureka'}")),
        ours(more("{name: GRACEFUL_EUREKA_URL, valueFrom: {secretKeyRef: {name: s, key: k}}}")),
    ],
    "G602": [ours(more("{name: GRACEFUL_RUNTIME_DIR, value: /run}"))],
    "G603": [
        ours((VARIABLE, VARIABLE + "\n        " + VARIABLE)),
        ours(more("{name: A, value: '1'}\n        - {name: A, value: '2'}")),
    ],
}


def examples(of: dict[str, list[str]]) -> list[object]:
    return [pytest.param(rule, text, id=f"{rule}-{number}") for rule in of for number, text in enumerate(of[rule])]


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "text"), examples(BAD))
def test_a_bad_example(rule: str, text: str) -> None:
    """The rule finds it, with its weight, its line, why and what to do."""
    findings = [each for each in report_of(text).findings if each.rule == rule]
    assert findings, found(text)
    is_ours = "GRACEFUL_" in text or "graceful.prestop" in text
    assert {each.severity for each in findings} == {RULES[rule].severity if is_ours else RULES[rule].elsewhere}
    assert all(each.why and each.fix and 1 <= each.line <= text.count("\n") + 1 for each in findings)


@pytest.mark.parametrize(("rule", "text"), examples(CLEAN))
def test_a_good_example(rule: str, text: str) -> None:
    """The rule finds nothing."""
    assert rule not in found(text)


def test_every_rule_has_examples() -> None:
    """A rule without a good and a bad one is none; those that need an option have tests of their own."""
    with_options = {"G006", "G203", "G604"}
    assert BAD.keys() | with_options == RULES.keys() == CLEAN.keys() | with_options


def test_what_is_right_has_no_finding() -> None:
    """What the other examples change is clean before they do."""
    assert found(GOOD) == found(OTHER) == {}


@pytest.mark.parametrize(
    ("hook", "version", "is_found"),
    [
        ("sleep: {seconds: 5}", (1, 29), True),
        ("sleep: {seconds: 5}", (1, 30), False),
        ("sleep: {seconds: 5}", None, False),
        ("sleep: {seconds: 0}", (1, 32), True),
        ("sleep: {seconds: 0}", (1, 33), False),
        (SLEEP, (1, 20), False),
    ],
)
def test_g203_a_sleep_that_the_version_does_not_know(
    hook: str, version: tuple[int, int] | None, is_found: bool
) -> None:
    """Only with `--kubernetes-version`."""
    assert ("G203" in found(other((SLEEP, hook)), kubernetes=version)) == is_found


def test_g006_the_container_is_not_there() -> None:
    """The names that are there are said."""
    (finding,) = report_of(OTHER, container="orders").findings
    assert (finding.rule, finding.severity) == ("G006", Severity.INCONCLUSIVE)
    assert finding.why == "no container is called orders; there are: web"
    assert "G006" not in found(GOOD, container="orders")


def test_a_container_that_is_named_is_held_against_the_plan() -> None:
    """Also where nothing else shows that graceful runs in it."""
    assert found(OTHER, container="web")["G101"] is Severity.ERROR


def test_a_service_that_is_switched_off_is_none() -> None:
    """`GRACEFUL_ENABLED=false`."""
    off = (VARIABLE, VARIABLE.replace("37", "99") + "\n        - {name: GRACEFUL_ENABLED, value: 'false'}")
    assert found(ours(off)) == {}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Pod", []),
        ("StatefulSet", ["spec", "template"]),
        ("CronJob", ["spec", "jobTemplate", "spec", "template"]),
        ("Rollout", ["spec", "template"]),
        ("PodTemplate", ["template"]),
    ],
)
def test_every_kind_with_a_pod_template(kind: str, path: list[str]) -> None:
    """Argo's and others too; JSON is YAML."""
    bad = {"name": "a", "image": "b", "lifecycle": {"preStop": {"tcpSocket": {"port": 1}}}}
    manifest: dict[str, object] = {"spec": {"containers": [bad]}}
    for key in reversed(path):
        manifest = {key: manifest}
    assert "G202" in found(json.dumps({"kind": kind, **manifest}, indent="\t"))
    assert "G202" in found(json.dumps({"kind": "List", "items": [{"kind": kind, **manifest}]}))


# --- what is said ---------------------------------------------------------------------------------------------------


def test_the_place_is_the_line() -> None:
    """Of the key; in the second document as in the first; in a file with Windows' line ends."""
    text = f"# one\n---\n{OTHER}---\n{ours((GRACE, 'terminationGracePeriodSeconds: 3'))}".replace("\n", "\r\n")
    lines = text.splitlines()
    (finding,) = [each for each in report_of(text).findings if each.rule == "G101"]
    assert lines[finding.line - 1] == "      terminationGracePeriodSeconds: 3"
    assert finding.subject == "Deployment orders, container orders"


def test_the_numbers_that_were_used_are_said() -> None:
    """Whose, from where, and what they come to."""
    (used,) = report_of(ours(LONG, REGISTERED)).counted
    assert (used.needs, used.has) == (130, 130)
    assert used.plan.endswith("propagation 95s + drain 20s + cleanup 5s + deregister 3s + margin 2s = 130s")
    assert "install() is not seen" in used.origin


def test_variables_of_this_machine_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pod does not have them."""
    monkeypatch.setenv("GRACEFUL_DRAIN_TIMEOUT", "500")
    assert found(GOOD) == {}


DRAIN_FROM_ELSEWHERE = "{name: GRACEFUL_DRAIN_TIMEOUT, valueFrom: {configMapKeyRef: {name: c, key: k}}}"


def test_variables_of_this_machine_count_where_the_manifest_takes_them_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A value of a ConfigMap that is not in the input, or a whole Secret."""
    monkeypatch.setenv("GRACEFUL_DRAIN_TIMEOUT", "500")
    assert found(ours(more(DRAIN_FROM_ELSEWHERE))).keys() == {"G101"}
    secret = ours(("        env:", "        envFrom: [{secretRef: {name: s}}]\n        env:"))
    assert found(secret).keys() == {"G101", "G005"}


def test_merge_keys_and_aliases() -> None:
    """`<<` gives what the mapping itself does not; an anchor that refers to itself ends."""
    text = ours(
        ("  template:", "  x: &x {sleep: {seconds: 99}, self: *x}\n  template:"),
        (HOOK, "<<: [*x, *x]"),
    )
    assert {"G102", "G206"} & found(text).keys() == {"G102"}
    assert "G102" not in found(ours((HOOK, "sleep: {seconds: 1}\n            <<: {sleep: {seconds: 99}}")))


@pytest.mark.parametrize(
    "edit",
    [
        (GRACE, "terminationGracePeriodSeconds: 36  # graceful: ignore G101 shorter on purpose"),
        (GRACE, "# graceful: ignore G101, G103 shorter on purpose\n      terminationGracePeriodSeconds: 36"),
        (GRACE, "# graceful: ignore G101\n      # more of it\n\n      terminationGracePeriodSeconds: 36"),
    ],
)
def test_a_comment_ignores_a_finding(edit: tuple[str, str]) -> None:
    """On its line or on the line before it, and nowhere else."""
    assert found(ours(edit, (VARIABLE, VARIABLE.replace("37", "36")))) == {}
    assert report_of(ours(edit)).ignored == 1


def test_an_annotation_ignores_a_rule_for_the_whole_object() -> None:
    """Of the object or of the pod template."""
    short = ours((GRACE, "terminationGracePeriodSeconds: 36"))
    for old in ("  name: orders\nspec", "      labels: {app: orders}\n"):
        indent = old[: len(old) - len(old.lstrip())]
        new = f"{indent}annotations: {{graceful/ignore: G101 G103 tried out}}\n{old}"
        assert found(edited(short, (old, new))) == {}
    assert found(short, ignore=frozenset({"G101", "G103"})) == {}


def test_what_is_wrong_with_a_variable_is_said_at_its_line() -> None:
    """And only that: what the settings refuse, and the name that was meant."""
    text = ours(more("{name: GRACEFUL_DRAIN_TIME, value: '5'}\n        - {name: GRACEFUL_MARGIN, value: lots}"))
    lines = text.splitlines()
    said = {finding.rule: (lines[finding.line - 1].split()[2], finding.fix) for finding in report_of(text).findings}
    assert said["G602"] == ("GRACEFUL_DRAIN_TIME,", "did you mean GRACEFUL_DRAIN_TIMEOUT?")
    assert said["G601"][0] == "GRACEFUL_MARGIN,"


def test_a_patch_is_not_held_against_what_it_does_not_say() -> None:
    """The grace period may stand in what it is applied to."""
    assert found(ours(("        image: registry.example/orders:1\n", ""), (GRACE, "x: 1"))).keys() == {"G008"}


def test_credentials_and_control_characters_are_not_shown() -> None:
    """Of a variable that cannot be used, and of names."""
    secret = "\n        - {name: GRACEFUL_EUREKA_URL, value: 'http://me:hunter2@eureka:x/'}"
    report = report_of(ours((VARIABLE, VARIABLE + secret), ("  name: orders\nspec", '  name: "a\\e[31m\\nb"\nspec')))
    assert "G601" in {finding.rule for finding in report.findings}
    assert "hunter2" not in as_text(report) + as_json(report)
    assert "\x1b" not in as_text(report)


# --- whatever stands there ------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["1", "5s", "100%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def with_value(value: object, path: tuple[object, ...], new: object) -> object:
    if not path:
        return new
    if isinstance(value, dict):
        return {key: with_value(each, path[1:], new) if key == path[0] else each for key, each in value.items()}
    assert isinstance(value, list)
    return [with_value(each, path[1:], new) if key == path[0] else each for key, each in enumerate(value)]


def as_object() -> object:
    import yaml

    rich = ours(
        sidecar(PROXY),
        REGISTERED,
        (REPLICAS, "replicas: 2\n  minReadySeconds: 5\n  strategy: {rollingUpdate: {maxUnavailable: 1, maxSurge: 1}}"),
        (COMMAND, "command: [sh, -c, 'a; b']"),
        ("        env:", "        envFrom: [{configMapRef: {name: c}, prefix: P}]\n        env:"),
        (SPEC, "    spec:\n      hostNetwork: true\n      shareProcessNamespace: true\n      term"),
    )
    return yaml.safe_load(rich)


RICH = as_object()


@given(data=st.data())
def test_whatever_stands_in_a_place_it_does_not_crash(data: st.DataObject) -> None:
    """Any JSON value in any place of a manifest, and the report can be shown."""
    path = data.draw(st.sampled_from(places(RICH)))
    text = json.dumps(with_value(RICH, path, data.draw(VALUES)))
    report = report_of(text, kubernetes=(1, 29))
    json.loads(as_json(report))
    as_text(report).encode()


@pytest.mark.parametrize("character", ["\U0001f680", "\ud83d"], ids=["in two halves", "half"])
def test_an_escaped_character_is_no_trouble_in_any_place(character: str) -> None:
    """JSON writes a rocket as two halves, and YAML's parsers leave them so."""
    for path in places(RICH):
        as_text(report_of(json.dumps(with_value(RICH, path, character)), kubernetes=(1, 29))).encode()


def test_a_character_escaped_in_two_halves_is_shown_whole() -> None:
    named = json.dumps(as_object()).replace('"orders"', '"\\ud83d\\ude80"')
    assert "\U0001f680" in as_text(report_of(named, kubernetes=(1, 29)))


@given(st.binary(max_size=60) | st.text("{}[]:-,&*!|>'\"%@`#?<\n\t ak1", max_size=40).map(str.encode))
@example(b"\xff\xfe\x00")
@example(b"[" * 5000)
@example(b"&a [*a]")
@example(b"? {a: b}\n: c\n<<: *b")
@example(b"!!python/object:os.system x")
@example(b"--- !<tag:yaml.org,2002:str> a")
@example(b"&a {<<: *a, kind: List, items: [*a, *a]}")
def test_whatever_a_file_holds_it_does_not_crash(data: bytes) -> None:
    """What is no YAML is a finding; nothing is ever made from it."""
    as_text(lint([("it", data)], Options())).encode()


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_and_its_exit_codes(tmp_path: Path) -> None:
    """0 for notes and warnings, 1 for errors, 2 for what cannot be used, 3 for what cannot be told."""
    for name, text in {
        "good": GOOD,
        "warned": ours((LIFECYCLE, "")),
        "bad": ours((GRACE, "")),
        "empty": "kind: Service",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert [command("lint", f"{name}.yaml", cwd=tmp_path).code for name in ("good", "warned", "bad", "empty")] == [
        0,
        0,
        1,
        3,
    ]
    assert command("lint", "--strict", "warned.yaml", cwd=tmp_path).code == 1
    assert command("lint", "--ignore", "G101,G103", "bad.yaml", cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.yaml"], "'gone.yaml': No such file or directory"),
        (["--ignore", "G1", "-"], "--ignore G1: there is no such rule"),
        (["--kubernetes-version", "new", "-"], "--kubernetes-version is 'new': expected a version such as 1.29"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, arguments: list[str], says: str) -> None:
    """Exit code 2 and one line."""
    ended = command("lint", *arguments, cwd=tmp_path)
    assert ended.code == 2
    assert ended.error.startswith(says)


def test_a_folder_and_the_standard_input(tmp_path: Path) -> None:
    """All manifests of the folder and what is below it; JSON for programs."""
    (tmp_path / "k8s" / "prod").mkdir(parents=True)
    (tmp_path / "k8s" / "a.yaml").write_text(OTHER)
    (tmp_path / "k8s" / "prod" / "b.yml").write_text(GOOD)
    (tmp_path / "k8s" / "notes.txt").write_text("a: [")
    ended = command("lint", "--format", "json", "k8s", "-", cwd=tmp_path)
    shown = json.loads(ended.out)
    assert (ended.code, shown["pods"], shown["findings"]) == (0, 2, [])
    assert [used["file"] for used in shown["numbers"]] == ["k8s/prod/b.yml"]


EUREKA_OF_THE_POD = {"GRACEFUL_EUREKA_URL": "http://e:1/", "GRACEFUL_PORT": "8080"}
INSTALLED = "import graceful\ngraceful.install(app_name='orders', eureka_url='http://eureka:8761/eureka', port=8080)\n"


def test_the_plan_of_a_module(tmp_path: Path) -> None:
    """It is imported with the variables of the manifest, and what `install()` is given counts."""
    write(tmp_path, main=INSTALLED + "print('noise')\n")
    (tmp_path / "it.yaml").write_text(ours(more("{name: GRACEFUL_DRAIN_TIMEOUT, value: '30'}")))
    ended = command("lint", "--module", "main", "it.yaml", cwd=tmp_path)
    assert ended.code == 1
    assert "it.yaml:12: error G101: " in ended.out
    assert "needs 140 s, has 37 s" in ended.out
    assert "from: main, imported with the variables of the manifest" in ended.out
    assert "noise" not in ended.out


def test_a_module_sees_the_variables_that_the_pod_has(tmp_path: Path) -> None:
    """Not those of this machine, but for those that the manifest takes from elsewhere."""
    write(tmp_path, main="import graceful\ngraceful.install()\n")
    (tmp_path / "it.yaml").write_text(ours(more(DRAIN_FROM_ELSEWHERE)))
    here = {"GRACEFUL_DRAIN_TIMEOUT": "21", "GRACEFUL_MARGIN": "500", "EUREKA_SERVER_URL": "http://elsewhere:1/"}
    ended = command("lint", "--module", "main", "it.yaml", cwd=tmp_path, environ=here)
    assert "needs 38 s, has 37 s" in ended.out


def test_g604_the_module_and_the_variables_disagree(tmp_path: Path) -> None:
    """The hook reads the variable, the service what `install()` is given."""
    write(tmp_path, main=INSTALLED.replace("port=8080", "port=8080, drain_timeout=20"))
    drain = "\n        - {name: GRACEFUL_DRAIN_TIMEOUT, value: '30'}"
    (tmp_path / "bad.yaml").write_text(ours(LONG, REGISTERED, (EUREKA, EUREKA + drain)))
    (tmp_path / "good.yaml").write_text(ours(LONG, REGISTERED))
    bad, good = (command("lint", "--module", "main", name, cwd=tmp_path) for name in ("bad.yaml", "good.yaml"))
    assert (bad.code, good.code) == (0, 0)
    assert "bad.yaml:25: warning G604: " in bad.out
    assert "G604" not in good.out


def test_a_module_and_the_only_container(tmp_path: Path) -> None:
    """It need not show anything of graceful; where there are several, it must be named."""
    write(tmp_path, main=INSTALLED)
    (tmp_path / "one.yaml").write_text(OTHER)
    (tmp_path / "two.yaml").write_text(OTHER + "---\n" + OTHER.replace("web", "api"))
    assert "needs 135 s, has 30 s" in command("lint", "--module", "main", "one.yaml", cwd=tmp_path).out
    ended = command("lint", "--module", "main", "two.yaml", cwd=tmp_path)
    assert ended.code == 3
    assert "there are: api, web" in ended.out


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    """No traceback."""
    (tmp_path / "ruamel.py").write_text("raise ImportError('none here')")
    ended = command("lint", "-", cwd=tmp_path)
    assert ended.code == 2
    assert "pip install 'graceful-eureka[manifest]'" in ended.error


@pytest.mark.parametrize("mode", ["exec", "http", "sleep", "script"])
@pytest.mark.parametrize("options", [(), ("--probes", "--post-start")], ids=["bare", "probes"])
def test_what_the_manifest_command_prints_is_clean(mode: str, options: tuple[str, ...]) -> None:
    """The two never disagree."""
    environ = EUREKA_OF_THE_POD | {"GRACEFUL_PRESTOP_TOKEN": "t" * 32}
    asked = ("manifest", "main", "--mode", mode, *options)
    printed = command(*asked, cwd=ROOT / "examples" / "orders", environ=environ)
    assert printed.code == 0, printed.error
    container = '- name: "orders"'
    assert container in printed.out
    patch = printed.out.replace(container, '- image: orders:1\n        name: "orders"')
    # A grace period that fits Eureka's caches is long, and without probes there are none.
    assert {each.rule for each in report_of(patch).findings} == {"G105"} | ({"G401"} if not options else set())


PAGE = ROOT / "docs" / "reference" / "lint.md"


def test_the_reference_shows_what_happens(tmp_path: Path) -> None:
    """The page's manifest, and what the linter says of it."""
    shown = {fence.title or fence.marker: fence.text for fence in fences(PAGE)}
    (tmp_path / "deployment.yaml").write_text(shown["deployment.yaml"])
    ended = command("lint", "deployment.yaml", cwd=tmp_path)
    assert ended.code == 1
    assert shown["python -m graceful lint deployment.yaml"] == ended.out


def test_the_reference_names_every_rule() -> None:
    """In the order of their ids, with a summary each; the page has the place for it."""
    table = runpy.run_path(str(ROOT / "docs" / "lint_table.py"))
    rows = [row.split(" | ") for row in table["on_page_markdown"](table["MARKER"]).splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == sorted(RULES)
    assert all(len(row) == 4 and len(row[3]) > 20 for row in rows)
    assert table["MARKER"] in PAGE.read_text()
    assert set(re.findall(r"G\d{3}", PAGE.read_text())) <= RULES.keys()


# --- what others have written ---------------------------------------------------------------------------------------

SHAPES = {
    "a database whose hook waits for its process": other(
        (
            SLEEP,
            'exec: {command: [/bin/sh, -c, "PID=$(pidof java) && kill $PID && while ps -p $PID; do sleep 1; done"]}',
        ),
        ("    spec:\n      cont", "    spec:\n      terminationGracePeriodSeconds: 1800\n      cont"),
    ),
    "an ingress that waits by a program of its own": other(
        (SLEEP, "exec: {command: [/wait-shutdown]}"),
        ("    spec:\n      cont", "    spec:\n      terminationGracePeriodSeconds: 0\n      cont"),
    ),
    "a shell that loops": other(
        ("image: nginx:1.27", "image: busybox\n        command: [sh, -c, 'while :; do date; done']")
    ),
    "the node's own network and processes": other(
        ("    spec:\n      cont", "    spec:\n      hostNetwork: true\n      shareProcessNamespace: true\n      cont")
    ),
    "a proxy beside a service of somebody else's": other(("      - name: web", f"      - {PROXY}\n      - name: web")),
    "a template quoted in an annotation, and in a rule": OTHER
    + '---\nkind: PrometheusRule\nspec: {groups: [{rules: [{annotations: {text: "{{ $value }}"}}]}]}\n',
    "tabs at the ends of lines, and a comment before the first document": "# text\n---\n"
    + OTHER.replace("\n", " \t\n"),
    "one replica and no surge": other(
        ("spec:\n  sel", "spec:\n  replicas: 1\n  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}\n  sel")
    ),
    "a job without end": other(
        ("kind: Deployment", "kind: Job"), ("      containers", "      restartPolicy: Never\n      containers")
    ),
    "containers and anchors": other(
        (
            "      - name: web",
            (
                "      - {name: one, image: &image nginx:1.27, env: &env [{name: A, value: b}]}\n"
                "      - {name: two, image: *image, env: *env}\n      - name: web"
            ),
        )
    ),
}
"""As they are found in public, each in a few lines."""


@pytest.mark.parametrize("shape", SHAPES)
def test_no_false_error_in_what_others_write(shape: str) -> None:
    """Where graceful does not run, an error is only what the API refuses."""
    report = report_of(SHAPES[shape])
    assert report.pods == 1
    assert report.count(Severity.ERROR) == 0


@pytest.mark.skipif("PUBLIC_MANIFESTS" not in os.environ, reason="PUBLIC_MANIFESTS names no folder")
@pytest.mark.timeout(600)
def test_a_folder_of_public_manifests() -> None:
    """Whatever a checkout of others' manifests holds: no crash, and no error but keys given twice and broken YAML."""
    paths = [path for path in Path(os.environ["PUBLIC_MANIFESTS"]).rglob("*.y*ml") if path.is_file()]
    report = lint([(str(path), path.read_bytes()) for path in paths], Options())
    errors = [finding for finding in report.findings if finding.severity is Severity.ERROR]
    assert report.pods
    assert [finding for finding in errors if finding.rule not in {"G001", "G002"}] == []
