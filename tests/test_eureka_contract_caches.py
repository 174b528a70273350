"""The contract of what a Eureka server tells late: cached views, changes and leases, on both servers alike."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from tests.eureka_caller import JSON, XML, Caller, wait_until
from tests.eureka_servers import REFRESHES_TO_EXPIRY
from tests.test_eureka_contract import (
    ATTEMPTS,
    DOWN,
    OUT,
    UNKNOWN,
    UP,
    caller,
    expire,
    wait_for_a_refresh,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.eureka_servers import RunningEureka

__all__ = ["caller"]

# Of an interval: what a poll of five views may take without their changes looking as if they came one after another.
TOGETHER = 0.4


def views_of(caller: Caller) -> dict[str, Callable[[], str | None]]:
    """Every cached view that shows the instance, in both formats; each is asked for by its own function."""
    paths = ["/apps", "/apps/delta", f"/apps/{caller.app}", f"/vips/{caller.app}", f"/svips/{caller.app}"]

    return {f"{path} as {accept}": partial(listed, caller, path, accept) for path in paths for accept in (JSON, XML)}


def says(look: Callable[[], str | None], status: str) -> bool:
    return look() == status


def listed(caller: Caller, path: str, accept: str = JSON, field: str = "status") -> str | None:
    """A field of the caller's instance in a list, in either format; None where it is not listed."""
    answer = caller.get(path, accept)
    if accept == JSON:
        instances = instances_in(answer.json())
    else:
        instances = [
            {each.tag: each.text for each in found} for found in ET.fromstring(answer.content).iter("instance")
        ]
    return next((each[field] for each in instances if each.get("instanceId") == caller.id), None)


def instances_in(document: dict[str, Any]) -> list[dict[str, Any]]:
    """All instances in a view of one or many applications; none in the answer 404."""
    applications = document.get("applications", {}).get("application", [document.get("application", {})])
    return [instance for application in applications for instance in application.get("instance", [])]


def actions(caller: Caller) -> list[tuple[str, str]]:
    """What the list of changes says of the caller's app now: action and status of each instance."""
    mine = [each for each in instances_in(caller.get("/apps/delta").json()) if each["app"] == caller.app]
    return [(each["actionType"], each["status"]) for each in mine]


class TestFirstLook:
    def test_a_view_that_nobody_asked_for_is_made_at_once(self, caller: Caller) -> None:
        """Asked for first after a change it shows the change, whenever the next refresh is."""
        caller.register(vipAddress=caller.app, secureVipAddress=caller.app)
        caller.override(OUT)
        own = [f"/apps/{caller.app}", f"/vips/{caller.app}", f"/svips/{caller.app}"]
        assert [listed(caller, view) for view in own] == [OUT] * 3

    def test_each_view_and_format_is_a_key_of_its_own(self, caller: Caller, eureka_server: RunningEureka) -> None:
        """Looked at before, it is stale under its other paths, too; in another format, seen first now, it is not."""
        for _ in range(ATTEMPTS):
            wait_for_a_refresh(caller)
            refreshed_at = time.monotonic()
            # An app of this try's own: nobody has asked for it yet.
            new = Caller(str(caller.http.base_url))
            path = f"/apps/{new.app}"
            with new.http:
                new.register()
                before = listed(new, path)
                new.override(OUT)
                after = [listed(new, each) for each in (path, path.lower(), f"/v2{path}")]
                in_xml = listed(new, path, XML)
                new.cancel()
            if time.monotonic() < refreshed_at + eureka_server.cache_interval * 0.7:
                assert (before, after, in_xml) == (UP, [UP, UP, UP], OUT)
                return
        pytest.fail("this machine is too busy to look twice between two refreshes")

    def test_all_views_change_at_one_tick(self, caller: Caller, eureka_server: RunningEureka) -> None:
        """Ten views, both formats: none is still stale when another has changed a while ago."""
        caller.register(vipAddress=caller.app, secureVipAddress=caller.app)
        looks = views_of(caller)
        for name, look in looks.items():
            wait_until(partial(says, look, UP), f"{name} says UP")
        # No view is being made now: none loses the change.
        wait_for_a_refresh(caller)
        caller.override(OUT)
        last_stale, first_changed = dict.fromkeys(looks, 0.0), dict.fromkeys(looks, 0.0)
        deadline = time.monotonic() + 15 * eureka_server.cache_interval
        while not all(first_changed.values()):
            assert time.monotonic() < deadline, f"not changed: {first_changed}"
            for name, look in looks.items():
                asked = time.monotonic()
                if look() == UP:
                    last_stale[name] = asked
                else:
                    first_changed[name] = first_changed[name] or time.monotonic()
        # Between these two instants at least some views had changed and others not.
        assert max(last_stale.values()) - min(first_changed.values()) < eureka_server.cache_interval * TOGETHER


class TestKeptStale:
    def test_what_a_heartbeat_changes(self, eureka_server: RunningEureka) -> None:
        """A status that an override of another app brings with the heartbeat is read, but listed only with a change."""

        def change(caller: Caller) -> None:
            other = Caller(eureka_server.url)
            other.id = caller.id
            with other.http:
                other.register()
                other.override(OUT)
                caller.heartbeat()
                assert caller.statuses() == (OUT, UNKNOWN)
                other.cancel()

        assert after_a_refresh(eureka_server, "/apps/{app}", change) == UP

    def test_an_address_among_others(self, eureka_server: RunningEureka) -> None:
        """A change is not looked for under each name of a list: that view waits for three minutes."""

        def change(caller: Caller) -> None:
            caller.override(OUT)
            assert caller.listed_status() == OUT, "the app's own view, seen first now, has it"

        assert after_a_refresh(eureka_server, "/vips/{app}", change) == UP


def after_a_refresh(eureka: RunningEureka, view: str, change: Callable[[Caller], None]) -> str | None:
    """What a view that said UP says at the first refresh after a change, if it did not expire meanwhile."""
    for _ in range(ATTEMPTS):
        # An app of this try's own: nobody has asked for it yet.
        caller, begun = Caller(eureka.url), time.monotonic()
        path = view.format(app=caller.app)
        with caller.http:
            caller.register(vipAddress=f"{caller.app},other")
            assert listed(caller, path) == UP
            change(caller)
            wait_for_a_refresh(caller)
            seen = listed(caller, path)
            in_time = time.monotonic() < begun + eureka.cache_interval * (REFRESHES_TO_EXPIRY - 1)
            caller.cancel()
        if in_time:
            return seen
    pytest.fail("this machine is too busy for a refresh before a view expires")


class TestChanges:
    @staticmethod
    def told(caller: Caller, action: str, status: str) -> bool:
        return actions(caller) == [(action, status)]

    def test_each_change(self, caller: Caller) -> None:
        """ADDED, MODIFIED, DELETED, with the status it has by then."""
        for change, told in (
            (caller.register, ("ADDED", UP)),
            (lambda: caller.override(OUT), ("MODIFIED", OUT)),
            (lambda: caller.clear_override(UP), ("MODIFIED", UP)),
            (lambda: caller.http.put(f"/apps/{caller.app}/{caller.id}/metadata", params={"a": "b"}), ("ADDED", UP)),
            (lambda: caller.register(status=DOWN), ("ADDED", DOWN)),
            (caller.cancel, ("DELETED", DOWN)),
        ):
            assert change().is_success
            wait_until(partial(self.told, caller, *told), f"the changes say {told}")

    def test_an_eviction(self, caller: Caller) -> None:
        """DELETED, as if it had been cancelled."""
        expire(caller)
        wait_until(lambda: actions(caller) == [("DELETED", OUT)], "the eviction is told")

    def test_what_is_no_change(self, caller: Caller) -> None:
        """Neither a heartbeat, nor the status it has already, nor the end of an override that is not there."""
        caller.register()
        wait_until(lambda: actions(caller) == [("ADDED", UP)], "the registration is told")
        for repeat in (caller.heartbeat, lambda: caller.override(UP), lambda: caller.clear_override(DOWN)):
            assert repeat().status_code == 200
        wait_for_a_refresh(caller)
        assert actions(caller) == [("ADDED", UP)]

    def test_the_version_counts_and_the_hash_code_is_of_everything(self, caller: Caller) -> None:
        """By the hash code a client sees that it missed something; the version only grows."""
        versions = []
        for status in (UP, DOWN):
            caller.register(status=status)
            wait_until(partial(self.told, caller, "ADDED", status), "the change is told")
            versions.append(int(caller.get("/apps/delta").json()["applications"]["versions__delta"]))
        assert versions[0] < versions[1]
        # Two requests, and a refresh may fall between them.
        wait_until(lambda: len({hash_code(caller, "/apps"), hash_code(caller, "/apps/delta")}) == 1, "they agree")


def hash_code(caller: Caller, view: str) -> str:
    return str(caller.get(view).json()["applications"]["apps__hashcode"])


class TestOverrideInLists:
    @pytest.mark.parametrize("view", ["/apps", "/apps/{app}", "/vips/{app}"])
    def test_it_is_shown_beside_the_status(self, caller: Caller, view: str) -> None:
        """`overriddenStatus` in JSON, `overriddenstatus` in XML, and UNKNOWN again when it is cleared."""
        path = view.format(app=caller.app)
        caller.register(vipAddress=caller.app)
        for change, shown in ((lambda: caller.override(OUT), OUT), (lambda: caller.clear_override(UP), UNKNOWN)):
            assert change().status_code == 200
            wait_until(partial(self.both_say, caller, path, shown), f"the list says {shown}")

    @staticmethod
    def both_say(caller: Caller, path: str, shown: str) -> bool:
        in_json = listed(caller, path, JSON, "overriddenStatus")
        return {in_json, listed(caller, path, XML, "overriddenstatus")} == {shown}


class TestLease:
    def test_a_heartbeat_makes_it_last_twice_as_long(self, caller: Caller) -> None:
        """A second for the registration alone, two from a heartbeat on."""
        caller.register(leaseInfo={"durationInSecs": 1, "renewalIntervalInSecs": 1})
        begun = time.monotonic()
        assert caller.heartbeat().status_code == 200
        wait_until(lambda: caller.read() is None, "the lease expires")
        assert time.monotonic() - begun > 1.9

    def test_the_end_of_an_override_after_it(self, caller: Caller) -> None:
        """404, as is an override."""
        expire(caller)
        assert caller.clear_override(UP).status_code == 404

    def test_an_eviction_spares_most_of_the_registry(self, caller: Caller) -> None:
        """Instances that expire together go in several runs: 15 % of the registry, rounded up, in each."""
        ids = [f"{caller.id}-{number}" for number in range(4)]
        for each in ids:
            caller.register(instanceId=each, leaseInfo={"durationInSecs": 1, "renewalIntervalInSecs": 1})
        left = [len(ids)]
        deadline = time.monotonic() + 20
        while left[-1]:
            assert time.monotonic() < deadline, f"instances left: {left}"
            left.append(len(instances_in(caller.get(f"/apps/{caller.app}").json())))
        assert set(left) > {0, 4}, "all of them went at once"


class TestEndOfAnOverride:
    def test_its_dirty_timestamp(self, caller: Caller) -> None:
        """A newer one is kept; one that is no number is 500, after the override was cleared."""
        caller.register(lastDirtyTimestamp="1000")
        caller.override(OUT)
        assert caller.clear_override(UP, lastDirtyTimestamp="2000").status_code == 200
        fields = caller.read()
        assert fields is not None
        assert (fields["lastDirtyTimestamp"], fields["actionType"]) == ("2000", "MODIFIED")
        caller.override(OUT)
        assert caller.clear_override(UP, lastDirtyTimestamp="soon").status_code == 500
        assert caller.statuses() == (UP, UNKNOWN)
