"""Names and texts of others: they reach a log only printable, and not longer than a line can bear."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["LONGEST_NAME", "name_peer", "name_query", "one_line", "printable"]

LONGEST_NAME: Final = 120
"""Characters of the longest name that is kept."""

_LONGEST_LINE: Final = 500
_CREDENTIALS: Final = re.compile(r"(?<=://)\S*@")


def printable(text: str) -> str:
    """One printable line of bounded length: what a caller sends can neither forge a line of the log nor fill it."""
    text = text[:LONGEST_NAME]
    if text.isprintable():  # nearly always; ten thousand of them may be named while the deadline comes near
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def name_query(name: str, query: str) -> str:
    """A request with its query string, of bounded length."""
    return printable(f"{name}?{query}") if query else name


def name_peer(address: object = None, port: object = None, *_: object) -> str:
    """A peer as people know it: `10.0.3.7:51234`; a Unix socket's has no port, and may have no address."""
    if not address:
        return ""
    host = f"[{address}]" if ":" in str(address) else str(address)
    return printable(host if port is None else f"{host}:{port}")


def one_line(text: str) -> str:
    """A text of somebody else's, fit for one line: without what drives a terminal, and without credentials."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return _CREDENTIALS.sub("***@", line)[:_LONGEST_LINE]
