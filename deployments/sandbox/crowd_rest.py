"""The REST resources of the emulated Crowd: one function per call, one table of routes.

`Crowd` holds the state and answers requests; it opens no socket. The choices made where the
reference is silent stand in `deployments.sandbox.crowd`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

import orjson

from deployments.sandbox import crowd_wire as wire
from deployments.sandbox.crowd_cql import from_cql, from_tree
from deployments.sandbox.crowd_data import (
    FIRST_DIRECTORY_ID,
    PERMISSION_SETS,
    PERMISSIONS,
    Application,
    Directory,
    Event,
    EventSettings,
    Group,
    Refusal,
    Session,
    User,
    check_attributes,
    check_name,
    check_text,
    fold,
)
from deployments.sandbox.crowd_faults import EVENT_KINDS, PAGE_KINDS, PING_KINDS, Fault
from deployments.sandbox.crowd_pings import Webhook, is_endpoint, is_token
from deployments.sandbox.crowd_wire import Wire, attributes_of, factors_of, secret_of, text_of, truth_of

VERSION: Final = "Crowd/6.1.3"
JSON: Final = "application/json"
XML: Final = "application/xml"
HTML: Final = "text/html;charset=utf-8"
PLAIN: Final = "text/plain"
DEFAULT_MAX_RESULTS: Final = 1000
SESSION_SECONDS: Final = 1800
STREAM_CHUNK: Final = 64 * 1024

_RESTRICTIONS: Final = (
    "property-search-restriction",
    "boolean-search-restriction",
    "null-search-restriction",
)
# A 1x1 transparent picture: what an avatar's redirect leads to.
_PICTURE: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@dataclass(slots=True)
class Answer:
    """What goes back. `cut`, `hang` and `vanish` are for faults: how the sending goes wrong."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    stream: Iterator[bytes] | None = None
    cut: float | None = None  # send this share, then close
    hang: float = 0.0  # seconds of silence before vanishing
    vanish: bool = False  # reset instead of answering


NO_CONTENT: Final = 204


class Request:
    """One request to a usermanagement resource, its caller already known."""

    __slots__ = ("app", "body", "content_type", "fault", "json", "method", "path", "query", "xml_accepted")

    def __init__(
        self, method: str, path: str, query: dict[str, str], content_type: str, body: bytes, app: Application
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.content_type = content_type
        self.body = body
        self.app = app
        self.json = False
        self.xml_accepted = True
        self.fault: Fault | None = None

    def need(self, parameter: str) -> str:
        value = self.query.get(parameter)
        if not value:
            raise Refusal(400, "ILLEGAL_ARGUMENT", f"{parameter} query parameter must be given")
        return value

    def document(self, *roots: str) -> dict[str, Any]:
        """The body as a dict; `roots` are the XML roots that this call takes."""
        kind = self.content_type.partition(";")[0].strip().lower()
        if kind == JSON:
            return wire.parse_json(self.body)
        if kind in (XML, "text/xml"):
            return wire.parse_xml(self.body, roots)
        raise Refusal(415, "", "Unsupported Media Type")

    def expands(self) -> set[str]:
        return set(self.query.get("expand", "").split(","))

    def number(self, parameter: str, default: int, least: int) -> int:
        text = self.query.get(parameter)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise Refusal(400, "ILLEGAL_ARGUMENT", f"{parameter} <{text}> is not a valid number")
        return value

    def page(self, items: list[Any]) -> list[Any]:
        """The part of a list that start-index and max-results ask for."""
        start = self.number("start-index", 0, 0)
        count = self.number("max-results", DEFAULT_MAX_RESULTS, -1)
        if count < 0:
            count = len(items)
        if self.fault is not None:
            return self.fault.page(items, start, count)
        return items[start : start + count]

    def answer(self, status: int, body: bytes = b"") -> Answer:
        return Answer(status, body, JSON if self.json else XML)

    def user(self, status: int, user: User, *, attributes: bool = False) -> Answer:
        fragment = self.wire.user(user, json=self.json, attributes=attributes)
        return self.answer(status, wire.whole(fragment, json=self.json))

    def users(self, users: list[User]) -> Answer:
        expands = self.expands()
        body = self.wire.users(
            self.page(users), json=self.json, full="user" in expands, attributes="attributes" in expands
        )
        return self.answer(200, body)

    def groups(self, groups: list[Group]) -> Answer:
        expands = self.expands()
        body = self.wire.groups(
            self.page(groups), json=self.json, full="group" in expands, attributes="attributes" in expands
        )
        return self.answer(200, body)

    def one_user(self, user: User) -> Answer:
        """The single entity with which a list answers when one member was asked for."""
        expands = self.expands()
        if "user" in expands:
            return self.user(200, user, attributes="attributes" in expands)
        return self.answer(200, wire.whole(self.wire.user_brief(user, json=self.json), json=self.json))

    def one_group(self, group: Group) -> Answer:
        expands = self.expands()
        if "group" in expands:
            fragment = self.wire.group(group, json=self.json, attributes="attributes" in expands)
        else:
            fragment = self.wire.group_brief(group, json=self.json)
        return self.answer(200, wire.whole(fragment, json=self.json))

    wire: Wire  # set once per Crowd on its own subclass, see `Crowd.listen_at`


# --- users


def get_user(_crowd: Crowd, request: Request) -> Answer:
    key = request.query.get("key")
    if key and not request.query.get("username"):
        user = request.app.user_by_key(key)
    else:
        user = request.app.user(request.need("username"))
    return request.user(200, user, attributes="attributes" in request.expands())


def _check_password(directory: Directory, password: str) -> None:
    pattern = directory.password_pattern
    if not password or (pattern is not None and not pattern.search(password)):
        raise Refusal(400, "INVALID_CREDENTIAL", "The password does not meet the directory's requirements")


def _derived(name: str, first: str, last: str | None, display: str | None) -> tuple[str, str]:
    """Last and display name, where a missing or empty one is made from what there is (CWD-2634)."""
    last = last or name
    return last, display or f"{first} {last}".strip()


def post_user(_crowd: Crowd, request: Request) -> Answer:
    document, app = request.document("user"), request.app
    name = check_name("INVALID_USER", text_of(document, "name"))
    password = secret_of(document, "password")
    encrypted = secret_of(document, "encrypted-password")
    if password is None and encrypted is None:
        raise Refusal(400, "INVALID_USER", "The password of a new user must be given")
    directory = app.permitted("add-user", app.directories)[0]
    if app.find_user(name) is not None:
        raise Refusal(400, "INVALID_USER", f"User <{name}> already exists")
    first, email = text_of(document, "first-name") or "", text_of(document, "email") or ""
    last, display = _derived(name, first, text_of(document, "last-name"), text_of(document, "display-name"))
    check_text("INVALID_USER", first_name=first, last_name=last, display_name=display, email=email)
    given = document.get("attributes")
    attributes = attributes_of(given) if isinstance(given, dict) and "attributes" in given else {}
    check_attributes("INVALID_USER", attributes)
    active = truth_of(document, "active")
    if password is not None:
        _check_password(directory, password)
    user = directory.new_user(name)
    user.first_name, user.last_name, user.display_name, user.email = first, last, display, email
    user.active = active
    user.password = password
    user.attributes = {
        "requiresPasswordChange": ("false",),
        "invalidPasswordAttempts": ("0",),
        "passwordLastChanged": (str(user.created),),
        **{name: values for name, values in attributes.items() if values},
    }
    directory.add_user(user)
    return request.user(201, user)


def put_user(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    document = request.document("user")
    if fold(text_of(document, "name") or "") != user.fold:
        raise Refusal(400, "INVALID_USER", "The name in the body must be the username of the query")
    first, email = text_of(document, "first-name"), text_of(document, "email")
    last, display = text_of(document, "last-name"), text_of(document, "display-name")
    active = truth_of(document, "active")
    check_text("INVALID_USER", first_name=first, last_name=last, display_name=display, email=email)
    request.app.permit(user.directory, "modify-user")
    # Missing empties (CWD-2634), empty leaves as it was (CWD-5690).
    user.first_name = "" if first is None else first or user.first_name
    user.email = "" if email is None else email or user.email
    user.last_name, user.display_name = _derived(user.name, user.first_name, last, display)
    user.active = active
    user.directory.user_changed(user)
    return Answer(NO_CONTENT)


def delete_user(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    request.app.permit(user.directory, "remove-user")
    user.directory.remove_user(user)
    return Answer(NO_CONTENT)


def rename_user(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    document = request.document("rename", "user-rename")
    given = text_of(document, "new-name")
    if given is None:
        given = text_of(document, "newName")
    if given is None:
        raise Refusal(400, "ILLEGAL_ARGUMENT", "new-name must be given")
    name = check_name("INVALID_USER", given)
    request.app.permit(user.directory, "modify-user")
    taken = request.app.find_user(name) or user.directory.users.get(fold(name))
    if taken is not None and taken is not user:
        raise Refusal(400, "INVALID_USER", f"User <{name}> already exists")
    user.directory.rename_user(user, name)
    return request.user(200, user)


def put_password(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    password = text_of(request.document("password"), "value")
    request.app.permit(user.directory, "modify-user")
    if password is None:
        raise Refusal(400, "INVALID_CREDENTIAL", "The password must be given")
    _check_password(user.directory, password)
    user.password, user.expired = password, False
    user.directory.note_attributes(
        user,
        requiresPasswordChange="false",
        invalidPasswordAttempts="0",
        passwordLastChanged=str(user.directory.now()),
    )
    return Answer(NO_CONTENT)


def delete_password(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    request.app.permit(user.directory, "modify-user")
    user.password = None
    user.directory.version += 1
    return Answer(NO_CONTENT)


def expire_all_passwords(_crowd: Crowd, request: Request) -> Answer:
    if request.query.get("confirm", "true") != "true":
        raise Refusal(400, "ILLEGAL_ARGUMENT", "confirm must be true")
    for directory in request.app.permitted("modify-user", request.app.directories):
        for user in directory.user_list:
            user.expired = True
            directory.note_attributes(user, requiresPasswordChange="true")
    return Answer(NO_CONTENT)


def mail_password(crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    if "@" not in user.email:
        raise Refusal(400, "INVALID_EMAIL", f"User <{user.name}> has no usable e-mail address")
    crowd.mails.append(("password", user.email))
    return Answer(NO_CONTENT)


def mail_usernames(crowd: Crowd, request: Request) -> Answer:
    email = request.need("email")
    if "@" not in email:
        raise Refusal(400, "INVALID_EMAIL", f"<{email}> is not an e-mail address")
    wanted = email.lower()
    if not any(user.email.lower() == wanted for user in request.app.users()):
        raise Refusal(404, "USER_NOT_FOUND", f"User with email <{email}> does not exist")
    crowd.mails.append(("usernames", email))
    return Answer(NO_CONTENT)


def avatar(crowd: Crowd, request: Request) -> Answer:
    request.app.user(request.need("username"))
    request.number("s", 48, 1)
    return Answer(303, headers=(("Location", f"{crowd.url}/images/avatar.png"),))


def get_user_attributes(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    return request.answer(200, request.wire.attributes(user, json=request.json))


def post_user_attributes(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    attributes = attributes_of(request.document("attributes"))
    check_attributes("INVALID_USER", attributes)
    request.app.permit(user.directory, "modify-user-attributes")
    user.directory.store_attributes(user, attributes)
    return Answer(NO_CONTENT)


def delete_user_attribute(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    name = request.need("attributename")
    request.app.permit(user.directory, "modify-user-attributes")
    if name in user.attributes:
        user.directory.store_attributes(user, {name: ()})
    return Answer(NO_CONTENT)


# --- groups


def get_group(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    fragment = request.wire.group(group, json=request.json, attributes="attributes" in request.expands())
    return request.answer(200, wire.whole(fragment, json=request.json))


def _group_fields(document: dict[str, Any]) -> tuple[str | None, bool]:
    if text_of(document, "type") != "GROUP":
        raise Refusal(400, "INVALID_GROUP", "The type of a group must be GROUP")
    description = text_of(document, "description")
    check_text("INVALID_GROUP", description=description)
    return description, truth_of(document, "active")


def post_group(_crowd: Crowd, request: Request) -> Answer:
    document, app = request.document("group"), request.app
    name = check_name("INVALID_GROUP", text_of(document, "name"))
    description, active = _group_fields(document)
    directories = app.permitted("add-group", app.directories)
    if any(fold(name) in directory.groups for directory in app.directories):
        raise Refusal(400, "INVALID_GROUP", f"Group <{name}> already exists")
    for directory in directories:
        group = Group(directory, name)
        group.description, group.active = description, active
        directory.add_group(group)
    return request.answer(201)


def put_group(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    document = request.document("group")
    if fold(text_of(document, "name") or "") != group.fold:
        raise Refusal(400, "INVALID_GROUP", "The name in the body must be the groupname of the query")
    description, active = _group_fields(document)
    for directory in request.app.permitted("modify-group", request.app.holding(group)):
        own = directory.groups[group.fold]
        own.description, own.active = description, active
        directory.group_changed(own)
    return request.answer(200, wire.whole(request.wire.group(group, json=request.json), json=request.json))


def delete_group(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    for directory in request.app.permitted("remove-group", request.app.holding(group)):
        directory.remove_group(directory.groups[group.fold])
    return Answer(NO_CONTENT)


def get_group_attributes(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    return request.answer(200, request.wire.attributes(group, json=request.json))


def post_group_attributes(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    attributes = attributes_of(request.document("attributes"))
    check_attributes("INVALID_GROUP", attributes)
    for directory in request.app.permitted("modify-group-attributes", request.app.holding(group)):
        directory.store_attributes(directory.groups[group.fold], attributes)
    return Answer(NO_CONTENT)


def delete_group_attribute(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    name = request.need("attributename")
    for directory in request.app.permitted("modify-group-attributes", request.app.holding(group)):
        own = directory.groups[group.fold]
        if name in own.attributes:
            directory.store_attributes(own, {name: ()})
    return Answer(NO_CONTENT)


def all_memberships(_crowd: Crowd, request: Request) -> Answer:
    if not request.xml_accepted:
        raise Refusal(406, "", "Not Acceptable")
    return Answer(200, content_type=XML, stream=_membership_stream(request.app, request.wire, request.fault))


def _membership_stream(app: Application, renderer: Wire, fault: Fault | None) -> Iterator[bytes]:
    pieces, size = [wire.XML_DECLARATION + b"<memberships>"], 0
    alone = len(app.directories) == 1
    groups = list(app.groups())
    if fault is not None:
        groups = fault.page(groups, 0, len(groups))
    for group in groups:
        if alone:
            if group.directory.groups.get(group.fold) is not group:
                continue  # removed while this was being sent
            piece = renderer.membership(group)
        else:
            piece = wire.membership(group, app.members(group, nested=False), app.child_groups(group, nested=False))
        pieces.append(piece)
        size += len(piece)
        if size >= STREAM_CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    pieces.append(b"</memberships>")
    yield b"".join(pieces)


# --- memberships


def _body_name(document: dict[str, Any], reason: str) -> str:
    name = text_of(document, "name")
    if not name:
        raise Refusal(400, reason, "The body must hold a name")
    return name


def _not_a_member(user: str, group: str) -> Refusal:
    return Refusal(404, "MEMBERSHIP_NOT_FOUND", f"User <{user}> is not a member of group <{group}>")


def user_groups(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    groups = request.app.groups_of(user, nested=request.path.endswith("nested"))
    name = request.query.get("groupname")
    if not name:
        return request.groups(groups)
    wanted = request.app.group(name).fold
    for group in groups:
        if group.fold == wanted:
            return request.one_group(group)
    raise _not_a_member(user.name, name)


def post_user_group(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    group = request.app.group(_body_name(request.document("group"), "ILLEGAL_ARGUMENT"), 400)
    request.app.add_member(user, group)
    return request.answer(201)


def delete_membership(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    request.app.remove_member(user, request.app.group(request.need("groupname")))
    return Answer(NO_CONTENT)


def group_users(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    users = request.app.members(group, nested=request.path.endswith("nested"))
    name = request.query.get("username")
    if not name:
        return request.users(users)
    wanted = request.app.user(name)
    for user in users:
        if user.fold == wanted.fold:
            return request.one_user(user)
    raise _not_a_member(name, group.name)


def post_group_user(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    user = request.app.user(_body_name(request.document("user"), "ILLEGAL_ARGUMENT"), 400)
    request.app.add_member(user, group)
    return request.answer(201)


def delete_group_user(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    request.app.remove_member(request.app.user(request.need("username")), group)
    return Answer(NO_CONTENT)


def child_groups(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    groups = request.app.child_groups(group, nested=request.path.endswith("nested"))
    return _related(request, groups, group, "child-groupname")


def parent_groups(_crowd: Crowd, request: Request) -> Answer:
    group = request.app.group(request.need("groupname"))
    groups = request.app.parent_groups(group, nested=request.path.endswith("nested"))
    return _related(request, groups, group, "parent-groupname")


def _related(request: Request, groups: list[Group], group: Group, parameter: str) -> Answer:
    name = request.query.get(parameter)
    if not name:
        return request.groups(groups)
    wanted = request.app.group(name).fold
    for other in groups:
        if other.fold == wanted:
            return request.one_group(other)
    relation = parameter.partition("-")[0]
    raise Refusal(404, "MEMBERSHIP_NOT_FOUND", f"Group <{name}> is not a {relation} of group <{group.name}>")


def post_child_group(_crowd: Crowd, request: Request) -> Answer:
    parent = request.app.group(request.need("groupname"))
    child = request.app.group(_body_name(request.document("group"), "ILLEGAL_ARGUMENT"), 400)
    request.app.add_nesting(child, parent)
    return request.answer(201)


def delete_child_group(_crowd: Crowd, request: Request) -> Answer:
    parent = request.app.group(request.need("groupname"))
    request.app.remove_nesting(request.app.group(request.need("child-groupname")), parent)
    return Answer(NO_CONTENT)


def post_parent_group(_crowd: Crowd, request: Request) -> Answer:
    child = request.app.group(request.need("groupname"))
    parent = request.app.group(_body_name(request.document("group"), "ILLEGAL_ARGUMENT"), 400)
    request.app.add_nesting(child, parent)
    return request.answer(201)


# --- search


def _entity_type(request: Request) -> str:
    kind = request.need("entity-type").lower()
    if kind not in ("user", "group"):
        raise Refusal(400, "ILLEGAL_ARGUMENT", f"Unknown entity-type <{kind}>")
    return kind


def _found(crowd: Crowd, request: Request, kind: str, key: Any, predicate: Callable[[Any], bool]) -> Answer:
    stamp = request.app.stamp()
    cached = crowd.searches.get(key)
    if cached is None or cached[0] != stamp:
        entities: list[Any] = request.app.users() if kind == "user" else list(request.app.groups())
        if len(crowd.searches) >= 16:
            crowd.searches.clear()
        cached = crowd.searches[key] = stamp, [entity for entity in entities if predicate(entity)]
    return request.users(cached[1]) if kind == "user" else request.groups(cached[1])


def get_search(crowd: Crowd, request: Request) -> Answer:
    kind = _entity_type(request)
    restriction = request.query.get("restriction", "").strip()
    if not restriction:
        if kind == "user":
            return request.users(request.app.users())
        return request.groups(request.app.groups())
    predicate = from_cql(kind, restriction)
    return _found(crowd, request, kind, (request.app.name, kind, restriction), predicate)


def post_search(crowd: Crowd, request: Request) -> Answer:
    kind = _entity_type(request)
    predicate = from_tree(kind, request.document(*_RESTRICTIONS))
    return _found(crowd, request, kind, (request.app.name, kind, request.body), predicate)


# --- authentication, sessions, configuration


def _authenticate(request: Request, name: str, password: str | None, denied_status: int) -> User:
    """The user, if that is the password (None: not to be checked)."""
    app = request.app
    user = app.user(name, 400)
    directory = user.directory
    if not user.active:
        raise Refusal(400, "INACTIVE_ACCOUNT", f"Account with name <{user.name}> is inactive")
    if password is not None:
        failed = _failed_attempts(user)
        exhausted = directory.max_attempts is not None and failed >= directory.max_attempts
        if exhausted or user.password is None or user.password != password:
            directory.note_attributes(user, invalidPasswordAttempts=str(failed + 1))
            raise Refusal(400, "INVALID_USER_AUTHENTICATION", "Failed to authenticate principal, password was invalid")
        if user.expired:
            raise Refusal(400, "EXPIRED_CREDENTIAL", f"The password of <{user.name}> has expired")
    if app.allowed_groups is not None:
        allowed = {fold(group) for group in app.allowed_groups}
        if not any(group.fold in allowed for group in app.groups_of(user, nested=True)):
            raise Refusal(
                denied_status,
                "APPLICATION_ACCESS_DENIED",
                f"User <{user.name}> may not use application <{app.name}>",
            )
    directory.note_attributes(user, invalidPasswordAttempts="0", lastAuthenticated=str(directory.now()))
    return user


def _failed_attempts(user: User) -> int:
    text = user.attributes.get("invalidPasswordAttempts", ("0",))[0]
    return int(text) if text.isdigit() else 0


def authentication(_crowd: Crowd, request: Request) -> Answer:
    name = request.need("username")
    password = text_of(request.document("password"), "value")
    if password is None:
        raise Refusal(400, "ILLEGAL_ARGUMENT", "The body must hold a value")
    return request.user(200, _authenticate(request, name, password, 400))


def authentication_notify(_crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"), 400)
    user.directory.note_attributes(user, lastAuthenticated=str(user.directory.now()))
    return Answer(NO_CONTENT)


def _session(crowd: Crowd, request: Request) -> Session:
    token = request.path.rpartition("/")[2]
    session = crowd.sessions.get(token)
    if session is not None:
        user = session.user
        if session.expiry > crowd.now() and user.active and request.app.find_user(user.name) is user:
            return session
        del crowd.sessions[token]
    raise Refusal(404, "INVALID_SSO_TOKEN", "Token does not validate.")


def post_session(crowd: Crowd, request: Request) -> Answer:
    document = request.document("authentication-context")
    name = text_of(document, "username")
    if not name:
        raise Refusal(400, "ILLEGAL_ARGUMENT", "username must be given")
    password: str | None = text_of(document, "password")
    if request.query.get("validate-password", "true").lower() == "false":
        password = None
    elif password is None:
        raise Refusal(400, "ILLEGAL_ARGUMENT", "password must be given")
    factors = factors_of(document.get("validation-factors") or {})
    duration = request.number("duration", SESSION_SECONDS, 1)
    user = _authenticate(request, name, password, 403)
    now = crowd.now()
    known = (one for one in crowd.sessions.values() if one.user is user and one.factors == factors)
    session = next((one for one in known if one.expiry > now), None)
    if session is None:
        session = Session(f"{random.getrandbits(128):032x}", user, factors, now, 0, duration)
        crowd.sessions[session.token] = session
    session.expiry = now + session.duration * 1000
    body = request.wire.session(session, json=request.json, full="user" in request.expands())
    return request.answer(201, body)


def validate_session(crowd: Crowd, request: Request) -> Answer:
    factors = factors_of(request.document("validation-factors")) if request.body else {}
    session = _session(crowd, request)
    if factors != session.factors:
        raise Refusal(404, "INVALID_SSO_TOKEN", "Token does not validate.")
    session.expiry = crowd.now() + session.duration * 1000
    body = request.wire.session(session, json=request.json, full="user" in request.expands())
    return request.answer(200, body)


def get_session(crowd: Crowd, request: Request) -> Answer:
    session = _session(crowd, request)
    return request.answer(200, request.wire.session(session, json=request.json, full=True))


def delete_session(crowd: Crowd, request: Request) -> Answer:
    crowd.sessions.pop(request.path.rpartition("/")[2], None)
    return Answer(NO_CONTENT)


def delete_sessions(crowd: Crowd, request: Request) -> Answer:
    user = request.app.user(request.need("username"))
    kept = request.query.get("exclude")
    for token in [token for token, one in crowd.sessions.items() if one.user is user and token != kept]:
        del crowd.sessions[token]
    return Answer(NO_CONTENT)


def cookie(_crowd: Crowd, request: Request) -> Answer:
    return request.answer(200, wire.cookie_config(json=request.json))


# --- events and webhooks


def _token_at(crowd: Crowd, at: int, positions: Iterable[int]) -> str:
    crowd.tokens += 1
    moved = f":{crowd.tokens}" if crowd.events.moving else ""
    return f"{crowd.instance}:{at}:{'-'.join(map(str, positions))}{moved}"


def _event_token(crowd: Crowd, app: Application) -> str:
    """The current token. Unless tokens move, it stays until something happens, or until it is old."""
    positions = [*(directory.sequence for directory in app.directories), len(app.interruptions)]
    token, at, known = app.last_token
    now, settings = crowd.now(), crowd.events
    old = at < now - settings.lifetime * 500 or _interrupted(crowd, app, at)
    if settings.moving or old or known != (crowd.instance, *positions):
        token = _token_at(crowd, now, positions)
        app.last_token = token, now, (crowd.instance, *positions)
    return token


def _interrupted(crowd: Crowd, app: Application, at: int) -> bool:
    """Whether what is given again with a token of that time holds what makes the stream impossible."""
    return any(when > at - crowd.events.replay * 1000 for when in app.interruptions)


def _events(crowd: Crowd, request: Request, events: Iterable[Event] | None, token: str = "") -> Answer:
    app, fault = request.app, request.fault
    available = all(directory.events_kept for directory in app.directories)
    token = token or _event_token(crowd, app)
    if fault is not None and fault.kind == "foreign-token":
        token = f"{random.getrandbits(62)}:{token.partition(':')[2]}"

    def group_named(name: str) -> Group | None:
        return next((d.groups[fold(name)] for d in app.directories if fold(name) in d.groups), None)

    return request.answer(
        200, request.wire.events(token, available, events, app.find_user, group_named, json=request.json)
    )


def current_event(crowd: Crowd, request: Request) -> Answer:
    return _events(crowd, request, None)


def _positions(crowd: Crowd, app: Application, token: str) -> tuple[int, list[int]] | None:
    """When a token was given, and where each directory's events stood; None if it is unknown or too old."""
    found = re.fullmatch(r"(\d+):(\d{1,18}):(\d{1,18}(?:-\d{1,18})*)(?::\d+)?", token, re.ASCII)
    if found is None or found[1] != crowd.instance:
        return None
    at, (*sequences, interruptions) = int(found[2]), map(int, found[3].split("-"))
    if interruptions != len(app.interruptions):
        return None
    now, settings = crowd.now(), crowd.events
    oldest = now - int(settings.lifetime * 1000)
    for directory in app.directories:
        directory.reap(oldest)
    if at < oldest or len(sequences) != len(app.directories) or _interrupted(crowd, app, at):
        return None
    for directory, sequence in zip(app.directories, sequences, strict=True):
        if not 0 <= directory.sequence - sequence <= len(directory.events):
            return None
    return at, sequences


def events_since(crowd: Crowd, request: Request) -> Answer:
    app, settings, fault = request.app, crowd.events, request.fault.kind if request.fault is not None else ""
    if not all(directory.events_kept for directory in app.directories):
        raise Refusal(400, "INCREMENTAL_SYNC_NOT_AVAILABLE", "Incremental synchronisation is not available")
    if fault == "endless-events":
        crowd.tokens += 1
        event = Event("userEvent", "UPDATED", f"endless-{crowd.tokens}")
        return _events(crowd, request, [event], f"{_event_token(crowd, app)}:{crowd.tokens}")
    token = request.path.rpartition("/")[2]
    start = _positions(crowd, app, token)
    if start is None or fault == "expired-token":
        raise Refusal(400, "EVENT_TOKEN_EXPIRED", f"Event token <{token}> is not recognised or has expired")
    at, sequences = start
    since = 0 if fault == "replayed-events" else at - settings.replay * 1000
    again: list[Event] = []
    news: list[tuple[int, int, Event]] = []
    for place, (directory, sequence) in enumerate(zip(app.directories, sequences, strict=True)):
        listed = list(directory.events)
        known = len(listed) - (directory.sequence - sequence)
        again += [event for when, event in listed[:known] if when > since]
        news += [(when, place, event) for when, event in listed[known:]]
    news.sort(key=itemgetter(0))
    following = ""
    if len(news) > settings.most:
        del news[settings.most :]
        for _, place, _ in news:
            sequences[place] += 1
        following = _token_at(crowd, news[-1][0], [*sequences, len(app.interruptions)])
    return _events(crowd, request, again + [event for _, _, event in news], following)


def post_webhook(crowd: Crowd, request: Request) -> Answer:
    document = request.document("webhook")
    app, endpoint, token = request.app, text_of(document, "endpointUrl") or "", text_of(document, "token") or ""
    if not is_endpoint(endpoint):
        raise Refusal(400, "ILLEGAL_ARGUMENT", f"<{endpoint}> is not a valid endpoint")
    if not is_token(token):
        raise Refusal(400, "ILLEGAL_ARGUMENT", "The token cannot be sent in a header")
    known = (one for one in crowd.webhooks.values() if (one.application, one.endpoint) == (app.name, endpoint))
    webhook = next(known, None)
    if webhook is None:
        webhook = Webhook(next(crowd.webhook_ids), app.name, endpoint, token, crowd.position(app))
        crowd.webhooks[webhook.id] = webhook
    return request.answer(201, wire.webhook(webhook.id, endpoint, json=request.json))


def _webhook(crowd: Crowd, request: Request) -> Webhook:
    text = request.path.rpartition("/")[2]
    known = crowd.webhooks.get(int(text)) if re.fullmatch("[0-9]{1,18}", text) else None
    if known is None or known.application != request.app.name:
        raise Refusal(404, "WEBHOOK_NOT_FOUND", f"Webhook <{text}> does not exist")
    return known


def get_webhook(crowd: Crowd, request: Request) -> Answer:
    webhook = _webhook(crowd, request)
    return request.answer(200, wire.webhook(webhook.id, webhook.endpoint, json=request.json))


def delete_webhook(crowd: Crowd, request: Request) -> Answer:
    del crowd.webhooks[_webhook(crowd, request).id]
    return Answer(NO_CONTENT)


Handler = Callable[["Crowd", Request], Answer]

ROUTES: Final[dict[str, dict[str, Handler]]] = {
    "/user": {"GET": get_user, "POST": post_user, "PUT": put_user, "DELETE": delete_user},
    "/user/rename": {"POST": rename_user},
    "/user/password": {"PUT": put_password, "DELETE": delete_password},
    "/user/expire-all-passwords": {"POST": expire_all_passwords},
    "/user/mail/password": {"POST": mail_password},
    "/user/mail/usernames": {"POST": mail_usernames},
    "/user/avatar": {"GET": avatar},
    "/user/attribute": {
        "GET": get_user_attributes,
        "POST": post_user_attributes,
        "DELETE": delete_user_attribute,
    },
    "/user/group/direct": {"GET": user_groups, "POST": post_user_group, "DELETE": delete_membership},
    "/user/group/nested": {"GET": user_groups},
    "/group": {"GET": get_group, "POST": post_group, "PUT": put_group, "DELETE": delete_group},
    "/group/attribute": {
        "GET": get_group_attributes,
        "POST": post_group_attributes,
        "DELETE": delete_group_attribute,
    },
    "/group/membership": {"GET": all_memberships},
    "/group/user/direct": {"GET": group_users, "POST": post_group_user, "DELETE": delete_group_user},
    "/group/user/nested": {"GET": group_users},
    "/group/child-group/direct": {
        "GET": child_groups,
        "POST": post_child_group,
        "DELETE": delete_child_group,
    },
    "/group/child-group/nested": {"GET": child_groups},
    "/group/parent-group/direct": {"GET": parent_groups, "POST": post_parent_group},
    "/group/parent-group/nested": {"GET": parent_groups},
    "/search": {"GET": get_search, "POST": post_search},
    "/authentication": {"POST": authentication},
    "/authentication/notify": {"POST": authentication_notify},
    "/session": {"POST": post_session, "DELETE": delete_sessions},
    "/session/TOKEN": {"GET": get_session, "POST": validate_session, "DELETE": delete_session},
    "/config/cookie": {"GET": cookie},
    "/event": {"GET": current_event},
    "/event/TOKEN": {"GET": events_since},
    "/webhook": {"POST": post_webhook},
    "/webhook/ID": {"GET": get_webhook, "DELETE": delete_webhook},
}
_READS_BY_POST: Final = frozenset({"/search"})
_NEITHER: Final = ("/authentication", "/session", "/webhook", "/user/mail")


def route_of(path: str) -> str | None:
    """The route that a path after the API version belongs to."""
    if path in ROUTES:
        return path
    head, _, rest = path[1:].partition("/")
    if rest and "/" not in rest:
        if head in ("session", "event"):
            return f"/{head}/TOKEN"
        if head == "webhook":
            return "/webhook/ID"
    return None


class Crowd:
    """The state of one emulated Crowd, and its answers.

    `applications` maps names to passwords; all of them see one directory, with the `permissions` of that name
    (`PERMISSION_SETS`). Several directories, permissions of each and the rest are set with `configure`.
    """

    def __init__(
        self,
        applications: Mapping[str, str] | None = None,
        *,
        base_path: str = "/crowd",
        nested_groups: bool = True,
        permissions: str = "all",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.base_path = base_path.rstrip("/")
        self.instance = ""
        self.tokens = 0  # counts the event tokens that were given
        self.sessions: dict[str, Session] = {}
        self.webhooks: dict[int, Webhook] = {}
        self.webhook_ids = itertools.count(1)  # none is given twice
        self.wake: Callable[[], None] = lambda: None  # told that a ping is queued, see `crowd_pings`
        self.mails: list[tuple[str, str]] = []
        self.searches: dict[Any, tuple[tuple[int, ...], list[Any]]] = {}
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._keys: dict[str, tuple[str, str]] = {}
        self._formats: dict[str, tuple[bool, bool, bool]] = {}
        self._prefixes = tuple(f"{self.base_path}/rest/usermanagement/{v}" for v in ("1", "latest"))
        self.listen_at("http://127.0.0.1:8095")
        given = {"crowdsync": "secret"} if applications is None else applications
        self.configure(
            {
                "directories": [{"name": "directory", "nested_groups": nested_groups}],
                "applications": [
                    {
                        "name": name,
                        "password": password,
                        "directories": [{"name": "directory", "permissions": PERMISSION_SETS[permissions]}],
                    }
                    for name, password in given.items()
                ],
            }
        )

    def listen_at(self, origin: str) -> None:
        """Tell where the server is reached, for the links in answers."""
        self.url = origin + self.base_path
        rendering = Wire(f"{self.url}/rest/usermanagement/1")
        self._request = type("Request", (Request,), {"wire": rendering, "__slots__": ()})

    def now(self) -> int:
        return int(self.clock() * 1000)

    def configure(self, setting: Mapping[str, Any]) -> None:
        """Set up directories and applications anew; content and sessions are gone.

        `directories`: name, nested_groups, events, read_only, password_pattern, max_attempts.
        `applications`: name, password, aggregate, allowed_groups, remote_addresses, trusted_proxies and
        `directories`, a list of names or of `{"name", "permissions"}` (default: all, with every
        permission of `PERMISSIONS`). `events`: the members of `EventSettings` that are to differ. Event tokens from
        before are of another server.
        """
        events = EventSettings(**setting.get("events", {}))
        directories = {
            row["name"]: Directory(FIRST_DIRECTORY_ID + place, clock=self.clock, kept=events.kept, **row)
            for place, row in enumerate(setting["directories"])
        }
        applications: dict[str, Application] = {}
        for row in setting["applications"]:
            row = dict(row)
            mapped = [{"name": one} if isinstance(one, str) else one for one in row.pop("directories", directories)]
            permissions = [frozenset(one.get("permissions", PERMISSIONS)) for one in mapped]
            for given in permissions:
                if given - PERMISSIONS:
                    raise ValueError(f"unknown permissions: {', '.join(sorted(given - PERMISSIONS))}")
            found = [directories[one["name"]] for one in mapped]
            applications[row["name"]] = Application(directories=found, permissions=permissions, **row)
        self.events = events
        self.instance = str(random.getrandbits(62))
        self.directories = directories
        self.applications = applications
        self._callers: dict[str, Application] = {}
        self.sessions.clear()
        self.webhooks.clear()
        self.searches.clear()

    def directory(self, name: str | None = None) -> Directory:
        """The directory of that name, or the first."""
        return next(iter(self.directories.values())) if name is None else self.directories[name]

    def load(self, content: Mapping[str, Any], directory: str | None = None) -> None:
        """Add users, groups, memberships and nestings to a directory, see `Directory.load`."""
        self.directory(directory).load(dict(content))
        self.queue_pings()

    def state(self, directory: str | None = None, *, keys: bool = False) -> dict[str, Any]:
        """The whole content of a directory in canonical order."""
        return self.directory(directory).state(keys=keys)

    def digest(self, directory: str | None = None) -> str:
        """SHA-256 over the state: equal content, equal digest."""
        return hashlib.sha256(orjson.dumps(self.state(directory))).hexdigest()

    def clear(self) -> None:
        """Forget users, groups, sessions, webhooks, mails and faults; directories and applications stay."""
        for directory in self.directories.values():
            directory.empty()
        self.sessions.clear()
        self.webhooks.clear()
        self.mails.clear()
        self.searches.clear()
        self.faults = []

    def interrupt(self, application: str) -> None:
        """An alias, the application or its mapped directories changed: no event can say what that means for whom.

        No token from before is good any more, nor one that is given before the replay has forgotten it.
        """
        self.applications[application].interruptions.append(self.now())
        self.queue_pings()

    def position(self, app: Application) -> tuple[int, ...]:
        """Where the application's events stand: another one whenever they change."""
        return *(directory.sequence for directory in app.directories), len(app.interruptions)

    def queue_pings(self) -> None:
        """Queue a ping for each webhook whose application's events changed since the last call."""
        for webhook in self.webhooks.values():
            position = self.position(self.applications[webhook.application])
            if position != webhook.seen:
                webhook.seen, webhook.queued = position, True
                self.wake()

    def loses_ping(self, endpoint: str) -> bool:
        """Whether a fault takes the ping to this endpoint. Call once per ping."""
        return self._fired("POST", endpoint, "", of_pings=True) is not None

    def pings(self) -> list[dict[str, Any]]:
        """The webhooks: id, application, endpoint, successes and failures of their pings."""
        return [
            {
                "id": one.id,
                "application": one.application,
                "endpoint": one.endpoint,
                "successes": one.successes,
                "failures": one.failures,
            }
            for one in self.webhooks.values()
        ]

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules, see `deployments.sandbox.crowd_faults`."""
        self.faults = [Fault.of(rule) for rule in rules]

    def counts(self) -> dict[str, Any]:
        """Requests per kind since the last reset, and how many were reads and writes of users and groups."""
        reads = writes = 0
        for key, count in self.requests.items():
            method, _, path = key.partition(" ")
            if method == "GET" or path in _READS_BY_POST:
                reads += count
            elif path in ROUTES and not path.startswith(_NEITHER):
                writes += count
        return {
            "requests": dict(self.requests),
            "reads": reads,
            "writes": writes,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "faults": [{"kind": f.kind, "matched": f.matched, "fired": f.fired} for f in self.faults],
        }

    def reset_counts(self) -> None:
        self.requests.clear()
        self.statuses.clear()

    # --- one request

    def resource(self, path: str) -> str | None:
        """The path after the API version, None if the path is not under usermanagement."""
        for prefix in self._prefixes:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("/", ""):
                return unquote(path[len(prefix) :]) if "%" in path else path[len(prefix) :]
        return None

    def fault_for(self, method: str, path: str, query: str) -> Fault | None:
        """The rule that makes this request go wrong. Call once per request."""
        resource = self.resource(path)
        return None if resource is None else self._fired(method, resource, query)

    def _fired(self, method: str, path: str, query: str, *, of_pings: bool = False) -> Fault | None:
        fired = None
        for fault in self.faults:
            # Every rule counts every request that matches it, also when an earlier rule won.
            if (fault.kind in PING_KINDS) is of_pings and fault.fires(method, path, query) and fired is None:
                fired = fault
        if fired is not None:
            fired.fired += 1
        return fired

    def respond(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        address: str,
        fault: Fault | None = None,
    ) -> Answer:
        """Answer a request. `path` and `query` are raw, `headers` have lower-case names."""
        resource = self.resource(path)
        if resource is None:
            if path == f"{self.base_path}/images/avatar.png" and method == "GET":
                return Answer(200, _PICTURE, "image/png")
            return page(404, "Not Found")
        known = self._keys.get(f"{method} {resource}")
        if known is None:
            route = route_of(resource)
            known = f"{method} {route or 'unknown'}", route or ""
            if route == resource:
                self._keys[f"{method} {resource}"] = known
        key, route = known
        self.requests[key] += 1
        answer = self._answer(method, resource, route, query, headers, body, address, fault)
        self.statuses[answer.status] += 1
        if self.webhooks:
            self.queue_pings()
        return answer

    def _answer(
        self,
        method: str,
        resource: str,
        route: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        address: str,
        fault: Fault | None,
    ) -> Answer:
        if fault is not None and (unprocessed := _unprocessed(fault, headers)) is not None:
            return unprocessed
        app = self._caller(headers.get("authorization", ""))
        if app is None:
            return Answer(
                401,
                b"Application failed to authenticate",
                PLAIN,
                (("WWW-Authenticate", 'BASIC realm="Crowd REST Service"'),),
            )
        if app.remote_addresses is not None:
            refused = app.admits(address, headers.get("x-forwarded-for", ""))
            if refused is not None:
                return page(
                    403,
                    f'Client with address "{refused}" is forbidden from making requests to the application, '
                    f"{app.name}.",
                    "The server understood the request but refuses to authorize it.",
                )
        handlers = ROUTES.get(route)
        if handlers is None:
            return page(404, "Not Found")
        handler = handlers.get(method)
        if handler is None:
            return page(405, "Method Not Allowed", headers=(("Allow", ", ".join(handlers)),))
        request = self._request(method, resource, parse_query(query), headers.get("content-type", ""), body, app)
        acceptable, request.json, request.xml_accepted = self._format(headers.get("accept", ""))
        if fault is not None and fault.kind in PAGE_KINDS | EVENT_KINDS:
            request.fault = fault
            if fault.kind == "alias-event":
                self.interrupt(app.name)
        try:
            if not acceptable:
                raise Refusal(406, "", "Not Acceptable")
            answer = handler(self, request)
        except Refusal as refusal:
            if not refusal.reason:
                return page(refusal.status, refusal.message)
            text = wire.error(refusal.reason, refusal.message, json=request.json)
            answer = Answer(refusal.status, text, JSON if request.json else XML)
        return answer if fault is None else _spoiled(fault, answer)

    def _caller(self, authorization: str) -> Application | None:
        app = self._callers.get(authorization)
        if app is not None:
            return app
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        app = self.applications.get(name)
        if app is None or not colon or app.password != password:
            return None
        self._callers[authorization] = app
        return app

    def _format(self, accept: str) -> tuple[bool, bool, bool]:
        """(something acceptable, answer in JSON, XML acceptable) for an Accept header."""
        known = self._formats.get(accept)
        if known is None:
            known = _negotiate(accept)
            if len(self._formats) < 1000:
                self._formats[accept] = known
        return known


def _negotiate(accept: str) -> tuple[bool, bool, bool]:
    if not accept.strip():
        return True, False, True
    json = xml = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = [piece.strip() for piece in part.split(";")]
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if kind == JSON:
            json = max(json, weight)
        elif kind in (XML, "text/xml"):
            xml = max(xml, weight)
        elif kind in ("*/*", "application/*"):
            # XML is what one gets who does not say; a range adds nothing to a named type.
            xml = max(xml, weight * 0.001)
    return max(json, xml) > 0, json > xml, xml > 0


def _unprocessed(fault: Fault, headers: Mapping[str, str]) -> Answer | None:
    """The answer of a fault that never reaches Crowd's own code."""
    accepts_json = _negotiate(headers.get("accept", ""))[1]
    if fault.kind == "status":
        extra = tuple(fault.headers.items())
        if fault.retry_after is not None:
            extra += (("Retry-After", fault.retry_after),)
        if fault.body is not None:
            return Answer(fault.status, fault.body.encode(), HTML, extra)
        return page(fault.status, f"HTTP Status {fault.status}", headers=extra)
    if fault.kind == "reset":
        return Answer(0, vanish=True)
    if fault.kind == "html":
        return page(200, "Log in", "A page of something that stands before Crowd")
    if fault.kind == "empty":
        return Answer(200, b"", JSON if accepts_json else XML)
    return None


def _spoiled(fault: Fault, answer: Answer) -> Answer:
    """An answer after the request was processed, as the fault lets it through."""
    if fault.kind == "truncated":
        answer.cut = fault.fraction
    elif fault.kind == "truncated-document":
        body = b"".join(answer.stream) if answer.stream is not None else answer.body
        body = body[: int(len(body) * fault.fraction)]
        if answer.stream is not None:
            answer.stream = iter([body])
        else:
            answer.body = body
    elif fault.kind == "committed-reset":
        answer.vanish = True
    elif fault.kind == "committed-silence":
        answer.vanish, answer.hang = True, 3600.0 if fault.delay is None else fault.delay
    return answer


def page(status: int, title: str, *lines: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An HTML page, as the container in which Crowd runs shows it."""
    text = "".join(f"<p>{wire.escape(line)}</p>" for line in lines)
    title = wire.escape(title)
    body = f"<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1>{text}</body></html>"
    return Answer(status, body.encode(), HTML, headers)


def parse_query(raw: str) -> dict[str, str]:
    """A raw query string; of a parameter given twice, the first counts."""
    query: dict[str, str] = {}
    for part in raw.split("&") if raw else ():
        name, _, value = part.partition("=")
        if "%" in value or "+" in value:
            value = unquote_plus(value)
        query.setdefault(unquote_plus(name) if "%" in name or "+" in name else name, value)
    return query
