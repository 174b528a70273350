"""Keeping credentials out of what py_eureka_client logs: it names its servers by their whole URL, at WARNING."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_credentials_out"]

# Up to the last `@` before the path: whatever a password has in it.
_CREDENTIALS: Final = re.compile(r"://[^/\s]+@")
_FORMATTER: Final = logging.Formatter()


def keep_credentials_out() -> Callable[[], None]:
    """Have the loggers of py_eureka_client write `://***@` from now on, wherever they write to.

    They stand outside of the logging tree and print past its handlers: a filter at the loggers themselves reaches all.

    Returns:
        What undoes it.
    """
    from py_eureka_client import eureka_client  # noqa: PLC0415  imported by whoever has a client

    # Private, and the only logger that the client speaks through; if a release names it otherwise, nothing is hidden.
    logger: Any = getattr(eureka_client, "_logger", None)
    if not isinstance(logger, logging.Logger):
        return lambda: None
    logger.addFilter(_hide)
    return lambda: logger.removeFilter(_hide)


def _hide(record: logging.LogRecord) -> bool:
    record.msg, record.args = _hidden(record.getMessage()), None
    if record.exc_info:
        # A formatter takes the text that is there already.
        record.exc_text = _hidden(_FORMATTER.formatException(record.exc_info))
    return True


def _hidden(text: str) -> str:
    return _CREDENTIALS.sub("://***@", text)
