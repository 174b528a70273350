"""Makes the table of the linter's rules from the rules, when the documentation is built: it cannot drift."""

from __future__ import annotations

from typing import Any, Final

from graceful.kubernetes.lint import checking  # noqa: F401  it brings every rule
from graceful.kubernetes.lint.report import as_markdown

MARKER: Final = "<!-- lint rules -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the rules in the marker's place (an event of MkDocs)."""
    return markdown.replace(MARKER, as_markdown()) if MARKER in markdown else markdown
