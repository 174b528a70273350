"""`manifest --apply`: the user's own file, changed where it has to be and nowhere else."""

from __future__ import annotations

import difflib
import json
import re
import string
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful.kubernetes.apply import Applied, apply
from graceful.kubernetes.edit import EditError
from graceful.kubernetes.formats import patch
from graceful.kubernetes.parts import MODES, Choice, Manifest
from tests.test_cli import EUREKA as ENVIRON
from tests.test_cli import ROOT, command
from tests.test_manifest import EUREKA, arguments, merged, settings_of
from tests.test_manifest_forms import SCRIPT, needs, patched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MINE = """\
# Ours. Do not touch!
apiVersion: apps/v1
kind: Deployment
metadata:
  name: orders   # the name
  labels: {app: "orders"}
spec:
    replicas: 3
    selector: {matchLabels: {app: orders}}
    template:
      metadata:
        labels: {app: orders}
      spec:
        terminationGracePeriodSeconds: 30  # the default

        containers:
          # who serves
          - name: orders
            image: 'orders:1'   # pinned

            env:
              # who we are
              - name: SERVICE
                value: |
                  orders

              - {name: GRACEFUL_PORT, value: "80"}   # was always so
              - name: GRACEFUL_EUREKA_URL
                valueFrom: {secretKeyRef: {name: eureka, key: url}}
            resources:
              limits:
                cpu: 100m
            # the sidecar is next
          - name: proxy
            image: proxy
---
# and what runs at night
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: report
            image: report:1
"""


def put(text: str, choice: Choice | None = None, *, replace: bool = False, **more: Any) -> Applied:
    return apply(text, Manifest(needs(EUREKA | more), choice or Choice()), replace=replace)


def changed_lines(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


# --- what it changes --------------------------------------------------------------------------------------------------


def test_only_what_has_to_change_does() -> None:
    """Comments, order, quotes and blank lines stay, and so do the other container and the other document."""
    applied = put(MINE)
    assert changed_lines(MINE, applied.text) == [
        "-         terminationGracePeriodSeconds: 30  # the default",
        "+         terminationGracePeriodSeconds: 130  # the default",
        "+               - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}",
        '-               - {name: GRACEFUL_PORT, value: "80"}   # was always so',
        '+               - {name: GRACEFUL_PORT, value: "8080"}   # was always so',
        '+               - {name: GRACEFUL_GRACE_PERIOD, value: "130"}  # graceful: the same, for the app and the hook',
        '+               - {name: GRACEFUL_APP_NAME, value: "orders"}',
        "+             lifecycle:",
        "+               preStop:",
        '+                 exec: {command: ["python3", "-P", "-m", "graceful.prestop"]}',
    ]
    assert applied.places == ("Deployment/orders",)
    assert applied.notes == ("GRACEFUL_EUREKA_URL is left to what gives it its value in the manifest",)
    assert applied.text.index("lifecycle:") < applied.text.index("# the sidecar is next")
    for document in yaml.safe_load_all(applied.text):
        kubernetes_validate.validate(document, "1.30", strict=True)
    assert put(applied.text).text == applied.text


POD = "containers: [{name: orders, image: x}]"
KINDS = {
    **{
        kind: f"kind: {kind}\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      {POD}\n"
        for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Rollout", "ReplicationController")
    },
    "CronJob": f"kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n      template:\n        spec:\n          {POD}\n",
    "Pod": f"kind: Pod\nspec:\n  {POD}\n",
    "PodTemplate": f"kind: PodTemplate\ntemplate:\n  spec:\n    {POD}\n",
    "List": f"kind: List\nitems:\n- kind: Pod\n  spec:\n    {POD}\n",
    "sidecar": "kind: Pod\nspec:\n  containers: []\n  initContainers:\n  - {name: orders, restartPolicy: Always}\n",
}


@pytest.mark.parametrize("text", KINDS.values(), ids=KINDS.keys())
def test_every_kind_that_has_pods(text: str) -> None:
    """Wherever its template is."""
    applied = put(text)
    assert len(applied.places) == 1
    assert '"graceful.prestop"' in applied.text
    assert "terminationGracePeriodSeconds: 130" in applied.text
    assert put(applied.text).text == applied.text


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "---\n" + text + "---\n",
        lambda text: text.replace("    env:", "    env:   # ours"),
        lambda text: text.replace("name: orders\n", "name: &name orders\n"),
        lambda text: re.sub(r"(?s)            env:.*?(?=            resources)", "            env: []\n", text),
        lambda text: text.replace("            resources:", "            lifecycle: {}\n            resources:"),
        lambda text: text.replace("            resources:", "            lifecycle:\n            resources:"),
        lambda text: text.replace("cpu: 100m", "cpu: 100m   # little"),
        lambda text: text.replace("cpu: 100m", "cpu: >-\n                  100m\n\n"),
        lambda text: text.replace("orders:1", "ördérs:1😀"),
    ],
)
def test_however_it_is_written(change: Callable[[str], str]) -> None:
    """The data is what a strategic merge would give, and the rest of the text is as it was."""
    before = change(MINE)
    applied = put(before)
    plain = [each for each in yaml.safe_load_all(applied.text) if each]
    assert len(plain) == 2
    (container, _) = plain[0]["spec"]["template"]["spec"]["containers"]
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["python3", "-P", "-m", "graceful.prestop"]}}}
    assert ("\r\n" in applied.text) == ("\r\n" in before)
    assert applied.text.count("\r") in {0, applied.text.count("\n")}
    assert put(applied.text).text == applied.text
    removed = [line for line in changed_lines(before, applied.text) if line[0] == "-"]
    assert len(removed) <= 3


def test_a_longer_grace_period_is_the_users_choice() -> None:
    """And the app and the hook know it."""
    text = put(MINE.replace("Seconds: 30", "Seconds: 300")).text
    assert "terminationGracePeriodSeconds: 300  # the default" in text
    assert '{name: GRACEFUL_GRACE_PERIOD, value: "300"}  # graceful: the pod\'s own, which is more' in text
    asleep = put(MINE.replace("Seconds: 30", "Seconds: 300"), Choice(mode="sleep")).text
    assert '{name: GRACEFUL_GRACE_PERIOD, value: "290"}' in asleep


def test_a_comment_of_ours_is_kept_up_to_date() -> None:
    """One of the user's never changes."""
    text = put(MINE.replace("  # the default", "")).text
    assert "Seconds: 130  # graceful: announce 5s + " in text
    again = put(text, drain_timeout=50).text
    assert "Seconds: 160  # graceful: announce 5s + propagation 95s + drain 50s" in again
    assert again.count("# graceful: announce") == 1
    assert put(again, drain_timeout=50).text == again


def test_the_ways_follow_each_other() -> None:
    """A hook of ours is replaced by another of ours; what the script needs is beside it."""
    text = MINE
    for mode in ("exec", "http", "sleep", "script", "exec"):
        choice = Choice(mode=mode, script=SCRIPT)
        text = put(text, choice).text
        assert put(text, choice).text == text
        first = next(iter(yaml.safe_load_all(text)))
        (container, _) = first["spec"]["template"]["spec"]["containers"]
        assert (
            container["lifecycle"]["preStop"]
            == yaml.safe_load(
                json.dumps(patched(Manifest(needs(), choice))["spec"]["template"]["spec"]["containers"][0]["lifecycle"])
            )["preStop"]
        )
    newer = put(text, Choice(mode="script", script=SCRIPT + "exit 0\n")).text
    config_map = list(yaml.safe_load_all(newer))[-1]
    assert config_map["data"]["prestop.sh"] == SCRIPT + "exit 0\n"
    assert newer.count("kind: ConfigMap") == 1


def test_probes_of_the_users_own_stay() -> None:
    """And that is said."""
    mine = "            readinessProbe: {tcpSocket: {port: 80}}\n            resources:"
    applied = put(MINE.replace("            resources:", mine), Choice(probes=True))
    assert "readinessProbe: {tcpSocket: {port: 80}}" in applied.text
    assert "livenessProbe:" in applied.text
    assert "Deployment/orders has a readinessProbe of its own, which is left as it is" in applied.notes


def test_only_the_workload_that_is_named() -> None:
    """Where several have a container of the same name."""
    both = MINE + "---\n" + MINE.replace("name: orders   #", "name: bills   #")
    assert put(both).places == ("Deployment/orders", "Deployment/bills")
    only = put(both, Choice(workload="bills", container="orders"))
    assert only.places == ("Deployment/bills",)
    assert only.text.startswith(MINE)


# --- what it refuses --------------------------------------------------------------------------------------------------

HOOKED = MINE.replace(
    "            resources:",
    "            lifecycle: {preStop: {exec: {command: [sleep, '5']}}}\n            resources:",
)


@pytest.mark.parametrize(
    ("text", "choice", "message"),
    [
        (
            MINE,
            Choice(container="web"),
            r"there is no container 'web' \(those that are there: orders in Deployment/orde",
        ),
        (MINE, Choice(workload="bills", container="orders"), r"container 'orders' of Deployment/bills \(those"),
        ("kind: Service\n", Choice(), r"\(there is no kind with a pod's template in it\)"),
        ("", Choice(), r"\(there is no kind with a pod's template in it\)"),
        (
            HOOKED,
            Choice(),
            r"line 1: the container 'orders' of Deployment/orders has a preStop hook of its own \(exec\)",
        ),
        (
            HOOKED.replace("exec:", "sleep: {}, exec:"),
            Choice(),
            r"hook of its own \(sleep, exec\), and there can be one",
        ),
        ("a: 1\n---\n" + MINE.replace("image: p", "image: [p"), Choice(), "line 2: it cannot be read as YAML in line "),
        ("a: {{ .Values.a }}\n", Choice(), "a Helm template is none: patch what `helm template` prints"),
        ("a: {{ toYaml . | indent 2 }}\n- b\n", Choice(), "a Helm template is none"),
        (json.dumps(next(iter(yaml.safe_load_all(MINE)))), Choice(), "it is written in braces, as JSON is: convert it"),
        (
            MINE.replace("            resources:\n", "            env2: &x []\n            resources:\n")
            .replace("            env:\n", "            env: &env\n")
            .replace("            image: proxy\n", "            image: proxy\n            env: *env\n"),
            Choice(),
            r"it cannot be patched without a change elsewhere, as where the container shares something by an anchor",
        ),
    ],
)
def test_what_cannot_be_patched_is_refused(text: str, choice: Choice, message: str) -> None:
    """With the place, what is there, and what to do; nothing is half done."""
    with pytest.raises(EditError, match=message):
        put(text, choice)


def test_a_hook_of_the_users_own_is_replaced_on_their_word() -> None:
    """By `--replace`."""
    text = put(HOOKED, replace=True).text
    assert "sleep" not in text
    assert put(text).text == text


# --- for any settings -------------------------------------------------------------------------------------------------

words = st.text(string.ascii_letters + " #:{}[]'\"&*!|>%@-,\\ä😀", max_size=12)


@settings(max_examples=30)  # each reads and writes a file some forty times
@given(arguments(), st.sampled_from(MODES), st.booleans(), words, st.sampled_from([0, 2]))
def test_whatever_the_settings_applying_twice_changes_nothing(
    chosen: dict[str, Any], mode: Any, more: bool, word: str, offset: int
) -> None:
    """And the file has what the patch would have given it."""
    choice = Choice(container="orders", workload="orders", mode=mode, probes=more, post_start=more, script=SCRIPT)
    manifest = Manifest(needs(chosen), choice)
    base = next(iter(yaml.safe_load_all(MINE)))
    base["metadata"]["annotations"] = {"word": word}
    base["spec"]["template"]["spec"]["containers"] = [{"name": "orders", "image": word, "args": [word, {"a": word}]}]
    del base["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    text = yaml.safe_dump(base, sort_keys=False, allow_unicode=bool(offset), default_style="'" if offset else None)
    once = apply(text, manifest).text
    assert apply(once, manifest).text == once
    assert next(iter(yaml.safe_load_all(once))) == merged(base, yaml.safe_load(patch(manifest)))
    in_pod = settings_of(chosen, {}).in_kubernetes()
    plan = in_pod.plan(registry=bool(in_pod.eureka_url))
    grace = next(iter(yaml.safe_load_all(once)))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= plan.total - 0.01


# --- the command ------------------------------------------------------------------------------------------------------

ORDERS = ROOT / "examples" / "orders"


def test_the_command_prints_the_file_and_what_changes(tmp_path: Path) -> None:
    """The file itself is as it was."""
    file = tmp_path / "deployment.yaml"
    file.write_text(MINE)
    ended = command("manifest", "main", "--apply", str(file), cwd=ORDERS, environ=ENVIRON)
    assert ended.code == 0
    assert ended.out == put(MINE, Choice(), port=8080).text.replace("port, an argument of install()", "port")
    assert f"--- {file}\n+++ {file} (patched)\n@@ " in ended.err
    assert file.read_text() == MINE
    piped = command("manifest", "main", "--apply", "-", cwd=ORDERS, environ=ENVIRON, given=MINE)
    assert piped.out == ended.out


def test_the_command_changes_the_file_in_place_and_checks_it(tmp_path: Path) -> None:
    """With its permissions, through a link; a second time there is nothing to do."""
    file, link = tmp_path / "deployment.yaml", tmp_path / "link.yaml"
    file.write_bytes(MINE.replace("\n", "\r\n").encode())
    file.chmod(0o640)
    link.symlink_to(file)
    options = ("manifest", "main", "--apply", str(link))
    stale = command(*options, "--check", cwd=ORDERS, environ=ENVIRON)
    assert (stale.code, file.read_bytes().count(b"130")) == (1, 0)
    ended = command(*options, "--in-place", cwd=ORDERS, environ=ENVIRON)
    assert ended.code == 0
    assert ended.out == stale.out
    assert "+        terminationGracePeriodSeconds: 130  # the default\n" in ended.out
    assert "\x1b" not in ended.out
    assert file.read_bytes().count(b"\r\n") == file.read_bytes().count(b"\n")
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o640)
    assert sorted(tmp_path.iterdir()) == [file, link]
    fresh = command(*options, "--check", cwd=ORDERS, environ=ENVIRON)
    assert (fresh.code, fresh.out) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--apply", "nowhere.yaml"], 1, "nowhere.yaml cannot be read (No such file or directory): give a file"),
        (["--apply", "latin.yaml"], 1, "latin.yaml is not UTF-8: save it in that encoding"),
        (["--apply", "mine.yaml", "--container", "web"], 1, "mine.yaml: there is no container 'web' (those that are"),
        (["--apply", "mine.yaml", "--format", "patch"], 2, "--apply gives your own file back, so there is no --format"),
        (["--apply", "-", "--in-place"], 2, "--in-place needs a file, and --apply - is the standard input"),
        (["--in-place"], 2, "--in-place needs a file: give it with --apply FILE"),
        (["--check"], 2, "--check needs a file"),
        (["--replace"], 2, "--replace needs a file"),
        (
            ["--apply", "mine.yaml", "--check", "--in-place"],
            2,
            "argument --in-place: not allowed with argument --check",
        ),
    ],
)
def test_bad_input(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    """One line, 1 for the file and 2 for usage."""
    (tmp_path / "latin.yaml").write_bytes("name: örders".encode("latin-1"))
    (tmp_path / "mine.yaml").write_text(MINE)
    ended = command("manifest", *arguments, cwd=tmp_path, environ=ENVIRON | {"GRACEFUL_APP_NAME": "orders"})
    assert ended.code == code
    assert ended.error.startswith(message)


def test_without_the_extra_the_command_says_which_one_to_install(tmp_path: Path) -> None:
    """And everything else works without it."""
    (tmp_path / "mine.yaml").write_text(MINE)
    hidden = "import sys; sys.modules['ruamel'] = sys.modules['ruamel.yaml'] = None\n"
    without = ("-c", hidden + "from graceful.cli import main; sys.exit(main())")
    environ = ENVIRON | {"GRACEFUL_APP_NAME": "orders"}
    ended = command("manifest", "--apply", "mine.yaml", cwd=tmp_path, environ=environ, options=without)
    assert ended.code == 2
    assert ended.error.endswith("is not installed: pip install 'graceful-eureka[manifest]'")
    assert command("manifest", cwd=tmp_path, environ=environ, options=without).code == 0
