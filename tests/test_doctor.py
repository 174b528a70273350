"""`doctor`: each check with a good and a bad example, and the command against servers that are well or are not."""

import json
import os
import py_compile
import re
import stat
import sys
import time
import uuid

import pytest

import graceful
from graceful import rendezvous
from graceful.doctor import eureka, gathering, image, pod
from graceful.doctor.findings import Finding, Verdict, worst
from graceful.doctor.image import Bytecode, Module
from graceful.pid_one import Process
from graceful.settings import load_settings
from tests.children import ROOT, child, free_port
from tests.eureka_raw_server import RawServer, answering
from tests.test_docs import fences
from tests.test_status_and_drain import command

OK, WARNING, UNKNOWN, FAIL = Verdict.OK, Verdict.WARNING, Verdict.UNKNOWN, Verdict.FAIL
SHELL = ("/bin/sh", "-c", "python main.py --password s3cret")
BASE = {"GRACEFUL_APP_NAME": "orders", "GRACEFUL_PORT": "8080", "GRACEFUL_IP_ADDR": "10.0.0.7"}


# --- each check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "verdict", "said"),
    [
        (image.check_interpreter((3, 11, 2), "/usr/bin/python3"), OK, "Python 3.11.2 at /usr/bin/python3"),
        (image.check_interpreter((3, 10, 9), "/usr/bin/python3"), FAIL, "expected 3.11"),
        (image.check_module(Module("anyio", "4.11")), OK, "4.11"),
        (image.check_module(Module("anyio", error="ModuleNotFoundError: no")), FAIL, "ModuleNotFoundError"),
        (image.check_hook("python3", 0.2, ""), OK, "in 0.20 s"),
        (image.check_hook("python3", 2.5, ""), WARNING, "in 2.50 s"),
        (image.check_hook("python3", None, "No such file"), FAIL, "No such file"),
        (image.check_bytecode(Bytecode(6)), OK, "6 modules are compiled"),
        (image.check_bytecode(Bytecode(6, missing=("wire",))), WARNING, "1 of the hook's 6 modules"),
        (image.check_bytecode(Bytecode(6, fresh=("wire",))), WARNING, "(wire)"),
        (image.check_pid_one(Process(1, ("python", "main.py"), True, 0)), OK, "python"),
        (image.check_pid_one(Process(1, SHELL, False, 0)), FAIL, "a shell (sh …)"),
        (image.check_pid_one(Process(1, ("busybox", *SHELL), False, 0)), FAIL, "a shell (sh …)"),
        (image.check_pid_one(Process(1, SHELL, True, 0)), OK, "sh"),
        (image.check_pid_one(Process(1, ("-bash",), False, 0)), OK, "bash"),
        (image.check_pid_one(Process(1, ("python",), False), is_self=True), OK, "this command"),
        (image.check_pid_one(None), UNKNOWN, "/proc/1"),
        (image.check_pid_one(Process(1, (), False, 0)), UNKNOWN, "/proc/1"),
        (image.check_user(1000, Process(1, ("python",), True, 1000)), OK, "as PID 1"),
        (image.check_user(0, Process(1, ("python",), True, 1000)), OK, "uid 0"),
        (image.check_user(1001, Process(1, ("python",), True, 1000)), WARNING, "PID 1 has 1000"),
        (image.check_user(1001, Process(1, ("/pause",), True, 65535)), OK, "uid 1001"),
        (image.check_filesystem(read_only=True), OK, "read-only"),
        (image.check_filesystem(read_only=False), OK, "writable"),
        (image.check_proc([]), OK, "readable"),
        (image.check_proc(["/proc/net/unix cannot be read (no)"]), WARNING, "/proc/net/unix"),
        (image.check_socket("@graceful/1/2", ""), OK, "@graceful/1/2"),
        (image.check_socket(None, ""), FAIL, "no abstract sockets"),
        (image.check_socket(None, "/run: Read-only file system"), FAIL, "Read-only"),
        (image.check_processes(2, [], [], []), OK, "2 serving"),
        (image.check_processes(1, [], [7], []), OK, "1 starting or leaving"),
        (image.check_processes(0, [], [7], []), WARNING, "0 serving"),
        (image.check_processes(1, [7], [], []), FAIL, "7 listen for the hook, but do not answer"),
        (image.check_processes(0, [], [], ["process 7 is not trusted"]), FAIL, "process 7"),
        (image.check_processes(0, [], [], []), WARNING, "none listens"),
    ],
)
def test_checks_of_the_image(finding: Finding, verdict: Verdict, said: str) -> None:
    """Good and bad examples; what is not well says what to do, unless nothing can be done."""
    assert finding.verdict is verdict
    assert said in finding.text
    assert "s3cret" not in str(finding)
    assert bool(finding.fix) is (verdict in {WARNING, FAIL})


def test_a_failure_is_worse_than_what_could_not_be_looked_at():
    """Nothing at all is well."""
    findings = [Finding("", verdict, "") for verdict in (WARNING, UNKNOWN, OK)]
    assert worst(findings) is UNKNOWN
    assert worst([*findings, Finding("", FAIL, "")]) is FAIL
    assert worst([]) is OK


@pytest.mark.parametrize(
    ("settings", "verdict", "said"),
    [
        ({"kubernetes": True, "grace_period": 60}, OK, "60s for the plan"),
        ({"kubernetes": True, "grace_period": 20}, FAIL, "is 20s"),
        ({"kubernetes": True, "propagation_delay": 0}, OK, "default of 30s"),
        ({"kubernetes": True}, WARNING, "is not set"),
        ({"kubernetes": False}, OK, "not in Kubernetes"),
    ],
)
def test_grace_period(settings, verdict, said):
    """Without Eureka the plan is 37 s in Kubernetes, and 27 s without the wait."""
    loaded = load_settings(settings)
    finding = pod.check_grace(loaded, loaded.plan(registry=False))
    assert (finding.verdict, said in finding.text) == (verdict, True)
    assert ("GRACEFUL_GRACE_PERIOD to 37" in finding.fix) is (verdict is not OK)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, []),
        ({"GRACEFUL_DRAIN_TIMEOUT": "9", "PATH": "/bin", "GRACEFUL_RUNTIME_DIR": "/run"}, []),
        ({"GRACEFUL_DRAIN_TIMOUT": "9"}, ["did you mean GRACEFUL_DRAIN_TIMEOUT?"]),
        ({"EUREKA_INSTANCE_INSTANCE_ID": "a"}, ["did you mean EUREKA_INSTANCE_INSTANCEID?"]),
        (
            {"GRACEFUL_EUREKA_URL": "http://me:s3cret@a", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://me:s3cret@b"},
            ["EUREKA_CLIENT_SERVICEURL_DEFAULTZONE and GRACEFUL_EUREKA_URL differ"],
        ),
        ({"GRACEFUL_APP_NAME": "a", "OTEL_SERVICE_NAME": "a"}, []),
        ({"GRACEFUL_HOME_PAGE_URL": "http://a/", "EUREKA_INSTANCE_HOMEPAGEURLPATH": "/"}, []),
        ({"GRACEFUL_PORT": "tcp://10.0.0.1:80", "SERVER_PORT": "8080"}, ["enableServiceLinks"]),
    ],
)
def test_variables(environ, said):
    findings = pod.check_variables(environ)
    if not said:
        assert [finding.verdict for finding in findings] == [OK]
        return
    assert [finding.verdict for finding in findings] == [WARNING] * len(said)
    assert all(part in finding.text + finding.fix for part, finding in zip(said, findings, strict=True))
    assert "s3cret" not in str(findings)


def test_agreement(monkeypatch):
    """An argument of install() that the hook does not see."""
    settings = load_settings({"drain_timeout": 30})
    assert [each.verdict for each in pod.check_agreement(settings, {})] == [OK]
    (finding,) = pod.check_agreement(settings, {"GRACEFUL_DRAIN_TIMEOUT": "20"})
    assert (finding.verdict, "drain_timeout=30" in finding.text) == (WARNING, True)


@pytest.mark.parametrize(
    ("seen", "others", "verdict"),
    [
        (eureka.Seen("http://a", 0.1, instance="UP"), False, OK),
        (eureka.Seen("http://a", error="connection refused"), False, FAIL),
        (eureka.Seen("http://a", error="connection refused"), True, WARNING),
        (eureka.Seen("http://a", error="HTTP 401: wrong credentials", status=401), True, FAIL),
        (eureka.Seen("http://a", error="HTTP 404", status=404), True, FAIL),
    ],
)
def test_servers(seen, others, verdict):
    finding = eureka.check_server(seen, others_answer=others)
    assert (finding.verdict, bool(finding.fix)) == (verdict, verdict is not OK)


@pytest.mark.parametrize(
    ("skews", "verdict", "said"),
    [
        ([], UNKNOWN, "no server"),
        ([None], UNKNOWN, "no server"),
        ([0.4], OK, "within"),
        ([-5.9], OK, "within"),
        ([0.4, 3600.0], WARNING, "3600 s ahead of"),
        ([-61.0], WARNING, "61 s behind"),
    ],
)
def test_clock(skews, verdict, said):
    finding = eureka.check_clock([eureka.Seen("http://a", skew=skew) for skew in skews])
    assert (finding.verdict, said in finding.text) == (verdict, True)


# --- what is gathered -------------------------------------------------------------------------------------------------


def test_compiled_files_are_told_from_stale_and_new_ones(tmp_path, monkeypatch):
    """1. None. 2. Made just now. 3. From before. 4. The source has changed since."""
    monkeypatch.setattr(graceful, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(gathering, "_HOOK", ("wire",))
    (tmp_path / "wire.py").write_text("a = 1\n")
    assert gathering.bytecode() == Bytecode(1, missing=("wire",))
    compiled = py_compile.compile(str(tmp_path / "wire.py"), doraise=True)
    assert compiled
    monkeypatch.setattr(rendezvous, "process_age", lambda: 50.0)
    assert gathering.bytecode() == Bytecode(1, fresh=("wire",))
    os.utime(compiled, (1, time.time() - 1000))
    assert gathering.bytecode() == Bytecode(1)
    (tmp_path / "wire.py").write_text("a = 10\n")
    assert gathering.bytecode() == Bytecode(1, missing=("wire",))


def test_the_first_process(tmp_path):
    """Its words, whether it hears SIGTERM, and whose it is; None where it cannot be read."""
    assert gathering.pid_one(tmp_path) is None
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "cmdline").write_bytes(b"sh\0-c\0python main.py\0")
    (tmp_path / "1" / "status").write_text("Name:\tsh\nUid:\t0\t1000\t0\t0\nSigCgt:\t0000000000004000\n")
    assert gathering.pid_one(tmp_path) == Process(1, ("sh", "-c", "python main.py"), True, 1000)
    (tmp_path / "1" / "status").write_text("Uid:\t0\t0\t0\t0\nSigCgt:\t0000000000010002\n")
    assert gathering.pid_one(tmp_path) == Process(1, ("sh", "-c", "python main.py"), False, 0)
    assert gathering.pid_one() is not None


def test_what_cannot_be_read_of_proc(tmp_path):
    assert gathering.unreadable() == []
    assert [problem.split()[0] for problem in gathering.unreadable(tmp_path)] == [
        str(tmp_path / "net" / "unix"),
        str(tmp_path / "self" / "ns" / "mnt"),
    ]


def test_the_socket_is_tried_and_gone(short_path):
    """By name and as a file; in a directory that is not there, or whose name is too long."""
    assert gathering.try_socket({"GRACEFUL_SCOPE": "doctor"})[0]
    for _ in range(2):
        address, error = gathering.try_socket({"GRACEFUL_RUNTIME_DIR": str(short_path)})
        assert (address or "").startswith(str(short_path)), error
        assert list(short_path.iterdir()) == []
    assert "No such file" in gathering.try_socket({"GRACEFUL_RUNTIME_DIR": str(short_path / "no")})[1]
    assert "107" in gathering.try_socket({"GRACEFUL_RUNTIME_DIR": str(short_path / ("x" * 99))})[1]


def test_the_hooks_start(tmp_path, monkeypatch):
    """An interpreter that is there, one that is not, one that never ends, and one without graceful."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    seconds, error = gathering.start_hook(sys.executable, 30)
    assert (seconds is not None and seconds > 0, error) == (True, "")
    assert gathering.start_hook(str(tmp_path / "none"), 30) == (None, "No such file or directory")
    for name, script, said in (
        ("hangs", "exec sleep 30", "has not ended after 0.3 s"),
        ("lacks", "echo No module named graceful >&2; exit 1", "No module named graceful"),
    ):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(stat.S_IRWXU)
        seconds, error = gathering.start_hook(str(path), 0.3 if name == "hangs" else 30)
        assert (seconds, said in error) == (None, True)


def test_modules():
    assert gathering.import_module("anyio", "anyio").version
    assert gathering.import_module("anyio", "no-such-distribution") == Module("anyio")
    assert gathering.import_module("no_such_module", "x").error.startswith("ModuleNotFoundError")


# --- the command ------------------------------------------------------------------------------------------------------


def doctor(*arguments, **env):
    """What it finds about each thing, and its exit code. The interpreter of the tests is the one of the hook."""
    scope = {"GRACEFUL_SCOPE": f"doctor-{uuid.uuid4().hex}"}
    ended = command("doctor", "--python", sys.executable, "-o", "json", *arguments, env=BASE | scope | env)
    assert ended.returncode in {0, 1, 3}, ended.stderr
    assert "s3cret" not in ended.stdout + ended.stderr
    return ended.returncode, {each["check"]: each for each in json.loads(ended.stdout)["findings"]}


def only(findings):
    (found,) = [each for name, each in findings.items() if name.startswith("eureka")]
    return found


def test_a_secured_server_with_its_credentials(eureka_server_basic):
    """It answers, the clock is right, nothing has changed there, and no credentials are shown."""
    code, findings = doctor(GRACEFUL_EUREKA_URL=eureka_server_basic.url)
    found = only(findings)
    assert (found["verdict"], code) == ("ok", 0), findings
    assert "this instance is absent there" in found["text"]
    assert eureka_server_basic.password not in json.dumps(findings)
    if eureka_server_basic.kind == "real":
        assert findings["clock"]["verdict"] == "ok"


@pytest.mark.parametrize(("user", "said"), [("me:s3cret@", "wrong credentials"), ("", "it wants credentials")])
def test_a_secured_server_with_others(eureka_server_basic, user, said):
    url = eureka_server_basic.address.replace("://", f"://{user}")
    code, findings = doctor(GRACEFUL_EUREKA_URL=url)
    assert (code, only(findings)["verdict"]) == (1, "fail")
    assert said in only(findings)["text"]


def hang(_sock, server):
    server.closing.wait()


def test_servers_that_are_no_help():
    """Nobody listens; one hangs; one is something else; and a path that is not Eureka's."""
    hung = RawServer(hang)
    other = RawServer(answering("200 OK", b"<html>", "Date: Mon, 01 Jan 2024 00:00:00 GMT"))
    missing = RawServer(answering("404 Not Found"))
    with hung, other, missing:
        urls = [
            f"http://me:s3cret@127.0.0.1:{port}/eureka" for port in (free_port(), hung.port, other.port, missing.port)
        ]
        began = time.monotonic()
        code, findings = doctor("--timeout", "1", GRACEFUL_EUREKA_URL=",".join(urls))
        assert time.monotonic() - began < 30
    found = [each for name, each in findings.items() if name.startswith("eureka")]
    assert (code, {each["verdict"] for each in found}) == (1, {"fail"})
    for each, said in zip(found, ("refused", "no answer in 1 s", "not Eureka's", "no Eureka under this"), strict=True):
        assert said in each["text"]


def test_a_clock_that_is_wrong():
    """A server with another time, beside one that is down: that is a warning where the other answers."""
    delta = b'{"applications": {"versions__delta": "1"}}'
    date = "Date: Mon, 01 Jan 2024 00:00:00 GMT"

    def behave(sock, server):
        answer = answering("200 OK", delta, date) if b"apps/delta" in server.head_of(sock) else answering("404 None")
        answer(sock, server)

    with RawServer(behave) as behind:
        urls = f"http://127.0.0.1:{behind.port}/eureka,http://127.0.0.1:{free_port()}/eureka"
        code, findings = doctor(GRACEFUL_EUREKA_URL=urls)
    assert code == 0
    assert findings["clock"]["verdict"] == "warning"
    assert " ahead of http://" in findings["clock"]["text"]
    assert sorted(each["verdict"] for name, each in findings.items() if name.startswith("eureka")) == ["ok", "warning"]


def test_settings_and_files_that_cannot_be_used():
    code, findings = doctor(GRACEFUL_PORT="eighty")
    assert (code, findings["settings"]["verdict"]) == (1, "fail")
    code, findings = doctor(GRACEFUL_EUREKA_URL="https://me:s3cret@eureka/eureka", GRACEFUL_EUREKA_CA_FILE="/none.pem")
    assert (code, findings["eureka"]["verdict"]) == (1, "fail")
    assert "/none.pem" in findings["eureka"]["text"]


@pytest.mark.parametrize(("how", "verdict"), [("leave", "ok"), ("deaf", "fail")])
def test_processes_of_the_container(how, verdict):
    """Beside an application that answers, and one that does not."""
    scope = {"GRACEFUL_SCOPE": f"doctor-{uuid.uuid4().hex}"}
    with child("-m", "tests.scenarios.control_app", how, env=scope) as app:
        app.wait_for("listening")
        code, findings = doctor("--timeout", "2", **scope)
    assert (code, findings["processes"]["verdict"]) == (int(verdict == "fail"), verdict)


def test_with_a_module():
    """Its own settings and plan count, and it is only imported."""
    code, findings = doctor("tests.scenarios.service_web", GRACEFUL_GRACE_PERIOD="60")
    assert (code, findings["import tests.scenarios.service_web"]["verdict"]) == (0, "ok")
    code, findings = doctor("no_such_module")
    assert (code, findings["import no_such_module"]["verdict"]) == (1, "fail")


def test_what_the_reference_shows(embedded_eureka):
    """Every thing that is looked at, in that order, and what is said of a service that is well."""
    (shown,) = [
        fence.text
        for fence in fences(ROOT / "docs" / "reference" / "commands.md")
        if fence.marker == "what doctor prints"
    ]
    scope = {"GRACEFUL_SCOPE": f"doctor-{uuid.uuid4().hex}", "GRACEFUL_GRACE_PERIOD": "130"}
    real = command(
        "doctor", "--python", sys.executable, env=BASE | scope | {"GRACEFUL_EUREKA_URL": embedded_eureka.url}
    )
    assert checks(shown) == checks(real.stdout)


def checks(text):
    """The names, without the server's address."""
    return re.findall(r"^(?:ok|warning|unknown|fail) +([^:]+?)(?: http.*)?:", text, re.MULTILINE)
