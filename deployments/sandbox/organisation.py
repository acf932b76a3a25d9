"""A believable company of any size: people of many cultures, their groups, and what changes later.

Everything follows from the seed: the same arguments give the same company in any process. Ids never
change, so `changed` gives the same company some days later. Usernames and group names never collide by
accident, not even as lookalikes (`fold`); collisions on purpose stand in `difficult`.

    company = organisation(users=200, groups=25, memberships=1000)
    later = changed(company, seed=1, joiners=3, leavers=2, renamed=1)
"""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # pandas takes longer to import than all of an emulator, which needs none of its tables
    from connectors.model import Snapshot

Indices = npt.NDArray[np.int32]

USER_SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE_SCHEMA: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

_NAMESPACE: Final = uuid.UUID("0d6b3c5e-2f0b-5d0a-9b1e-6c726f776473")


class Person(NamedTuple):
    """One user of the identity provider. `manager` is another person's id, or ""."""

    id: str
    username: str
    first_name: str
    last_name: str
    display_name: str
    email: str
    active: bool
    title: str
    department: str
    employee_number: str
    location: str
    manager: str
    locale: str


class Team(NamedTuple):
    """One group. `about` is the department or city that it stands for, whatever its name becomes."""

    id: str
    name: str
    kind: str  # department | location | role | team | project
    about: str


def _none() -> Indices:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Organisation:
    """A company at one instant.

    Memberships are two arrays of equal length, `member_team[k]` (index into `teams`) and
    `member_person[k]` (index into `people`), sorted by team, then person. Nestings likewise.
    """

    seed: int
    people: list[Person]
    teams: list[Team]
    member_team: Indices = field(default_factory=_none)
    member_person: Indices = field(default_factory=_none)
    nest_parent: Indices = field(default_factory=_none)
    nest_child: Indices = field(default_factory=_none)
    next_person: int = 0
    """Serial number of the next joiner: never given twice."""
    next_team: int = 0
    retired: frozenset[str] = frozenset()
    """Folded usernames that nobody bears any more, and that no joiner gets by accident."""

    def scim_users(self) -> list[dict[str, Any]]:
        """The people as SCIM User resources."""
        return [scim_user(person) for person in self.people]

    def scim_groups(self, base: str = "") -> list[dict[str, Any]]:
        """The groups as SCIM Group resources with members; `$ref` starts with `base`."""
        users = [
            {"value": p.id, "type": "User", "$ref": f"{base}/Users/{p.id}", "display": p.display_name}
            for p in self.people
        ]
        groups = [
            {"value": t.id, "type": "Group", "$ref": f"{base}/Groups/{t.id}", "display": t.name} for t in self.teams
        ]
        resources = [scim_group(team) for team in self.teams]
        for resource in resources:
            resource["members"] = []
        for team, person in zip(self.member_team.tolist(), self.member_person.tolist(), strict=True):
            resources[team]["members"].append(users[person])
        for parent, child in zip(self.nest_parent.tolist(), self.nest_child.tolist(), strict=True):
            resources[parent]["members"].append(groups[child])
        return resources

    def snapshot(self, attributes: Iterable[str] = ()) -> Snapshot:
        """The company as the SCIM connector reads it.

        `attributes`: names of `Person` fields (`title`, `department`, …) to put into the column of
        that name, each under its own name; empty values are left out.
        """
        from connectors.model import Snapshot, attributes_text, groups_frame, memberships_from_codes, users_frame

        names = sorted(attributes)
        users = users_frame(
            (
                p.id,
                p.username,
                p.email,
                p.first_name,
                p.last_name,
                p.display_name,
                p.active,
                attributes_text({name: [value] for name in names if (value := getattr(p, name))}) if names else "{}",
            )
            for p in self.people
        )
        groups = groups_frame((t.id, t.name, "", "{}") for t in self.teams)
        team_ids = [t.id for t in self.teams]
        members = [*(p.id for p in self.people), *team_ids]
        memberships = memberships_from_codes(
            team_ids,
            members,
            np.concatenate([self.member_team, self.nest_parent]),
            np.concatenate([self.member_person, self.nest_child + np.int32(len(self.people))]),
            np.repeat(np.array([1, 0], dtype=np.int8), [len(self.member_team), len(self.nest_parent)]),
        )
        return Snapshot.of(users, groups, memberships)

    def crowd_load(self, source: str) -> dict[str, list[list[Any]]]:
        """What a Crowd directory holds that is already in step with this company.

        Records as arrays: users `[name, first, last, display, email, active, attributes]`, groups
        `[name, description, attributes]`, memberships `[user, group]`, nestings `[child, parent]`.
        """
        from connectors.model import ID_ATTRIBUTE

        usernames = np.array([p.username for p in self.people], dtype=object)
        names = np.array([t.name for t in self.teams], dtype=object)
        return {
            "users": [
                [
                    p.username,
                    p.first_name,
                    p.last_name,
                    p.display_name,
                    p.email,
                    p.active,
                    {ID_ATTRIBUTE: [f"{source}:{p.id}"]},
                ]
                for p in self.people
            ],
            "groups": [[t.name, "", {ID_ATTRIBUTE: [f"{source}:{t.id}"]}] for t in self.teams],
            "memberships": _pairs(usernames, self.member_person, names, self.member_team),
            "nestings": _pairs(names, self.nest_child, names, self.nest_parent),
        }

    def including(self, people: Sequence[Person] = (), teams: Sequence[Team] = ()) -> Organisation:
        """The same company with these (difficult) people and teams added, as members of nothing."""
        return replace(self, people=[*self.people, *people], teams=[*self.teams, *teams])


def _pairs(left: Any, left_codes: Indices, right: Any, right_codes: Indices) -> list[list[Any]]:
    if not len(left_codes):
        return []
    return list(map(list, zip(left[left_codes].tolist(), right[right_codes].tolist(), strict=True)))


def scim_user(person: Person) -> dict[str, Any]:
    """One person as a SCIM User resource; empty values are left out."""
    enterprise: dict[str, Any] = {
        "employeeNumber": person.employee_number,
        "department": person.department,
    }
    if person.manager:
        enterprise["manager"] = {"value": person.manager}
    resource: dict[str, Any] = {
        "schemas": [USER_SCHEMA, ENTERPRISE_SCHEMA],
        "id": person.id,
        "userName": person.username,
        "name": {
            "formatted": person.display_name,
            "familyName": person.last_name,
            "givenName": person.first_name,
        },
        "displayName": person.display_name,
        "title": person.title,
        "locale": person.locale,
        "active": person.active,
    }
    if person.email:
        resource["emails"] = [{"value": person.email, "type": "work", "primary": True}]
    if person.location:
        resource["addresses"] = [{"type": "work", "locality": person.location}]
    resource[ENTERPRISE_SCHEMA] = enterprise
    resource["meta"] = {"resourceType": "User"}
    return resource


def scim_group(team: Team) -> dict[str, Any]:
    """One team as a SCIM Group resource without members."""
    return {
        "schemas": [GROUP_SCHEMA],
        "id": team.id,
        "displayName": team.name,
        "meta": {"resourceType": "Group"},
    }


def fold(name: str) -> str:
    """Names with equal folds are taken for each other: by case, Unicode form, or ASCII lookalikes."""
    text = unicodedata.normalize("NFKC", name).lower()
    return text.translate(_LOOKALIKES).replace("rn", "m").replace("vv", "w")


_LOOKALIKES: Final = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "\u0131": "l"})


# --- the company -----------------------------------------------------------------------------------


def organisation(*, users: int, groups: int, memberships: int, seed: int = 1) -> Organisation:
    """A company with exactly so many users, groups and direct memberships of users.

    Nestings of groups come on top. A few groups are very large, most are small.
    """
    if min(users, groups, memberships) < 0 or memberships > users * groups:
        raise ValueError(
            f"{memberships} memberships do not fit {users} users and {groups} groups "
            f"(0 to {max(users, 0) * max(groups, 0)})"
        )
    rng = np.random.default_rng([seed, 1])
    teams = _teams(seed, groups)
    people = _people(rng, seed, 0, users, _abouts(teams, "department"), _abouts(teams, "location"), set())
    people = _with_managers(rng, people)
    member_team, member_person = _memberships(rng, people, teams, memberships)
    nest_parent, nest_child = _nestings(rng, teams)
    return Organisation(
        seed,
        people,
        teams,
        member_team,
        member_person,
        nest_parent,
        nest_child,
        next_person=users,
        next_team=groups,
    )


def changed(
    org: Organisation,
    *,
    seed: int,
    joiners: int = 0,
    leavers: int = 0,
    disabled: int = 0,
    enabled: int = 0,
    renamed: int = 0,
    updated: int = 0,
    moved: int = 0,
    new_groups: int = 0,
    renamed_groups: int = 0,
) -> Organisation:
    """The same company later, every id kept. Each change happens to different people.

    joiners: new people, members of their department, office and about as many groups as others.
    leavers: gone from the identity provider, and from every group.
    disabled: active people who no longer are, still listed.
    enabled: people who were not active, and are again.
    renamed: a new family name, and with it a new username, display name and e-mail address.
    updated: a new title, and a new e-mail address or display name.
    moved: out of one group and into another (whoever is in none is only added, in all only removed).
    new_groups: with up to ten members each. renamed_groups: a new name, the same id.
    """
    active = sum(p.active for p in org.people)
    others = leavers + renamed + updated + moved
    others += enabled
    away = len(org.people) - active
    if disabled > active or enabled > away or disabled + others > len(org.people) or renamed_groups > len(org.teams):
        raise ValueError(
            f"{disabled} disabled of {active} active, {enabled} enabled of {away} others, "
            f"{disabled + others} changed of {len(org.people)} "
            f"people and {renamed_groups} renamed of {len(org.teams)} groups: more than there are"
        )
    rng = np.random.default_rng([org.seed, 2, seed])
    people, teams = list(org.people), list(org.teams)
    taken = {fold(p.username) for p in people} | org.retired

    order = rng.permutation(len(people)).tolist()
    disabling = [i for i in order if people[i].active][:disabled]
    enabling = [i for i in order if not people[i].active][:enabled]
    chosen = {*disabling, *enabling}
    rest = iter([i for i in order if i not in chosen])
    leaving = [next(rest) for _ in range(leavers)]
    renaming = [next(rest) for _ in range(renamed)]
    updating = [next(rest) for _ in range(updated)]
    moving = [next(rest) for _ in range(moved)]

    for i in disabling:
        people[i] = people[i]._replace(active=False)
    for i in enabling:
        people[i] = people[i]._replace(active=True)
    for i in renaming:
        people[i] = _renamed(rng, people[i], taken)
    for turn, i in enumerate(updating):
        people[i] = _updated(people[i], turn)

    departments, locations = _abouts(teams, "department"), _abouts(teams, "location")
    new = _people(rng, org.seed, org.next_person, joiners, departments, locations, taken, always_active=True)
    left = {people[i].id: people[i].manager for i in leaving}
    bosses = {p.department: p.id for p in reversed(people) if p.id not in left}
    people += [p._replace(manager=bosses.get(p.department, "")) for p in new]

    for i in rng.permutation(len(teams))[:renamed_groups].tolist():
        teams[i] = teams[i]._replace(name=_free_name(_NEW_NAMES[teams[i].kind](teams[i].about), teams))
    for number in range(org.next_team, org.next_team + new_groups):
        project = _project_name(number)
        teams.append(Team(_id(org.seed, "group", number), _free_name(project, teams), "project", project))

    width = len(people)
    keys = org.member_team.astype(np.int64) * width + org.member_person
    gone, come = _moves(rng, org, moving, width)
    for i in range(len(org.people), width):
        come += _first_groups(rng, org, people[i], i, width)
    for team in range(len(org.teams), len(teams)):
        size = min(int(rng.integers(3, 11)), width)
        come += [team * width + int(i) for i in rng.choice(width, size=size, replace=False)]
    # Sorted and distinct; np.union1d hashes and takes ten times as long.
    keys = keys[~np.isin(keys, np.array(gone, np.int64), kind="sort")]
    keys = np.sort(np.concatenate([keys, np.array(come, np.int64)]))
    keys = keys[np.diff(keys, prepend=-1) != 0]
    member_team, member_person = np.divmod(keys, max(width, 1))

    stays = np.ones(width, dtype=bool)
    stays[leaving] = False
    place = np.cumsum(stays) - 1
    kept = stays[member_person]
    retired = org.retired | {fold(p.username) for p in org.people} - {fold(p.username) for p in people}
    return replace(
        org,
        people=[
            p._replace(manager=_manager(p.manager, left)) if p.manager in left else p
            for p, stay in zip(people, stays.tolist(), strict=True)
            if stay
        ],
        teams=teams,
        member_team=member_team[kept].astype(np.int32),
        member_person=place[member_person[kept]].astype(np.int32),
        next_person=org.next_person + joiners,
        next_team=org.next_team + new_groups,
        retired=frozenset(retired | {fold(people[i].username) for i in leaving}),
    )


def _manager(manager: str, left: dict[str, str]) -> str:
    """Whoever reports to a leaver now reports to the leaver's own manager."""
    while manager in left:
        manager = left[manager]
    return manager


def _renamed(rng: np.random.Generator, person: Person, taken: set[str]) -> Person:
    culture = _BY_LOCALE[person.locale]
    family = [pair for pair in culture.family if pair[0] != person.last_name]
    last, roman = family[int(rng.integers(len(family)))]
    first = dict(culture.given).get(person.first_name, "x")
    username = _free(f"{first}.{roman}", taken, {})
    return person._replace(
        username=username,
        last_name=last,
        display_name=culture.display(person.first_name, last),
        email=f"{username}@{person.email.partition('@')[2] or _DOMAIN}",
    )


def _updated(person: Person, turn: int) -> Person:
    title = person.title.removeprefix("Senior ") if "Senior " in person.title else f"Senior {person.title}"
    if turn % 2:
        mark = f" ({person.department})"
        display = person.display_name
        display = display.removesuffix(mark) if display.endswith(mark) else display + mark
        return person._replace(title=title, display_name=display)
    local, _, domain = person.email.partition("@")
    domain = _DOMAIN if domain != _DOMAIN else f"mail.{_DOMAIN}"
    return person._replace(title=title, email=f"{local or person.username}@{domain}")


def _moves(
    rng: np.random.Generator, org: Organisation, moving: Sequence[int], width: int
) -> tuple[list[int], list[int]]:
    gone: list[int] = []
    come: list[int] = []
    if not moving or not org.teams:
        return gone, come
    order = np.argsort(org.member_person, kind="stable")
    by_person, team_of = org.member_person[order], org.member_team[order]
    starts = np.searchsorted(by_person, moving, side="left")
    ends = np.searchsorted(by_person, moving, side="right")
    for i, start, end in zip(moving, starts.tolist(), ends.tolist(), strict=True):
        mine = team_of[start:end].tolist()
        if mine:
            gone.append(mine[int(rng.integers(len(mine)))] * width + i)
        if len(mine) < len(org.teams):
            team = int(rng.integers(len(org.teams) - len(mine)))
            for own in mine:  # sorted: count on past each group that the person is already in
                team += own <= team
            come.append(team * width + i)
    return gone, come


def _first_groups(rng: np.random.Generator, org: Organisation, person: Person, index: int, width: int) -> list[int]:
    if not org.teams or not org.people:
        return []
    count = min(len(org.teams), round(len(org.member_team) / len(org.people)))
    own = [
        k
        for k, t in enumerate(org.teams)
        if t.kind in ("department", "location") and t.about in (person.department, person.location)
    ]
    # Groups in proportion to their size: a random membership's group.
    drawn = org.member_team[rng.integers(len(org.member_team), size=4 * count)].tolist() if count else []
    return [team * width + index for team in list(dict.fromkeys([*own, *drawn]))[:count]]


# --- people ----------------------------------------------------------------------------------------


def _id(seed: int, kind: str, number: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{seed}/{kind}/{number}"))


def _people(
    rng: np.random.Generator,
    seed: int,
    start: int,
    count: int,
    departments: Sequence[str],
    locations: Sequence[str],
    taken: set[str],
    *,
    always_active: bool = False,
) -> list[Person]:
    """People number `start` and on; their folded usernames are added to `taken`."""
    departments = departments or tuple(_DEPARTMENTS)[:6]
    locations = locations or _CITIES[:6]
    weights = np.array([c.weight for c in _CULTURES], dtype=float)
    culture_of = rng.choice(len(_CULTURES), size=count, p=weights / weights.sum()).tolist()
    # Squared: the first names of a list are the common ones, so people of one name are frequent.
    given_of, family_of = (rng.random((2, count)) ** 2).tolist()
    style = rng.random(count).tolist()
    department_of = rng.choice(len(departments), size=count, p=_falling(len(departments))).tolist()
    location_of = rng.choice(len(locations), size=count, p=_falling(len(locations))).tolist()
    role_of, level_of = rng.random((2, count)).tolist()
    active_of = ((rng.random(count) >= _INACTIVE) | always_active).tolist()
    domain_of = rng.random(count).tolist()
    people = []
    numbers: dict[str, int] = {}
    for k in range(count):
        culture = _CULTURES[culture_of[k]]
        first, first_roman = culture.given[int(given_of[k] * len(culture.given))]
        last, last_roman = culture.family[int(family_of[k] * len(culture.family))]
        if style[k] < 0.62:
            wish = f"{first_roman}.{last_roman}"
        elif style[k] < 0.92:
            wish = f"{first_roman[0]}{last_roman}"
        elif style[k] < 0.97:
            wish = f"{last_roman}{first_roman[0]}"
        else:
            wish = f"ext-{first_roman[0]}{last_roman}"
        username = _free(wish, taken, numbers)
        department = departments[department_of[k]]
        roles = _DEPARTMENTS.get(department, ("Specialist",))
        role = roles[int(role_of[k] * len(roles))]
        number = start + k
        people.append(
            Person(
                id=_id(seed, "user", number),
                username=username,
                first_name=first,
                last_name=last,
                display_name=culture.display(first, last),
                email=f"{username}@{_DOMAIN if domain_of[k] < 0.9 else _OTHER_DOMAIN}",
                active=active_of[k],
                title=_LEVELS[int(level_of[k] * len(_LEVELS))] + role,
                department=department,
                employee_number=f"E{100_000 + number}",
                location=locations[location_of[k]],
                manager="",
                locale=culture.locale,
            )
        )
    return people


def _with_managers(rng: np.random.Generator, people: list[Person]) -> list[Person]:
    """About eight reports each: the manager is an earlier person of the same department."""
    members: dict[str, list[str]] = {}
    draw = rng.random(len(people)).tolist()
    managed = []
    for person, chance in zip(people, draw, strict=True):
        earlier = members.setdefault(person.department, [])
        manager = earlier[int(chance * (len(earlier) // 8 + 1))] if earlier else ""
        managed.append(person._replace(manager=manager))
        earlier.append(person.id)
    return managed


def _free(wish: str, taken: set[str], numbers: dict[str, int]) -> str:
    """The name, or the name with the first number from 2 that nobody could take for another's.

    `numbers`: where to go on counting, since frequent names would count from 2 hundreds of times.
    """
    name = wish
    while (key := fold(name)) in taken:
        numbers[wish] = numbers.get(wish, 1) + 1
        name = f"{wish}{numbers[wish]}"
    taken.add(key)
    return name


# --- groups ----------------------------------------------------------------------------------------


def _teams(seed: int, count: int) -> list[Team]:
    shares = (("department", 0.16, 24), ("role", 0.2, len(_ROLES)), ("location", 0.12, len(_CITIES)))
    sizes: dict[str, int] = {}
    left = count
    for kind, share, most in shares:
        sizes[kind] = min(left, most, len(_DEPARTMENTS) if kind == "department" else most, round(count * share))
        if kind == "department":
            sizes[kind] = max(sizes[kind], min(left, 1))
        left -= sizes[kind]
    departments = list(_DEPARTMENTS)[: sizes["department"]]
    teams_wanted = round(left * 0.6)
    wishes = [("department", name, name) for name in departments]
    wishes += [("location", _office_name(city), city) for city in _CITIES[: sizes["location"]]]
    wishes += [("role", name, name) for name in _ROLES[: sizes["role"]]]
    for k in range(teams_wanted):
        department = departments[k % len(departments)]
        topic = _TOPICS[(k // len(departments)) % len(_TOPICS)]
        wishes.append(("team", f"{department} - {topic}", department))
    wishes += [("project", name, name) for name in map(_project_name, range(left - teams_wanted))]
    taken: set[str] = set()
    return [
        Team(_id(seed, "group", number), _free_spaced(name, taken), kind, about)
        for number, (kind, name, about) in enumerate(wishes)
    ]


def _free_spaced(wish: str, taken: set[str]) -> str:
    name, number = wish, 2
    while (key := fold(name)) in taken:
        name, number = f"{wish} {number}", number + 1
    taken.add(key)
    return name


def _free_name(wish: str, teams: Sequence[Team]) -> str:
    return _free_spaced(wish, {fold(t.name) for t in teams})


def _abouts(teams: Sequence[Team], kind: str) -> list[str]:
    return [t.about for t in teams if t.kind == kind]


def _project_name(number: int) -> str:
    if number % 7 == 3:
        return _FOREIGN_PROJECTS[(number // 7) % len(_FOREIGN_PROJECTS)]
    colour, thing = _COLOURS[number % len(_COLOURS)], _THINGS[(number // len(_COLOURS)) % len(_THINGS)]
    return f"project-{colour}-{thing}"


def _office_name(city: str) -> str:
    return f"Office {city}"


_NEW_NAMES: Final[dict[str, Callable[[str], str]]] = {
    "department": lambda about: f"{about} Group",
    "location": lambda about: f"Site {about}",
    "role": lambda about: f"app {about}",
    "team": lambda about: f"{about} - Reorganised",
    "project": lambda about: f"{about} phase two",
}


def _memberships(
    rng: np.random.Generator, people: Sequence[Person], teams: Sequence[Team], total: int
) -> tuple[Indices, Indices]:
    """Exactly `total` pairs, sorted: sizes by water-filling, members from those whom the group is for."""
    everyone = np.arange(len(people))
    department = np.array([p.department for p in people], dtype=object)
    location = np.array([p.location for p in people], dtype=object)
    of_department = {name: np.flatnonzero(department == name) for name in _abouts(teams, "department")}
    of_location = {name: np.flatnonzero(location == name) for name in _abouts(teams, "location")}
    pools: list[npt.NDArray[np.int64]] = []
    wants: list[float] = []
    ranks = {"role": 0, "team": 0, "project": 0}
    for team in teams:
        if team.kind in ranks:
            ranks[team.kind] += 1
        rank = ranks.get(team.kind, 0)
        if team.kind == "department":
            pools.append(of_department[team.about])
            wants.append(2.0 * len(pools[-1]))
        elif team.kind == "location":
            pools.append(of_location[team.about])
            wants.append(2.0 * len(pools[-1]))
        elif team.kind == "team":
            pools.append(of_department[team.about])
            wants.append(0.8 * len(pools[-1]) / (1 + 3 * rank / len(of_department)))
        else:
            # The first roles reach nearly everybody; then sizes fall as in Zipf's law.
            pools.append(everyone)
            wants.append(len(people) * (1.6 if team.kind == "role" else 0.25) / rank)
    if sum(map(len, pools)) < total:
        pools = [everyone] * len(teams)
    sizes = _filled(np.array(wants), np.array([len(pool) for pool in pools], dtype=np.int64), total)
    parts = [
        pool[rng.choice(len(pool), size=int(size), replace=False, shuffle=False)] if size < len(pool) else pool
        for pool, size in zip(pools, sizes, strict=True)
    ]
    persons = np.concatenate([np.sort(part) for part in parts]) if parts else np.empty(0)
    return np.repeat(np.arange(len(teams)), sizes).astype(np.int32), persons.astype(np.int32)


def _filled(wants: npt.NDArray[np.float64], caps: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Whole numbers in proportion to `wants`, none above its cap, that add up to `total`."""
    if not len(wants):
        return caps
    low, high = 0.0, 1.0
    wants = np.maximum(wants, 1e-3)
    while np.minimum(wants * high, caps).sum() < total and high < 1e12:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(wants * middle, caps).sum() < total else (low, middle)
    sizes = np.floor(np.minimum(wants * high, caps)).astype(np.int64)
    while (short := total - int(sizes.sum())) > 0:
        room = np.flatnonzero(sizes < caps)
        sizes[room[:short]] += 1
    return sizes


def _nestings(rng: np.random.Generator, teams: Sequence[Team]) -> tuple[Indices, Indices]:
    """Teams under their department, some under an earlier team of it; some teams work in a project."""
    by_about = {t.about: k for k, t in enumerate(teams) if t.kind == "department"}
    projects = [k for k, t in enumerate(teams) if t.kind == "project"]
    earlier: dict[str, list[int]] = {}
    pairs = set()
    for k, team in enumerate(teams):
        if team.kind != "team":
            continue
        siblings = earlier.setdefault(team.about, [])
        if siblings and rng.random() < 0.2:
            pairs.add((siblings[int(rng.integers(len(siblings)))], k))
        else:
            pairs.add((by_about[team.about], k))
        siblings.append(k)
        if projects and rng.random() < 0.1:
            pairs.add((projects[int(rng.integers(len(projects)))], k))
    array = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)
    return array[:, 0].copy(), array[:, 1].copy()


def _falling(count: int) -> npt.NDArray[np.float64]:
    weights = 1 / np.arange(1, count + 1) ** 0.7
    result: npt.NDArray[np.float64] = weights / weights.sum()
    return result


# --- trouble on purpose ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difficulty:
    """An awkward case: `people` or `teams` that a company may have, and why they are awkward."""

    why: str
    people: tuple[Person, ...] = ()
    teams: tuple[Team, ...] = ()


def difficult(seed: int = 1) -> list[Difficulty]:
    """Awkward people and groups; add them to a company with `Organisation.including`."""
    from connectors.model import MAX_TEXT

    number = 0

    def person(username: str, first: str = "Anna", last: str = "Novak", **more: Any) -> Person:
        nonlocal number
        number += 1
        return Person(
            id=_id(seed, "difficult user", number),
            username=username,
            first_name=first,
            last_name=last,
            display_name=f"{first} {last}",
            email=f"person{number}@{_DOMAIN}",
            active=True,
            title="Specialist",
            department=next(iter(_DEPARTMENTS)),
            employee_number=f"X{number:05}",
            location=_CITIES[0],
            manager="",
            locale="en-GB",
        )._replace(**more)

    def team(name: str) -> Team:
        nonlocal number
        number += 1
        return Team(_id(seed, "difficult group", number), name, "project", name)

    def people(why: str, *names: str) -> Difficulty:
        return Difficulty(why, tuple(map(person, names)))

    def teams(why: str, *names: str) -> Difficulty:
        return Difficulty(why, teams=tuple(map(team, names)))

    long = "a.very.long.name." * 20
    return [
        people("usernames that differ by case only", "case.clash", "Case.Clash"),
        people("full-width and plain letters: equal after NFKC", "ｗｉｄｅ.clash", "wide.clash"),
        people("composed and decomposed: equal after NFC", "jos\u00e9.clash", "jose\u0301.clash"),
        people("Cyrillic а, о and е among Latin letters", "paolo.rossetti", "pаоlo.rоssеtti"),
        people("Greek ο and ν among Latin letters", "nora.olsen", "νora.οlsen"),
        people("a zero-width space inside", "zero.width", "zero\u200b.width"),
        people("a soft hyphen and a zero-width joiner inside", "soft.hyphen", "soft\u00ad.hyp\u200dhen"),
        people("blanks around and a no-break space inside", "blank.edge", " blank.edge ", "blank\u00a0.edge"),
        people(
            "dotless and dotted i: lower-casing İ makes two characters",
            "isik.clash",
            "ISIK.clash",
            "İsik.clash",
        ),
        people("digits for letters", "william.bell", "wi11iam.be11"),
        people("a right-to-left override turns the name around", "txt.\u202eexe"),
        people("255 characters: the longest that Crowd takes", long[:MAX_TEXT]),
        people("256 characters: one too many", long[: MAX_TEXT + 1]),
        people("an emoji, outside the basic plane", "party.\U0001f389"),
        people("quotes, ampersand, less-than, backslash, percent, plus, slash", "o'\"&<b>\\%2f+/?#.neil"),
        people("an e-mail address as the username", "anna.novak+test@example.org"),
        people("the name of an administrator", "admin", "Administrator"),
        Difficulty(
            "no names and no e-mail address",
            (person("no.names", first="", last="", display_name="", email=""),),
        ),
        Difficulty(
            "one e-mail address for two people",
            tuple(person(f"shared.mail{n}", email=f"shared@{_DOMAIN}") for n in "ab"),
        ),
        Difficulty("an e-mail address that is none", (person("bad.mail", email="not an address"),)),
        Difficulty(
            "a line break and a tab in the display name",
            (person("line.break", display_name="Anna\nB.\tNovak"),),
        ),
        Difficulty("a display name of 300 characters", (person("long.display", display_name="Anna Novak " * 30),)),
        Difficulty(
            "right-to-left and left-to-right names mixed",
            (person("mixed.direction", first="محمد", last="Müller", display_name="محمد Müller"),),
        ),
        teams("group names that differ by case only", "Case Clash", "case clash"),
        teams("a group name with a zero-width space inside", "Hidden Team", "Hidden\u200b Team"),
        teams("Cyrillic lookalikes of a privileged group", "crowd-аdministrаtors"),
        teams(
            "a privileged group in another case, and in full-width letters",
            "Crowd-Administrators",
            "ｊｉｒａ-administrators",
        ),
        teams("quotes, ampersand, less-than, slash, backslash, percent", "R&D \"North\" <'a'/\\%2f>"),
        teams("255 and 256 characters", ("team " * 60)[: MAX_TEXT - 1] + "x", ("team " * 60)[:MAX_TEXT] + "x"),
        teams("blanks at the edges", " Edge Team "),
        teams("an emoji of several code points", "Family \U0001f469\u200d\U0001f469\u200d\U0001f467"),
    ]


# --- words -----------------------------------------------------------------------------------------

_DOMAIN: Final = "northwind.example"
_OTHER_DOMAIN: Final = "fabrikam.example"
_INACTIVE: Final = 0.06
_LEVELS: Final = ("", "", "", "Junior ", "Senior ", "Senior ", "Lead ", "Principal ")

_DEPARTMENTS: Final[dict[str, tuple[str, ...]]] = {
    "Engineering": ("Software Engineer", "Test Engineer", "Site Reliability Engineer", "Architect"),
    "Sales & Marketing": ("Account Executive", "Campaign Manager", "Sales Engineer"),
    "Customer Support": ("Support Engineer", "Support Agent", "Customer Advocate"),
    "Finance": ("Accountant", "Controller", "Financial Analyst"),
    "Research & Development": ("Scientist", "Research Engineer", "Data Scientist"),
    "Operations": ("Operations Specialist", "Planner", "Buyer"),
    "People & Culture": ("Recruiter", "People Partner", "Payroll Specialist"),
    "Product": ("Product Manager", "Designer", "Product Analyst"),
    "Information Security": ("Security Engineer", "Security Analyst"),
    "IT": ("System Administrator", "Network Engineer", "Service Desk Agent"),
    "Legal": ("Counsel", "Paralegal", "Contract Specialist"),
    "Qualité": ("Ingénieur Qualité", "Auditeur"),
    "Produktion": ("Meister", "Anlagenführerin", "Technologe"),
    "Logistics": ("Dispatcher", "Warehouse Specialist"),
    "Data Platform": ("Data Engineer", "Analytics Engineer"),
    "Professional Services": ("Consultant", "Project Manager"),
    "Purchasing": ("Category Buyer", "Sourcing Specialist"),
    "Facilities": ("Facility Specialist", "Receptionist"),
    "Communications": ("Editor", "Press Officer"),
    "Internal Audit": ("Auditor",),
    "Разработка": ("Инженер-программист", "Аналитик"),
    "Treasury": ("Treasury Analyst",),
    "Corporate Strategy": ("Strategy Analyst",),
    "Διοίκηση": ("Συντονιστής", "Βοηθός"),
}  # fmt: skip

_ROLES: Final = (
    "All Staff", "jira-users", "confluence-users", "bitbucket-users", "VPN users", "jira-servicedesk-users",
    "office365-licences", "gitlab-users", "confluence-editors", "bamboo-users", "Remote Workers",
    "jira-project-leads", "first-aiders", "Contractors & Externals", "statuspage-users", "sonarqube-users",
    "jenkins-users", "grafana-viewers", "salesforce-users", "sap-users", "figma-editors", "miro-users",
    "on-call engineers", "Betriebsrat", "managers", "data-warehouse-readers", "grafana-editors",
    "sap-approvers", "Comité d’entreprise", "fire wardens", "interns", "mentors", "works-on-weekends",
    "travel-approvers", "beta testers", "change-advisory-board",
)  # fmt: skip

_CITIES: Final = (
    "Berlin", "London", "München", "東京", "Київ", "New York", "São Paulo", "Kraków", "Paris", "Αθήνα",
    "İstanbul", "서울", "上海", "मुंबई", "القاهرة", "Zürich", "Göteborg", "København", "Malmö", "Toronto",
    "Montréal", "Sydney", "Dublin", "Madrid", "Lisboa", "Praha", "Brno", "Budapest", "Wien", "Tallinn",
    "Vilnius", "Hà Nội", "Singapore", "Bengaluru", "Nairobi", "Lagos", "Bogotá", "México", "Austin", "大阪",
)  # fmt: skip

_TOPICS: Final = (
    "Platform", "North", "Planning", "Automation", "Tools", "South", "Reporting", "Integrations", "Core",
    "Projects & Delivery", "West", "Excellence", "Quality", "East", "Enablement", "Governance", "Mobile",
    "Backoffice", "Analytics", "Innovation", "Key Accounts", "Night Shift", "Training", "Partners", "Archive",
    "Zürich", "Überprüfung", "Évaluation", "Łódź", "Świętokrzyskie", "Ålesund", "Žižkov",
)  # fmt: skip

_COLOURS: Final = (
    "amber", "blue", "crimson", "copper", "silver", "golden", "green", "indigo", "ivory", "jade", "scarlet",
    "violet", "white", "black", "teal", "orange", "rapid", "silent", "bright", "polar",
)  # fmt: skip

_THINGS: Final = (
    "falcon", "harbour", "lantern", "meadow", "comet", "bridge", "cedar", "anchor", "beacon", "canyon",
    "delta", "ember", "forest", "glacier", "horizon", "island", "jigsaw", "kestrel", "lagoon", "maple",
    "nebula", "orchard", "prairie", "quartz", "river", "summit", "thunder", "umbrella", "valley", "willow",
)  # fmt: skip

_FOREIGN_PROJECTS: Final = (
    "Проект Восход", "プロジェクト桜", "Projekt Brückenschlag", "Projet Été & Hiver", "项目长城",
    "프로젝트 무궁화", "Έργο Αιγαίο", "Proyecto Mañana", "مشروع النيل",
    "परियोजना हिमालय", "Proje Boğaziçi", "Projekt Żubr",
)  # fmt: skip


class _Culture(NamedTuple):
    locale: str
    weight: float
    family_first: bool
    separator: str
    given: list[tuple[str, str]]
    family: list[tuple[str, str]]

    def display(self, first: str, last: str) -> str:
        return self.separator.join((last, first) if self.family_first else (first, last))


# Letters that do not come apart into a plain one and a mark.
_PLAIN: Final = str.maketrans(
    {
        "ß": "ss", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l", "ı": "i", "æ": "ae", "Æ": "ae", "đ": "d",
        "Đ": "d", "ð": "d", "þ": "th", "Þ": "th", "ə": "e",
    }
)  # fmt: skip


def _names(text: str) -> list[tuple[str, str]]:
    """`native` or `native:romanised`, blank-separated (`_` for a blank) → (native, romanised)."""
    pairs = []
    for word in text.split():
        native, _, roman = word.partition(":")
        native = native.replace("_", " ")
        plain = unicodedata.normalize("NFKD", (roman or native).translate(_PLAIN))
        pairs.append((native, "".join(c for c in plain.lower() if c.isascii() and c.isalnum())))
    return pairs


def _culture(
    locale: str, weight: float, given: str, family: str, *, family_first: bool = False, separator: str = " "
) -> _Culture:
    return _Culture(locale, weight, family_first, separator, _names(given), _names(family))


_CULTURES: Final = (
    _culture(
        "en-GB", 20,
        "James Mary John Sarah David Emma Robert Olivia Michael Jane Thomas Sophie Daniel Grace "
        "Matthew Chloe "
        "Andrew Lucy Peter Hannah Oliver Ruth George Alice Edward Siobhán Jean-Luc Zoë",
        "Smith Jones Doe Taylor Brown Williams Wilson Johnson Davies Patel Wright Walker "
        "Thompson White Hughes "
        "Edwards Green Hall O'Neill Clarke Jackson Wood Harris MacDonald Lewis Young Baker "
        "Smith-Jones Turner",
    ),
    _culture(
        "de-DE", 14,
        "Anna Jürgen Lukas Käthe Jörg Björn Maximilian Sabine Günther Lea Stefan Ursula Felix "
        "Hannelore Götz "
        "Mia Änne Tobias Katrin Wolfgang Bärbel Leon",
        "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch "
        "Bauer Groß "
        "Jäger Krüger Weiß Vogel Lüders Böhm von_der_Heide Strauß Kühn Löwe",
    ),
    _culture(
        "fr-FR", 7,
        "Marie Jean Camille François Élodie Lucas Chloé Hélène Jérôme Noël Anaïs Benoît Océane "
        "Rémi Gaëlle "
        "Zoé Étienne Loïc",
        "Martin Bernard Dubois Lefèvre Moreau Laurent Garçon Bélanger Gauthier Lemaître Château "
        "D’Amboise Noël "
        "Rousseau Mérieux de_La_Fontaine Guérin",
    ),
    _culture(
        "es-ES", 6,
        "María José Lucía Ángel Begoña Íñigo Sofía Joaquín Inés Andrés Núria Óscar Pilar Jesús "
        "Carmen Raúl",
        "García Fernández González Rodríguez López Martínez Núñez Ibáñez Muñoz Peña "
        "García_Márquez Sánchez "
        "Gutiérrez Ordóñez Castañeda",
    ),
    _culture(
        "pt-BR", 4,
        "João Conceição Tiago Inês Gonçalo Luísa Antônio Letícia Estêvão Beatriz Caetano Mônica",
        "Silva Santos Oliveira Gonçalves Araújo Magalhães Simões Conceição Assunção Pereira "
        "Falcão Brandão",
    ),
    _culture(
        "pl-PL", 6,
        "Łukasz Małgorzata Paweł Agnieszka Michał Żaneta Stanisław Grażyna Wacław Zofia Jędrzej Bożena",
        "Nowak Wójcik Kowalczyk Woźniak Mazur Krawczyk Dąbek Zając Król Pająk Wróbel Gołąb Świątek Łoś",
    ),
    _culture(
        "cs-CZ", 3,
        "Jiří Tomáš Ondřej Václav Matěj Luboš Zdeněk Řehoř Štěpán Miloš",
        "Novák Dvořák Černý Procházka Kučera Veselý Horák Němec Pokorný Růžička Říha Šťastný Žák",
    ),
    _culture(
        "sv-SE", 4,
        "Åsa Björn Östen Märta Søren Ingrid Håkan Øyvind Þóra Guðrún Lærke Jón Kåre Astrid",
        "Andersson Öberg Åkesson Lindström Sjögren Ødegård Sørensen Kjær Guðmundsson Ångström "
        "Bergström Hällström",
    ),
    _culture(
        "tr-TR", 4,
        "Işıl İbrahim Ayşe Çağla Gökçe Oğuz Şükrü Yiğit Ümit Kıvanç Irmak İpek Nazlı Ömer",
        "Yılmaz Kaya Çelik Şahin Yıldız Öztürk Aydın Işık İnan Kılıç Doğan Güneş Çakır Irmak",
    ),
    _culture(
        "hu-HU", 2,
        "Ágnes László Zsófia István Győző Ildikó Ödön Eszter Béla Csilla",
        "Nagy Kovács Tóth Szabó Horváth Őry Fűzfői Gyöngyösi Kőszegi Balázs",
        family_first=True,
    ),
    _culture(
        "vi-VN", 3,
        "Anh Minh Thảo Đức Hương Tuấn Ngọc Quỳnh Phương Bảo Thị_Hà Văn_Long",
        "Nguyễn Trần Lê Phạm Hoàng Võ Đặng Bùi Đỗ Hồ Ngô",
        family_first=True,
    ),
    _culture(
        "ru-RU", 4,
        "Анна:Anna Екатерина:Ekaterina Наталья:Natalya Ольга:Olga Юлия:Yuliya Татьяна:Tatyana "
        "Алёна:Alyona "
        "Ксения:Kseniya Дарья:Darya Фёкла:Fyokla",
        "Иванова:Ivanova Смирнова:Smirnova Кузнецова:Kuznetsova Попова:Popova Соловьёва:Solovyova "
        "Щербакова:Shcherbakova Волкова:Volkova Зайцева:Zaytseva Черных:Chernykh Семёнова:Semyonova",
    ),
    _culture(
        "uk-UA", 4,
        "Олександр:Oleksandr Ірина:Iryna Андрій:Andriy Оксана:Oksana Дмитро:Dmytro "
        "Їжакевич:Yizhakevych "
        "Соломія:Solomiya Тарас:Taras Юрій:Yuriy Наталія:Nataliya Ґалаґан:Galagan",
        "Шевченко:Shevchenko Коваленко:Kovalenko Бондаренко:Bondarenko Ткаченко:Tkachenko "
        "Кравченко:Kravchenko "
        "Гончар:Honchar Лисенко:Lysenko Мельник:Melnyk Їжак:Yizhak Щур:Shchur",
    ),
    _culture(
        "el-GR", 3,
        "Γιώργος:Giorgos Μαρία:Maria Δημήτρης:Dimitris Ελένη:Eleni Νίκος:Nikos Αικατερίνη:Aikaterini "
        "Ιωάννης:Ioannis Σοφία:Sofia Ξένια:Xenia Χρήστος:Christos",
        "Παπαδόπουλος:Papadopoulos Οικονόμου:Oikonomou Γεωργίου:Georgiou Ιωάννου:Ioannou "
        "Αθανασίου:Athanasiou "
        "Ψαρράς:Psarras Βασιλείου:Vasileiou Νικολάου:Nikolaou Ζαχαρίου:Zachariou",
    ),
    _culture(
        "ar-EG", 4,
        "محمد:Mohamed فاطمة:Fatima أحمد:Ahmed عائشة:Aisha يوسف:Youssef نور:Nour عمر:Omar "
        "ليلى:Layla خالد:Khaled "
        "مريم:Maryam عبد_الله:Abdullah هدى:Huda",
        "الحسن:Alhassan حداد:Haddad المصري:Almasri خوري:Khoury النجار:Alnajjar منصور:Mansour "
        "إبراهيم:Ibrahim "
        "الخطيب:Alkhatib سليمان:Suleiman عبد_الرحمن:Abdulrahman",
    ),
    _culture(
        "zh-CN", 6,
        "伟:Wei 芳:Fang 娜:Na 敏:Min 静:Jing 秀英:Xiuying 强:Qiang 磊:Lei 洋:Yang 艳:Yan 勇:Yong "
        "军:Jun 杰:Jie 娟:Juan "
        "明:Ming 子涵:Zihan 欣怡:Xinyi 浩然:Haoran",
        "王:Wang 李:Li 张:Zhang 刘:Liu 陈:Chen 杨:Yang 赵:Zhao 黄:Huang 周:Zhou 吴:Wu 徐:Xu "
        "孙:Sun 马:Ma 欧阳:Ouyang "
        "诸葛:Zhuge 𠮷:Ji",
        family_first=True, separator="",
    ),
    _culture(
        "ko-KR", 4,
        "민준:Minjun 서연:Seoyeon 지훈:Jihoon 하은:Haeun 도윤:Doyun 수빈:Subin 예준:Yejun "
        "지우:Jiwoo 현우:Hyunwoo 은지:Eunji",
        "김:Kim 이:Lee 박:Park 최:Choi 정:Jung 강:Kang 조:Cho 윤:Yoon 장:Jang 임:Lim 남궁:Namgung",
        family_first=True, separator="",
    ),
    _culture(
        "ja-JP", 5,
        "太郎:Taro 花子:Hanako さくら:Sakura 健一:Kenichi 結衣:Yui 蓮:Ren ひなた:Hinata "
        "陽菜:Hina 翔太:Shota ケンジ:Kenji "
        "美咲:Misaki エミリー:Emily",
        "山田:Yamada 佐藤:Sato 鈴木:Suzuki 高橋:Takahashi 田中:Tanaka 渡邊:Watanabe 伊藤:Ito "
        "中村:Nakamura 小林:Kobayashi "
        "髙橋:Takahashi 齋藤:Saito 長谷川:Hasegawa スミス:Sumisu",
        family_first=True,
    ),
    _culture(
        "hi-IN", 6,
        "प्रिया:Priya राहुल:Rahul अनिल:Anil सुनीता:Sunita विक्रम:Vikram दीपा:Deepa अर्जुन:Arjun "
        "कविता:Kavita संजय:Sanjay "
        "श्रुति:Shruti कृष्ण:Krishna लक्ष्मी:Lakshmi",
        "शर्मा:Sharma सिंह:Singh गुप्ता:Gupta पटेल:Patel कुमार:Kumar जोशी:Joshi रेड्डी:Reddy "
        "मिश्रा:Mishra त्रिपाठी:Tripathi "
        "अग्रवाल:Agrawal चौधरी:Chaudhary",
    ),
)  # fmt: skip

_BY_LOCALE: Final = {culture.locale: culture for culture in _CULTURES}
