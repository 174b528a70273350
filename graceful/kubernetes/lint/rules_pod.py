"""Rules about what the containers of a pod share, and who of them leaves first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from graceful.environment import find_variable
from graceful.kubernetes.lint.rules import Case, PodCase, Problem, Rule, Severity, pod_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []

_PROXY_NAMES: Final = frozenset(
    {"istio-proxy", "linkerd-proxy", "envoy", "envoy-sidecar", "consul-dataplane", "daprd"}
    | {"cloud-sql-proxy", "cloudsql-proxy", "alloydb-auth-proxy"}
)
_PROXY_IMAGES: Final = re.compile(
    r"(^|/)(istio/proxyv2|linkerd(-io|2-io|2)?/proxy|envoyproxy/envoy|consul-dataplane|daprd"
    r"|cloud-sql-proxy|cloudsql-docker/gce-proxy|alloydb-auth-proxy)(:|@|$|/)"
)
_WAITS: Final = re.compile(
    r"max-sigterm-delay|-term_timeout|CSQL_PROXY_MAX_SIGTERM_DELAY|dapr-graceful-shutdown"
    r"|EXIT_ON_ZERO_ACTIVE_CONNECTIONS|TERMINATION_DRAIN_DURATION|drain-time-s"
)
"""Options by which such a proxy does not end at SIGTERM at once."""
_INJECTED: Final = (("sidecar.istio.io/inject", {"true"}), ("linkerd.io/inject", {"enabled", "ingress"}))
_SETTLED: Final = (
    "sidecar.istio.io/nativeSidecar",
    "proxy.istio.io/config",
    "config.beta.linkerd.io/proxy-enable-native-sidecar",
    "config.alpha.linkerd.io/proxy-enable-native-sidecar",
    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
)
"""Annotations by which somebody has said when an injected proxy ends."""


@pod_rule(Rule("G501", Severity.NOTE, None, "The containers share their processes: the service is not PID 1."))
def _shared_processes(case: PodCase) -> Iterator[Problem]:
    shared = case.pod.spec["shareProcessNamespace"]
    if case.ours and shared.is_true:
        yield Problem(
            shared.line,
            "with shareProcessNamespace PID 1 is the pause container: what the hook says when no service answers is "
            "lost, and every container sees the others' processes",
            "leave it out, unless a container needs it",
        )


@pod_rule(
    Rule("G502", Severity.WARNING, None, "The pod is on the host's network: in Eureka it has the node's address.")
)
def _host_network(case: PodCase) -> Iterator[Problem]:
    shared = case.pod.spec["hostNetwork"]
    registered = [
        each
        for each in case.ours
        if each.numbers and each.numbers.settings.eureka_url and not find_variable("instance_id", _known(each))
    ]
    if shared.is_true and registered:
        yield Problem(
            shared.line,
            "with hostNetwork the address is the node's, so the next pod on this node has the instance id of the one "
            "that leaves: one's OUT_OF_SERVICE hits the other; and it cannot have the port before that one has gone",
            "leave hostNetwork out, or give GRACEFUL_INSTANCE_ID the pod's name in it",
        )


def _known(case: Case) -> dict[str, str]:
    return dict.fromkeys(case.container.unknown, "set elsewhere") | case.container.environ


@pod_rule(Rule("G503", Severity.ERROR, None, "A proxy beside the service ends at SIGTERM, while the service waits."))
def _proxy_leaves_first(case: PodCase) -> Iterator[Problem]:
    if not case.ours:
        return
    for each in case.cases:
        container = each.container
        is_proxy = container.name in _PROXY_NAMES or _PROXY_IMAGES.search(container.image)
        said = " ".join([*container.command, *(variable.name for variable in container.variables)])
        if is_proxy and not each.is_ours and not container.hook and not _WAITS.search(said) and not _settled(case):
            yield Problem(
                container.line,
                f"{container.name} gets SIGTERM when the pod is told to leave and ends, while the service goes on "
                "serving through it until callers have heard",
                "move it to initContainers with restartPolicy: Always (Kubernetes 1.29 and later), or give it a hook "
                "that sleeps as long as the service waits",
            )


@pod_rule(Rule("G504", Severity.NOTE, None, "A mesh puts a proxy into the pod; when that ends is not said."))
def _injected_proxy(case: PodCase) -> Iterator[Problem]:
    is_there = any(each.container.name in _PROXY_NAMES for each in case.cases)
    meshes = [name for name, yes in _INJECTED if case.pod.annotation(name) in yes]
    if case.ours and meshes and not is_there and not _settled(case):
        yield Problem(
            case.pod.template["metadata"].line,
            f"{meshes[0]} has a proxy put into the pod; unless the mesh makes it a native sidecar (Istio since 1.27 by "
            "default), it ends before the service does",
            "look at a pod that runs: the proxy should be in its initContainers",
        )


def _settled(case: PodCase) -> bool:
    return any(case.pod.annotation(name) for name in _SETTLED)
