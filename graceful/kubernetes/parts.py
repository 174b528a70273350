"""The parts of a manifest: what the pod's spec and the container get, in each of the ways to have the pod leave."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from graceful.kubernetes.tree import Block, Flow, Plain, Sourced

if TYPE_CHECKING:
    from graceful.kubernetes.needs import Needs

__all__ = ["DEFAULT_PYTHON", "MODES", "TOKEN", "TOKEN_HEADER", "Choice", "Manifest", "Mode", "to_dns_label"]

Mode: TypeAlias = Literal["exec", "http", "sleep", "script"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

DEFAULT_PYTHON: Final = "python3"
"""Debian's images have no `python`."""
TOKEN_HEADER: Final = "X-Graceful-Token"  # noqa: S105  the header's name
"""The header with the token of the pre-stop endpoint."""
TOKEN: Final = "${GRACEFUL_PRESTOP_TOKEN}"  # noqa: S105  what stands for it
"""Stands for the token where it has to be filled in: by envsubst, Helm, Flux."""

_SCRIPT: Final = "prestop.sh"
_SCRIPT_FOLDER: Final = "/etc/graceful"
_SCRIPT_VOLUME: Final = "graceful-prestop"
_SLEEP_SINCE: Final = (1, 30)
"""Where the kubelet first takes `sleep` without a feature gate (KEP-3960)."""
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A name that Kubernetes takes for a container (RFC 1123 label)."""
_START_PERIOD: Final = 2
_START_TRIES: Final = 150
_READY_PERIOD: Final = 5
_LIVE_TIMEOUT: Final = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """How a manifest is to be.

    Attributes:
        container: the name of the container in the manifest; by default the app's name.
        python: the interpreter in the image that graceful is installed for.
        mode: what the preStop hook is: `exec`, `http`, `sleep` or `script`.
        probes: whether the three probes are in it.
        post_start: whether the postStart hook is in it.
        kind: what the patch is for: `Deployment`, `StatefulSet` or `DaemonSet`.
        workload: its name; by default the app's.
        token: what stands in the header of an http hook: the token itself, or what is filled in later.
        kubernetes_version: major and minor of the oldest version that it is for; None for 1.30 or later.
        script: the text of the pre-stop script, for `script`.

    Raises:
        ValueError: Kubernetes would not take one of them.
    """

    container: str = ""
    python: str = DEFAULT_PYTHON
    mode: Mode = "exec"
    probes: bool = False
    post_start: bool = False
    kind: str = "Deployment"
    workload: str = ""
    token: str = TOKEN
    kubernetes_version: tuple[int, int] | None = None
    script: str = ""

    def __post_init__(self) -> None:
        if self.container and not _LABEL.fullmatch(self.container):
            raise ValueError(
                f"container {self.container!r} is no name that Kubernetes takes: expected at most 63 lower-case "
                "letters, digits and '-', with a letter or digit at both ends; give the name in your manifest"
            )
        if not self.python.strip() or not self.python.isprintable():
            raise ValueError(
                f"python {self.python!r} is no command: give the interpreter in the image, such as /venv/bin/python"
            )
        if not self.token.strip() or not (self.token.isascii() and self.token.isprintable()):
            raise ValueError("the token is not shown, but it is no header's value: expected printable ASCII text")
        if self.mode == "sleep" and self.kubernetes_version and self.kubernetes_version < _SLEEP_SINCE:
            major, minor = self.kubernetes_version
            raise ValueError(
                f"mode sleep needs Kubernetes 1.30, and this is for {major}.{minor}, where the API server drops the "
                "sleep or refuses it: choose --mode exec, http or script, or leave the hook out: SIGTERM begins the "
                "same leave"
            )


@dataclass(frozen=True, slots=True)
class Manifest:
    """What to put into the manifest of a service; for Kubernetes 1.29 and later, `sleep` for 1.30 and later.

    Attributes:
        needs: what the application needs.
        choice: how it is to be.

    Raises:
        ValueError: the application does not have what the choice asks for.
    """

    needs: Needs
    choice: Choice = Choice()

    def __post_init__(self) -> None:
        if self.needs.port is None and (self.choice.mode == "http" or self.choice.probes):
            raise ValueError(
                f"{'mode http' if self.choice.mode == 'http' else '--probes'} needs the port on which the application "
                "serves, and none is set: set port, in install() or as GRACEFUL_PORT"
            )
        if self.choice.probes and not (self.needs.livez_path and self.needs.readyz_path):
            raise ValueError(
                "--probes needs livez_path and readyz_path, and the application answers no probes there: leave "
                "--probes out, or have graceful answer them (probes=true)"
            )

    @property
    def name(self) -> str:
        """The container's name."""
        return self.choice.container or to_dns_label(self.needs.app_name or "app")

    @property
    def workload(self) -> str:
        """The name of the Deployment, or of what it is."""
        return self.choice.workload or to_dns_label(self.needs.app_name or self.name)

    @property
    def config_map(self) -> str:
        """The name of the ConfigMap with the script."""
        return f"{self.workload[:50].rstrip('-')}-prestop"

    @property
    def not_shared(self) -> int:
        """Seconds of the hook that the application knows nothing of: its own leave begins after them, in whole."""
        if self.choice.mode == "sleep":
            return max(1, math.ceil(round(self.needs.kubernetes_delay, 6)))
        return self.needs.before_sigterm if self.choice.mode == "script" else 0

    @property
    def grace_period(self) -> int:
        """`terminationGracePeriodSeconds`: the whole plan and what comes before it; never less than what was set."""
        return max(self.needs.grace_period, self.needs.seconds + self.not_shared)

    @property
    def hook(self) -> tuple[str, ...]:
        """The command of the preStop hook: a list, since an image may have no shell.

        `-P` keeps the working directory off `sys.path`, where a user's own `socket.py` would break the hook.
        """
        return (self.choice.python, "-P", "-m", "graceful.prestop")

    # Pieces

    def pod(self) -> dict[str, Any]:
        """What belongs into the pod's spec."""
        pod: dict[str, Any] = {"terminationGracePeriodSeconds": Sourced(self.grace_period, self._grace_source)}
        if self.choice.mode == "script":
            pod["volumes"] = [{"name": Plain(_SCRIPT_VOLUME), "configMap": Flow(name=self.config_map)}]
        return pod

    def container(self) -> dict[str, Any]:
        """What belongs into the container, without its name."""
        lifecycle: dict[str, Any] = {"preStop": self._pre_stop()}
        if self.choice.post_start:
            command = [self.choice.python, "-P", "-m", "graceful.poststart"]
            lifecycle["postStart"] = {"exec": Flow(command=command)}
        container = {"env": self._env(), "lifecycle": lifecycle, **(self._probes() if self.choice.probes else {})}
        if self.choice.mode == "script":
            mount = Flow(name=Plain(_SCRIPT_VOLUME), mountPath=Plain(_SCRIPT_FOLDER), readOnly=True)
            container["volumeMounts"] = [mount]
        return container

    def objects(self) -> list[dict[str, Any]]:
        """What has to be there beside the workload."""
        if self.choice.mode != "script":
            return []
        metadata = {"name": self.config_map}
        data = {_SCRIPT: Block(self.choice.script)}
        return [{"apiVersion": Plain("v1"), "kind": Plain("ConfigMap"), "metadata": metadata, "data": data}]

    def notes(self) -> list[str]:
        """What to know of the way that was chosen; a sentence each."""
        return _NOTES[self.choice.mode].strip().splitlines()

    @property
    def _grace_source(self) -> str:
        plan = self.needs.plan
        if self.not_shared:
            plan = f"the {self.choice.mode} of {self.not_shared}s, and then {plan}"
        if self.grace_period > self.needs.seconds + self.not_shared:
            return f"set as grace_period; the plan is {plan}"
        return plan

    def _env(self) -> list[Any]:
        own = str(self.grace_period - self.not_shared)
        source = "the same, for the app and the hook"
        if self.not_shared:
            source = f"without the {self.not_shared}s of the {self.choice.mode}: the app counts from SIGTERM on"
        grace = Sourced(Flow(name=Plain("GRACEFUL_GRACE_PERIOD"), value=own), source)
        env = [grace, *(variable.tree() for variable in self.needs.variables)]
        if self.choice.mode == "http":
            secret = Flow(secretKeyRef=Flow(name=f"{self.workload[:50].rstrip('-')}-prestop", key=Plain("token")))
            env.append(
                Sourced(
                    Flow(name=Plain("GRACEFUL_PRESTOP_TOKEN"), valueFrom=secret),
                    "must be the Secret that is there",
                )
            )
        return env

    def _pre_stop(self) -> dict[str, Any]:
        if self.choice.mode == "http":
            header = Flow(name=Plain(TOKEN_HEADER), value=self.choice.token)
            path, port = self.needs.prestop_path, Sourced(self.needs.port, "port")
            return {"httpGet": {"path": path, "port": port, "httpHeaders": [header]}}
        if self.choice.mode == "sleep":
            source = "kubernetes_propagation_delay: endpoints and proxies need to hear of the leave; at least 1"
            return {"sleep": {"seconds": Sourced(self.not_shared, source)}}
        if self.choice.mode == "script":
            return {"exec": Flow(command=["/bin/sh", f"{_SCRIPT_FOLDER}/{_SCRIPT}"])}
        return {"exec": Flow(command=list(self.hook))}

    def _probes(self) -> dict[str, Any]:
        # Without a startup probe the liveness probe counts from the beginning, and kills what starts slowly.
        allowed = math.ceil(self.needs.readiness_timeout) + 1
        return {
            "startupProbe": {
                "httpGet": self._get(self.needs.livez_path),
                "periodSeconds": Sourced(_START_PERIOD, "how soon after its start the service is seen"),
                "failureThreshold": Sourced(
                    _START_TRIES, f"{_START_PERIOD * _START_TRIES}s for the start; more if it takes longer"
                ),
            },
            "readinessProbe": {
                "httpGet": self._get(self.needs.readyz_path),
                "periodSeconds": Sourced(_READY_PERIOD, "how late a change of readiness is seen"),
                "timeoutSeconds": Sourced(
                    allowed, f"readiness_timeout {self.needs.readiness_timeout:g}s, and one more"
                ),
            },
            "livenessProbe": {
                "httpGet": self._get(self.needs.livez_path),
                "timeoutSeconds": Sourced(_LIVE_TIMEOUT, "an event loop that is busy for once is no reason to kill"),
            },
        }

    def _get(self, path: str | None) -> Sourced:
        return Sourced(Flow(path=path, port=self.needs.port), "port")


_NOTES: Final[dict[Mode, str]] = {
    "exec": "",
    "http": """
Kubernetes puts no variable into a header: fill in what ${GRACEFUL_PRESTOP_TOKEN} stands for (envsubst, Helm); \
whoever may read the pod can read it there, and could have the pod leave
the kubelet calls the pod's IP once, ignores the status and does not try again: where the call does not get through (a \
mesh with strict mTLS, a NetworkPolicy, a server that listens on localhost alone), SIGTERM begins the leave all the same
""",
    "sleep": """
a sleep tells the application nothing: its leave begins at SIGTERM, when the sleep is over, and takes its whole plan \
then; choose exec, http or script where one of them can be
sleep needs Kubernetes 1.30 or later: before it, the API server drops the sleep or refuses it
""",
    "script": """
the script does not ask the application: one with graceful waits again after SIGTERM, and the grace period has both; \
where an interpreter of the image has graceful, exec takes half the time
a patch (--format patch) has no ConfigMap in it: python -m graceful prestop-script > prestop.sh, and kubectl create \
configmap NAME --from-file=prestop.sh, with the name in the patch
""",
}


def to_dns_label(name: str) -> str:
    """The nearest name that Kubernetes takes for a container (RFC 1123 label)."""
    label = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return label.strip("-")[:63].rstrip("-") or "app"
