"""Rules about the preStop hook: whether Kubernetes takes it, and whether it can run in the image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from graceful.core.caches import seconds_of
from graceful.kubernetes.lint.rules import Case, Problem, Rule, Severity, container_rule
from graceful.kubernetes.lint.shell import base_name, is_shell

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []

_OUR_HOOK: Final = 'exec: {command: ["python3", "-P", "-m", "graceful.prestop"]}'
_SLEEP_SINCE: Final = (1, 30)
"""The sleep action is beta, and on, since Kubernetes 1.30 (KEP-3960)."""
_ZERO_SLEEP_SINCE: Final = (1, 33)
_WITHOUT_SHELL: Final = re.compile(
    r"distroless|^cgr\.dev/|^scratch$|^gcr\.io/[\w-]+/static|paketobuildpacks/run\S*tiny"
)
_WITH_SHELL: Final = re.compile(r":\S*(debug|dev)")
"""Tags of such images that have a shell after all."""
_BASIC_TOOLS: Final = frozenset({"sleep", "kill", "cat", "touch", "echo", "rm", "test", "true", "date"})
_RARE_TOOLS: Final = frozenset({"curl", "wget", "nc", "ps", "pidof", "pkill", "killall", "pgrep", "jq"})
"""Not in Debian's slim images, nor in `python:…-slim`."""


@container_rule(
    Rule("G201", Severity.ERROR, Severity.ERROR, "A preStop hook has two handlers or none: the API refuses both.")
)
def _not_one_handler(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    if hook is not None and len(hook.handlers) != 1:
        has = " and ".join(hook.handlers) or "none"
        yield Problem(
            hook.value.line,
            f"a hook has exactly one handler, this one has {has}",
            "leave one; in a patch over another kind of hook add $patch: replace",
        )


@container_rule(Rule("G202", Severity.ERROR, Severity.ERROR, "A preStop hook with tcpSocket: it fails when it runs."))
def _tcp_socket(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    if hook is not None and "tcpSocket" in hook.handlers:
        yield Problem(
            hook.value["tcpSocket"].line,
            "tcpSocket is taken for the sake of old manifests, and fails when it runs: SIGTERM comes at once",
            "use exec, httpGet or sleep",
        )


@container_rule(
    Rule("G203", Severity.ERROR, Severity.ERROR, "A sleep hook that `--kubernetes-version` does not know yet.")
)
def _sleep_unknown(case: Case) -> Iterator[Problem]:
    hook, version = case.container.hook, case.kubernetes
    if hook is None or version is None or not hook.value["sleep"]:
        return
    given = ".".join(map(str, version))
    if version < _SLEEP_SINCE:
        why = f"Kubernetes {given} does not have the sleep action, or has it switched off: it is on since 1.30"
    elif hook.value["sleep"]["seconds"].number == 0 and version < _ZERO_SLEEP_SINCE:
        why = f"Kubernetes {given} refuses a sleep of 0 seconds: it may be 0 since 1.33"
    else:
        return
    yield Problem(hook.value["sleep"].line, why, 'use exec: {command: ["sleep", "5"]}, or another hook')


@container_rule(
    Rule("G204", Severity.WARNING, Severity.WARNING, "A hook needs a shell or a tool, and the image has none.")
)
def _no_shell(case: Case) -> Iterator[Problem]:
    hook, image = case.container.hook, case.container.image
    if hook is None or not _WITHOUT_SHELL.search(image) or _WITH_SHELL.search(image):
        return
    name = base_name(hook.command[0]) if hook.command else ""
    if is_shell(name) or name in _BASIC_TOOLS | _RARE_TOOLS:
        yield Problem(
            hook.value.line,
            f"the hook runs {name}, which an image such as {image} does not have: it fails, and SIGTERM comes at once",
            f"have it run what is in the image: {_OUR_HOOK}" if case.is_ours else "use sleep: {seconds: N} or httpGet",
        )


@container_rule(Rule("G205", Severity.NOTE, Severity.NOTE, "A hook needs a tool that slim images do not have."))
def _rare_tool(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    rare = sorted({base_name(command[0]) for command in hook.script if command} & _RARE_TOOLS) if hook else []
    if hook is not None and rare:
        yield Problem(
            hook.value.line,
            f"the hook runs {' and '.join(rare)}, which slim images do not have; where it is missing, the hook fails "
            "and SIGTERM comes at once",
            f"make sure of it: kubectl exec POD -- sh -c 'command -v {' '.join(rare)}'",
        )


@container_rule(Rule("G206", Severity.WARNING, None, "The service has no preStop hook."))
def _no_hook(case: Case) -> Iterator[Problem]:
    if case.container.hook is None and case.pod.serves:
        yield Problem(
            case.container.line,
            "there is no preStop hook: SIGTERM goes to every container at once, and if the service does not answer any "
            "more, nobody takes it out of Eureka",
            f"lifecycle: {{preStop: {{{_OUR_HOOK}}}}}; python -m graceful manifest prints all of it",
        )


@container_rule(Rule("G207", Severity.WARNING, None, "The hook sleeps as well, although the service waits itself."))
def _sleeps_too(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    if hook is not None and hook.is_ours and hook.sleep:
        yield Problem(
            hook.value.line,
            f"the hook sleeps {seconds_of(hook.sleep)} besides running graceful.prestop, which already waits as long "
            "as callers need: that comes on top of the plan",
            f"leave only {_OUR_HOOK}",
        )


@container_rule(Rule("G208", Severity.WARNING, None, "The hook imports from the working directory: `-P` is missing."))
def _without_p(case: Case) -> Iterator[Problem]:
    hook = case.container.hook
    if hook is None or not hook.is_ours or case.container.environ.get("PYTHONSAFEPATH"):
        return
    for command in hook.script:
        options = command[1 : command.index("graceful.prestop")] if "graceful.prestop" in command else ("-P",)
        if not any(re.fullmatch(r"-[A-Za-z]*[PI][A-Za-z]*", option) for option in options):
            yield Problem(
                hook.value.line,
                "without -P the working directory is searched first: a module of yours that is called socket.py, say, "
                "breaks the hook",
                f"{_OUR_HOOK}",
            )
