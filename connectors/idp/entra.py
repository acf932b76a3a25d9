"""Microsoft Entra ID, one tenant, by Microsoft Graph v1.0: https://learn.microsoft.com/en-us/graph/api/overview

Lists end where no link leads on; nothing counts them. A page may honestly be empty, so an empty one is asked for
twice. Members of 20 groups are asked for in one `$batch`, whose parts are throttled one by one.

Deltas start with `$deltatoken=latest`, before a full read. Properties that a changed item lacks were never set, if a
property that everybody has shows that the item is whole. One that is not, or that contradicts another of the same
round, is read anew by its id.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import Field

from connectors.contract import (
    PLAIN,
    Capabilities,
    Changes,
    Group,
    Held,
    Page,
    Person,
    Scope,
    Subscription,
    Subscriptions,
)
from connectors.errors import (
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
    RetryableError,
    StaleCursorError,
)
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, MembershipRow, UserRow, pairs_of
from connectors.oauth import Form, Tokens, assertion, private_key, with_assertion, with_secret
from connectors.paging import Part, by_cursor, drained, in_order, of_groups
from connectors.records import (
    Doubts,
    Flaw,
    Record,
    Rows,
    as_dict,
    dotted,
    each,
    listed,
    names,
    needed,
    object_of,
    optional,
    truth,
)
from connectors.records import attributes as attributes_of
from connectors.source import SourceSettings, WithClientSecret, WithPrivateKey, client

_MOST: Final = 999
_BATCH: Final = 20
_TRIES: Final = 6
_AGAIN: Final = (429, 502, 503, 504)
_USER: Final = "#microsoft.graph.user"
_GROUP: Final = "#microsoft.graph.group"
_PERSON: Final = ("id", "accountEnabled", "displayName", "givenName", "surname", "mail", "otherMails", "proxyAddresses")
_TEAM: Final = ("id", "displayName", "description", "visibility")
_WITNESS: Final = {"users": "userType", "groups": "securityEnabled"}
"""Is always set and as good as never changed: in a delta it shows that an item is not only what changed."""
_TEAM_ALSO: Final = frozenset(("mail", "mailNickname", "onPremisesSamAccountName", "proxyAddresses", "createdDateTime"))
"""Attributes of people that groups have, too."""
_GUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_GRANT: Final = (
    "Entra admin center > App registrations > the app > API permissions: add the Microsoft Graph application "
    "permission {}, then grant admin consent"
)
_RIGHTS: Final = {
    "users": "User.Read.All",
    "groups": "GroupMember.Read.All",
    "servicePrincipals": "Application.Read.All",
}

_SUBSCRIBE: Final = {"users": "User.Read.All", "groups": "Group.Read.All"}
"""What a subscription to it takes: to groups more than reading them."""

Ids = frozenset[str]


class EntraSettings(WithPrivateKey, WithClientSecret, SourceSettings):
    """A Microsoft Entra tenant."""

    kind: Literal["entra"] = "entra"
    url: str = Field("https://graph.microsoft.com", description="Microsoft Graph; national clouds have their own.")
    login_url: str = Field("https://login.microsoftonline.com", description="Where tokens come from.")
    tenant: str = Field(min_length=1, description="Tenant id, or one of its domains.")
    client_id: str = Field(min_length=1, description="Application (client) id of the app registration.")
    certificate_file: str = Field(
        "", description="PEM certificate of the app; then its private key is the secret rather than a client secret."
    )
    app: str = Field("", description="Only people and groups assigned to this application, by appId or object id.")
    guests: bool = Field(True, description="Whether guests are read.")
    hidden_members: bool = Field(False, description="Member.Read.Hidden is granted: read groups that hide members.")
    username: Literal["userPrincipalName", "mailNickname", "onPremisesSamAccountName", "employeeId"] = Field(
        "userPrincipalName", description="The property with the username."
    )
    known: ClassVar = ("client_secret", "private_key")

    def secrets(self) -> tuple[str, ...]:
        """One of the two."""
        return ("private_key",) if self.certificate_file else ("client_secret",)


class Entra:
    """As `Source`."""

    name: ClassVar[str] = "entra"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True, delta=True)
    settings: ClassVar[type[EntraSettings]] = EntraSettings
    # At most 41,760 minutes, of which an hour is left out for clocks that differ. Graph asks to be authorised anew
    # whenever it likes, such as when a token ends, and then tells no more; each renewal does that, so they are many.
    subscriptions: ClassVar[Subscriptions] = Subscriptions(
        ("users", "groups"), lasts=timedelta(minutes=41_700), renewed=timedelta(minutes=55)
    )

    @classmethod
    def open(cls, name: str, settings: EntraSettings, secrets: Mapping[str, str]) -> Entra:
        """As `Source.open`."""
        return cls(name, settings, secrets)

    def __init__(self, name: str, settings: EntraSettings, secrets: Mapping[str, str]) -> None:
        self._settings, self._name = settings, f"sources.{name}"
        self._size = min(settings.page_size, _MOST)
        self._login = client(name, settings, settings.login_url)
        path = f"/{quote(settings.tenant, safe='')}/oauth2/v2.0/token"
        tokens = Tokens(self._login, path, self._form(path, secrets), advice=_ADVICE)
        self._http = client(name, settings, f"{settings.url.rstrip('/')}/v1.0", bearer=tokens)
        self._app = ""
        self._assigned: asyncio.Task[tuple[Ids, Ids]] | None = None
        self._asking: set[str] = set()

    def _form(self, path: str, secrets: Mapping[str, str]) -> Form:
        chosen, scope = self._settings, f"{self._settings.url.rstrip('/')}/.default"
        if not chosen.certificate_file:
            return with_secret(chosen.client_id, secrets["client_secret"], scope=scope)
        field = f"{self._name}.private_key"
        key = private_key(secrets["private_key"], field)
        if not isinstance(key, RSAPrivateKey):
            raise ConfigurationError(f"{field}: Entra takes RSA keys only; make a certificate with an RSA key")
        try:
            known = x509.load_pem_x509_certificate(Path(chosen.certificate_file).read_bytes())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no certificate in PEM form"
            raise ConfigurationError(f"{self._name}.certificate_file: {chosen.certificate_file}: {why}") from None
        if known.public_key() != key.public_key():
            raise ConfigurationError(f"{field}: it is not the key of {chosen.certificate_file}; give both of one pair")
        sign = assertion(
            secrets["private_key"],
            field=field,
            audience=f"{chosen.login_url.rstrip('/')}{path}",
            issuer=chosen.client_id,
            subject=chosen.client_id,
            headers={"x5t#S256": base64.urlsafe_b64encode(known.fingerprint(SHA256())).rstrip(b"=").decode()},
            algorithm="PS256",
            nbf=int(time.time()),
        )
        return with_assertion(chosen.client_id, sign, scope=scope)

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return self._http, self._login

    # --- whole reads ---------------------------------------------------------------------------

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All people, or those assigned to the application themselves or as direct members of an assigned group."""
        rows, at = self._user_rows(scope), 1
        only = (await self._in_scope("users"))[0] if self._settings.app else None
        async for records, last in self._list(f"/users?$select={self._user_fields(scope)}&$top={self._size}"):
            held: list[Held] = []
            warnings: list[Held] = []
            found = rows(self._wanted(records, only), f"record of the page from {at}", held, warnings)
            yield Page(found, last, held, warnings)
            at += len(records)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups, or those assigned to the application."""
        rows, at = self._group_rows(scope), 1
        only = (await self._in_scope("groups"))[1] if self._settings.app else None
        async for records, last in self._list(f"/groups?$select={_group_fields(scope)}&$top={self._size}"):
            held: list[Held] = []
            warnings: list[Held] = []
            found = rows(_among(records, only), f"record of the page from {at}", held, warnings)
            yield Page(found, last, held, warnings)
            at += len(records)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members of these groups, people and groups."""
        held: list[Held] = []
        members = partial(self._members, held=held)
        pages = of_groups(_bundles(dict.fromkeys(groups)), members, self._settings.concurrency, held)
        try:
            async for page in pages:
                yield page
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def _members(self, groups: Sequence[str], held: list[Held]) -> list[Members]:
        found: list[Members] = []
        for group, members in zip(groups, await self._all(groups, "members"), strict=True):
            try:
                found.append(Members(group, *self._kinds(members, group)))
            except Flaw as flaw:
                held.append(Held("group", group, "", str(flaw)))
        return found

    def _kinds(self, records: Sequence[Any], of: str) -> tuple[list[str], list[str]]:
        """Ids of the users and of the groups; devices, contacts and service principals are left out. Raises `Flaw`."""
        try:
            users = [one["id"] for one in records if one["@odata.type"] == _USER]
            nested = [one["id"] for one in records if one["@odata.type"] == _GROUP]
        except (KeyError, TypeError):
            raise Flaw("a member has no kind or no id") from None
        ids = users + nested
        if not set(map(type, ids)) <= {str}:
            raise Flaw("a member has an id that is not text")
        if len(set(ids)) != len(ids):
            raise IncompleteError(f"{self._name}: a member of the group {of} came twice; run again.")
        return users, nested

    # --- one person ----------------------------------------------------------------------------

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """By id, username or e-mail address, with direct groups: one request by id or userPrincipalName, mostly two
        by others."""
        fields, field = self._user_fields(scope), self._settings.username
        among = f"$select={_group_fields(scope)}&$top={_MOST}"
        by_id = _GUID.fullmatch(key)
        who = f"/users/{quote(key, safe='')}"
        if key.startswith("$"):
            who = f"/users('{quote(key.replace(chr(39), chr(39) * 2), safe='')}')"
        paths = [f"{who}?$select={fields}", f"{who}/memberOf?{among}"] if by_id or "@" in key else []
        if key.strip() and not by_id:
            said = key.replace("'", "''")
            terms = [f"{name} eq '{said}'" for name in dict.fromkeys((field, "mail"))]
            terms += [f"proxyAddresses/any(x:x eq 'SMTP:{said}')", f"otherMails/any(x:x eq '{said}')"]
            paths.append(f"/users?$filter={quote(' or '.join(terms), safe='')}&$select={fields}&$top={_MOST}")
        found = await self._batch(paths) if paths else []
        if by_id and found[0][0] == 400:  # an id it is: it is the properties that Graph does not know
            raise self._error(paths[0], *found[0])
        records = [found[0][1]] if len(found) > 1 and self._there(paths[0], *found[0]) else []
        if not by_id and found:
            records += [r async for page, _ in self._list(paths[-1], [self._part(paths[-1], *found[-1])]) for r in page]
        record = self._the_one(records, key)
        if by_id and records and str(records[0].get("id")).lower() != key.lower():
            raise IncompleteError(f"{self._name}: /users: asked for {key}, and got something else; run again.")
        if record is None:
            return None
        path, ready = f"/users/{quote(needed(record, 'id'), safe='')}/memberOf?{among}", []
        if len(found) > 1 and record is records[0] and self._there(paths[1], *found[1]):
            path, ready = paths[1], [self._part(paths[1], *found[1])]
        groups = [
            r async for page, _ in self._list(path, ready) for r in page if as_dict(r).get("@odata.type") == _GROUP
        ]
        return await self._with_groups(record, groups, scope)

    def _the_one(self, records: Sequence[Record], key: str) -> Record | None:
        """Who of those found is meant: by id before username, and by username before e-mail address."""
        held: list[Held] = []
        rows = self._user_rows(Scope())(records, "record", held)
        if held:
            raise IncompleteError(f"{self._name}: the user {held[0].id} cannot be read: {held[0].reason}.")
        for column in range(3):
            same: dict[str, int] = {}
            for at, row in enumerate(rows):
                if str(row[column]).lower() == key.lower():
                    same.setdefault(row[0], at)
            if len(same) > 1:
                raise RefusedError(f"{self._name}: {key!r} is not one person's; ask by id.")
            for at in same.values():
                return records[at] if self._wanted([records[at]], None) else None
        return None

    async def _with_groups(self, record: Record, groups: Sequence[Record], scope: Scope) -> Person | None:
        held: list[Held] = []
        warnings: list[Held] = []
        (row,) = self._user_rows(scope)([record], "record", held, warnings)
        if self._settings.app:
            people, teams = await self._scope()
            if row[0] not in people:
                return None
            groups = _among(groups, teams)
        wanted = {*_TEAM, *(_steps(path)[0] for path in _group_attributes(scope))}
        thin = [needed(one, "id") for one in groups if not wanted <= one.keys()]
        for bundle in _bundles(thin):  # where members of any kind are listed, not every property need come
            found = await self._whole(
                [f"/groups/{quote(one, safe='')}?$select={_group_fields(scope)}" for one in bundle]
            )
            groups = [one for one in groups if one["id"] not in set(bundle)] + found
        rows = self._group_rows(scope)(groups, "record", held, warnings)
        if held:
            raise IncompleteError(f"{self._name}: a group of the user cannot be read: {held[0].reason}.")
        return Person(row, rows, [(group[0], row[0], "user") for group in rows], warnings)

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`. Who is in the recycle bin is not found; with `app`, only those assigned to it are."""
        record = await self._one(f"/users/{quote(identity, safe='')}?$select=id,userType", identity)
        if record is None or not self._wanted([record], None):
            return False
        if not self._settings.app:
            return True
        people, teams = await self._assigned_to_app()
        if identity in people:
            return True
        above = self._list(f"/users/{quote(identity, safe='')}/memberOf?$select=id&$top={_MOST}")
        return bool(teams.intersection([as_dict(one).get("id") async for page, _ in above for one in page]))

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`."""
        record = await self._group(key, _group_fields(scope))
        if record is None:
            return None
        held: list[Held] = []
        rows = self._group_rows(scope)([record], "record", held)
        if held:
            raise IncompleteError(f"{self._name}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._group(identity, "id") is not None

    async def _group(self, key: str, fields: str) -> Record | None:
        """The record of a group; with `app`, of one that is assigned to it."""
        record = await self._one(f"/groups/{quote(key, safe='')}?$select={fields}", key)
        if record is None or not self._settings.app:
            return record
        return record if key in (await self._assigned_to_app())[1] else None

    async def _one(self, path: str, key: str) -> Record | None:
        """The object of this id; None where Graph itself says that there is none."""
        answer = await self._http.call("GET", path)
        try:
            body = answer.json()
        except IncompleteError:
            body = None
        if answer.status == 404 and as_dict(as_dict(body).get("error")).get("code") == "Request_ResourceNotFound":
            return None
        if answer.status != 200:
            raise self._error(path, answer.status, body)
        if as_dict(body).get("id") != key:
            raise IncompleteError(f"{self._name}: {_bare(path)}: asked for {key}, and got something else; run again.")
        return as_dict(body)

    # --- deltas --------------------------------------------------------------------------------

    async def cursor(self, scope: Scope) -> str:
        """The delta links of now; "" where only a part of the tenant is read, whose border deltas do not show."""
        if self._settings.app or not self._settings.guests:
            return ""
        state: dict[str, Any] = {"asked": self._requested(scope), "gone": []}
        for what, fields in self._requested(scope).items():
            path = f"/{what}/delta?$select={fields}&$deltatoken=latest"
            link = (await self._get(path)).get("@odata.deltaLink")
            if not isinstance(link, str):
                raise IncompleteError(f"{self._name}: /{what}/delta gave no delta link; run again.")
            state[what] = self._http.path_of(link)
        return orjson.dumps(state).decode()

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """As `Source.changes`. Groups are asked before people: whoever joined a group is then known."""
        try:
            state = as_dict(orjson.loads(cursor))
            links, back = [str(state[what]) for what in ("groups", "users")], set(state["gone"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise StaleCursorError(f"{self._name}: this is no cursor of a read of Entra; a full read is due.") from None
        if state.get("asked") != self._requested(scope):
            raise StaleCursorError(f"{self._name}: other properties are asked for than before; a full read is due.")
        try:
            groups, state["groups"] = await self._round("groups", links[0])
            users, state["users"] = await self._round("users", links[1])
            new_users, gone_users = await self._settled("users", users, self._user_fields(scope), back)
            new_groups, gone_groups = await self._settled("groups", groups, _group_fields(scope), back)
            held: list[Held] = []
            warnings: list[Held] = []
            rows = self._user_rows(scope)(new_users, "record of the delta", held, warnings)
            teams = self._group_rows(scope)(new_groups, "record of the delta", held, warnings)
            here = {team[0] for team in teams}
            joined, left, replaced = self._joined_and_left(groups, here)
            members = pairs_of(await drained(self.memberships(replaced), held))
        except IncompleteError as doubt:
            raise StaleCursorError(f"{doubt} A full read is due.") from None
        back |= {key for key, reason in {**gone_users, **gone_groups}.items() if reason == "changed"}
        state["gone"] = sorted(back)
        return Changes(
            orjson.dumps(state).decode(),
            rows,
            teams,
            replaced,
            [*joined, *members],
            left,
            list(gone_users),
            list(gone_groups),
            held,
            warnings,
        )

    def _requested(self, scope: Scope) -> dict[str, str]:
        return {"users": self._user_fields(scope), "groups": f"{_group_fields(scope)},members"}

    async def _round(self, what: str, link: str) -> tuple[list[Record], str]:
        """All items of a delta, and the link to the next one."""
        end = ""

        async def fetch(path: str) -> Part:
            nonlocal end
            found = await self._get(path, stale=True)
            part, last = self._part(path, 200, found), found.get("@odata.deltaLink")
            if (last is None) == (part.next is None) or not isinstance(last, str | None):
                raise IncompleteError(f"{self._name}: a page of /{what}/delta neither ends nor leads on.")
            end = end if last is None else self._http.path_of(last)
            return part

        if not link.startswith(f"/{what}/"):
            raise StaleCursorError(f"{self._name}: the cursor has no link for {what}; a full read is due.")
        pages = by_cursor(fetch, f"{self._name}: /{what}/delta", first=link, sparse=True)
        items = [item async for page, _ in pages for item in page]
        if not all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in items):
            raise IncompleteError(f"{self._name}: an item of /{what}/delta has no id.")
        return items, end

    async def _settled(
        self, what: str, items: Sequence[Record], fields: str, back: Iterable[str]
    ) -> tuple[list[Record], dict[str, str]]:
        """Items → records as they are now, and why each of the others is gone."""
        needs = ["displayName", _WITNESS[what]]
        needs += ["accountEnabled", self._settings.username] if what == "users" else []
        seen: dict[str, list[Record]] = {}
        for item in items:
            seen.setdefault(item["id"], []).append({k: v for k, v in item.items() if k != "members@delta"})
        records: list[Record] = []
        gone: dict[str, str] = {}
        doubtful: list[str] = []
        for key, some in seen.items():
            reasons = {as_dict(one["@removed"]).get("reason") for one in some if "@removed" in one}
            if not reasons <= {"changed", "deleted"}:
                raise StaleCursorError(f"{self._name}: {key} is removed for a reason that is not known.")
            if all("@removed" in one for one in some):
                gone[key] = "deleted" if "deleted" in reasons else "changed"
            elif key in back:
                raise StaleCursorError(f"{self._name}: {key} was restored, and who is in which group with it.")
            elif not reasons and all(one == some[0] for one in some) and all(name in some[0] for name in needs):
                records.append(some[0])
            else:
                doubtful.append(key)
        for bundle in _bundles(doubtful):
            paths = [f"/{what}/{quote(key, safe='')}?$select={fields}" for key in bundle]
            for key, path, (status, body) in zip(bundle, paths, await self._batch(paths), strict=True):
                if self._there(path, status, body):
                    records.append(body)
                elif any("@removed" in one for one in seen[key]):
                    gone[key] = "changed"
                else:
                    raise StaleCursorError(f"{self._name}: {key} changed and is not there; run again.")
        return records, gone

    def _joined_and_left(
        self, items: Sequence[Record], here: Iterable[str]
    ) -> tuple[list[MembershipRow], list[MembershipRow], list[str]]:
        """Who joined, who left, and groups whose members have to be read anew. A group may come several times."""
        said: dict[str, dict[str, set[tuple[bool, Any]]]] = {key: {} for key in here}
        for item in items:
            slice_ = item.get("members@delta", ())
            if item["id"] not in said or not slice_:
                continue
            for member in slice_:
                if not isinstance(member, dict) or not isinstance(member.get("id"), str):
                    raise IncompleteError(f"{self._name}: a member in /groups/delta has no id.")
                news = "@removed" not in member, member.get("@odata.type")
                said[item["id"]].setdefault(member["id"], set()).add(news)
        joined: list[MembershipRow] = []
        left: list[MembershipRow] = []
        replaced: list[str] = []
        for group, members in said.items():
            if any(len(words) > 1 or (True, None) in words for words in members.values()):
                replaced.append(group)
                continue
            for member, words in members.items():
                ((here_now, kind),) = words
                kinds = {_USER: ("user",), _GROUP: ("group",), None: ("user", "group")}.get(kind, ())
                (joined if here_now else left).extend((group, member, one) for one in kinds)
        return joined, left, replaced

    # --- subscriptions -------------------------------------------------------------------------

    async def subscribed(self, address: str) -> Sequence[str] | None:
        """As `Subscribable.subscribed`: those of this app. Graph shows no `clientState`."""
        found = [as_dict(one) async for page, _ in self._list("/subscriptions") for one in page]
        return [needed(one, "id") for one in found if one.get("notificationUrl") == address]

    async def subscribe(self, of: str, address: str, secret: str, key: str) -> Subscription:  # noqa: ARG002
        """As `Subscribable.subscribe`. Graph asks the address first whether it is one of ours."""
        body = {
            "resource": of,
            "changeType": "updated,deleted",  # who is new, or goes into the bin, is updated
            "notificationUrl": address,
            "lifecycleNotificationUrl": address,
            "expirationDateTime": self._until(),
            "clientState": secret,
        }
        answer = await self._http.call("POST", "/subscriptions", json=body)
        if answer.status == 409 and await self._make_room(of, address):
            answer = await self._http.call("POST", "/subscriptions", json=body)
        if answer.status != 201:
            raise self._unheard(of, answer, secret)
        return self._subscription(of, answer)

    async def renew(
        self,
        old: Subscription,
        address: str,  # noqa: ARG002
        secret: str,
        key: str,  # noqa: ARG002
    ) -> Subscription | None:
        """As `Subscribable.renew`: the same one, authorised anew."""
        path = f"/subscriptions/{quote(old.id, safe='')}"
        answer = await self._http.call("PATCH", path, json={"expirationDateTime": self._until()}, repeat=True)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._unheard(old.of, answer, secret)
        return self._subscription(old.of, answer)

    async def unsubscribe(self, old: Subscription) -> bool:
        """As `Subscribable.unsubscribe`."""
        path = f"/subscriptions/{quote(old.id, safe='')}"
        answer = await self._http.call("DELETE", path, repeat=True)
        if answer.status not in (200, 204, 404):
            raise self._error(path, answer.status, answer.problem())
        return answer.status != 404

    async def _make_room(self, of: str, address: str) -> int:
        """Ends what leads to this address already, and of which nobody knows; how many."""
        found = [as_dict(one) async for page, _ in self._list("/subscriptions") for one in page]
        same = [one for one in found if one.get("notificationUrl") == address and one.get("resource") == of]
        for one in same:
            await self.unsubscribe(Subscription(of, needed(one, "id"), datetime.now(UTC)))
        return len(same)

    def _until(self) -> str:
        return f"{datetime.now(UTC) + self.subscriptions.lasts:%Y-%m-%dT%H:%M:%SZ}"

    def _subscription(self, of: str, answer: Answer) -> Subscription:
        said = as_dict(answer.json())
        until = instant_of(said.get("expirationDateTime"))
        if until is None or type(said.get("id")) is not str or not said["id"]:
            raise IncompleteError(f"{self._name}: /subscriptions: the answer names no id, or no time at which it ends.")
        return Subscription(of, said["id"], until)

    def _unheard(self, of: str, answer: Answer, secret: str) -> RefusedError | ConfigurationError:
        """What to raise where Graph does not subscribe us to it."""
        said = self._why(answer.problem()).replace(secret, "***")
        message = f"{self._name}: the subscription to {of}: {answer.status}{said}."
        if answer.status == 400:
            return ConfigurationError(
                f"{message} Graph must reach crowdsync receive, by https, at receiver.public_url, and be answered "
                "within ten seconds; see that it runs."
            )
        if answer.status == 409:
            return ConfigurationError(
                f"{message} The app has one already that leads elsewhere: end that one, or give crowdsync an app "
                "registration of its own."
            )
        if answer.status in (401, 403):
            return ForbiddenError(
                f"{message} {_GRANT.format(_SUBSCRIBE[of])}. Where it is granted, there are too many subscriptions: "
                "an app may have 100 in a tenant."
            )
        return IncompleteError(f"{message} Run again.")

    # --- check ---------------------------------------------------------------------------------

    async def check(self) -> Sequence[str]:
        """As `Source.check`: every kind of read once."""
        chosen = self._settings
        counted = "$top=1&$count=true"
        paths = [f"/users?$select={self._user_fields(Scope())}&{counted}", f"/groups?$select=id&{counted}"]
        users, groups = await self._whole(paths, {"ConsistencyLevel": "eventual"})
        for group in groups.get("value") or ():
            await self._all([needed(group, "id")], "members")
        lines = [
            f"{self._name}: the tenant {chosen.tenant} answers, usernames from {chosen.username}",
            f"users: {users.get('@odata.count', 'not counted')}{'' if chosen.guests else ', guests will be left out'}",
            f"groups: {groups.get('@odata.count', 'not counted')}",
        ]
        if chosen.app:
            people, teams = await self._scope()
            lines.append(f"application {chosen.app}: {len(people)} people and {len(teams)} groups")
        return lines

    # --- the application -----------------------------------------------------------------------

    async def _in_scope(self, who: str) -> tuple[Ids, Ids]:
        """As `_scope`, read once for users and groups that are read side by side."""
        if self._assigned is None or who not in self._asking:
            self._assigned, self._asking = asyncio.ensure_future(self._scope()), {"users", "groups"}
        self._asking.discard(who)
        return await asyncio.shield(self._assigned)

    async def _scope(self) -> tuple[Ids, Ids]:
        """Ids of the people and groups that are assigned to the application, and of the direct members of these groups.

        Entra lets nobody in who is only in a group nested in an assigned one; nor do we."""
        users, groups = await self._assigned_to_app()
        people = set(users)

        async def direct(bundle: Sequence[str]) -> list[str]:
            found = await self._all(bundle, "members")
            try:
                return [user for key, some in zip(bundle, found, strict=True) for user in self._kinds(some, key)[0]]
            except Flaw as flaw:
                raise IncompleteError(f"{self._name}: an assigned group cannot be read: {flaw}.") from None

        async for some in in_order(direct, _bundles(sorted(groups)), self._settings.concurrency):
            people.update(some)
        return frozenset(people), groups

    async def _assigned_to_app(self) -> tuple[Ids, Ids]:
        """Ids of the people and groups that are assigned to the application themselves."""
        root = f"/servicePrincipals/{await self._principal()}/appRoleAssignedTo"
        assigned = [one async for page, _ in self._list(root) for one in page]
        try:
            users = frozenset(one["principalId"] for one in assigned if one["principalType"] == "User")
            groups = frozenset(one["principalId"] for one in assigned if one["principalType"] == "Group")
        except (KeyError, TypeError):
            raise IncompleteError(f"{self._name}: an assignment to the application names nobody; run again.") from None
        return users, groups

    async def _principal(self) -> str:
        """The object id of the application's service principal; `app` may be its application id."""
        if not self._app:
            key = quote(self._settings.app, safe="")
            paths = [f"/servicePrincipals(appId='{key}')?$select=id", f"/servicePrincipals/{key}?$select=id"]
            found = [b for p, (s, b) in zip(paths, await self._batch(paths), strict=True) if self._there(p, s, b)]
            if not found:
                raise ConfigurationError(
                    f"{self._name}.app: the tenant has no enterprise application {self._settings.app}; set the "
                    "Application ID or Object ID from its Overview page"
                )
            self._app = quote(needed(found[0], "id"), safe="")
        return self._app

    # --- answers -------------------------------------------------------------------------------

    async def _list(self, path: str, ready: Sequence[Part] = ()) -> AsyncIterator[tuple[Sequence[Any], bool]]:
        """A whole list. `ready`: what was already answered to `path`."""
        waiting = list(ready)

        async def fetch(at: str) -> Part:
            if at == path and waiting:
                return waiting.pop(0)
            return self._part(at, 200, await self._get(at))

        async for page in by_cursor(fetch, f"{self._name}: {_bare(path)}", first=path, sparse=True):
            yield page

    async def _all(self, groups: Sequence[str], what: str) -> list[list[Any]]:
        """A whole list of members of each of up to 20 groups."""
        paths = [f"/groups/{quote(group, safe='')}/{what}?$select=id&$top={self._size}" for group in groups]
        parts = {
            path: [self._part(path, 200, body)] for path, body in zip(paths, await self._whole(paths), strict=True)
        }
        if empty := [path for path, (part,) in parts.items() if not part.items]:
            for path, body in zip(empty, await self._whole(empty), strict=True):
                parts[path].append(self._part(path, 200, body))
        return [[one async for page, _ in self._list(path, ready) for one in page] for path, ready in parts.items()]

    async def _get(self, path: str, *, stale: bool = False) -> Record:
        answer = await self._http.call("GET", path)
        try:
            body = answer.json()
        except IncompleteError:
            if answer.status == 200:
                raise
            body = None
        if answer.status == 200 and isinstance(body, dict):
            return body
        if stale and answer.status in (400, 404, 410):
            raise StaleCursorError(
                f"{self._name}: {_bare(path)}: {answer.status}{self._why(body)}; a full read is due."
            )
        raise self._error(path, answer.status, body)

    async def _batch(self, paths: Sequence[str], headers: Mapping[str, str] | None = None) -> list[tuple[int, Any]]:
        """Status and body of each of up to 20; those that are throttled are asked for again when Graph says."""
        todo = {str(at): path for at, path in enumerate(paths)}
        done: dict[str, tuple[int, Any]] = {}
        wait = 0.0
        for turn in range(_TRIES):
            batch = [{"id": key, "method": "GET", "url": path, "headers": headers or {}} for key, path in todo.items()]
            answer = await self._http.call("POST", "/$batch", json={"requests": batch}, repeat=True)
            if answer.status != 200:
                raise self._error("/$batch", answer.status, answer.problem())
            parts = as_dict(answer.json()).get("responses")
            found = {str(part.get("id")): part for part in parts or () if isinstance(part, dict)}
            if not isinstance(parts, list) or len(parts) != len(todo) or found.keys() != todo.keys():
                raise IncompleteError(f"{self._name}: $batch answered other requests than it was asked; run again.")
            again, wait = {}, 0.0
            for key, part in found.items():
                if part.get("status") in _AGAIN:
                    again[key] = todo[key]
                    wait = max(wait, _seconds(part, 2.0**turn / 4))
                else:
                    done[key] = part.get("status", 0), part.get("body")
            if not again:
                return [done[str(at)] for at in range(len(paths))]
            todo = again
            self._http.pause(wait)
        raise RetryableError(f"{self._name}: {_bare(next(iter(todo.values())))}: too many requests; try later.", wait)

    async def _whole(self, paths: Sequence[str], headers: Mapping[str, str] | None = None) -> list[Record]:
        """The bodies of a batch, all of which must be there."""
        found = await self._batch(paths, headers)
        for path, (status, body) in zip(paths, found, strict=True):
            if status != 200 or not isinstance(body, dict):
                raise self._error(path, status, body)
        return [body for _, body in found]

    def _there(self, path: str, status: int, body: Any) -> bool:
        """Whether one object was found. 400: what was asked for is no id."""
        if status in (400, 404):
            return False
        if status != 200 or not isinstance(body, dict):
            raise self._error(path, status, body)
        return True

    def _part(self, path: str, status: int, body: Any) -> Part:
        if status != 200 or not isinstance(body, dict):
            raise self._error(path, status, body)
        items, total, link = body.get("value"), body.get("@odata.count"), body.get("@odata.nextLink")
        if not isinstance(items, list) or not isinstance(link, str | None):
            raise IncompleteError(
                f"{self._name}: {_bare(path)}: not a list; keys: {self._http.scrub(', '.join(list(body)[:6]))}."
            )
        after = None if link is None else self._http.path_of(link)
        return Part(items, total if type(total) is int else None, None, after)

    def _why(self, body: Any) -> str:
        """Code and message of an error, as far as there are any."""
        error = as_dict(as_dict(body).get("error"))
        said = self._http.scrub(" ".join(str(error[name]) for name in ("code", "message") if error.get(name)))
        return f" ({said})" if said else ""

    def _error(self, path: str, status: Any, body: Any) -> RefusedError | ConfigurationError:
        message = f"{self._name}: {_bare(path)}: {status}{self._why(body)}."
        if status in (401, 403):
            what = re.split(r"[/(?]", path)[1]
            right = _RIGHTS["users"] if "memberOf" not in path else f"{_RIGHTS['users']} and {_RIGHTS['groups']}"
            return ForbiddenError(
                f"{message} {_GRANT.format(right if what == 'users' else _RIGHTS.get(what, 'it lacks'))}."
            )
        if status in (400, 501) and "$select=" in path:
            return ConfigurationError(
                f"{message} Correct the attributes of the mapping: properties of a user, such as city."
            )
        if status == 404 and path.count("/") == 1:
            return ConfigurationError(f"{message} Set `url` to Microsoft Graph, without a path.")
        return IncompleteError(f"{message} Run again.")

    # --- records -------------------------------------------------------------------------------

    def _wanted(self, records: Sequence[Any], only: Ids | None) -> Sequence[Any]:
        if not self._settings.guests:
            records = [one for one in records if as_dict(one).get("userType") != "Guest"]
        return _among(records, only)

    def _user_fields(self, scope: Scope) -> str:
        names = [*_PERSON, _WITNESS["users"], self._settings.username]
        return ",".join(dict.fromkeys([*names, *(_steps(path)[0] for path in sorted(scope.attributes))]))

    def _user_rows(self, scope: Scope) -> Rows[UserRow]:
        extra, field = attributes_of(scope.attributes, _steps), self._settings.username

        def one(record: Record, doubts: Doubts) -> UserRow:
            get = object_of(record).get
            key, username, active = needed(record, "id"), get(field), get("accountEnabled")
            if type(username) is not str or not username:
                raise Flaw(f"no {field}, or one that is not text")
            if active is not True and active is not False:
                active = truth(record, "accountEnabled")
            first, last, display = get("givenName", ""), get("surname", ""), get("displayName", "")
            if not (type(first) is type(last) is type(display) is str):
                first, last, display = names(record, ("givenName", "surname", "displayName"), doubts)
            email = optional(record, "mail", doubts, "email") or _other_mail(record)
            return key, username, email, first, last, display, active, extra(record, doubts)

        return each(one, "user", field, lambda record: record.get("accountEnabled") is False)

    def _group_rows(self, scope: Scope) -> Rows[GroupRow]:
        extra = attributes_of(_group_attributes(scope), _steps)

        def one(record: Record, doubts: Doubts) -> GroupRow:
            name = needed(object_of(record), "displayName")
            if record.get("visibility") == "HiddenMembership" and not self._settings.hidden_members:
                raise Flaw("it hides its members: grant Member.Read.Hidden and set hidden_members = true")
            return needed(record, "id"), name, optional(record, "description", doubts), extra(record, doubts)

        return each(one, "group", "displayName")


_ADVICE: Final = (
    "Check tenant and client_id, and that the secret or certificate is among the app registration's Certificates & "
    "secrets and has not expired."
)


def instant_of(said: Any) -> datetime | None:
    """A time as Graph says it, in UTC, with as many digits of a second as it likes; None where it is none."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)", str(said))
    try:
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def _other_mail(record: Record) -> str:
    """The e-mail address of somebody without `mail`: another one, the primary proxy address, the principal name."""
    for other in listed(record.get("otherMails")):
        if isinstance(other, str) and other.strip():
            return other
    for proxy in listed(record.get("proxyAddresses")):
        if isinstance(proxy, str) and proxy.startswith("SMTP:"):
            return proxy[5:]
    name = record.get("userPrincipalName")
    return name if isinstance(name, str) and "#EXT#" not in name else ""


def _steps(path: str) -> Sequence[str]:
    way = dotted("entra")(path)
    if not re.fullmatch(r"\w+", way[0], re.ASCII):
        raise ConfigurationError(f"entra: {path!r} is no property such as city or employeeOrgData.division.")
    return way


def _group_attributes(scope: Scope) -> list[str]:
    return [path for path in sorted(scope.attributes) if _steps(path)[0] in _TEAM_ALSO]


def _group_fields(scope: Scope) -> str:
    return ",".join(dict.fromkeys([*_TEAM, _WITNESS["groups"], *_group_attributes(scope)]))


def _among(records: Sequence[Any], only: Ids | None) -> Sequence[Any]:
    """Those records whose ids are in scope; what has no id stays, to be held."""
    if only is None:
        return records
    return [one for one in records if not isinstance(key := as_dict(one).get("id"), str) or key in only]


def _bundles(keys: Iterable[str]) -> list[list[str]]:
    every = list(keys)
    return [every[at : at + _BATCH] for at in range(0, len(every), _BATCH)]


def _bare(path: str) -> str:
    return path.partition("?")[0]


def _seconds(part: Record, otherwise: float) -> float:
    """The Retry-After of a part of a batch."""
    for name, value in as_dict(part.get("headers")).items():
        if name.lower() == "retry-after" and str(value).isdigit():
            return float(value)
    return otherwise
