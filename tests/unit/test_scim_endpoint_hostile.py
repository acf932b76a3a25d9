"""The SCIM endpoint under requests that nobody should send: never a 500, nothing kept that cannot be, one and the same
401."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from connectors.errors import RefusedError, RetryableError
from connectors.store import Store
from deployments import grouped
from deployments.scim import dialects
from tests.support.scim_push import BULK, ENTERPRISE, GROUP, PATCH, USER, Client, client, endpoint

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
async def idp(store: Store) -> AsyncIterator[Client]:
    async with client(store) as opened:
        yield opened


async def raw(app: Any, path: str, **more: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request past any client, which would not let it out."""
    sent: list[Any] = []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "root_path": "", **more}

    async def receive() -> Any:
        return {"type": "http.request", "body": more.get("body", b""), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


# Who may come in


async def test_everybody_else_gets_one_and_the_same_401(store: Store) -> None:
    now = datetime.now(UTC)
    app = endpoint(store)
    _, good = store.make_token("acme", days=1, now=now)
    _, other = store.make_token("other", days=1, now=now)
    _, over = store.make_token("acme", days=1, now=now - timedelta(days=2))
    revoked, dead = store.make_token("acme", days=1, now=now)
    store.revoke_token(revoked.id, now)
    path = "/scim/acme/v2/Users"
    assert (await raw(app, path, headers=[(b"authorization", b"Bearer " + good.encode())]))[0] == 200
    assert (await raw(app, path, headers=[(b"Authorization", b"bearer  " + good.encode())]))[0] == 200
    bearer = b"Bearer " + good.encode()
    answers = {
        str(await raw(app, one, method=method, headers=headers))
        for method in ("GET", "POST", "DELETE", "BREW")
        for one, headers in (
            (path, []),
            (path, [(b"authorization", b"Bearer " + other.encode())]),
            (path, [(b"authorization", b"Bearer " + over.encode())]),
            (path, [(b"authorization", b"Bearer " + dead.encode())]),
            (path, [(b"authorization", b"Bearer nonsense")]),
            (path, [(b"authorization", b"Bearer " + good.encode() + b"x")]),
            (path, [(b"authorization", b"Bearer " + good[:-1].encode())]),
            (path, [(b"authorization", b"Basic " + good.encode())]),
            (path, [(b"authorization", b"Bearer \xff\x00")]),
            (path, [(b"authorization", b"Bearer " + b"x" * 10_000)]),
            (path, [(b"authorization", bearer), (b"authorization", bearer)]),
            ("/scim/nobody/v2/Users", [(b"authorization", bearer)]),
            ("/scim/other/v2/Users", [(b"authorization", bearer)]),
            ("/scim/acme/v2x/Users", [(b"authorization", bearer)]),
            ("/scim/acme/v2/ServiceProviderConfig", []),
            ("/scim//v2/Users", []),
            ("/\ud800", []),
        )
    }
    assert len(answers) == 1
    assert "401" in answers.pop()


async def test_a_token_lives_until_it_is_revoked(store: Store) -> None:
    """Two at once, so that one can follow the other; the day of its last use is kept."""
    now = datetime.now(UTC)
    app = endpoint(store)
    (first, one), (second, two) = (store.make_token("acme", days=9, now=now) for _ in range(2))
    for text in (one, two):
        assert (await raw(app, "/scim/acme/v2/Users", headers=[(b"authorization", b"Bearer " + text.encode())]))[
            0
        ] == 200
    assert {token.used_on for token in store.tokens()} == {datetime.now(UTC).date()}
    store.revoke_token(first.id, now)
    for text, status in ((one, 401), (two, 200)):
        found = await raw(app, "/scim/acme/v2/Users", headers=[(b"authorization", b"Bearer " + text.encode())])
        assert found[0] == status
    assert [(token.id, token.revoked_at is None) for token in store.tokens() if token.id == second.id] == [
        (second.id, True)
    ]


async def test_a_source_sees_its_own_records_alone(store: Store) -> None:
    async with client(store) as acme, client(store, "other") as other:
        ann = await acme.user("ann")
        team = await acme.group("T", ann)
        assert (await other.get("/Users"))["totalResults"] == 0
        for method, path in (("GET", f"/Users/{ann}"), ("DELETE", f"/Users/{ann}"), ("GET", f"/Groups/{team}")):
            assert (await other.call(method, path)).status_code == 404
        operation = {"op": "remove", "path": "members"}
        assert (await other.patch(f"/Groups/{team}", operation)).status_code == 404
        assert await other.user("ann") != ann, "the same name, somebody else"
        assert await acme.members(team) == {ann}


# What comes in


BODIES: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"x"',
    b"{",
    b"{}",
    b"\xff\xfe{\x00}\x00",
    b'{"userName":"\xff"}',
    b'{"userName":"a\\ud800"}',
    b'{"userName":"a\\u0000b"}',
    b'{"userName":"a\x00b"}',
    b'{"userName":"\\u0001"}',
    b'{"userName":"a\\uffff"}',
    b'{"userName":7}',
    b'{"userName":null}',
    b'{"userName":""}',
    b'{"userName":"   "}',
    b'{"userName":["x"]}',
    b'{"userName":"' + b"x" * 300 + b'"}',
    b'{"userName":"' + "😀".encode() * 130 + b'"}',
    b'{"userName":"x","title":"a\\u0000b"}',
    b'{"userName":"x","emails":[{"value":"\\u0002"}]}',
    b'{"userName":"x","externalId":"a\\u0000"}',
    b'{"userName":"x","title":"' + b"y" * 70_000 + b'"}',
    b'{"userName":"x","active":"perhaps"}',
    b'{"userName":"x","active":{}}',
    b'{"userName":"x","emails":{"value":"y"}}',
    b'{"userName":"x","emails":[[]]}',
    b'{"userName":"x","schemas":"y"}',
    b'{"userName":"x","schemas":["urn:nonsense"]}',
    b'{"userName":"x","meta":7}',
    b'{"userName":"x","name":"y"}',
    b'{"userName":"x","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"userName":"x","n":' + b"9" * 5_000 + b"}",
    b'{"userName":"x","n":1e999}',
    b'{"userName":"x",' + b'"' + ENTERPRISE.encode() + b'":7}',
    b'{"userName":"x",' + b'"' + ENTERPRISE.encode() + b'":{"manager":[7]}}',
]


@pytest.mark.parametrize("number", range(len(BODIES)))
async def test_a_body_that_is_none_is_refused_and_nothing_is_kept(idp: Client, store: Store, number: int) -> None:
    body = BODIES[number]
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    before = (await idp.get("/Users"), await idp.get("/Groups"))
    for method, path in (
        ("POST", "/Users"),
        ("PUT", f"/Users/{ann}"),
        ("POST", "/Groups"),
        ("PUT", f"/Groups/{team}"),
        ("PATCH", f"/Users/{ann}"),
        ("PATCH", f"/Groups/{team}"),
        ("POST", "/Bulk"),
        ("POST", "/Users/.search"),
    ):
        answer = await idp.call(method, path, body)
        kept = method in ("POST", "PUT") and path.startswith("/Users") and answer.status_code in (200, 201)
        if kept or answer.status_code == 200:
            continue  # what is not understood is left out of a record, and of a search
        assert answer.status_code in (400, 409, 413), (method, path, answer.text)
        assert answer.json()["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
        if path.startswith("/Groups"):
            assert await idp.get("/Groups") == before[1]
    with store.mirror("acme") as mirror:
        for row in mirror.some("user", (), 0, 10):
            assert not any(dialects.unholdable(text) for text in (row.name, row.body, row.external_id))
            assert len(row.name) <= 255


OPERATIONS: list[Any] = [
    None,
    7,
    [],
    [None],
    [7],
    [{}],
    [{"op": "replace"}],
    [{"op": 7}],
    [{"op": "nonsense", "path": "title", "value": "x"}],
    [{"op": "remove"}],
    [{"op": "replace", "path": 7, "value": "x"}],
    [{"op": "replace", "path": "x" * 5000, "value": "x"}],
    [{"op": "replace", "path": "(" * 900, "value": "x"}],
    [{"op": "replace", "path": 'emails[type eq "' + "a" * 500 + '"', "value": "x"}],
    [{"op": "replace", "path": "a\u0000b", "value": "x"}],
    [{"op": "replace", "path": "id", "value": "x"}],
    [{"op": "replace", "path": "meta.version", "value": "x"}],
    [{"op": "replace", "path": "userName", "value": None}],
    [{"op": "replace", "path": "userName", "value": "a\u0000b"}],
    [{"op": "replace", "path": "displayName", "value": "a\u0001b"}],
    [{"op": "replace", "path": "displayName", "value": "x" * 300}, {"op": "replace", "value": {"userName": "x" * 300}}],
    [
        {"op": "remove", "path": "userName"},
        {"op": "remove", "path": "displayName"},
        {"op": "remove", "path": "schemas"},
    ],
    [{"op": "replace", "value": {"displayName": {"a": "b"}}}],
    [{"op": "replace", "value": {"x" * 2000: 1}}],
    [{"op": "add", "path": "members[value eq", "value": "x"}],
    [{"op": "add", "path": "emails[type ne 7].value", "value": {"a": []}}],
    [{"op": "add", "path": "title", "value": "x"}] * 2001,
]


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
async def test_a_patch_that_is_none_changes_nothing(idp: Client, number: int) -> None:
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    for path in (f"/Users/{ann}", f"/Groups/{team}"):
        before = await idp.get(path)
        answer = await idp.call("PATCH", path, {"schemas": [PATCH], "Operations": OPERATIONS[number]})
        if answer.status_code in (200, 204):
            assert "displayName" in str(OPERATIONS[number]) or "schemas" in str(OPERATIONS[number]) or path[1] == "G"
            continue
        assert answer.status_code in (400, 413), answer.text
        assert await idp.get(path) == before


async def test_queries_and_paths_that_make_no_sense(store: Store) -> None:
    app = endpoint(store)
    _, token = store.make_token("acme", days=1, now=datetime.now(UTC))
    good = [(b"authorization", b"Bearer " + token.encode())]
    for query in (
        b"filter=\xff",
        b"filter=%ff",
        b"filter=userName+eq+%22a%00b%22",
        b"filter=" + b"(" * 3000,
        b"filter=" + b"+or+".join([b"title+eq+%22x%22"] * 5000),
        b"filter=nonsense+eq+%22x%22",
        b"filter=password+eq+%22x%22",
        b"filter=userName+eq+7",
        b"filter=",
        b"startIndex=x",
        b"count=1.5",
        b"count=99999999999999999999999",
        b"startIndex=99999999999999999999999",
        b"attributes=members%5Bvalue+eq+%22x%22%5D",
        b"attributes=a&excludedAttributes=b",
        b"attributes=\x00",
        b"cursor=x",
        b"&".join(b"a%d=1" % number for number in range(100)),
        b"%",
        b"\x00",
    ):
        for path in ("/scim/acme/v2/Users", "/scim/acme/v2/Groups", "/scim/acme/v2/Groups/x"):
            status, _, body = await raw(app, path, query_string=query, headers=good)
            assert status in (200, 400, 404, 501), (query[:40], status, body)
    for path in (
        "/Users/\x00",
        "/Users/\ud800",
        "/Users/a\r\nSet-Cookie: x",
        "/Users/" + "x" * 9000,
        "/Users/a/b/c",
        "//",
    ):
        status, headers, _ = await raw(app, "/scim/acme/v2" + path, headers=good)
        assert status in (404, 501), path
        assert not any(b"\r" in value or b"\n" in value for value in headers.values())
    status, headers, _ = await raw(
        app, "/scim/acme/v2/Users", headers=[*good, (b"x-\xff", b"\xff\xfe"), (b"host", b"evil.example\xff")]
    )
    assert status == 200


async def test_addresses_are_ours_whatever_the_host_says(idp: Client) -> None:
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    for path in (f"/Users/{ann}", f"/Groups/{team}", "/Users", "/ResourceTypes"):
        found = await idp.call("GET", path, headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
        assert "https://sync.example.org/scim/acme/v2/" in found.text
        assert "evil" not in found.text + str(found.headers)


async def test_large_bodies_are_not_read_to_the_end(store: Store) -> None:
    app = endpoint(store)
    _, token = store.make_token("acme", days=1, now=datetime.now(UTC))
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 2**20
        return {"type": "http.request", "body": b"x" * 2**20, "more_body": True}

    for bearer, path, status, most in (
        (token, "/scim/acme/v2/Users", 413, 9),
        (token, "/scim/acme/v2/Bulk", 413, 2),
        ("nonsense", "/scim/acme/v2/Users", 401, 0),
    ):
        read = 0
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        headers = [(b"authorization", b"Bearer " + bearer.encode())]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        assert sent[0]["status"] == status
        assert read <= most * 2**20


async def test_mutated_requests_are_never_answered_500(idp: Client) -> None:
    """Each is a sound one with something else in some place of it."""
    dice = random.Random(14)
    ann = await idp.user("ann")
    team = await idp.group("T", ann)
    strange: list[Any] = [
        None,
        True,
        7,
        -1,
        1.5,
        "",
        "x",
        "\x00",
        "\ud800",
        "é" * 300,
        [],
        [[]],
        {},
        {"value": 7},
        "members",
        "a.b.c",
    ]
    sound: list[tuple[str, str, Any]] = [
        (
            "POST",
            "/Users",
            {"schemas": [USER], "userName": "u", "emails": [{"value": "a", "type": "work"}], "active": True},
        ),
        (
            "PATCH",
            f"/Users/{ann}",
            {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "title", "value": "x"}]},
        ),
        (
            "PATCH",
            f"/Users/{ann}",
            {"schemas": [PATCH], "Operations": [{"op": "add", "value": {"name.givenName": "x"}}]},
        ),
        ("PUT", f"/Groups/{team}", {"schemas": [GROUP], "displayName": "T", "members": [{"value": ann}]}),
        (
            "PATCH",
            f"/Groups/{team}",
            {"schemas": [PATCH], "Operations": [{"op": "Remove", "path": "members", "value": [{"value": ann}]}]},
        ),
        (
            "POST",
            "/Bulk",
            {
                "schemas": [BULK],
                "failOnErrors": 3,
                "Operations": [
                    {
                        "method": "PATCH",
                        "path": f"/Users/{ann}",
                        "data": {"schemas": [PATCH], "Operations": [{"op": "x"}]},
                    }
                ],
            },
        ),
    ]

    def mutated(value: Any) -> Any:
        if dice.random() < 0.12:
            return dice.choice(strange)
        if isinstance(value, dict):
            return {
                (dice.choice(["", "X", name.upper()]) if dice.random() < 0.05 else name): mutated(one)
                for name, one in value.items()
            }
        return [mutated(one) for one in value] if isinstance(value, list) else value

    statuses: dict[int, int] = {}
    for _ in range(300):
        method, path, body = dice.choice(sound)
        try:
            content = orjson.dumps(mutated(body))
        except (TypeError, ValueError):  # half a character, which orjson does not write
            content = b'{"userName":"\\ud800"}'
        if dice.random() < 0.2:
            at = dice.randrange(len(content) + 1)
            content = content[:at] + bytes([dice.randrange(256)]) + content[at:]
        answer = await idp.call(method, path, content)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, (method, path, content, answer.text)
    assert {200, 400} <= statuses.keys()


# What goes wrong here


async def test_what_cannot_be_kept_now_is_for_later(
    idp: Client, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sender that is told 4xx drops what it sent."""
    ann = await idp.user("ann")
    bulk = {"schemas": [BULK], "Operations": [{"method": "DELETE", "path": f"/Users/{ann}"}]}
    for error in (RetryableError("the disk is full"), RefusedError("damaged"), ValueError("geheim@acme.example")):

        def broken(*_: Any, error: Exception = error) -> Any:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(store, "write_mirror", broken)
            for answer in (
                await idp.call("POST", "/Users", {"schemas": [USER], "userName": "eve"}),
                await idp.call("POST", "/Bulk", bulk),
            ):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) > 0
                assert "geheim" not in answer.text
    assert "geheim" not in caplog.text
    assert (await idp.get("/Users"))["totalResults"] == 1


async def test_when_too_many_wait_the_next_are_told_to_come_again(idp: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "WAITING", 3)
    monkeypatch.setattr(grouped, "AT_ONCE", 1)
    bodies = [{"schemas": [USER], "userName": f"u{number}"} for number in range(30)]
    answers = await asyncio.gather(*(idp.call("POST", "/Users", body) for body in bodies))
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {201, 503}
    assert (await idp.get("/Users"))["totalResults"] == statuses.count(201)


async def test_one_that_fails_takes_nothing_from_the_others_of_its_group(idp: Client, store: Store) -> None:
    names = [f"u{number // 2}" for number in range(40)]
    answers = await asyncio.gather(
        *(idp.call("POST", "/Users", {"schemas": [USER], "userName": name}) for name in names)
    )
    assert sorted(one.status_code for one in answers) == [201] * 20 + [409] * 20
    made = {one.json()["id"] for one in answers if one.status_code == 201}
    assert {one["id"] for one in (await idp.get("/Users"))["Resources"]} == made
    assert set(store.inbox()["key"]) == made
    with store.mirror("acme") as mirror:
        found = mirror.since(0)
    assert len({one.change for one in found.users}) == 20
    assert found.change == max(one.change for one in found.users)


async def test_a_search_that_would_look_at_everybody_is_refused(idp: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployments.scim import resources

    monkeypatch.setattr(resources, "LOOKED_AT", 3)
    for number in range(3):
        await idp.user(f"u{number}")
    assert (await idp.get("/Users", filter='title pr or userName sw "u"'))["totalResults"] == 3
    await idp.user("u3")
    refused = await idp.call("GET", "/Users", params={"filter": 'userName sw "u"'})
    assert (refused.status_code, refused.json()["scimType"]) == (400, "tooMany")
    narrow = 'userName eq "u1" and userName sw "u"'
    assert (await idp.get("/Users", filter=narrow))["totalResults"] == 1


async def test_pages_of_groups_end_before_their_members_are_too_many(
    idp: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.scim import resources

    monkeypatch.setattr(resources, "MEMBERS_A_PAGE", 5)
    people = [await idp.user(f"u{number}") for number in range(7)]
    groups = [await idp.group(f"g{nth}", *people[:size]) for nth, size in enumerate((7, 2, 3, 3))]
    found: list[str] = []
    while len(found) < 4:
        page = await idp.get("/Groups", startIndex=len(found) + 1, count=100)
        assert page["totalResults"] == 4
        found += [one["id"] for one in page["Resources"]]
        assert [len(one["members"]) for one in page["Resources"]] in ([7], [2, 3], [3])
    assert found == groups
    assert len((await idp.get("/Groups", excludedAttributes="members"))["Resources"]) == 4
