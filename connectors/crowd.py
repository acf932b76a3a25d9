"""Atlassian Crowd over its usermanagement REST API: the only directory.

https://developer.atlassian.com/server/crowd/crowd-rest-apis/ (facts and their marks:
`reference/crowd-rest.md`). The base address of `http` holds the context path, usually `/crowd`; the
caller is a Crowd *application*.

**How a listing proves itself whole.** Crowd tells neither a total nor a next link, so that a page cut
short looks like the end. Therefore pages overlap by one record: page i asks for `page_size` records
from i · (page_size - 1) on, and must begin with the record that ended page i - 1. Whatever is
skipped, repeated, emptied or dropped before that point moves that record. The end is proved by asking
once more from the last record on: exactly that record must come back. An empty listing is asked for
again from 0 and from 1 on. No name may occur twice. Requests: the pages, the proof, and what was read
ahead of an end not yet known (at most `readers` - 1, which must be empty). Not provable here: a Crowd
that hides the same records from every call alike.

**Memberships** come as one XML document. It is whole when it parses to its closing tag, holds every
group that `groups()` listed before it (where it did not: one call more) no more than once, and each with
its two lists.

**Writes** are one request each. What Crowd answers is decided by `reason`. After a lost answer one read
tells whether the condition holds; if not, the write is sent again. An empty first name or e-mail in a
full replace is taken by Crowd as "leave as it is" (CWD-5690): this cannot be told from its answer.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from lxml import etree

from connectors.contract import DirectoryChanges, Group, Held, Hint, Outcome, Page, Person, Scope
from connectors.crowd_events import MAX_EVENTS, Events, events_of, is_token, reason_of, stale
from connectors.errors import (
    AmbiguousError,
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RecordError,
    RefusedError,
    RetryableError,
    TooLargeError,
)
from connectors.http import Answer, Http
from connectors.model import (
    ID_ATTRIBUTE,
    MAX_TEXT,
    GroupRow,
    Members,
    MembershipRow,
    UserRow,
    attributes_text,
    crowd_id,
)
from connectors.operations import KINDS, Found, Holds, Kind, Operation, account, ours

Row = TypeVar("Row", UserRow, GroupRow, MembershipRow)
Json = dict[str, Any]

ROOT: Final = "/rest/usermanagement/1"
COOKIE: Final = "/config/cookie"
VERSION: Final = "x-embedded-crowd-version"
"""The header that Crowd's REST puts on every answer, also on errors."""

TRIES: Final = 3
"""How often a write is sent when its answer is lost and its condition does not hold."""

MEMBERSHIP_ROWS: Final = 20_000
"""Memberships of a page, at least; a group is not divided."""

MAX_ANSWERS: Final = 10
"""Answers with new events that `changes` asks for in a row."""

ADDRESS_REFUSED: Final = (
    "Crowd refuses this machine's address. In Crowd's console: Applications → this application → "
    "Remote addresses: add the address from which we come (behind a proxy also Trusted proxies)."
)
_JSON: Final = {"accept": "application/json"}
_XML: Final = {"accept": "application/xml"}
_FIELDS: Final = {
    "email": "email",
    "first-name": "first_name",
    "last-name": "last_name",
    "display-name": "display_name",
    "description": "description",
}
_BOOLEAN: Final = {"true": True, "false": False}
_REASON: Final = re.compile(r"[A-Z_]{1,60}")
_OTHER_ENCODING: Final = re.compile(rb"<\?xml[^>]*encoding\s*=\s*.(?!utf-8['\"])", re.IGNORECASE)
_BY_STATUS: Final = {404: "MEMBERSHIP_NOT_FOUND", 409: "MEMBERSHIP_ALREADY_EXISTS"}
_NO_EVENTS: Final = {
    "EVENT_TOKEN_EXPIRED": "Crowd does not know this token, or not any more",
    "INCREMENTAL_SYNC_NOT_AVAILABLE": "Crowd offers no events of this directory",
}
_GONE: Final = frozenset({"USER_NOT_FOUND", "GROUP_NOT_FOUND", "MEMBERSHIP_NOT_FOUND"})
_FORBIDDEN: Final = frozenset({"APPLICATION_PERMISSION_DENIED", "PERMISSION_DENIED", "UNSUPPORTED_OPERATION"})
_members: Any = etree.XPath("users/user/@name", smart_strings=False)
_children: Any = etree.XPath("groups/group/@name", smart_strings=False)


# --- the kinds of operation --------------------------------------------------------------------


def _user(operation: Operation) -> Json:
    """The whole user, as PUT needs it: what is not named there is blanked."""
    fields = account(operation)
    return {
        "name": operation.name,
        "first-name": fields["first_name"],
        "last-name": fields["last_name"],
        "display-name": fields["display_name"],
        "email": fields["email"],
        "active": bool(fields["active"]),
    }


def _new_user(operation: Operation) -> Json:
    # Nobody ever signs in with this password: mixed for any policy, and forgotten at once.
    password = {"value": f"{secrets.token_urlsafe(36)}aZ7!"}
    return {**_user(operation), "password": password, "attributes": _attributes(operation)}


def _attributes(operation: Operation) -> Json:
    named = operation.record["attributes"]
    return {"attributes": [{"name": name, "values": list(values)} for name, values in named.items()]}


def _group(operation: Operation) -> Json:
    description = operation.record["description"]
    return {"name": operation.name, "type": "GROUP", "description": description, "active": True}


def _found(record: Json | None) -> Found | None:
    """What Crowd answers of one record → what conditions are told of."""
    if record is None:
        return None
    active = record.get("active")
    return Found(
        record["name"],
        {name: record.get(theirs) or "" for theirs, name in _FIELDS.items()}
        | {"active": _BOOLEAN.get(active) if isinstance(active, str) else active},
        _values(record),
    )


def _values(record: Json) -> dict[str, list[str]]:
    listed = (record.get("attributes") or {}).get("attributes") or ()
    values: dict[str, list[str]] = {}
    for one in listed:  # of two of one name both count, so that neither passes for the whole
        values.setdefault(one.get("name", ""), []).extend(one.get("values") or [])
    return values


@dataclass(frozen=True, slots=True)
class Write:
    """How one kind of operation is written, and how it is read back; what must hold then stands in `KINDS`.

    Parameters map a query parameter to a field of the operation. `already`: reasons that say that the
    condition holds. `taken`: reasons that may say so, which a read decides.
    """

    method: str
    path: str
    params: Mapping[str, str]
    permission: str
    body: Callable[[Operation], Json] | None = None
    already: frozenset[str] = frozenset()
    taken: frozenset[str] = frozenset()
    read: tuple[str, Mapping[str, str]] | None = None  # path and parameters, where not those of the write
    known: Holds | None = None  # the condition for a first try that met `taken`, where it is another one


_BY_USER: Final = {"username": "name"}
_BY_GROUP: Final = {"groupname": "name"}
_READ_USER: Final = ("/user", _BY_USER)
_READ_GROUP: Final = ("/group", _BY_GROUP)
# The membership's three calls (add, remove, read) share one path and address the user, so that a leaver
# who is gone is told apart (404 USER_NOT_FOUND) from a group that is not there (400 GROUP_NOT_FOUND).
_MEMBERSHIP: Final = "/user/group/direct"
_BY_PAIR: Final = {"username": "name", "groupname": "target"}
_NESTING: Final = "/group/child-group/direct"
_BY_NEST: Final = {"groupname": "target", "child-groupname": "name"}
_EXISTS: Final = frozenset({"MEMBERSHIP_ALREADY_EXISTS"})
_TAKEN: Final = frozenset({"INVALID_USER", "USER_NOT_FOUND"})

# fmt: off
WRITES: Final[Mapping[Kind, Write]] = {
    Kind.USER_CREATE: Write("POST", "/user", {}, "Add user", _new_user,
                            taken=frozenset({"INVALID_USER"}), read=_READ_USER),
    **{kind: Write("PUT", "/user", _BY_USER, "Modify user", _user)
       for kind in (Kind.USER_UPDATE, Kind.USER_ACTIVATE, Kind.USER_DEACTIVATE)},
    Kind.USER_RENAME: Write("POST", "/user/rename", _BY_USER, "Modify user",
                            lambda operation: {"new-name": operation.target},
                            taken=_TAKEN, read=("/user", {"username": "target"})),
    Kind.USER_DELETE: Write("DELETE", "/user", _BY_USER, "Remove user", already=_GONE),
    Kind.USER_ATTRIBUTES: Write("POST", "/user/attribute", _BY_USER, "Modify user attributes", _attributes,
                                read=_READ_USER),
    Kind.GROUP_CREATE: Write("POST", "/group", {}, "Add group", _group,
                             taken=frozenset({"INVALID_GROUP"}), read=_READ_GROUP, known=ours),
    Kind.GROUP_UPDATE: Write("PUT", "/group", _BY_GROUP, "Modify group", _group),
    Kind.GROUP_DELETE: Write("DELETE", "/group", _BY_GROUP, "Remove group", already=_GONE),
    Kind.GROUP_ATTRIBUTES: Write("POST", "/group/attribute", _BY_GROUP, "Modify group attributes", _attributes,
                                 read=_READ_GROUP),
    Kind.MEMBERSHIP_ADD: Write("POST", _MEMBERSHIP, _BY_USER, "Modify group",
                               lambda operation: {"name": operation.target},
                               already=_EXISTS, read=(_MEMBERSHIP, _BY_PAIR)),
    Kind.MEMBERSHIP_REMOVE: Write("DELETE", _MEMBERSHIP, _BY_PAIR, "Modify group", already=_GONE),
    Kind.NESTING_ADD: Write("POST", _NESTING, {"groupname": "target"}, "Modify group",
                            lambda operation: {"name": operation.name},
                            already=_EXISTS, read=(_NESTING, _BY_NEST)),
    Kind.NESTING_REMOVE: Write("DELETE", _NESTING, _BY_NEST, "Modify group", already=_GONE),
}
# fmt: on


class Crowd:
    """One Crowd directory: `connectors.contract.Directory`.

    `page_size` is the most that one page of a listing may hold, `readers` how many pages of one listing
    are asked for at the same time.
    """

    def __init__(self, http: Http, *, page_size: int = 1000, readers: int = 2) -> None:
        if page_size < 2 or readers < 1:
            raise ConfigurationError(
                f"{http.name}: page_size {page_size} must be at least 2 (pages overlap by one record) "
                f"and readers {readers} at least 1."
            )
        self._http, self._page_size, self._readers = http, page_size, readers
        self._group_names: set[str] | None = None

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return (self._http,)

    # --- reading -------------------------------------------------------------------------------

    def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users, with the attributes that the scope names and our id."""
        wanted = scope.attributes | {ID_ATTRIBUTE}
        params = {"entity-type": "user", "expand": "user,attributes"}
        return self._listing("/search", params, "user", lambda record: _user_row(record, wanted))

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups, with the attributes that the scope names and our id. The next `memberships()` must know them."""
        wanted = scope.attributes | {ID_ATTRIBUTE}
        params = {"entity-type": "group", "expand": "group,attributes"}
        names: set[str] = set()
        async for page in self._listing("/search", params, "group", lambda record: _group_row(record, wanted), 1):
            names.update(row[0] for row in page.rows)
            names.update(crowd_id(held.name) for held in page.held)
            if page.last:
                self._group_names = names
            yield page

    async def memberships(self) -> AsyncIterator[Page[Members]]:
        """All direct memberships, of users and of groups in groups."""
        missing, self._group_names = self._group_names, None
        if missing is None:
            everything = {"entity-type": "group", "start-index": "0", "max-results": "-1"}
            _, names = await self._records("/search", everything, "group")
            missing = set(map(crowd_id, names))
        listed = len(missing)
        rows: list[Members] = []
        number = 0
        document = _Memberships(f"{self._http.name}: memberships")
        async with self._http.stream("GET", f"{ROOT}/group/membership", headers=_XML) as stream:
            if stream.status != 200:
                raise await self._refusal(f"{self._http.name}: memberships", stream.status, "")
            async for chunk in stream.chunks():
                found = document.feed(chunk)
                rows += found
                number += sum(map(len, found))
                if number >= MEMBERSHIP_ROWS:
                    page, rows, number = Page(rows, last=False), [], 0
                    yield page
            document.close()
        missing -= document.groups
        if missing:
            raise IncompleteError(
                f"{self._http.name}: {len(missing)} of {listed} groups are not in the list of all "
                "memberships: it was not whole, or the directory changed meanwhile. Run again."
            )
        yield Page(rows, last=True)

    async def user(self, name: str, scope: Scope) -> Person | None:
        """One user by name, with the groups it is a direct member of."""
        wanted = scope.attributes | {ID_ATTRIBUTE}
        record = await self._record("/user", {"username": name})
        if record is None:
            return None
        try:
            row = _user_row(record, wanted)
        except ValueError as error:
            raise RecordError(f"{self._http.name}: a user cannot be read: {error}.") from None
        groups: list[GroupRow] = []
        parents: list[str] = []
        params = {"username": name, "expand": "group,attributes"}
        async for page in self._listing(_MEMBERSHIP, params, "group", lambda one: _group_row(one, wanted)):
            groups += page.rows
            parents += [group[0] for group in page.rows] + [held.id for held in page.held]
        return Person(row, groups, [(group, row[0], "user") for group in parents])

    async def group(self, name: str, scope: Scope) -> Group | None:
        """One group by name."""
        record = await self._record("/group", {"groupname": name})
        if record is None:
            return None
        try:
            return Group(_group_row(record, scope.attributes | {ID_ATTRIBUTE}))
        except ValueError as error:
            raise RecordError(f"{self._http.name}: a group cannot be read: {error}.") from None

    async def members(self, group: str) -> Sequence[MembershipRow]:
        """The direct members of one group by name, users and groups."""
        found: list[MembershipRow] = []
        for path, kind in (("/group/user/direct", "user"), ("/group/child-group/direct", "group")):
            row = _member_row(crowd_id(group), kind)
            async for page in self._listing(path, {"groupname": group}, kind, row):
                found += page.rows
        return found

    async def token(self) -> str | None:
        """Crowd's event token; None where Crowd has none, or says that it must not be relied on."""
        try:
            answer = await self._http.call("GET", f"{ROOT}/event", headers=_JSON)
            body = answer.json() if answer.status == 200 else None
        except RefusedError:
            return None
        if isinstance(body, dict) and body.get("incrementalSynchronisationAvailable") in (True, "true"):
            token = body.get("newEventToken")
            return token if isinstance(token, str) and token else None
        return None

    async def changes(self, token: str) -> DirectoryChanges:
        """As `Directory.changes`: Crowd's events since `token`, in as many answers as they come in.

        Crowd gives the events of the last minutes again, so that an answer without any is rarely met: the end is one
        that names nobody else. What Crowd may still hold back then comes with the token. Raises `StaleCursorError`
        with the reason: no events or none that can be relied on, a token that is not known or expired, an answer that
        is not whole or not understood, too many. Not confirmed (`reference/crowd-rest.md` 11): what is inside an event,
        and whether a new name is told together with the old one.
        """
        hints: set[Hint] = set()
        for _ in range(MAX_ANSWERS):
            events = await self._events(token)
            known = len(hints)
            hints |= events.hints
            if len(hints) > MAX_EVENTS:
                break
            if len(hints) == known or events.token == token:
                return DirectoryChanges(events.token, sorted(hints, key=lambda hint: (hint.kind, hint.key)))
            token = events.token
        raise stale(
            f"{self._http.name}: events", f"{len(hints)} users and groups changed, and more come with each answer"
        )

    async def _events(self, token: str) -> Events:
        """One answer."""
        what = f"{self._http.name}: events"
        if not is_token(token):
            raise stale(what, "this is no token of Crowd's")
        path = f"{ROOT}/event/{quote(token, safe=':')}"
        try:
            # 500 is looked into first: with which status Crowd refuses a token is not confirmed.
            answer = await self._http.call("GET", path, headers=_XML, expect=(500,))
            if answer.status == 500 and _told(answer) not in _NO_EVENTS:
                answer = await self._http.call("GET", path, headers=_XML)
        except (IncompleteError, TooLargeError) as error:
            raise stale(what, f"the answer is not whole, or too large ({error})") from None
        if answer.status == 200:
            return events_of(answer.body, what)
        reason = _told(answer)
        if answer.status == 403 and reason not in _NO_EVENTS:
            raise await self._refusal(what, answer.status, reason)
        raise stale(what, _NO_EVENTS.get(reason, f"answered {answer.status} {reason}".rstrip()))

    async def check(self) -> Sequence[str]:
        """Address, credentials, remote address and reading; rights to write show only on writing."""
        answer = await self._cookie()
        version, reason = answer.scrub(answer.headers.get(VERSION, "")), _reason(answer)
        if answer.status == 401:
            raise AuthenticationError(
                f"{self._http.name}: Crowd does not accept this application and password. It must be the "
                "application's own, not an administrator's: see Applications in Crowd's console."
            )
        if answer.status == 403:
            raise ForbiddenError(f"{self._http.name}: 403 {reason or ADDRESS_REFUSED}")
        if not version or answer.status != 200:
            found = "Crowd, with no such resource" if version else "not Crowd (no X-Embedded-Crowd-Version)"
            way = await self._at_crowd(answer)
            raise ConfigurationError(
                f"{self._http.name}: {answer.url} answered {answer.status} and is {found}. The base address "
                f"must hold Crowd's context path, as in https://crowd.example.org:8095/crowd.{way}"
            )
        lines = [f"{version}, at {answer.url.removesuffix(ROOT + COOKIE)}: address and application ok"]
        for key in ("user", "group"):
            one = {"entity-type": key, "start-index": "0", "max-results": "1"}
            records, _ = await self._records("/search", one, key)
            lines.append(f"{key}s can be read" + ("" if records else "; there are none yet"))
        offered = "offered" if await self.token() else "none: only a full read notices changes"
        lines.append(f"event token: {offered}")
        rights = ", ".join(sorted({write.permission for write in WRITES.values()}))
        lines.append(f"not tested, because only a write shows it: the application's permissions ({rights})")
        return lines

    async def _at_crowd(self, answer: Answer) -> str:
        """Of an address without a path: which one to try, and whether Crowd answers there."""
        base = answer.url.removesuffix(ROOT + COOKIE)
        if base == answer.url or urlsplit(base).path:
            return ""
        try:
            tried = await self._http.call("GET", f"/crowd{ROOT}{COOKIE}", headers=_JSON, expect=(401, 403, 404))
        except CrowdsyncError:
            return f" Try {base}/crowd."
        return f" Crowd answers at {base}/crowd: write that." if VERSION in tried.headers else f" Try {base}/crowd."

    async def _listing(
        self, path: str, params: Mapping[str, str], key: str, row: Callable[[Json], Row], readers: int = 0
    ) -> AsyncIterator[Page[Row]]:
        """Pages that overlap by one record, read ahead of the consumer; see the module's docstring."""
        readers = readers or self._readers
        size, step = self._page_size, self._page_size - 1
        what = f"{self._http.name}: list of {key}s"
        ahead: deque[asyncio.Task[tuple[list[Json], list[str]]]] = deque()
        seen: set[str] = set()
        last: list[str] = []  # the name that ended the page before
        start, asked, window = 0, 0, 1

        def ask(first: int) -> asyncio.Task[tuple[list[Json], list[str]]]:
            part = {"start-index": str(first), "max-results": str(size)}
            return asyncio.create_task(self._records(path, {**params, **part}, key))

        try:
            while True:
                while len(ahead) < window:
                    ahead.append(ask(asked))
                    asked += step
                records, names = await ahead.popleft()
                if names[: len(last)] != last:
                    raise _not_whole(what, f"the page from {start} on does not fit the one before it")
                records, fresh = records[len(last) :], list(map(crowd_id, names[len(last) :]))
                before = len(seen)
                seen.update(fresh)
                if len(seen) != before + len(fresh):
                    raise _not_whole(what, f"the page from {start} on repeats a name")
                rows, held = _rows(records, key, row)
                last = names[-1:]
                if len(names) < size:
                    end = start + len(names)
                    ahead.appendleft(ask(max(end - 1, 0)))
                    if not end:
                        ahead.append(ask(1))
                    (_, proof), *beyond = await asyncio.gather(*ahead)
                    if proof != last or any(names for _, names in beyond):
                        raise _not_whole(what, f"it seemed to end after {end} records, and does not")
                    yield Page(rows, last=True, held=held)
                    return
                yield Page(rows, last=False, held=held)
                # A listing that has filled so many pages may well fill as many more: the window grows
                # by one with each, so that little is asked for beyond the end of a short one.
                start, window = start + step, min(window + 1, readers)
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _records(self, path: str, params: Mapping[str, str], key: str) -> tuple[list[Json], list[str]]:
        """One page: its records and their names. Anything but a list of named records is refused."""
        answer = await self._http.call("GET", ROOT + path, params=params, headers=_JSON)
        what = f"{self._http.name}: list of {key}s"
        if answer.status != 200:
            raise await self._refusal(what, answer.status, _reason(answer))
        body = answer.json()
        try:
            records = body[f"{key}s"]
            names = [record["name"] for record in records]
        except (KeyError, TypeError):
            raise _not_whole(what, "a page is not a list of named records") from None
        if type(records) is not list or not set(map(type, names)) <= {str} or not all(names):
            raise _not_whole(what, "a record has no name")
        return records, names

    async def _record(self, path: str, params: Mapping[str, str]) -> Json | None:
        """One record by name, or None where Crowd says that it does not exist."""
        answer = await self._http.call("GET", ROOT + path, params={**params, "expand": "attributes"}, headers=_JSON)
        what = f"{self._http.name}: {answer.url}"
        if answer.status == 200:
            body = answer.json()
            # Asked for a membership, Crowd answers with the one group: the last parameter names it.
            asked = crowd_id(list(params.values())[-1])
            if isinstance(body, dict) and isinstance(name := body.get("name"), str) and crowd_id(name) == asked:
                return body
            raise _not_whole(what, "the answer is not the record that was asked for")
        reason = _reason(answer)
        if reason in _GONE:
            return None
        raise await self._refusal(what, answer.status, reason)

    async def _refusal(self, what: str, status: int, reason: str) -> CrowdsyncError:
        """What to raise where a read was not answered."""
        told = f"{what}: answered {status} {reason}".rstrip()
        if status == 403:
            return ForbiddenError(f"{what}: 403. {reason or ADDRESS_REFUSED}")
        if status == 405 and (await self._cookie()).status == 200:
            return ConfigurationError(
                f"{told}, though {COOKIE} there answers. Whatever that is, it cannot be read: a Crowd that is too old, "
                "or no Crowd. See which program and version answers at `url`."
            )
        return IncompleteError(f"{told}. Check the base address.")

    async def _cookie(self) -> Answer:
        """The usual test of a connection, which every Crowd answers."""
        return await self._http.call("GET", ROOT + COOKIE, headers=_JSON, expect=(401,))

    # --- writing -------------------------------------------------------------------------------

    async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
        """As `Directory.write`: one request, and one read for each answer that was lost."""
        write = WRITES[operation.kind]
        where = f"{self._http.name}: {operation.kind} (operation {operation.seq})"
        try:
            params = {key: str(getattr(operation, value)) for key, value in write.params.items()}
            body = write.body(operation) if write.body else None
        except KeyError as error:
            raise RecordError(f"{where}: its record lacks {error}; it would blank that field.") from None
        _check_texts(where, (operation.name, operation.target, body))
        for _ in range(TRIES):
            try:
                answer = await self._http.call(write.method, ROOT + write.path, params=params, json=body, headers=_JSON)
                outcome = await self._judge(operation, answer, where, attempted)
            except AmbiguousError:
                outcome = None
            if outcome is not None:
                return outcome
            if await self.holds(operation):
                return Outcome("done", "the answer was lost; read back")
            attempted = True
        raise RetryableError(
            f"{where}: sent {TRIES} times, no clear answer, and it does not hold. Look into Crowd's log."
        )

    async def holds(self, operation: Operation) -> bool:
        """One read: whether the operation's condition holds now."""
        return KINDS[operation.kind].holds(operation, await self._read_back(operation))

    async def _read_back(self, operation: Operation) -> Found | None:
        write = WRITES[operation.kind]
        path, params = write.read or (write.path, write.params)
        return _found(await self._record(path, {key: getattr(operation, value) for key, value in params.items()}))

    async def _judge(self, operation: Operation, answer: Answer, where: str, attempted: bool) -> Outcome | None:
        """What Crowd's answer means; None: it does not say whether the write took place."""
        write, reason = WRITES[operation.kind], _reason(answer)
        crowd = VERSION in answer.headers
        if crowd and (answer.status in (201, 204) or (answer.status == 200 and answer.body.startswith(b"{"))):
            return Outcome("done")
        if reason == "OPERATION_FAILED" or (crowd and answer.status < 300):  # a 2xx as Crowd never gives it
            return None
        if reason in write.already:
            return Outcome("already", reason)
        if reason in write.taken:
            known = KINDS[operation.kind].holds if attempted or write.known is None else write.known
            if known(operation, await self._read_back(operation)):
                return Outcome("already", reason)
            raise RecordError(
                f"{where}: {reason}. The name is taken by a record that this link does not own, or Crowd "
                "refuses the data. Adopt the record by policy, or correct it in the source.",
                reason,
            )
        if reason in _FORBIDDEN:
            raise ForbiddenError(
                f"{where}: {answer.status} {reason}. Grant “{write.permission}” in Crowd's console: Applications → "
                "this application → Directories → Permissions, and in the directory's own Permissions."
            )
        if reason:
            raise RecordError(f"{where}: {answer.status} {reason}.", reason)
        if answer.status == 403:
            raise ForbiddenError(f"{where}: 403. {ADDRESS_REFUSED}")
        if crowd and answer.status == 400:
            raise RecordError(f"{where}: 400, Crowd refuses the data and gives no reason.")
        raise RefusedError(
            f"{where}: {answer.status} at {answer.url}, not an answer of Crowd's. Is a proxy or sign-in page "
            "between? Is the base address right?"
        )


# --- small parts -------------------------------------------------------------------------------


class _Folded(dict[str, str]):
    """Names → as Crowd looks them up (`crowd_id`). A person is a member of many groups: one text for all of them."""

    def __missing__(self, name: str) -> str:
        folded = self[name] = crowd_id(name)
        return folded


class _Memberships:
    """`GET /group/membership`, parsed as it comes. No document type, no entities, UTF-8 only."""

    def __init__(self, what: str) -> None:
        self.groups: set[str] = set()
        self._ids = _Folded()
        self._what, self._head, self._tail = what, b"", b""
        self._parser: Any = etree.XMLPullParser(
            ("end",), tag="membership", encoding="utf-8",
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, collect_ids=False,
        )  # fmt: skip

    def feed(self, chunk: bytes) -> list[Members]:
        """The groups that end in this piece of the document, with their members."""
        # Before the parser sees it: a document type may appear nowhere in what Crowd sends.
        if b"<!DOCTYPE" in self._tail + chunk:
            raise _not_whole(self._what, "the answer is a page or declares a document type, not Crowd's XML")
        self._tail = (self._tail + chunk)[-8:]
        if len(self._head) < 200:
            self._head += chunk[:200]
        found: list[Members] = []
        try:
            self._parser.feed(chunk)
            root = None
            for _, element in self._parser.read_events():
                root = element.getparent()
                if root is None or root.tag != "memberships" or root.getparent() is not None:
                    raise _not_whole(self._what, "a membership stands where none may stand")
                found.append(self._members(element))
        except etree.XMLSyntaxError as error:
            raise _not_whole(self._what, f"the XML is broken in line {error.lineno}") from None
        if root is not None:
            # All but the last, which the parser may still be writing to.
            del root[:-1]
        return found

    def _members(self, element: Any) -> Members:
        group = element.get("group")
        lists = {child.tag: child for child in element}
        if not group or len(element) != 2 or lists.keys() != {"users", "groups"}:
            raise _not_whole(self._what, "a membership has no group, or not its two lists")
        users, groups = _members(element), _children(element)
        if len(users) != len(lists["users"]) or len(groups) != len(lists["groups"]):
            raise _not_whole(self._what, "a member has no name")
        group = crowd_id(group)
        if group in self.groups:
            raise _not_whole(self._what, "a group is listed twice")
        self.groups.add(group)
        ids = self._ids.__getitem__
        return Members(group, list(map(ids, users)), list(map(ids, groups)))

    def close(self) -> None:
        """The end of the body: the document must end there, too."""
        try:
            root = self._parser.close()
        except etree.XMLSyntaxError as error:
            raise _not_whole(self._what, f"the XML ends or breaks in line {error.lineno}") from None
        if root.tag != "memberships" or _OTHER_ENCODING.match(self._head):
            raise _not_whole(self._what, "the answer is not a list of memberships in UTF-8")


def _rows(records: list[Json], kind: str, row: Callable[[Json], Row]) -> tuple[list[Row], list[Held]]:
    rows: list[Row] = []
    held: list[Held] = []
    for record in records:
        try:
            rows.append(row(record))
        except ValueError as error:
            name = record["name"]
            held.append(Held(kind, crowd_id(name), name, str(error)))
    return rows, held


def _user_row(record: Json, wanted: frozenset[str]) -> UserRow:
    """JSON user → row; `ValueError` says why not."""
    get = record.get
    name, active = record["name"], get("active")
    email, first, last, display = (
        get("email") or "", get("first-name") or "", get("last-name") or "", get("display-name") or "",
    )  # fmt: skip
    if active is not True and active is not False:
        active = _BOOLEAN.get(active) if isinstance(active, str) else None
        if active is None:
            raise ValueError("it does not say whether it is active")
    if not (type(email) is type(first) is type(last) is type(display) is str):
        raise ValueError("a field is not text")
    return crowd_id(name), name, email, first, last, display, active, _wanted(record, wanted)


def _member_row(group: str, kind: str) -> Callable[[Json], MembershipRow]:
    """A group (id) and the kind of its members → what makes a membership of a record."""
    return lambda record: (group, crowd_id(record["name"]), kind)


def _group_row(record: Json, wanted: frozenset[str]) -> GroupRow:
    """JSON group → row; `ValueError` says why not."""
    name, description = record["name"], record.get("description") or ""
    if type(description) is not str:
        raise ValueError("a field is not text")
    return crowd_id(name), name, description, _wanted(record, wanted)


def _wanted(record: Json, wanted: frozenset[str]) -> str:
    """The wanted attributes of a record as canonical text. One without values is one that is not there."""
    found: dict[str, list[str]] = {}
    try:
        for one in record["attributes"]["attributes"] or ():
            if one["name"] not in wanted or not one["values"]:
                continue
            if one["name"] in found:
                raise ValueError("an attribute stands twice")
            if set(map(type, one["values"])) != {str}:
                raise ValueError("an attribute is not text")
            found[one["name"]] = list(one["values"])
        return attributes_text(found)
    except (KeyError, TypeError):
        # Without its attributes we cannot see whose record it is.
        raise ValueError("its attributes are missing or malformed") from None


def _reason(answer: Answer) -> str:
    """Crowd's reason code; from the status only where Crowd answered without a body."""
    if answer.status < 400:
        return ""
    try:
        body = answer.json()
    except IncompleteError:
        # A page says nothing: it may be of a proxy, or the container's for a path that is not there.
        return _BY_STATUS.get(answer.status, "") if VERSION in answer.headers and not answer.body else ""
    reason = body.get("reason") if isinstance(body, dict) else None
    return reason if isinstance(reason, str) and _REASON.fullmatch(reason) else ""


def _told(answer: Answer) -> str:
    """As `_reason`, of an answer that was asked for as XML."""
    return reason_of(answer.body) or _reason(answer)


def _not_whole(what: str, how: str) -> IncompleteError:
    return IncompleteError(f"{what}: {how}. The answer was not whole, or changed while being read: run again.")


def _check_texts(where: str, value: Any) -> None:
    """Every text of a write, before it is sent: Crowd may cut what is too long, or refuse it."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise RecordError(f"{where}: a value of {len(value)} characters; Crowd's limit is {MAX_TEXT}.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordError(f"{where}: a value holds half a character (a lone surrogate).") from None
    elif isinstance(value, Mapping):
        _check_texts(where, (*value.keys(), *value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            _check_texts(where, one)
