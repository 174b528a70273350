"""Changes one place of a YAML text and leaves every other character of it alone: comments, order, quotes, blanks.

ruamel.yaml says where each value begins and ends; the text there is replaced. Writing the whole document anew would
move comments and change what nobody asked for, and the diff could not be read. Each change reads the text again:
manifests are small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from graceful.kubernetes.tree import Flow, Sourced, plain, to_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OURS", "Change", "EditError", "Path", "at", "change_data", "change_text", "load"]

Path: TypeAlias = "tuple[str | int, ...]"

OURS = "graceful: "
"""How a comment of ours begins: it may be replaced, one of somebody else's never is."""


class EditError(Exception):
    """A text cannot be changed as asked; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """A value that is to stand in a mapping or a sequence.

    Attributes:
        path: the way to the mapping or sequence, as keys and positions.
        key: the key; for a sequence the position, -1 to append, or -2 to put it first.
        value: the value, as a tree; a comment is written behind a key that has a source.
    """

    path: Path
    key: str | int
    value: Any

    @property
    def is_new(self) -> bool:
        """Whether an entry is added to a sequence."""
        return isinstance(self.key, int) and self.key < 0


def load(text: str) -> Any:
    """A document's data.

    Raises:
        EditError: it is no YAML, or several documents.
    """
    from ruamel.yaml import YAML  # noqa: PLC0415  an extra
    from ruamel.yaml.error import YAMLError  # noqa: PLC0415

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        hint = "; a Helm template is none: patch what `helm template` prints" if "{{" in text else ""
        raise EditError(f"it cannot be read as YAML{where} ({problem}){hint}") from None


def at(data: Any, path: Path) -> Any:
    """The value at the end of a path, None where it is not there."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def change_data(data: Any, change: Change) -> None:
    """Make a change to a document's data."""
    place, value = at(data, change.path), plain(change.value)
    if change.key == -1:
        place.append(value)
    elif change.key == -2:
        place.insert(0, value)
    else:
        place[change.key] = value


def change_text(text: str, change: Change) -> str:
    """The text with a change made to it.

    Raises:
        EditError: it stands in a mapping or list that is written in braces or brackets, as in JSON.
    """
    node = _node(text, change.path)
    if node.flow_style:
        return _rewritten(text, change)
    if isinstance(change.key, str):
        return _set_key(text, node, change)
    return _set_entry(text, node, change)


def _rewritten(text: str, change: Change) -> str:
    """Write a whole mapping or list anew that is in braces or brackets."""
    if not change.path:
        raise EditError("it is written in braces, as JSON is: convert it to plain YAML first (yq -P does)")
    *path, key = change.path
    outer = _node(text, tuple(path))
    if outer.flow_style:
        return _rewritten(text, Change(tuple(path), key, _changed(text, change)))
    return change_text(text, Change(tuple(path), key, _changed(text, change)))


def _changed(text: str, change: Change) -> Any:
    data = at(load(text), change.path)
    if isinstance(data, dict):
        return data | {change.key: change.value}
    change_data(data, Change((), change.key, change.value))
    return [Flow(entry) if isinstance(entry, dict) else entry for entry in data]


def _set_key(text: str, node: Any, change: Change) -> str:
    lines = to_yaml({change.key: _marked(change.value)}).splitlines()
    for key, value in node.value:
        if key.value == change.key:
            return _replaced(text, key.start_mark, _end(text, value, key.end_mark.index), lines)
    column = node.value[0][0].start_mark.column
    return _inserted_after(text, _end(text, node), column, lines)


def _set_entry(text: str, node: Any, change: Change) -> str:
    lines = to_yaml([_marked(change.value)]).splitlines()
    # The sequence's own mark is not always at its first dash.
    start = text.rindex("-", 0, node.value[0].start_mark.index)
    column = start - text.rfind("\n", 0, start) - 1
    if change.key == -1:
        return _inserted_after(text, _end(text, node), column, lines)
    if change.key == -2:
        return text[:start] + _indented(lines, column).lstrip(" ") + "\n" + " " * column + text[start:]
    entry = node.value[change.key]
    first, *rest = lines
    mark = entry.start_mark
    return _replaced(text, mark, _end(text, entry), [first[2:], *(line[2:] for line in rest)])


def _marked(value: Any) -> Any:
    """A tree whose comments say that they are ours."""
    if isinstance(value, Sourced):
        return Sourced(_marked(value.value), OURS + value.source)
    if isinstance(value, Flow):
        return value
    if isinstance(value, dict):
        return {key: _marked(entry) for key, entry in value.items()}
    return [_marked(entry) for entry in value] if isinstance(value, list) else value


def _node(text: str, path: Path) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415  an extra

    node = YAML(typ="rt", pure=True).compose(text)
    for step in path:
        if isinstance(step, int):
            node = node.value[step]
        else:
            node = next(value for key, value in node.value if key.value == step)
    return node


def _end(text: str, node: Any, least: int = 0) -> int:
    """Where a value really ends: a block's own mark stands behind the comments and blank lines that follow it."""
    while isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        if isinstance(last, tuple):
            least = max(least, last[0].end_mark.index + 1)
            last = last[1]
        node = last
    end = max(node.end_mark.index, least)
    # Of a text block, the mark stands at the beginning of the next line.
    return max(len(text[:end].rstrip()), least)


def _replaced(text: str, mark: Any, end: int, lines: Sequence[str]) -> str:
    """Put lines in the place of what stands there; a comment behind it stays, unless it is ours."""
    line_end = _line_end(text, end)
    behind = text[end:line_end]
    comment = behind.strip()
    if comment.startswith(f"# {OURS}"):
        behind = ""
    elif comment and len(lines) == 1:
        lines = [lines[0].partition(f"  # {OURS}")[0]]
    elif comment:  # it belongs to the first line
        lines, behind = [lines[0] + behind, *lines[1:]], ""
    return text[: mark.index] + _indented(lines, mark.column).lstrip(" ") + behind + text[line_end:]


def _inserted_after(text: str, end: int, column: int, lines: Sequence[str]) -> str:
    line_end = _line_end(text, end)
    return text[:line_end] + "\n" + _indented(lines, column) + text[line_end:]


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _indented(lines: Sequence[str], column: int) -> str:
    return "\n".join(" " * column + line if line else line for line in lines)
