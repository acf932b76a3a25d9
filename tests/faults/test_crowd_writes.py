"""Every kind of write, met by every failure: the right end, and no request more than needed.

The failures come from the emulator process; the right end is the state that a faultless write leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from connectors.contract import Outcome, Scope
from connectors.crowd import WRITES, Crowd
from connectors.errors import ForbiddenError, RecordError, RetryableError
from connectors.http import Http
from connectors.model import ID_ATTRIBUTE
from connectors.operations import Kind, Operation
from deployments.sandbox.crowd import running
from tests.support.pages import as_pairs

OURS = {ID_ATTRIBUTE: ["okta:1"]}
WHOLE = {"email": "n@example.org", "first_name": "New", "last_name": "Name", "display_name": "New Name"}
OPERATIONS = {
    operation.kind: operation
    for operation in (
        Operation(1, Kind.USER_CREATE, "new", "", {**WHOLE, "active": True, "attributes": OURS}),
        Operation(2, Kind.USER_UPDATE, "Jo", "", {**WHOLE, "active": True}),
        Operation(3, Kind.USER_RENAME, "jo", "joanna", {"attributes": OURS}),
        Operation(4, Kind.USER_ACTIVATE, "off", "", {**WHOLE, "active": True}),
        Operation(5, Kind.USER_DEACTIVATE, "jo", "", {**WHOLE, "active": False}),
        Operation(6, Kind.USER_DELETE, "jo"),
        Operation(7, Kind.USER_ATTRIBUTES, "jo", "", {"attributes": {"a": ["1", "2"], "old": []}}),
        Operation(8, Kind.GROUP_CREATE, "team", "", {"description": "a team"}),
        Operation(9, Kind.GROUP_UPDATE, "staff", "", {"description": "all of us"}),
        Operation(10, Kind.GROUP_DELETE, "staff"),
        Operation(11, Kind.GROUP_ATTRIBUTES, "staff", "", {"attributes": {"a": ["1"], "old": []}}),
        Operation(12, Kind.MEMBERSHIP_ADD, "off", "staff"),
        Operation(13, Kind.MEMBERSHIP_REMOVE, "jo", "staff"),
        Operation(14, Kind.NESTING_ADD, "crew", "staff"),
        Operation(15, Kind.NESTING_REMOVE, "lab", "staff"),
    )
}
REMOVALS = {Kind.USER_DELETE, Kind.GROUP_DELETE, Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE}
# A second time, Crowd refuses these, and we know that it is so:
KNOWN = REMOVALS | {Kind.MEMBERSHIP_ADD, Kind.NESTING_ADD}
# … and these, where only a read tells:
READ = {Kind.USER_CREATE, Kind.USER_RENAME, Kind.GROUP_CREATE}


def base() -> dict[str, Any]:
    return {
        "users": [
            ["jo", "J", "O", "J O", "jo@example.org", True, {**OURS, "old": "x", "kept": "y"}],
            ["off", "O", "F", "O F", "off@example.org", False, {ID_ATTRIBUTE: "okta:2"}],
        ],
        "groups": [["staff", "text", {"old": "x", "kept": "y"}], ["crew"], ["lab"]],
        "memberships": [["jo", "staff"]],
        "nestings": [["lab", "staff"]],
    }


@pytest.fixture(scope="module")
def process() -> Iterator[Any]:
    with running() as process:
        yield process


@pytest.fixture
def emulator(process: Any) -> Any:
    process.clear()
    process.load(**base())
    process.reset_counts()
    return process


@pytest.fixture
async def http(emulator: Any) -> AsyncIterator[Http]:
    async with Http(emulator.url, name="crowd", basic=("crowdsync", "secret"), timeout=0.3, attempts=3) as one:
        yield one


def sent(http: Http) -> tuple[int, int]:
    """(writes, reads) that were sent, also those that never arrived."""
    return sum(n for method, n in http.requests.items() if method != "GET"), http.requests["GET"]


def content(emulator: Any) -> dict[str, Any]:
    """The state without what Crowd itself keeps about passwords."""
    state = emulator.state()
    for user in state["users"]:
        user["attributes"] = {k: v for k, v in user["attributes"].items() if "assword" not in k}
    return dict(state)


async def right_end(emulator: Any, kind: Kind) -> dict[str, Any]:
    """The state after a faultless write; the emulator is set back."""
    async with Http(emulator.url, name="crowd", basic=("crowdsync", "secret")) as http:
        assert await Crowd(http).write(OPERATIONS[kind]) == Outcome("done")
    state = content(emulator)
    emulator.clear()
    emulator.load(**base())
    emulator.reset_counts()
    return state


def test_every_kind_is_here() -> None:
    assert set(OPERATIONS) == set(WRITES) == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_write_is_one_request_and_then_holds(emulator: Any, http: Http, kind: Kind) -> None:
    crowd = Crowd(http)
    before = content(emulator)
    assert not await crowd.holds(OPERATIONS[kind])
    assert sent(http) == (0, 1)
    assert await crowd.write(OPERATIONS[kind]) == Outcome("done")
    assert sent(http) == (1, 1)
    assert emulator.counts()["writes"] == 1
    assert content(emulator) != before
    assert await crowd.holds(OPERATIONS[kind])


async def test_what_is_not_named_stays(emulator: Any, http: Http) -> None:
    crowd = Crowd(http)
    for operation in OPERATIONS.values():
        if operation.kind not in (Kind.USER_RENAME, Kind.USER_DELETE, Kind.GROUP_DELETE):
            await crowd.write(operation)
    state = content(emulator)
    jo = next(user for user in state["users"] if user["name"] == "jo")
    assert jo == {
        "name": "jo",
        **WHOLE,
        "active": False,
        "attributes": {**OURS, "a": ["1", "2"], "kept": ["y"]},
    }
    staff = next(group for group in state["groups"] if group["name"] == "staff")
    assert staff["attributes"] == {"a": ["1"], "kept": ["y"]}
    new = next(user for user in state["users"] if user["name"] == "new")
    assert new == {"name": "new", **WHOLE, "active": True, "attributes": OURS}


# rule, then how many writes and reads-back it costs
NOT_EXECUTED: dict[str, tuple[dict[str, Any], int, int]] = {
    "429": ({"kind": "status", "status": 429, "retry_after": "0"}, 2, 0),
    "503": ({"kind": "status", "status": 503}, 2, 0),
}
LOST: dict[str, tuple[dict[str, Any], int, int]] = {
    "500, not committed": ({"kind": "status", "status": 500}, 2, 1),
    "504, not committed": ({"kind": "status", "status": 504}, 2, 1),
    "reset before": ({"kind": "reset"}, 2, 1),
    "a page instead": ({"kind": "html"}, 2, 1),
    "nothing instead": ({"kind": "empty"}, 2, 1),
    "committed, then silence": ({"kind": "committed-silence"}, 1, 1),
    "committed, then reset": ({"kind": "committed-reset"}, 1, 1),
    "committed, answer cut": ({"kind": "truncated"}, 1, 1),
}


@pytest.mark.parametrize("failure", [*NOT_EXECUTED, *LOST])
@pytest.mark.parametrize("kind", list(Kind))
async def test_one_failure(emulator: Any, http: Http, kind: Kind, failure: str) -> None:
    rule, writes, reads = {**NOT_EXECUTED, **LOST}[failure]
    end = await right_end(emulator, kind)
    emulator.faults([{**rule, "method": WRITES[kind].method, "nth": 1}])
    outcome = await Crowd(http).write(OPERATIONS[kind])
    assert emulator.counts()["faults"][0]["fired"] == 1
    assert content(emulator) == end
    assert outcome.state == "done"
    assert sent(http) == (writes, reads)


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_answer_committed_and_lost_is_never_doubled_and_never_reported_failed(
    emulator: Any, http: Http, kind: Kind
) -> None:
    end = await right_end(emulator, kind)
    emulator.faults([{"kind": "committed-reset", "method": WRITES[kind].method}])
    assert (await Crowd(http).write(OPERATIONS[kind])).state == "done"
    assert content(emulator) == end
    assert sent(http) == (1, 1)


@pytest.mark.parametrize("kind", sorted(READ | KNOWN))
async def test_a_write_that_takes_effect_only_after_it_was_read_back_is_not_doubled(
    emulator: Any, http: Http, kind: Kind
) -> None:
    """The first answer is lost and the read back comes too early: the second write finds it so."""
    end = await right_end(emulator, kind)
    operation = OPERATIONS[kind]
    there = operation.target if kind is Kind.MEMBERSHIP_REMOVE else operation.name
    early: dict[str, Any] = {"kind": "status", "method": "GET", "nth": 1, "status": 404}
    early["body"] = '{"reason":"USER_NOT_FOUND"}'
    if kind in REMOVALS:
        early.update(status=200, body=f'{{"name":"{there}"}}')
    emulator.faults([{"kind": "committed-reset", "method": WRITES[kind].method, "nth": 1}, early])
    assert (await Crowd(http).write(OPERATIONS[kind])).state == "already"
    assert content(emulator) == end
    assert sent(http) == (2, 2 if kind in READ else 1)


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_crowd_that_always_fails_is_left_for_later(emulator: Any, http: Http, kind: Kind) -> None:
    before = content(emulator)
    emulator.faults([{"kind": "status", "status": 500, "method": WRITES[kind].method}])
    with pytest.raises(RetryableError):
        await Crowd(http).write(OPERATIONS[kind])
    assert content(emulator) == before
    assert sent(http) == (3, 3)


async def test_a_crowd_that_never_has_time_is_left_for_later_without_a_read(emulator: Any, http: Http) -> None:
    emulator.faults([{"kind": "status", "status": 429, "retry_after": "0", "method": "POST"}])
    with pytest.raises(RetryableError):
        await Crowd(http).write(OPERATIONS[Kind.MEMBERSHIP_ADD])
    assert sent(http) == (3, 0)


@pytest.mark.parametrize("kind", sorted(KNOWN | READ))
async def test_already_so(emulator: Any, http: Http, kind: Kind) -> None:
    crowd = Crowd(http)
    await crowd.write(OPERATIONS[kind])
    end = content(emulator)
    again = await crowd.write(OPERATIONS[kind], attempted=True)
    assert again.state == "already"
    assert content(emulator) == end
    assert sent(http) == (2, 1 if kind in READ else 0)


@pytest.mark.parametrize("kind", sorted(set(Kind) - KNOWN - READ))
async def test_the_other_kinds_do_no_harm_twice(emulator: Any, http: Http, kind: Kind) -> None:
    crowd = Crowd(http)
    await crowd.write(OPERATIONS[kind])
    end = content(emulator)
    await crowd.write(OPERATIONS[kind])
    assert content(emulator) == end
    assert sent(http) == (2, 0)


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        (Kind.USER_DELETE, "gone", ""),
        (Kind.GROUP_DELETE, "gone", ""),
        (Kind.MEMBERSHIP_REMOVE, "gone", "staff"),
        (Kind.MEMBERSHIP_REMOVE, "jo", "gone"),
        (Kind.MEMBERSHIP_REMOVE, "off", "staff"),
        (Kind.NESTING_REMOVE, "gone", "staff"),
        (Kind.NESTING_REMOVE, "lab", "gone"),
        (Kind.NESTING_REMOVE, "crew", "staff"),
    ],
)
async def test_taking_away_what_is_not_there_is_already_so(
    emulator: Any, http: Http, kind: Kind, name: str, target: str
) -> None:
    assert (await Crowd(http).write(Operation(1, kind, name, target))).state == "already"
    assert sent(http) == (1, 0)


@pytest.mark.parametrize("attempted", [False, True])
@pytest.mark.parametrize(
    "operation",
    [
        Operation(1, Kind.USER_CREATE, "OFF", "", {**WHOLE, "active": True, "attributes": OURS}),
        Operation(2, Kind.USER_CREATE, "bad ", "", {**WHOLE, "active": True, "attributes": OURS}),
        Operation(3, Kind.USER_RENAME, "jo", "off", {"attributes": OURS}),
        Operation(4, Kind.USER_RENAME, "gone", "nobody", {"attributes": OURS}),
        Operation(5, Kind.USER_UPDATE, "gone", "", {**WHOLE, "active": True}),
        Operation(6, Kind.USER_DEACTIVATE, "gone", "", {**WHOLE, "active": False}),
        Operation(7, Kind.USER_ATTRIBUTES, "gone", "", {"attributes": OURS}),
        Operation(8, Kind.GROUP_UPDATE, "gone", "", {"description": "x"}),
        Operation(9, Kind.MEMBERSHIP_ADD, "gone", "staff"),
        Operation(10, Kind.MEMBERSHIP_ADD, "jo", "gone"),
        Operation(11, Kind.NESTING_ADD, "staff", "lab"),  # in a circle
        Operation(12, Kind.NESTING_ADD, "gone", "staff"),
    ],
    ids=lambda operation: f"{operation.kind}-{operation.seq}",
)
async def test_what_cannot_hold_fails_alone(emulator: Any, http: Http, operation: Operation, attempted: bool) -> None:
    before = content(emulator)
    with pytest.raises(RecordError) as caught:
        await Crowd(http).write(operation, attempted=attempted)
    assert caught.value.reason
    assert content(emulator) == before
    assert sent(http)[0] == 1


async def test_a_group_that_was_there_before_is_ours_only_by_its_id_or_an_earlier_try(
    emulator: Any, http: Http
) -> None:
    operation = Operation(1, Kind.GROUP_CREATE, "Staff", "", {"description": "", "attributes": OURS})
    crowd = Crowd(http)
    with pytest.raises(RecordError, match="does not own"):
        await crowd.write(operation)
    assert (await crowd.write(operation, attempted=True)).state == "already"
    await crowd.write(Operation(2, Kind.GROUP_ATTRIBUTES, "staff", "", {"attributes": OURS}))
    assert (await crowd.write(operation)).state == "already"


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_missing_permission_stops_the_run_and_is_named(process: Any, http: Http, kind: Kind) -> None:
    setting = {"directories": [{"name": "directory"}]}
    everything = [{"name": "crowdsync", "password": "secret"}]
    nothing = [{**everything[0], "directories": [{"name": "directory", "permissions": []}]}]
    try:
        process.configure(**setting, applications=nothing)
        process.load(**base())
        before = content(process)
        with pytest.raises(ForbiddenError, match=WRITES[kind].permission):
            await Crowd(http).write(OPERATIONS[kind])
        assert content(process) == before
        assert sent(http) == (1, 0)
    finally:
        process.configure(**setting, applications=everything)


NAMES = [
    "a b",
    "a&b=c",
    "a+b",
    "100%",
    "%41",
    "a#b",
    "a/b",
    "../x",
    "a?b",
    "a\"b'c",
    "<a>&amp;",
    "]]>",
    "O'Neill",
    "zoë",
    "ＷＩＤＥ",
    "ΣΑΣ",
    "日本",
    "😀",
    "back\\slash",
    "semi;colon,",
    "x" * 255,
]


async def test_every_name_makes_the_whole_way(emulator: Any, http: Http) -> None:
    crowd = Crowd(http)
    for name in NAMES:
        record = {**WHOLE, "last_name": name, "active": True, "attributes": {ID_ATTRIBUTE: [name]}}
        for operation in (
            Operation(1, Kind.USER_CREATE, name, "", record),
            Operation(2, Kind.GROUP_CREATE, name, "", {"description": name}),
            Operation(3, Kind.GROUP_ATTRIBUTES, name, "", {"attributes": {name: [name]}}),
            Operation(4, Kind.MEMBERSHIP_ADD, name, name),
            Operation(5, Kind.NESTING_ADD, name, "crew"),
            Operation(6, Kind.USER_UPDATE, name, "", {**record, "first_name": name}),
        ):
            assert await crowd.write(operation) == Outcome("done")
            assert await crowd.holds(operation)
    users = {row[1]: row async for page in crowd.users(Scope()) for row in page.rows}
    groups = {row[1]: row async for page in crowd.groups(Scope(frozenset(NAMES))) for row in page.rows}
    members = {row async for page in as_pairs(crowd.memberships()) for row in page.rows}
    for name in NAMES:
        assert users[name][3] == users[name][4] == name
        assert groups[name][2] == name
        assert (name.lower(), name.lower(), "user") in members
        assert ("crew", name.lower(), "group") in members
        person = await crowd.user(name, Scope())
        assert person is not None
        assert person.user == users[name]
    for name in NAMES:
        new = f"{name[:200]} {name[:20]} new"
        for operation in (
            Operation(1, Kind.USER_RENAME, name, new, {"attributes": {ID_ATTRIBUTE: [name]}}),
            Operation(2, Kind.MEMBERSHIP_REMOVE, new, name),
            Operation(3, Kind.NESTING_REMOVE, name, "crew"),
            Operation(4, Kind.USER_DELETE, new),
            Operation(5, Kind.GROUP_DELETE, name),
        ):
            assert await crowd.write(operation) == Outcome("done")
            assert await crowd.holds(operation)
    process_base = base()
    assert len(emulator.state()["users"]) == len(process_base["users"])
    assert len(emulator.state()["groups"]) == len(process_base["groups"])
