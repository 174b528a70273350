"""Reads YAML and JSON as far as a place in it can be named: whatever stands there, and on which line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from graceful.core.names import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Source", "TemplateError", "UnreadableError", "Value", "read"]

_TEMPLATE: Final = "it is a template that nobody has filled in yet ({{ … }}): what it comes to cannot be told"
_UNFILLED: Final = re.compile(r"""^[ \t]*(?:-[ ]+)*(?:[^\s:#'"]+:[ ]+)?\{\{""", re.MULTILINE)
"""Where a line, or an unquoted value, begins with `{{`."""
_TRAILING: Final = re.compile(r"[ \t]+$", re.MULTILINE)
"""Kubernetes' parser takes tabs at the end of a line, the one used here does not."""
_NULL: Final = "tag:yaml.org,2002:null"
_BOOL: Final = "tag:yaml.org,2002:bool"
_STRING_OR_TAB: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\t')


class UnreadableError(ValueError):
    """A file is no YAML or JSON.

    Attributes:
        line: where that shows, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class TemplateError(UnreadableError):
    """A file is a template that nobody has filled in yet."""


class Value:
    """What stands at a place of a document, whatever it is; nothing may stand there.

    To ask a value for what it is not gives nothing: a mapping's text is empty, a text has no elements.

    Args:
        node: the node of the YAML parser, None where nothing stands.
        line: the line from 1: of the key, for a value in a mapping.
    """

    __slots__ = ("_node", "line")

    def __init__(self, node: Any, line: int) -> None:
        self._node = node
        self.line = line

    def __bool__(self) -> bool:
        """Whether anything stands here; null is nothing, as it is for Kubernetes."""
        return self._node is not None and self._node.tag != _NULL

    def __getitem__(self, key: str) -> Value:
        """What stands under a key; of several the last, as Kubernetes reads it."""
        found = [value for name, value in self.items() if name == key]
        return found[-1] if found else Value(None, self.line)

    def __contains__(self, key: str) -> bool:
        return bool(self[key])

    def items(self) -> list[tuple[str, Value]]:
        """Keys and values of a mapping, what is merged into it (`<<`) first."""
        pairs: list[tuple[str, Value]] = []
        merged, seen = [self._node] if getattr(self._node, "id", "") == "mapping" else [], set[int]()
        for node in merged:  # it grows; an anchor may refer to itself
            if node.id == "scalar" or id(node) in seen:
                continue
            seen.add(id(node))
            if node.id == "sequence":
                merged += node.value
                continue
            merged += [value for key, value in node.value if key.value == "<<"]
            own = [(key, value) for key, value in node.value if key.value != "<<" and key.id == "scalar"]
            pairs[:0] = [(_text_of(key), Value(value, key.start_mark.line + 1)) for key, value in own]
        return pairs

    def elements(self) -> list[Value]:
        """The elements of a sequence."""
        if getattr(self._node, "id", "") != "sequence":
            return []
        return [Value(node, node.start_mark.line + 1) for node in self._node.value]

    @property
    def identity(self) -> int:
        """The same number for what an anchor and its aliases stand for."""
        return id(self._node)

    @property
    def text(self) -> str:
        """A scalar as it is written, without its quotes; else empty."""
        return _text_of(self._node) if self and self._node.id == "scalar" else ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The elements as texts."""
        return tuple(element.text for element in self.elements())

    @property
    def number(self) -> int | None:
        """A whole number, None if it is none."""
        try:
            number = float(self.text) if self.text.isascii() else math.nan
        except ValueError:
            return None
        return int(number) if math.isfinite(number) and number == int(number) else None

    @property
    def is_true(self) -> bool:
        """Whether it is `true`, and not the text of it."""
        return bool(self) and bool(self._node.tag == _BOOL) and self.text.lower() == "true"

    def keys_given_twice(self) -> Iterator[tuple[str, int]]:
        """Every key that stands twice in a mapping here or below, with the line of the second."""
        seen: set[int] = set()
        nodes = [self._node]
        for node in nodes:
            if node is None or node.id == "scalar" or id(node) in seen:
                continue
            seen.add(id(node))
            if node.id == "sequence":
                nodes += node.value
                continue
            names = set[str]()
            for key, value in node.value:
                nodes.append(value)
                if key.id == "scalar" and key.value != "<<":
                    if (name := _text_of(key)) in names:
                        yield name, key.start_mark.line + 1
                    names.add(name)


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read.

    Attributes:
        name: what it is called in a finding.
        lines: its text.
        documents: its documents; the elements of a JSON array count as such.
    """

    name: str
    lines: tuple[str, ...]
    documents: tuple[Value, ...]


def read(name: str, data: bytes) -> Source:
    """Read a file of YAML documents, or JSON.

    Args:
        name: what it is called in a finding.
        data: the whole file.

    Raises:
        UnreadableError: it is neither.
        TemplateError: it is a template that is not filled in yet.
        ImportError: ruamel.yaml is not there.
    """
    text = _decoded(data)
    nodes = _composed(text)
    for node in nodes:
        _refuse_template(node)
    documents = [Value(node, node.start_mark.line + 1) for node in nodes]
    documents = [each for document in documents for each in (document.elements() or [document])]
    return Source(name, tuple(text.split("\n")), tuple(documents))


def _decoded(data: bytes) -> str:
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError("it is not text in UTF-8", data[: error.start].count(b"\n") + 1) from None
    text = _TRAILING.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if text.lstrip()[:1] in {"{", "["}:  # JSON may be indented by tabs, YAML may not
        text = _STRING_OR_TAB.sub(lambda found: " " if found[0] == "\t" else found[0], text)
    return text


def _composed(text: str) -> list[Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415  an extra
    from ruamel.yaml.error import MarkedYAMLError, YAMLStreamError  # noqa: PLC0415

    parser = YAML(typ="safe", pure=True)
    try:
        return [node for node in parser.compose_all(text) if node is not None]
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        if unfilled := _UNFILLED.search(text):
            raise TemplateError(_TEMPLATE, _line_at(unfilled.end(), text)) from None
        problem = ", ".join(part for part in (error.problem, error.context) if part)
    except RecursionError:
        line, problem = 1, "it is nested too deeply"
    except (YAMLStreamError, Exception) as error:  # noqa: BLE001  the parser's own failures on text that is no YAML
        at = getattr(error, "position", None)
        line, problem = _line_at(at, text) if isinstance(at, int) else 1, str(error).partition("\n")[0]
    raise UnreadableError(f"it is no YAML: {one_line(problem)}", line)


def _refuse_template(document: Any) -> None:
    """`{{ .Values.x }}` is YAML: a mapping with a mapping for its key."""
    seen: set[int] = set()
    nodes = [document]
    for node in nodes:
        if id(node) in seen or node.id == "scalar":
            continue
        seen.add(id(node))
        if node.id == "sequence":
            nodes += node.value
            continue
        for key, value in node.value:
            if node.flow_style and key.id == "mapping" and key.flow_style:
                raise TemplateError(_TEMPLATE, node.start_mark.line + 1)
            nodes.append(value)


def _text_of(scalar: Any) -> str:
    """A scalar's text. JSON escapes a character beyond U+FFFF as two halves; of one alone Go makes U+FFFD (`json`)."""
    return str(scalar.value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _line_at(position: int, text: str) -> int:
    return text.count("\n", 0, position) + 1
