"""How an embedded Eureka reads and writes instances: JSON and XML as Spring Cloud Eureka 5.0 does. Pure functions."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from graceful.rehearsal.eureka_model import (
    DEFAULT_LEASE_DURATION,
    DEFAULT_RENEWAL_INTERVAL,
    DataCenter,
    Instance,
    InstanceStatus,
    Lease,
    Port,
    millis,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "JSON",
    "XML",
    "UnreadableBodyError",
    "application_view",
    "applications_view",
    "instance_view",
    "read_instance",
]

JSON = "application/json"
XML = "application/xml"

PACKAGE = "com.netflix.appinfo."
DEFAULT_DATA_CENTER = PACKAGE + "InstanceInfo$DefaultDataCenterInfo"
AMAZON_DATA_CENTER = PACKAGE + "AmazonInfo"
DATA_CENTER_NAMES = {"Netflix", "Amazon", "MyOwn", None}
# The optional fields that the registry passes on as they are, in the order of the wire.
LEADING_TEXTS = ("appGroupName", "homePageUrl", "statusPageUrl", "healthCheckUrl", "secureHealthCheckUrl")
TEXTS = (*LEADING_TEXTS, "vipAddress", "secureVipAddress", "asgName")


class UnreadableBodyError(ValueError):
    """The body of a registration is no instance."""


def read_instance(body: bytes, media_type: str, now: float) -> Instance | None:
    """Read the body of a registration.

    Bad numbers and statuses are forgiven as Eureka forgives them: a port becomes 0, a status UNKNOWN.

    Returns:
        The instance, its missing texts as empty strings, its missing data center as None (the caller refuses both);
        None when the body is a bare `null`.

    Raises:
        UnreadableBodyError: the body is not an instance at all.
    """
    try:
        document = _read_json(body) if media_type == JSON else _read_xml(body)
        return None if document is None else _instance(document, now)
    except (ValueError, TypeError, AttributeError, LookupError, ET.ParseError) as error:
        raise UnreadableBodyError("cannot parse request body") from error


def _read_json(body: bytes) -> dict[str, Any] | None:
    # raw_decode, because Eureka stops reading after the instance and never sees what trails it.
    document, _ = json.JSONDecoder().raw_decode(body.decode())
    if document is None:
        return None
    ((root, fields),) = document.items()
    if root != "instance":
        raise UnreadableBodyError
    return dict(fields)


def _read_xml(body: bytes) -> dict[str, Any]:
    if b"<!DOCTYPE" in body:
        raise UnreadableBodyError
    root = ET.fromstring(body)  # noqa: S314 - without a document type there are no entities to blow up
    if root.tag != "instance":
        raise UnreadableBodyError
    fields: dict[str, Any] = {element.tag: element.text or "" for element in root}
    for element in root:
        if element.tag in ("port", "securePort"):
            fields[element.tag] = {"$": element.text, "@enabled": element.get("enabled", "true")}
        elif element.tag == "metadata":
            fields[element.tag] = {_key_of(child.tag): child.text or "" for child in element}
        elif element.tag == "leaseInfo":
            fields[element.tag] = {child.tag: child.text for child in element}
        elif element.tag == "dataCenterInfo":
            fields[element.tag] = _data_center_of_xml(element)
    return fields


def _data_center_of_xml(element: ET.Element) -> dict[str, Any]:
    metadata = {child.tag: child.text or "" for child in element.iterfind("metadata/*")}
    document = {"@class": element.get("class", DEFAULT_DATA_CENTER), "name": element.findtext("name")}
    return document | ({"metadata": metadata} if metadata else {})


def _instance(fields: Mapping[str, Any], now: float) -> Instance:
    if fields.get("app") is None:
        raise UnreadableBodyError  # Eureka upper-cases the name while it parses, and trips over a missing one
    lease = fields.get("leaseInfo") or {}
    instance_id = fields.get("instanceId")
    return Instance(
        instance_id=None if instance_id is None else str(instance_id),
        host_name=_text(fields.get("hostName")),
        app=str(fields["app"]).upper(),
        ip_address=_text(fields.get("ipAddr")),
        data_center=_data_center(fields.get("dataCenterInfo")),
        status=_status(fields.get("status"), missing=InstanceStatus.UP),
        overridden_status=_status(
            fields.get("overriddenstatus", fields.get("overriddenStatus")), missing=InstanceStatus.UNKNOWN
        ),
        port=_port(fields.get("port"), missing=Port(7001, enabled=True)),
        secure_port=_port(fields.get("securePort"), missing=Port(7002, enabled=False)),
        country_id=_number(fields.get("countryId", 1), otherwise=0),
        renewal_interval=_positive(lease.get("renewalIntervalInSecs"), DEFAULT_RENEWAL_INTERVAL),
        lease_duration=_positive(lease.get("durationInSecs"), DEFAULT_LEASE_DURATION),
        metadata=_texts(fields.get("metadata")),
        texts=_optional_texts(fields),
        last_dirty=_number(fields.get("lastDirtyTimestamp", millis(now)), otherwise=0),
    )


def _data_center(document: Any) -> DataCenter | None:
    if document is None:
        return None
    class_name, name = document["@class"], document.get("name")
    if name not in DATA_CENTER_NAMES:
        raise UnreadableBodyError
    if class_name == AMAZON_DATA_CENTER:
        return DataCenter(class_name, name, _texts(document["metadata"]))
    if class_name not in (DEFAULT_DATA_CENTER, PACKAGE + "MyDataCenterInfo"):
        raise UnreadableBodyError
    return DataCenter(DEFAULT_DATA_CENTER, name)


def _port(document: Any, missing: Port) -> Port:
    if document is None:
        return missing
    enabled = document.get("@enabled", missing.enabled) in (True, "true")
    return Port(_number(document.get("$"), otherwise=0), enabled=enabled)


def _status(value: Any, missing: InstanceStatus) -> InstanceStatus:
    if value is None:
        return missing
    return InstanceStatus(value) if value in list(InstanceStatus) else InstanceStatus.UNKNOWN


def _optional_texts(fields: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: str(fields[name]) for name in TEXTS if fields.get(name) is not None}
    if "appGroupName" in texts:
        texts["appGroupName"] = texts["appGroupName"].upper()
    return texts


def _texts(document: Any) -> dict[str, str]:
    return {str(key): _text(value, "null") for key, value in (document or {}).items() if key != "@class"}


def _text(value: Any, missing: str = "") -> str:
    return missing if value is None else str(value)


def _number(value: Any, otherwise: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return otherwise


def _positive(value: Any, otherwise: int) -> int:
    number = _number(value, otherwise)
    return number if number > 0 else otherwise


def instance_view(lease: Lease, media_type: str) -> bytes:
    """One instance, as `GET apps/{APP}/{ID}` and `GET instances/{ID}` show it.

    In XML, and here alone, Eureka speaks the language of its first version, which had no OUT_OF_SERVICE.
    """
    document = _instance_document(lease)
    if media_type == XML and lease.instance.status in (InstanceStatus.OUT_OF_SERVICE, InstanceStatus.UNKNOWN):
        document["status"] = InstanceStatus.DOWN.value
    return _write("instance", document, media_type)


def application_view(name: str, leases: Sequence[Lease], media_type: str) -> bytes:
    """One application, as `GET apps/{APP}` shows it."""
    return _write("application", _application_document(name, leases), media_type)


def applications_view(
    applications: Mapping[str, Sequence[Lease]], media_type: str, *, version: int, counted: Sequence[Lease]
) -> bytes:
    """Many applications, as `GET apps`, `apps/delta` and `vips/{VIP}` show them.

    Args:
        applications: instances by application.
        media_type: `JSON` or `XML`.
        version: the counter of changes that clients print in their logs.
        counted: the instances behind `apps__hashcode`, by which a client checks that its copy is whole.
    """
    statuses = Counter(lease.instance.status.value for lease in counted)
    document = {
        "versions__delta": str(version),
        "apps__hashcode": "".join(f"{status}_{count}_" for status, count in sorted(statuses.items())),
        "application": [_application_document(name, leases) for name, leases in applications.items()],
    }
    return _write("applications", document, media_type)


def _application_document(name: str, leases: Sequence[Lease]) -> dict[str, Any]:
    return {"name": name, "instance": [_instance_document(lease) for lease in leases]}


def _instance_document(lease: Lease) -> dict[str, Any]:
    """The instance in the JSON spelling and the field order of Eureka."""
    instance = lease.instance
    texts = dict(instance.texts)
    asg_name = texts.pop("asgName", None)
    document = {
        "instanceId": instance.instance_id,
        "hostName": instance.host_name,
        "app": instance.app,
        "ipAddr": instance.ip_address,
        "status": instance.status.value,
        "overriddenStatus": instance.overridden_status.value,
        "port": _port_document(instance.port),
        "securePort": _port_document(instance.secure_port),
        "countryId": instance.country_id,
        "dataCenterInfo": _data_center_document(instance.data_center),
        "leaseInfo": {
            "renewalIntervalInSecs": instance.renewal_interval,
            "durationInSecs": instance.lease_duration,
            "registrationTimestamp": millis(lease.registered_at),
            "lastRenewalTimestamp": millis(lease.renewed_at),
            "evictionTimestamp": millis(lease.evicted_at),
            "serviceUpTimestamp": millis(lease.service_up_at),
        },
        "metadata": instance.metadata or {"@class": "java.util.Collections$EmptyMap"},
        **texts,
        "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": str(instance.last_updated),
        "lastDirtyTimestamp": str(instance.last_dirty),
        "actionType": instance.action,
        "asgName": asg_name,
    }
    return {name: value for name, value in document.items() if value is not None}


def _port_document(port: Port) -> dict[str, Any]:
    return {"$": port.number, "@enabled": str(port.enabled).lower()}


def _data_center_document(center: DataCenter | None) -> dict[str, Any] | None:
    if center is None:
        return None
    document: dict[str, Any] = {"@class": center.class_name, "name": center.name}
    return document | ({"metadata": center.metadata} if center.metadata else {})


def _write(root: str, document: Mapping[str, Any], media_type: str) -> bytes:
    if media_type == JSON:
        return json.dumps({root: document}, ensure_ascii=False, separators=(",", ":")).encode()
    element = _element(root, document)
    ET.indent(element)
    return ET.tostring(element, encoding="unicode", short_empty_elements=False).encode()


def _element(name: str, value: Any) -> ET.Element:
    """The XML of a JSON document: `@x` is an attribute, `$` the text, a list repeats its element."""
    element = ET.Element("overriddenstatus" if name == "overriddenStatus" else name)
    if not isinstance(value, dict):
        element.text = str(value)
        return element
    for key, item in value.items():
        if key.startswith("@"):
            element.set(key[1:], str(item))
        elif key == "$":
            element.text = str(item)
        else:
            tag = _tag_of(key) if name == "metadata" else key
            element.extend(_element(tag, each) for each in (item if isinstance(item, list) else [item]))
    return element


def _tag_of(key: str) -> str:
    """A metadata key as a tag, escaped as XStream does: a key may hold characters that no tag may."""

    def escape(found: re.Match[str]) -> str:
        return {"_": "__", "$": "_-"}.get(found[0], f"_.{ord(found[0]):04x}")

    return re.sub(r"^[\d.-]|_|[^\w.-]", escape, key)


def _key_of(tag: str) -> str:
    """The metadata key that `_tag_of` escaped."""

    def unescape(found: re.Match[str]) -> str:
        return {"__": "_", "_-": "$"}.get(found[0]) or chr(int(found[1], 16))

    return re.sub(r"__|_-|_\.([0-9a-f]{4})", unescape, tag)
