"""The fault matrix: whatever is wrong with Eureka, whenever it begins, the service leaves in order.

Every row is a real process that is told to leave with a request in flight. Several run at a time.
"""

from __future__ import annotations

import base64
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.eureka_bench import GRACE_PERIOD, PASSWORD
from tests.eureka_matrix import NOTHING_TO_DELETE, ROWS, Leave, Row, leave, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "eureka-troubles.md"
AT_A_TIME = 6
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(f"me:{PASSWORD}".encode()).decode())


@pytest.fixture(scope="module")
def leaves(request: pytest.FixtureRequest) -> Iterator[Callable[[Row], Leave]]:
    """What came of a row. All that are to be tested begin with the first, some at a time."""
    chosen: list[Row] = [
        item.callspec.params["row"]  # type: ignore[misc]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "leaves" in item.fixturenames
    ]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running: dict[Row, Future[Leave]] = {row: pool.submit(leave, row) for row in chosen}
        yield lambda row: running[row].result()


@pytest.mark.slow
@pytest.mark.timeout(180)  # of the first, which has the others run beside it on a busy machine
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_leave_in_trouble(leaves: Callable[[Row], Leave], row: Row) -> None:
    """Never UP after OUT_OF_SERVICE, deleted once or not at all, in time, nothing in flight lost, no secret told."""
    it = leaves(row)
    assert it.exit_code == 0, it.written
    assert it.seconds < GRACE_PERIOD, it.written
    assert it.answer == (200, "done"), it.written
    assert it.up_again == [], it.written
    for secret in SECRETS:
        assert secret not in it.written
    if row.way == "status-only":
        assert it.deletions == {}, it.written
        assert row.beyond_reach or set(it.left) <= {"OUT_OF_SERVICE", None}, it.written
    elif not row.beyond_reach:
        assert all(count == 1 for count in it.deletions.values()), it.written
        assert it.deletions or row.fault in NOTHING_TO_DELETE, it.written
        assert it.left == [None, None], it.written


def test_there_are_rows_enough() -> None:
    """Each row once."""
    assert len(set(ROWS)) == len(ROWS) >= 30


def test_the_page_has_the_rows() -> None:
    """What the documentation shows is what is tested."""
    assert table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{table()}"
