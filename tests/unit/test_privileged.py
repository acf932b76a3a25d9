"""Groups that give power over the applications: however a source spells them, it gets nobody in."""

from __future__ import annotations

import random

import pytest

from connectors.contract import Kind
from connectors.model import ID_ATTRIBUTE, crowd_id
from tasks.policy import PRIVILEGED, Policy
from tests.property.model_crowd import ModelCrowd, ModelLinks
from tests.property.test_road import World, planned
from tests.unit.test_collisions import BLANKS, DISGUISES

SPELLINGS = 1200
EXACT = [name for name in PRIVILEGED if "*" not in name] + ["bamboo-admins", "bitbucket-administrators"]


def spellings() -> list[dict[str, str]]:
    """Worlds of privileged groups with a spelling of each."""
    rng = random.Random(7)
    ways = [way for name, way in DISGUISES.items() if name not in ("decomposed", "ligature")]
    ways.append(lambda name, rng: rng.choice(BLANKS) + name + rng.choice(BLANKS))
    ways.append(lambda name, rng: name)
    return [{name: ways[n % len(ways)](name, rng) for name in EXACT} for n in range(SPELLINGS // len(EXACT) + 1)]


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
    policy = Policy.model_validate(
        {
            "matching": {"groups": ["id", "name"]},
            "operations": {"group_delete": True},
            "leavers": {"groups": "delete"},
            "protection": {"users": []},
        }
    )
    count = 0
    for names in spellings():
        world = world_of(names, marked=marked)
        made = planned(world.source(), world.crowd, world.links, policy)
        assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
        count += len(names)
    print(f"{count:,} spellings{' of owned groups' if marked else ''}: nothing planned")


def test_no_spelling_is_created_where_crowd_has_no_such_group() -> None:
    count = 0
    for names in spellings():
        world = world_of(names, there=False)
        made = planned(world.source(), world.crowd, world.links, Policy.model_validate({"protection": {"users": []}}))
        assert made.operations.empty, made.operations[["kind", "name", "target"]].to_string()
        assert {f"g{n}" for n in range(len(names))} <= set(made.held["id"])
        count += len(names)
    print(f"{count:,} spellings: no group created")


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
