"""Pods, containers and hooks as a manifest describes them, whatever it holds in their places."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from graceful.core.budget import KUBERNETES_DEFAULT_GRACE
from graceful.kubernetes.lint import shell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from graceful.kubernetes.lint.reading import Source, Value

__all__ = ["HANDLERS", "Container", "Hook", "Pod", "Variable", "config_maps", "pods_of"]

HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "sleep")
"""What the API knows as the handlers of a hook, of which there must be one."""

_HOOK_MODULE: Final = "graceful.prestop"
_HOOK_PATH: Final = "/graceful/prestop"
_TEMPLATES: Final = (("spec", "template"), ("spec", "jobTemplate", "spec", "template"), ("template",), ())
_RUNS_TO_ITS_END: Final = frozenset({"Job", "CronJob"})
_REFERENCE: Final = re.compile(r"\$(\$|\(([-._a-zA-Z0-9]+)\))")
_NOT_FILLED_IN: Final = re.compile(r"\{\{|\$\{|\$\([-._a-zA-Z0-9]+\)")
"""A placeholder of Helm or Spring, or a variable that Kubernetes leaves as it is because nobody gives it."""


class Variable(NamedTuple):
    """A variable of a container.

    Attributes:
        name: its name.
        value: its value, None where the manifest does not say it.
        line: where it stands.
        origin: where the value comes from if the manifest does not say it.
    """

    name: str
    value: str | None
    line: int
    origin: str = ""


@dataclass(frozen=True)
class Hook:
    """A preStop hook."""

    value: Value

    @property
    def handlers(self) -> list[str]:
        """The handlers that are there; the API wants exactly one."""
        return [name for name in HANDLERS if self.value[name]]

    @property
    def command(self) -> tuple[str, ...]:
        """The exec handler's command."""
        return self.value["exec"]["command"].texts

    @cached_property
    def script(self) -> tuple[tuple[str, ...], ...]:
        """The commands that it runs: those of the script, where a shell is given one."""
        script = shell.script_of(self.command)
        if script is not None:
            return tuple(shell.commands(script))
        return (self.command,) if self.command else ()

    @property
    def is_ours(self) -> bool:
        """Whether it has the service begin its leave."""
        words = {word for command in self.script for word in command}
        return _HOOK_MODULE in words or self.value["httpGet"]["path"].text.startswith(_HOOK_PATH)

    @property
    def sleep(self) -> float:
        """Seconds that it sleeps for sure."""
        return max(self.value["sleep"]["seconds"].number or 0, shell.sleep_seconds(self.command))


@dataclass(frozen=True)
class Container:
    """A container of a pod.

    Attributes:
        value: its place.
        config_maps: the data of the ConfigMaps that are in the same input, by name.
    """

    value: Value
    config_maps: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        """Its name."""
        return self.value["name"].text

    @property
    def line(self) -> int:
        """The line of its name."""
        return self.value["name"].line

    @property
    def image(self) -> str:
        """Its image."""
        return self.value["image"].text

    @property
    def command(self) -> tuple[str, ...]:
        """What it runs as PID 1, as far as the manifest says so."""
        return self.value["command"].texts + self.value["args"].texts

    @property
    def hook(self) -> Hook | None:
        """Its preStop hook, if there is one; it may be empty."""
        lifecycle = self.value["lifecycle"]
        return Hook(lifecycle["preStop"]) if lifecycle["preStop"] else None

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Its variables in their order, those of whole ConfigMaps first, as Kubernetes has it."""
        found = [variable for source in self.value["envFrom"].elements() for variable in self._all_of(source)]
        for entry in self.value["env"].elements():
            found.append(self._variable(entry, {each.name: each.value for each in found}))
        return tuple(found)

    @property
    def environ(self) -> dict[str, str]:
        """The variables whose value is known; of several with one name the last."""
        return {name: value for name, value in self._last.items() if value is not None}

    @property
    def unknown(self) -> dict[str, Variable]:
        """The variables whose value is not in the manifest."""
        return {each.name: each for each in self.variables if self._last[each.name] is None}

    @property
    def unseen_sources(self) -> Iterator[tuple[int, str]]:
        """Where further variables come from that are not in the input: line and name."""
        for source in self.value["envFrom"].elements():
            config_map = source["configMapRef"]["name"].text
            if config_map not in self.config_maps:
                kind = "ConfigMap" if source["configMapRef"] else "Secret"
                yield source.line, f"{kind} {config_map or source['secretRef']['name'].text}"

    @property
    def uses_graceful(self) -> bool:
        """Whether its hook or its environment shows that graceful runs in it."""
        if self.environ.get("GRACEFUL_ENABLED", "").lower() in {"false", "0", "no", "off"}:
            return False
        return bool(self.hook and self.hook.is_ours) or any(
            each.name.startswith("GRACEFUL_") for each in self.variables
        )

    def line_of(self, variable: str) -> int:
        """Where a variable stands, or the container where it does not."""
        return next((each.line for each in reversed(self.variables) if each.name == variable), self.line)

    @property
    def _last(self) -> dict[str, str | None]:
        return {each.name: each.value for each in self.variables}

    def _all_of(self, source: Value) -> list[Variable]:
        data = self.config_maps.get(source["configMapRef"]["name"].text, {})
        return [Variable(source["prefix"].text + key, value, source.line) for key, value in data.items()]

    def _variable(self, entry: Value, before: Mapping[str, str | None]) -> Variable:
        name, reference = entry["name"].text, entry["valueFrom"]
        if not reference:
            value = _filled_in(entry["value"].text, before)
            if _NOT_FILLED_IN.search(value):
                return Variable(name, None, entry.line, "a placeholder")
            return Variable(name, value, entry.line)
        key = reference["configMapKeyRef"]
        data = self.config_maps.get(key["name"].text, {})
        if key["key"].text in data:
            return Variable(name, data[key["key"].text], entry.line)
        return Variable(name, None, entry.line, _origin(reference))


def _origin(reference: Value) -> str:
    for kind, name in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
        if reference[kind]:
            return f"{name} {reference[kind]['name'].text}"
    return "the pod"


def _filled_in(text: str, before: Mapping[str, str | None]) -> str:
    """A value as Kubernetes makes it: `$(NAME)` for a variable before it, `$$` for a dollar."""

    def replaced(found: re.Match[str]) -> str:
        value = before.get(found[2]) if found[2] else "$"
        return found[0] if value is None else value

    return _REFERENCE.sub(replaced, text)


@dataclass(frozen=True)
class Pod:
    """What a manifest makes pods from.

    Attributes:
        source: the file.
        workload: the object: a Deployment, or the Pod itself.
        template: the pod's part of it.
        config_maps: the data of the ConfigMaps that are in the same input, by name.
    """

    source: Source
    workload: Value
    template: Value
    config_maps: Mapping[str, Mapping[str, str]]

    @property
    def kind(self) -> str:
        """`Deployment`."""
        return self.workload["kind"].text

    @property
    def title(self) -> str:
        """`Deployment orders`."""
        name = self.workload["metadata"]["name"].text or self.workload["metadata"]["generateName"].text
        return f"{self.kind} {name}".strip()

    @property
    def spec(self) -> Value:
        """The pod's spec."""
        return self.template["spec"]

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """The containers that leave together; what is in `initContainers` has ended or is native, and leaves last."""
        return tuple(Container(value, self.config_maps) for value in self.spec["containers"].elements())

    @property
    def grace(self) -> int:
        """Seconds that it is given, as Kubernetes has it where the manifest says nothing."""
        number = self.spec["terminationGracePeriodSeconds"].number
        return int(KUBERNETES_DEFAULT_GRACE) if number is None else max(number, 0)

    @property
    def grace_line(self) -> int:
        """Where that stands, or the spec where it does not."""
        return self.spec["terminationGracePeriodSeconds"].line

    @property
    def is_patch(self) -> bool:
        """Whether it is only what is to be changed in another pod: what it does not say may stand there."""
        return not all(container.image for container in self.containers)

    @property
    def serves(self) -> bool:
        """Whether it is there to be called, and not to run to its end."""
        return self.kind not in _RUNS_TO_ITS_END

    def annotation(self, name: str) -> str:
        """An annotation of the pod, or a label of that name, as some meshes take either."""
        metadata = self.template["metadata"]
        return metadata["annotations"][name].text or metadata["labels"][name].text


def pods_of(source: Source, maps: Mapping[str, Mapping[str, str]]) -> list[Pod]:
    """The pods that a file describes: of every kind that has a pod template, in a `List` too."""
    return [
        Pod(source, item, template, maps)
        for item in _objects(source)
        if not item["apiVersion"].text.startswith("serving.knative.dev/")  # it gives its pods a grace of its own
        for template in _template(item)
    ]


def _template(item: Value) -> list[Value]:
    for path in _TEMPLATES:
        template = item
        for key in path:
            template = template[key]
        if template["spec"]["containers"].elements():
            return [template]
    return []


def config_maps(sources: Iterable[Source]) -> dict[str, dict[str, str]]:
    """The data of every ConfigMap, by its name."""
    return {
        item["metadata"]["name"].text: {key: value.text for key, value in item["data"].items()}
        for source in sources
        for item in _objects(source)
        if item["kind"].text == "ConfigMap"
    }


def _objects(source: Source) -> list[Value]:
    """The objects of a file, those of a List in its place."""
    found: list[Value] = []
    waiting, seen = list(reversed(source.documents)), set[int]()
    while waiting:
        item = waiting.pop()
        if item.identity in seen:  # an anchor may refer to itself
            continue
        seen.add(item.identity)
        items = item["items"].elements() if item["kind"].text.endswith("List") else []
        waiting += reversed(items)
        found += [] if items else [item]
    return found
