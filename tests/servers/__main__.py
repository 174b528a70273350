"""`python -m tests.servers [NAME …]`: play the whole matrix, and each server on its own, and write the table's page."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.servers import grpc_rows, rows
from tests.servers.configurations import CONFIGURATIONS, GRPC
from tests.servers.table import Result, write_table

if TYPE_CHECKING:
    from tests.servers.configurations import Configuration

_AT_A_TIME = 4


def result(configuration: Configuration) -> Result:
    """One server alone and with graceful."""
    kind = GRPC.get(configuration.name)
    if kind is None:
        alone = rows.play(configuration, "signal", graceful=False)
        by_signal, by_hook = rows.play(configuration, "signal"), rows.play(configuration, "hook")
    else:
        alone = grpc_rows.play(kind, "signal", graceful=False)
        by_signal, by_hook = grpc_rows.play(kind, "signal"), grpc_rows.play(kind, "hook")
    sys.stderr.write(f"{configuration.name}\n")
    return Result(configuration, alone, by_signal, by_hook)


def main(names: list[str]) -> None:
    chosen = [each for each in CONFIGURATIONS if not names or each.name in names]
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        write_table(list(pool.map(result, chosen)), whole=not names)


if __name__ == "__main__":
    main(sys.argv[1:])
