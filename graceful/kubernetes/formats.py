"""The forms in which a manifest is printed: for a manifest of one's own, for kubectl, for kustomize, for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from graceful.kubernetes.tree import Block, Flow, Plain, Sourced, plain, quoted, sources, to_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graceful.kubernetes.parts import Manifest

__all__ = ["FORMATS", "component", "json_text", "patch", "snippet"]


def snippet(manifest: Manifest) -> str:
    """What belongs into a manifest of one's own: one mapping, each key where its comment says.

    What has to be there beside it follows as a document of its own.
    """
    parts = [
        "# into the pod's spec:\n",
        to_yaml(manifest.pod()),
        f"# into the container {quoted(manifest.name)}:\n",
        to_yaml(manifest.container()),
        *(f"---\n{to_yaml(each)}" for each in manifest.objects()),
    ]
    return "".join(parts)


def patch(manifest: Manifest) -> str:
    """A strategic-merge patch, for `kubectl patch --patch-file` or kustomize."""
    return to_yaml(_patch(manifest))


def component(manifest: Manifest) -> str:
    """A kustomize Component: a file `kustomization.yaml` in a folder that is named under `components:`."""
    target = Flow(kind=Plain(manifest.choice.kind), name=manifest.workload)
    tree: dict[str, Any] = {"apiVersion": Plain("kustomize.config.k8s.io/v1alpha1"), "kind": Plain("Component")}
    if objects := manifest.objects():
        # A generated one has a hash of its text in its name: a changed script rolls the pods.
        tree["configMapGenerator"] = [
            {"name": each["metadata"]["name"], "literals": [f"{key}={text}" for key, text in each["data"].items()]}
            for each in objects
        ]
    tree["patches"] = [{"target": target, "patch": Block(patch(manifest))}]
    return to_yaml(tree)


def json_text(manifest: Manifest) -> str:
    """For programs: the parts as Kubernetes has them, and `sources` with a JSON pointer (RFC 6901) for each number."""
    tree = {
        "pod": manifest.pod(),
        "container": {"name": manifest.name, **manifest.container()},
        "objects": manifest.objects(),
    }
    return json.dumps({**plain(tree), "sources": sources(tree), "notes": manifest.notes()}, indent=2) + "\n"


FORMATS: Final[Mapping[str, Callable[[Manifest], str]]] = {
    "patch": patch,
    "snippet": snippet,
    "kustomize": component,
    "json": json_text,
}
"""Every form by its name."""


def _patch(manifest: Manifest) -> dict[str, Any]:
    kind = manifest.choice.kind
    container = {
        "name": Sourced(manifest.name, "must be the container that is there"),
        **manifest.container(),
    }
    # Without $patch a patch over an existing `sleep` hook leaves two handlers, which the API rejects.
    container["lifecycle"] = {
        hook: {"$patch": Plain("replace"), **handler} for hook, handler in container["lifecycle"].items()
    }
    pod = manifest.pod()
    return {
        "apiVersion": Plain("apps/v1"),
        "kind": Plain(kind),
        "metadata": {"name": Sourced(manifest.workload, f"must be the {kind} that is there")},
        "spec": {"template": {"spec": {**pod, "containers": [container]}}},
    }
