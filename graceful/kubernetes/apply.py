"""Puts the parts of a manifest into a file of the user's own: the pod's grace period, and one container."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from graceful.kubernetes.edit import Change, EditError, Path, at, change_data, change_text, load
from graceful.kubernetes.tree import Flow, Plain, Sourced, plain, to_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.kubernetes.parts import Manifest

__all__ = ["Applied", "apply"]

_DOCUMENT: Final = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)
"""Nothing else can begin a line with three dashes: a text block of a mapping is indented."""
_TEMPLATES: Final[tuple[Path, ...]] = (
    ("spec", "template", "spec"),  # Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, Rollout, …
    ("spec", "jobTemplate", "spec", "template", "spec"),  # CronJob
    ("template", "spec"),  # PodTemplate
)
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a file.

    Attributes:
        text: the whole file.
        places: which containers were patched, such as `Deployment/orders`.
        notes: what to know; a sentence each.
    """

    text: str
    places: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """A pod's spec in a document."""

    workload: str
    spec: Path
    data: Any

    @property
    def name(self) -> str:
        return self.workload.partition("/")[2]

    def containers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Its containers, and the native sidecars, which have hooks as well."""
        for kind in ("containers", "initContainers"):
            for index, container in enumerate(at(self.data, (*self.spec, kind)) or ()):
                if kind == "containers" or at(container, ("restartPolicy",)) == "Always":
                    yield (*self.spec, kind, index), container


def apply(text: str, manifest: Manifest, *, replace: bool = False) -> Applied:
    """Put a manifest's parts into a text with one or several documents.

    Every container of the name is patched, in every kind that has a pod's template; with a workload's name in
    `manifest.choice`, only there. Applying it twice changes nothing.

    Args:
        text: the user's own manifest.
        manifest: what to put into it.
        replace: whether a preStop or postStart hook of somebody else's is replaced.

    Raises:
        EditError: the container is not there, has a hook already, or the text cannot be patched.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    chunks = _DOCUMENT.split(text.replace("\r\n", "\n"))
    patched: list[str] = []
    there: list[str] = []
    notes: list[str] = []
    places: list[str] = []
    line = 0
    for chunk in chunks:
        try:
            document = _Document(chunk, manifest, replace=replace)
        except EditError as error:
            raise EditError(f"the document that begins in line {line + 1}: {error}") from None
        patched.append(document.text)
        places += document.places
        there += document.there
        notes += document.notes
        line += chunk.count("\n")
    if not places:
        raise EditError(_missing(manifest, there))
    whole = _with_objects("".join(patched), manifest)
    return Applied(whole.replace("\n", newline), tuple(places), tuple(notes))


def _missing(manifest: Manifest, there: list[str]) -> str:
    where = f" of {manifest.choice.kind}/{manifest.choice.workload}" if manifest.choice.workload else ""
    found = f"those that are there: {', '.join(there)}" if there else "there is no kind with a pod's template in it"
    return f"there is no container {manifest.name!r}{where} ({found}): name it with --container"


class _Document:
    """One document, patched.

    Args:
        text: the document, with the line of dashes before it.
        manifest: what to put into it.
        replace: whether a hook of somebody else's is replaced.
    """

    def __init__(self, text: str, manifest: Manifest, *, replace: bool) -> None:
        self.text = text
        self.places: list[str] = []
        self.there: list[str] = []
        self.notes: list[str] = []
        self._manifest = manifest
        self._replace = replace
        self._data = load(text)
        expected = _unshared(self._data)
        for place in _places(self._data):
            self._patch(place, expected)
        if self.text != text and load(self.text) != expected:
            raise EditError(
                "it cannot be patched without a change elsewhere, as where the container shares something by an anchor "
                "(&): write it out there"
            )

    def _patch(self, place: _Place, expected: Any) -> None:
        chosen = self._manifest.choice
        for path, container in place.containers():
            name = str(container.get("name"))
            self.there.append(f"{name} in {place.workload}")
            if name != self._manifest.name or (
                chosen.workload and place.workload != f"{chosen.kind}/{chosen.workload}"
            ):
                continue
            self.places.append(place.workload)
            for change in [*self._pod(place), *self._container(path, container, place.workload)]:
                self.text = change_text(self.text, change)
                change_data(expected, change)

    def _pod(self, place: _Place) -> Iterator[Change]:
        parts = self._manifest.pod()
        spec = at(self._data, place.spec)
        if self._grace(spec) != spec.get("terminationGracePeriodSeconds"):
            yield Change(place.spec, "terminationGracePeriodSeconds", parts["terminationGracePeriodSeconds"])
        yield from self._named(place.spec, spec, "volumes", parts.get("volumes", []))

    def _grace(self, spec: dict[str, Any]) -> int:
        """Seconds of the pod: as it is, where that is more than enough."""
        given = spec.get("terminationGracePeriodSeconds")
        return max(given, self._manifest.grace_period) if isinstance(given, int) else self._manifest.grace_period

    def _container(self, path: Path, container: dict[str, Any], workload: str) -> Iterator[Change]:
        parts = self._manifest.container()
        spec = at(self._data, path[:-2])
        more = self._grace(spec) - self._manifest.grace_period
        yield from self._env(path, container, parts["env"], more)
        yield from self._lifecycle(path, container, parts["lifecycle"], workload)
        yield from self._named(path, container, "volumeMounts", parts.get("volumeMounts", []))
        for probe in _PROBES:
            if probe in parts and probe not in container:
                yield Change(path, probe, parts[probe])
            elif probe in parts and container[probe] != plain(parts[probe]):
                self.notes.append(f"{workload} has a {probe} of its own, which is left as it is")

    def _env(self, path: Path, container: dict[str, Any], entries: list[Any], more: int) -> Iterator[Change]:
        """The variables: a value is replaced where it stands; what a Secret or a ConfigMap gives is left to it."""
        wanted = [entry for entry in entries if plain([entry])]
        if more:
            grace = plain(wanted[0])
            text = "the pod's own, which is more than the plan"
            wanted[0] = Sourced(_flow(grace | {"value": str(int(grace["value"]) + more)}), text)
        if not container.get("env"):
            yield Change(path, "env", wanted)
            return
        there = {each.get("name"): (index, each) for index, each in enumerate(container["env"])}
        first = []
        for entry in wanted:
            data = plain(entry)
            index, given = there.get(data["name"], (-1, None))
            if given is None and "valueFrom" in data:
                first.append(entry)  # before those that may refer to it with $(NAME)
            elif given is None:
                yield Change((*path, "env"), -1, entry)
            elif "valueFrom" in given and given != data:
                self.notes.append(f"{data['name']} is left to what gives it its value in the manifest")
            elif given != data:
                yield Change((*path, "env"), index, entry)
        for entry in reversed(first):
            yield Change((*path, "env"), -2, entry)

    def _lifecycle(
        self, path: Path, container: dict[str, Any], hooks: dict[str, Any], workload: str
    ) -> Iterator[Change]:
        given = container.get("lifecycle") or {}
        missing = {name: hook for name, hook in hooks.items() if given.get(name) != plain(hook)}
        for name in missing:
            if given.get(name) and not self._replace and not self._is_ours(given[name], container):
                raise EditError(
                    f"the container {self._manifest.name!r} of {workload} has a {name} hook of its own "
                    f"({', '.join(given[name])}), and there can be one only: take it out, or replace it with --replace"
                )
        if not given and missing:
            yield Change(path, "lifecycle", missing)
            return
        for name, hook in missing.items():
            yield Change((*path, "lifecycle"), name, hook)

    def _is_ours(self, hook: dict[str, Any], container: dict[str, Any]) -> bool:
        """Whether a hook is one that this would have written, perhaps in another mode."""
        if len(hook) != 1:
            return False
        command = at(hook, ("exec", "command")) or []
        managed = any(each.get("name") == "GRACEFUL_GRACE_PERIOD" for each in container.get("env") or [])
        return (
            any(word in {"graceful.prestop", "graceful.poststart", "/etc/graceful/prestop.sh"} for word in command)
            or at(hook, ("httpGet", "path")) == self._manifest.needs.prestop_path
            or ("sleep" in hook and managed)
        )

    def _named(self, path: Path, owner: dict[str, Any], key: str, wanted: list[Any]) -> Iterator[Change]:
        """Entries of a list that Kubernetes merges by their names."""
        if wanted and not owner.get(key):
            yield Change(path, key, wanted)
            return
        there = {each.get("name"): (index, each) for index, each in enumerate(owner.get(key) or [])}
        for entry in wanted:
            index, given = there.get(plain(entry)["name"], (-1, None))
            if given != plain(entry):
                yield Change((*path, key), index, entry)


def _unshared(data: Any) -> Any:
    """A copy in which nothing is in two places: what an alias (*) stands for is a copy of its own."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(entry) for entry in data] if isinstance(data, list) else data


def _flow(data: dict[str, Any]) -> Any:
    return Flow(data | {"name": Plain(data["name"])})


def _places(data: Any, path: Path = ()) -> Iterator[_Place]:
    """Every pod's spec in a document, those of a `List` among them."""
    yield from _places_at(data, at(data, path), path)


def _places_at(data: Any, item: Any, path: Path) -> Iterator[_Place]:
    if not isinstance(item, dict):
        return
    if isinstance(item.get("items"), list) and str(item.get("kind")).endswith("List"):
        for index in range(len(item["items"])):
            yield from _places(data, (*path, "items", index))
        return
    workload = f"{item.get('kind')}/{at(item, ('metadata', 'name'))}"
    templates = (("spec",),) if item.get("kind") == "Pod" else _TEMPLATES
    for template in templates:
        if isinstance(at(item, (*template, "containers")), list):
            yield _Place(workload, (*path, *template), data)


def _with_objects(text: str, manifest: Manifest) -> str:
    """The text with what has to be there beside the workload, in the place of what it was, or at the end."""
    for wanted in manifest.objects():
        chunks = _DOCUMENT.split(text)
        for index, chunk in enumerate(chunks):
            data = load(chunk)
            if at(data, ("kind",)) == "ConfigMap" and at(data, ("metadata", "name")) == wanted["metadata"]["name"]:
                if data.get("data") != plain(wanted["data"]):
                    chunks[index] = change_text(chunk, Change((), "data", wanted["data"]))
                break
        else:
            chunks.append(f"{'' if text.endswith(chr(10)) else chr(10)}---\n{to_yaml(wanted)}")
        text = "".join(chunks)
    return text
