"""The instance as callers see it: from settings, by Spring's names too, to what both kinds of server give out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from unittest import mock
from xml.etree import ElementTree as ET

import httpx
import pytest

from graceful.eureka.described import instance_of
from graceful.eureka.rest import Server
from graceful.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graceful.eureka.instance import Instance
    from tests.eureka_servers import RunningEureka

pytestmark = pytest.mark.anyio

# What a Spring client, too, would take from its environment; all but the servers.
SPRING = {
    "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE": "http://unused",
    "SPRING_APPLICATION_NAME": "instance-as-seen",
    "SERVER_PORT": "8080",
    "EUREKA_INSTANCE_SECUREPORT": "8443",
    "EUREKA_INSTANCE_SECUREPORTENABLED": "true",
    "EUREKA_INSTANCE_INSTANCEID": "seen-1",
    "EUREKA_INSTANCE_HOSTNAME": "orders.example.org",
    "EUREKA_INSTANCE_IPADDRESS": "10.0.0.7",
    "EUREKA_INSTANCE_VIRTUALHOSTNAME": "seen",
    "EUREKA_INSTANCE_SECUREVIRTUALHOSTNAME": "seen-tls",
    "EUREKA_INSTANCE_HOMEPAGEURL": "https://orders.example.org/?a=b&c=d",
    "EUREKA_INSTANCE_STATUSPAGEURLPATH": "/actuator/info",
    "EUREKA_INSTANCE_HEALTHCHECKURLPATH": "/actuator/health",
    "EUREKA_INSTANCE_METADATAMAP_ZONE": "west",
    "EUREKA_INSTANCE_METADATAMAP_MANAGEMENT_PORT": "8081",
    "EUREKA_INSTANCE_LEASERENEWALINTERVALINSECONDS": "10",
    "EUREKA_INSTANCE_LEASEEXPIRATIONDURATIONINSECONDS": "40",
}


@pytest.fixture
def anyio_backend() -> str:
    """graceful's own event loop is asyncio's."""
    return "asyncio"


def instance(arguments: Mapping[str, Any] = {}, environ: Mapping[str, str] = {}) -> Instance:
    with mock.patch.dict(os.environ, environ, clear=True):
        return instance_of(load_settings(arguments))


async def test_callers_see_what_was_set(eureka_server: RunningEureka) -> None:
    """Field for field, in JSON and in XML."""
    server = Server(eureka_server.url)
    one = instance({}, SPRING)
    await server.deregister(one.app, one.instance_id)
    await server.register(one, 1)
    url = f"{eureka_server.address}/apps/{one.app}/{one.instance_id}"
    async with httpx.AsyncClient(trust_env=False) as client:
        seen = (await client.get(url, headers={"Accept": "application/json"})).json()["instance"]
        xml = ET.fromstring((await client.get(url, headers={"Accept": "application/xml"})).text)
    texts = {
        "instanceId": "seen-1",
        "app": "INSTANCE-AS-SEEN",
        "hostName": "orders.example.org",
        "ipAddr": "10.0.0.7",
        "status": "UP",
        "homePageUrl": "https://orders.example.org/?a=b&c=d",
        "statusPageUrl": "http://orders.example.org:8080/actuator/info",
        "healthCheckUrl": "http://orders.example.org:8080/actuator/health",
        "secureHealthCheckUrl": "https://orders.example.org:8443/actuator/health",
        "vipAddress": "seen",
        "secureVipAddress": "seen-tls",
    }
    assert texts.items() <= seen.items()
    assert {name: xml.findtext(name) for name in texts} == texts
    assert seen["port"] == {"$": 8080, "@enabled": "true"}
    assert seen["securePort"] == {"$": 8443, "@enabled": "true"}
    assert [(port.text, port.get("enabled")) for port in (*xml.iter("port"), *xml.iter("securePort"))] == [
        ("8080", "true"),
        ("8443", "true"),
    ]
    assert seen["metadata"] == {"zone": "west", "management.port": "8081"}
    assert {entry.tag: entry.text for entry in xml.iterfind("metadata/*")} == seen["metadata"]
    assert seen["leaseInfo"].items() >= {"renewalIntervalInSecs": 10, "durationInSecs": 40}.items()
    await server.deregister(one.app, one.instance_id)


async def test_any_metadata_arrives_as_it_is(eureka_server: RunningEureka) -> None:
    """What XML or a path would read something into, too; the XML of it can be read, or no caller could read any."""
    metadata = {"a b": "<&>\"'", "_$x": "ü 😀", "1": "${x}", "k.v-w/z": "=,;", "ß": "x"}
    one = instance({"eureka_url": "http://unused", "app_name": "instance-metadata", "port": 1, "metadata": metadata})
    server = Server(eureka_server.url)
    await server.register(one, 1)
    url = f"{eureka_server.address}/apps/{one.app}/{one.instance_id}"
    async with httpx.AsyncClient(trust_env=False) as client:
        seen = (await client.get(url, headers={"Accept": "application/json"})).json()["instance"]["metadata"]
        xml = ET.fromstring((await client.get(url, headers={"Accept": "application/xml"})).text)
    await server.deregister(one.app, one.instance_id)
    assert seen == metadata
    assert {entry.text for entry in xml.iterfind("metadata/*")} == {*metadata.values()}


EUREKA: dict[str, Any] = {"eureka_url": "http://unused", "app_name": "Orders", "port": 8080, "ip_addr": "10.0.0.7"}


def test_what_is_not_set_follows_from_name_address_and_port() -> None:
    """The secure port is the one that Spring has where there is none."""
    one = instance(EUREKA)
    assert (one.instance_id, one.hostname, one.vip, one.secure_vip) == (
        "orders:10.0.0.7:8080",
        one.ip,
        "orders",
        "orders",
    )
    assert (one.port_enabled, one.secure_port, one.secure_port_enabled) == (True, 443, False)
    assert (one.home_url, one.status_url) == ("http://10.0.0.7:8080/", "http://10.0.0.7:8080/livez")
    assert (one.health_url, one.secure_health_url) == ("http://10.0.0.7:8080/readyz", "")
    assert (dict(one.metadata), one.renewal_interval, one.lease_duration) == ({}, 30, 90)
    assert instance(EUREKA | {"vip_address": "shop"}).secure_vip == "shop"


def test_a_service_with_https_alone() -> None:
    """Spring's way: one port, said to be the secure one. All pages are there."""
    one = instance(
        EUREKA, {"EUREKA_INSTANCE_SECUREPORTENABLED": "true", "EUREKA_INSTANCE_NONSECUREPORTENABLED": "false"}
    )
    assert (one.port, one.port_enabled, one.secure_port, one.secure_port_enabled) == (8080, False, 8080, True)
    assert {one.home_url, one.health_url, one.secure_health_url} == {
        "https://10.0.0.7:8080/",
        "https://10.0.0.7:8080/readyz",
    }


def test_a_disabled_secure_port_is_told_as_such() -> None:
    """It keeps its number, and there is no page on it."""
    one = instance(EUREKA | {"secure_port": 8443, "secure_port_enabled": False})
    assert (one.secure_port, one.secure_port_enabled, one.secure_health_url) == (8443, False, "")


def test_pages_may_be_elsewhere() -> None:
    """A whole URL stays as it is; the secure one follows from a path only."""
    pages = {"status_page_url": "http://s", "home_page_url": "/home", "secure_port": 8443, "ip_addr": "fd00::7"}
    one = instance(EUREKA | pages | {"health_check_url": "http://h/x"})
    assert (one.home_url, one.status_url, one.health_url) == ("http://[fd00::7]:8080/home", "http://s", "http://h/x")
    assert one.secure_health_url == ""
    assert instance(EUREKA | pages | {"secure_health_check_url": "/h"}).secure_health_url == "https://[fd00::7]:8443/h"


def test_the_ip_address_is_preferred_where_asked() -> None:
    """As Spring does it, even over a host name that was set; without a host name it is used in any case."""
    named = EUREKA | {"hostname": "orders.example.org"}
    assert instance(named).hostname == "orders.example.org"
    assert instance(named, {"EUREKA_INSTANCE_PREFERIPADDRESS": "true"}).hostname == "10.0.0.7"
    assert instance(EUREKA, {"EUREKA_INSTANCE_PREFERIPADDRESS": "false"}).hostname == "10.0.0.7"
