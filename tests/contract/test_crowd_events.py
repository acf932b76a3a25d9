"""Crowd's events as hints (`Crowd.changes`): against the emulator in its own process, and against canned answers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from connectors.contract import DirectoryChanges, Hint, Scope
from connectors.crowd import MAX_ANSWERS, ROOT, Crowd
from connectors.crowd_events import MAX_BYTES, MAX_EVENTS
from connectors.errors import AuthenticationError, ForbiddenError, RetryableError, StaleCursorError
from connectors.http import Http
from connectors.model import crowd_id
from deployments.sandbox.crowd import RunningCrowd, running
from tests.support.crowd_bodies import attributes, group_body, named, new_user, user_body
from tests.support.long import long_after
from tests.support.pages import as_pairs

NAMES: Final = ("ann", "Bob", "Jörg & Söhne", "a+b/c?d", "İstanbul", '<x y="1">', "x;y", "😀", "%41", "ann b")
SCOPE: Final = Scope(frozenset({"team"}))
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "as documented": {},
    "no replay": {"replay": 0},
    "moving tokens": {"moving": True},
    "short answers": {"most": 2},
    "short answers, no replay": {"most": 3, "replay": 0},
}
Series = dict[str, Any]


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningCrowd]:
    with running() as process:
        yield process


@pytest.fixture
async def http(emulator: RunningCrowd) -> AsyncIterator[Http]:
    emulator.faults([])
    async with Http(emulator.url, name="crowd", basic=("crowdsync", "secret"), timeout=5, attempts=1) as one:
        yield one


def configure(emulator: RunningCrowd, directories: int = 1, events: bool = True, **settings: Any) -> None:
    emulator.configure(
        directories=[{"name": f"d{number}", "events": events} for number in range(directories)],
        applications=[{"name": "crowdsync", "password": "secret"}],
        events=settings,
    )


async def token_of(crowd: Crowd) -> str:
    token = await crowd.token()
    assert token is not None
    return token


# --- whoever differs is named ----------------------------------------------------------------------


@dataclass
class Read:
    """A full read: rows by (kind, id), and direct memberships as pairs of such keys."""

    rows: dict[Hint, Any] = field(default_factory=dict)
    memberships: set[tuple[Hint, Hint]] = field(default_factory=set)


async def whole(crowd: Crowd) -> Read:
    read = Read()
    async for page in crowd.users(SCOPE):
        read.rows.update((Hint("user", row[0]), row) for row in page.rows)
    async for groups in crowd.groups(SCOPE):
        read.rows.update((Hint("group", row[0]), row) for row in groups.rows)
    async for members in as_pairs(crowd.memberships()):
        read.memberships.update((Hint("group", group), Hint(kind, member)) for group, member, kind in members.rows)
    return read


@dataclass
class Changer:
    """Random writes over REST. `alone`: who was deleted or renamed, and so is told of without its memberships."""

    http: Http
    dice: random.Random
    alone: set[Hint] = field(default_factory=set)
    touched: set[Hint] = field(default_factory=set)

    def name(self, kind: str) -> str:
        name = self.dice.choice(NAMES)
        name = self.dice.choice((name, name, name.upper()))
        self.touched.add(Hint(kind, crowd_id(name)))
        return name

    async def send(self, method: str, path: str, body: Any = None, **params: str) -> int:
        parameters = {key.replace("_", "-"): value for key, value in params.items()}
        return (await self.http.call(method, ROOT + path, params=parameters, json=body)).status

    async def change(self) -> None:
        user, group, other, text = self.name("user"), self.name("group"), self.name("group"), str(self.dice.random())
        kind = self.dice.choice(KINDS)
        if kind == "create user":
            await self.send("POST", "/user", new_user(user, attributes=attributes("team", text)))
        elif kind == "update user":
            active = self.dice.random() < 0.5
            await self.send("PUT", "/user", user_body(user, email=text, active=active), username=user)
        elif kind == "rename":
            new = self.name("user")
            if await self.send("POST", "/user/rename", {"new-name": new}, username=user) < 300:
                self.alone |= {Hint("user", crowd_id(user)), Hint("user", crowd_id(new))}
        elif kind == "delete user":
            if await self.send("DELETE", "/user", username=user) < 300:
                self.alone.add(Hint("user", crowd_id(user)))
        elif kind == "attributes":
            values = [text] if self.dice.random() < 0.7 else []
            path, params = self.dice.choice((("/user", {"username": user}), ("/group", {"groupname": group})))
            await self.send("POST", f"{path}/attribute", attributes("team", *values), **params)
        elif kind == "drop attribute":
            path, params = self.dice.choice((("/user", {"username": user}), ("/group", {"groupname": group})))
            await self.send("DELETE", f"{path}/attribute", attributename="team", **params)
        elif kind == "create group":
            await self.send("POST", "/group", group_body(group, description=text))
        elif kind == "update group":
            await self.send("PUT", "/group", group_body(group, description=text), groupname=group)
        elif kind == "delete group":
            if await self.send("DELETE", "/group", groupname=group) < 300:
                self.alone.add(Hint("group", crowd_id(group)))
        elif kind == "join":
            await self.send("POST", "/user/group/direct", named(group), username=user)
        elif kind == "let in":
            await self.send("POST", "/group/user/direct", named(user), groupname=group)
        elif kind == "leave":
            await self.send("DELETE", "/user/group/direct", username=user, groupname=group)
        elif kind == "put out":
            await self.send("DELETE", "/group/user/direct", username=user, groupname=group)
        elif kind == "nest":
            await self.send("POST", "/group/child-group/direct", named(other), groupname=group)
        elif kind == "nest below":
            await self.send("POST", "/group/parent-group/direct", named(other), groupname=group)
        else:
            await self.send("DELETE", "/group/child-group/direct", groupname=group, child_groupname=other)


KINDS: Final = (
    *("create user",) * 3, "update user", "rename", "delete user", "attributes", "drop attribute",
    *("create group",) * 3, "update group", "delete group", *("join", "let in") * 3, "leave", "put out",
    *("nest",) * 3, "nest below", "unnest", "unnest",
)  # fmt: skip


def unnamed(before: Read, after: Read, hints: set[Hint], alone: set[Hint]) -> list[Any]:
    """What differs between two reads and is not covered by the hints, as `DirectoryChanges` promises it."""
    missing: list[Any] = [
        one for one in before.rows.keys() | after.rows.keys()
        if before.rows.get(one) != after.rows.get(one) and one not in hints
    ]  # fmt: skip
    for pair in before.memberships ^ after.memberships:
        needed = [one for one in pair if one.kind == "user"] or pair
        if not hints.issuperset(needed) and not hints.intersection(alone).intersection(pair):
            missing.append(pair)
    return missing


async def caught_up(crowd: Crowd, token: str, moving: bool) -> tuple[set[Hint], str]:
    """The hints of as many calls as it takes until nothing is held back any more."""
    hints: set[Hint] = set()
    for _ in range(40):
        found = await crowd.changes(token)
        assert list(found.hints) == sorted(set(found.hints), key=lambda hint: (hint.kind, hint.key))
        hints.update(found.hints)
        token = found.token
        if moving or token == await crowd.token():
            return hints, token
    raise AssertionError("it comes to no end")


@pytest.mark.parametrize(
    ("setting", "directories"), [(one, 1) for one in SETTINGS] + [("as documented", 2), ("no replay", 2)]
)
@pytest.mark.parametrize("seed", long_after(1, range(3)))
async def test_whoever_differs_is_named(
    emulator: RunningCrowd, http: Http, setting: str, directories: int, seed: int
) -> None:
    """32 series of up to twelve changes each; the read after one is the read before the next."""
    configure(emulator, directories, **SETTINGS[setting])
    for number in range(directories):  # the second one is masked by the first, where it has the same names
        emulator.load(
            users=[[name, "", "", "", "", True] for name in NAMES[number : number + 5]],
            groups=[[name] for name in NAMES[number : number + 5]],
            memberships=[[name, name] for name in NAMES[number : number + 3]],
            directory=f"d{number}",
        )
    crowd, dice = Crowd(http), random.Random(f"{setting} {directories} {seed}")
    moving = SETTINGS[setting].get("moving", False)
    token, before = await token_of(crowd), await whole(crowd)
    records = memberships = 0
    for _ in range(32):
        changer = Changer(http, dice)
        for _ in range(dice.randint(0, 12)):
            await changer.change()
        hints, following = await caught_up(crowd, token, moving)
        after = await whole(crowd)
        assert unnamed(before, after, hints, changer.alone) == []
        if SETTINGS[setting].get("replay") == 0:
            assert hints <= changer.touched  # news of this series alone
        again, _ = await caught_up(crowd, token, moving)
        assert again == hints  # the same token once more: the same
        records += before.rows != after.rows
        memberships += before.memberships != after.memberships
        token, before = following, after
    assert records > 10
    assert memberships > 8


async def test_a_replay_is_harmless_and_names_only_whom_it_named_before(emulator: RunningCrowd, http: Http) -> None:
    configure(emulator)
    crowd, changer = Crowd(http), Changer(http, random.Random(1))
    token = await token_of(crowd)
    for _ in range(60):
        await changer.change()
    first = await crowd.changes(token)
    assert set(first.hints) <= changer.touched
    second = await crowd.changes(first.token)
    assert (set(second.hints), second.token) == (set(first.hints), first.token)  # the last minutes once more
    configure(emulator, replay=0)
    token = await token_of(crowd)
    assert await crowd.changes(token) == DirectoryChanges(token, [])
    await changer.send("POST", "/group", group_body("g"))
    token = await token_of(crowd)
    emulator.faults([{"kind": "replayed-events"}])
    assert (await crowd.changes(token)).hints == [Hint("group", "g")]


async def test_the_token_goes_on_though_nothing_happens(emulator: RunningCrowd, http: Http) -> None:
    """Else it would be too old after a time without news."""
    configure(emulator, moving=True, replay=0)
    token = await token_of(Crowd(http))
    found = await Crowd(http).changes(token)
    assert not found.hints
    assert found.token != token


# --- every doubt is told, and why ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"kind": "expired-token"}], "does not know this token, or not any more"),
        ([{"kind": "alias-event"}], "does not know this token, or not any more"),
        ([{"kind": "endless-events"}], f"{MAX_ANSWERS} users and groups changed, and more come"),
        ([{"kind": "foreign-token"}], "does not know this token"),
        ([{"kind": "html"}], "XML ends or breaks"),
        ([{"kind": "empty"}], "XML ends or breaks"),
        ([{"kind": "truncated"}], "not whole, or too large"),
        ([{"kind": "truncated", "fraction": 0.99}], "not whole, or too large"),
        *[
            ([{"kind": "truncated-document", "fraction": part / 10}], "XML ends or breaks|page|list of events")
            for part in range(10)
        ],
        ([{"kind": "truncated-document", "fraction": 0.999}], "XML ends or breaks"),
        ([{"kind": "404"}], "answered 404"),
        ([{"kind": "400"}], "answered 400"),
    ],
)
async def test_a_doubt_is_told_with_its_reason(
    emulator: RunningCrowd, http: Http, rules: list[dict[str, Any]], words: str
) -> None:
    configure(emulator, replay=0, most=2)
    crowd = Crowd(http)
    token = await token_of(crowd)
    for number in range(5):
        await http.call("POST", f"{ROOT}/group", json=group_body(f"g{number}"))
    emulator.faults(rules)
    with pytest.raises(StaleCursorError, match=words) as caught:
        await crowd.changes(token)
    assert "A full read is due." in str(caught.value)
    emulator.faults([])
    if rules[0]["kind"] != "alias-event":  # nothing was lost by it
        assert [hint.key for hint in (await crowd.changes(token)).hints] == [f"g{number}" for number in range(5)]


async def test_a_token_of_another_server_or_configuration_is_not_known(emulator: RunningCrowd, http: Http) -> None:
    configure(emulator, replay=0)
    crowd = Crowd(http)
    before = await token_of(crowd)
    emulator.faults([{"kind": "foreign-token"}])
    foreign = await token_of(crowd)
    emulator.faults([])
    emulator.interrupt("crowdsync")
    interrupted = await token_of(crowd)
    assert (await crowd.changes(interrupted)).hints == []
    emulator.load(users=[["ann", "", "", "", "", True]])
    for token in (before, foreign, interrupted, "8047511070899496297:12"):
        with pytest.raises(StaleCursorError, match="does not know this token"):
            await crowd.changes(token)
    configure(emulator, events=False)
    assert await crowd.token() is None
    with pytest.raises(StaleCursorError, match="offers no events of this directory"):
        await crowd.changes(before)


@pytest.mark.parametrize("token", ["", " ", "a b", "ä", "..", ".", "x" * 501, "a\n", "\ud800"])
async def test_what_is_no_token_is_not_sent(emulator: RunningCrowd, http: Http, token: str) -> None:
    emulator.reset_counts()
    with pytest.raises(StaleCursorError, match="no token of Crowd's"):
        await Crowd(http).changes(token)
    assert emulator.counts()["requests"] == {}


@pytest.mark.parametrize("token", ["a/b", "../x", "%2e%2e", "?x=1", "#", "x;y", "\\"])
async def test_a_token_stays_one_part_of_the_address(token: str) -> None:
    asked: list[httpx.Request] = []
    with pytest.raises(StaleCursorError, match="answered 404"):
        await crowd_that(b"", 404, asked=asked).changes(token)
    path = asked[0].url.raw_path.decode().removeprefix(f"/crowd{ROOT}/event/")
    assert path
    assert not {"/", "?", "#", "\\"}.intersection(path)


async def test_that_crowd_is_away_or_refuses_us_is_no_matter_of_tokens(emulator: RunningCrowd, http: Http) -> None:
    configure(emulator)
    crowd = Crowd(http)
    token = await token_of(crowd)
    for kind, error in (("500", RetryableError), ("503", RetryableError), ("429", RetryableError),
                        ("reset", RetryableError), ("403", ForbiddenError), ("401", AuthenticationError)):  # fmt: skip
        emulator.faults([{"kind": kind}])
        with pytest.raises(error) as caught:
            await crowd.changes(token)
        assert not isinstance(caught.value, StaleCursorError)


# --- canned answers --------------------------------------------------------------------------------

XML: Final = {"X-Embedded-Crowd-Version": "Crowd/7.1.2", "Content-Type": "application/xml"}
HEAD: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
OPEN: Final = '<events newEventToken="12:3" incrementalSynchronisationAvailable="true">'
USER: Final = '<userEvent><operation>UPDATED</operation><user name="Ann"/></userEvent>'


def crowd_that(body: bytes, status: int = 200, asked: list[httpx.Request] | None = None) -> Crowd:
    def handle(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(request)
        return httpx.Response(status, content=body, headers=XML)

    transport = httpx.MockTransport(handle)
    return Crowd(Http("http://crowd.test/crowd", name="crowd", transport=transport, attempts=1, max_bytes=12 * 2**20))


def events(*inner: str) -> bytes:
    return f"{HEAD}{OPEN}{''.join(inner)}</events>".encode()


async def test_every_event_names_all_whom_it_is_about() -> None:
    body = events(
        "<!-- a comment -->\n",
        '<groupMembershipEvent operation="CREATED"><group name="Low"/><parentGroups><group name="High"/>'
        '</parentGroups><childGroups><group name="Lower"/></childGroups></groupMembershipEvent>',
        USER,
        '<userEvent><operation>UPDATED</operation><user name="Bö&amp;b"><attributes><attribute name="x"/></attributes>'
        '</user><storedAttributes><attribute name="team"><values><value>v</value></values></attribute>'
        "</storedAttributes><deletedAttributes><attribute>phone</attribute></deletedAttributes></userEvent>",
        '<groupEvent><group name="STAFF"><type>GROUP</type></group><operation>NEW KIND</operation></groupEvent>',
        '<userMembershipEvent absolute="false"><childUser name="Cid"/><parentGroups><group name="a"/>'
        '<group name="b"/></parentGroups><absolute>false</absolute></userMembershipEvent>',
    )
    found = await crowd_that(body).changes("12:3")
    assert found.token == "12:3"
    assert [(hint.kind, hint.key) for hint in found.hints] == [
        *(("group", name) for name in ("high", "low", "lower", "staff")),
        *(("user", name) for name in ("ann", "bö&b", "cid")),
    ]


CALLED: Final = '<!DOCTYPE events [<!ENTITY a "Ann">]>'
HOSTILE: Final[dict[str, tuple[bytes, str]]] = {
    "document type": (f"{HEAD}{CALLED}{OPEN}{USER}</events>".encode(), "declares a document type"),
    "document type in UTF-16": (f"{CALLED}{OPEN}{USER}</events>".encode("utf-16"), "XML ends or breaks"),
    "other encoding": (
        f"{HEAD.replace('UTF-8', 'UTF-7')}{OPEN}{USER}</events>".encode(), "not in UTF-8"
    ),
    "unknown entity": (events('<userEvent><user name="&a;"/></userEvent>'), "XML ends or breaks"),
    "10 MB": (events(USER * (10 * 2**20 // len(USER))), f"more than {MAX_BYTES}"),
    "13 MB": (events(USER * (13 * 2**20 // len(USER))), "not whole, or too large"),
    "deep": (events("<userEvent>" * 100_000), "XML ends or breaks"),
    "too many": (events(USER * (MAX_EVENTS + 1)), f"{MAX_EVENTS + 1} events are more than {MAX_EVENTS}"),
    "a doubled name": (events('<userEvent><user name="a" name="b"/></userEvent>'), "XML ends or breaks"),
    "a doubled token": (events().replace(b" inc", b' newEventToken="9" inc'), "XML ends or breaks"),
    "two documents": (events(USER) + events(), "XML ends or breaks"),
    "JSON": (b'{"newEventToken":"12:3","incrementalSynchronisationAvailable":true}', "XML ends or breaks"),
    "another root": (b"<users/>", "not a list of events"),
    "a namespace": (events().replace(b"<events", b'<events xmlns="urn:x"'), "not a list of events"),
    "no flag": (b'<events newEventToken="12:3"/>', "does not say that its events can be relied on"),
    "flag false": (events(USER).replace(b'"true"', b'"false"'), "does not say that its events can be relied on"),
    "no token": (events(USER).replace(b'newEventToken="12:3"', b""), "no token for the next call"),
    "blank token": (events(USER).replace(b"12:3", b"1 2"), "no token for the next call"),
    "unknown event": (events(USER, '<aliasEvent><user name="a"/></aliasEvent>'), "<aliasEvent> is no event"),
    "an event that names nobody": (events("<userEvent/>"), "does not name everybody"),
    "a group where a user is due": (events('<userEvent><group name="g"/></userEvent>'), "does not name everybody"),
    "an empty name": (events('<userEvent><user name=""/></userEvent>'), "has no name"),
    "a blank name": (events('<groupEvent><group name=" "/></groupEvent>'), "has no name"),
    "a name that is no attribute": (events("<userEvent><user><name>a</name></user></userEvent>"), "has no name"),
    "a name that is not text": (events('<userEvent><user name="&#0;"/></userEvent>'), "XML ends or breaks"),
    "a name in half a character": (events('<userEvent><user name="?"/></userEvent>').replace(b"?", b"\xff"), "breaks"),
    "a part that is not known": (
        events('<userEvent><user name="new"/><oldName>old</oldName></userEvent>'), "<oldName> in a <userEvent>"
    ),
    "an attribute that is not known": (
        events('<userEvent was="old"><user name="new"/></userEvent>'), "attribute of <userEvent> is not known"
    ),
    "a membership of nobody": (
        events('<userMembershipEvent><parentGroups><group name="g"/></parentGroups></userMembershipEvent>'),
        "does not name everybody",
    ),
    "a membership in nothing": (
        events('<userMembershipEvent><childUser name="a"/><parentGroups/></userMembershipEvent>'),
        "does not name everybody",
    ),
    "a group without a name beside one with": (
        events('<userMembershipEvent><childUser name="a"/><parentGroups><group name="g"/><group/></parentGroups>'
               "</userMembershipEvent>"),
        "a <group> of an event has no name",
    ),
    "a list of something else": (
        events('<userMembershipEvent><childUser name="a"/><parentGroups><group name="g"/><parent name="h"/>'
               "</parentGroups></userMembershipEvent>"),
        "<parentGroups> of a <userMembershipEvent> is not a list of groups",
    ),
    "a list that is text": (
        events('<userMembershipEvent><childUser name="a"/><group name="g"/><parentGroups>h</parentGroups>'
               "</userMembershipEvent>"),
        "is not a list of groups",
    ),
    "a nesting of one": (
        events('<groupMembershipEvent><group name="g"/></groupMembershipEvent>'), "does not name everybody"
    ),
    "all groups of a user": (
        events('<userMembershipEvent absolute="true"><childUser name="a"/><parentGroups><group name="g"/>'
               "</parentGroups></userMembershipEvent>"),
        "does not name those that it left",
    ),
    "all groups of a user, as an element": (
        events('<userMembershipEvent><absolute>true</absolute><childUser name="a"/><parentGroups><group name="g"/>'
               "</parentGroups></userMembershipEvent>"),
        "does not name those that it left",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_answer_is_refused(what: str) -> None:
    body, words = HOSTILE[what]
    with pytest.raises(StaleCursorError, match=words) as caught:
        await crowd_that(body).changes("12:2")
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 400


REASONS: Final[list[Callable[[str], bytes]]] = [
    lambda reason: f"{HEAD}<error><reason>{reason}</reason><message>m</message></error>".encode(),
    lambda reason: f'{{"reason":"{reason}","message":"m"}}'.encode(),
]


@pytest.mark.parametrize("body", REASONS, ids=["XML", "JSON"])
@pytest.mark.parametrize("status", [400, 403, 404, 410, 500])
@pytest.mark.parametrize(
    ("reason", "words"),
    [("EVENT_TOKEN_EXPIRED", "does not know this token"), ("INCREMENTAL_SYNC_NOT_AVAILABLE", "offers no events")],
)
async def test_the_reason_decides_and_not_the_status(
    body: Callable[[str], bytes], status: int, reason: str, words: str
) -> None:
    with pytest.raises(StaleCursorError, match=words):
        await crowd_that(body(reason), status).changes("12:2")


async def test_a_token_that_stays_ends_the_call() -> None:
    asked: list[httpx.Request] = []
    found = await crowd_that(events(USER), asked=asked).changes("12:3")
    assert (found.hints, len(asked)) == ([Hint("user", "ann")], 1)
    assert asked[0].headers["accept"] == "application/xml"


async def test_hints_of_several_answers_are_counted_together() -> None:
    answers = [
        events(*(USER.replace("Ann", f"u{first + number}") for number in range(2000))).replace(b"12:3", b"%d" % first)
        for first in (0, 2000, 4000)
    ]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=answers.pop(0), headers=XML))
    crowd = Crowd(Http("http://crowd.test/crowd", name="crowd", transport=transport, attempts=1))
    with pytest.raises(StaleCursorError, match="6000 users and groups changed"):
        await crowd.changes("12:2")
