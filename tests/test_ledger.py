"""The late-caller ledger: bounded whatever comes, exact in its totals and its last request, honest in its advice."""

import json
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graceful.core.budget import Plan
from graceful.core.ledger import LateLedger, LateRequest, LateRequests, advise, name_caller, name_route

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "late-callers.md"
DAY = 86_400.0
PLAN = Plan(announce=5, propagation=20, drain=20, cleanup=5, deregister=3, margin=2)


def test_a_caller_is_its_address_and_its_first_product():
    """Comments and further products say nothing that helps to find the caller."""
    assert name_caller("10.0.3.7", b"Java/17") == "10.0.3.7 (Java/17)"
    assert name_caller("10.0.3.7", b"Apache-HttpClient/5.3 (Java/17.0.9) secret") == "10.0.3.7 (Apache-HttpClient/5.3)"
    assert name_caller("2001:db8::1", b"curl") == "2001:db8::1 (curl)"
    assert name_caller("10.0.3.7", b"(nothing but a comment)") == "10.0.3.7"
    assert name_caller("10.0.3.7", b"Java\x1b[31m/17") == "10.0.3.7 (Java)"
    assert name_caller("10.0.3.7") == "10.0.3.7"
    assert name_caller(None) == "unknown address"


def test_a_route_is_its_method_and_path():
    """Nothing that could be a query, also where the caller has escaped its question mark."""
    assert name_route("GET", "/orders/7") == "GET /orders/7"
    assert name_route("GET", "/orders?token=abc") == "GET /orders"
    assert name_route("GET", "/a\r\nERROR forged\x1b") == "GET /a\ufffd\ufffdERROR forged\ufffd"


@given(address=st.text() | st.none(), agent=st.binary(), method=st.text(max_size=5), path=st.text(), query=st.text())
@example(address="a" * 9999, agent=b"a" * 9999, method="G" * 9999, path="/" * 9999, query="")
@example(address="\ud800", agent=b"\xff", method="GET", path="/\ud800\u202e\x85\u2028", query="q")
def test_names_are_one_short_printable_line(address, agent, method, path, query):
    """Whatever a caller sends, it can neither forge a line of the log nor fill it, nor break its encoding."""
    for name in (name_caller(address, agent), name_route(method, path)):
        assert name.isprintable()
        assert len(name) <= 200
        name.encode()
    assert name_route(method, f"{path}?{query}") == name_route(method, path)


REQUESTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 4), st.floats(0, DAY), st.booleans()), min_size=1, max_size=60
)


@given(REQUESTS, st.integers(1, 3), st.integers(1, 3), st.floats(0, DAY))
def test_any_stream_keeps_it_bounded_and_its_totals_exact(requests, callers, routes, since):
    """Any order of instants too: threads overtake one another."""
    ledger = LateLedger(callers=callers, routes=routes)
    for caller, route, at, served in requests:
        ledger.enter(f"c{caller}", f"r{route}", at, served=served)
    late = ledger.told(since, "OUT_OF_SERVICE")
    assert (late.total, late.served) == (len(requests), sum(served for *_, served in requests))
    latest = max(requests, key=lambda each: each[2])[2]
    *_, last = [each for each in requests if each[2] == latest]
    assert late.last == LateRequest(f"c{last[0]}", f"r{last[1]}", latest - since, last[3])
    # Kept are those who called last, the latest first.
    order = list(dict.fromkeys(f"c{caller}" for caller, *_ in reversed(requests)))
    assert [each.name for each in late.callers] == order[:callers]
    assert sum(each.served + each.refused for each in late.callers) + late.others == late.total
    for each in late.callers:
        assert len(each.routes) <= routes
        assert sum(count for _, count in each.routes) + each.other_routes == each.served + each.refused


@given(REQUESTS)
def test_within_its_bounds_it_forgets_nothing(requests):
    """Every caller and every route, with its own counts and the age of its last request."""
    ledger = LateLedger()
    for caller, route, at, served in requests:
        ledger.enter(f"c{caller}", f"r{route}", at, served=served)
    late = ledger.told(0.0, "OUT_OF_SERVICE")
    assert late.others == 0
    assert len(late.callers) == len({caller for caller, *_ in requests})
    for each in late.callers:
        own = [request for request in requests if f"c{request[0]}" == each.name]
        assert (each.served, each.refused) == (sum(r[3] for r in own), sum(not r[3] for r in own))
        assert each.last_age == max(r[2] for r in own)
        assert each.other_routes == 0
        assert dict(each.routes) == {f"r{r[1]}": sum(other[1] == r[1] for other in own) for r in own}


def test_a_flood_stays_small():
    """Twenty thousand callers on as many routes: 64 callers, eight routes of each, and a report of some kilobytes."""
    ledger = LateLedger()
    for index in range(20_000):
        caller = name_caller(f"2001:db8::{index:x}", b"x" * 8000)
        ledger.enter(caller, name_route("GET", f"/{index}/" + "y" * 8000), float(index), served=True)
    for index in range(100):
        ledger.enter("10.0.3.7 (Java/17)", name_route("GET", f"/{index}"), 20_000.0, served=True)
    late = ledger.told(0.0, "OUT_OF_SERVICE")
    assert (late.total, len(late.callers), late.others) == (20_100, 64, 20_000 - 63)
    assert late.callers[0].routes[0] == ("GET /99", 1)
    assert (len(late.callers[0].routes), late.callers[0].other_routes) == (8, 92)
    assert "20100 late requests from more than 64 callers" in str(late)
    told = late.as_dict()
    assert sum(each["served"] for each in told["callers"]) + told["others"] == 20_100
    assert len(json.dumps(told)) < 20_000


def test_threads_enter_at_the_same_time():
    """None of theirs is lost."""
    ledger = LateLedger(callers=4, routes=2)
    start = threading.Barrier(8)

    def call(index):
        start.wait()
        for count in range(500):
            ledger.enter(f"c{(index + count) % 6}", f"r{count % 3}", float(count), served=count % 5 > 0)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    late = ledger.told(0.0, "OUT_OF_SERVICE")
    assert (late.served, late.refused) == (3200, 800)
    assert sum(each.served + each.refused for each in late.callers) + late.others == 4000


def entered(*ages, refused=0):
    """What a ledger tells with one caller's requests of these ages, the last so many of them refused."""
    ledger = LateLedger()
    for index, age in enumerate(ages):
        served = index < len(ages) - refused
        ledger.enter("10.0.3.7 (Java/17)", "GET /orders", 1000.0 + age, served=served)
    return ledger.told(1000.0, "OUT_OF_SERVICE")


def test_the_line():
    """Everything that is needed to find the caller, and what to set."""
    assert str(entered(2.25, 7)) == (
        "last late request 7 s after OUT_OF_SERVICE, from 10.0.3.7 (Java/17): GET /orders; "
        "2 late requests from 1 caller"
    )
    line = str(entered(7, 41, refused=1).judging(20.0, PLAN))
    assert line == (
        "last late request 41 s after OUT_OF_SERVICE, from 10.0.3.7 (Java/17): GET /orders (refused); "
        "2 late requests from 1 caller, 1 refused; "
        "your wait is 20 s, too short: raise propagation_delay to at least 52 s and the grace period to at least 87 s"
    )
    assert f"```text\n{line}\n```" in PAGE.read_text()
    assert str(entered(-0.3)).startswith("last late request 0.3 s before OUT_OF_SERVICE, from ")
    assert str(LateRequests()) == "no late requests"


def test_the_same_as_plain_values():
    """For a log that is read by a program."""
    late = entered(7, 41, refused=1).judging(20.0, PLAN)
    assert json.loads(json.dumps(late.as_dict())) == {
        "summary": str(late),
        "served": 1,
        "refused": 1,
        "since": "OUT_OF_SERVICE",
        "last": {"caller": "10.0.3.7 (Java/17)", "route": "GET /orders", "age": 41.0, "served": False},
        "callers": [
            {
                "caller": "10.0.3.7 (Java/17)",
                "served": 1,
                "refused": 1,
                "last_age": 41.0,
                "routes": {"GET /orders": 2},
                "other_routes": 0,
            }
        ],
        "others": 0,
        "wait": 20.0,
        "advice": late.advice,
    }
    assert LateRequests().as_dict()["last"] is None


@pytest.mark.parametrize(
    ("last_age", "refused", "advice"),
    [
        (-0.5, False, None),
        (16.0, False, None),
        (16.1, False, "your wait is 20 s, only just enough: raise propagation_delay to at least 21 s"),
        (19.5, False, "your wait is 20 s, only just enough: raise propagation_delay to at least 25 s"),
        # After a hook the service serves until SIGTERM comes: by luck, not because the wait was long enough.
        (22.0, False, "your wait is 20 s, too short: raise propagation_delay to at least 28 s"),
        # Whatever its age: the callers of a service that refuses have not all heard.
        (19.5, True, "your wait is 20 s, too short: raise propagation_delay to at least 25 s"),
        (20.1, True, "your wait is 20 s, too short: raise propagation_delay to at least 26 s"),
    ],
)
def test_when_the_wait_is_called_too_short(last_age, refused, advice):
    """Refused or after the wait: too short. In its last fifth: only just enough. Before: nothing is said."""
    got = advise(last_age, 20.0, PLAN, refused=refused)
    assert got == advice or str(got).startswith(f"{advice} and the grace period to at least ")


@pytest.mark.parametrize(
    ("last_age", "raised"),
    [
        (3.2, "the grace period to at least 130 s"),
        (90.0, "propagation_delay to at least 113 s and the grace period to at least 148 s"),
    ],
)
def test_a_wait_that_the_grace_period_has_shortened(last_age, raised):
    """A longer propagation_delay would change nothing: what is too short is the grace period."""
    plan = Plan(announce=5, propagation=95, drain=20, cleanup=5, deregister=3, margin=2)
    got = advise(last_age, 3.0, plan, refused=True)
    assert got == f"your wait is 3 s of the 95 s planned, too short: raise {raised}"


@given(st.floats(0, DAY), st.floats(-1, DAY), st.booleans())
@example(propagation=95.0, last_age=75.7, refused=False)
@example(propagation=DAY, last_age=DAY, refused=True)
def test_the_advice_is_longer_than_the_wait_and_would_have_been_enough(propagation, last_age, refused):
    """It never breaks the report; followed, it is not given again for the same last request."""
    got = advise(last_age, max(0.0, propagation - 0.5), Plan(propagation=propagation), refused=refused)
    if got is None:
        return
    advised = float(got.partition("propagation_delay to at least ")[2].partition(" s")[0])
    assert advised > propagation
    if advised <= DAY:
        assert advise(last_age, advised, Plan(propagation=advised), refused=False) is None
