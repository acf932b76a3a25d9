"""What a source and a directory promise, and the small values that pass between them and the road.

A connector declares and parses; it does not retry, log or decide policy. Every read is a stream of
pages that ends with `Page(last=True)`: a stream that ends without one is not a whole read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar, runtime_checkable

from connectors.model import GroupRow, Members, MembershipRow, UserRow, sizes_only
from connectors.operations import Operation

if TYPE_CHECKING:
    from connectors.hook import News
    from connectors.http import Http
    from connectors.source import SourceSettings

Row = TypeVar("Row")


@sizes_only
@dataclass(frozen=True, slots=True)
class Held:
    """A record that could not be made into a row: kept out of the plan, and named.

    `away` is `connectors.model.DISABLED` where its person is disabled for certain, whatever is wrong with the rest.
    """

    kind: str  # user | group
    id: str
    name: str
    reason: str
    away: str = ""


@sizes_only
@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows of one table, in the order of its columns in `connectors.model`; of memberships `Members`.

    `last` is true on exactly one page of a stream, its final one, and only when the other side's
    own count or cursor says that nothing is missing. `warnings` name rows that lack an optional field, because its
    value is none.
    """

    rows: Sequence[Row]
    last: bool
    held: Sequence[Held] = ()
    warnings: Sequence[Held] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a source can do beyond plain full reads."""

    nested_groups: bool = False
    delta: bool = False
    webhook: bool = False
    sign_in_events: bool = False
    group_filter: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """What to ask a source for. `attributes`: the names, as the source spells them, of optional
    fields that a mapping reads; they come back in the `attributes` column under the same names."""

    attributes: frozenset[str] = frozenset()


PLAIN: Final = Scope()
"""No optional attributes."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Person:
    """One user and the memberships that were read with it. `warnings`: as those of a `Page`, of the person's record and
    of the records of these groups."""

    user: UserRow
    groups: Sequence[GroupRow] = ()
    memberships: Sequence[MembershipRow] = ()
    warnings: Sequence[Held] = ()


@sizes_only
@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a cursor, as far as the source can say. Whoever is not named is as before.

    `users` and `groups` are whole rows. `replaced` are the ids of groups whose members come whole in `memberships`;
    for other groups `memberships` joined and `left` ended. `gone_users` and `gone_groups` are ids that the source
    itself says are deleted: absence alone never puts one there. `cursor` is where the next delta starts.
    """

    cursor: str
    users: Sequence[UserRow] = ()
    groups: Sequence[GroupRow] = ()
    replaced: Sequence[str] = ()
    memberships: Sequence[MembershipRow] = ()
    left: Sequence[MembershipRow] = ()
    gone_users: Sequence[str] = ()
    gone_groups: Sequence[str] = ()
    held: Sequence[Held] = ()
    warnings: Sequence[Held] = ()


@sizes_only
@dataclass(frozen=True, slots=True)
class Group:
    """One group, without its members."""

    group: GroupRow


@sizes_only
@dataclass(frozen=True, slots=True)
class Hint:
    """News that somebody may have changed: who, never what to write. `via`: how it came (`connectors.hook.Via`)."""

    kind: str  # user | group | account (in hints about a source)
    key: str
    via: str = field(default="", compare=False)


@sizes_only
@dataclass(frozen=True, slots=True)
class DirectoryChanges:
    """Who may have changed in a directory since a token: to be read again, and never what to write.

    `hints` name users and groups by folded name (`crowd_id`), sorted, each once; many of them may be known already. Of
    whoever is named the record, the attributes and every direct membership may differ. Whoever is not named is as
    before, but for memberships with one that is: of a membership of a user only the user is named, and who is deleted
    or gets another name is named alone, without the groups it was in. `token` is where the next call begins.
    """

    token: str
    hints: Sequence[Hint] = ()


@sizes_only
@dataclass(frozen=True, slots=True)
class Polled:
    """What the events of a provider say since a cursor.

    `events`: the id of each ("" where it has none), and whom it names; the same event has the same id when it is told
    again. `cursor`: where the next poll begins. `gap`: why events may be missing between the two, in words that follow
    "because", so that everybody is to be read; "" where none are. `remarks`: what the provider leaves out, for people.
    """

    cursor: str
    events: Sequence[tuple[str, Sequence[News]]] = ()
    gap: str = ""
    remarks: Sequence[str] = ()


@runtime_checkable
class Polls(Protocol):
    """What a source has, too, whose provider can be asked what happened (`connectors.source.WithPolling`)."""

    async def news(self, cursor: str) -> Polled:
        """What happened since `cursor`; with "" nothing, and the cursor of now.

        Events that came late are told, too, so that some are told twice. Raises what reads raise."""
        ...


@runtime_checkable
class Source(Protocol):
    """One identity provider. Reads raise `IncompleteError` where they cannot prove themselves whole."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @property
    def settings(self) -> type[SourceSettings]:
        """A variable of the class. (Each connector narrows its type, which only a property lets it do.)"""
        ...

    @classmethod
    def open(cls, name: str, settings: Any, secrets: Mapping[str, str]) -> Source:
        """A source with clients of its own, from its `settings` and secrets by name (`SourceSettings.secrets`).

        Raises `ConfigurationError`. Nothing is called yet."""
        ...

    @property
    def clients(self) -> Sequence[Http]:
        """Everything to be closed at the end; the first one is the API's."""
        ...

    def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]: ...
    def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]: ...
    def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members of the groups with these ids. A group whose members cannot be read, and could not in another
        run, has no rows: it is in `held` of a page (kind "group", its id, no name), and stays as it is."""
        ...

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, username or e-mail address, with the groups they are a direct member of, as a whole read
        of this `scope` has them: rows, attributes and warnings. None: a whole read would have no such person.

        Raises `IncompleteError` where the person, or a group of theirs, is there and cannot be a row (a whole read
        holds them, and says why), where several have this name or address, and where the answers do not fit together;
        `ConfigurationError` for attributes that the source does not have; `RefusedError` where it cannot tell a
        person's direct groups, or several have this name or address; and what every call may: `AuthenticationError`,
        `ForbiddenError`, `RetryableError`."""
        ...

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """One group by id, as a whole read of this `scope` has it; its members are those of `memberships`. None: a
        whole read would have no such group.

        Raises `IncompleteError` where the group is there and cannot be a row (a whole read holds it), and where the
        answer is not about it or says nothing clear; `RefusedError` where groups cannot be asked for by id; and what
        `user` may."""
        ...

    async def has_user(self, identity: str) -> bool:
        """Whether a whole read that starts now would name the user of this id: one look-up by key, or a few.

        Asked of those whom a list did not name, before anything is taken from them. Raises where it cannot be told.
        """
        ...

    async def has_group(self, identity: str) -> bool:
        """As `has_user`."""
        ...

    async def cursor(self, scope: Scope) -> str:
        """Where a delta that follows the full read that starts now will begin; "" where there are no deltas."""
        ...

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """What changed since `cursor`. Raises `StaleCursorError` where only a full read helps; only with
        `capabilities.delta`."""
        ...

    async def check(self) -> Sequence[str]:
        """A cheap test of address, credentials and rights: what was found, a line each.

        Raises `ConfigurationError`, `AuthenticationError` or `RefusedError` with the way out.
        """
        ...


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What there is to subscribe to at a source (`of`), how long a subscription lasts, and after how much of that it is
    renewed."""

    of: tuple[str, ...]
    lasts: timedelta
    renewed: timedelta


@dataclass(frozen=True, slots=True)
class Subscription:
    """That a source tells an address of ours who changed, `until` it ends (UTC).

    `of` is one of `Subscriptions.of`. `resource` is what the source must be told beside the `id` to end it, "" where
    it needs nothing, or nobody knows."""

    of: str
    id: str
    until: datetime
    resource: str = ""


@runtime_checkable
class Subscribable(Protocol):
    """A source that tells who changed (`connectors.hook`) once it is asked to, and for a time only.

    Each call raises what other calls of a source may, and `ConfigurationError` where the source does not take our
    address or secret."""

    subscriptions: ClassVar[Subscriptions]

    async def subscribed(self, address: str) -> Sequence[str] | None:
        """Ids of the subscriptions that lead to this address; None where the source cannot say which there are."""
        ...

    async def subscribe(self, of: str, address: str, secret: str, key: str) -> Subscription:
        """Makes one, by which the source tells `address` and says `secret` each time.

        `key` is new for each one, and the same where the call is repeated within an hour because nobody knows what
        became of it: then there is one all the same, or `subscribed` names both."""
        ...

    async def renew(self, old: Subscription, address: str, secret: str, key: str) -> Subscription | None:
        """One that lasts longer: the same, or another one beside it, which `key` is for. None where it is gone."""
        ...

    async def unsubscribe(self, old: Subscription) -> bool:
        """Ends it; whether it was there still, as far as that can be told."""
        ...


@sizes_only
@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation came to hold: `done` by our write, or `already` so before it."""

    state: str  # done | already
    note: str = ""


@runtime_checkable
class Directory(Protocol):
    """One Crowd directory, the only thing written to. Row ids are folded names (`crowd_id`)."""

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        ...

    def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]: ...
    def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]: ...
    def memberships(self) -> AsyncIterator[Page[Members]]: ...

    async def user(self, name: str, scope: Scope) -> Person | None: ...
    async def group(self, name: str, scope: Scope) -> Group | None: ...
    async def members(self, group: str) -> Sequence[MembershipRow]:
        """The direct members of one group, by its name."""
        ...

    async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
        """Make the operation's condition hold.

        `attempted`: an earlier try may have reached Crowd, so that finding a group of that name
        already there is success. Raises `RecordError` (this operation cannot hold),
        `RetryableError` (later), `RefusedError` (stop the run).
        """
        ...

    async def token(self) -> str | None:
        """Crowd's event token: the same token twice means that nothing changed in between.

        None where Crowd does not offer one."""
        ...

    async def changes(self, token: str) -> DirectoryChanges:
        """Who may have changed since `token`, which was asked for before the read that it stands for. Raises
        `StaleCursorError` where only a full read helps."""
        ...

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        ...
