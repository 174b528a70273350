"""Names that callers give: they reach a log only printable, and not longer than a line can bear."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST_NAME", "printable"]

LONGEST_NAME: Final = 120
"""Characters of the longest name that is kept."""


def printable(text: str) -> str:
    """One printable line of bounded length: what a caller sends can neither forge a line of the log nor fill it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:LONGEST_NAME])
