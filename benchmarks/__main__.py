"""`python -m benchmarks`: run all of them and print the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.comparison import markdown
from benchmarks.drains import drains, drains_markdown
from benchmarks.middleware import compare_middleware, compare_wsgi
from benchmarks.starts import compare_hook, compare_import
from benchmarks.waits import compare_waits
from benchmarks.withdrawal import compare_withdrawal

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOREIGN: Final = ("GRACEFUL_", "EUREKA_", "SPRING_", "OTEL_", "POD_IP", "KUBERNETES_")
"""What a developer's shell may have set must not slow a benchmark down, and still less register it anywhere."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks.

    Args:
        arguments: the command line without the program's name; None for this process's own.
    """
    options = _options(arguments)
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    _tell(f"{options.runs} turns each: the hook's start …")
    comparisons = compare_hook(options.runs)
    _tell("the import …")
    comparisons += compare_import(options.runs)
    _tell("the middleware …")
    comparisons += compare_middleware(options.runs, options.requests)
    comparisons += compare_wsgi(options.runs, options.requests)
    _tell(f"{options.outages} turns with a server that hangs, about 15 s each …")
    comparisons += compare_withdrawal(options.outages)
    _tell("the wait …")
    comparisons += compare_waits(options.leaves)
    _tell(f"drains with {options.in_flight} requests and {options.sockets} WebSockets …")
    drained = drains(options.in_flight, options.sockets)
    if options.output == "json":
        result = {
            "machine": _machine(),
            "runs": options.runs,
            "requests": options.requests,
            "leaves": options.leaves,
            "comparisons": [each.as_dict() for each in comparisons],
            "drains": [each.as_dict() for each in drained],
        }
        print(json.dumps(result, indent=2))
    else:
        counts = f"{options.runs} turns, {options.requests} requests in each, {options.leaves} leaves"
        print(f"{markdown(comparisons)}\n\n{drains_markdown(drained)}\n\n{_machine()}; {counts}.")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what graceful costs, as ratios.")
    parser.add_argument("--runs", type=_count, default=40, help="turns that are counted (default: 40)")
    parser.add_argument("--requests", type=_count, default=500, help="requests in each turn (default: 500)")
    parser.add_argument(
        "--outages", type=_count_or_none, default=3, help="turns with an Eureka server that hangs; 0: none (default: 3)"
    )
    parser.add_argument("--leaves", type=_count, default=50, help="simulated leaves (default: 50)")
    parser.add_argument("--in-flight", type=_count, default=10_000, help="requests that a drain finds (default: 10000)")
    parser.add_argument("--sockets", type=_count, default=1000, help="WebSockets that a drain finds (default: 1000)")
    parser.add_argument("--output", choices=("markdown", "json"), default="markdown", help="default: markdown")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _machine() -> str:
    """What the figures depend on, without a name or a path of this machine."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
