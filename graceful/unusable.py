"""What is said of a setting that cannot be used: what was given and where, what was expected, and never a secret."""

from __future__ import annotations

import os
from typing import Final

from graceful.environment import variable_with

__all__ = ["SettingsError", "fix", "given", "placeholder", "unusable"]

_SECRET_FIELDS: Final = frozenset({"eureka_url", "eureka_client_key_password", "prestop_token"})


class SettingsError(ValueError):
    """A setting that cannot be used; the message says what was given, what is expected and where it came from."""


def unusable(field: str, value: object, problem: str) -> SettingsError:
    """The error for a setting that has the right form but cannot be used.

    Args:
        field: the setting.
        value: what it is; it is shown unless it may be a secret.
        problem: what is wrong with it, and what was expected.
    """
    return SettingsError(f"{given(field, value)}: {problem}; {fix(field, value)}")


def given(field: str, value: object) -> str:
    """`port is 'eighty' (GRACEFUL_PORT)`: what was given, and where it came from if that was the environment."""
    where = f" ({variable})" if (variable := variable_with(field, value, os.environ)) else ""
    return f"{field}{where}" if field in _SECRET_FIELDS else f"{field} is {_shown(value)}{where}"


def fix(field: str, value: object) -> str:
    """`correct GRACEFUL_PORT`, or the argument where that is what was given."""
    return f"correct {variable_with(field, value, os.environ) or f'the argument {field}'}"


def placeholder(field: str, value: object) -> str:
    """What to say of a value with one of Spring's placeholders, from a variable of Spring's; empty for any other."""
    variable = variable_with(field, value, os.environ)
    if not variable or variable.startswith("GRACEFUL_") or "${" not in str(value):
        return ""
    return (
        f"{given(field, value)}: Spring's placeholders (${{…}}) are not filled in here; write out what is meant, have "
        f"Kubernetes fill in a variable with $(NAME), or set GRACEFUL_{field.upper()}, which wins"
    )


def _shown(value: object) -> str:
    """A value as a message may show it: short, and without what could be a password in a wrong place."""
    if isinstance(value, str):
        return "(not shown: it may have credentials)" if "@" in value else repr(value[:80])
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**15):
        return repr(value)
    return f"of type {type(value).__name__}" if not isinstance(value, int) else "a number out of all proportion"
