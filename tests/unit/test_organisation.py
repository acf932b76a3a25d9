"""The generated company: exact counts, the same from the same seed, and every id kept when it changes."""

import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import orjson
import pytest

from connectors.model import MAX_TEXT, Snapshot, attributes_text, groups_frame, memberships_frame, users_frame
from deployments.sandbox.organisation import (
    ENTERPRISE_SCHEMA,
    Organisation,
    changed,
    difficult,
    fold,
    organisation,
)
from tests.support.organisations import DAY_TWO, content


@pytest.fixture(scope="module")
def company() -> Organisation:
    return organisation(users=3000, groups=120, memberships=20_000, seed=7)


def test_same_seed_same_company_in_another_process() -> None:
    program = (
        "from deployments.sandbox.organisation import changed, organisation\n"
        "from tests.support.organisations import DAY_TWO, content\n"
        "org = organisation(users=400, groups=40, memberships=2000, seed=3)\n"
        "print(content(org), content(changed(org, seed=5, **DAY_TWO)))"
    )
    org = organisation(users=400, groups=40, memberships=2000, seed=3)
    expected = [content(org), content(changed(org, seed=5, **DAY_TWO))]
    # Another hash seed, so that an order taken from a set shows.
    printed = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "99"},
    ).stdout
    assert printed.split() == expected
    assert content(organisation(users=400, groups=40, memberships=2000, seed=4)) != expected[0]


@pytest.mark.parametrize(
    ("users", "groups", "memberships"),
    [
        (0, 0, 0),
        (5, 0, 0),
        (0, 5, 0),
        (1, 1, 1),
        (3, 2, 6),
        (150, 25, 700),
        (1000, 300, 37),
        (50, 400, 20_000),
    ],
)
def test_counts_are_exact(users: int, groups: int, memberships: int) -> None:
    org = organisation(users=users, groups=groups, memberships=memberships)
    assert (len(org.people), len(org.teams), len(org.member_team)) == (users, groups, memberships)
    pairs = set(zip(org.member_team.tolist(), org.member_person.tolist(), strict=True))
    assert len(pairs) == memberships
    assert len({p.id for p in org.people} | {t.id for t in org.teams}) == users + groups
    snapshot = org.snapshot()
    assert len(snapshot.users) == users
    assert len(snapshot.groups) == groups
    assert len(snapshot.memberships) == memberships + len(org.nest_parent)


def test_more_memberships_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="7 memberships do not fit 3 users and 2 groups"):
        organisation(users=3, groups=2, memberships=7)


def test_no_accidental_collisions(company: Organisation) -> None:
    for names in ([p.username for p in company.people], [t.name for t in company.teams]):
        assert len({unicodedata.normalize("NFKC", name).lower() for name in names}) == len(names)
        assert len({fold(name) for name in names}) == len(names)
        assert all(name == name.strip() and 0 < len(name) < MAX_TEXT for name in names)
    assert all(p.username.isascii() and not p.username[0].isdigit() for p in company.people)


def test_it_looks_like_a_company(company: Organisation) -> None:
    names = Counter(p.display_name for p in company.people)
    assert names.most_common(1)[0][1] > 3, "nobody shares a name"
    scripts = {unicodedata.name(c).split()[0] for p in company.people for c in p.display_name if c.isalpha()}
    assert {
        "LATIN", "CYRILLIC", "GREEK", "ARABIC", "CJK", "HANGUL", "HIRAGANA", "KATAKANA", "DEVANAGARI"
    } <= scripts  # fmt: skip
    assert 0.02 < sum(not p.active for p in company.people) / len(company.people) < 0.12
    sizes = np.sort(np.bincount(company.member_team))[::-1]
    assert sizes[0] > 0.8 * len(company.people)
    assert sizes[: len(sizes) // 10].sum() > sizes[len(sizes) // 2 :].sum()
    managers = {p.manager for p in company.people} - {""}
    assert managers <= {p.id for p in company.people}
    assert managers
    of = {t.id: t.about for t in company.teams if t.kind == "department"}
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        assert company.teams[child].kind == "team"
        if company.teams[parent].id in of:
            assert company.teams[child].about == of[company.teams[parent].id]


def ancestors_end(org: Organisation) -> bool:
    parents: dict[int, list[int]] = {}
    for parent, child in zip(org.nest_parent.tolist(), org.nest_child.tolist(), strict=True):
        parents.setdefault(child, []).append(parent)
    level = set(range(len(org.teams)))
    for _ in range(len(org.teams) + 1):
        level = {p for child in level for p in parents.get(child, ())}
        if not level:
            return True
    return False


def test_nestings_have_no_circle(company: Organisation) -> None:
    assert len(company.nest_parent) > 20
    assert ancestors_end(company)


def parsed(org: Organisation) -> Snapshot:
    """The SCIM resources read one by one, the plain way."""
    users = [
        (
            u["id"],
            u["userName"],
            next((e["value"] for e in u.get("emails", ())), ""),
            u["name"]["givenName"],
            u["name"]["familyName"],
            u["displayName"],
            u["active"],
            attributes_text({"title": [u["title"]], "department": [u[ENTERPRISE_SCHEMA]["department"]]}),
        )
        for u in org.scim_users()
    ]
    groups = org.scim_groups("http://x/v2")
    members = [(g["id"], m["value"], m["type"].lower()) for g in groups for m in g["members"]]
    for group in groups:
        for member in group["members"]:
            assert member["$ref"] == f"http://x/v2/{member['type']}s/{member['value']}"
    return Snapshot.of(
        users_frame(users),
        groups_frame((g["id"], g["displayName"], "", "{}") for g in groups),
        memberships_frame(members),
    )


def test_snapshot_is_what_parsing_the_resources_gives(company: Organisation) -> None:
    for org in (company, changed(company, seed=1, **DAY_TWO)):
        assert org.snapshot(["title", "department"]).digest() == parsed(org).digest()


def test_crowd_load_is_the_snapshot_by_name(company: Organisation) -> None:
    load = orjson.loads(orjson.dumps(company.crowd_load("idp")))
    snapshot = company.snapshot()
    id_of_user = {u[0]: u[6]["crowdsync.id"][0].removeprefix("idp:") for u in load["users"]}
    id_of_group = {g[0]: g[2]["crowdsync.id"][0].removeprefix("idp:") for g in load["groups"]}
    rebuilt = Snapshot.of(
        users_frame((id_of_user[u[0]], u[0], u[4], u[1], u[2], u[3], u[5], "{}") for u in load["users"]),
        groups_frame((id_of_group[g[0]], g[0], g[1], "{}") for g in load["groups"]),
        memberships_frame(
            [(id_of_group[g], id_of_user[u], "user") for u, g in load["memberships"]]
            + [(id_of_group[parent], id_of_group[child], "group") for child, parent in load["nestings"]]
        ),
    )
    assert rebuilt.digest() == snapshot.digest()


def test_each_change_is_exactly_as_many_as_asked(company: Organisation) -> None:
    later = changed(company, seed=1, **DAY_TWO)
    before, after = ({p.id: p for p in org.people} for org in (company, later))
    stayed = before.keys() & after.keys()
    assert len(after.keys() - before.keys()) == 9
    assert len(before.keys() - after.keys()) == 8
    assert sum(before[i].active and not after[i].active for i in stayed) == 7
    renamed = {i for i in stayed if before[i].username != after[i].username}
    assert len(renamed) == 6
    visible = {
        i
        for i in stayed - renamed
        if (before[i].email, before[i].display_name) != (after[i].email, after[i].display_name)
    }
    assert len(visible) == 5
    assert {i for i in stayed if before[i].title != after[i].title} == visible
    assert not any(after[i].active and not before[i].active for i in stayed)

    teams, later_teams = ({t.id: t for t in org.teams} for org in (company, later))
    assert len(later_teams.keys() - teams.keys()) == 3
    assert teams.keys() <= later_teams.keys()
    assert sum(teams[i].name != later_teams[i].name for i in teams) == 2

    old, new = (pairs_by_id(org) for org in (company, later))
    fresh = after.keys() - before.keys()
    added = {(t, p) for t, p in new - old if t in teams and p not in fresh}
    removed = {(t, p) for t, p in old - new if p in after}
    assert len({p for _, p in added}) == len({p for _, p in removed}) == 4
    assert len(added) == len(removed) == 4
    assert not {p for _, p in new} & (before.keys() - after.keys())
    assert {p for t, p in new if p in fresh} == fresh, "a joiner without any group"
    assert {p.manager for p in later.people} - {""} <= after.keys()
    folded = [fold(p.username) for p in later.people]
    assert len(set(folded)) == len(folded)
    assert ancestors_end(later)


def pairs_by_id(org: Organisation) -> set[tuple[str, str]]:
    return {
        (org.teams[t].id, org.people[p].id)
        for t, p in zip(org.member_team.tolist(), org.member_person.tolist(), strict=True)
    }


def test_everybody_moves_to_a_group_that_is_new_to_them() -> None:
    org = organisation(users=40, groups=5, memberships=100)
    later = changed(org, seed=1, moved=40)
    old, new = pairs_by_id(org), pairs_by_id(later)
    for person in org.people:
        had, has = ({t for t, p in pairs if p == person.id} for pairs in (old, new))
        assert len(had - has) == min(len(had), 1)
        assert len(has - had) == min(5 - len(had), 1)


def test_no_change_is_no_change(company: Organisation) -> None:
    assert content(changed(company, seed=9)) == content(company)


def test_many_days_keep_ids_and_never_reuse_a_username() -> None:
    org = organisation(users=60, groups=12, memberships=200)
    owner = {fold(p.username): p.id for p in org.people}
    for day in range(30):
        org = changed(org, seed=day, joiners=3, leavers=3, renamed=3, updated=2, moved=5, new_groups=1)
        for person in org.people:
            assert owner.setdefault(fold(person.username), person.id) == person.id
        ids = [t.id for t in org.teams] + [p.id for p in org.people]
        assert len(set(ids)) == len(ids)
        assert {p.manager for p in org.people} - {""} <= set(ids)
    assert len(owner) > 60 + 3 * 30


def test_too_many_changes_are_refused(company: Organisation) -> None:
    with pytest.raises(ValueError, match="more than there are"):
        changed(company, seed=1, leavers=2000, updated=1001)


def test_difficult_cases_are_difficult(company: Organisation) -> None:
    cases = difficult(1)
    assert cases == difficult(1)
    assert all(case.why and (case.people or case.teams) for case in cases)
    people = [p for case in cases for p in case.people]
    teams = [t for case in cases for t in case.teams]
    assert len({p.id for p in people} | {t.id for t in teams}) == len(people) + len(teams)
    assert len({p.username for p in people}) == len(people)
    assert {len(p.username) for p in people} >= {MAX_TEXT, MAX_TEXT + 1}
    assert len({unicodedata.normalize("NFKC", p.username).lower() for p in people}) < len(people)
    # They change nobody else, and a company with them still makes every form.
    mixed = company.including(people, teams)
    assert parsed(mixed).digest() == mixed.snapshot(["title", "department"]).digest()
    assert orjson.dumps(mixed.crowd_load("idp"))
