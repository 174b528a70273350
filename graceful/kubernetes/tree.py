"""A piece of a manifest, with where its numbers come from; written as YAML with comments, or as plain data.

A tree is made of dictionaries, lists, texts, numbers and the classes below. PyYAML writes no comments and is no
dependency; what is written here is far less than YAML, and nothing in a text can change its form.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Block", "Flow", "Plain", "Remark", "Sourced", "plain", "quoted", "sources", "to_yaml"]

_INDENT: Final = "  "


class Plain(str):
    """A word of our own, written without quotes."""

    __slots__ = ()


class Block(str):
    """A text of several lines, written as they are; the first does not begin with a space, and all are printable."""

    __slots__ = ()


class Remark(str):
    """A comment in place of a list's entry."""

    __slots__ = ()


class Flow(dict[str, Any]):
    """A mapping that is written on one line."""


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, and the sentence that says where it comes from."""

    value: Any
    source: str


def to_yaml(tree: Any) -> str:
    """The tree in YAML, block style, with a comment behind each value that has a source."""
    return "".join(f"{line}\n" for line in _lines(tree))


def plain(tree: Any) -> Any:
    """The tree as it is without comments: dictionaries, lists, texts and numbers."""
    if isinstance(tree, Sourced):
        return plain(tree.value)
    if isinstance(tree, dict):
        return {str(key): plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(entry) for entry in tree if not isinstance(entry, Remark)]
    return str(tree) if isinstance(tree, str) else tree


def sources(tree: Any, pointer: str = "") -> dict[str, str]:
    """Where the values come from, by their JSON pointer (RFC 6901) into the plain tree."""
    if isinstance(tree, Sourced):
        return {pointer: tree.source} | sources(tree.value, pointer)
    if isinstance(tree, dict):
        entries = [(str(key).replace("~", "~0").replace("/", "~1"), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        kept = [entry for entry in tree if not isinstance(entry, Remark)]
        entries = [(str(index), entry) for index, entry in enumerate(kept)]
    else:
        return {}
    return {at: why for key, value in entries for at, why in sources(value, f"{pointer}/{key}").items()}


def quoted(text: str) -> str:
    """A YAML double-quoted scalar in ASCII: a JSON string, but for what lies beyond (YAML has no surrogate pairs)."""
    return re.sub(r"[^ -~]", lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))


def _lines(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _entry(f"{key}:", value)
        return
    for entry in tree:
        if isinstance(entry, Remark):
            yield f"# {entry}"
        elif isinstance(entry, dict) and not isinstance(entry, Flow):
            first, *rest = _lines(entry)
            yield f"- {first}"
            yield from (_INDENT + line for line in rest)
        else:
            yield from _entry("-", entry)


def _entry(before: str, value: Any) -> Iterator[str]:
    value, comment = (value.value, f"  # {value.source}") if isinstance(value, Sourced) else (value, "")
    if isinstance(value, Block):
        yield f"{before} |{'' if value.endswith(chr(10)) else '-'}{comment}"
        yield from ((_INDENT + line) if line else "" for line in value.removesuffix("\n").split("\n"))
    elif isinstance(value, dict) and not isinstance(value, Flow):
        yield before + comment
        yield from (_INDENT + line for line in _lines(value))
    elif isinstance(value, list):
        yield before + comment
        yield from _lines(value)
    else:
        yield f"{before} {_inline(value)}{comment}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_inline(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, Plain):
        return value
    return quoted(value) if isinstance(value, str) else json.dumps(value)
