"""The two languages of the emulated Crowd: entities → JSON and XML, bodies → plain dicts.

Rendered entities are kept on the entity as bytes until it changes, so that a page of a thousand is
one join. XML input becomes the dict that the same thing would be in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

import orjson
from lxml import etree

from deployments.sandbox.crowd_data import Attributes, Event, Group, Refusal, Session, User

XML_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'

_SPECIAL: Final = re.compile('[&<>"\x00-\x1f\ufffe\uffff]')
_ESCAPES: Final = {
    **dict.fromkeys((*range(32), 0xFFFE, 0xFFFF), "\ufffd"),
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    ord("\t"): "&#9;",
    ord("\n"): "&#10;",
    ord("\r"): "&#13;",
}
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]*")


def _dumps(document: Any) -> bytes:
    # A copy, because these are kept: orjson leaves kilobytes of unused room behind its result.
    return b"%b" % orjson.dumps(document)


def escape(text: str) -> str:
    """Text for an XML element or a quoted XML attribute."""
    return text.translate(_ESCAPES) if _SPECIAL.search(text) else text


def _url(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe="")


def iso(moment: int) -> str:
    """Epoch milliseconds → ISO date, as dates stand in XML."""
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")


def _document(body: bytes) -> bytes:
    return XML_DECLARATION + body


class Wire:
    """Renders entities with links under one base URL (`http://host:port/crowd/rest/usermanagement/1`)."""

    def __init__(self, base: str) -> None:
        self.base = base

    # --- users

    def user(self, user: User, *, json: bool, attributes: bool = False) -> bytes:
        """A whole user, as a fragment of its language."""
        if json:
            found = user.json_attributes if attributes else user.json
        else:
            found = user.xml_attributes if attributes else user.xml
        if found is None:
            found = self._user_json(user, attributes) if json else self._user_xml(user, attributes)
            if json and attributes:
                user.json_attributes = found
            elif json:
                user.json = found
            elif attributes:
                user.xml_attributes = found
            else:
                user.xml = found
        return found

    def _user_json(self, user: User, attributes: bool) -> bytes:
        link = f"{self.base}/user?username={_url(user.name)}"
        return _dumps(
            {
                "expand": "attributes",
                "link": {"href": link, "rel": "self"},
                "name": user.name,
                "first-name": user.first_name,
                "last-name": user.last_name,
                "display-name": user.display_name,
                "email": user.email,
                "password": {"link": {"href": f"{self.base}/user/password?username={_url(user.name)}", "rel": "edit"}},
                "key": user.key,
                "created-date": user.created,
                "updated-date": user.updated,
                "active": user.active,
                "attributes": self._attributes("user", "username", user, attributes),
            }
        )

    def _attributes(self, kind: str, parameter: str, entity: User | Group, filled: bool) -> dict[str, Any]:
        link = f"{self.base}/{kind}/attribute?{parameter}={_url(entity.name)}"
        return {
            "attributes": [
                {
                    "link": {"href": f"{link}&attributename={_url(name)}", "rel": "self"},
                    "name": name,
                    "values": list(values),
                }
                for name, values in entity.attributes.items()
            ]
            if filled
            else [],
            "link": {"href": link, "rel": "self"},
        }

    def _user_xml(self, user: User, attributes: bool) -> bytes:
        name = _url(user.name)
        return (
            f'<user name="{escape(user.name)}" expand="attributes">'
            f'<link rel="self" href="{self.base}/user?username={name}"/>'
            f"<first-name>{escape(user.first_name)}</first-name>"
            f"<last-name>{escape(user.last_name)}</last-name>"
            f"<display-name>{escape(user.display_name)}</display-name>"
            f"<email>{escape(user.email)}</email>"
            f'<password><link rel="edit" href="{self.base}/user/password?username={name}"/></password>'
            f"<key>{user.key}</key>"
            f"<created-date>{iso(user.created)}</created-date>"
            f"<updated-date>{iso(user.updated)}</updated-date>"
            f"<active>{_truth(user.active)}</active>"
            f"{self._attributes_xml('user', 'username', user, attributes)}</user>"
        ).encode()

    def _attributes_xml(self, kind: str, parameter: str, entity: User | Group, filled: bool) -> str:
        link = f"{self.base}/{kind}/attribute?{parameter}={_url(entity.name)}"
        inner = "".join(
            f'<attribute name="{escape(name)}">'
            f'<link rel="self" href="{escape(link)}&amp;attributename={_url(name)}"/>'
            f"{_values_xml(values)}</attribute>"
            for name, values in (entity.attributes.items() if filled else ())
        )
        return f'<attributes><link rel="self" href="{link}"/>{inner}</attributes>'

    def user_brief(self, user: User, *, json: bool) -> bytes:
        """Name and link, as in lists without expand."""
        found = user.json_brief if json else user.xml_brief
        if found is None:
            found = self._brief("user", "username", user.name, json)
            if json:
                user.json_brief = found
            else:
                user.xml_brief = found
        return found

    def _brief(self, kind: str, parameter: str, name: str, json: bool) -> bytes:
        link = f"{self.base}/{kind}?{parameter}={_url(name)}"
        if json:
            return _dumps({"link": {"href": link, "rel": "self"}, "name": name})
        return f'<{kind} name="{escape(name)}"><link href="{link}" rel="self"/></{kind}>'.encode()

    # --- groups

    def group(self, group: Group, *, json: bool, attributes: bool = False) -> bytes:
        """A whole group, as a fragment of its language."""
        if json:
            found = group.json_attributes if attributes else group.json
        else:
            found = group.xml_attributes if attributes else group.xml
        if found is None:
            found = self._group_json(group, attributes) if json else self._group_xml(group, attributes)
            if json and attributes:
                group.json_attributes = found
            elif json:
                group.json = found
            elif attributes:
                group.xml_attributes = found
            else:
                group.xml = found
        return found

    def _group_json(self, group: Group, attributes: bool) -> bytes:
        whole: dict[str, Any] = {
            "expand": "attributes",
            "link": {"href": f"{self.base}/group?groupname={_url(group.name)}", "rel": "self"},
            "name": group.name,
        }
        if group.description is not None:
            whole["description"] = group.description
        whole["type"] = "GROUP"
        whole["active"] = group.active
        whole["attributes"] = self._attributes("group", "groupname", group, attributes)
        return _dumps(whole)

    def _group_xml(self, group: Group, attributes: bool) -> bytes:
        described = group.description
        return (
            f'<group name="{escape(group.name)}" expand="attributes">'
            f'<link rel="self" href="{self.base}/group?groupname={_url(group.name)}"/>'
            f"{'' if described is None else f'<description>{escape(described)}</description>'}"
            f"<type>GROUP</type><active>{_truth(group.active)}</active>"
            f"{self._attributes_xml('group', 'groupname', group, attributes)}</group>"
        ).encode()

    def group_brief(self, group: Group, *, json: bool) -> bytes:
        """Name and link, as in lists without expand."""
        found = group.json_brief if json else group.xml_brief
        if found is None:
            found = self._brief("group", "groupname", group.name, json)
            if json:
                group.json_brief = found
            else:
                group.xml_brief = found
        return found

    # --- lists and the rest

    def users(self, users: Sequence[User], *, json: bool, full: bool, attributes: bool) -> bytes:
        """A page of users."""
        if full:
            parts = [self.user(user, json=json, attributes=attributes) for user in users]
        else:
            parts = [self.user_brief(user, json=json) for user in users]
        return _list("user", parts, json)

    def groups(self, groups: Sequence[Group], *, json: bool, full: bool, attributes: bool) -> bytes:
        """A page of groups."""
        if full:
            parts = [self.group(group, json=json, attributes=attributes) for group in groups]
        else:
            parts = [self.group_brief(group, json=json) for group in groups]
        return _list("group", parts, json)

    def attributes(self, entity: User | Group, *, json: bool) -> bytes:
        """All attributes of one user or group."""
        kind, parameter = ("user", "username") if isinstance(entity, User) else ("group", "groupname")
        if json:
            return orjson.dumps(self._attributes(kind, parameter, entity, True))
        return _document(self._attributes_xml(kind, parameter, entity, True).encode())

    def session(self, session: Session, *, json: bool, full: bool) -> bytes:
        user = self.user(session.user, json=json) if full else self.user_brief(session.user, json=json)
        link = f"{self.base}/session/{session.token}"
        if json:
            return orjson.dumps(
                {
                    "expand": "user",
                    "token": session.token,
                    "user": orjson.Fragment(user),
                    "link": {"href": link, "rel": "self"},
                    "created-date": session.created,
                    "expiry-date": session.expiry,
                }
            )
        return _document(
            f'<session expand="user"><token>{session.token}</token>'.encode()
            + user
            + f'<link rel="self" href="{link}"/><created-date>{iso(session.created)}</created-date>'
            f"<expiry-date>{iso(session.expiry)}</expiry-date></session>".encode()
        )

    def events(
        self,
        token: str,
        available: bool,
        events: Iterable[Event] | None,
        user_named: Callable[[str], User | None],
        group_named: Callable[[str], Group | None],
        *,
        json: bool,
    ) -> bytes:
        """The current token, and what happened since another one (None: only the token is asked)."""
        order = ("userEvent", "groupEvent", "userMembershipEvent", "groupMembershipEvent")
        sorted_events = sorted(events or (), key=lambda event: order.index(event.kind))

        def entity(kind: str, name: str) -> bytes:
            if kind == "user":
                user = user_named(name)
                if user is not None:
                    return self.user(user, json=json)
            else:
                group = group_named(name)
                if group is not None:
                    return self.group(group, json=json)
            return self._brief(kind, "username" if kind == "user" else "groupname", name, json)

        if json:
            answer: dict[str, Any] = {
                "newEventToken": token,
                "incrementalSynchronisationAvailable": available,
            }
            if events is not None:
                answer["events"] = [_event_json(event, entity) for event in sorted_events]
            return orjson.dumps(answer)
        head = f'<events newEventToken="{escape(token)}" incrementalSynchronisationAvailable="{_truth(available)}"'
        if not sorted_events:
            return _document(f"{head}/>".encode())
        inner = b"".join(_event_xml(event, entity) for event in sorted_events)
        return _document(f"{head}>".encode() + inner + b"</events>")

    # --- all memberships, XML only

    def membership(self, group: Group) -> bytes:
        """The `membership` element of a group in a lone directory."""
        found = group.xml_membership
        if found is None:
            found = group.xml_membership = membership(
                group, group.members(), sorted(group.children, key=lambda child: child.fold)
            )
        return found


def membership(group: Group, users: Iterable[User], children: Iterable[Group]) -> bytes:
    """One group with its direct users and direct child groups."""
    members = b"".join([user.xml_member or _member(user) for user in users])
    below = "".join(f'<group name="{escape(child.name)}"/>' for child in children).encode()
    return b"".join(
        (
            f'<membership group="{escape(group.name)}">'.encode(),
            b"<users>" + members + b"</users>" if members else b"<users/>",
            b"<groups>" + below + b"</groups>" if below else b"<groups/>",
            b"</membership>",
        )
    )


def _member(user: User) -> bytes:
    user.xml_member = f'<user name="{escape(user.name)}"/>'.encode()
    return user.xml_member


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _values_xml(values: Iterable[str]) -> str:
    return f"<values>{''.join(f'<value>{escape(value)}</value>' for value in values)}</values>"


def _list(kind: str, parts: list[bytes], json: bool) -> bytes:
    if json:
        return b'{"expand":"%b","%bs":[' % (kind.encode(), kind.encode()) + b",".join(parts) + b"]}"
    if not parts:
        return _document(f'<{kind}s expand="{kind}"/>'.encode())
    return _document(f'<{kind}s expand="{kind}">'.encode() + b"".join(parts) + f"</{kind}s>".encode())


def _event_json(event: Event, entity: Callable[[str, str], bytes]) -> dict[str, Any]:
    answer: dict[str, Any] = {"type": event.kind, "operation": event.operation}
    if event.kind in ("userEvent", "groupEvent"):
        kind = event.kind.removesuffix("Event")
        answer[kind] = orjson.Fragment(entity(kind, event.name))
        if event.stored or event.deleted:
            answer["storedAttributes"] = {
                "attributes": [{"name": name, "values": list(values)} for name, values in event.stored]
            }
            answer["deletedAttributes"] = list(event.deleted)
    elif event.kind == "userMembershipEvent":
        answer["childUser"] = {"name": event.name}
        answer["parentGroups"] = {"groups": [{"name": event.parent}]}
    else:
        answer["group"] = {"name": event.name}
        answer["parentGroups"] = {"groups": [{"name": event.parent}]}
        answer["childGroups"] = {"groups": []}
    return answer


def _event_xml(event: Event, entity: Callable[[str, str], bytes]) -> bytes:
    inner = f"<operation>{event.operation}</operation>".encode()
    name, parent = escape(event.name), escape(event.parent)
    if event.kind in ("userEvent", "groupEvent"):
        inner += entity(event.kind.removesuffix("Event"), event.name)
        if event.stored or event.deleted:
            stored = "".join(
                f'<attribute name="{escape(name)}">{_values_xml(values)}</attribute>' for name, values in event.stored
            )
            deleted = "".join(f"<attribute>{escape(name)}</attribute>" for name in event.deleted)
            inner += (
                f"<storedAttributes>{stored}</storedAttributes><deletedAttributes>{deleted}</deletedAttributes>"
            ).encode()
    elif event.kind == "userMembershipEvent":
        inner += (f'<childUser name="{name}"/><parentGroups><group name="{parent}"/></parentGroups>').encode()
    else:
        inner += (f'<group name="{name}"/><parentGroups><group name="{parent}"/></parentGroups><childGroups/>').encode()
    return f"<{event.kind}>".encode() + inner + f"</{event.kind}>".encode()


def error(reason: str, message: str, *, json: bool) -> bytes:
    if json:
        return orjson.dumps({"reason": reason, "message": message})
    return _document(f"<error><reason>{escape(reason)}</reason><message>{escape(message)}</message></error>".encode())


def cookie_config(*, json: bool) -> bytes:
    if json:
        return b'{"domain":"","name":"crowd.token_key","secure":false}'
    return _document(
        b"<cookie-config><domain></domain><secure>false</secure><name>crowd.token_key</name></cookie-config>"
    )


def webhook(identifier: int, endpoint: str, *, json: bool) -> bytes:
    if json:
        return orjson.dumps({"id": identifier, "endpointUrl": endpoint})
    return _document(f"<webhook><id>{identifier}</id><endpointUrl>{escape(endpoint)}</endpointUrl></webhook>".encode())


def whole(fragment: bytes, *, json: bool) -> bytes:
    """A fragment as a document of its own."""
    return fragment if json else _document(fragment)


# --- bodies


def _bad(message: str) -> Refusal:
    return Refusal(400, "ILLEGAL_ARGUMENT", message)


def parse_json(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad(f"Cannot read the JSON body: {error}") from None
    if not isinstance(document, dict):
        raise _bad("The JSON body must be an object")
    return document


def parse_xml(body: bytes, roots: Sequence[str]) -> dict[str, Any]:
    """An XML body with one of these roots → the dict that its JSON form would be."""
    # A new parser each time: lxml parsers are not meant to be shared, and this costs microseconds.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _bad(f"Cannot read the XML body: {error}") from None
    if cast(Any, root.getroottree().docinfo).doctype:
        raise _bad("A document type is not allowed in an XML body")
    if root.tag not in roots:
        raise _bad(f"The XML body has the root <{root.tag}> where <{roots[0]}> is expected")
    if "restriction" in str(root.tag):
        return _restriction(root)
    return _element(root)


_BOOLEAN = "boolean-search-restriction"


def _restriction(element: Any, depth: int = 0) -> dict[str, Any]:
    if depth > 100:
        raise _bad("The restriction is nested too deeply")
    if element.tag == _BOOLEAN:
        inner = element.find("restrictions")
        return {
            "restriction-type": _BOOLEAN,
            "boolean-logic": element.get("boolean-logic"),
            "restrictions": [_restriction(child, depth + 1) for child in (inner if inner is not None else ())],
        }
    return {**_element(element), "restriction-type": element.tag}


def _element(element: Any, depth: int = 0) -> dict[str, Any]:
    if depth > 10:
        raise _bad("The XML body is nested too deeply")
    found: dict[str, Any] = {}
    if element.get("name") is not None:
        found["name"] = element.get("name")
    if element.tag == "attributes":
        found["attributes"] = [
            {
                "name": child.get("name"),
                "values": [value.text or "" for value in child.iterfind("values/value")],
            }
            for child in element.iterfind("attribute")
        ]
        return found
    if element.tag == "validation-factors":
        found["validationFactors"] = [_element(child, depth + 1) for child in element.iterfind("validation-factor")]
        return found
    for child in element:
        found[str(child.tag)] = (
            _element(child, depth + 1) if len(child) or child.tag == "attributes" else (child.text or "")
        )
    return found


def text_of(document: dict[str, Any], name: str) -> str | None:
    """A scalar member as text; None where it is missing or null."""
    value = document.get(name)
    if value is None or isinstance(value, str):
        return value
    return _scalar(value, name)


def _scalar(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return _truth(value)
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value
    raise _bad(f"{name} must be a text")


def truth_of(document: dict[str, Any], name: str) -> bool:
    """A boolean member, also as text; missing is false."""
    value = document.get(name)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise _bad(f"{name} must be true or false")


def secret_of(document: dict[str, Any], name: str) -> str | None:
    """The value of `{"password":{"value":…}}`; None where there is none, as in the link of a GET."""
    inner = document.get(name)
    return text_of(inner, "value") if isinstance(inner, dict) else None


def attributes_of(document: dict[str, Any]) -> Attributes:
    """The body `{"attributes":[{"name","values"}]}`; an empty list of values removes one."""
    listed = document.get("attributes")
    if not isinstance(listed, list):
        raise _bad("attributes must be a list")
    found: Attributes = {}
    for one in listed:
        if not isinstance(one, dict):
            raise _bad("An attribute must be an object with name and values")
        name, values = one.get("name"), one.get("values")
        if not isinstance(name, str) or not name or not isinstance(values, list):
            raise _bad("An attribute must have a name and a list of values")
        found[name] = tuple(dict.fromkeys(_scalar(value, "An attribute value") for value in values))
    return found


def factors_of(document: Any) -> dict[str, str]:
    """Validation factors as name → value."""
    listed = document.get("validationFactors", []) if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise _bad("validationFactors must be a list")
    found: dict[str, str] = {}
    for one in listed:
        name = text_of(one, "name") if isinstance(one, dict) else None
        if not name:
            raise _bad("A validation factor must have a name and a value")
        found[name] = text_of(one, "value") or ""
    return found
