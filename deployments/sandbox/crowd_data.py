"""What the emulated Crowd knows: directories of users and groups, and the applications that see them.

A directory keeps entities by folded name and in one sorted list each, so that a page is a slice.
Memberships are sets of objects: a rename touches nobody else. An application adds what section 13 of
the reference says about several directories: order, permissions, masking and aggregation.
"""

from __future__ import annotations

import ipaddress
import random
import re
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, TypeVar

PERMISSIONS: Final = frozenset(
    {
        "add-user",
        "modify-user",
        "remove-user",
        "modify-user-attributes",
        "add-group",
        "modify-group",
        "remove-group",
        "modify-group-attributes",
    }
)
PERMISSION_SETS: Final = {
    "all": PERMISSIONS,
    "read-only": frozenset[str](),
    "users": frozenset(name for name in PERMISSIONS if "user" in name),
    "groups": frozenset(name for name in PERMISSIONS if "group" in name),
}
FIRST_DIRECTORY_ID: Final = 32769
MAX_TEXT: Final = 255
UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

Attributes = dict[str, tuple[str, ...]]
Entity = TypeVar("Entity", "User", "Group")

_fold_of = attrgetter("fold")
_name_of = attrgetter("name")


class Refusal(Exception):
    """An answer other than success: status, Crowd's reason code, message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def fold(name: str) -> str:
    """The form under which names are compared: Java's `toLowerCase`, not Unicode case folding."""
    return name.lower()


def user_not_found(name: str, status: int = 404) -> Refusal:
    return Refusal(status, "USER_NOT_FOUND", f"User <{name}> does not exist")


def group_not_found(name: str, status: int = 404) -> Refusal:
    return Refusal(status, "GROUP_NOT_FOUND", f"Group <{name}> does not exist")


def too_long(text: str) -> bool:
    """Longer than 255 as Java counts, where a character beyond the BMP counts twice."""
    return len(text) > MAX_TEXT or (len(text) * 2 > MAX_TEXT and len(text.encode("utf-16-le")) > 2 * MAX_TEXT)


def check_text(reason: str, **fields: str | None) -> None:
    """Refuse what Crowd cannot hold: over-long values, and characters that its XML cannot carry."""
    for name, value in fields.items():
        if value:
            label = name.replace("_", "-")
            if too_long(value):
                raise Refusal(400, reason, f"{label} is longer than {MAX_TEXT} characters")
            if UNPRINTABLE.search(value):
                raise Refusal(400, reason, f"{label} contains a control character")


def check_name(reason: str, name: str | None) -> str:
    """A name of a new user or group, or the refusal of it."""
    if not name or not name.strip():
        raise Refusal(400, reason, "name must not be blank")
    if name != name.strip():
        raise Refusal(400, reason, "name must not begin or end with a blank")
    check_text(reason, name=name)
    return name


def check_attributes(reason: str, attributes: Attributes) -> None:
    for name, values in attributes.items():
        check_text(reason, attribute_name=name)
        for value in values:
            check_text(reason, attribute_value=value)


class User:
    """One user of one directory. The slots after `groups` are rendered forms, dropped on change."""

    __slots__ = (
        "active",
        "attributes",
        "created",
        "directory",
        "display_name",
        "email",
        "expired",
        "first_name",
        "fold",
        "groups",
        "json",
        "json_attributes",
        "json_brief",
        "key",
        "last_name",
        "name",
        "password",
        "updated",
        "xml",
        "xml_attributes",
        "xml_brief",
        "xml_member",
    )

    def __init__(self, directory: Directory, key: str, name: str, created: int) -> None:
        self.directory = directory
        self.key = key
        self.name = name
        self.fold = name.lower()
        self.first_name = self.last_name = self.display_name = self.email = ""
        self.active = False
        self.password: str | None = None
        self.expired = False
        self.attributes: Attributes = {}
        self.created = self.updated = created
        self.groups: set[Group] = set()
        self.forget()

    def forget(self) -> None:
        """Drop the rendered forms."""
        self.json: bytes | None = None
        self.json_attributes: bytes | None = None
        self.json_brief: bytes | None = None
        self.xml: bytes | None = None
        self.xml_attributes: bytes | None = None
        self.xml_brief: bytes | None = None
        self.xml_member: bytes | None = None


class Group:
    """One group of one directory. The slots after `parents` are rendered forms, dropped on change."""

    __slots__ = (
        "active",
        "attributes",
        "children",
        "description",
        "directory",
        "fold",
        "json",
        "json_attributes",
        "json_brief",
        "member_list",
        "name",
        "parents",
        "users",
        "xml",
        "xml_attributes",
        "xml_brief",
        "xml_membership",
    )

    def __init__(self, directory: Directory, name: str) -> None:
        self.directory = directory
        self.name = name
        self.fold = name.lower()
        self.description: str | None = None
        self.active = True
        self.attributes: Attributes = {}
        self.users: set[User] = set()
        self.children: set[Group] = set()
        self.parents: set[Group] = set()
        self.member_list: list[User] | None = None
        self.xml_membership: bytes | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the rendered forms of the group itself."""
        self.json: bytes | None = None
        self.json_attributes: bytes | None = None
        self.json_brief: bytes | None = None
        self.xml: bytes | None = None
        self.xml_attributes: bytes | None = None
        self.xml_brief: bytes | None = None

    def members(self) -> list[User]:
        """Direct users by name; kept sorted between changes."""
        if self.member_list is None:
            self.member_list = sorted(self.users, key=_fold_of)
        return self.member_list


def _reach(start: Iterable[Group], step: Callable[[Group], Iterable[Group]]) -> set[Group]:
    seen = set(start)
    queue = list(seen)
    while queue:
        for other in step(queue.pop()):
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def children_of(group: Group) -> set[Group]:
    return group.children


def parents_of(group: Group) -> set[Group]:
    return group.parents


def below(group: Group) -> set[Group]:
    """All groups nested in this one at any depth."""
    return _reach(group.children, children_of)


def above(groups: Iterable[Group]) -> set[Group]:
    """These groups and all that contain them."""
    return _reach(groups, parents_of)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a directory's event log; entities are named, and rendered when asked for."""

    kind: str  # userEvent | groupEvent | userMembershipEvent | groupMembershipEvent
    operation: str  # CREATED | UPDATED | DELETED
    name: str
    parent: str = ""
    stored: tuple[tuple[str, tuple[str, ...]], ...] = ()
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How a Crowd tells its events (section 11); `replay` and `lifetime` are in seconds.

    `replay`: events from so long before a token are given again with it. `lifetime`: older events are reaped, and so
    is what an older token asks for. `kept`: of each directory no more events than that. `most`: an answer holds no
    more new events than that (what is given again comes on top); its token then stands behind the last of them.
    `moving`: the token is another one with every call, though nothing happened. A webhook is removed (section 12) after
    `ping_failures` failures in a row that took at least `ping_patience` seconds.
    """

    replay: float = 300.0
    lifetime: float = 3 * 86_400.0
    kept: int = 10_000
    most: int = 1000
    moving: bool = False
    ping_failures: int = 10
    ping_patience: float = 3600.0


class Directory:
    """One Crowd directory. Its methods assume that the caller checked permission and existence."""

    def __init__(
        self,
        identifier: int,
        name: str,
        *,
        nested_groups: bool = True,
        events: bool = True,
        kept: int = 10_000,
        read_only: bool = False,
        password_pattern: str | None = None,
        max_attempts: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = identifier
        self.name = name
        self.nested_groups = nested_groups
        self.events_kept = events
        self.read_only = read_only
        self.password_pattern = re.compile(password_pattern) if password_pattern else None
        self.max_attempts = max_attempts
        self.clock = clock
        self.sequence = 0  # counts changes that consumers of events care about
        self.version = 0  # counts all changes, for caches
        self.events: deque[tuple[int, Event]] = deque(maxlen=kept)  # with their time, oldest first
        self.empty()

    def empty(self) -> None:
        """Forget all content; event tokens from before are no longer known."""
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}
        self.user_list: list[User] = []
        self.group_list: list[Group] = []
        self.keys: dict[str, User] = {}
        self.many_changes()

    def many_changes(self) -> None:
        """A change too large for the event log: every earlier token is expired."""
        self.version += 1
        self.sequence += 1
        self.events.clear()

    def now(self) -> int:
        return int(self.clock() * 1000)

    def _record(self, event: Event) -> None:
        self.version += 1
        self.sequence += 1
        if self.events_kept:
            self.events.append((self.now(), event))

    def reap(self, before: int) -> None:
        """Drop the events from before that time."""
        while self.events and self.events[0][0] < before:
            self.events.popleft()

    # --- users

    def new_user(self, name: str) -> User:
        """A user that is not yet in the directory."""
        bits = random.getrandbits(128)
        text = f"{bits:032x}"
        key = f"{self.id}:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        return User(self, key, name, self.now())

    def add_user(self, user: User) -> None:
        self.users[user.fold] = user
        self.keys[user.key] = user
        insort(self.user_list, user, key=_fold_of)
        self._record(Event("userEvent", "CREATED", user.name))

    def user_changed(self, user: User) -> None:
        user.updated = self.now()
        user.forget()
        self._record(Event("userEvent", "UPDATED", user.name))

    def remove_user(self, user: User) -> None:
        for group in user.groups:
            group.users.discard(user)
            _drop(group.member_list, user)
            group.xml_membership = None
        user.groups.clear()
        del self.users[user.fold]
        del self.keys[user.key]
        _drop(self.user_list, user)
        self._record(Event("userEvent", "DELETED", user.name))

    def rename_user(self, user: User, name: str) -> None:
        old = user.name
        del self.users[user.fold]
        _drop(self.user_list, user)
        user.name, user.fold = name, fold(name)
        self.users[user.fold] = user
        insort(self.user_list, user, key=_fold_of)
        for group in user.groups:
            group.member_list = None
            group.xml_membership = None
        user.updated = self.now()
        user.forget()
        self._record(Event("userEvent", "DELETED", old))
        self._record(Event("userEvent", "CREATED", name))

    def store_attributes(self, entity: User | Group, attributes: Attributes) -> None:
        """Replace the named attributes; one without values goes away."""
        kept = dict(entity.attributes)
        deleted = tuple(name for name, values in attributes.items() if not values and name in kept)
        for name, values in attributes.items():
            if values:
                kept[name] = values
            else:
                kept.pop(name, None)
        entity.attributes = kept
        entity.forget()
        kind = "userEvent" if isinstance(entity, User) else "groupEvent"
        stored = tuple((name, values) for name, values in attributes.items() if values)
        self._record(Event(kind, "UPDATED", entity.name, stored=stored, deleted=deleted))

    def note_attributes(self, user: User, **attributes: str) -> None:
        """Crowd's own bookkeeping about sign-ins and passwords; no event tells of it."""
        user.attributes = {**user.attributes, **{name: (value,) for name, value in attributes.items()}}
        user.forget()
        self.version += 1

    # --- groups

    def add_group(self, group: Group) -> None:
        self.groups[group.fold] = group
        insort(self.group_list, group, key=_fold_of)
        self._record(Event("groupEvent", "CREATED", group.name))

    def group_changed(self, group: Group) -> None:
        group.forget()
        self._record(Event("groupEvent", "UPDATED", group.name))

    def remove_group(self, group: Group) -> None:
        for user in group.users:
            user.groups.discard(group)
        for parent in group.parents:
            parent.children.discard(group)
            parent.xml_membership = None
        for child in group.children:
            child.parents.discard(group)
        del self.groups[group.fold]
        _drop(self.group_list, group)
        self._record(Event("groupEvent", "DELETED", group.name))

    # --- memberships

    def join(self, user: User, group: Group) -> None:
        group.users.add(user)
        user.groups.add(group)
        if group.member_list is not None:
            insort(group.member_list, user, key=_fold_of)
        group.xml_membership = None
        self._record(Event("userMembershipEvent", "CREATED", user.name, group.name))

    def leave(self, user: User, group: Group) -> None:
        group.users.discard(user)
        user.groups.discard(group)
        _drop(group.member_list, user)
        group.xml_membership = None
        self._record(Event("userMembershipEvent", "DELETED", user.name, group.name))

    def nest(self, child: Group, parent: Group) -> None:
        parent.children.add(child)
        child.parents.add(parent)
        parent.xml_membership = None
        self._record(Event("groupMembershipEvent", "CREATED", child.name, parent.name))

    def unnest(self, child: Group, parent: Group) -> None:
        parent.children.discard(child)
        child.parents.discard(parent)
        parent.xml_membership = None
        self._record(Event("groupMembershipEvent", "DELETED", child.name, parent.name))

    # --- all at once

    def load(self, content: dict[str, Any]) -> None:
        """Add users, groups, memberships and nestings; all or nothing, no permissions asked.

        Names in memberships may be given in any case. `members` ({group: [users]}) is the shorter
        form of `memberships` ([[user, group]]).
        """
        users: dict[str, User] = {}
        for row in content.get("users", ()):
            name, first, last, display, email, active, *rest = row
            user = self.new_user(name)
            user.first_name, user.last_name, user.display_name, user.email = first, last, display, email
            user.active = bool(active)
            if rest and rest[0]:
                user.attributes = attribute_values(rest[0])
            if user.fold in users or user.fold in self.users:
                raise ValueError(f"user {name!r} is given twice")
            users[user.fold] = user
        groups: dict[str, Group] = {}
        for name, *rest in content.get("groups", ()):
            group = Group(self, name)
            group.description = rest[0] if rest else None
            if len(rest) > 1 and rest[1]:
                group.attributes = attribute_values(rest[1])
            if group.fold in groups or group.fold in self.groups:
                raise ValueError(f"group {name!r} is given twice")
            groups[group.fold] = group

        all_users, all_groups = {**self.users, **users}, {**self.groups, **groups}
        try:
            pairs = [
                (all_users[user.lower()], all_groups[group.lower()]) for user, group in content.get("memberships", ())
            ]
            for name, names in content.get("members", {}).items():
                group = all_groups[name.lower()]
                pairs.extend((all_users[user.lower()], group) for user in names)
            nestings = [
                (all_groups[child.lower()], all_groups[parent.lower()]) for child, parent in content.get("nestings", ())
            ]
        except KeyError as missing:
            raise ValueError(f"no user or group {missing}") from None

        self.users.update(users)
        self.keys.update((user.key, user) for user in users.values())
        self.user_list = sorted(self.users.values(), key=_fold_of)
        self.groups.update(groups)
        self.group_list = sorted(self.groups.values(), key=_fold_of)
        for member, group in pairs:
            member.groups.add(group)
            group.users.add(member)
            group.member_list = group.xml_membership = None
        for child, parent in nestings:
            parent.children.add(child)
            child.parents.add(parent)
            parent.xml_membership = None
        self.many_changes()

    def state(self, *, keys: bool = False) -> dict[str, Any]:
        """Everything in canonical order, without passwords and dates."""
        users = []
        for user in self.user_list:
            row: dict[str, Any] = {
                "name": user.name,
                "first_name": user.first_name,
                "last_name": user.last_name,
                "display_name": user.display_name,
                "email": user.email,
                "active": user.active,
                "attributes": {name: list(user.attributes[name]) for name in sorted(user.attributes)},
            }
            if keys:
                row["key"] = user.key
            users.append(row)
        return {
            "users": users,
            "groups": [
                {
                    "name": group.name,
                    "description": group.description,
                    "active": group.active,
                    "attributes": {name: list(group.attributes[name]) for name in sorted(group.attributes)},
                }
                for group in self.group_list
            ],
            # Sorted by user, then group: cheaper in two steps than one sort of a million pairs.
            "memberships": [
                [user.name, group.name]
                for user in sorted(self.user_list, key=_name_of)
                for group in sorted(user.groups, key=_name_of)
            ],
            "nestings": sorted([child.name, parent.name] for parent in self.group_list for child in parent.children),
        }


def _drop(entities: list[Entity] | None, entity: Entity) -> None:
    """Take an entity out of a list that is sorted by folded name."""
    if entities is not None:
        place = bisect_left(entities, entity.fold, key=_fold_of)
        if place < len(entities) and entities[place] is entity:
            del entities[place]


def attribute_values(given: dict[str, Any]) -> Attributes:
    """`{"a": "x", "b": ["y", "z"]}` → values as tuples."""
    return {
        name: (values,) if isinstance(values, str) else tuple(dict.fromkeys(values))
        for name, values in given.items()
        if values or values == ""
    }


@dataclass(slots=True)
class Session:
    """A user's sign-on; valid for the same validation factors only."""

    token: str
    user: User
    factors: dict[str, str]
    created: int
    expiry: int
    duration: int


@dataclass(slots=True, eq=False)
class Application:
    """What one application may see and do: an ordered list of directories, and permissions in each."""

    name: str
    password: str
    directories: list[Directory]
    permissions: list[frozenset[str]]
    aggregate: bool = False
    allowed_groups: Sequence[str] | None = None  # None: every user may sign in
    remote_addresses: Sequence[str] | None = None  # None: from anywhere
    trusted_proxies: Sequence[str] = ()
    interruptions: list[int] = field(default_factory=list)  # when something made its event stream impossible
    last_token: tuple[str, int, tuple[Any, ...]] = ("", 0, ())  # the event token given last, when, for which positions
    _users: tuple[tuple[int, ...], list[User]] = field(default=((), []))
    _groups: tuple[tuple[int, ...], list[Group]] = field(default=((), []))

    # --- finding

    def find_user(self, name: str) -> User | None:
        folded = name.lower()
        for directory in self.directories:
            user = directory.users.get(folded)
            if user is not None:
                return user
        return None

    def user(self, name: str, status: int = 404) -> User:
        """The user of that name in the first directory that has it."""
        user = self.find_user(name)
        if user is None:
            raise user_not_found(name, status)
        return user

    def user_by_key(self, key: str) -> User:
        for directory in self.directories:
            user = directory.keys.get(key)
            if user is not None and self.find_user(user.name) is user:
                return user
        raise user_not_found(key)

    def group(self, name: str, status: int = 404) -> Group:
        folded = name.lower()
        for directory in self.directories:
            group = directory.groups.get(folded)
            if group is not None:
                return group
        raise group_not_found(name, status)

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever anything that this application sees changes."""
        return tuple([directory.version for directory in self.directories])

    def users(self) -> list[User]:
        """All users by name; of several with one name, that of the first directory."""
        if len(self.directories) == 1:
            return self.directories[0].user_list
        stamp = self.stamp()
        if self._users[0] != stamp:
            self._users = stamp, _merged([directory.users for directory in self.directories])
        return self._users[1]

    def groups(self) -> list[Group]:
        """All groups by name, as `users`."""
        if len(self.directories) == 1:
            return self.directories[0].group_list
        stamp = self.stamp()
        if self._groups[0] != stamp:
            self._groups = stamp, _merged([directory.groups for directory in self.directories])
        return self._groups[1]

    # --- memberships as this application sees them

    def members(self, group: Group, *, nested: bool) -> list[User]:
        """Users of a group by name."""
        if len(self.directories) == 1:
            return _members(group, nested)
        found: dict[str, User] = {}
        for directory in self.directories:
            own = directory.groups.get(group.fold)
            for user in _members(own, nested) if own is not None else ():
                if self.aggregate or self.find_user(user.name) is user:
                    found.setdefault(user.fold, user)
        return sorted((self.user(user.name) for user in found.values()), key=_fold_of)

    def groups_of(self, user: User, *, nested: bool) -> list[Group]:
        """Groups of a user by name."""
        homes = [user]
        if self.aggregate:
            homes = [d.users[user.fold] for d in self.directories if user.fold in d.users]
        found: dict[str, Group] = {}
        for home in homes:
            for group in above(home.groups) if nested else home.groups:
                found.setdefault(group.fold, group)
        return sorted(found.values(), key=_fold_of)

    def child_groups(self, group: Group, *, nested: bool) -> list[Group]:
        return self._related(group, below if nested else children_of)

    def parent_groups(self, group: Group, *, nested: bool) -> list[Group]:
        return self._related(group, (lambda own: above(own.parents)) if nested else parents_of)

    def _related(self, group: Group, step: Callable[[Group], Iterable[Group]]) -> list[Group]:
        found: dict[str, Group] = {}
        for directory in self.directories:
            own = directory.groups.get(group.fold)
            for other in step(own) if own is not None else ():
                found.setdefault(other.fold, other)
        return sorted(found.values(), key=_fold_of)

    # --- who may do what, and where

    def permit(self, directory: Directory, permission: str) -> None:
        """Refuse unless this application may do that in this directory."""
        if directory.read_only:
            raise Refusal(403, "UNSUPPORTED_OPERATION", f"Directory <{directory.name}> is read-only")
        if not self.permits(directory, permission):
            raise self.denied(permission)

    def permits(self, directory: Directory, permission: str) -> bool:
        return not directory.read_only and permission in self.permissions[self.directories.index(directory)]

    def denied(self, permission: str) -> Refusal:
        return Refusal(
            403, "APPLICATION_PERMISSION_DENIED", f"Application <{self.name}> has no permission to {permission}"
        )

    def permitted(self, permission: str, directories: Iterable[Directory]) -> list[Directory]:
        """Those of the directories where that is allowed; a refusal if there is none."""
        directories = list(directories)
        found = [directory for directory in directories if self.permits(directory, permission)]
        if not found:
            if directories and all(directory.read_only for directory in directories):
                self.permit(directories[0], permission)
            raise self.denied(permission)
        return found

    def holding(self, group: Group) -> list[Directory]:
        """The directories that have a group of that name, in order."""
        return [directory for directory in self.directories if group.fold in directory.groups]

    def add_member(self, user: User, group: Group) -> None:
        """Put a user into a group, in the first directory that holds both."""
        homes = self.directories if self.aggregate else [user.directory]
        both = [d for d in homes if user.fold in d.users and group.fold in d.groups]
        if not both:
            raise group_not_found(group.name, 400)
        directory = self.permitted("modify-group", both)[0]
        own, target = directory.users[user.fold], directory.groups[group.fold]
        if target in own.groups:
            raise Refusal(409, "MEMBERSHIP_ALREADY_EXISTS", f"User <{user.name}> is already a member of <{group.name}>")
        directory.join(own, target)

    def remove_member(self, user: User, group: Group) -> None:
        """Take a user out of a group: where the user is found first, or everywhere if aggregating."""
        homes = self.directories if self.aggregate else [user.directory]
        held = [d for d in homes if user.fold in d.users and d.groups.get(group.fold) in d.users[user.fold].groups]
        if not held:
            raise Refusal(404, "MEMBERSHIP_NOT_FOUND", f"User <{user.name}> is not a member of group <{group.name}>")
        for directory in self.permitted("modify-group", held):
            directory.leave(directory.users[user.fold], directory.groups[group.fold])

    def add_nesting(self, child: Group, parent: Group) -> None:
        both = [d for d in self.directories if child.fold in d.groups and parent.fold in d.groups]
        if not both:
            raise group_not_found(child.name, 400)
        directories = self.permitted("modify-group", both)
        nesting = [directory for directory in directories if directory.nested_groups]
        if not nesting:
            raise Refusal(
                400, "NESTED_GROUPS_NOT_SUPPORTED", f"Directory <{both[0].name}> does not support nested groups"
            )
        missing = []
        for directory in nesting:
            low, high = directory.groups[child.fold], directory.groups[parent.fold]
            if low is high or high in below(low):
                raise Refusal(400, "INVALID_MEMBERSHIP", f"Adding <{low.name}> to <{high.name}> would make a circle")
            if low not in high.children:
                missing.append((directory, low, high))
        if not missing:
            raise Refusal(
                409,
                "MEMBERSHIP_ALREADY_EXISTS",
                f"Group <{child.name}> is already a child of group <{parent.name}>",
            )
        for directory, low, high in missing:
            directory.nest(low, high)

    def remove_nesting(self, child: Group, parent: Group) -> None:
        held = [
            d
            for d in self.directories
            if parent.fold in d.groups and d.groups.get(child.fold) in d.groups[parent.fold].children
        ]
        if not held:
            raise Refusal(404, "MEMBERSHIP_NOT_FOUND", f"Group <{child.name}> is not a child of group <{parent.name}>")
        for directory in self.permitted("modify-group", held):
            directory.unnest(directory.groups[child.fold], directory.groups[parent.fold])

    # --- where from

    def admits(self, address: str, forwarded_for: str = "") -> str | None:
        """None if a caller from there may ask, else the address that may not.

        Behind trusted proxies the address is the first one, from the right, that is not trusted.
        """
        if self.remote_addresses is None:
            return None
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        while hops and _listed(address, self.trusted_proxies):
            address = hops.pop()
        return None if _listed(address, self.remote_addresses) else address


def _merged(tables: Sequence[dict[str, Entity]]) -> list[Entity]:
    found: dict[str, Entity] = {}
    for table in reversed(tables):
        found.update(table)
    return sorted(found.values(), key=_fold_of)


def _members(group: Group, nested: bool) -> list[User]:
    if not nested or not group.children:
        return group.members()
    users = set(group.users)
    for lower in below(group):
        users |= lower.users
    return sorted(users, key=_fold_of)


def _listed(address: str, entries: Iterable[str]) -> bool:
    try:
        asked = ipaddress.ip_address(address)
    except ValueError:
        return address in entries
    for entry in entries:
        try:
            network = ipaddress.ip_network("127.0.0.1" if entry == "localhost" else entry, strict=False)
        except ValueError:
            continue
        if asked in network:
            return True
    return False
