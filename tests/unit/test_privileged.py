"""Groups that give power over the applications: however a source spells them, it gets nobody in."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from confusable_homoglyphs import confusables
from pydantic import ValidationError

from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, held_frame
from connectors.operations import Kind
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Plan, plan
from tasks.policy import Policy
from tests.support.long import long_after
from tests.support.lookalikes import BLANKS, DISGUISES
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE, World, planned

SPELLINGS = 1200
EXACT = [
    *("crowd-administrators", "jira-administrators", "jira-system-administrators", "jira-servicedesk-administrators"),
    *("confluence-administrators", "fisheye-administrators", "system-administrators", "administrators"),
    *("bamboo-admins", "bitbucket-administrators", "bamboo-admin", "site-admins"),
]
ATLASSIAN = [
    *("confluence-admins", "site-admins", "org-admins", "fecru-admins", "crucible-administrators", "stash-admin"),
    *("jira-core-administrators", "jira-software-administrators", "jira-servicemanagement-admins", "hipchat-admins"),
    *("atlassian-addons-admin", "bitbucket-admin", "bamboo-admin", "sysadmins", "jira-superusers", "sysadmin", *EXACT),
]
"""Groups that Atlassian's products and clouds make, or that companies fill such as them with."""
FAMILY: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "underscores": lambda name: name.replace("-", "_"),
    "blanks": lambda name: name.replace("-", " "),
    "dots": lambda name: name.replace("-", "."),
    "slashes": lambda name: name.replace("-", "/"),
    "one word": lambda name: name.replace("-", ""),
    "capitals tell words apart": lambda name: name.title().replace("-", ""),
    "capitals and blanks": lambda name: name.title().replace("-", " "),
    "large": lambda name: name.upper(),
    "a prefix": lambda name: f"acme-{name}",
    "another prefix": lambda name: f"X_{name.replace('-', '_')}",
    "a suffix": lambda name: f"{name}-emea",
    "a suffix after a blank": lambda name: f"{name.title().replace('-', ' ')} Berlin",
    "a suffix in capitals": lambda name: f"{name.title().replace('-', '')}Team",
    "a number": lambda name: f"{name}2",
    "a strange letter": lambda name: name.replace("a", "а", 1),
    "wide letters": lambda name: "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in name),
}
HARMLESS = [
    *(
        "jira-users",
        "crowd-users",
        "staff",
        "administration",
        "Administration",
        "ADMINISTRATION",
        "administration-staff",
    ),
    *(
        "Administration Team",
        "AdministrationTeam",
        "administrative-assistants",
        "badminton",
        "Badminton Club",
        "BADMINTON",
    ),
    *("admission", "jira-developers", "super heroes", "users", "padminton", "ministry", "администрация"),
]


OPEN: dict[str, Any] = {
    "matching": {"groups": ["id", "name"]},
    "operations": {"group_delete": True},
    "leavers": {"groups": "delete"},
    "protection": {"users": []},
}
"""A policy that lets everything happen that may happen."""


def numbered() -> tuple[dict[str, str], Policy]:
    """A privileged name and a spelling of it, many in one world, each told from the others by a number; a policy."""
    rng = random.Random(7)
    ways = [way for name, way in DISGUISES.items() if name not in ("decomposed", "ligature")]
    ways.append(lambda name, rng: rng.choice(BLANKS) + name + rng.choice(BLANKS))
    ways.append(lambda name, rng: name)
    names = [f"{EXACT[n % len(EXACT)]}.{n}" for n in range(SPELLINGS)]
    patterns = [f"{name}.*" for name in EXACT]
    policy = {**OPEN, "protection": {"users": [], "privileged_groups": patterns}}
    return {name: ways[n // len(EXACT) % len(ways)](name, rng) for n, name in enumerate(names)}, Policy.model_validate(
        policy
    )


def exact(seed: int) -> dict[str, str]:
    """The same with the names as they are in Crowd, for the default policy."""
    rng = random.Random(seed)
    ways = [way for name, way in DISGUISES.items() if name not in ("decomposed", "ligature")]
    return {name: ways[(n + seed) % len(ways)](name, rng) for n, name in enumerate(EXACT)}


WORLDS = [numbered(), *((exact(seed), Policy.model_validate(OPEN)) for seed in range(6))]


def world_of(names: dict[str, str], *, marked: bool = False, there: bool = True) -> World:
    """A person and a team whom the source puts into groups of these names, which Crowd has, with an admin in them."""
    world = World(crowd=ModelCrowd(), links=ModelLinks())
    admin = world.crowd.add_user("root", attributes={ID_ATTRIBUTE: ["acme:r"]})
    team = world.crowd.add_group("team", "", "acme:t")
    ann = world.crowd.add_user("ann", attributes={ID_ATTRIBUTE: ["acme:p"]})
    world.crowd.memberships.add((team["key"], ann["key"]))
    for key, name in (("p", "ann"), ("r", "root")):
        world.users.append((key, name, "", "", name, name, True, "{}"))
    world.groups.append(("t", "team", "", "{}"))
    world.memberships.append(("t", "p", "user"))
    for number, (privileged, spelt) in enumerate(names.items()):
        key = f"g{number}"
        if there:
            group = world.crowd.add_group(privileged, "theirs", f"acme:{key}" if marked else "")
            world.crowd.memberships.add((group["key"], admin["key"]))
        world.groups.append((key, spelt, "ours", "{}"))
        world.memberships += [(key, "p", "user"), (key, "t", "group")]
    return world


every_world = pytest.mark.parametrize("number", long_after(3, range(len(WORLDS))))


@every_world
@pytest.mark.parametrize("marked", [False, True])
def test_no_spelling_reaches_a_privileged_group(marked: bool, number: int) -> None:
    names, policy = WORLDS[number]
    world = world_of(names, marked=marked)
    made = planned(world.source(), world.crowd, world.links, policy)
    assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
    print(f"{len(names):,} spellings{' of owned groups' if marked else ''}: nothing planned")


@every_world
def test_no_spelling_is_created_where_crowd_has_no_such_group(number: int) -> None:
    names, policy = WORLDS[number]
    world = world_of(names, there=False)
    made = planned(world.source(), world.crowd, world.links, policy)
    assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
    assert {f"g{n}" for n in range(len(names))} <= set(made.held["id"])
    print(f"{len(names):,} spellings: no group created")


@pytest.mark.parametrize("leavers", ["empty", "delete"])
def test_a_privileged_group_that_is_gone_is_neither_emptied_nor_deleted(leavers: str) -> None:
    names, policy = WORLDS[0]
    world = world_of(names, marked=True)
    world.groups, world.memberships = world.groups[:1], world.memberships[:1]
    policy = Policy.model_validate({**policy.model_dump(), "leavers": {"groups": leavers}})
    made = planned(world.source(), world.crowd, world.links, policy)
    assert made.operations.empty, made.operations[["kind", "name", "target"]].head().to_string()


def every_lookalike(name: str) -> list[tuple[str, str]]:
    """`name` with one letter in another form: every one that Unicode calls compatible or confusable with it."""
    found = set()
    for code in range(0x110000):
        letter = chr(code)
        plain = unicodedata.normalize("NFKC", letter).casefold() if not 0xD800 <= code < 0xE000 else ""
        if len(plain) == 1 and plain in name and letter != plain:
            found.add((letter, plain))
    for letter, partners in confusables.confusables_data.items():
        for partner in (one["c"].lower() for one in partners):
            if partner == "l" and letter != letter.lower():
                continue  # a capital I, which Unicode takes for an l; to us it is an i
            # Digits and l are ASCII themselves: jon1 and jonl are two names.
            if (
                len(letter) == len(partner) == 1
                and partner in name
                and not unicodedata.normalize("NFKC", letter).isascii()
            ):
                found.add((letter, partner))
    return sorted((letter, name.replace(plain, letter, 1)) for letter, plain in found)


def test_every_letter_that_looks_like_one_of_a_privileged_name_is_seen_through() -> None:
    count, open_ = 0, []
    for name in ("crowd-administrators", "jira-system-administrators", "confluence-administrators", "bamboo-admin"):
        found = every_lookalike(name)
        letters, spelt = zip(*found, strict=True)
        closed = Policy().privileged(pd.Series(spelt, dtype="str"))
        open_ += [
            f"U+{ord(x):04X} {unicodedata.name(x, '')}" for x, shut in zip(letters, closed, strict=True) if not shut
        ]
        count += len(found)
    print(f"{count:,} spellings with one strange letter, {len(open_)} open")
    assert not open_, f"{len(open_)} of {count} spellings pass: {sorted(set(open_))}"


@pytest.mark.parametrize("way", FAMILY)
def test_the_family_of_powerful_groups_is_closed_by_default(way: str) -> None:
    names = pd.Series([FAMILY[way](name) for name in ATLASSIAN], dtype="str")
    assert names[~Policy().privileged(names)].tolist() == []


def test_what_only_resembles_a_privileged_name_is_open() -> None:
    names = pd.Series(HARMLESS, dtype="str")
    assert names[Policy().privileged(names)].tolist() == []


@pytest.mark.parametrize(
    ("pattern", "closed", "open_"),
    [
        ("ops-*", ["ops-x", "OPS-x", "оps-x", "o ps-x"], ["ops_x", "OpsTeam", "ops", "my-ops-x", "site-admins"]),
        ("Site Admins", ["site admins", "SITE ADMINS"], ["site-admins", "SiteAdmins", "site_admins"]),
        (r"re:team-\d+", ["team-1", "ｔeam-22"], ["team-x", "team_1", "administrators"]),
    ],
)
def test_patterns_of_ones_own_mean_what_they_say_and_replace_the_default(
    pattern: str, closed: list[str], open_: list[str]
) -> None:
    policy = Policy.model_validate({"protection": {"privileged_groups": [pattern]}})
    assert policy.privileged(pd.Series([*closed, *open_], dtype="str")).tolist() == [True] * len(closed) + [
        False
    ] * len(open_)


@pytest.mark.parametrize(
    "name", ["admin-assistants", "Jira Admin Team", "JiraAdminTeam", "x_site_admins", "jira-administrators"]
)
def test_a_policy_may_name_any_group_of_the_family(name: str) -> None:
    policy = Policy.model_validate({"protection": {"privileged_allowed": [name]}})
    assert policy.privileged(pd.Series([name, name.upper(), f"{name}-2"], dtype="str")).tolist() == [False, False, True]


@pytest.mark.parametrize("inside", [False, True])
def test_a_group_of_ours_that_is_closed_is_told(inside: bool) -> None:
    """It is left alone with whoever is in it, which nobody would notice."""
    world = world_of({"it-admins": "it-admins"}, marked=True)
    if inside:
        team = world.crowd.add_group("harmless", "", "acme:h")
        world.crowd.nestings.add((world.crowd.groups["it-admins"]["key"], team["key"]))
        world.groups.append(("h", "harmless", "", "{}"))
        world.memberships.append(("h", "p", "user"))
    made = planned(world.source(), world.crowd, world.links, Policy.model_validate({"protection": {"users": []}}))
    assert made.operations.empty
    told = dict(zip(made.held["name"], made.held["reason"], strict=True))
    assert "protection.privileged_allowed" in told["it-admins"]
    assert set(told) == {"it-admins", "team", *(["harmless"] if inside else [])}, "the team would be inside it"
    assert not inside or "inside" in told["harmless"]


def test_a_way_in_by_nesting_is_closed_too() -> None:
    """A group inside a privileged one gives the same power: its members are not ours to change."""
    for privileged in EXACT:
        world = world_of({privileged: privileged})
        world.groups[-1] = ("g", "harmless", "", "{}")
        world.memberships = [("t", "p", "user"), ("g", "p", "user"), ("g", "t", "group")]
        inside = world.crowd.add_group("harmless", "", "acme:g")
        world.crowd.nestings.add((world.crowd.groups[crowd_id(privileged)]["key"], inside["key"]))
        made = planned(world.source(), world.crowd, world.links, Policy.model_validate({"protection": {"users": []}}))
        assert not (made.operations["kind"].isin([Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD])).any(), made.operations


def test_a_group_that_the_policy_names_is_filled() -> None:
    policy = Policy.model_validate({"protection": {"privileged_allowed": ["jira-administrators"], "users": []}})
    world = world_of({"jira-administrators": "jira-administrators"}, marked=True)
    made = planned(world.source(), world.crowd, world.links, policy)
    added = made.operations[made.operations["kind"].isin([Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD])]
    assert set(zip(added["name"], added["target"], strict=True)) == {
        ("ann", "jira-administrators"),
        ("team", "jira-administrators"),
    }


def with_a_held_group(world: World, name: str, policy: Policy) -> Plan:
    """The plan where Crowd's record of this group could not be read: it is known by name and by its memberships."""
    whole = world.crowd.snapshot()
    held = held_frame([("group", crowd_id(name), name, "extract", "its attributes are missing or malformed")])
    groups = whole.groups[whole.groups["id"] != crowd_id(name)]
    directory = Snapshot.of(whole.users, groups, whole.memberships, held)
    wanted = desired(in_scope(world.source(), policy).snapshot, policy)
    matched = match(wanted, directory, world.links.frame(), policy, SOURCE)
    return plan(matched, world.source(), directory, policy, SOURCE, ("", ""))


def test_a_way_in_by_nesting_is_closed_where_the_privileged_group_cannot_be_read() -> None:
    """Its record is held, but it is there, and whoever is put into the group inside it gets its power."""
    privileged = "crowd-administrators"
    world = world_of({privileged: privileged})
    world.groups[-1] = ("g", "harmless", "", "{}")
    world.memberships = [("t", "p", "user"), ("g", "p", "user"), ("g", "t", "group")]
    inside = world.crowd.add_group("harmless", "", "acme:g")
    world.crowd.nestings.add((world.crowd.groups[privileged]["key"], inside["key"]))
    made = with_a_held_group(world, privileged, Policy.model_validate({"protection": {"users": []}}))
    assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()


def test_no_group_inside_a_privileged_one_is_deleted() -> None:
    """To delete it would take its members out of the privileged group, which is never changed."""
    world = world_of({"crowd-administrators": "crowd-administrators"})
    inside = world.crowd.add_group("harmless", "", "acme:gone")
    world.crowd.nestings.add((world.crowd.groups["crowd-administrators"]["key"], inside["key"]))
    made = planned(world.source(), world.crowd, world.links, Policy.model_validate(OPEN))
    assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()


# ── names that the policy itself makes ──────────────────────────────────────────────────────────

WAYS = [way for name, way in DISGUISES.items() if name not in ("decomposed", "ligature")]
WAYS += [lambda name, rng: rng.choice(BLANKS) + name + rng.choice(BLANKS), lambda name, rng: name]

Made = tuple[dict[str, Any], dict[str, str]]
"""What the policy says of groups, and the privileged names with what the source calls each."""


def by_a_prefix(seed: int = 11) -> list[Made]:
    """The source has a part of the name, spelt somehow, and the prefix is the rest; or the prefix is spelt somehow."""
    rng = random.Random(seed)
    made: list[Made] = []
    for head in ("jira-", "crowd-", "confluence-", "bamboo-", "bitbucket-", "jira-system-", "sys", "a"):
        tails = [name.removeprefix(head) for name in EXACT if name.startswith(head)]
        for way in WAYS:
            names = {head + tail: way(tail, rng) for tail in tails}
            made.append(({"prefix": head}, names))
            made.append(({"prefix": head.upper()}, names))
            made.append(({"prefix": way(head, rng).lstrip() if len(head) > 1 else head}, {head + t: t for t in tails}))
    return made


def by_a_rule(seed: int = 12) -> list[Made]:
    """A rule takes something off, puts something in the place of another, or puts the parts in another order."""
    rng = random.Random(seed)
    made: list[tuple[str, str, dict[str, str]]] = []
    for way in WAYS:
        spelt = {name: way(name, rng) for name in EXACT}
        made += [
            ("^ACME/", "", {name: f"ACME/{one}" for name, one in spelt.items()}),
            ("(?i)-EMEA$", "", {name: f"{one}-emea" for name, one in spelt.items()}),
            ("#", "", {name: "#".join(one) for name, one in spelt.items()}),
            ("^(.*)~(.*)$", r"\2\1", {name: f"{one[7:]}~{one[:7]}" for name, one in spelt.items()}),
            ("bosses", way("administrators", rng), {name: name.replace("administrators", "bosses") for name in EXACT}),
        ]
    return [
        ({"rules": [{"pattern": pattern, "replacement": replacement}]}, names) for pattern, replacement, names in made
    ]


def policy_for(groups: dict[str, Any], **protection: Any) -> Policy:
    return Policy.model_validate({**OPEN, "groups": groups, "protection": {"users": [], **protection}})


@pytest.mark.parametrize("made", long_after(1, [by_a_rule, by_a_prefix]))
def test_no_name_that_the_policy_makes_reaches_a_privileged_group(made: Callable[[], list[Made]]) -> None:
    count = 0
    for groups, names in made()[::6]:
        policy = policy_for(groups)
        crowd = policy.groups.named(pd.Series(list(names.values()), dtype="str"))
        assert policy.privileged(crowd).all(), crowd[~policy.privileged(crowd)].tolist()
        for there in (True, False):
            world = world_of(names, there=there)
            planned_ = planned(world.source(), world.crowd, world.links, policy)
            names_of_groups = planned_.operations.loc[planned_.operations["kind"] != Kind.GROUP_CREATE, "target"]
            found = set(planned_.operations["name"]) | set(names_of_groups)
            assert not policy.privileged(pd.Series(sorted(found), dtype="str")).any(), planned_.operations.to_string()
            assert there or {f"g{n}" for n in range(len(names))} <= set(planned_.held["id"])
        count += len(names)
    print(f"{count:,} names made by {made.__name__.removeprefix('by_')}: none reaches its group")
    assert count >= 25


def test_many_spellings_that_the_policy_makes_are_closed() -> None:
    """As above, of more spellings, without a plan for each."""
    crowd: list[str] = []
    for seed in range(5):
        for groups, names in (*by_a_prefix(seed), *by_a_rule(seed)):
            crowd += policy_for(groups).groups.named(pd.Series(list(names.values()), dtype="str")).tolist()
    closed = policy_for({}).privileged(pd.Series(crowd, dtype="str")).to_numpy()
    open_ = [name for name, shut in zip(crowd, closed, strict=True) if not shut]
    print(f"{len(crowd):,} names made by prefixes and rules, {len(set(crowd)):,} spellings, {len(open_)} open")
    assert not open_
    assert len(set(crowd)) >= 1000


def test_no_spelling_of_a_privileged_group_is_one_for_everyone() -> None:
    rng = random.Random(14)
    count = 0
    for number in range(SPELLINGS // 2):
        name = EXACT[number % len(EXACT)]
        spelt = WAYS[number // len(EXACT) % len(WAYS)](name, rng)
        others = ["staff", "people", "all"][: number % 4]
        for allowed in ([], [other for other in EXACT if other != name and "admin" in other][:2]):
            with pytest.raises(ValidationError, match=r"protected or privileged|no blanks around"):
                policy_for({"everyone": [*others, spelt]}, privileged_allowed=allowed)
            count += 1
        if spelt.lower() != name and spelt.strip() == spelt:  # to name the group opens it, but no other spelling
            with pytest.raises(ValidationError, match="protected or privileged"):
                policy_for({"everyone": [spelt]}, privileged_allowed=[name])
            count += 1
    print(f"{count:,} policies that would put everyone into a privileged group are refused")
    assert count >= 1000


@pytest.mark.parametrize(
    ("groups", "spelt"),
    [
        ({"prefix": "jira-"}, "Administrators"),
        ({"rules": [{"pattern": "^ACME/", "replacement": ""}]}, "ACME/jira-administrators"),
        ({"rules": [{"pattern": "bosses", "replacement": "administrators"}], "prefix": "jira-"}, "bosses"),
    ],
)
def test_a_name_that_the_policy_makes_is_filled_where_it_names_exactly_that_group(
    groups: dict[str, Any], spelt: str
) -> None:
    world = world_of({"jira-administrators": spelt}, marked=True)
    added = {}
    for allowed in ("jira-administrators", "crowd-administrators"):
        made = planned(world.source(), world.crowd, world.links, policy_for(groups, privileged_allowed=[allowed]))
        kinds = made.operations["kind"].isin([Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD])
        into = made.operations["target"].str.lower() == "jira-administrators"
        added[allowed] = set(made.operations.loc[kinds & into, "name"].str.lower())
    assert {"ann"} <= added["jira-administrators"]
    assert not added["crowd-administrators"]


def test_everyone_is_put_into_a_privileged_group_that_the_policy_names() -> None:
    policy = policy_for({"everyone": ["jira-administrators"]}, privileged_allowed=["jira-administrators"])
    world = world_of({"jira-administrators": "unrelated"})
    made = planned(world.source(), world.crowd, world.links, policy)
    added = made.operations[made.operations["kind"] == Kind.MEMBERSHIP_ADD]
    assert ("ann", "jira-administrators") in set(zip(added["name"], added["target"], strict=True))
