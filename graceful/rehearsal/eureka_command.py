"""The command `python -m graceful.rehearsal.eureka`: one embedded Eureka, or several that replicate, in one process."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

from graceful.rehearsal.eureka import EVICTION_INTERVAL, EmbeddedEureka
from graceful.rehearsal.eureka_cluster import EmbeddedEurekaCluster

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an embedded Eureka, or several that replicate to each other, until SIGTERM or SIGINT.

    The URL of every node is printed, a line each, as soon as all of them accept connections; the exit code is 0. Each
    node is steered on its own port: `POST /_faults` (the fields of [`Fault`][graceful.rehearsal.eureka_faults.Fault] as
    JSON), `DELETE /_faults`, `GET /_requests?method=&path=` and `DELETE /_requests`.

    Args:
        arguments: of the command line; None for those of this process.

    Raises:
        SystemExit: with code 2 and a line on stderr, when an argument is wrong or the port is taken.
    """
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    # Blocked before any thread starts, so that the signals wait for sigwait instead of hitting a thread.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        servers = _servers(**options)
        with servers:
            print(*_addresses(servers), sep="\n", flush=True)  # noqa: T201 - whoever started this reads the URLs here
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
    except (ValueError, OverflowError, OSError) as error:
        parser.error(str(error))
    return 0


def _servers(nodes: int, replication_delay: float, **options: Any) -> EmbeddedEureka | EmbeddedEurekaCluster:
    if nodes == 1:
        return EmbeddedEureka(**options)
    return EmbeddedEurekaCluster(nodes=nodes, replication_delay=replication_delay, **options)


def _addresses(servers: EmbeddedEureka | EmbeddedEurekaCluster) -> list[str]:
    nodes = (servers,) if isinstance(servers, EmbeddedEureka) else servers.nodes
    return [node.address for node in nodes]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m graceful.rehearsal.eureka",
        description="Run an embedded Eureka, or several that replicate to each other, until SIGTERM or SIGINT.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8761, help="port to listen on, of the first node; 0 for free ones (%(default)s)"
    )
    parser.add_argument("--nodes", type=int, default=1, help="how many servers, on consecutive ports (%(default)s)")
    parser.add_argument(
        "--replication-delay", type=float, default=0.1, help="seconds from one node to the others (%(default)s)"
    )
    parser.add_argument(
        "--cache-interval", type=float, default=30.0, help="seconds between cache refreshes, 0 for none (%(default)s)"
    )
    parser.add_argument(
        "--eviction-interval", type=float, default=EVICTION_INTERVAL, help="seconds between evictions (%(default)s)"
    )
    parser.add_argument("--user", help="ask for basic auth with this user")
    parser.add_argument("--password", help="and this password")
    parser.add_argument("--csrf", action="store_true", help="refuse every change, as CSRF protection left on does")
    return parser
