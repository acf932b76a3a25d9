"""`Crowd` against canned answers: what it makes of records, XML, errors and limits, without a server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from connectors.contract import Directory, Scope
from connectors.crowd import WRITES, Crowd, _Memberships
from connectors.errors import (
    AmbiguousError,
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RecordError,
    RefusedError,
    RetryableError,
)
from connectors.http import Http
from connectors.model import ID_ATTRIBUTE
from connectors.operations import Kind, Operation
from tests.support.pages import as_pairs

CROWD = {"X-Embedded-Crowd-Version": "Crowd/7.1.2", "Content-Type": "application/json"}
Handler = Callable[[httpx.Request], httpx.Response]


def crowd(handler: Handler, **settings: Any) -> Crowd:
    transport = httpx.MockTransport(handler)
    return Crowd(Http("http://crowd.test/crowd", name="crowd", transport=transport, attempts=1), **settings)


def answer(body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, content=orjson.dumps(body), headers=CROWD)


def refusal(status: int, reason: str) -> httpx.Response:
    return answer({"reason": reason, "message": "as Crowd says it"}, status)


def attributes(**named: list[str]) -> dict[str, Any]:
    return {"attributes": [{"name": key, "values": values} for key, values in named.items()]}


def user(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "active": True, "attributes": {"attributes": []}, **fields}


def listing(records: Sequence[dict[str, Any]], key: str = "users") -> Handler:
    """A Crowd that holds these records and honours start-index and max-results."""

    def handle(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params["start-index"])
        most = int(request.url.params["max-results"])
        return answer({"expand": key, key: records[start : start + most if most > 0 else None]})

    return handle


async def rows_of(pages: Any) -> list[Any]:
    found = [page async for page in pages]
    assert [page.last for page in found] == [False] * (len(found) - 1) + [True]
    return [row for page in found for row in page.rows]


# --- records -----------------------------------------------------------------------------------


def test_crowd_is_a_directory() -> None:
    assert isinstance(crowd(lambda _: answer({})), Directory)


async def test_a_user_becomes_a_row_with_the_attributes_that_were_named() -> None:
    record = user(
        "JDoe",
        email="j@example.org",
        active="false",
        **{"first-name": "J", "display-name": None},
        attributes=attributes(**{ID_ATTRIBUTE: ["okta:1"], "phone": ["1", "2"], "secret": ["x"], "empty": []}),
    )
    (row,) = await rows_of(crowd(listing([record])).users(Scope(frozenset({"phone", "empty"}))))
    expected = '{"crowdsync.id":["okta:1"],"phone":["1","2"]}'
    assert row == ("jdoe", "JDoe", "j@example.org", "J", "", "", False, expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"active": None},
        {"active": 1},
        {"active": []},
        {"active": "yes"},
        {"email": 5},
        {"first-name": {"x": 1}},
        {"attributes": None},
        {"attributes": {}},
        {"attributes": {"attributes": [{"name": ID_ATTRIBUTE, "values": [7]}]}},
        {"attributes": {"attributes": [{"values": ["x"]}]}},
        {"attributes": {"attributes": "x"}},
    ],
)
async def test_a_malformed_user_is_held_and_named_and_the_others_go_on(fields: dict[str, Any]) -> None:
    directory = crowd(listing([user("a"), user("B", **fields), user("c")]), page_size=2)
    pages = [page async for page in directory.users(Scope())]
    assert [row[0] for page in pages for row in page.rows] == ["a", "c"]
    assert [(held.kind, held.id, held.name) for page in pages for held in page.held] == [("user", "b", "B")]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"users": None},
        {"users": {}, "name": "x"},
        {"users": ["a"]},
        {"users": [{"active": True}]},
        {"users": [user("")]},
        {"users": [user("a"), {"name": 5}]},
        {"groups": []},
        {"users": "ab"},
    ],
)
async def test_a_page_that_is_not_a_list_of_named_records_is_refused(body: Any) -> None:
    with pytest.raises(IncompleteError):
        await rows_of(crowd(lambda _: answer(body)).users(Scope()))


async def test_a_name_that_differs_only_in_case_occurs_twice() -> None:
    with pytest.raises(IncompleteError, match="repeats a name"):
        await rows_of(crowd(listing([user("a"), user("b"), user("A")])).users(Scope()))


async def test_a_crowd_that_ignores_max_results_is_refused() -> None:
    everything = answer({"users": [user(str(i)) for i in range(9)]})
    with pytest.raises(IncompleteError):
        await rows_of(crowd(lambda _: everything, page_size=4).users(Scope()))


@pytest.mark.parametrize("readers", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 6, 9, 10, 13, 40, 41, 42])
async def test_a_listing_costs_its_pages_one_proof_and_little_beyond_the_end(size: int, readers: int) -> None:
    seen: list[int] = []
    handle = listing([user(f"u{i:03d}") for i in range(size)])

    def count(request: httpx.Request) -> httpx.Response:
        seen.append(int(request.url.params["start-index"]))
        return handle(request)

    rows = await rows_of(crowd(count, page_size=5, readers=readers).users(Scope()))
    assert [row[0] for row in rows] == [f"u{i:03d}" for i in range(size)]
    pages = len([start for start in range(0, max(size, 1), 4) if start == 0 or start < size])
    proofs = 1 if size else 2
    assert pages + proofs <= len(seen) <= pages + proofs + (readers - 1)


async def test_a_listing_left_halfway_takes_back_what_it_asked_for_ahead() -> None:
    handle = listing([user(str(i)) for i in range(50)])
    cancelled: list[str] = []

    async def slow(request: httpx.Request) -> httpx.Response:
        if int(request.url.params["start-index"]) >= 4:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                cancelled.append(request.url.params["start-index"])
                raise
        return handle(request)

    pages = crowd(slow, page_size=3).users(Scope())  # type: ignore[arg-type]
    await anext(pages)
    await anext(pages)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await pages.aclose()  # type: ignore[attr-defined]
    assert cancelled == ["4"]


@pytest.mark.parametrize("settings", [{"page_size": 1}, {"page_size": 0}, {"readers": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        crowd(lambda _: answer({}), **settings)


async def test_another_persons_record_is_never_taken_for_the_one_asked_for() -> None:
    directory = crowd(lambda _: answer(user("somebody.else")))
    with pytest.raises(IncompleteError, match="not the record"):
        await directory.user("jdoe", Scope())


@pytest.mark.parametrize("status", [400, 404])
async def test_a_missing_user_is_told_by_its_reason(status: int) -> None:
    assert await crowd(lambda _: refusal(status, "USER_NOT_FOUND")).user("jdoe", Scope()) is None


async def test_a_404_that_is_not_crowds_is_not_a_missing_user() -> None:
    with pytest.raises(RefusedError):
        await crowd(lambda _: httpx.Response(404, text="<html>")).user("jdoe", Scope())


# --- the memberships' XML ----------------------------------------------------------------------

DECLARED = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
NESTED = (
    '<membership group="A&amp;B"><users><user name="Zoë 😀"/></users><groups><group name="C"/></groups></membership>'
)
EMPTY = '<membership group="C"><users/><groups></groups></membership>'
WHOLE = f"{DECLARED}<memberships>{NESTED}\n{EMPTY}</memberships>".encode()


def memberships(body: bytes, groups: Sequence[str] = ("A&B", "C"), piece: int = 0) -> Crowd:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/search"):
            return answer({"groups": [{"name": group} for group in groups]})
        assert request.headers["accept"] == "application/xml"
        content = body
        if piece:

            async def pieces() -> Any:
                for i in range(0, len(body), piece):
                    yield body[i : i + piece]

            content = pieces()
        return httpx.Response(200, content=content, headers={**CROWD, "Content-Type": "application/xml"})

    return crowd(handle)


@pytest.mark.parametrize("piece", [0, 1, 7, 8, 9, 64])
async def test_memberships_are_the_same_however_the_body_is_cut_into_pieces(piece: int) -> None:
    rows = await rows_of(as_pairs(memberships(WHOLE, piece=piece).memberships()))
    assert rows == [("a&b", "zoë 😀", "user"), ("a&b", "c", "group")]


async def test_large_memberships_come_in_pages() -> None:
    group = '<membership group="g{0}"><users>' + '<user name="u"/>' * 9000 + "</users><groups/></membership>"
    body = f"<memberships>{''.join(group.format(i) for i in range(6))}</memberships>".encode()
    directory = memberships(body, [f"g{i}" for i in range(6)], piece=10_000)
    sizes = [len(page.rows) async for page in as_pairs(directory.memberships())]
    assert sum(sizes) == 54_000
    assert len(sizes) == 3


async def test_memberships_of_any_size_are_parsed_in_little_memory() -> None:
    """11 MB of XML: as a tree they would take about 60 MB."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    members = b"".join(b'<user name="user.name%06d"/>' % i for i in range(1000))
    document = _Memberships("memberships")
    document.feed(b"<memberships>")
    before, count = resident(), 0
    for i in range(400):
        found = document.feed(b'<membership group="g%d"><users>%b</users><groups/></membership>\n' % (i, members))
        count += sum(map(len, found))
    grown = resident() - before
    document.feed(b"</memberships>")
    document.close()
    assert count == 400_000
    assert grown < 10e6


async def test_no_prefix_of_the_document_passes_for_the_whole() -> None:
    passed = []
    for end in range(len(WHOLE)):
        try:
            await rows_of(memberships(WHOLE[:end]).memberships())
            passed.append(end)
        except IncompleteError:
            pass
    assert passed == []


BOMB = '<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 10}">' for i in range(9)
)
DOCTYPE = f"{DECLARED}<!DOCTYPE memberships [%s]><memberships>%s{NESTED}{EMPTY}</memberships>"
WITHOUT = "<memberships>{}</memberships>"


@pytest.mark.parametrize(
    "body",
    [
        DOCTYPE % ("", ""),
        DOCTYPE % (BOMB, "&j;"),
        DOCTYPE % (BOMB, '<membership group="&j;"><users/><groups/></membership>'),
        DOCTYPE % ('<!ENTITY x SYSTEM "file:///etc/passwd">', "&x;"),
        DOCTYPE % ('<!ENTITY % x SYSTEM "http://evil.test/x.dtd"> %x;'.replace("%", "%"), ""),
        DECLARED + '<!DOCTYPE memberships SYSTEM "http://evil.test/m.dtd">' + WITHOUT.format(NESTED + EMPTY),
        WITHOUT.format("&x;" + NESTED + EMPTY),
        WITHOUT.format("<membership>" * 5000),
        WITHOUT.format("<x>" * 300 + "</x>" * 300 + NESTED + EMPTY),
        WITHOUT.format(f"<x>{NESTED}</x>{EMPTY}"),
        WITHOUT.format(f'<membership group="z"><users>{NESTED}</users><groups/></membership>{EMPTY}'),
        f"<other>{NESTED}{EMPTY}</other>",
        f"<x><memberships>{NESTED}{EMPTY}</memberships></x>",
        NESTED,
        WITHOUT.format(NESTED + EMPTY) + "<more/>",
        WITHOUT.format(NESTED + EMPTY + EMPTY),
        WITHOUT.format(NESTED + EMPTY.replace('"C"', '"c"') + EMPTY),
        WITHOUT.format(NESTED + EMPTY.replace("<users/>", "")),
        WITHOUT.format(NESTED + EMPTY.replace("<users/>", "<users/><users/>")),
        WITHOUT.format(NESTED + EMPTY.replace("<users/>", "<users><user/></users>")),
        WITHOUT.format(NESTED + EMPTY.replace("<users/>", '<users><person name="x"/></users>')),
        WITHOUT.format(NESTED + EMPTY.replace(' group="C"', "")),
        WITHOUT.format(NESTED + EMPTY.replace(' group="C"', ' group=""')),
        WITHOUT.format(NESTED),
        WITHOUT.format(""),
        "<html><body>Please sign in</body></html>",
        "<!DOCTYPE html><html><body>Please sign in</body></html>",
        '{"memberships": []}',
        "",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8"])
async def test_xml_that_is_hostile_or_not_the_list_is_refused(body: str, encoding: str) -> None:
    with pytest.raises(IncompleteError):
        await rows_of(memberships(body.encode(encoding), piece=50).memberships())


@pytest.mark.parametrize(
    "body",
    [
        WHOLE.decode().encode("utf-16"),
        WHOLE.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        WHOLE.decode().replace("UTF-8", "ISO-8859-1").replace("😀", "").encode("latin-1"),
        WHOLE.replace("ë".encode(), b"\xeb"),
        WHOLE.replace("ë".encode(), b"\xc0\x80"),
        WHOLE.decode().replace("UTF-8", "UTF-7").encode("utf-7"),
        b"\x00" + WHOLE,
        (DOCTYPE % ('<!ENTITY x SYSTEM "file:///etc/passwd">', "&x;")).encode("utf-16"),
    ],
)
async def test_an_encoding_other_than_utf_8_is_refused(body: bytes) -> None:
    with pytest.raises(IncompleteError):
        await rows_of(memberships(body).memberships())


# --- check and token ---------------------------------------------------------------------------


def cookie(status: int, body: str, version: bool = True) -> Handler:
    headers = {"X-Embedded-Crowd-Version": "Crowd/7.1.2"} if version else {}
    return lambda _: httpx.Response(status, text=body, headers=headers)


@pytest.mark.parametrize(
    ("handler", "error", "words"),
    [
        (cookie(401, "Application failed to authenticate"), AuthenticationError, "application's own"),
        (cookie(403, "<html>Client with address ...", version=False), ForbiddenError, "Remote addresses"),
        (cookie(404, "<html>", version=False), ConfigurationError, "context path"),
        (cookie(200, "<html>Sign in", version=False), ConfigurationError, "not Crowd"),
        (cookie(404, ""), ConfigurationError, "no such resource"),
    ],
)
async def test_check_tells_what_is_wrong_and_the_way_out(handler: Handler, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await crowd(handler).check()


@pytest.mark.parametrize(
    ("body", "status", "token"),
    [
        ({"newEventToken": "12:3", "incrementalSynchronisationAvailable": True}, 200, "12:3"),
        ({"newEventToken": "12:3", "incrementalSynchronisationAvailable": False}, 200, None),
        ({"newEventToken": "12:3"}, 200, None),
        ({"incrementalSynchronisationAvailable": True}, 200, None),
        ([], 200, None),
        ({"reason": "INCREMENTAL_SYNC_NOT_AVAILABLE"}, 400, None),
        ({}, 404, None),
        ({}, 401, None),
    ],
)
async def test_token(body: Any, status: int, token: str | None) -> None:
    assert await crowd(lambda _: answer(body, status)).token() == token


# --- writes ------------------------------------------------------------------------------------

RECORD = {
    "email": "j@example.org",
    "first_name": "J",
    "last_name": "Doe",
    "display_name": "J Doe",
    "active": True,
    "description": "text",
    "attributes": {ID_ATTRIBUTE: ["okta:1"]},
}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("kind", list(Kind))
async def test_an_answer_2xx_that_is_not_crowds_is_not_success(kind: Kind, status: int) -> None:
    directory = crowd(lambda _: httpx.Response(status, text="" if status == 204 else "{}"))
    with pytest.raises(RefusedError, match="not an answer of Crowd's"):
        await directory.write(Operation(1, kind, "a", "b", RECORD))


@pytest.mark.parametrize("headers", [{}, {"X-Embedded-Crowd-Version": "Crowd/7.1.2"}], ids=["proxy", "container"])
@pytest.mark.parametrize("status", [404, 409])
@pytest.mark.parametrize("kind", list(Kind))
async def test_a_page_that_says_404_or_409_is_not_already_so(kind: Kind, status: int, headers: dict[str, str]) -> None:
    directory = crowd(lambda _: httpx.Response(status, text="<html>", headers=headers))
    with pytest.raises(RefusedError):
        await directory.write(Operation(1, kind, "a", "b", RECORD))


@pytest.mark.parametrize(
    ("kind", "status"),
    [(kind, 404) for kind in Kind if WRITES[kind].method == "DELETE"]
    + [(Kind.MEMBERSHIP_ADD, 409), (Kind.NESTING_ADD, 409)],
)
async def test_without_a_body_the_status_decides_if_it_is_crowds(kind: Kind, status: int) -> None:
    operation = Operation(1, kind, "a", "b")
    assert (await crowd(lambda _: httpx.Response(status, headers=CROWD)).write(operation)).state == "already"
    with pytest.raises(RefusedError):
        await crowd(lambda _: httpx.Response(status)).write(operation)


@pytest.mark.parametrize("kind", list(Kind))
async def test_the_permission_to_grant_is_named(kind: Kind) -> None:
    directory = crowd(lambda _: refusal(403, "APPLICATION_PERMISSION_DENIED"))
    with pytest.raises(ForbiddenError, match=WRITES[kind].permission) as caught:
        await directory.write(Operation(1, kind, "a", "b", RECORD))
    assert kind in str(caught.value)


async def test_a_mark_that_stands_twice_is_nobodys() -> None:
    """Which of the two counts cannot be known: the record is held, and no write takes it for its own."""
    twice = attributes(**{ID_ATTRIBUTE: ["acme:1"]})
    twice["attributes"] += attributes(**{ID_ATTRIBUTE: ["acme:2"]})["attributes"]
    pages = [page async for page in crowd(listing([user("ann", attributes=twice), user("bob")])).users(Scope())]
    assert [row[0] for page in pages for row in page.rows] == ["bob"]
    assert [(held.id, held.reason) for page in pages for held in page.held] == [("ann", "an attribute stands twice")]
    for mark in ("acme:1", "acme:2"):
        rename = Operation(1, Kind.USER_RENAME, "old", "ann", {"attributes": {ID_ATTRIBUTE: [mark]}})
        assert not await crowd(lambda _: answer(user("ann", attributes=twice))).holds(rename)


@pytest.mark.parametrize("cookie", [200, 404, 405, 401])
async def test_what_cannot_be_searched_though_its_cookie_answers_is_no_crowd_of_today(cookie: int) -> None:
    """The base address is right then, and nobody should be sent to look for another one."""

    def handle(request: httpx.Request) -> httpx.Response:
        return answer({"name": "c"}, cookie if request.url.path.endswith("/config/cookie") else 405)

    directory = crowd(handle)
    for read in (directory.users(Scope()), directory.groups(Scope()), directory.memberships()):
        with pytest.raises(ConfigurationError if cookie == 200 else RefusedError) as caught:
            [page async for page in read]
        if cookie == 200:
            assert "answered 405, though /config/cookie there answers" in str(caught.value)
            assert "a Crowd that is too old, or no Crowd" in str(caught.value)
            assert "base address" not in str(caught.value)
        else:
            assert "Check the base address" in str(caught.value)
    if cookie == 200:
        with pytest.raises(ConfigurationError, match="too old, or no Crowd"):
            await directory.check()


@pytest.mark.parametrize("kind", list(Kind))
async def test_html_403_is_the_remote_address(kind: Kind) -> None:
    with pytest.raises(ForbiddenError, match="Remote addresses"):
        await crowd(lambda _: httpx.Response(403, text="<html>")).write(Operation(1, kind, "a", "b", RECORD))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("bad", ["x" * 256, "\ud800"])
async def test_what_crowd_could_cut_or_not_store_is_never_sent(kind: Kind, bad: str) -> None:
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return answer({})

    spoilt = [Operation(1, kind, bad, "b", RECORD)]
    if kind in (Kind.USER_CREATE, Kind.USER_UPDATE):
        spoilt += [Operation(1, kind, "a", "", {**RECORD, key: bad}) for key in ("email", "first_name", "last_name")]
    if "attributes" in kind or kind is Kind.USER_CREATE:
        spoilt += [Operation(1, kind, "a", "", {**RECORD, "attributes": {"x": ["y", bad]}})]
        spoilt += [Operation(1, kind, "a", "", {**RECORD, "attributes": {bad: []}})]
    for operation in spoilt:
        with pytest.raises(RecordError):
            await crowd(handle).write(operation)
    assert sent == []


async def test_a_put_without_the_whole_record_is_refused_because_it_would_blank_the_rest() -> None:
    with pytest.raises(RecordError, match="last_name"):
        await crowd(lambda _: answer({})).write(
            Operation(1, Kind.USER_DEACTIVATE, "a", "", {"email": "", "first_name": "", "active": False})
        )


async def test_the_password_is_long_mixed_new_each_time_and_sent_only_on_create() -> None:
    bodies: dict[Kind, list[Any]] = {}
    for kind in (Kind.USER_CREATE, Kind.USER_CREATE, Kind.USER_UPDATE, Kind.USER_DEACTIVATE):

        def handle(request: httpx.Request, kind: Kind = kind) -> httpx.Response:
            bodies.setdefault(kind, []).append(orjson.loads(request.content))
            return httpx.Response(201, headers=CROWD)

        await crowd(handle).write(Operation(1, kind, "a", "", RECORD))
    one, two = (body["password"]["value"] for body in bodies[Kind.USER_CREATE])
    assert one != two
    assert 40 <= len(one) <= 128
    assert {"lower", "upper", "digit", "mark"} == {
        "lower" if c.islower() else "upper" if c.isupper() else "digit" if c.isdigit() else "mark" for c in one
    }
    assert "password" not in bodies[Kind.USER_UPDATE][0]
    assert bodies[Kind.USER_DEACTIVATE][0]["active"] is False
    assert all(type(body["active"]) is bool for kind in bodies.values() for body in kind)


async def test_after_three_lost_answers_the_write_is_left_for_later() -> None:
    calls: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        if request.method == "GET":
            return refusal(404, "MEMBERSHIP_NOT_FOUND")
        return refusal(500, "OPERATION_FAILED")

    with pytest.raises(RetryableError) as caught:
        await crowd(handle).write(Operation(1, Kind.MEMBERSHIP_ADD, "u", "g"))
    assert not isinstance(caught.value, AmbiguousError)
    assert calls == ["POST", "GET"] * 3


async def test_a_rename_of_case_only_holds_when_the_case_is_there() -> None:
    operation = Operation(1, Kind.USER_RENAME, "jdoe", "JDoe", RECORD)
    for name, held in (("jdoe", False), ("JDoe", True)):
        record = user(name, attributes=attributes(**{ID_ATTRIBUTE: ["okta:1"]}))
        assert await crowd(lambda _, record=record: answer(record)).holds(operation) is held  # type: ignore[misc]
