"""The contract of a Eureka server, kept by the embedded one and by a real Spring Cloud Eureka Server alike."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import httpx
import pytest

from tests.eureka_caller import DATA_CENTER, JSON, LEFT_OUT, XML, Caller, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.eureka_servers import RunningEureka

UP, OUT, DOWN, STARTING, UNKNOWN = "UP", "OUT_OF_SERVICE", "DOWN", "STARTING", "UNKNOWN"
STATUSES = [UP, OUT, DOWN, STARTING, UNKNOWN]
UNREADABLE = {
    JSON: '{"error": "cannot parse request body"}',
    XML: "<error><message>cannot parse request body</message></error>",
}
# How often a test that has to hit the moment between two ticks may miss it.
ATTEMPTS = 6


@pytest.fixture
def caller(eureka_server: RunningEureka) -> Iterator[Caller]:
    """An app and an instance of this test's own, removed at its end."""
    caller = Caller(eureka_server.url)
    with caller.http:
        yield caller
        caller.cancel()


class TestRegistration:
    def test_an_instance_is_there_at_once(self, caller: Caller) -> None:
        """204 without a body, and the instance can be read back."""
        answer = caller.register()
        assert (answer.status_code, answer.content) == (204, b"")
        assert caller.statuses() == (UP, UNKNOWN)

    def test_missing_fields_have_defaults(self, caller: Caller) -> None:
        """What the sender left out is filled in."""
        before = int(time.time() * 1000)
        assert caller.register(status=LEFT_OUT, port=LEFT_OUT).status_code == 204
        fields = caller.read()
        assert fields is not None
        lease = fields.pop("leaseInfo")
        stamps = [int(fields.pop(name)) for name in ("lastUpdatedTimestamp", "lastDirtyTimestamp")]
        stamps += [lease.pop(f"{name}Timestamp") for name in ("registration", "lastRenewal", "serviceUp")]
        # The clocks are the same, their rounding may not be.
        assert all(before - 5 <= stamp <= time.time() * 1000 + 5 for stamp in stamps)
        assert lease == {"renewalIntervalInSecs": 30, "durationInSecs": 90, "evictionTimestamp": 0}
        assert fields == {
            "instanceId": caller.id,
            "hostName": "host",
            "app": caller.app,
            "ipAddr": "10.0.0.1",
            "status": UP,
            "overriddenStatus": UNKNOWN,
            "port": {"$": 7001, "@enabled": "true"},
            "securePort": {"$": 7002, "@enabled": "false"},
            "countryId": 1,
            "dataCenterInfo": DATA_CENTER,
            "metadata": {"@class": "java.util.Collections$EmptyMap"},
            "isCoordinatingDiscoveryServer": "false",
            "actionType": "ADDED",
        }

    def test_optional_fields_come_back(self, caller: Caller) -> None:
        """URLs, VIPs, metadata and the lease's durations are kept as sent; the group is upper-cased."""
        texts = {
            "homePageUrl": "http://host:8080/",
            "statusPageUrl": "http://host:8080/info",
            "healthCheckUrl": "http://host:8080/health",
            "secureHealthCheckUrl": "",
            "vipAddress": "orders",
            "secureVipAddress": "secure-orders",
            "asgName": "group",
        }
        lease = {"renewalIntervalInSecs": 5, "durationInSecs": 15}
        metadata = {"zone": "a", "odd key": "<&>é", "snake_case": "", "$dollar": "1"}
        answer = caller.register(
            **texts,
            leaseInfo=lease,
            metadata=metadata,
            appGroupName="shop",
            sid="na",
            lastDirtyTimestamp="1700000000000",
        )
        assert answer.status_code == 204
        fields = caller.read()
        assert fields is not None
        assert fields | texts == fields
        assert fields["leaseInfo"] | lease == fields["leaseInfo"]
        assert (fields["metadata"], fields["appGroupName"]) == (metadata, "SHOP")
        assert fields["lastDirtyTimestamp"] == "1700000000000"
        assert "sid" not in fields

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ("hostName", "Missing hostname"),
            ("ipAddr", "Missing ip address"),
            ("dataCenterInfo", "Missing dataCenterInfo"),
            ("app", UNREADABLE[JSON]),
        ],
    )
    @pytest.mark.parametrize("value", [LEFT_OUT, None], ids=["left out", "null"])
    def test_a_required_field_is_missing(self, caller: Caller, field: str, message: str, value: object) -> None:
        """400, and nothing is registered."""
        answer = caller.register(**{field: value})
        assert (answer.status_code, answer.text) == (400, message)
        assert caller.read() is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hostName": ""}, "Missing hostname"),
            ({"ipAddr": ""}, "Missing ip address"),
            ({"app": ""}, "Missing appName"),
            ({"dataCenterInfo": {"@class": DATA_CENTER["@class"]}}, "Missing dataCenterInfo Name"),
            ({"dataCenterInfo": {"name": "MyOwn"}}, UNREADABLE[JSON]),
            ({"dataCenterInfo": {"@class": "a.B", "name": "MyOwn"}}, UNREADABLE[JSON]),
            ({"dataCenterInfo": DATA_CENTER | {"name": "Mine"}}, UNREADABLE[JSON]),
            ({"port": 8080}, UNREADABLE[JSON]),
        ],
    )
    def test_a_required_field_is_wrong(self, caller: Caller, changes: dict[str, Any], message: str) -> None:
        """400 with the reason, and nothing is registered."""
        answer = caller.register(**changes)
        assert (answer.status_code, answer.text) == (400, message)
        assert caller.read() is None

    def test_the_app_of_the_path_differs(self, caller: Caller) -> None:
        """400 with both names."""
        answer = caller.register(app="OTHER")
        assert answer.status_code == 400
        assert answer.text == f"Mismatched appName, expecting {caller.app} but was OTHER"

    def test_case_of_the_app_does_not_matter(self, caller: Caller) -> None:
        """In body and path; the answer has it in capitals."""
        document = caller.document(app=caller.app.lower())
        assert caller.http.post(f"/apps/{caller.app.lower()}", json=document).status_code == 204
        answer = caller.get(f"/apps/{caller.app.lower()}/{caller.id}")
        assert answer.json()["instance"]["app"] == caller.app
        assert caller.http.put(f"/apps/{caller.app.title()}/{caller.id}").status_code == 200

    @pytest.mark.parametrize("missing", [LEFT_OUT, None, ""], ids=["left out", "null", "empty"])
    def test_without_an_instance_id_it_is_the_host_name(self, caller: Caller, missing: object) -> None:
        """204, and the lease is found under the host name."""
        host = f"host-{caller.app.lower()}"
        assert caller.register(instanceId=missing, hostName=host).status_code == 204
        fields = caller.read(host)
        assert fields is not None
        assert fields.get("instanceId") == ("" if missing == "" else None)
        assert caller.http.delete(f"/apps/{caller.app}/{host}").status_code == 200

    @pytest.mark.parametrize("status", ["NONSENSE", "up", "", 3])
    def test_a_bad_status_becomes_unknown(self, caller: Caller, status: object) -> None:
        """204 all the same, and heartbeats say 404 until a good one is sent."""
        assert caller.register(status=status).status_code == 204
        assert caller.statuses() == (UNKNOWN, UNKNOWN)
        assert caller.heartbeat().status_code == 404
        assert caller.register().status_code == 204
        assert caller.statuses() == (UP, UNKNOWN)
        assert caller.heartbeat().status_code == 200

    @pytest.mark.parametrize("name", ["overriddenstatus", "overriddenStatus"])
    def test_an_overridden_status_in_the_body_is_an_override(self, caller: Caller, name: str) -> None:
        """Both spellings; it outlives the next registration, which does not have it."""
        assert caller.register(**{name: OUT}).status_code == 204
        assert caller.statuses() == (OUT, OUT)
        assert caller.register().status_code == 204
        assert caller.statuses() == (OUT, OUT)

    def test_an_older_registration_does_not_replace_a_newer(self, caller: Caller) -> None:
        """204, but the fields and the status of the newer one stay."""
        caller.register(lastDirtyTimestamp="2000", vipAddress="new")
        assert caller.register(lastDirtyTimestamp="1000", vipAddress="old", status=DOWN).status_code == 204
        fields = caller.read()
        assert fields is not None
        assert (fields["vipAddress"], fields["status"], fields["lastDirtyTimestamp"]) == ("new", UP, "2000")

    @pytest.mark.parametrize(
        ("changes", "field", "expected"),
        [
            ({"port": {"$": "x", "@enabled": "true"}}, "port", {"$": 0, "@enabled": "true"}),
            ({"port": {"$": "9", "@enabled": False}}, "port", {"$": 9, "@enabled": "false"}),
            ({"port": {"$": 9}}, "port", {"$": 9, "@enabled": "true"}),
            ({"securePort": {"$": 8443, "@enabled": True}}, "securePort", {"$": 8443, "@enabled": "true"}),
            ({"lastDirtyTimestamp": "soon"}, "lastDirtyTimestamp", "0"),
            ({"countryId": "x"}, "countryId", 0),
            ({"metadata": {"a": 1, "b": None, "@class": "x"}}, "metadata", {"a": "1", "b": "null"}),
            ({"unknown": {"field": [1]}}, "status", UP),
        ],
    )
    def test_bad_numbers_are_forgiven(
        self, caller: Caller, changes: dict[str, Any], field: str, expected: object
    ) -> None:
        """204, with something in their place."""
        assert caller.register(**changes).status_code == 204
        fields = caller.read()
        assert fields is not None
        assert fields[field] == expected

    @pytest.mark.parametrize("duration", [0, -1, "x"])
    def test_a_bad_lease_duration_becomes_the_default(self, caller: Caller, duration: object) -> None:
        """90 s, and 30 s between heartbeats."""
        caller.register(leaseInfo={"durationInSecs": duration, "renewalIntervalInSecs": duration})
        fields = caller.read()
        assert fields is not None
        assert fields["leaseInfo"]["durationInSecs"] == 90
        assert fields["leaseInfo"]["renewalIntervalInSecs"] == 30


class TestUnreadableBodies:
    @pytest.mark.parametrize("body", ["", "{}", "[]", "{{", '{"instance":null}', '{"instance":{}}', '{"other":{}}'])
    def test_json(self, caller: Caller, body: str) -> None:
        """400 for anything that is not an instance."""
        answer = caller.send(body)
        assert (answer.status_code, answer.text) == (400, UNREADABLE[JSON])

    def test_json_without_its_wrapper(self, caller: Caller) -> None:
        """400: the fields have to stand in `instance`, alone."""
        document = caller.document()
        assert caller.send(json.dumps(document["instance"])).status_code == 400
        assert caller.send(json.dumps(document | {"more": 1})).status_code == 400
        assert caller.read() is None

    def test_what_trails_the_instance_is_ignored(self, caller: Caller) -> None:
        """204."""
        assert caller.send(json.dumps(caller.document()) + "}}").status_code == 204

    @pytest.mark.parametrize("body", ["", "<inst", "<instance/>", "<other/>", "{}"])
    def test_xml(self, caller: Caller, body: str) -> None:
        """400, told in XML."""
        answer = caller.send(body, XML)
        assert (answer.status_code, answer.text) == (400, UNREADABLE[XML])

    def test_xml_with_an_entity(self, caller: Caller) -> None:
        """400: no document type declarations."""
        body = f'<!DOCTYPE a [<!ENTITY e "x">]>{registration_xml(caller, "<vipAddress>&e;</vipAddress>")}'
        assert caller.send(body, XML).status_code == 400

    def test_null(self, caller: Caller) -> None:
        """500: the server trips over it."""
        assert caller.send("null").status_code == 500

    def test_nothing_at_all(self, caller: Caller) -> None:
        """500 too."""
        assert caller.http.post(f"/apps/{caller.app}").status_code == 500

    @pytest.mark.parametrize("content_type", ["text/plain", "text/xml", "application/x-www-form-urlencoded"])
    def test_another_media_type(self, caller: Caller, content_type: str) -> None:
        """415."""
        assert caller.send(json.dumps(caller.document()), content_type).status_code == 415

    def test_a_charset_is_fine(self, caller: Caller) -> None:
        """204."""
        assert caller.send(json.dumps(caller.document()), f"{JSON};charset=UTF-8").status_code == 204


class TestHeartbeat:
    def test_without_a_lease(self, caller: Caller) -> None:
        """404."""
        assert caller.heartbeat().status_code == 404

    def test_with_a_lease(self, caller: Caller) -> None:
        """200 without a body, and the lease is renewed (by twice its duration, all told)."""
        caller.register()
        answer = caller.heartbeat()
        assert (answer.status_code, answer.content) == (200, b"")
        fields = caller.read()
        assert fields is not None
        lease = fields["leaseInfo"]
        assert lease["lastRenewalTimestamp"] >= lease["registrationTimestamp"] + 90_000

    @pytest.mark.parametrize("status", [DOWN, OUT, "NONSENSE"])
    def test_its_status_is_ignored(self, caller: Caller, status: str) -> None:
        """200, and the status stays."""
        caller.register()
        assert caller.heartbeat(status=status, overriddenstatus=DOWN).status_code == 200
        assert caller.statuses() == (UP, UNKNOWN)

    @pytest.mark.parametrize(("dirty", "code"), [("999", 200), ("1000", 200), ("1001", 404), ("soon", 500), ("", 500)])
    def test_its_dirty_timestamp(self, caller: Caller, dirty: str, code: int) -> None:
        """404 when the client knows something newer, so that it registers again; 500 for no number."""
        caller.register(lastDirtyTimestamp="1000")
        assert caller.heartbeat(lastDirtyTimestamp=dirty).status_code == code


class TestCancel:
    def test_it_is_gone_at_once(self, caller: Caller) -> None:
        """200, then 404 everywhere."""
        caller.register()
        answer = caller.cancel()
        assert (answer.status_code, answer.content) == (200, b"")
        assert caller.read() is None
        assert caller.get(f"/instances/{caller.id}").status_code == 404
        assert caller.heartbeat().status_code == 404
        assert caller.cancel().status_code == 404

    def test_it_removes_the_override(self, caller: Caller) -> None:
        """So that the next life begins UP."""
        caller.register()
        caller.override(OUT)
        caller.cancel()
        caller.register()
        assert caller.statuses() == (UP, UNKNOWN)

    def test_it_removes_the_override_even_when_it_finds_nothing(self, caller: Caller) -> None:
        """The override belongs to the id: a 404 under another app takes it away."""
        caller.register()
        caller.override(OUT)
        assert caller.http.delete(f"/apps/NOT-{caller.app}/{caller.id}").status_code == 404
        caller.register()
        # The override is gone; the lease that was there is still OUT_OF_SERVICE, and that counts too.
        assert caller.statuses() == (OUT, UNKNOWN)


class TestOverride:
    @pytest.mark.parametrize("status", [OUT, DOWN, STARTING, UNKNOWN])
    def test_it_holds_at_once(self, caller: Caller, status: str) -> None:
        """200 without a body, and status and overridden status are both what was asked."""
        caller.register()
        answer = caller.override(status)
        assert (answer.status_code, answer.content) == (200, b"")
        assert caller.statuses() == (status, status)

    def test_of_an_unknown_instance(self, caller: Caller) -> None:
        """404, for a bad value too."""
        assert caller.override(OUT).status_code == 404
        assert caller.override("NONSENSE").status_code == 404

    @pytest.mark.parametrize("value", ["NONSENSE", "out_of_service", "", None])
    def test_a_bad_value(self, caller: Caller, value: str | None) -> None:
        """500, and nothing changes."""
        caller.register()
        assert caller.override(value).status_code == 500
        assert caller.statuses() == (UP, UNKNOWN)

    def test_the_status_it_has_already(self, caller: Caller) -> None:
        """200, but no override is stored."""
        caller.register()
        assert caller.override(UP).status_code == 200
        assert caller.statuses() == (UP, UNKNOWN)

    def test_its_dirty_timestamp(self, caller: Caller) -> None:
        """A newer one is kept; one that is no number is 500, after the status was changed."""
        caller.register(lastDirtyTimestamp="1000")
        assert caller.override(OUT, lastDirtyTimestamp="2000").status_code == 200
        assert caller.override(UP, lastDirtyTimestamp="1500").status_code == 200
        fields = caller.read()
        assert fields is not None
        assert (fields["lastDirtyTimestamp"], fields["actionType"]) == ("2000", "MODIFIED")
        assert caller.override(DOWN, lastDirtyTimestamp="soon").status_code == 500
        assert caller.statuses() == (DOWN, DOWN)

    @pytest.mark.parametrize(
        ("sent", "becomes"), [(UP, OUT), (OUT, OUT), (DOWN, DOWN), (STARTING, STARTING), (UNKNOWN, UNKNOWN)]
    )
    def test_a_registration_under_out_of_service(self, caller: Caller, sent: str, becomes: str) -> None:
        """UP stays OUT_OF_SERVICE: an instance that restarts with its old id is not called. DOWN is believed."""
        caller.register()
        caller.override(OUT)
        assert caller.register(status=sent).status_code == 204
        assert caller.statuses() == (becomes, OUT)

    @pytest.mark.parametrize(
        ("had", "sent", "becomes"),
        [(UP, OUT, UP), (OUT, UP, OUT), (UP, DOWN, DOWN), (DOWN, UP, UP), (STARTING, UP, UP), (STARTING, OUT, OUT)],
    )
    def test_a_registration_over_a_lease(self, caller: Caller, had: str, sent: str, becomes: str) -> None:
        """An UP or OUT_OF_SERVICE lease wins over UP and OUT_OF_SERVICE: use an override instead."""
        caller.register(status=had)
        caller.register(status=sent)
        assert caller.statuses() == (becomes, UNKNOWN)

    def test_heartbeats_keep_it(self, caller: Caller) -> None:
        """200, and still OUT_OF_SERVICE."""
        caller.register()
        caller.override(OUT)
        assert caller.heartbeat(status=UP).status_code == 200
        assert caller.statuses() == (OUT, OUT)

    def test_a_heartbeat_restores_it(self, caller: Caller) -> None:
        """A lease that another app's override of the same id concerns takes it over with its next heartbeat."""
        other = Caller(str(caller.http.base_url))
        other.id = caller.id
        with other.http:
            caller.register()
            other.register()
            other.override(OUT)
            assert caller.statuses() == (UP, UNKNOWN)
            assert caller.heartbeat().status_code == 200
            assert caller.statuses() == (OUT, UNKNOWN)
            other.cancel()

    def test_it_is_keyed_by_the_id_alone(self, caller: Caller) -> None:
        """Another app's instance with the same id starts OUT_OF_SERVICE."""
        other = Caller(str(caller.http.base_url))
        other.id = caller.id
        with other.http:
            caller.register()
            caller.override(OUT)
            other.register()
            assert other.statuses() == (OUT, OUT)
            other.cancel()


class TestClearOverride:
    @pytest.mark.parametrize("status", STATUSES)
    def test_with_a_value(self, caller: Caller, status: str) -> None:
        """The override is gone and the status is the value."""
        caller.register()
        caller.override(OUT)
        answer = caller.clear_override(status)
        assert (answer.status_code, answer.content) == (200, b"")
        assert caller.statuses() == (status, UNKNOWN)

    def test_without_a_value(self, caller: Caller) -> None:
        """UNKNOWN, and heartbeats say 404 until the instance registers again."""
        caller.register()
        caller.override(OUT)
        assert caller.clear_override().status_code == 200
        assert caller.statuses() == (UNKNOWN, UNKNOWN)
        assert caller.heartbeat().status_code == 404
        caller.register()
        assert caller.statuses() == (UP, UNKNOWN)

    @pytest.mark.parametrize("value", [DOWN, None])
    def test_where_there_is_none(self, caller: Caller, value: str | None) -> None:
        """200, and nothing changes."""
        caller.register()
        assert caller.clear_override(value).status_code == 200
        assert caller.statuses() == (UP, UNKNOWN)

    def test_of_an_unknown_instance(self, caller: Caller) -> None:
        """404."""
        assert caller.clear_override(UP).status_code == 404

    @pytest.mark.parametrize("value", ["NONSENSE", "up", ""])
    def test_a_bad_value(self, caller: Caller, value: str) -> None:
        """500, and the override stays."""
        caller.register()
        caller.override(OUT)
        assert caller.clear_override(value).status_code == 500
        assert caller.statuses() == (OUT, OUT)


class TestChangesOfAPeer:
    """A change with the header that one server sends to another."""

    @pytest.mark.parametrize(
        ("had", "sent", "becomes"), [(UP, OUT, OUT), (OUT, UP, UP), (UP, DOWN, DOWN), (DOWN, UP, UP), (OUT, OUT, OUT)]
    )
    def test_a_registration_over_a_lease(self, caller: Caller, had: str, sent: str, becomes: str) -> None:
        """Taken as sent: the lease that is there does not win, as it does over a client."""
        caller.register(status=had)
        caller.as_peer().register(status=sent)
        assert caller.statuses() == (becomes, UNKNOWN)

    def test_a_registration_under_an_override(self, caller: Caller) -> None:
        """The override wins over a peer, too."""
        caller.register()
        caller.override(OUT)
        caller.as_peer().register(status=UP)
        assert caller.statuses() == (OUT, OUT)

    def test_an_older_registration(self, caller: Caller) -> None:
        """204, and the newer one stays."""
        caller.register(lastDirtyTimestamp="2000", status=DOWN)
        assert caller.as_peer().register(lastDirtyTimestamp="1000").status_code == 204
        assert caller.statuses() == (DOWN, UNKNOWN)

    def test_a_heartbeat_that_is_behind(self, caller: Caller) -> None:
        """409 with the instance, for the peer to take over; 200 for a client."""
        caller.register(lastDirtyTimestamp="2000")
        answer = caller.as_peer().heartbeat(lastDirtyTimestamp="1000")
        assert answer.status_code == 409
        assert answer.json()["instance"]["lastDirtyTimestamp"] == "2000"
        assert caller.heartbeat(lastDirtyTimestamp="1000").status_code == 200

    def test_a_heartbeat_that_is_ahead(self, caller: Caller) -> None:
        """404, and the override that comes with it is stored; the next heartbeat acts on it."""
        caller.register(lastDirtyTimestamp="1000")
        peer = caller.as_peer()
        assert peer.heartbeat(lastDirtyTimestamp="2000", overriddenstatus=OUT).status_code == 404
        assert caller.statuses() == (UP, OUT)
        assert caller.heartbeat().status_code == 200
        assert caller.statuses() == (OUT, OUT)

    @pytest.mark.parametrize(("override", "code"), [(UNKNOWN, 404), ("NONSENSE", 500)])
    def test_a_heartbeat_that_is_ahead_without_an_override(self, caller: Caller, override: str, code: int) -> None:
        """404, and nothing changes; 500 for a bad one."""
        caller.register(lastDirtyTimestamp="1000")
        peer = caller.as_peer()
        assert peer.heartbeat(lastDirtyTimestamp="2000", overriddenstatus=override).status_code == code
        assert caller.statuses() == (UP, UNKNOWN)

    def test_a_heartbeat_with_the_same_timestamp_repairs_nothing(self, caller: Caller) -> None:
        """200, and the override that comes with it is not looked at."""
        caller.register(lastDirtyTimestamp="1000")
        assert caller.as_peer().heartbeat(lastDirtyTimestamp="1000", overriddenstatus=OUT).status_code == 200
        assert caller.heartbeat().status_code == 200
        assert caller.statuses() == (UP, UNKNOWN)

    @pytest.mark.parametrize("value", ["True", "1", "false", ""])
    def test_another_value_of_the_header(self, caller: Caller, value: str) -> None:
        """Is a client."""
        caller.register(lastDirtyTimestamp="2000")
        assert caller.as_peer(value).heartbeat(lastDirtyTimestamp="1000").status_code == 200


class TestExpiry:
    def test_an_expired_lease_before_its_eviction(self, caller: Caller) -> None:
        """It reads 404, as does an override, but a heartbeat revives it and a registration meets the old override."""
        for _ in range(ATTEMPTS):
            expire(caller)
            if caller.override(UP).status_code == 404 and caller.heartbeat().status_code == 200:
                break  # else: it was evicted between two of these requests
        assert caller.statuses() == (OUT, OUT)

        for _ in range(ATTEMPTS):
            expire(caller)
            caller.register()
            if caller.statuses() == (OUT, OUT):
                return
        pytest.fail("an expired lease's override was never met")

    def test_an_evicted_lease(self, caller: Caller) -> None:
        """It is gone from the lists, and so is its override."""
        expire(caller)
        wait_until(lambda: caller.listed_status() is None, "the expired instance is evicted")
        assert caller.heartbeat().status_code == 404
        caller.register()
        assert caller.statuses() == (UP, UNKNOWN)


class TestCache:
    def test_a_change_is_read_at_once_and_listed_after_a_refresh(
        self, caller: Caller, eureka_server: RunningEureka
    ) -> None:
        """Straight from the registry: OUT_OF_SERVICE. In the lists: still UP, until the next refresh."""
        assert stale_after(caller, lambda: caller.override(OUT), eureka_server.cache_interval) == {UP}
        assert caller.statuses() == (OUT, OUT)
        wait_until(lambda: listed_statuses(caller) == {OUT}, "every list says OUT_OF_SERVICE")

    def test_a_cancelled_instance_is_listed_until_a_refresh(self, caller: Caller, eureka_server: RunningEureka) -> None:
        """404 straight from the registry; still listed as UP."""
        assert stale_after(caller, caller.cancel, eureka_server.cache_interval) == {UP}
        assert caller.read() is None
        wait_until(lambda: caller.listed_status() is None, "the instance is listed no more")
        wait_until(lambda: listed_statuses(caller) <= {None}, "no list has it")

    def test_even_no_such_app_is_cached(self, caller: Caller, eureka_server: RunningEureka) -> None:
        """An app that was asked for too early stays 404 until the next refresh."""
        for _ in range(ATTEMPTS):
            wait_for_a_refresh(caller)
            assert caller.get(f"/apps/{caller.app}").status_code == 404
            caller.register()
            if caller.get(f"/apps/{caller.app}").status_code == 404:
                break
            caller.cancel()
            wait_until(lambda: caller.listed_status() is None, "the instance is listed no more")
        else:
            pytest.fail("a missing app was never cached")
        wait_until(lambda: caller.listed_status() == UP, "the app is listed")


class TestViews:
    def test_all_applications(self, caller: Caller) -> None:
        """The list, the hash code by which a client checks its copy, and a version."""
        caller.register()
        wait_until(lambda: status_in(caller.get("/apps"), caller) == UP, "the instance is listed")
        applications = caller.get("/apps").json()["applications"]
        assert applications["versions__delta"] == "1"
        counts: dict[str, int] = {}
        for application in applications["application"]:
            for instance in application["instance"]:
                counts[instance["status"]] = counts.get(instance["status"], 0) + 1
        assert applications["apps__hashcode"] == "".join(f"{name}_{n}_" for name, n in sorted(counts.items()))

    def test_changes(self, caller: Caller) -> None:
        """Each instance once, with what happened to it last; the hash code is that of the whole registry."""
        caller.register()
        caller.override(OUT)
        caller.cancel()

        def entries() -> list[str]:
            applications = caller.get("/apps/delta").json()["applications"]["application"]
            mine = [
                each for application in applications for each in application["instance"] if each["app"] == caller.app
            ]
            return [each["actionType"] for each in mine]

        wait_until(lambda: entries() == ["DELETED"], "the change is listed")

    @pytest.mark.parametrize(("view", "field"), [("vips", "vipAddress"), ("svips", "secureVipAddress")])
    def test_one_address(self, caller: Caller, view: str, field: str) -> None:
        """Any of the comma-separated names finds the instance."""
        name = caller.app.lower()
        caller.register(**{field: f"other,{name}"})
        found = caller.get(f"/{view}/{name}").json()["applications"]
        assert [each["name"] for each in found["application"]] == [caller.app]
        assert (found["versions__delta"], found["apps__hashcode"]) == ("-1", "UP_1_")
        nobody = caller.get(f"/{view}/nobody-{name}")
        assert nobody.status_code == 200
        assert nobody.json()["applications"]["application"] == []

    def test_instances_by_id_alone(self, caller: Caller) -> None:
        """The same answer as with the app."""
        caller.register()
        assert caller.get(f"/instances/{caller.id}").json() == {"instance": caller.read()}

    def test_metadata_can_be_added(self, caller: Caller) -> None:
        """Each key's first value; the status is left alone."""
        caller.register(metadata={"zone": "a"})
        answer = caller.http.put(f"/apps/{caller.app}/{caller.id}/metadata", params=[("k", "v"), ("k", "w"), ("z", "")])
        assert answer.status_code == 200
        fields = caller.read()
        assert fields is not None
        assert (fields["metadata"], fields["status"]) == ({"zone": "a", "k": "v", "z": ""}, UP)

    @pytest.mark.parametrize("view", ["/apps", "/apps/delta"])
    def test_compressed(self, caller: Caller, view: str) -> None:
        """The big views are compressed for those who can read it."""
        answer = caller.http.get(view, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        assert "applications" in answer.json()
        assert "content-encoding" not in caller.http.get(view, headers={"accept-encoding": "identity"}).headers


class TestFormats:
    def test_both_have_the_same_content(self, caller: Caller) -> None:
        """XML is the JSON with other brackets; only `overriddenstatus` is spelled otherwise."""
        caller.register(metadata={"a b": "<&>", "c_d": "é"}, vipAddress="v", leaseInfo={"durationInSecs": 7})
        answer = caller.get(f"/apps/{caller.app}/{caller.id}", XML)
        assert answer.headers["content-type"] == XML
        fields = caller.read()
        assert fields is not None
        fields["overriddenstatus"] = fields.pop("overriddenStatus")
        root = ET.fromstring(answer.content)
        assert root.tag == "instance"
        assert as_json(root) == {**fields, "metadata": {"a_.0020b": "<&>", "c__d": "é"}}
        assert [child.tag for child in root] == list(fields_in_xml_order(caller))

    @pytest.mark.parametrize(
        ("status", "shown"), [(UP, UP), (DOWN, DOWN), (STARTING, STARTING), (OUT, DOWN), (UNKNOWN, DOWN)]
    )
    @pytest.mark.parametrize("path", ["/apps/{app}/{id}", "/instances/{id}", "/v2/apps/{app}/{id}"])
    def test_one_instance_in_xml_speaks_an_older_language(
        self, caller: Caller, path: str, status: str, shown: str
    ) -> None:
        """DOWN for what Eureka's first version did not know; the override, JSON and the lists are right."""
        caller.register(status=DOWN if status == UP else UP)
        caller.override(status)
        root = ET.fromstring(caller.get(path.format(app=caller.app, id=caller.id), XML).content)
        assert (root.findtext("status"), root.findtext("overriddenstatus")) == (shown, status)
        assert caller.statuses() == (status, status)
        listed = ET.fromstring(caller.get(f"/vips/{caller.app}", XML).content)
        assert listed.findall("application") == []
        wait_until(
            lambda: f"<status>{status}</status>" in caller.get(f"/apps/{caller.app}", XML).text, "the list has it"
        )

    def test_lists_in_xml(self, caller: Caller) -> None:
        """applications/application/instance."""
        caller.register()
        one = ET.fromstring(caller.get(f"/apps/{caller.app}", XML).content)
        assert (one.tag, one.findtext("name")) == ("application", caller.app)
        assert one.findtext("instance/overriddenstatus") == UNKNOWN
        wait_until(lambda: f"<name>{caller.app}</name>" in caller.get("/apps", XML).text, "the app is listed")
        everything = ET.fromstring(caller.get("/apps", XML).content)
        assert everything.tag == "applications"
        assert everything.findtext("versions__delta") == "1"
        assert caller.app in [each.text for each in everything.iterfind("application/name")]

    def test_registration_in_xml(self, caller: Caller) -> None:
        """What is sent as XML can be read as JSON."""
        more = (
            "<status>DOWN</status><overriddenstatus>OUT_OF_SERVICE</overriddenstatus>"
            '<port enabled="false">9</port><securePort enabled="TRUE">8</securePort>'
            "<metadata><a__b>c</a__b></metadata><leaseInfo><durationInSecs>4</durationInSecs></leaseInfo><x><y/></x>"
        )
        assert caller.send(registration_xml(caller, more), XML).status_code == 204
        fields = caller.read()
        assert fields is not None
        assert (fields["status"], fields["overriddenStatus"]) == (DOWN, OUT)
        assert (fields["port"], fields["securePort"]["@enabled"]) == ({"$": 9, "@enabled": "false"}, "false")
        assert (fields["metadata"], fields["leaseInfo"]["durationInSecs"]) == ({"a_b": "c"}, 4)

    @pytest.mark.parametrize("view", ["/apps", "/apps/delta", "/apps/{app}", "/apps/{app}/{id}", "/vips/v"])
    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            (JSON, JSON),
            (XML, XML),
            ("*/*", XML),
            ("", XML),
            ("application/*", XML),
            ("text/html, application/json;q=0.5", JSON),
            ("text/html", None),
            ("text/plain", None),
            ("application/vnd.x+json", None),
        ],
    )
    def test_negotiation(self, caller: Caller, view: str, accept: str, expected: str | None) -> None:
        """XML unless JSON is asked for; 406 for those who take neither."""
        caller.register()
        answer = caller.get(view.format(app=caller.app, id=caller.id), accept)
        if expected is None:
            assert answer.status_code == 406
        else:
            assert (answer.status_code, answer.headers["content-type"]) == (200, expected)

    def test_changes_are_negotiated_too(self, caller: Caller) -> None:
        """406 for a browser, and nothing is changed."""
        browser = {"accept": "text/html"}
        caller.register()
        assert caller.http.delete(f"/apps/{caller.app}/{caller.id}", headers=browser).status_code == 406
        assert caller.statuses() == (UP, UNKNOWN)

    def test_one_instance_in_the_preferred_format(self, caller: Caller) -> None:
        """By quality, then a format before a wildcard, then the first."""
        caller.register()
        path = f"/apps/{caller.app}/{caller.id}"
        assert caller.get(path, f"{JSON}, {XML}").headers["content-type"] == JSON
        assert caller.get(path, f"{XML}, {JSON}").headers["content-type"] == XML
        assert caller.get(path, f"*/*, {JSON}").headers["content-type"] == JSON
        assert caller.get(path, f"{JSON};q=0.1, {XML}").headers["content-type"] == XML
        assert caller.get(path, f"{JSON}, */*;q=0.1").headers["content-type"] == JSON


class TestPaths:
    @pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
    @pytest.mark.parametrize("path", ["", "/nope", "/instances", "/vips", "/apps/{app}/{id}/nope", "/v3/apps"])
    def test_unknown(self, caller: Caller, method: str, path: str) -> None:
        """404."""
        caller.register()
        assert caller.http.request(method, path.format(app=caller.app, id=caller.id)).status_code == 404

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/apps"),
            ("POST", "/apps/delta"),
            ("DELETE", "/apps/{app}"),
            ("POST", "/apps/{app}/{id}"),
            ("GET", "/apps/{app}/{id}/status"),
            ("PATCH", "/apps/{app}/{id}"),
            ("PUT", "/instances/{id}"),
            ("PUT", "/vips/v"),
        ],
    )
    def test_another_method(self, caller: Caller, method: str, path: str) -> None:
        """405, with the methods that there are."""
        answer = caller.http.request(method, path.format(app=caller.app, id=caller.id))
        assert answer.status_code == 405
        options = caller.http.options(path.format(app=caller.app, id=caller.id))
        assert options.status_code == 200
        assert set(answer.headers["allow"].split(",")) == set(options.headers["allow"].split(",")) - {"HEAD"}

    def test_head(self, caller: Caller) -> None:
        """As GET, without the body."""
        caller.register()
        answer = caller.http.head(f"/apps/{caller.app}/{caller.id}")
        assert (answer.status_code, answer.content) == (200, b"")

    @pytest.mark.parametrize("path", ["/apps/A/b;c", "/apps/A/b%3Bc", "/apps/A/b%2Fc", "/apps//A"])
    def test_refused_by_the_firewall(self, caller: Caller, path: str) -> None:
        """400 for a semicolon, an encoded slash and an empty segment."""
        base = httpx.URL(str(caller.http.base_url).rstrip("/"))
        raw = base.raw_path + path.encode()
        assert caller.http.get(base.copy_with(raw_path=raw)).status_code == 400

    def test_odd_ids(self, caller: Caller) -> None:
        """Spaces and letters beyond ASCII are found under their encoded path."""
        caller.id = f"a b é:{caller.app}"
        caller.register()
        assert caller.statuses() == (UP, UNKNOWN)
        assert caller.heartbeat().status_code == 200

    def test_netflix_path(self, caller: Caller) -> None:
        """What is at `/apps` is at `/v2/apps` too; a slash at the end does not matter."""
        caller.register()
        assert caller.get(f"/v2/apps/{caller.app}/{caller.id}").status_code == 200
        assert caller.get(f"/apps/{caller.app}/{caller.id}/").status_code == 200

    def test_the_first_of_repeated_parameters_counts(self, caller: Caller) -> None:
        """The second is not looked at."""
        caller.register()
        path = f"/apps/{caller.app}/{caller.id}/status"
        assert caller.http.put(path, params=[("value", OUT), ("value", "NONSENSE")]).status_code == 200
        assert caller.statuses() == (OUT, OUT)


class TestBasicAuth:
    def test_right_credentials(self, eureka_server_basic: RunningEureka) -> None:
        """Everything works."""
        caller = Caller(eureka_server_basic.url)
        with caller.http:
            assert caller.register().status_code == 204
            assert caller.override(OUT).status_code == 200
            assert caller.cancel().status_code == 200

    @pytest.mark.parametrize("credentials", ["", "eureka:wrong@", "nobody:secret@"], ids=["none", "password", "user"])
    def test_no_or_wrong_credentials(self, eureka_server_basic: RunningEureka, credentials: str) -> None:
        """401 with a challenge, no redirect, for every path and method."""
        caller = Caller(eureka_server_basic.address.replace("://", f"://{credentials}", 1))
        with caller.http:
            for answer in (caller.register(), caller.get("/apps"), caller.get("/nope"), caller.cancel()):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic realm=")

    def test_csrf_protection_left_on(self, eureka_server_csrf: RunningEureka) -> None:
        """What a wrongly set-up server does: reading works, every change is refused with the right credentials."""
        caller = Caller(eureka_server_csrf.url)
        with caller.http:
            assert caller.get("/apps").status_code == 200
            assert caller.http.options("/apps").status_code == 200
            for answer in (caller.register(), caller.heartbeat(), caller.override(OUT), caller.cancel()):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Basic realm=")


def registration_xml(caller: Caller, more: str = "") -> str:
    return (
        f"<instance><instanceId>{caller.id}</instanceId><hostName>host</hostName><app>{caller.app}</app>"
        f"<ipAddr>10.0.0.1</ipAddr>{more}<dataCenterInfo><name>MyOwn</name></dataCenterInfo></instance>"
    )


def as_json(element: ET.Element) -> Any:
    """The JSON that Eureka would have written for this XML."""
    attributes = {f"@{name}": value for name, value in element.attrib.items() if name == "class"}
    if element.tag in ("port", "securePort"):
        return {"$": int(element.text or ""), "@enabled": element.get("enabled")}
    if len(element) or attributes:
        return attributes | {child.tag: as_json(child) for child in element}
    text = element.text or ""
    numbers = {"countryId", "renewalIntervalInSecs", "durationInSecs", "registrationTimestamp", "lastRenewalTimestamp"}
    return int(text) if element.tag in numbers | {"evictionTimestamp", "serviceUpTimestamp"} else text


def fields_in_xml_order(caller: Caller) -> Iterator[str]:
    fields = caller.read()
    assert fields is not None
    for name in fields:
        yield "overriddenstatus" if name == "overriddenStatus" else name


def status_in(answer: httpx.Response, caller: Caller) -> str | None:
    """The status of the caller's instance in a view of one or many applications."""
    if answer.status_code == 404:
        return None
    document = answer.raise_for_status().json()
    applications = [document["application"]] if "application" in document else document["applications"]["application"]
    instances = [each for application in applications for each in application["instance"]]
    return next((each["status"] for each in instances if each.get("instanceId") == caller.id), None)


def listed_statuses(caller: Caller) -> set[str | None]:
    """What the cached views say: all apps, one app, one VIP, one secure VIP. (The changes list the deleted, too.)"""
    views = ("/apps", f"/apps/{caller.app}", f"/vips/{caller.app}", f"/svips/{caller.app}")
    return {status_in(caller.get(view), caller) for view in views}


def wait_for_a_refresh(caller: Caller) -> None:
    """Return right after the server refreshed its views, seen by a change that shows in all that the tests share.

    The views are made one after the other: a change that comes while some are still to be made shows in them at once.
    """
    marker = Caller(str(caller.http.base_url))
    with marker.http:
        marker.get(f"/apps/{marker.app}")
        marker.register()
        wait_until(lambda: marker.listed_status() == UP, "a refresh shows a new app")
        shared = [(view, accept) for view in ("/apps", "/apps/delta") for accept in (JSON, XML)]
        wait_until(lambda: all(marker.id in marker.get(*each).text for each in shared), "every view shows a new app")
        marker.cancel()


def stale_after(caller: Caller, change: Any, interval: float) -> set[str | None]:
    """What the views said of an UP instance right after a change, before any refresh."""
    for _ in range(ATTEMPTS):
        caller.cancel()
        caller.register(vipAddress=caller.app, secureVipAddress=caller.app)
        wait_until(lambda: listed_statuses(caller) == {UP}, "every list says UP")
        wait_for_a_refresh(caller)
        refreshed_at = time.monotonic()
        assert change().status_code == 200
        seen = listed_statuses(caller)
        if time.monotonic() < refreshed_at + interval * 0.7:
            return seen
    pytest.fail(f"this machine is too busy to see what happens within {interval:g} s")


def expire(caller: Caller) -> None:
    """Have an OUT_OF_SERVICE instance whose lease has just expired."""
    caller.cancel()
    caller.register(leaseInfo={"durationInSecs": 1, "renewalIntervalInSecs": 1})
    caller.override(OUT)
    wait_until(lambda: caller.read() is None, "the lease expires")
