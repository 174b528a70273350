"""What a test says to a Eureka server: one thin method per REST operation, no judgement on the answer."""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = "application/json"
XML = "application/xml"
DATA_CENTER = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}
LEFT_OUT = object()


class Caller:
    """Talks to one server about one app and one instance, which no other test uses.

    Args:
        url: the server's URL with its context path.
        name: part of the app's and the instance's name; by default a random one.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        name = name or uuid4().hex[:12]
        self.app = f"APP-{name.upper()}"
        self.id = f"host:{name}:8080"
        # verify=False: there is no TLS here, and reading the CA bundle takes longer than most tests.
        self.http = httpx.Client(base_url=url, timeout=20, headers={"accept": JSON}, trust_env=False, verify=False)
        self._headers: dict[str, str] = {}

    def as_peer(self, value: str = "true") -> Caller:
        """The same app, instance and connection, but its changes say that they come from another server."""
        peer = copy(self)
        peer._headers = {"x-netflix-discovery-replication": value}
        return peer

    def document(self, **changes: Any) -> dict[str, Any]:
        """The body of a registration; `LEFT_OUT` as a value leaves the field out."""
        fields = {
            "instanceId": self.id,
            "hostName": "host",
            "app": self.app,
            "ipAddr": "10.0.0.1",
            "status": "UP",
            "port": {"$": 8080, "@enabled": "true"},
            "dataCenterInfo": DATA_CENTER,
            **changes,
        }
        return {"instance": {name: value for name, value in fields.items() if value is not LEFT_OUT}}

    def register(self, **changes: Any) -> httpx.Response:
        return self.http.post(f"/apps/{self.app}", json=self.document(**changes), headers=self._headers)

    def send(self, body: str | bytes, content_type: str = JSON) -> httpx.Response:
        return self.http.post(f"/apps/{self.app}", content=body, headers={"content-type": content_type})

    def heartbeat(self, **query: Any) -> httpx.Response:
        return self.http.put(f"/apps/{self.app}/{self.id}", params=query, headers=self._headers)

    def cancel(self) -> httpx.Response:
        return self.http.delete(f"/apps/{self.app}/{self.id}", headers=self._headers)

    def override(self, value: str | None, **query: Any) -> httpx.Response:
        path = f"/apps/{self.app}/{self.id}/status"
        return self.http.put(path, params=_given(value=value, **query), headers=self._headers)

    def clear_override(self, value: str | None = None, **query: Any) -> httpx.Response:
        path = f"/apps/{self.app}/{self.id}/status"
        return self.http.delete(path, params=_given(value=value, **query), headers=self._headers)

    def get(self, path: str, accept: str = JSON) -> httpx.Response:
        return self.http.get(path, headers={"accept": accept})

    def read(self, instance_id: str | None = None) -> dict[str, Any] | None:
        """The instance straight from the registry; None where it is not."""
        answer = self.get(f"/apps/{self.app}/{instance_id or self.id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        fields: dict[str, Any] = answer.raise_for_status().json()["instance"]
        return fields

    def statuses(self) -> tuple[str, str] | None:
        """Status and overridden status straight from the registry; None where the instance is not."""
        fields = self.read()
        return None if fields is None else (fields["status"], fields["overriddenStatus"])

    def listed_status(self) -> str | None:
        """The status in the cached view of the app; None where the app is not listed."""
        answer = self.get(f"/apps/{self.app}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        listed = answer.raise_for_status().json()["application"]["instance"]
        return next((each["status"] for each in listed if each["instanceId"] == self.id), None)


def _given(**query: Any) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 15.0) -> None:
    """Ask again and again until it is so.

    Raises:
        TimeoutError: it was not so within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)
