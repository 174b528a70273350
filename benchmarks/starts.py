"""What it costs to start the hook, and to import the package: each in a fresh interpreter."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.comparison import Comparison, in_turns

__all__ = ["compare_hook", "compare_import"]

_ROOT: Final = Path(__file__).parent.parent
_FLOOR: Final = _ROOT / "benchmarks" / "floor"
_TIMEOUT: Final = 60.0

_HOOK: Final = "start of the hook"
_HOOK_FLOOR: Final = "start of a module that imports `socket`"
_IMPORT: Final = "`import graceful`"
_IMPORT_FLOOR: Final = "import of an empty package"

_TIME_IMPORT: Final = """
import time
begun = time.process_time()
import {}
print(time.process_time() - begun)
"""


def compare_hook(runs: int) -> list[Comparison]:
    """Compare the hook, from the interpreter's start until it would look for the app, with the least a hook can be.

    With `--help` it has imported all that it works with, and ends where it would look.
    """
    times = in_turns(
        {
            _HOOK: partial(_start, _ROOT, "graceful.prestop", "--help"),
            _HOOK_FLOOR: partial(_start, _FLOOR, "floor_socket"),
        },
        runs,
    )
    return [Comparison.of(_HOOK, _HOOK_FLOOR, times)]


def compare_import(runs: int) -> list[Comparison]:
    """Compare `import graceful` with the import of a package that has nothing in it."""
    times = in_turns(
        {_IMPORT: partial(_import, _ROOT, "graceful"), _IMPORT_FLOOR: partial(_import, _FLOOR, "floor_empty")},
        runs,
    )
    return [Comparison.of(_IMPORT, _IMPORT_FLOOR, times)]


def _start(path: Path, *command: str) -> float:
    """Run a module; the CPU seconds from its process' start to its end."""
    before = _children_time()
    _python(path, "-m", *command)
    return _children_time() - before


def _import(path: Path, package: str) -> float:
    """Import a package in a fresh interpreter; the CPU seconds of the import statement alone."""
    return float(_python(path, "-c", _TIME_IMPORT.format(package)))


def _python(path: Path, *arguments: str) -> str:
    """Run Python with one directory before all others, so that both sides are found at the first look."""
    command = [sys.executable, "-P", *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ["PYTHONPATH"] = str(path)
    return subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=_TIMEOUT).stdout


def _children_time() -> float:
    """CPU seconds, in the kernel too, of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
