"""Imports an application for a command, as a plan only, and finds what it has installed."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from graceful.core.names import one_line

if TYPE_CHECKING:
    from graceful.service import Coordinator

__all__ = ["ImportingError", "install_of"]


class ImportingError(Exception):
    """A module does not import, or installs nothing; the message says which one and what to do."""


def install_of(name: str) -> Coordinator:
    """Import a module from the working directory, and give the coordinator that it installs.

    `install()` makes a plan only: no thread, no signal handler, no socket.

    Args:
        name: the module's name, such as `main` or `package.main`; what follows a colon is ignored, as in `main:app`.

    Raises:
        ImportingError: it does not import, or installs nothing.
    """
    from graceful.installation import planning  # noqa: PLC0415  --help does without

    module = name.partition(":")[0]
    if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        raise ImportingError(
            f"{name!r} is not the name of a module: expected what stands after `import`, such as main or package.main, "
            "and not the name of a file"
        )
    with planning() as installed:
        _import(module)
        coordinator = installed()
    if coordinator is None:
        raise ImportingError(
            f"module {module} installs nothing: graceful.install() must be called when it is imported, and not only "
            "under `if __name__ == '__main__'` or in a function; give the module that calls it, or none to take the "
            "settings from the environment alone"
        )
    return coordinator


def _import(module: str) -> None:
    here = _working_directory()
    sys.path.insert(0, here)
    _make_room(module.partition(".")[0], here)
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  what a module may raise has no bounds
        problem = _problem(module, here, error)
    else:
        return
    # Outside the except block: nothing of the application's own error may show up in a traceback of ours.
    raise ImportingError(problem)


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        raise ImportingError("the working directory is gone: change to the application's folder") from None


def _make_room(top: str, here: str) -> None:
    """Forget a module of the same name that Python or graceful has loaded from elsewhere.

    The application's `queue.py` comes before Python's `queue` where it runs, so it does here. What Python has built in
    comes first everywhere.
    """
    loaded = sys.modules.get(top)
    local = PathFinder.find_spec(top, [here])
    if loaded is None or local is None or local.origin is None or top == "graceful":
        return
    origin = getattr(loaded.__spec__, "origin", None)
    if origin not in {"built-in", "frozen", local.origin}:
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def _problem(module: str, here: str, error: BaseException) -> str:
    """One line about why a module does not import, and what to do."""
    from graceful.core.budget import BudgetError  # noqa: PLC0415  --help does without
    from graceful.installation import InstallError  # noqa: PLC0415
    from graceful.settings import SettingsError  # noqa: PLC0415

    if isinstance(error, SystemExit):
        return (
            f"module {module} ends the program when it is imported (exit code {one_line(repr(error.code))}): put what "
            "it runs under `if __name__ == '__main__'`"
        )
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {module} in {here}: run this in the folder in which `import {module}` works"
    if isinstance(error, BudgetError | InstallError | SettingsError):
        return f"module {module}: {error}"
    return (
        f"module {module} does not import: {one_line(_text(error))}; run this with the "
        f"interpreter and the environment of the application (python -c 'import {module}' shows where it fails)"
    )


def _text(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  an exception of somebody else's may not even be printable
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
