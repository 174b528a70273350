"""The postStart hook: waits until the service of its container is ready, and UP in Eureka.

    python3 -P -m graceful.poststart [--strict] [--timeout SECONDS]

The kubelet runs it beside the entrypoint, and starts the pod's next container, and the readiness probe, when it has
ended. It asks the processes of its container what they are doing, on the sockets on which they listen for the preStop
hook; it changes nothing.

It runs at the container's CPU limit while the service starts, so it imports as little as the preStop hook does.
"""

from __future__ import annotations

import os
import sys
import time

from graceful import asking, prestop, rendezvous, wire

TYPE_CHECKING = False  # importing typing costs more than this whole module
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["main"]

USAGE = """usage: python3 -P -m graceful.poststart [--strict] [--timeout SECONDS]

Waits until the service in this container is ready, and UP in Eureka where it registers there.

  --strict            exit 1 if it is not, after that time; without it the exit code is 0,
                      because a postStart hook that fails has Kubernetes kill the container
  --timeout SECONDS   how long to wait at most (default: 60)

example, in a container of a pod:
  lifecycle:
    postStart:
      exec: {command: ["python3", "-P", "-m", "graceful.poststart"]}
"""

TIMEOUT = 60.0
LOOK_DELAY = 0.25  # between two looks
ANSWER_TIMEOUT = 1.0  # for one process: a thread of its own answers, whatever the application does


def wait_until_ready(environ: Mapping[str, str], deadline: float) -> str:
    """Wait until the service is ready; return what keeps it from that at the deadline, or nothing.

    Args:
        environ: says where the processes of this container listen.
        deadline: the monotonic instant at which the wait is over.
    """
    while True:
        problem = _look(environ, deadline)
        # A look that has no time left would only find everybody silent.
        if not problem or time.monotonic() + LOOK_DELAY >= deadline:
            return problem
        time.sleep(LOOK_DELAY)


def _look(environ: Mapping[str, str], deadline: float) -> str:
    """Ask every process once; return why the service is not ready."""
    try:
        addresses = rendezvous.discover(environ)
    except OSError as error:
        return f"cannot look for the app: {error}"
    answers = [_ask(address, deadline) for address in addresses]
    if not answers:
        return "no process of this container listens for its hooks: is graceful at work in the app?"
    phases = [answer.get("phase", "silent") for answer in answers]
    if phases.count("serving") < len(phases):
        return f"the service is not ready: it is {', '.join(sorted(set(phases) - {'serving'}))}"
    registered = [answer.get("registered", "") for answer in answers]
    # One of several workers speaks for all of them.
    return "the service is ready, but not UP in Eureka" if "no" in registered and "yes" not in registered else ""


def _ask(address: str, deadline: float) -> dict[str, str]:
    try:
        return asking.ask(address, "status", min(deadline, time.monotonic() + ANSWER_TIMEOUT))
    except (OSError, wire.WireError):
        return {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the hook.

    Args:
        arguments: the command line without the program's name; None for this process's own.

    Returns:
        The exit code: 0, also when the service is not ready, because the kubelet kills the container of a hook that
        fails; with `--strict` 1 then; 2 for arguments that cannot be used.
    """
    started = time.monotonic()
    arguments = sys.argv[1:] if arguments is None else arguments
    if "-h" in arguments or "--help" in arguments:
        os.write(1, USAGE.encode())
        return 0
    try:
        options = prestop.Options(arguments, durations=("--timeout",))
    except prestop.UsageError as error:
        os.write(2, f"graceful.poststart: {error}\n\n{USAGE}".encode("utf-8", "replace"))
        return 2
    say = prestop.Printer()
    try:
        problem = wait_until_ready(os.environ, started + (TIMEOUT if options.timeout is None else options.timeout))
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    elapsed = time.monotonic() - started
    if problem and "KUBERNETES_SERVICE_HOST" in os.environ:
        say.reach_container_log()  # the kubelet shows the output of a hook to nobody
    say(f"{problem or 'the service is ready'}, after {elapsed:.1f} s")
    return 1 if options.strict and problem else 0


if __name__ == "__main__":
    raise SystemExit(main())
