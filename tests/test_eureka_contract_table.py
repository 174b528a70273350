"""The contract on the page and the contract tests agree: a line has tests on both servers, and a test has a line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "embedded-eureka.md"
MODULES = [f"tests/test_eureka_contract{part}.py" for part in ("", "_caches", "_pair")]


def rows() -> dict[str, list[str]]:
    """The lines of the tables on the page that say where they were seen, and the tests they name."""
    lines: dict[str, list[str]] = {}
    within = False
    for line in PAGE.read_text().splitlines():
        within = line.endswith("| Seen on both |") or (within and line.startswith("|"))
        if within and not line.startswith("|---") and not line.endswith("| Seen on both |"):
            *_, before, seen, _ = line.split("|")
            lines[before] = re.findall(r"`([\w:]+)`", seen)
    return lines


@pytest.fixture(scope="module")
def servers_of() -> dict[str, set[str]]:
    """Each contract test, such as `TestCancel::test_it_is_gone_at_once`, and the kinds of server that it runs on."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *MODULES]
    asked = subprocess.run(
        [*command, "-o", "addopts="], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    kinds: dict[str, set[str]] = {}
    for test, parameters in re.findall(r"^tests/\w+\.py::([\w:]+)(?:\[(.*)\])?$", asked.stdout, re.MULTILINE):
        kind = re.match(r"embedded|real", parameters)
        kinds.setdefault(test, set()).add(kind[0] if kind else "neither")
    return kinds


def test_every_contract_test_runs_on_both_servers(servers_of: dict[str, set[str]]) -> None:
    """What only one of them was asked is no contract."""
    assert servers_of
    assert {test: kinds for test, kinds in servers_of.items() if kinds != {"embedded", "real"}} == {}


def test_every_line_names_its_tests(servers_of: dict[str, set[str]]) -> None:
    """A class or a single test, which is there."""
    there = {*servers_of, *(test.partition("::")[0] for test in servers_of)}
    assert rows()
    assert {line: names for line, names in rows().items() if not names or not there.issuperset(names)} == {}


def test_every_contract_test_has_a_line(servers_of: dict[str, set[str]]) -> None:
    """By its own name or that of its class."""
    named = {name for names in rows().values() for name in names}
    assert {test for test in servers_of if not named & {test, test.partition("::")[0]}} == set()
