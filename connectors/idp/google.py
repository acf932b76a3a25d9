"""Google Workspace by its Directory API: https://developers.google.com/workspace/admin/directory/reference/rest

A service account reads in the name of an administrator (domain-wide delegation). Lists page by token and say no total:
the end of the chain is their proof, and an empty page is asked for twice. An empty page has no array at all, so that
it is one shows in its `kind` only.

A group's `directMembersCount` must agree with its members. It is described as the number of users; whether nested
groups count is not sure. Either will do, but the same for all groups of a read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

import orjson
from pydantic import Field

from connectors.contract import (
    PLAIN,
    Capabilities,
    Changes,
    Group,
    Held,
    Page,
    Person,
    Polled,
    Scope,
    Subscription,
    Subscriptions,
)
from connectors.errors import ConfigurationError, ForbiddenError, IncompleteError, StaleCursorError
from connectors.hook import News, id_of
from connectors.hooks import google as hooks
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, UserRow
from connectors.oauth import JWT_GRANT, Form, Tokens, assertion
from connectors.paging import Part, by_cursor, of_groups
from connectors.polling import MOST_EVENTS, Found, Point, cursor_of, digest, lost, points, reached
from connectors.records import (
    Doubts,
    Flaw,
    Record,
    Rows,
    as_dict,
    each,
    inner,
    names,
    needed,
    object_of,
    optional,
    text,
    truth,
)
from connectors.records import attributes as attributes_of
from connectors.source import SourceSettings, WithPolling, WithPrivateKey, client

_ROOT: Final = "/admin/directory/v1"
_STOP: Final = "/admin/directory_v1/channels/stop"
_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What an assertion is for: Google's public address, whatever `token_url` leads to."""
SCOPES: Final = tuple(
    f"https://www.googleapis.com/auth/admin.directory.{name}.readonly" for name in ("user", "group", "group.member")
)
_REPORTS_SCOPE: Final = "https://www.googleapis.com/auth/admin.reports.audit.readonly"
_REPORTS: Final = "/admin/reports/v1/activity/users/all/applications"
_LATE: Final = {"admin": timedelta(hours=2), "login": timedelta(minutes=30)}
"""After that time an activity is in its list, mostly: Google says that some come hours later."""
_KEPT: Final = timedelta(days=170)
"""So long Google keeps activities at least."""
_SIZES: Final = {"users": 500, "groups": 200, "members": 200}
"""The most records a page of each list."""
_USER: Final = ("id", "primaryEmail", "name", "suspended", "archived")
_GROUP: Final = "id,email,name,description,directMembersCount"
_BUSY: Final = frozenset(("userRateLimitExceeded", "rateLimitExceeded", "quotaExceeded"))
_PATH: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ADVICE: Final = {
    "accessNotConfigured": "Switch the Admin SDK API on in the service account's Google Cloud project.",
    "insufficientPermissions": f"Delegate to the service account the scopes {' '.join(SCOPES)} (Admin console, "
    "Security > Access and data control > API controls > Domain-wide delegation).",
}


class GoogleSettings(WithPolling, WithPrivateKey, SourceSettings):
    """A Google Workspace account."""

    kind: Literal["google"] = "google"
    url: str = Field("https://admin.googleapis.com", description="Address of the Directory API.")
    token_url: str = Field(
        "https://oauth2.googleapis.com", description="Address of the token endpoint, without /token."
    )
    subject: str = Field(min_length=3, description="E-mail address of the administrator in whose name it reads.")
    customer: str = Field("my_customer", min_length=1, description="The account, if it is not the administrator's own.")
    domain: str = Field("", description="Only people and groups of this domain, instead of the whole account.")
    group_names: Literal["name", "email"] = Field(
        "name", description="What a group is called in Crowd: its name, or its address, which is unique."
    )
    member_counts: bool = Field(
        True, description="Whether a group's members must agree with the number that Google tells of them."
    )
    private_key_env: str = Field("CROWDSYNC_SOURCE_KEY", description="Environment variable with the key file's JSON.")
    private_key_file: str = Field("", description="Or the service account's key file (JSON) itself.")
    requests_per_second: float | None = Field(38, gt=0, description="Google's own limit is 2400 a minute.")
    page_size: int = Field(500, ge=1, le=500, description="Users a page; groups and members at most 200.")
    known: ClassVar = ("private_key",)

    def scopes(self) -> tuple[str, ...]:
        """What the service account must be delegated."""
        return (*SCOPES, *([_REPORTS_SCOPE] if self.polling else []))

    def same_names(self) -> str:
        """As `SourceSettings.same_names`."""
        return 'group_names = "email"' if self.group_names == "name" else ""


class Google:
    """As `Source`. `groups` keeps how many members each has for the `memberships` that follow."""

    name: ClassVar[str] = "google"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True)
    settings: ClassVar[type[GoogleSettings]] = GoogleSettings
    # A channel is for one event, lasts two days at most, and cannot be prolonged. Channels cannot be listed, either:
    # that one is gone is seen when it is to be stopped, in favour of the next one, and so that is soon.
    subscriptions: ClassVar[Subscriptions] = Subscriptions(
        ("add", "update", "delete", "undelete", "makeAdmin"), lasts=timedelta(days=2), renewed=timedelta(hours=6)
    )

    @classmethod
    def open(cls, name: str, settings: GoogleSettings, secrets: Mapping[str, str]) -> Google:
        """As `Source.open`."""
        return cls(name, settings, secrets["private_key"])

    def __init__(self, name: str, settings: GoogleSettings, key: str) -> None:
        self._settings = settings
        self._login = client(name, settings, settings.token_url, rate=None)
        form, client_no = _grant(f"sources.{name}.private_key", key, settings)
        tokens = Tokens(
            self._login,
            "/token",
            form,
            advice=f"In the Admin console (Security > Access and data control > API controls > Domain-wide delegation) "
            f"the client {client_no} needs the scopes {','.join(settings.scopes())}. Check also that `subject` is an "
            f"active user of the account and that the key in {settings.place('private_key')} was not deleted.",
        )
        self._http = client(name, settings, bearer=tokens, busy=_busy, attempts=9)
        self._where = {"domain": settings.domain} if settings.domain else {"customer": settings.customer}
        self._group = group_rows(settings.group_names)
        self._counts: dict[str, int] = {}

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return self._http, self._login

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users; a plain list never shows deleted ones."""
        rows, at = user_rows(scope.attributes), 1
        async for records, last in self._list("users", "/users", _fields(scope), {**self._where, **_view(scope)}):
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(records, f"user of the page from {at}", held, warnings), last, held, warnings)
            at += len(records)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:  # noqa: ARG002
        """All groups. They have no attributes."""
        counts, at = dict[str, int](), 1
        async for records, last in self._list("groups", "/groups", _GROUP, self._where):
            held: list[Held] = []
            warnings: list[Held] = []
            rows = self._group(records, f"group of the page from {at}", held, warnings)
            counts.update((str(one.get("id")), _count(one)) for one in map(as_dict, records))
            if last:
                self._counts = counts
            yield Page(rows, last, held, warnings)
            at += len(records)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members, users and groups; neither are those from elsewhere, nor the entry for everybody."""
        ways = set[bool]()  # whether nested groups are counted
        held: list[Held] = []

        async def members(group: str) -> list[Members]:
            try:
                return [await self._proved(group, ways)]
            except Flaw as flaw:
                held.append(Held("group", group, "", str(flaw)))
                return []

        pages = of_groups(dict.fromkeys(groups), members, self._settings.concurrency, held)
        try:
            async for page in pages:
                yield page
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id or e-mail address. An old address is an alias, and stands for who has it now."""
        record = await self._find(key, scope) if "@" in key or key.isdecimal() else None
        if record is None:
            return None
        held: list[Held] = []
        warnings: list[Held] = []
        users = user_rows(scope.attributes)([record], "user", held, warnings)
        domain = self._settings.domain.lower()
        if held or (key.isdecimal() and users[0][0] != key):
            why = held[0].reason if held else "another one came"
            who = held[0].id if held else users[0][0]
            raise IncompleteError(f"{self._at('users')}: the user {who} cannot be read: {why}.")
        if not self._inside(record, "primaryEmail"):
            return None
        groups: list[GroupRow] = []
        async for records, _ in self._list("groups", "/groups", _GROUP, {"userKey": users[0][0]}):
            inside = (one for one in records if not domain or _address(one).endswith(f"@{domain}"))
            groups += self._group(inside, "group", held, warnings)
        if held:
            raise IncompleteError(f"{self._at('groups')}: the group {held[0].id} cannot be read: {held[0].reason}.")
        return Person(users[0], groups, [(group[0], users[0][0], "user") for group in groups], warnings)

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:  # noqa: ARG002
        """As `Source.group`."""
        record = await self._has(f"/groups/{quote(key, safe='')}", _GROUP, key)
        if record is None or not self._inside(record, "email"):
            return None
        held: list[Held] = []
        rows = self._group([record], "group", held)
        if held:
            raise IncompleteError(f"{self._at('groups')}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`: one look-up by id, which never finds deleted people."""
        record = await self._has(f"/users/{quote(identity, safe='')}", "id,primaryEmail,customerId", identity)
        return record is not None and self._inside(record, "primaryEmail")

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        record = await self._has(f"/groups/{quote(identity, safe='')}", "id,email", identity)
        return record is not None and self._inside(record, "email")

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """Google does not say when a user or group was changed."""
        return ""

    async def changes(self, scope: Scope, cursor: str) -> Changes:  # noqa: ARG002
        """There are none."""
        raise StaleCursorError(f"{self._at()}: no deltas; a full read is due.")

    # --- channels ------------------------------------------------------------------------------

    async def subscribed(self, address: str) -> Sequence[str] | None:  # noqa: ARG002
        """As `Subscribable.subscribed`: Google does not say."""
        return None

    async def subscribe(self, of: str, address: str, secret: str, key: str) -> Subscription:
        """As `Subscribable.subscribe`: a channel with the id `key`."""
        lasts = self.subscriptions.lasts
        body = {
            "id": key,
            "type": "web_hook",
            "address": address,
            "token": secret,
            "params": {"ttl": str(int(lasts.total_seconds()))},
        }
        params = {**self._where, "event": of}
        # Repeated where an answer is lost: a second channel of this id there cannot be.
        answer = await self._http.call("POST", f"{_ROOT}/users/watch", params=params, json=body, repeat=True)
        reason, said = _error(answer.problem())
        if answer.status == 400 and "channelidnotunique" in f"{reason} {said}".lower().replace(" ", ""):
            # It was made when it was asked for before, an hour ago at most. (Without the resource it cannot be ended.)
            return Subscription(of, key, datetime.now(UTC) + lasts - timedelta(hours=2))
        if answer.status == 200:
            return self._channel(of, key, as_dict(answer.json()))
        words = answer.words(said).replace(secret, "***")
        message = f"{self._at('users/watch')}: {answer.status} {answer.scrub(reason)}{words}."
        if answer.status == 400 or "webhook" in reason.lower():
            raise ConfigurationError(
                f"{message} Google takes addresses with https and a certificate that everybody trusts only: see "
                "receiver.public_url."
            )
        if answer.status == 403:
            raise ForbiddenError(f"{message} {_ADVICE.get(reason, self._role())}")
        raise IncompleteError(f"{message} Run again.")

    async def renew(self, old: Subscription, address: str, secret: str, key: str) -> Subscription | None:
        """As `Subscribable.renew`: always another one."""
        return await self.subscribe(old.of, address, secret, key)

    async def unsubscribe(self, old: Subscription) -> bool:
        """As `Subscribable.unsubscribe`. One whose resource nobody knows ends by itself."""
        if not old.resource:
            return True
        body = {"id": old.id, "resourceId": old.resource}
        answer = await self._http.call("POST", _STOP, json=body, repeat=True)
        if answer.status not in (200, 204, 404):
            reason, said = _error(answer.problem())
            raise IncompleteError(
                f"{self._at('channels/stop')}: {answer.status} {answer.scrub(reason)}{answer.words(said)}. Run again."
            )
        return answer.status != 404

    def _channel(self, of: str, key: str, said: Record) -> Subscription:
        ends = text(said.get("expiration"))
        if said.get("id") != key or not ends.isdecimal() or len(ends) > 14:
            raise IncompleteError(f"{self._at('users/watch')}: the answer is not about our channel; run again.")
        return Subscription(of, key, datetime.fromtimestamp(int(ends) / 1000, UTC), text(said.get("resourceId")))

    async def news(self, cursor: str) -> Polled:
        """As `Polls.news`, out of the activities of administrators and the sign-ins of the Reports API."""
        polling, start = self._settings.polling, Point(int((datetime.now(UTC)).timestamp() * 1000))
        lists = ("admin", "login") if polling is None or polling.sign_ins else ("admin",)
        last = points(cursor) if cursor else {}
        now, events, gaps = dict[str, Point](), list[tuple[str, list[News]]](), list[str]()
        for name in lists:
            begin = last.get(name, start)
            found = await self._activities(name, datetime.fromtimestamp(begin.time / 1000, UTC) - _LATE[name])
            now[name] = reached(found, begin)
            gaps.append(lost(f"{name} activities", found, begin))
            told = ((id_of("poll", name, key), hooks.activity(one, "poll")) for key, (_, one) in found.items())
            events += [(key, [one for one in news if one]) for key, news in told]
        return Polled(cursor_of(now), events, next(filter(None, gaps), "")) if cursor else Polled(cursor_of(now))

    async def _activities(self, application: str, since: datetime) -> Found:
        """The activities of an application since then."""
        if since < datetime.now(UTC) - _KEPT:
            raise StaleCursorError(f"{self._at()}: activities of {since:%Y-%m-%d} are kept no more.")
        fields = "kind,nextPageToken,items(id,actor(email,profileId),events(name,parameters(name,value)))"
        query: dict[str, str | int] = {"startTime": since.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "maxResults": 1000}
        query |= {"fields": fields, **({"eventName": "login_success"} if application == "login" else {})}
        if self._settings.customer != "my_customer":
            query["customerId"] = self._settings.customer
        path, found = f"{_REPORTS}/{application}", Found()

        async def fetch(token: str) -> Part:
            said = as_dict((await self._call(path, {**query, "pageToken": token} if token else query, root="")).json())
            items, following = said.get("items", ()), said.get("nextPageToken")
            if said.get("kind") != "admin#reports#activities" or not isinstance(items, list | tuple):
                raise IncompleteError(f"{self._at(path)}: the answer is no list of activities. Check `url`.")
            return Part(items, next=text(following) or None)

        pages = by_cursor(fetch, self._at(path), sparse=True)
        try:
            async for items, _ in pages:
                for one in map(as_dict, items):
                    found[digest(one.get("id"))] = _moment(as_dict(one.get("id")).get("time")), one
                if len(found) > MOST_EVENTS:
                    break
        finally:
            await pages.aclose()  # type: ignore[attr-defined]
        return found

    async def check(self) -> Sequence[str]:
        """As `Source.check`. Google counts neither users nor groups."""
        lines = [f"{self._at()} answers in the name of {self._settings.subject}"]
        for what in ("users", "groups"):
            found = await self._page(what, f"/{what}", {**self._where, "maxResults": 1, "fields": f"kind,{what}(id)"})
            lines.append(f"{what}: {'can be read' if found.items else 'there are none'}")
        for group in found.items:
            await self._page("members", _members(str(as_dict(group).get("id"))), {"maxResults": 1, "fields": "kind"})
            lines.append("members: can be read")
        return lines

    # --- reading -------------------------------------------------------------------------------

    async def _list(
        self, what: str, path: str, fields: str, params: Mapping[str, str]
    ) -> AsyncIterator[tuple[Sequence[Any], bool]]:
        """Every record of a list, page by page."""
        size = min(self._settings.page_size, _SIZES[what])
        query: dict[str, str | int] = {**params, "maxResults": size, "fields": f"kind,nextPageToken,{what}({fields})"}

        async def fetch(token: str) -> Part:
            return await self._page(what, path, {**query, "pageToken": token} if token else query)

        pages = by_cursor(fetch, self._at(path), sparse=True)
        try:
            async for items, last in pages:
                yield items, last
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def _page(self, what: str, path: str, params: Mapping[str, str | int]) -> Part:
        found = (await self._call(path, params)).json()
        items, token = as_dict(found).get(what, ()), as_dict(found).get("nextPageToken")
        if (
            as_dict(found).get("kind") != f"admin#directory#{what}"
            or not isinstance(items, list | tuple)
            or not isinstance(token, str | None)
        ):
            raise IncompleteError(f"{self._at(path)}: the answer is no list of {what}. Check `url`.")
        return Part(items, next=token or None)

    async def _proved(self, group: str, ways: set[bool]) -> Members:
        """A group's members, as many as Google counts; both are asked for again where they do not agree."""
        if not self._settings.member_counts:
            return (await self._members_of(group))[0]
        counted, number = self._counts.get(group), 0
        for again in (False, True):
            if again or counted is None:
                counted = await self._count_of(group)
            members, number = await self._members_of(group)
            people = number - len(members.groups)
            if counted in (people, number):
                if people < number:
                    ways.add(counted == number)
                if len(ways) < 2:
                    return members
                break
            if again and counted < people:  # more may have come since, or the count may lag: nobody is missing
                return members
        raise IncompleteError(
            f"{self._at('members')}: the group {group} has {number} members here, and {counted} by Google's own count. "
            "They changed while being read, or the answer is damaged; run again. Where it stays so though the members "
            "are right, set member_counts = false."
        )

    async def _members_of(self, group: str) -> tuple[Members, int]:
        """Members that are users or groups, neither EXTERNAL (from elsewhere) nor CUSTOMER (everybody in the account);
        and the number of members of every kind. Raises `Flaw`."""
        path, users, nested, number = _members(group), list[str](), list[str](), 0
        async for records, _ in self._list("members", path, "id,type", {}):
            try:
                new_users = [one["id"] for one in records if one["type"] == "USER"]
                new_nested = [one["id"] for one in records if one["type"] == "GROUP"]
                kinds = {one["type"] for one in records}
            except (KeyError, TypeError):
                new_users, new_nested, kinds = [], [], {""}
            if not all(type(one) is str and one for one in (*kinds, *new_users, *new_nested)):
                raise Flaw("a member has no id or no type")
            users += new_users
            nested += new_nested
            number += len(records)
        if len({*users, *nested}) < len(users) + len(nested):
            raise IncompleteError(f"{self._at(path)}: a member came twice, so another may be missing; run again.")
        return Members(group, users, nested), number

    async def _count_of(self, group: str) -> int:
        found = (await self._call(f"/groups/{quote(group, safe='')}", {"fields": "id,directMembersCount"})).json()
        if as_dict(found).get("id") != group:
            raise IncompleteError(f"{self._at('groups')}: asked for the group {group}, and got something else.")
        return _count(found)

    async def _has(self, path: str, fields: str, key: str) -> Record | None:
        """The record of this id; None where Google itself says that there is none."""
        answer = await self._http.call("GET", _ROOT + path, params={"fields": fields})
        if answer.status == 404 and _error(answer.problem())[0] == "notFound":
            return None
        record = as_dict((answer if answer.status == 200 else await self._call(path, {"fields": fields})).json())
        if record.get("id") != key:
            raise IncompleteError(f"{self._at(path)}: asked for {key}, and got something else; run again.")
        return record

    def _inside(self, record: Record, address: str) -> bool:
        """Whether lists with our `domain` or `customer` name this record."""
        if domain := self._settings.domain:
            return text(record.get(address)).lower().endswith(f"@{domain.lower()}")
        return record.get("customerId") in (None, self._settings.customer) or self._settings.customer == "my_customer"

    async def _find(self, key: str, scope: Scope) -> Record | None:
        path, fields = f"/users/{quote(key, safe='')}", _fields(scope)
        if not key.isprintable():
            return None
        answer = await self._call(path, {"fields": f"{fields},customerId", **_view(scope)}, nobody=True)
        if answer.status == 200:
            return as_dict(answer.json())
        if answer.status in (400, 403):  # so it says of addresses outside the account; or does it of everybody?
            query: dict[str, str | int] = {**self._where, **_view(scope), "maxResults": 1}
            await self._page("users", "/users", {**query, "fields": f"kind,users({fields})"})
        return None

    async def _call(
        self, path: str, params: Mapping[str, str | int], *, nobody: bool = False, root: str = _ROOT
    ) -> Answer:
        """`nobody`: the answers to a person who is not there are answers, too."""
        answer = await self._http.call("GET", root + path, params=params)
        if answer.status == 200:
            return answer
        reason, said = _error(answer.problem())
        if nobody and (answer.status, reason) in ((404, "notFound"), (400, "invalid"), (403, "forbidden")):
            return answer
        where = self._at("/users" if nobody else path)
        message = f"{where}: {answer.status} {answer.scrub(reason)}{answer.words(said) or ' (no reason given)'}."
        if answer.status == 403:
            role = self._role() if root else f"Give {self._settings.subject} the privilege Reports (Admin roles)."
            raise ForbiddenError(f"{message} {_ADVICE.get(reason, role)}")
        of_list = answer.status in (400, 404) and path.count("/") == 1 and "pageToken" not in params
        if of_list or reason == "invalidParameter":
            raise ConfigurationError(
                f"{message} Check `url`, `customer` or `domain`, and the attributes of the mapping."
            )
        raise IncompleteError(f"{message} Run again.")

    def _role(self) -> str:
        return (
            f"Give {self._settings.subject} an administrator role with the Admin API privileges Users > Read and "
            "Groups > Read (Admin console, Account > Admin roles)."
        )

    def _at(self, what: str = "") -> str:
        return f"{self._http.name}: {what or 'Google Workspace'}"


# --- record → row ------------------------------------------------------------------------------


def user_rows(attributes: Iterable[str]) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`."""
    extra = attributes_of(attributes, _steps)

    def one(record: Any, doubts: Doubts) -> UserRow:
        try:
            key, email, name, suspended = record["id"], record["primaryEmail"], record["name"], record["suspended"]
            archived = record.get("archived", False)
            first, last, whole = name.get("givenName", ""), name.get("familyName", ""), name.get("fullName", "")
            texts = type(key) is type(email) is type(first) is type(last) is type(whole) is str
            if texts and key and email and type(suspended) is type(archived) is bool:
                active = not suspended and not archived
                return key, email, email, first, last, whole or f"{first} {last}".strip(), active, extra(record, doubts)
        except (KeyError, TypeError, AttributeError):
            pass
        key, email = needed(object_of(record), "id"), needed(record, "primaryEmail")
        suspended, archived = truth(record, "suspended"), "archived" in record and truth(record, "archived")
        name = inner(record, "name", doubts, "first_name", "last_name")
        first, last, whole = names(name, ("givenName", "familyName", "fullName"), doubts)
        active = not suspended and not archived
        return key, email, email, first, last, whole or f"{first} {last}".strip(), active, extra(record, doubts)

    return each(one, "user", "primaryEmail", lambda record: True in (record.get("suspended"), record.get("archived")))


def group_rows(title: str) -> Rows[GroupRow]:
    """As `user_rows`; `title` is the field that becomes the name."""

    def one(record: Any, doubts: Doubts) -> GroupRow:
        object_of(record)
        return needed(record, "id"), needed(record, title), optional(record, "description", doubts), "{}"

    return each(one, "group", title)


def _steps(path: str) -> Sequence[str]:
    """`orgUnitPath`, `organizations.department`, or `customSchemas.SCHEMA.FIELD`. Raises `ConfigurationError`."""
    way = path.split(".")
    if not _PATH.fullmatch(path) or (way[0] == "customSchemas" and len(way) < 3):
        raise ConfigurationError(
            f"google: {path!r} is no attribute path such as organizations.department or customSchemas.SCHEMA.FIELD."
        )
    return way


def _fields(scope: Scope) -> str:
    """What to ask of each user."""
    return ",".join(dict.fromkeys((*_USER, *sorted(_steps(path)[0] for path in scope.attributes))))


def _view(scope: Scope) -> dict[str, str]:
    """Custom schemas come only when they are asked for."""
    ways = [way for path in scope.attributes if (way := _steps(path))[0] == "customSchemas"]
    return {"projection": "custom", "customFieldMask": ",".join(sorted({way[1] for way in ways}))} if ways else {}


def _moment(said: Any) -> int:
    """A time as milliseconds; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(str(said)).timestamp() * 1000)
    except ValueError:
        return 0


def _members(group: str) -> str:
    return f"/groups/{quote(group, safe='')}/members"


def _address(group: Any) -> str:
    return text(as_dict(group).get("email")).lower()


def _count(group: Record) -> int:
    """`directMembersCount`, which comes as text; -1 where it is not said."""
    said = group.get("directMembersCount")
    return int(said) if isinstance(said, str) and said.isdecimal() else -1


# --- the service account -----------------------------------------------------------------------


def _grant(field: str, file: str, settings: GoogleSettings) -> tuple[Form, str]:
    """The grant that a service account's key file makes, and the client's number for messages. The `token_uri` in the
    file is not used. Raises `ConfigurationError` naming `field`."""
    try:
        found = as_dict(orjson.loads(file))
    except orjson.JSONDecodeError:
        found = {}
    email, key, key_id = (found.get(name) for name in ("client_email", "private_key", "private_key_id"))
    if not (isinstance(email, str) and isinstance(key, str) and isinstance(key_id, str) and email and key):
        raise ConfigurationError(
            f"{field}: this is not a service account's key file: JSON with client_email, private_key and "
            "private_key_id. Put in the whole file that Google Cloud gave."
        )
    sign = assertion(
        key,
        field=field,
        audience=_AUDIENCE,
        issuer=email,
        subject=settings.subject,
        headers={"kid": key_id},
        seconds=3600,
        scope=" ".join(settings.scopes()),
    )
    client = text(found.get("client_id") or email)
    return lambda: {"grant_type": JWT_GRANT, "assertion": sign()}, client


# --- errors ------------------------------------------------------------------------------------


def _error(body: Any) -> tuple[str, str]:
    """The reason and the message of an error."""
    error = as_dict(as_dict(body).get("error"))
    errors = error.get("errors")
    first = as_dict(errors[0]) if isinstance(errors, list) and errors else {}
    return text(first.get("reason")), text(error.get("message"))


def _busy(status: int, body: bytes) -> bool:
    """A 403 that only says: too many requests."""
    return status == 403 and _error(Answer(status, {}, body, "").problem())[0] in _BUSY
