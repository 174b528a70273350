"""`python -m graceful manifest --apply FILE`: the manifest, put into a file of the user's own."""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from graceful.commands import FAIL, PASS, USAGE, CommandError, may_color, say, write_output

if TYPE_CHECKING:
    import argparse

    from graceful.kubernetes.apply import Applied
    from graceful.kubernetes.parts import Manifest

__all__ = ["apply_to_file"]

_COLORS: Final = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_PLAIN: Final = "\x1b[0m"


def apply_to_file(manifest: Manifest, options: argparse.Namespace, stdout: int) -> int:
    """Put a manifest into the file that `options` names, and write what they ask for to `stdout`.

    Raises:
        CommandError: the file cannot be read, patched or written, or the extra is not installed.
    """
    before = _read(options.apply)
    applied = _applied(before, manifest, options)
    for note in applied.notes:
        say(f"note: {note}")
    diff = _diff(before, applied.text, options.apply)
    if not (options.check or options.in_place):
        sys.stderr.write(_colored(diff) if may_color(sys.stderr) else diff)
        write_output(applied.text, stdout, "manifest")
        return PASS
    if options.in_place and diff:
        _write(Path(options.apply), applied.text)
    with os.fdopen(os.dup(stdout), "w") as terminal:
        color = may_color(terminal)
    write_output(_colored(diff) if color else diff, stdout, "difference")
    return FAIL if options.check and diff else PASS


def _applied(before: str, manifest: Manifest, options: argparse.Namespace) -> Applied:
    try:
        from ruamel.yaml import YAML  # noqa: F401, PLC0415  an extra: whether it is there
    except ImportError:
        raise CommandError(
            "--apply needs ruamel.yaml, which is not installed: pip install 'graceful-eureka[manifest]'", USAGE
        ) from None
    from graceful.kubernetes.apply import apply  # noqa: PLC0415  needs the extra
    from graceful.kubernetes.edit import EditError  # noqa: PLC0415

    try:
        return apply(before, manifest, replace=options.replace)
    except EditError as error:
        raise CommandError(f"{options.apply}: {error}") from None


def _read(name: str) -> str:
    try:
        # As bytes, because line ends are to stay as they are.
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise CommandError(f"{name} cannot be read ({error.strerror}): give a file with your manifest") from None
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8: save it in that encoding") from None


def _write(path: Path, text: str) -> None:
    """Put a new file in the place of the old one, so that it is never seen half written; a link stays one."""
    path = path.resolve()
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode("utf-8"))
            os.chmod(name, path.stat().st_mode & 0o7777)  # noqa: PTH101  beside mkstemp, which gives a text
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            with suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}): it is as it was") from None


def _diff(before: str, after: str, name: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, f"{name} (patched)", lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _colored(diff: str) -> str:
    return "".join(
        f"{color}{line.rstrip(chr(10))}{_PLAIN}\n" if (color := _COLORS.get(line[:1])) else line
        for line in diff.splitlines(keepends=True)
    )
