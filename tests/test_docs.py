"""What the README and the documentation show is what happens: snippets run, and outputs are compared with real ones.

A page's fences, with the comment before them where there is one:

- a Python fence with a `title` is a file, which is run; one without continues the one before it
- a title that begins with `test_` is run by pytest
- `<!-- runs until SIGTERM -->`: the file is run for real, sent SIGTERM once it serves, and has to exit with 0
- `<!-- output of: COMMAND -->`: the text of the fence is what the command prints, beside the page's files
- `<!-- not run: REASON -->`: a fragment that cannot run

`python -m tests.test_docs` writes the real outputs into the pages.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

import graceful
from graceful import Settings
from graceful.commands import COMMANDS
from graceful.instance_settings import InstanceSettings
from graceful.wire import env_names
from tests.eureka_servers import free_port, start_embedded_eureka

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TIMEOUT = 50
FENCE = re.compile(
    r"(?:^<!-- (?P<marker>[^>]*) -->\n)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
OUTPUT_OF = "output of: "
UNTIL_SIGTERM = "runs until SIGTERM"
NOT_RUN = "not run: "
# Somebody's own settings would change what is shown.
NOT_INHERITED = ("GRACEFUL_", "EUREKA_", "SPRING_", "OTEL_", "POD_IP", "KUBERNETES_", "PYTEST_", "UVICORN_")
# The log shows when the program serves.
RUN_WITH_LOG = (
    "import logging, runpy, sys; logging.basicConfig(level='INFO'); runpy.run_path(sys.argv[1], None, '__main__')"
)


@dataclass
class Fence:
    """One code fence: its comment, what it is, and its text."""

    marker: str
    language: str
    title: str
    text: str


@dataclass
class Program:
    """Python fences that make one file."""

    name: str
    marker: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [
        Fence(**{name: text or "" for name, text in match.groupdict().items()})
        for match in FENCE.finditer(page.read_text())
    ]


def programs(page: Path) -> list[Program]:
    made: list[Program] = []
    for fence in fences(page):
        if fence.language != "python" or fence.marker.startswith(NOT_RUN):
            continue
        if fence.title or not made:
            made.append(Program(fence.title or "snippet.py", fence.marker, fence.text))
        else:
            made[-1].text += "\n\n" + fence.text
    return made


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return inherited | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | extra


def run(command: list[str], directory: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env=environment(**extra),
        timeout=TIMEOUT,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@contextmanager
def started(command: list[str], directory: Path, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, its output in a file; end it at the latest at the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment(**extra), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has written `text`; the test's own time limit ends a wait that is in vain."""
    while text not in log.read_text():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        assert text in log.read_text(), f"ended with {process.returncode}:\n{log.read_text()}"


def write_files(page: Path, directory: Path) -> None:
    for program in programs(page):
        (directory / program.name).write_text(program.text)


def output_of(command: str, directory: Path) -> str:
    words = shlex.split(command)
    assert words[0] == "python", f"only Python's own commands are run here, not {words[0]}"
    done = run([sys.executable, *words[1:]], directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


PROGRAMS = [
    pytest.param(page, program, id=f"{page_name(page)}:{program.name}") for page in PAGES for program in programs(page)
]
OUTPUTS = [
    pytest.param(page, fence, id=f"{page_name(page)}:{fence.marker.removeprefix(OUTPUT_OF)}")
    for page in PAGES
    for fence in fences(page)
    if fence.marker.startswith(OUTPUT_OF)
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_python_snippets_run(page: Path, program: Program, tmp_path: Path) -> None:
    """Every Python snippet runs to its end as it stands."""
    write_files(page, tmp_path)
    if program.marker == UNTIL_SIGTERM:
        runs_until_sigterm(program, tmp_path)
        return
    if program.name.startswith("test_"):
        done = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", program.name], tmp_path)
    else:
        # Inert: an address in a snippet must not be called.
        done = run([sys.executable, program.name], tmp_path, GRACEFUL_ENABLED="false")
    assert done.returncode == 0, done.stdout + done.stderr


def runs_until_sigterm(program: Program, directory: Path) -> None:
    log = directory / "log"
    command = [sys.executable, "-c", RUN_WITH_LOG, program.name]
    with started(command, directory, log, GRACEFUL_SCOPE=str(directory)) as process:
        wait_for("ready: serving", log, process)
        process.terminate()
        assert process.wait(TIMEOUT) == 0, log.read_text()
    assert "left cleanly after SIGTERM" in log.read_text()
    assert "connection closed" in log.read_text()


@pytest.mark.parametrize(("page", "fence"), OUTPUTS)
def test_outputs_are_the_real_ones(page: Path, fence: Fence, tmp_path: Path) -> None:
    """What a page shows as a command's output is what the command prints."""
    write_files(page, tmp_path)
    assert fence.text == output_of(fence.marker.removeprefix(OUTPUT_OF), tmp_path)


def test_the_tutorial_happens_as_told(tmp_path: Path) -> None:
    """The tutorial's service, its hook and its SIGTERM write the lines that the tutorial shows, in that order."""
    page = ROOT / "docs" / "tutorial.md"
    write_files(page, tmp_path)
    port, scope, log = free_port(), str(tmp_path), tmp_path / "log"
    with start_embedded_eureka() as eureka:
        settings = {
            "GRACEFUL_EUREKA_URL": eureka.url,
            "GRACEFUL_PORT": str(port),
            "GRACEFUL_PROPAGATION_DELAY": "5",
            "GRACEFUL_SCOPE": scope,
        }
        server = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port)]
        with started(server, tmp_path, log, **settings) as process:
            wait_for("is UP on", log, process)
            hook = run([sys.executable, "-P", "-m", "graceful.prestop"], tmp_path, GRACEFUL_SCOPE=scope)
            process.terminate()
            assert process.wait(TIMEOUT) == 0, log.read_text()
    in_order(shown(page, "output of the hook"), hook.stdout)
    in_order(shown(page, "log of the service"), log.read_text())
    assert "left cleanly after the preStop hook" in log.read_text()


def shown(page: Path, marker: str) -> list[str]:
    return [fence.text for fence in fences(page) if fence.marker == marker]


def in_order(told: list[str], real: str) -> None:
    assert told
    lines = iter(real.splitlines())
    for line in "".join(told).splitlines():
        assert line in lines, f"{line!r} is not in, or not in this order:\n{real}"


def test_settings_reference_names_every_setting() -> None:
    """The settings reference has every field of Settings, with its variables, a default and what it is for."""
    reference = runpy.run_path(str(ROOT / "docs" / "settings_table.py"))
    text = reference["settings_as_markdown"]()
    entries = dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=^###|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(entries) == list(Settings.model_fields)
    for name, entry in entries.items():
        description, _, facts = entry.partition("\n\n")
        assert len(description) > 20, name
        assert "- Default: " in facts
        assert re.findall(r"`([A-Z_]+)`", facts) == list(env_names(name))
    assert "- Default: 20 s\n" in entries["drain_timeout"]
    assert "- Default: `0.001`\n" in entries["early_end_risk"]
    assert reference["MARKER"] in (ROOT / "docs" / "reference" / "settings.md").read_text()


def test_the_table_of_springs_names_is_whole() -> None:
    """Every variable that a setting of the instance has besides its own, in the order in which they are read."""
    text = (ROOT / "docs" / "how-to" / "instance.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    for name in InstanceSettings.model_fields:
        if others := env_names(name)[1:]:
            assert re.findall(r"`([A-Z_]+)`", rows[name]) == list(others)
    assert rows.keys() - {"metadata", "eureka_url"} == {
        name for name in InstanceSettings.model_fields if env_names(name)[1:]
    }


def test_api_reference_has_every_public_name() -> None:
    """Every public name of the package has its place in the reference."""
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert {f"graceful.{name}" for name in graceful.__all__} <= set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    "command",
    [
        *("graceful", *(f"graceful {name}" for name in COMMANDS)),
        "graceful.rehearsal.demo",
        "graceful.prestop",
        "graceful.poststart",
    ],
)
def test_command_reference_names_every_option(command: str, tmp_path: Path) -> None:
    """The command reference names every option that a command's help has."""
    # The examples may have other programs' options.
    told, _, _ = output_of(f"python -m {command} --help", tmp_path).partition("examples:")
    options = set(re.findall(r"--[a-z]+", told))
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert options <= set(re.findall(r"--[a-z]+", text)) | {"--help"}


def test_readme_leads_somewhere() -> None:
    """The README's links and make's targets exist."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"^make .*|`make [a-z]+`", text, re.MULTILINE)))
    assert {"demo", "test"} <= set(targets)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def write_outputs() -> None:
    """Put the real outputs into the pages."""
    for page in PAGES:
        text = page.read_text()
        with TemporaryDirectory() as directory:
            write_files(page, Path(directory))
            for fence in fences(page):
                if fence.marker.startswith(OUTPUT_OF):
                    head = f"<!-- {fence.marker} -->\n```{fence.language}\n"
                    real = output_of(fence.marker.removeprefix(OUTPUT_OF), Path(directory))
                    text = text.replace(head + fence.text, head + real, 1)
        if text != page.read_text():
            page.write_text(text)
            print(f"written: {page_name(page)}")


if __name__ == "__main__":
    write_outputs()
