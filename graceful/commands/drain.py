"""`python -m graceful drain`: a leave that somebody begins by hand."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from graceful.commands import FAIL, INCONCLUSIVE, PASS, CommandError, add_timeout, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

    from graceful.processes import Conversation

__all__ = ["add", "run"]

_DESCRIPTION: Final = """\
Have every process of this container leave, as SIGTERM would: out of service in Eureka, still serving
until callers have heard, then the drain, the clean-up, the deregistration, and the process ends.
Nothing takes that back. Kubernetes starts a container anew whose first process has ended; a server
with several workers (uvicorn, gunicorn) starts new ones in the place of those that left.
"""
_EPILOG: Final = """\
examples:
  python -m graceful drain              begin the leave, and return
  python -m graceful drain --wait       print what happens, and return when every process has left
  python -m graceful drain --pid 12     one worker: where others serve on, it hands over and leaves alone

exit codes: 0 every process leaves, or with --wait has left cleanly; 1 one does not; 2 the arguments
cannot be used; 3 there is no process that listens, or it cannot be looked for
"""
_SLACK: Final = 5.0
"""Seconds beyond the time that a process announced for its leave."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("--pid", type=int, metavar="PID", help="this process alone; status shows which there are")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until the leave is over; its own deadline, the grace period, bounds it",
    )
    add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Begin the leave."""
    from graceful.processes import Conversation, at_once  # noqa: PLC0415  not for --help
    from graceful.wire import encode_first  # noqa: PLC0415

    request = encode_first("drain", pod=float(options.pid is None))
    deadline = time.monotonic() + options.timeout
    talks = [Conversation(address, request, deadline) for address in _addresses(options.pid)]
    well = at_once(talks, lambda talk: _hold(talk, wait=options.wait))
    if not any(outcome is not None for outcome in well):
        raise _nobody(options.pid)
    return FAIL if False in well else PASS


def _addresses(pid: int | None) -> list[str]:
    from graceful import rendezvous  # noqa: PLC0415  not for --help

    try:
        found = rendezvous.discover(os.environ)
    except OSError as error:
        raise CommandError(f"the processes of this container cannot be looked for: {error}", INCONCLUSIVE) from None
    addresses = [address for address in found if pid in (None, rendezvous.address_pid(address))]
    if not addresses:
        raise _nobody(pid, *map(rendezvous.address_pid, found))
    return addresses


def _nobody(pid: int | None, *found: int) -> CommandError:
    who = "no process of this container listens" if pid is None else f"process {pid} does not listen"
    others = f"; those that do: {', '.join(map(str, found))}" if found else ""
    return CommandError(f"{who}: python -m graceful status shows what there is{others}", INCONCLUSIVE)


def _hold(talk: Conversation, *, wait: bool) -> bool | None:
    """Have one process leave; whether it does, or with `wait` has left cleanly. None for one that is not there."""
    from graceful.asking import ForeignError  # noqa: PLC0415  not for --help
    from graceful.processes import is_there  # noqa: PLC0415
    from graceful.wire import WireError, decode_first  # noqa: PLC0415

    try:
        with closing(talk.lines()) as lines:
            first = next(lines, None)
            if first is None:
                return _failed(talk.pid, "closed the connection before it had answered")
            verb, values = decode_first(first)
            if verb != "leaving":
                return _failed(talk.pid, f"refuses: {_text(lines)}")
            within = values.get("within")
            if within is None or not wait:
                _tell(talk.pid, "leaves" if within is None else f"leaves, and ends within {within:.0f} s")
                return True
            talk.deadline = time.monotonic() + within + _SLACK
            return _listen(talk.pid, lines)
    except ForeignError as error:
        say(f"warning: process {talk.pid} is not asked: {error}")
    except TimeoutError:
        return _failed(talk.pid, "does not answer in time")
    except WireError as error:
        return _failed(talk.pid, f"is not understood: {error}")
    except OSError as error:
        return _failed(talk.pid, f"cannot be asked: {error.strerror}") if is_there(talk.pid) else None
    return None


def _listen(pid: int, lines: Generator[bytes]) -> bool:
    """Print what a process says while it leaves; whether it has left cleanly."""
    from graceful.wire import decode_line  # noqa: PLC0415  not for --help

    for line in lines:
        kind, text = decode_line(line)
        _tell(pid, text)
        if kind != "say":
            return kind == "done"
    return _failed(pid, "ended before it said how its leave went: look at its log")


def _text(lines: Generator[bytes]) -> str:
    from graceful.wire import decode_line  # noqa: PLC0415  not for --help

    line = next(lines, None)
    return "it does not say why" if line is None else decode_line(line)[1]


def _failed(pid: int, text: str) -> bool:
    _tell(pid, text)
    return False


def _tell(pid: int, text: str) -> None:
    # One write: several processes speak at the same time.
    sys.stdout.write(f"[{pid}] {text}\n")
    sys.stdout.flush()
