"""The whole of it as users start it: real servers and programs, real signals, real requests, real exit codes."""

import http.client
import os
import signal
import subprocess
import sys

import pytest

from tests.children import ROOT, child, free_port, get, until

TERM, INT = signal.SIGTERM, signal.SIGINT
SCENARIOS = "tests.scenarios"
RUNNING = "Uvicorn running on"


def start_web(style="cli", loop="asyncio", lifespan="on", **env):
    """The service of service_web.py; gives its process and its port."""
    port = free_port()
    if style == "cli":
        arguments = ["-m", "uvicorn", f"{SCENARIOS}.service_web:app", f"--port={port}"]
        arguments += [f"--loop={loop}", f"--lifespan={lifespan}"]
    else:
        module = "service_string" if style.endswith("string") else "service_web"
        arguments = ["-m", f"{SCENARIOS}.{module}", style, loop, lifespan, str(port)]
    defaults = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": "1.5",
        "GRACEFUL_SCOPE": f"test-{os.getpid()}-{port}",
    }
    return child(*arguments, env=defaults | env), port


@pytest.mark.parametrize(
    ("style", "loop", "lifespan", "signum"),
    [
        ("cli", "asyncio", "on", TERM),
        ("cli", "uvloop", "off", TERM),
        ("cli", "uvloop", "on", INT),
        ("run-object", "uvloop", "on", TERM),
        ("run-string", "asyncio", "on", TERM),
        ("server-object", "asyncio", "off", TERM),
        ("server-string", "uvloop", "on", TERM),
        ("server-string", "asyncio", "off", INT),
        ("serve", "asyncio", "on", TERM),
        ("serve", "asyncio", "off", INT),
    ],
)
def test_uvicorn_leaves_in_order(style, loop, lifespan, signum):
    """It serves through the lame duck, cleans up to the end, then tears down, and exits with 0."""
    starting, port = start_web(style, loop, lifespan)
    with starting as service:
        service.wait_for("ready: serving")
        assert get(port) == (200, "", '"hello"')
        assert get(port, "/readyz")[0] == 200
        service.signal(signum)
        service.wait_for("leaving because of")
        if signum == TERM:
            assert get(port) == (200, "close", '"hello"')
            assert get(port, "/readyz") == (503, "close", "not ready: lame_duck\n")
            assert get(port, "/livez")[0] == 200
        assert service.exit_code() == 0, service.text
        teardown = ["teardown"] if lifespan == "on" else []
        assert service.in_order("drain", "cleanup begins", "cleanup ends", "left cleanly", "Shutting down", *teardown)
        assert "Traceback" not in service.text


def test_a_request_that_is_in_flight_when_the_drain_begins_is_finished_and_a_new_one_is_refused():
    """1. A request takes three seconds. 2. The wait is over. 3. A new one gets 503. 4. The slow one is answered."""
    starting, port = start_web(GRACEFUL_PROPAGATION_DELAY="0.5")
    with starting as service:
        service.wait_for("ready: serving")
        slow = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.fetch", str(port), "/slow?seconds=3"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        service.wait_for("slow began")
        service.signal(TERM)
        service.wait_for("phase draining")
        assert get(port) == (503, "close", "this instance is shutting down\n")
        output, _ = slow.communicate(timeout=40)
        assert output == '200 close "done"\n'
        assert service.exit_code() == 0, service.text


def test_who_called_late_is_told():
    """1. It leaves. 2. A caller is served, later refused. 3. One line says who, what and when, and what to set."""
    starting, port = start_web(GRACEFUL_PROPAGATION_DELAY="2.5")
    with starting as service:
        service.wait_for("ready: serving")
        assert get(port, "/before")[0] == 404
        slow = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.fetch", str(port), "/slow?seconds=6"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        service.wait_for("slow began")
        service.signal(TERM)
        service.wait_for("leaving because of")
        assert get(port, "/readyz")[0] == 503
        assert get_as(b"Java/17 (not shown)", port, "/first?token=abc") == 404
        service.wait_for("phase draining")
        assert get_as(b"Java/17 (not shown)", port, "/orders?token=abc") == 503
        assert slow.wait(40) == 0
        assert service.exit_code() == 0, service.text
        line = service.wait_for("last late request .*").group()
        assert "after the leave began, from 127.0.0.1 (Java/17): GET /orders (refused); 2 late requests" in line
        assert "1 refused; your wait is 2.5 s, too short: raise propagation_delay to at least " in line
        assert "WARNING graceful.coordinator last late request" in service.text
        # uvicorn's own access log has the query; ours has not.
        assert not [each for each in service.text.splitlines() if "graceful." in each and "token" in each]


def get_as(agent, port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
    try:
        connection.request("GET", path, headers={"User-Agent": agent})
        return connection.getresponse().status
    finally:
        connection.close()


def test_by_hook_and_sigterm():
    """The hook has the app leave, waits until nobody calls any more, prints what happened; SIGTERM begins the drain."""
    starting, port = start_web()
    with starting as service:
        service.wait_for("ready: serving")
        scope = f"test-{os.getpid()}-{port}"
        hook = subprocess.run(
            [sys.executable, "-P", "-m", "graceful.prestop", "--strict"],
            env=os.environ | {"GRACEFUL_SCOPE": scope, "PYTHONPATH": str(ROOT), "GRACEFUL_GRACE_PERIOD": "60"},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert hook.returncode == 0, hook.stdout + hook.stderr
        assert "the wait is over" in hook.stdout
        assert get(port) == (200, "close", '"hello"')
        assert "draining" not in service.text
        service.signal(TERM)
        assert service.exit_code() == 0, service.text
        assert service.in_order("leaving because of the preStop hook", "phase draining", "cleanup ends", "teardown")


@pytest.mark.parametrize(
    ("kind", "signum"),
    [
        ("asyncio", TERM),
        ("asyncio", INT),
        ("threads", TERM),
        ("threads", INT),
        ("trio", TERM),
        ("returns", TERM),
        ("workers", TERM),
    ],
)
def test_a_program_that_nobody_manages_leaves_in_order(kind, signum):
    """It stops fetching, finishes the job in hand, cleans up to the end, and exits with 0."""
    with child("-m", f"{SCENARIOS}.service_program", kind, env={"GRACEFUL_SCOPE": f"test-{os.getpid()}"}) as program:
        program.wait_for("ready: serving")
        program.wait_for("job begins")
        program.signal(signum)
        assert program.exit_code() == 0, program.text
        assert program.in_order(
            "leaving because of", "phase draining", "cleanup begins", "cleanup ends", "left cleanly"
        )
        assert program.text.count("job begins") == program.text.count("job ends")
        assert "Traceback" not in program.text


def test_a_server_that_runs_its_loop_twice_is_ready_once_its_signals_are_held():
    port = free_port()
    env = {"GRACEFUL_SCOPE": f"two-runs-{port}"}
    with child("-m", "tests.scenarios.service_two_runs", str(port), env=env) as program:
        assert program.exit_code() == 0
    assert program.in_order("prepares", "serving", "ready: serving", "SIGTERM", "phase draining", "server is told")


def test_a_program_that_ends_by_itself_cleans_up():
    """Nobody told it to leave: its cleanup callbacks run all the same, before the interpreter ends."""
    with child("-m", f"{SCENARIOS}.service_program", "ends", env={"GRACEFUL_SCOPE": f"test-{os.getpid()}"}) as program:
        assert program.exit_code() == 0, program.text
        assert program.in_order("ready: serving", "leaving because", "cleanup begins", "cleanup ends", "left cleanly")
        assert "Traceback" not in program.text


def test_a_program_that_only_imports_the_application_ends_as_ever():
    """A migration, a shell: no callback runs, nothing is waited for."""
    code = "import tests.scenarios.service_web"
    with child("-c", code, env={"GRACEFUL_SCOPE": f"test-{os.getpid()}"}) as program:
        assert program.exit_code() == 0, program.text
        assert program.text == ""


def test_a_blocked_application_loop_does_not_keep_the_process_beyond_its_deadline():
    """1. A handler blocks the loop for ever. 2. SIGTERM. 3. The report names it; the process ends itself with 1."""
    starting, port = start_web(
        GRACEFUL_PROPAGATION_DELAY="0",
        GRACEFUL_DRAIN_TIMEOUT="1",
        GRACEFUL_CLEANUP_TIMEOUT="1",
        GRACEFUL_GRACE_PERIOD="9",
    )
    with starting as service:
        service.wait_for("ready: serving")
        caller = subprocess.Popen([sys.executable, "-m", "tests.scenarios.fetch", str(port), "/block"], cwd=ROOT)
        try:
            service.wait_for("blocked")
            service.signal(TERM)
            assert service.exit_code() == 1
            assert "GET /block" in service.text
            assert "cleanup timed out" in service.text
            assert "the deadline was there" in service.text
        finally:
            caller.kill()
            caller.wait()


def test_a_second_interrupt_forces():
    """The person insists while a request hangs: exit 1 at once, with the report."""
    starting, port = start_web(GRACEFUL_DRAIN_TIMEOUT="500")
    with starting as service:
        service.wait_for("ready: serving")
        caller = subprocess.Popen(
            [sys.executable, "-m", "tests.scenarios.fetch", str(port), "/slow?seconds=400"], cwd=ROOT
        )
        try:
            service.wait_for("slow began")
            service.signal(INT)
            service.wait_for("phase draining")
            # Until the debounce is over the second one counts for the first.
            until(lambda: service.signal(INT) or service.process.poll() is not None, "the process has ended")
            assert service.exit_code() == 1
            assert "a second SIGINT forced it" in service.text
            assert "GET /slow" in service.text
        finally:
            caller.kill()
            caller.wait()


def test_a_process_that_forks_before_its_application_starts_serves_and_leaves_in_order():
    """1. It stands back while it forks, as a parent of workers does. 2. It serves itself: everything begins again."""
    code = (
        "import os, time, uvicorn\n"
        "from tests.scenarios.service_web import app, coordinator\n"
        "while coordinator._changes._event is None: time.sleep(0.01)\n"
        "child = os.fork()\n"
        "if not child: os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "uvicorn.run(app, port=int(os.environ['GRACEFUL_PORT']))\n"
    )
    port = free_port()
    env = {
        "GRACEFUL_PORT": str(port),
        "GRACEFUL_PROPAGATION_DELAY": "0",
        "GRACEFUL_SCOPE": f"test-{os.getpid()}-{port}",
    }
    with child("-c", code, env=env) as service:
        service.wait_for("ready: serving")
        service.signal(TERM)
        assert service.exit_code() == 0, service.text
        assert service.in_order("leaving because of SIGTERM", "cleanup ends", "left cleanly", "teardown")
        assert "Traceback" not in service.text
