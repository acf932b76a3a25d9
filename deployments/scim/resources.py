"""The mirror as the storage of `scim2-server`, in one transaction: rows ↔ SCIM resources, and what a search finds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final, cast

import orjson
from scim2_models import (
    InvalidValueException,
    Meta,
    NotFoundException,
    NotImplementedException,
    PreconditionFailedException,
    Resource,
    ResourceType,
    ResponseParameters,
    SearchRequest,
    TooManyException,
    UniquenessException,
)
from scim2_server.service import ScimService
from scim2_server.storage import ScimStorage, SearchPage

from connectors.model import MAX_TEXT, crowd_id
from connectors.store.mirror import Mirrored, MirrorReading, MirrorWriting, TakenError, UnknownError
from deployments.scim import members
from deployments.scim.dialects import refuse_unholdable, unholdable
from deployments.scim.filters import conditions

LOOKED_AT: Final = 1000
"""Records that a search without an index looks at, at most: each costs half a millisecond."""
MEMBERS_A_PAGE: Final = 20_000
"""Members on one page of groups, at most; one group always has all of its own."""
BODY: Final = 65_536
"""Characters of one record."""

_OURS: Final = ("id", "meta", "members", "groups", "password")
"""What is not kept in the body: it stands elsewhere, is worked out, or is a secret that nobody needs."""


def kind_of(resource_type: ResourceType) -> str:
    """user or group."""
    return str(resource_type.name).lower()


class Resources(ScimStorage):
    """One source's records in one transaction; only one that writes can create, update and delete.

    Groups come without their members, which are rows: `members` has those of the groups that were read, by id, where
    the answer is to show them (`parts`, as of `members.wanted`).
    """

    def __init__(self, service: ScimService, mirror: MirrorReading) -> None:
        self._service, self._mirror = service, mirror
        self.members: dict[str, list[tuple[str, str]]] = {}
        self.parts: tuple[str, ...] = ()

    @property
    def writing(self) -> MirrorWriting:
        """The mirror, to be written to."""
        return cast(MirrorWriting, self._mirror)

    def operation(self) -> AbstractContextManager[None]:
        """A savepoint, where something can be undone."""
        return self._mirror.savepoint() if isinstance(self._mirror, MirrorWriting) else super().operation()

    def row(self, kind: str, identity: str) -> Mirrored:
        """One row. Raises `NotFoundException`."""
        found = None if unholdable(identity) else self._mirror.get(kind, identity)
        if found is None:
            raise NotFoundException(detail=f"There is no {kind} with this id.")
        return found

    def get(
        self,
        resource_type: ResourceType,
        resource_id: str,
        *,
        response_parameters: ResponseParameters[Any] | None = None,
    ) -> Resource[Any]:
        """As `ScimStorage.get`."""
        row = self.row(kind_of(resource_type), resource_id)
        self._with_members(kind_of(resource_type), [row], response_parameters)
        return self.resource(resource_type, row)

    def search(
        self, resource_types: list[ResourceType], search_request: SearchRequest[Any], *, position: Any = None
    ) -> SearchPage:
        """As `ScimStorage.search`: by index where the filter can be, else over `LOOKED_AT` records at most."""
        if len(resource_types) != 1 or position is not None:
            raise NotImplementedException(detail="A search is about users or about groups.")
        resource_type, kind = resource_types[0], kind_of(resource_types[0])
        # (no list is that long, and no database counts further than 64 bits)
        search_request.start_index = min(search_request.start_index or 1, 10**9)
        start, count = search_request.start_index - 1, search_request.count or 0
        found = search_request.filter
        where, whole = conditions(found.ast, kind) if found is not None else ((), True)
        if any(unholdable(value) for _, value in where):
            return SearchPage(0, [])
        if whole:
            rows = self._mirror.some(kind, where, start, count) if count else []
            last = len(rows) < count and (rows or not start)  # (then nobody needs to count)
            total = start + len(rows) if last else self._mirror.count(kind, where)
        else:
            rows, total = self._matching(resource_type, search_request, where)
        rows = self._with_members(kind, rows, search_request)
        return SearchPage(total, [self.resource(resource_type, row) for row in rows])

    def _matching(
        self, resource_type: ResourceType, search_request: SearchRequest[Any], where: Any
    ) -> tuple[list[Mirrored], int]:
        rows = self._mirror.some(kind_of(resource_type), where, 0, LOOKED_AT + 1)
        if len(rows) > LOOKED_AT:
            raise TooManyException(
                detail="This filter would look at too many records: compare userName, externalId, displayName of "
                'groups, id or emails[type eq "work"].value by eq.'
            )
        found: Any = search_request.filter
        rows = [row for row in rows if found.match(self.resource(resource_type, row))]
        start = search_request.start_index_0 or 0
        return rows[start : start + (search_request.count or 0)], len(rows)

    def _with_members(
        self, kind: str, rows: list[Mirrored], parameters: ResponseParameters[Any] | None
    ) -> list[Mirrored]:
        """The first rows whose members are not too many, at least one; their members are read where they are wanted."""
        self.parts = members.wanted(parameters) if kind == "group" else ()
        if not self.parts or not rows:
            return rows
        counts, total = self._mirror.member_counts([row.id for row in rows]), 0
        for number, row in enumerate(rows):
            total += counts.get(row.id, 0)
            if number and total > MEMBERS_A_PAGE:
                return rows[:number]
            self.members[row.id] = self._mirror.members(row.id) if row.id in counts else []
        return rows

    def create(self, resource_type: ResourceType, resource: Resource[Any]) -> Resource[Any]:
        """As `ScimStorage.create`."""
        kind = kind_of(resource_type)
        joined = self._members_of(resource)
        try:
            row = self.writing.create(kind, record(kind, resource))
        except TakenError:
            raise UniquenessException(detail=f"Another {kind} has this name.") from None
        if joined:
            self.writing.join(row.id, joined)
            row = self.row(kind, row.id)
        self._with_members(kind, [row], None)
        return self.resource(resource_type, row)

    def update(
        self, resource_type: ResourceType, resource: Resource[Any], *, expected_version: str | None = None
    ) -> Resource[Any]:
        """As `ScimStorage.update`, but for members: they stay as they are."""
        kind = kind_of(resource_type)
        self._expect(kind, str(resource.id), expected_version)
        try:
            row = self.writing.put(kind, record(kind, resource))
        except TakenError:
            raise UniquenessException(detail=f"Another {kind} has this name.") from None
        except UnknownError:
            raise NotFoundException(detail=f"There is no {kind} with this id.") from None
        return self.resource(resource_type, row)

    def delete(self, resource_type: ResourceType, resource_id: str, *, expected_version: str | None = None) -> None:
        """As `ScimStorage.delete`."""
        kind = kind_of(resource_type)
        self._expect(kind, resource_id, expected_version)
        self.writing.remove(kind, resource_id)

    def _expect(self, kind: str, identity: str, version: str | None) -> None:
        row = self.row(kind, identity)
        if version is not None and version != version_of(row):
            raise PreconditionFailedException

    def _members_of(self, resource: Any) -> dict[str, str]:
        listed = [one.model_dump() for one in getattr(resource, "members", None) or ()]
        return members.entries(listed) if listed else {}

    def resource(self, resource_type: ResourceType, row: Mirrored) -> Resource[Any]:
        """A row as the resource that it is, without members."""
        found = self._service.get_model(resource_type).model_validate({**orjson.loads(row.body), "id": row.id})
        found.meta = meta(resource_type, row)
        return found

    def stub(self, resource_type: ResourceType, row: Mirrored) -> Resource[Any]:
        """A row as a resource of which nothing is shown but id and version."""
        return self._service.get_model(resource_type).model_construct(id=row.id, meta=meta(resource_type, row))


def record(kind: str, resource: Resource[Any]) -> Mirrored:
    """A resource → what is kept of it. Raises `InvalidValueException` for what Crowd or the database cannot hold."""
    kept = {name: one for name, one in resource.model_dump().items() if name not in _OURS}
    refuse_unholdable(kept)
    name = kept.get("userName" if kind == "user" else "displayName") or ""
    if not name.strip() or len(name.encode("utf-16-le")) // 2 > MAX_TEXT:
        raise InvalidValueException(detail=f"A {kind} needs a name of 1 to {MAX_TEXT} characters.")
    body = orjson.dumps(kept).decode()
    if len(body) > BODY:
        raise InvalidValueException(detail=f"A {kind} has {BODY} characters at most.")
    work = (one.get("value") for one in kept.get("emails") or () if str(one.get("type")).lower() == "work")
    email = next((one for one in work if one), "")
    return Mirrored(crowd_id(name), body, kept.get("externalId") or "", crowd_id(email), id=resource.id or "")


def meta(resource_type: ResourceType, row: Mirrored) -> Meta:
    """What the server says of a resource."""
    return Meta(
        resource_type=resource_type.name,
        created=datetime.fromisoformat(row.created),
        last_modified=datetime.fromisoformat(row.modified),
        version=version_of(row),
    )


def version_of(row: Mirrored) -> str:
    """The ETag of a row."""
    return f'W/"{row.change}"'
