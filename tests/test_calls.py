"""What came of every call to the registry: entered once for each operation and server, and told in the report."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceful.core.calls import CallJournal
from graceful.core.phases import Phase
from graceful.core.registry import RegistryOutcome, ServerResult
from graceful.core.report import DrainReport

A, B = "http://***@a/eureka", "http://b/eureka"

tries = st.builds(
    ServerResult,
    server=st.sampled_from([A, B]),
    verified=st.booleans(),
    detail=st.sampled_from(["UP", "HTTP 503", "no answer in time"]),
    operation=st.sampled_from(["register", "heartbeat", "withdraw"]),
    seconds=st.integers(0, 8).map(float),
)


@given(st.lists(st.tuples(tries, st.booleans()), max_size=60))
def test_a_life_of_any_length_fits(entered):
    """One entry for each operation on each server, in the order of the first tries; no try and no second is lost."""
    journal = CallJournal()
    for result, cut_off in entered:
        journal.enter(result, cut_off=cut_off)
    told = journal.told
    keys = [(result.operation, result.server) for result, _ in entered]
    assert [(result.operation, result.server) for result in told] == list(dict.fromkeys(keys))
    assert sum(result.tries for result in told) == len(entered)
    assert sum(result.seconds for result in told) == sum(result.seconds for result, _ in entered)


@given(st.lists(st.tuples(tries, st.booleans()), min_size=1, max_size=60))
def test_the_last_answer_counts(entered):
    """A try that was cut off answered nothing: what was known still stands, unless nothing was."""
    journal = CallJournal()
    for result, cut_off in entered:
        journal.enter(result, cut_off=cut_off)
    for told in journal.told:
        own = [each for each in entered if (each[0].operation, each[0].server) == (told.operation, told.server)]
        answered = [result for result, cut_off in own[1:] if not cut_off]
        last = answered[-1] if answered else own[0][0]
        assert (told.verified, told.detail) == (last.verified, last.detail)


def test_a_reader_in_another_thread_has_a_whole():
    """What was told stays as it was."""
    journal = CallJournal()
    journal.enter(ServerResult(A, verified=True, detail="UP", operation="register"))
    told = journal.told
    journal.enter(ServerResult(A, verified=False, detail="HTTP 503", operation="register"))
    assert told[0].detail == "UP"


def report(**changes):
    withdrawn = RegistryOutcome((ServerResult(A, True, "OUT_OF_SERVICE", "withdraw", 0.02),), 1.0)
    return DrainReport(reason="SIGTERM", durations={Phase.LAME_DUCK: 2.0}, withdrawn=withdrawn, **changes)


REGISTERED = ServerResult(A, verified=True, detail="UP", operation="register", seconds=0.0312345, tries=1)
FAILED = ServerResult(B, verified=False, detail="HTTP 503", operation="register", seconds=2.04, tries=4)


def test_the_report_has_them_as_plain_values():
    """Server, operation, outcome, seconds, tries: for JSON and for a log record's extra."""
    told = json.loads(json.dumps(report(calls=(REGISTERED, FAILED)).as_dict()))["calls"]
    expected = {"server": A, "operation": "register", "verified": True, "outcome": "UP", "seconds": 0.031, "tries": 1}
    assert told[0] == expected
    assert told[1] == expected | {
        "server": B, "verified": False, "outcome": "HTTP 503", "seconds": 2.04, "tries": 4
    }  # fmt: skip


def test_a_clean_report_does_not_list_them():
    """A server that was down at the start has nothing to do with how the leave went."""
    clean = report(calls=(REGISTERED, FAILED))
    assert clean.clean
    assert "register" not in str(clean)


def test_an_unclean_report_says_which_failed():
    """Those of the two outcomes are told there, with their effort, and not again."""
    missing = ServerResult(B, verified=False, detail="HTTP 503", operation="withdraw", seconds=4.96, tries=7)
    unclean = DrainReport(
        reason="SIGTERM",
        durations={},
        withdrawn=RegistryOutcome((missing,)),
        calls=(REGISTERED, FAILED, missing),
    )
    text = str(unclean)
    assert f"OUT_OF_SERVICE verified on 0 of 1 servers ({B}: HTTP 503, 7 tries in 5.0s)" in text
    assert f"register {B}: HTTP 503, 4 tries in 2.0s" in text
    assert text.count("HTTP 503") == 2
    assert A not in text


@pytest.mark.parametrize(("tries", "text"), [(1, "a: absent"), (2, "a: absent, 2 tries in 0.5s")])
def test_a_result_says_what_it_took(tries, text):
    """One try is not worth a word."""
    assert str(ServerResult("a", True, "absent", "deregister", 0.5, tries)) == text
