"""The table of kinds is whole and makes sense, and what it says must hold is the same thing wherever it is asked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import httpx
import orjson
import pandas as pd
import pytest

from connectors.crowd import WRITES, Crowd, _group_row, _rows, _user_row
from connectors.errors import RecordError
from connectors.http import Http
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, groups_frame, held_frame, memberships_frame, users_frame
from connectors.operations import BY_DANGER, KINDS, Kind, Operation, account, brings, kinds, needs, stands, was_active
from tasks.policy import FEATURES, Limits, Operations
from tasks.read.recover import settle
from tasks.write.chunks import Progress

CROWD = {"X-Embedded-Crowd-Version": "Crowd/7.1.2", "Content-Type": "application/json"}
EXTRA = "team"
SCOPE = frozenset({ID_ATTRIBUTE, EXTRA})
NAMES = ("ann", "Ann", "bob", "İx")
TEAMS = ("red", "Red", "blue")
MARKS: tuple[list[str], ...] = (["acme:1"], ["acme:2"], [])
VALUES: tuple[list[str], ...] = (["x"], ["x", "y"], ["y", "x"], [])
TEXTS = ("", "", "a", "b")


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_has_a_row_and_a_writer() -> None:
    assert set(KINDS) == set(Kind) == set(WRITES)


def test_the_feature_of_a_kind_is_a_field_of_the_policy() -> None:
    for kind, spec in KINDS.items():
        assert spec.feature == "" or spec.feature in Operations.model_fields, kind
        assert spec.feature == FEATURES[kind]
    assert {spec.feature for spec in KINDS.values()} - {""} == set(FEATURES.values()) - {""}


def test_a_kind_has_a_limit_exactly_where_the_table_says_what_it_is_counted_against() -> None:
    assert {kind for kind, spec in KINDS.items() if spec.counted} == {
        kind for kind in Kind if kind in Limits.model_fields
    }


def test_the_kinds_are_done_in_the_order_of_the_table_and_all_that_takes_comes_before_all_that_gives() -> None:
    phases = [spec.phase for spec in KINDS.values()]
    assert phases == sorted(phases)
    last = max(KINDS[kind].phase for kind in kinds(effect="takes"))
    assert last < min(KINDS[kind].phase for kind in kinds(effect="gives"))
    assert min(phases) > 0, "the marks of what is there come first"


def test_dangers_are_ranks_and_words_are_told_apart() -> None:
    assert sorted(spec.danger for spec in KINDS.values()) == list(range(1, len(KINDS) + 1))
    assert [KINDS[kind].danger for kind in BY_DANGER] == list(range(1, len(KINDS) + 1))
    assert len({spec.words for spec in KINDS.values()}) == len(KINDS)
    taken = {kind for kind in Kind if KINDS[kind].sign == "-"}
    assert taken == set(kinds(effect="takes"))
    assert {kind for kind in Kind if KINDS[kind].sign == "+"} == set(kinds(effect="gives"))


def test_who_is_shut_out_loses_something_and_links_belong_to_users_and_groups() -> None:
    assert set(kinds(shuts_out=True)) <= set(kinds(effect="takes", entity="user"))
    for kind, spec in KINDS.items():
        if spec.link:
            assert spec.entity in ("user", "group"), kind
        if spec.link == "ends":
            assert spec.effect == "takes"
    assert [kind for kind, spec in KINDS.items() if spec.stands == "target"] == list(kinds(link="moves"))


def test_what_a_kind_brings_about_it_does_not_need_unless_it_marks_it() -> None:
    for kind, spec in KINDS.items():
        if spec.link != "marks":
            assert not set(spec.needs) & set(spec.brings), kind
        assert set(dict(spec.needs).values()) <= {"name", "target"}


@pytest.mark.parametrize(
    ("failed", "later", "waits"),
    [
        (Operation(1, Kind.USER_CREATE, "Ann"), Operation(2, Kind.MEMBERSHIP_ADD, "ann", "red"), True),
        (Operation(1, Kind.GROUP_CREATE, "Red"), Operation(2, Kind.MEMBERSHIP_ADD, "ann", "red"), True),
        (Operation(1, Kind.GROUP_CREATE, "Red"), Operation(2, Kind.NESTING_ADD, "red", "blue"), True),
        (Operation(1, Kind.GROUP_CREATE, "ann"), Operation(2, Kind.MEMBERSHIP_ADD, "ann", "red"), False),
        (Operation(1, Kind.USER_DELETE, "ann"), Operation(2, Kind.USER_RENAME, "bob", "Ann"), True),
        (Operation(1, Kind.USER_DELETE, "ann"), Operation(2, Kind.USER_CREATE, "ann"), True),
        (Operation(1, Kind.USER_DELETE, "ann"), Operation(2, Kind.MEMBERSHIP_REMOVE, "ann", "red"), False),
        (Operation(1, Kind.USER_RENAME, "ann", "bob"), Operation(2, Kind.USER_CREATE, "ann"), True),
        (Operation(1, Kind.USER_RENAME, "ann", "bob"), Operation(2, Kind.USER_UPDATE, "bob"), True),
        (Operation(1, Kind.MEMBERSHIP_REMOVE, "ann", "red"), Operation(2, Kind.USER_UPDATE, "ann"), False),
        (
            Operation(1, Kind.USER_ATTRIBUTES, "ann", record={"attributes": {ID_ATTRIBUTE: ["acme:1"]}}),
            Operation(2, Kind.USER_UPDATE, "ann"),
            True,
        ),
        (
            Operation(1, Kind.USER_ATTRIBUTES, "ann", record={"attributes": {EXTRA: ["x"]}}),
            Operation(2, Kind.USER_UPDATE, "ann"),
            False,
        ),
    ],
)
def test_what_needs_what_another_one_did_not_bring_about_waits(
    failed: Operation, later: Operation, waits: bool
) -> None:
    progress = Progress()
    assert progress.waits_for(later) is None
    progress.broke(failed)
    assert progress.waits_for(later) == (1 if waits else None)
    assert bool(set(brings(failed)) & set(needs(later))) is waits


def test_whether_an_account_could_log_in_is_read_from_what_is_stored() -> None:
    assert was_active('{"active":true}')
    assert was_active('{"active":true,"email":"a"}')
    assert not was_active('{"active":false}')
    assert not was_active('{"username":"\\"active\\":true"}')
    assert not was_active("")


def test_an_account_is_active_as_the_kind_says() -> None:
    record = {"email": "a", "active": True, "attributes": {EXTRA: ["x"]}}
    for kind, active in ((Kind.USER_DEACTIVATE, False), (Kind.USER_ACTIVATE, True), (Kind.USER_UPDATE, True)):
        assert account(Operation(1, kind, "ann", record=record)) == {"email": "a", "active": active}


# ── what must hold afterwards ───────────────────────────────────────────────────────────────────────────────────


class World:
    """A few records as Crowd gives them: to one read each, and all of them as a snapshot."""

    def __init__(self, rng: random.Random, *, broken: bool = False) -> None:
        self.broken = broken
        self.users = {crowd_id(name): self._user(rng, name) for name in NAMES if rng.random() < 0.7}
        self.groups = {crowd_id(name): self._group(rng, name) for name in TEAMS if rng.random() < 0.7}
        self.members = {(t, n) for t in self.groups for n in self.users if rng.random() < 0.5}
        self.children = {(t, n) for t in self.groups for n in self.groups if t != n and rng.random() < 0.5}

    def _attributes(self, rng: random.Random) -> dict[str, Any]:
        values = {ID_ATTRIBUTE: rng.choice(MARKS), EXTRA: rng.choice(VALUES), "other": ["z"]}
        listed = [{"name": name, "values": of} for name, of in values.items() if of or rng.random() < 0.5]
        if self.broken:
            listed += [{"name": EXTRA, "values": ["x"]}, {"name": EXTRA, "values": ["y"]}]
        return {"attributes": {"attributes": listed}}

    def _user(self, rng: random.Random, name: str) -> dict[str, Any]:
        texts = {field: rng.choice(TEXTS) for field in ("first-name", "last-name", "display-name", "email")}
        shown = {field: text for field, text in texts.items() if text or rng.random() < 0.5}
        return {"name": name, "active": rng.choice((True, False, "true")), **shown, **self._attributes(rng)}

    def _group(self, rng: random.Random, name: str) -> dict[str, Any]:
        return {"name": name, "type": "GROUP", "description": rng.choice((*TEXTS, None)), **self._attributes(rng)}

    def answer(self, request: httpx.Request) -> httpx.Response:
        """One record by its key, or Crowd's reason why not."""
        asked = {key: crowd_id(value) for key, value in request.url.params.items()}
        path = request.url.path.partition("/usermanagement/1")[2]
        record: Any = None
        if path == "/user":
            record, reason = self.users.get(asked["username"]), "USER_NOT_FOUND"
        elif path == "/group":
            record, reason = self.groups.get(asked["groupname"]), "GROUP_NOT_FOUND"
        elif path == "/user/group/direct":
            there, reason = (asked["groupname"], asked["username"]) in self.members, "MEMBERSHIP_NOT_FOUND"
            record = {"name": asked["groupname"]} if there else None
        else:
            there, reason = (asked["groupname"], asked["child-groupname"]) in self.children, "MEMBERSHIP_NOT_FOUND"
            record = {"name": asked["child-groupname"]} if there else None
        body, status = (record, 200) if record is not None else ({"reason": reason}, 404)
        return httpx.Response(status, content=orjson.dumps(body), headers=CROWD)

    def snapshot(self) -> Snapshot:
        """All of it, as the listings of Crowd are read."""
        users, unread = _rows(list(self.users.values()), "user", lambda record: _user_row(record, SCOPE))
        groups, more = _rows(list(self.groups.values()), "group", lambda record: _group_row(record, SCOPE))
        members = [(team, name, "user") for team, name in self.members]
        children = [(team, name, "group") for team, name in self.children]
        return Snapshot.of(
            users_frame(users),
            groups_frame(groups),
            memberships_frame([*members, *children]),
            held_frame((one.kind, one.id, one.name, "read", one.reason, one.away) for one in [*unread, *more]),
        )


def operation(rng: random.Random, kind: Kind) -> Operation:
    """Any operation of a kind, as plans have them."""
    spec = KINDS[kind]
    people = spec.entity in ("user", "membership")
    name = rng.choice(NAMES if people else TEAMS)
    target = {"membership": rng.choice(TEAMS), "nesting": rng.choice(TEAMS)}.get(spec.entity, "")
    attributes = {ID_ATTRIBUTE: rng.choice(MARKS[:2])}
    texts = {field: rng.choice(TEXTS) for field in ("email", "first_name", "last_name", "display_name")}
    record: dict[str, Any] = {}
    if kind is Kind.USER_RENAME:
        target, record = rng.choice(NAMES), {"attributes": attributes}
    elif spec.link == "marks":
        chosen = {ID_ATTRIBUTE: rng.choice(MARKS), EXTRA: rng.choice(VALUES)}
        record = {"attributes": {key: chosen[key] for key in rng.sample(sorted(chosen), rng.choice((1, 2)))}}
    elif kind in (Kind.GROUP_CREATE, Kind.GROUP_UPDATE):
        record = {"description": rng.choice(TEXTS)}
    elif kind is Kind.USER_CREATE:
        record = {**texts, "active": True, "attributes": attributes}
    elif spec.holds is KINDS[Kind.USER_UPDATE].holds:
        active = {Kind.USER_ACTIVATE: True, Kind.USER_DEACTIVATE: False}.get(kind, rng.choice((True, False)))
        record = {**texts, "active": active}
    return Operation(1, kind, name, target, record)


def settled(operations: Iterable[Operation], snapshot: Snapshot) -> list[bool]:
    """What recovery says of each operation, none of which follows another."""
    holds: list[bool] = settle(rows_of(operations), snapshot).tolist()
    return holds


def rows_of(operations: Iterable[Operation], *, person: str = "") -> pd.DataFrame:
    """Operations as the store gives them, of one person, or each of another one."""
    rows = [
        (
            seq,
            one.kind.value,
            one.name,
            one.target,
            orjson.dumps(one.record).decode() if one.record else "",
            person or str(seq),
        )
        for seq, one in enumerate(operations)
    ]
    return pd.DataFrame(rows, columns=["seq", "kind", "name", "target", "record", "source_id"])


@pytest.mark.parametrize("kind", list(Kind))
async def test_the_read_back_at_crowd_and_the_recovery_from_a_snapshot_say_the_same(kind: Kind) -> None:
    rng = random.Random(kind)
    found: Counter[bool] = Counter()
    for _ in range(40):
        world = World(rng)
        transport = httpx.MockTransport(world.answer)
        directory = Crowd(Http("http://crowd.test/crowd", name="crowd", transport=transport, attempts=1))
        some = [operation(rng, kind) for _ in range(8)]
        at_crowd = [await directory.holds(one) for one in some]
        assert settled(some, world.snapshot()) == at_crowd, (some, world.users, world.groups)
        found.update(at_crowd)
    assert min(found[True], found[False]) > 10, "both happen"


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_record_that_cannot_be_read_is_there_and_nobodys(kind: Kind) -> None:
    """It is not gone, so that no deletion of it was done; and its mark counts for nothing."""
    rng = random.Random(kind)
    world = World(rng, broken=True)
    snapshot = world.snapshot()
    assert snapshot.users.empty
    assert snapshot.groups.empty
    assert len(snapshot.held) == len(world.users) + len(world.groups)
    some = [operation(rng, kind) for _ in range(50)]
    for one, holds in zip(some, settled(some, snapshot), strict=True):
        known = {"user": world.users, "group": world.groups}.get(KINDS[kind].entity)
        if known is not None:
            there = stands(one) in known
            assert holds is {Kind.USER_DELETE: not there, Kind.GROUP_DELETE: not there, Kind.GROUP_CREATE: there}.get(
                kind, False
            )


async def test_an_operation_that_lacks_a_field_is_not_sent() -> None:
    """It would blank that field."""
    directory = Crowd(Http("http://crowd.test/crowd", name="crowd", transport=httpx.MockTransport(lambda _: 1 / 0)))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="lacks 'email'"):
        await directory.write(
            Operation(
                1, Kind.USER_ACTIVATE, "ann", record=dict.fromkeys(("first_name", "last_name", "display_name"), "")
            )
        )


def test_a_rename_that_another_one_followed_held() -> None:
    mark = {"attributes": {ID_ATTRIBUTE: ["acme:1"]}}
    chain = [Operation(1, Kind.USER_RENAME, "a", "a~1", mark), Operation(2, Kind.USER_RENAME, "a~1", "B", mark)]
    frame = rows_of(chain, person="1")
    for name, holds in (("B", [True, True]), ("a~1", [True, False]), ("a", [False, False])):
        row = (crowd_id(name), name, "", "", "", "", True, orjson.dumps(mark["attributes"]).decode())
        assert settle(frame, Snapshot.of(users_frame([row]))).tolist() == holds
