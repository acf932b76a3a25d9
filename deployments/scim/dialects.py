"""What identity providers send that the protocol's core would refuse, in the spelling that it takes.

Microsoft Entra ID gives a manager as bare text, and attribute paths as keys of a value without a path; some clients
send nulls where they mean nothing. https://learn.microsoft.com/entra/identity/app-provisioning/application-provisioning-config-problem-scim-compatibility
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from scim2_models import InvalidValueException, PayloadTooLargeException

ENTERPRISE: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
OPERATIONS: Final = 2000
"""Operations in one PATCH."""
PATH: Final = 1000
"""Characters of one path."""

_MANAGER: Final = f"{ENTERPRISE}:manager".lower()
_UNHOLDABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0 has no form for, so that Crowd cannot hold it; PostgreSQL cannot hold the first of them."""


def unholdable(text: str) -> bool:
    """Whether a text has a character that Crowd or the database cannot hold."""
    return _UNHOLDABLE.search(text) is not None


def refuse_unholdable(value: Any) -> None:
    """Look through JSON as it is to be kept. Raises `InvalidValueException`."""
    if isinstance(value, str):
        if unholdable(value):
            raise InvalidValueException(detail="A value has a character that cannot be kept.")
    elif isinstance(value, dict):
        for name, one in value.items():
            refuse_unholdable(name)
            refuse_unholdable(one)
    elif isinstance(value, list):
        for one in value:
            refuse_unholdable(one)


def spelled(body: bytes) -> bytes:
    """A body as the protocol's core takes it; what is no JSON object stays as it is. Raises a SCIM error for a PATCH
    that is too long."""
    try:
        found = orjson.loads(body)
    except ValueError:
        return body
    return orjson.dumps(_message(found)) if isinstance(found, dict) else body


def _message(found: dict[str, Any]) -> dict[str, Any]:
    operations = _key(found, "operations")
    if operations is None:
        return _resource(found)
    listed = found[operations]
    if not isinstance(listed, list):
        return found
    if any(isinstance(one, dict) and _key(one, "method") for one in listed):  # a bulk request
        for one in listed:
            if isinstance(one, dict) and isinstance(one.get("data"), dict):
                one["data"] = _message(one["data"])
        return found
    if len(listed) > OPERATIONS:
        raise PayloadTooLargeException(detail=f"A PATCH has {OPERATIONS} operations at most.")
    parts = [part for one in listed for part in (_operations(one) if isinstance(one, dict) else [one])]
    # (an empty list is refused by the core; one that asks for nothing is not)
    return {**found, operations: parts or ([{"op": "add", "value": {}}] if listed else [])}


def _operations(one: dict[str, Any]) -> list[dict[str, Any]]:
    """One PATCH operation → the same in one or several; none where it asks for nothing."""
    path, value = one.get("path"), one.get("value")
    adds = str(one.get("op")).lower() == "add"
    if path is not None:
        if not isinstance(path, str) or len(path) > PATH:
            raise InvalidValueException(detail=f"A path is text of {PATH} characters at most.")
        if value is None and "value" in one and (adds or path.lower() == "active"):
            return []  # nothing is added; and who is disabled does not come back by a null
        if path.lower() == _MANAGER:
            return [{**one, "value": _manager(value)}]
        return [one]
    if not isinstance(value, dict):
        return [one]
    rest, apart = dict(_resource(value)), []
    for name in list(rest):
        if len(name) > PATH:
            raise InvalidValueException(detail=f"A path is text of {PATH} characters at most.")
        if rest[name] is None and (adds or name.lower() == "active"):
            del rest[name]
        elif "[" in name or name.lower() == _MANAGER:
            apart += _operations({"op": one.get("op"), "path": name, "value": rest.pop(name)})
    return ([{**one, "value": rest}] if rest or not apart else []) + apart


def _resource(found: dict[str, Any]) -> dict[str, Any]:
    extension = _key(found, ENTERPRISE.lower())
    if extension is None or not isinstance(found[extension], dict):
        return found
    more = dict(found[extension])
    name = _key(more, "manager")
    if name is not None:
        more[name] = _manager(more[name])
    return {**found, extension: more}


def _manager(value: Any) -> Any:
    return {"value": value} if isinstance(value, str) and value else value or None


def _key(found: dict[str, Any], name: str) -> str | None:
    """The key of this lower-case name: names ignore case (RFC 7643 2.1)."""
    return next((key for key in found if key.lower() == name), None)
