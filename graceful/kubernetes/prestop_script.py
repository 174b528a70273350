"""The preStop hook as one file for a POSIX shell, for containers where graceful is not installed."""

from __future__ import annotations

import re
import socket
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from graceful.environment import variable_with
from graceful.kubernetes.manifest import HOOK_DURATIONS, HOOK_FILES
from graceful.network import own_address

if TYPE_CHECKING:
    from graceful.kubernetes.manifest import Snippets

__all__ = ["FILE_NAME", "prestop_script"]

FILE_NAME: Final = "prestop.sh"
"""The template beside this module, and what the script is called in a ConfigMap."""

_VARIABLE: Final = re.compile("^([a-z_]+)='[^']*'", re.MULTILINE)


def prestop_script(snippets: Snippets) -> str:
    """Return the script, with the settings as defaults in the variables at its top; the environment wins over them.

    Credentials never are in it: where the addresses of Eureka have some, the script has the addresses without them, and
    takes both from `GRACEFUL_EUREKA_URL`.

    Args:
        snippets: the settings that the app runs with, its plan, and the environment that they were read from.

    Raises:
        ValueError: a setting has a NUL in it, which no variable of a shell can hold.
    """
    template = files("graceful.kubernetes").joinpath(FILE_NAME).read_text(encoding="utf-8")
    words = _variables(snippets)
    # In one pass: what stands in a value must not be taken for the next variable.
    return _VARIABLE.sub(lambda found: f"{found[1]}={words[found[1]]}" if found[1] in words else found[0], template)


def _variables(snippets: Snippets) -> dict[str, str]:
    """What the script has at its top, each as a word of the shell."""
    settings = snippets.settings
    urls = dict.fromkeys(str(url).replace("://***@", "://", 1) for url in settings.eureka_url)
    texts = {
        "eureka_url": ",".join(urls),
        "app_name": settings.app_name or "",
        "ip_addr": "" if _is_pods_own(snippets, settings.ip_addr) else settings.ip_addr or "",
        "port": "" if settings.port is None else str(settings.port),
        "grace_period": str(snippets.grace_period),
    }
    texts |= {name: getattr(settings, name) or "" for name in HOOK_FILES}
    durations = {name: getattr(settings, name) for name in HOOK_DURATIONS}
    texts |= {
        name: "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".") for name, value in durations.items()
    }
    return {name: _quoted(text) for name, text in texts.items()} | {"instance_id": _instance_id(snippets)}


def _is_pods_own(snippets: Snippets, ip: str | None) -> bool:
    """Whether the pod has another address in the place of this one."""
    return ip == own_address() or bool(ip and variable_with("ip_addr", ip, snippets.environ))


def _instance_id(snippets: Snippets) -> str:
    """The instance's id: what the app made of this machine's names at import, every pod makes of its own."""
    given = snippets.settings.instance_id
    if given is None or variable_with("instance_id", given, snippets.environ):
        return _quoted("")
    own = {own_address(): '"${POD_IP-}"', socket.gethostname(): '"$(uname -n)"'}
    names = "|".join(re.escape(name) for name in own)
    parts = re.split(rf"(?<![\w.-])({names})(?![\w.-])", given)
    return "".join(own.get(part) or _quoted(part) for part in parts if part)


def _quoted(text: str) -> str:
    """A word in which the shell finds nothing: between single quotes only another one means anything."""
    if "\0" in text:
        raise ValueError(f"{text!r} has a NUL in it, which a shell cannot hold: set it without")
    return "'" + text.replace("'", "'\\''") + "'"
