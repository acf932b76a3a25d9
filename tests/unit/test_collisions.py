"""Names that are one name in Crowd, or look it, are never merged; names that only resemble each other are let be."""

from __future__ import annotations

import random
import unicodedata

import pytest

from connectors.model import ID_ATTRIBUTE
from deployments.sandbox.organisation import organisation
from tasks.decide.names import fold
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tests.support.lookalikes import BLANKS, DISGUISES, ZERO_WIDTH
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import World, planned

PAIRS = 2500
ACCENTED = "áéíóúñçüäöåêôî"


def pairs(seed: int) -> list[tuple[str, str, str]]:
    """(a name, the same in disguise, how): every pair differs from all the others by its number."""
    rng = random.Random(seed)
    found = []
    for number in range(PAIRS):
        how = list(DISGUISES)[number % len(DISGUISES)]
        letters = "".join(rng.choice("abcdefgijkopsvxy") for _ in range(5))
        name = f"{letters}.fi{rng.choice(ACCENTED)}ss.{number}"
        disguised = DISGUISES[how](name, rng)
        assert disguised != name, how
        found.append((name, disguised, how))
    return found


def a_world() -> World:
    return World(crowd=ModelCrowd(), links=ModelLinks())


def add(world: World, key: str, name: str) -> None:
    world.users.append((key, name, "", "", "L", "D", True, "{}"))


def held(made: Plan) -> dict[str, str]:
    return dict(zip(made.held["id"], made.held["reason"], strict=True))


@pytest.mark.parametrize("case", ["lower", "keep"])
def test_two_people_with_one_name_are_both_held_and_named(case: str) -> None:
    world, found = a_world(), pairs(1)
    for number, (name, disguised, _) in enumerate(found):
        add(world, f"a{number}", name)
        add(world, f"b{number}", disguised)
    policy = Policy.model_validate({"usernames": {"case": case}})
    made = planned(world.source(), world.crowd, world.links, policy)
    reasons = held(made)
    missing = [
        (how, name, other) for n, (name, other, how) in enumerate(found) if not {f"a{n}", f"b{n}"} <= reasons.keys()
    ]
    assert not missing, f"{len(missing)} of {PAIRS} pairs are not held: {missing[:3]}"
    assert made.operations.empty
    names = dict(zip(made.held["id"], made.held["name"], strict=True))
    for number, (name, disguised, _) in enumerate(found):
        assert {names[f"a{number}"], names[f"b{number}"]} <= {name, disguised, name.lower(), disguised.lower()} | {
            unicodedata.normalize("NFKC", text) for text in (name, disguised, name.lower(), disguised.lower())
        }
    print(f"{PAIRS:,} pairs of new people, {len(DISGUISES)} disguises: none created")


def test_an_account_is_not_taken_by_somebody_whose_name_only_looks_like_it() -> None:
    world, found = a_world(), pairs(2)
    before = ModelCrowd()
    for number, (name, disguised, _) in enumerate(found):
        for crowd in (world.crowd, before):
            crowd.add_user(name if number % 2 else disguised.strip(), attributes={"theirs": ["keep"]})
        add(world, f"b{number}", disguised if number % 2 else name)
    made = planned(world.source(), world.crowd, world.links, Policy())
    reasons = held(made)
    missing = [(how, name, other) for n, (name, other, how) in enumerate(found) if f"b{n}" not in reasons]
    assert not missing, f"{len(missing)} of {PAIRS} are not held: {missing[:3]}"
    assert made.operations.empty
    print(f"{PAIRS:,} people whose name looks like an account that nobody owns: none created, no account touched")


def test_nobody_is_renamed_to_what_looks_like_another_account() -> None:
    world, found = a_world(), pairs(3)
    for number, (name, disguised, _) in enumerate(found):
        world.crowd.add_user(name)
        world.crowd.add_user(f"old.{number}", attributes={ID_ATTRIBUTE: [f"acme:b{number}"]}, active=True)
        add(world, f"b{number}", disguised)
    made = planned(world.source(), world.crowd, world.links, Policy())
    reasons = held(made)
    missing = [(how, name, other) for n, (name, other, how) in enumerate(found) if f"b{n}" not in reasons]
    assert not missing, f"{len(missing)} of {PAIRS} are not held: {missing[:3]}"
    assert made.operations.empty
    print(f"{PAIRS:,} renames to what looks like another account: none made")


def test_two_groups_with_one_name_are_both_held_and_named() -> None:
    world, found = a_world(), pairs(4)
    add(world, "p", "ann")
    for number, (name, disguised, _) in enumerate(found):
        world.groups += [(f"a{number}", name, "", "{}"), (f"b{number}", disguised, "", "{}")]
        world.memberships += [(f"a{number}", "p", "user"), (f"b{number}", "p", "user")]
    made = planned(world.source(), world.crowd, world.links, Policy())
    reasons = held(made)
    missing = [
        (how, name, other) for n, (name, other, how) in enumerate(found) if not {f"a{n}", f"b{n}"} <= reasons.keys()
    ]
    assert not missing, f"{len(missing)} of {PAIRS} pairs are not held: {missing[:3]}"
    assert list(made.operations["kind"]) == ["user_create"]
    for number, (name, disguised, _) in enumerate(found):
        for key in (f"a{number}", f"b{number}"):
            assert repr(name) in reasons[key]
            assert repr(disguised) in reasons[key]
    print(f"{PAIRS:,} pairs of groups: none created")


@pytest.mark.parametrize("owner", ["nobody", "another source", "another person of ours"])
def test_a_group_is_not_taken_by_one_whose_name_only_looks_like_it(owner: str) -> None:
    world, found = a_world(), pairs(5)
    add(world, "p", "ann")
    ann = world.crowd.add_user("ann", last_name="L", display_name="D", attributes={ID_ATTRIBUTE: ["acme:p"]})
    for number, (name, disguised, _) in enumerate(found):
        there, wanted = (name, disguised) if number % 2 else (disguised.strip(), name)
        mark = {"nobody": "", "another source": f"other:{number}", "another person of ours": f"acme:x{number}"}[owner]
        group = world.crowd.add_group(there, "theirs", mark)
        world.groups.append((f"b{number}", wanted, "ours", "{}"))
        world.memberships.append((f"b{number}", "p", "user"))
        if owner == "another person of ours":  # it is still there, with somebody in it
            world.groups.append((f"x{number}", there, "theirs", "{}"))
            world.memberships.append((f"x{number}", "p", "user"))
            world.crowd.memberships.add((group["key"], ann["key"]))
    made = planned(world.source(), world.crowd, world.links, Policy())
    reasons = held(made)
    missing = [(how, name, other) for n, (name, other, how) in enumerate(found) if f"b{n}" not in reasons]
    assert not missing, f"{len(missing)} of {PAIRS} are not held: {missing[:3]}"
    assert made.operations.empty, made.operations[["kind", "name", "target"]].head().to_string()


CAPITALS = str.maketrans("ABCEHIKMNOPSTXYZ", "АВСЕНІКМΝОРЅТХУΖ")
"""Capitals that look alike though their small forms (в, н, к, м, т, ν) do not all."""


def test_names_that_look_alike_in_capitals_are_both_held() -> None:
    """Crowd keeps the case of a group's name, and of a username where the policy does."""
    world, words = a_world(), ("TEAM", "MAT", "ATHENS", "BACKOFFICE", "NATO", "KIM", "HR", "SYSTEMS")
    for number, word in enumerate(words):
        latin, other = f"{word}.{number}", f"{word.translate(CAPITALS)}.{number}"
        assert latin != other
        for key, name in ((f"a{number}", latin), (f"b{number}", other)):
            add(world, key, name)
            world.groups.append((key, name, "", "{}"))
    made = planned(world.source(), world.crowd, world.links, Policy.model_validate({"usernames": {"case": "keep"}}))
    created = made.operations.loc[made.operations["kind"].isin(["user_create", "group_create"]), ["kind", "name"]]
    assert created.empty, created.head(4).to_string()


def test_folding_is_settled_and_ignores_what_cannot_be_seen() -> None:
    names = [name for pair in pairs(6) for name in pair[:2]]
    once = fold(names)
    assert fold(once).equals(once)
    assert not once.str.contains(f"[{ZERO_WIDTH}{BLANKS}]").any()


def legitimate() -> list[str]:
    names = [
        *("jon1", "jonl", "jonI2", "jon12", "o0o", "ooo", "rn", "m", "vv", "w", "cl", "d", "jose", "josé", "muller"),
        *(
            "müller",
            "иван",
            "ivan",
            "иванов",
            "ivanov",
            "张伟",
            "张薇",
            "さくら",
            "サクラ",
            "محمد",
            "محمود",
            "o'neil",
            "oneil",
        ),
        *("a.b", "a-b", "a_b", "ab", "anna", "ana", "ann", "søren", "soren", "łukasz", "lukasz", "ñandu", "nandu"),
    ]
    company = organisation(users=3000, groups=3, memberships=100, seed=5)
    names += [person.username for person in company.people]
    return list(dict.fromkeys(name.lower() for name in names))


def test_people_whose_names_only_resemble_each_other_are_created() -> None:
    world, names = a_world(), legitimate()
    for number, name in enumerate(names):
        add(world, f"p{number}", name)
    made = planned(world.source(), world.crowd, world.links, Policy.model_validate({"protection": {"users": []}}))
    assert made.held.empty, made.held.head(5).to_string()
    assert len(made.operations) == len(names)
    print(f"{len(names):,} names that differ: all created")
