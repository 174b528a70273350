"""Rules about probes and rollouts: whether there is always somebody to call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graceful.kubernetes.lint.rules import Case, PodCase, Problem, Rule, Severity, container_rule, pod_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.kubernetes.lint.reading import Value

__all__: list[str] = []

_PROGRESS_DEADLINE: Final = 600
"""`progressDeadlineSeconds` by default (Kubernetes API, DeploymentSpec)."""


@container_rule(Rule("G401", Severity.WARNING, None, "The service has no readiness probe."))
def _no_readiness(case: Case) -> Iterator[Problem]:
    container = case.container
    is_called = container.value["ports"].elements() or (case.numbers and case.numbers.settings.eureka_url)
    if case.pod.serves and is_called and not container.value["readinessProbe"]:
        path = case.numbers.settings.readyz_path if case.numbers else "/readyz"
        yield Problem(
            container.line,
            "there is no readinessProbe: a rollout takes the pod for ready when its process has started, and ends old "
            "ones before it can serve",
            f"readinessProbe: {{httpGet: {{path: {path}, port: …}}}}",
        )


@container_rule(Rule("G402", Severity.WARNING, None, "A probe asks at the path of the other."))
def _wrong_path(case: Case) -> Iterator[Problem]:
    if case.numbers is None:
        return
    settings = case.numbers.settings
    readiness, liveness = (case.container.value[name] for name in ("readinessProbe", "livenessProbe"))
    if settings.livez_path and readiness["httpGet"]["path"].text == settings.livez_path:
        yield Problem(
            readiness.line,
            f"the readinessProbe asks at {settings.livez_path}, which says 200 for as long as the process runs",
            f"ask at {settings.readyz_path}",
        )
    if settings.readyz_path and liveness["httpGet"]["path"].text == settings.readyz_path:
        yield Problem(
            liveness.line,
            f"the livenessProbe asks at {settings.readyz_path}, which says 503 while the service starts or leaves: the "
            "container is restarted for it",
            f"ask at {settings.livez_path}",
        )


@pod_rule(Rule("G403", Severity.ERROR, Severity.ERROR, "The numbers of the rollout contradict each other."))
def _refused(case: PodCase) -> Iterator[Problem]:
    spec = case.pod.workload["spec"]
    rolling = _rolling_update(case)
    least, deadline = spec["minReadySeconds"].number or 0, spec["progressDeadlineSeconds"].number
    if case.pod.kind == "Deployment" and least >= (_PROGRESS_DEADLINE if deadline is None else deadline) and least > 0:
        yield Problem(
            spec["minReadySeconds"].line,
            f"minReadySeconds is {least}, and progressDeadlineSeconds is not longer: the API refuses that, because no "
            "rollout could succeed",
            f"set progressDeadlineSeconds to more than {least}, or minReadySeconds to less",
        )
    if case.pod.kind in {"Deployment", "DaemonSet"} and _is_zero(rolling["maxUnavailable"]):
        surge = rolling["maxSurge"]
        if _is_zero(surge, absent=case.pod.kind == "DaemonSet"):
            yield Problem(
                rolling["maxUnavailable"].line,
                "maxUnavailable and maxSurge are both 0: the API refuses that, because nothing could ever be replaced",
                "set maxSurge to 1",
            )


@pod_rule(Rule("G404", Severity.WARNING, Severity.NOTE, "A rollout may take away every pod at once."))
def _all_at_once(case: PodCase) -> Iterator[Problem]:
    if case.pod.kind != "Deployment":
        return
    allowed = _rolling_update(case)["maxUnavailable"]
    replicas = case.pod.workload["spec"]["replicas"].number
    percent = _percent(allowed)
    count = allowed.number if percent is None else (replicas or 0) * percent // 100
    if (percent is not None and percent >= 100) or (count and replicas and count >= replicas):
        yield Problem(
            allowed.line,
            f"maxUnavailable is {allowed.text}{f' of {replicas}' if replicas else ''}: a rollout may end every pod "
            "before a new one is ready",
            "set maxUnavailable to 0 and maxSurge to 1",
        )


@pod_rule(Rule("G405", Severity.WARNING, None, "The strategy is `Recreate`: nobody serves while it is replaced."))
def _recreate(case: PodCase) -> Iterator[Problem]:
    strategy = case.pod.workload["spec"]["strategy"]["type"]
    if case.ours and case.pod.kind == "Deployment" and strategy.text == "Recreate":
        yield Problem(
            strategy.line,
            "the strategy is Recreate: every pod leaves before a new one starts, and callers find nobody in between",
            "use RollingUpdate, unless two versions may never run side by side",
        )


@pod_rule(Rule("G406", Severity.NOTE, None, "There is one replica only."))
def _alone(case: PodCase) -> Iterator[Problem]:
    replicas = case.pod.workload["spec"]["replicas"]
    if not case.ours or replicas.number != 1 or case.pod.kind not in {"Deployment", "StatefulSet"}:
        return
    when = "a drained node ends it" if case.pod.kind == "Deployment" else "a rollout or a drained node ends it"
    yield Problem(replicas.line, f"there is one replica: {when} before there is another", "set replicas to 2 or more")


def _rolling_update(case: PodCase) -> Value:
    spec = case.pod.workload["spec"]
    return spec["updateStrategy" if case.pod.kind == "DaemonSet" else "strategy"]["rollingUpdate"]


def _percent(value: Value) -> int | None:
    text = value.text
    return int(text[:-1]) if text.endswith("%") and text[:-1].isdecimal() and len(text) < 8 else None


def _is_zero(value: Value, *, absent: bool = False) -> bool:
    """Whether a number of pods is 0; by default a Deployment's are 25%, a DaemonSet's 1 and no surge."""
    return (value.number == 0 or _percent(value) == 0) if value else absent
