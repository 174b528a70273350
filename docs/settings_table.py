"""Makes the settings reference from `Settings`, when the documentation is built: it cannot drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic import AliasChoices

from graceful import Settings
from graceful.values import Seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

MARKER: Final = "<!-- settings -->"

_READS_DURATIONS: Final = get_args(Seconds)[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the settings in the marker's place (an event of MkDocs)."""
    return markdown.replace(MARKER, settings_as_markdown()) if MARKER in markdown else markdown


def settings_as_markdown() -> str:
    """Every setting: its name, its variables, its default and what it is for."""
    return "\n".join(line for name, info in Settings.model_fields.items() for line in _entry(name, info))


def _entry(name: str, info: FieldInfo) -> Iterator[str]:
    first, *others = _variables(name, info)
    yield f"### `{name}`"
    yield ""
    yield info.description or ""
    yield ""
    yield f"- Default: {_default(info)}"
    yield f"- Variable: `{first}`" + (f"; else {', '.join(f'`{other}`' for other in others)}" if others else "")
    yield ""


def _variables(name: str, info: FieldInfo) -> list[str]:
    if isinstance(info.validation_alias, AliasChoices):
        return [choice for choice in info.validation_alias.choices if isinstance(choice, str) and choice != name]
    return [f"{Settings.model_config['env_prefix']}{name}".upper()]


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None or info.default in (None, ()):
        return "unset"
    if isinstance(info.default, bool):
        return f"`{info.default}`".lower()
    return f"{info.default:g} s" if _READS_DURATIONS in info.metadata else f"`{info.default}`"
