"""The preStop hook: has every process of its container leave, and waits until they may be stopped.

    python3 -P -m graceful.prestop [--strict] [--grace SECONDS] [--timeout SECONDS]

The kubelet runs it before it sends SIGTERM. It asks all processes that listen in its container (`graceful.rendezvous`)
to leave at the same time, prints what they say, and ends when all have answered, or before its budget is used up. It
never signals them. If none answers, it withdraws the instance itself (`graceful.prestop_eureka`).

It runs at the container's CPU limit, where importing argparse takes longer than all of this. So it imports a handful of
light modules of the standard library, and works by hand what is usually left to heavier ones.
"""

from __future__ import annotations

import os
import select
import sys
import time

from graceful import prestop_talk, rendezvous, wire

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Options", "Printer", "UsageError", "hook_budget", "main"]

USAGE = """usage: python3 -P -m graceful.prestop [--strict] [--grace SECONDS] [--timeout SECONDS]

Has every process of this container leave, and waits until they may be stopped.

  --strict            exit 1 unless every process has left cleanly; without it the exit code is 0,
                      because a hook that fails makes the kubelet send SIGTERM at once
  --grace SECONDS     the pod's terminationGracePeriodSeconds (default: GRACEFUL_GRACE_PERIOD)
  --timeout SECONDS   end after this long at most (default: a little before the grace period ends)
"""

RESERVE = 2.0  # of the grace period; a tenth where that is less
BUDGET_LIMIT = 3600.0  # whatever anybody says
CONTAINER_LOG = "/proc/1/fd/1"


class UsageError(Exception):
    """An argument that cannot be used."""


class Options:
    """What the command line says; seconds, None where nothing was said.

    Args:
        arguments: the command line.
        durations: the options that take seconds.
    """

    __slots__ = ("grace", "strict", "timeout")

    def __init__(self, arguments: Sequence[str], durations: Sequence[str] = ("--grace", "--timeout")) -> None:
        self.strict = False
        self.grace: float | None = None
        self.timeout: float | None = None
        rest = list(arguments)
        while rest:
            name, equals, value = rest.pop(0).partition("=")
            if name == "--strict" and not equals:
                self.strict = True
            elif name in durations:
                if not equals and not rest:
                    raise UsageError(f"{name} needs a number of seconds")
                try:
                    setattr(self, name[2:], wire.parse_duration(value if equals else rest.pop(0)))
                except ValueError as error:
                    raise UsageError(f"{name}: {error}") from None
            else:
                raise UsageError(f"unknown argument {name}{equals}{value}")


class Printer:
    """Writes lines to standard output, and never waits for whoever should read them."""

    __slots__ = ("_container_log", "_lines")

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._container_log: int | None = None

    def __call__(self, text: str) -> None:
        """Print one line."""
        line = text.encode("utf-8", "replace")[: wire.LINE_LIMIT - 1] + b"\n"
        _write(1, line)
        if self._container_log is None:
            self._lines = [*self._lines[-100:], line]
        else:
            _write(self._container_log, line)

    def reach_container_log(self) -> None:
        """Write every line to the standard output of PID 1 as well, those so far included.

        The kubelet drops a hook's output. Where an app answers, it logs the lines; where none does, this is the only
        way to the user. It works for root and for PID 1's own uid; where it does not, nothing is lost.
        """
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            self._container_log = os.open(CONTAINER_LOG, flags)
        except OSError:
            return
        for line in self._lines:
            _write(self._container_log, line)


def _write(descriptor: int, line: bytes) -> None:
    """Write a line unless that would block: nobody reads a hook's output, and a full pipe must not stop it."""
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        if poller.poll(0):
            os.write(descriptor, line)
    except OSError:
        pass  # closed by whoever should read it


def _leave(options: Options, started: float, environ: Mapping[str, str], say: Printer) -> bool:
    """Have every process leave; return whether all of them did, cleanly."""
    grace = options.grace if options.grace is not None else _grace_period(environ, say)
    budget = hook_budget(grace) if options.timeout is None else min(options.timeout, BUDGET_LIMIT)
    conversation = prestop_talk.Conversation(started, started + budget, grace, say)
    conversation.hold(environ)
    if conversation.answered:
        conversation.give_up()
    else:
        say(_nobody(len(conversation.peers)))
        _leave_without_app(environ, grace, started, started + budget, say)
    return conversation.clean


def hook_budget(grace: float | None) -> float:
    """Return the seconds after which a hook ends, a little before a grace period of so many seconds does."""
    return BUDGET_LIMIT if grace is None else min(grace - min(RESERVE, grace / 10), BUDGET_LIMIT)


def _nobody(found: int) -> str:
    if found:
        return f"of {found} processes that listen for the hook in this container none leaves on its word"
    return "no process of this container listens for the hook: is graceful at work in the app?"


def _leave_without_app(
    environ: Mapping[str, str], grace: float | None, started: float, deadline: float, say: Printer
) -> None:
    """Withdraw the instance without the app's help."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        say.reach_container_log()
    from graceful import prestop_eureka  # noqa: PLC0415  as heavy as all the rest together, and seldom needed

    prestop_eureka.withdraw_and_wait(environ, grace=grace, started=started, deadline=deadline, say=say)


def _grace_period(environ: Mapping[str, str], say: Printer) -> float | None:
    try:
        return wire.env_duration("grace_period", environ)
    except ValueError as error:
        say(f"GRACEFUL_GRACE_PERIOD is not used: {error}")
        return None


def main(arguments: Sequence[str] | None = None, *, started: float | None = None) -> int:
    """Run the hook.

    Args:
        arguments: the command line without the program's name; None for this process's own.
        started: the monotonic instant at which the hook started; None for now.

    Returns:
        The exit code: 0, also when something went wrong, because the kubelet answers a failing hook with SIGTERM at
        once; with `--strict` 1 then; 2 for arguments that cannot be used.
    """
    started = time.monotonic() if started is None else started
    arguments = sys.argv[1:] if arguments is None else arguments
    if "-h" in arguments or "--help" in arguments:
        _write(1, USAGE.encode())
        return 0
    try:
        options = Options(arguments)
    except UsageError as error:
        _write(2, f"graceful.prestop: {error}\n\n{USAGE}".encode("utf-8", "replace"))
        return 2
    say = Printer()
    try:
        clean = _leave(options, started, os.environ, say)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception as error:  # noqa: BLE001  one line is more use than a traceback that nobody sees
        say(f"the hook failed: {type(error).__name__}: {error}")
        clean = False
    return 1 if options.strict and not clean else 0


if __name__ == "__main__":
    raise SystemExit(main(started=time.monotonic() - rendezvous.process_age()))
