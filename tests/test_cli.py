"""The command line, as a child process: pure YAML, one line for every error, and nothing started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml

import graceful
from graceful.commands import COMMANDS
from graceful.core.names import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parent.parent
EUREKA = {"GRACEFUL_EUREKA_URL": "http://eureka:8761/eureka", "GRACEFUL_PORT": "8080"}
EMPTY: Mapping[str, str] = {}
EMPTY_NOTE = "graceful: warning: eureka_url is not set, so this is the manifest of a service that is not in Eureka; "
INSTALLS = "import graceful\ngraceful.install(app_name='bills')\n"


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that an error is."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("graceful: error: ")
        return line.removeprefix("graceful: error: ")


def command(
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str] = EMPTY,
    options: Sequence[str] = ("-m", "graceful"),
    given: str = "",
) -> Ended:
    """Run `python -m graceful …` in a folder, with an environment of its own."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, *options, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environ},
        input=given,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def write(folder: Path, **modules: str) -> None:
    for name, text in modules.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


# --- what it prints ---------------------------------------------------------------------------------------------------


def test_the_manifest_of_the_example() -> None:
    """The README's command, in the example's folder, with the environment that its pod has."""
    ended = command("manifest", "main", cwd=ROOT / "examples" / "orders", environ=EUREKA)
    assert (ended.code, ended.err) == (0, "")
    pod = yaml.safe_load(ended.out)["spec"]["template"]["spec"]
    # The example's own cleanup callback asks for 5 s, as much as there is for all of them anyway.
    assert pod["terminationGracePeriodSeconds"] == 130
    assert pod["containers"][0]["name"] == "orders"
    assert pod["containers"][0]["env"] == [
        {"name": "GRACEFUL_GRACE_PERIOD", "value": "130"},
        {"name": "GRACEFUL_APP_NAME", "value": "orders"},
        {"name": "GRACEFUL_PORT", "value": "8080"},
        {"name": "GRACEFUL_EUREKA_URL", "value": "http://eureka:8761/eureka"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]


def test_without_a_module_the_environment_gives_the_settings(tmp_path: Path) -> None:
    """Nothing is imported; the options change what they say."""
    options = ("--format", "snippet", "--container", "web", "--python", "/venv/bin/python")
    environ = EUREKA | {"OTEL_SERVICE_NAME": "orders", "GRACEFUL_DRAIN_TIMEOUT": "50s"}
    ended = command("manifest", *options, cwd=tmp_path, environ=environ)
    assert (ended.code, ended.err) == (0, "")
    assert yaml.safe_load(ended.out)["terminationGracePeriodSeconds"] == 160
    assert yaml.safe_load(ended.out)["lifecycle"]["preStop"]["exec"]["command"][0] == "/venv/bin/python"
    assert '# into the container "web":' in ended.out


@pytest.mark.parametrize("name", ["bills.service", "bills.service:app", "bills.service:"])
def test_a_module_in_a_package(tmp_path: Path, name: str) -> None:
    """With or without the application's name, as servers take it."""
    write(tmp_path, bills__service=INSTALLS)
    ended = command("manifest", name, cwd=tmp_path)
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["metadata"]["name"] == "bills"
    assert ended.err.startswith(EMPTY_NOTE)


@pytest.mark.parametrize("name", ["queue", "platform", "email", "signal"])
def test_a_module_named_like_one_of_pythons(tmp_path: Path, name: str) -> None:
    """The application's own is imported, and Python's serves graceful itself."""
    write(tmp_path, **{name: INSTALLS})
    ended = command("manifest", name, cwd=tmp_path)
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["metadata"]["name"] == "bills"


def test_other_files_that_shadow_pythons_do_not_matter(tmp_path: Path) -> None:
    """`-m` puts the working directory first."""
    write(tmp_path, main=INSTALLS, **dict.fromkeys(["socket", "json", "argparse", "typing", "logging"], "raise Exit"))
    assert command("manifest", cwd=tmp_path).code == 0


def test_whatever_the_module_prints_the_output_is_yaml(tmp_path: Path) -> None:
    """Its own prints, those of programs it starts, of threads, at its exit: all to the standard error."""
    write(
        tmp_path,
        main="""
        import atexit, os, subprocess, sys, threading
        print("printed: [")
        sys.stdout.write("unflushed: {")
        os.write(1, b"raw: -\\n")
        subprocess.run(["echo", "child: %"])
        atexit.register(print, "late: &")
        import graceful
        coordinator = graceful.install(app_name="bills")
        sys.__stdout__.write("original: *")
        """,
    )
    ended = command("manifest", "main", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.startswith("apiVersion: apps/v1\nkind: Deployment\n")
    assert ended.out.endswith('"graceful.prestop"]}\n')
    assert yaml.safe_load(ended.out)["kind"] == "Deployment"
    for word in ("printed", "unflushed", "raw", "child", "late", "original"):
        assert f"{word}: " in ended.err


def test_credentials_are_nowhere(tmp_path: Path) -> None:
    """Not in the YAML, not beside it."""
    write(tmp_path, main=INSTALLS)
    ended = command(
        "manifest", "main", cwd=tmp_path, environ=EUREKA | {"GRACEFUL_EUREKA_URL": "http://user:zQ7x@eureka"}
    )
    assert ended.code == 0
    assert "zQ7x" not in ended.out + ended.err
    assert "take it from a Secret" in ended.out


def test_a_grace_period_that_is_too_short_is_no_error(tmp_path: Path) -> None:
    """The number that fits is printed, and what must change with it is said."""
    write(tmp_path, main="import graceful\ngraceful.install(app_name='bills', grace_period=60)\n")
    ended = command("manifest", "main", cwd=tmp_path, environ=EUREKA | {"GRACEFUL_DRAIN_TIMOUT": "9"})
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 130
    unknown, grace = ended.err.splitlines()
    assert unknown.endswith("GRACEFUL_DRAIN_TIMOUT is set but means nothing to graceful; did you mean "
                            "GRACEFUL_DRAIN_TIMEOUT?")  # fmt: skip
    assert grace.startswith("graceful: warning: grace_period is set to 60s, but the plan is announce 5s + ")
    assert grace.endswith("the manifest has 130; leave grace_period out of install(), or it will refuse to start")


# --- what it does not do ----------------------------------------------------------------------------------------------

LOOKS_AROUND = """
    import json, os, pathlib, signal, threading
    import graceful

    coordinator = graceful.install(app_name="bills", port=8080, eureka_url="http://127.0.0.1:9/eureka")

    descriptors = [os.readlink(entry) for entry in pathlib.Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    pathlib.Path("seen.json").write_text(json.dumps({
        "threads": [thread.name for thread in threading.enumerate()],
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)],
        "sockets": [link for link in descriptors if link.startswith("socket:")],
        "listening": [line for line in open("/proc/net/unix") if "graceful/" in line and f"/{os.getpid()}" in line],
    }))
"""


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "for real"])
def test_nothing_is_started(tmp_path: Path, planned: bool) -> None:
    """No thread, no signal handler, no socket; the very same module starts them when it is run."""
    write(tmp_path, main=LOOKS_AROUND)
    options = ("-m", "graceful", "manifest", "main") if planned else ("-c", "import os, main; os._exit(0)")
    assert command(cwd=tmp_path, options=options).code == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    term, interrupt = seen["handlers"]
    assert (len(seen["threads"]) == 1) is planned
    assert (term == "0" or "SIG_DFL" in term) is planned
    assert ("default_int_handler" in interrupt) is planned
    if planned:  # for real they are opened a little later, by the thread
        assert (seen["sockets"], seen["listening"]) == ([], [])


def test_a_thread_of_the_module_does_not_keep_the_command(tmp_path: Path) -> None:
    """A consumer that is started at import runs for ever."""
    write(tmp_path, main=INSTALLS + "import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    ended = command("manifest", "main", cwd=tmp_path)
    assert ended.code == 0
    assert yaml.safe_load(ended.out)["kind"] == "Deployment"


HELPS = "import sys, graceful.cli\ntry: graceful.cli.main()\nfinally: sys.stderr.write(' '.join(sys.modules))"


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_is_quick(tmp_path: Path, name: str | None) -> None:
    """It needs none of what the commands need, and each has examples."""
    words = ["--help"] if name is None else [name, "--help"]
    ended = command(*words, cwd=tmp_path, options=("-c", HELPS))
    assert all(COMMANDS[each][:30] in ended.out for each in COMMANDS if name is None)
    assert f"  python -m graceful {name or 'manifest'} " in ended.out.partition("examples:\n")[2]
    imported = set(ended.err.split())
    commands = {each for each in imported if each.startswith("graceful.commands.")}
    assert commands == (set() if name is None else {f"graceful.commands.{name.replace('-', '_')}"})
    assert not [name for name in imported if name.partition(".")[0] in {"pydantic", "anyio", "asyncio", "logging"}]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import nowhere",
            "module main does not import: ModuleNotFoundError: No module named 'nowhere'; run this with the",
        ),
        ("x = (", "module main does not import: SyntaxError: "),
        (
            "raise ValueError('two\\nlines at http://user:zQ7x@host')",
            "ValueError: two lines at http://***@host; run this",
        ),
        (
            "raise ExceptionGroup('both', [OSError(1)])",
            "module main does not import: ExceptionGroup: both (1 sub-exception)",
        ),
        (
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
            "module main does not import: Odd; run this with",
        ),
        ("raise GeneratorExit", "module main does not import: GeneratorExit; run this with"),
        ("import sys; sys.exit(3)", "module main ends the program when it is imported (exit code 3): put what it runs"),
        ("import sys; sys.exit('http://u:zQ7x@h')", "(exit code 'http://***@h'): put what it runs under `if __name__"),
        ("import graceful", "module main installs nothing: graceful.install() must be called when it is imported"),
        ("import graceful; graceful.install(port='eighty')", "module main: port is 'eighty': expected a whole number"),
        ("import graceful; graceful.install(prot=1)", "install() has no argument 'prot'; did you mean port?"),
        (
            "import graceful; graceful.install(object())",
            "module main: install() wires Starlette, FastAPI, ",
        ),
        (INSTALLS + "graceful.install(app_name='other')", "module main: graceful is installed already, with other"),
    ],
)
def test_a_module_that_does_not_do(tmp_path: Path, source: str, message: str) -> None:
    """Which module, why in one line, and what to do."""
    write(tmp_path, main=source)
    ended = command("manifest", "main", cwd=tmp_path)
    assert ended.code == 1
    assert message in ended.error
    assert "zQ7x" not in ended.error


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "message"),
    [
        (["manifest", "nope"], {}, 1, "there is no module nope in "),
        (["manifest", "nope.main:app"], {}, 1, "there is no module nope.main in "),
        (["manifest", "main.py"], {}, 1, "'main.py' is not the name of a module: expected what stands after `import`"),
        (["manifest", "src/main"], {}, 1, "'src/main' is not the name of a module"),
        (["manifest", ""], {}, 1, "'' is not the name of a module"),
        (["manifest", "..main"], {}, 1, "'..main' is not the name of a module"),
        (["manifest"], {"GRACEFUL_PORT": "eighty"}, 1, "port is 'eighty' (GRACEFUL_PORT): expected a whole number"),
        (["manifest"], {"EUREKA_SERVER_URL": "http://u:zQ7x@e"}, 1, "eureka_url is set, but app_name and port are not"),
        (["manifest", "--container", "A_b"], {}, 1, "container 'A_b' is no name that Kubernetes takes"),
        (["manifest", "--python", ""], {}, 1, "python '' is no command"),
        (["manifest", "--format", "helm"], {}, 2, "argument --format: invalid choice: 'helm'"),
        (["manifest", "main", "--cont", "x"], {}, 2, "unrecognized arguments: --cont x"),
        (["manifest", "main", "other"], {}, 2, "unrecognized arguments: other"),
        (["manifst"], {}, 2, "argument COMMAND: invalid choice: 'manifst'"),
        (["--nope"], {}, 2, "unrecognized arguments: --nope (python -m graceful --help shows what there is)"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: list[str], environ: dict[str, str], code: int, message: str) -> None:
    """One line, and 2 for usage."""
    ended = command(*arguments, cwd=tmp_path, environ=environ)
    assert ended.code == code
    assert ended.error.startswith(message)
    assert "zQ7x" not in ended.error


def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A full disk, a closed descriptor."""
    named = EUREKA | {"GRACEFUL_APP_NAME": "orders"}
    shell = ("-c", "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])")
    run = f"'{sys.executable}' -m graceful manifest"
    full = command(f"{run} >/dev/full", cwd=tmp_path, options=shell, environ=named)
    assert (full.code, full.error.partition(":")[0]) == (
        1,
        "the manifest could not be written (No space left on device)",
    )
    closed = command(f"{run} >&-", cwd=tmp_path, options=shell, environ=named)
    assert (closed.code, closed.error.partition(":")[0]) == (1, "the standard output or the standard error is closed")


def test_without_a_command_there_is_help(tmp_path: Path) -> None:
    """And a version."""
    assert command(cwd=tmp_path) == command("--help", cwd=tmp_path)
    assert command("--version", cwd=tmp_path) == (0, f"graceful {graceful.__version__}\n", "")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b\tc", "a b c"),
        ("\x1b[31mred\x07", "[31mred"),
        ("at http://user:pa@ss@host/x and https://u:p@h", "at http://***@host/x and https://***@h"),
        ("x" * 1000, "x" * 500),
    ],
)
def test_one_line_of_somebody_elses_text(text: str, line: str) -> None:
    """Fit for a terminal, and without credentials."""
    assert one_line(text) == line
