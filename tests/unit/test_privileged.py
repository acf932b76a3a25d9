"""Groups that give power over the applications: however a source spells them, it gets nobody in."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pandas as pd
import pytest
from confusable_homoglyphs import confusables

from connectors.contract import Kind
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, held_frame
from tasks.filter import in_scope
from tasks.map import desired
from tasks.match import match
from tasks.plan import Plan, plan
from tasks.policy import PRIVILEGED, Policy
from tests.property.model_crowd import ModelCrowd, ModelLinks
from tests.property.test_road import SOURCE, World, planned
from tests.unit.test_collisions import BLANKS, DISGUISES

SPELLINGS = 1200
EXACT = [name for name in PRIVILEGED if "*" not in name] + ["bamboo-admins", "bitbucket-administrators"]


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


@pytest.mark.parametrize("marked", [False, True])
def test_no_spelling_reaches_a_privileged_group(marked: bool) -> None:
    count = 0
    for names, policy in WORLDS:
        world = world_of(names, marked=marked)
        made = planned(world.source(), world.crowd, world.links, policy)
        assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
        count += len(names)
    print(f"{count:,} spellings{' of owned groups' if marked else ''}: nothing planned")


def test_no_spelling_is_created_where_crowd_has_no_such_group() -> None:
    count = 0
    for names, policy in WORLDS:
        world = world_of(names, there=False)
        made = planned(world.source(), world.crowd, world.links, policy)
        assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
        assert {f"g{n}" for n in range(len(names))} <= set(made.held["id"])
        count += len(names)
    print(f"{count:,} spellings: no group created")


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


def test_what_only_resembles_a_privileged_name_is_open() -> None:
    names = [
        "crowd-users",
        "administrator",
        "my-administrators-2",
        "jira-administrators-emea",
        "admins",
        "администраторы",
    ]
    assert not Policy().privileged(pd.Series(names, dtype="str")).any()


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
    wanted = desired(in_scope(world.source(), policy.scope).snapshot, policy)
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
