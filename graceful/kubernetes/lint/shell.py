"""Reads a shell's command line as far as it matters here: what runs in it, one after the other.

It knows quotes, comments and what separates commands, not the whole grammar: what it cannot tell counts as harmless.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["base_name", "commands", "is_shell", "script_of", "sleep_seconds"]

_SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh"})
_KEYWORDS: Final = frozenset({"if", "then", "else", "elif", "while", "until", "do", "{", "!", "time"})
_LOOPS: Final = re.compile(r"\b(while|until|for)\b")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\\\n|(?<![^\s;&|()])\#[^\n]*)
      | (?P<end>\n|&&|\|\||[;&|()])
      | (?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[<>]&|[^\s;&|()'"\\])+)
      | (?P<odd>.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED: Final = re.compile(r"""\\(.)|'([^']*)'|"((?:\\.|[^"\\])*)\"""", re.DOTALL)
_SLEEP: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def base_name(command: str) -> str:
    """`sh` for `/bin/sh`."""
    return command.rpartition("/")[2]


def is_shell(command: str) -> bool:
    """Whether a command is a shell."""
    return base_name(command) in _SHELLS


def script_of(argv: Sequence[str]) -> str | None:
    """What a shell is given to run (`sh -c SCRIPT`), None for any other command."""
    if not argv or not is_shell(argv[0]):
        return None
    words = iter(argv[1:])
    asked = False
    for word in words:
        if word[:1] not in {"-", "+"}:
            return word if asked else None
        if word.startswith("--"):
            continue
        asked = asked or "c" in word
        if "o" in word:  # `-euo pipefail`: the option's name follows
            next(words, None)
    return None


def commands(script: str) -> list[tuple[str, ...]]:
    """The simple commands of a script in the order in which they are written, without keywords and assignments."""
    found: list[list[str]] = [[]]
    for token in _TOKEN.finditer(script):
        if token["end"]:
            found.append([])
        elif token["word"]:
            found[-1].append(_QUOTED.sub(lambda quoted: next(filter(None, quoted.groups()), ""), token["word"]))
    return [words for each in found if (words := tuple(_without_prefix(each)))]


def _without_prefix(words: list[str]) -> list[str]:
    while words and (words[0] in _KEYWORDS or _ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    return words


def sleep_seconds(argv: Sequence[str]) -> float:
    """Seconds that a command sleeps for sure: `sleep 5`, also in a script, but not in a loop."""
    script = script_of(argv)
    if script is None:
        return _slept(argv)
    return 0.0 if _LOOPS.search(script) else sum(_slept(words) for words in commands(script))


def _slept(words: Sequence[str]) -> float:
    if base_name(words[0]) != "sleep" if words else True:
        return 0.0
    given = [_SLEEP.fullmatch(word) for word in words[1:]]
    return sum(float(each[1]) * _UNITS[each[2]] for each in given if each)
