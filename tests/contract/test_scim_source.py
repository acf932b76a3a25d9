"""The SCIM source against two servers that we did not write, and against one that lies."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from connectors import paging
from connectors.contract import Held, Page, Scope, Source
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
    TooLargeError,
)
from connectors.http import Http
from connectors.idp import SOURCES
from connectors.idp.scim import Scim, ScimSettings
from connectors.paging import Part, by_cursor
from connectors.scim_rows import user_rows
from tasks.read.extract import read_source
from tests.support.clients import node_package
from tests.support.long import long_after
from tests.support.pages import as_pairs

HERE = Path(__file__).parent
TOKEN = "t0ken-of-the-tests"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

_spec = importlib.util.spec_from_file_location("scim_server", HERE / "scim_server.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["scim_server"] = _module
_spec.loader.exec_module(_module)
ScimServer = _module.ScimServer


def user(n: int, **more: Any) -> dict[str, Any]:
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": f"u{n}",
        "userName": f"user{n}",
        "name": {"givenName": f"Given{n}", "familyName": f"Family{n}"},
        "emails": [{"value": f"user{n}@example.com", "type": "work"}],
        "active": n % 7 != 0,
        **more,
    }


def group(n: int, *members: str, **more: Any) -> dict[str, Any]:
    listed = [{"value": m, "type": "Group" if m.startswith("g") else "User"} for m in members]
    return {"id": f"g{n}", "displayName": f"Group {n}", "members": listed, **more}


USERS = [user(n) for n in range(1, 24)]
GROUPS = [group(n, *(f"u{m}" for m in range(1, 24) if m % n == 0)) for n in range(1, 7)] + [group(7, "g1", "u3")]
MEMBERSHIPS = {(g["id"], m["value"], m["type"].lower()) for g in GROUPS for m in g["members"]}


async def whole(pages: AsyncIterator[Page[Any]], held: list[Held] | None = None) -> list[Any]:
    """Rows of a read that ended with its last page."""
    rows: list[Any] = []
    ends = []
    async for page in pages:
        rows += page.rows
        ends.append(page.last)
        if held is not None:
            held += page.held
    assert ends[-1:] == [True]
    assert sum(ends) == 1
    return rows


@asynccontextmanager
async def source(url: str, token: str = TOKEN, attempts: int = 1, **settings: Any) -> AsyncIterator[Scim]:
    async with Http(url, name="test", bearer=token, attempts=attempts, timeout=5) as http:
        yield Scim(http, **settings)


async def everything(scim: Scim, scope: Scope | None = None) -> tuple[list[Any], list[Any], set[Any]]:
    users = await whole(scim.users(scope or Scope()))
    groups = await whole(scim.groups(scope or Scope()))
    return users, groups, set(await whole(as_pairs(scim.memberships([g[0] for g in groups]))))


# --- foreign servers ---

Served = tuple[str, dict[str, str]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def send(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url,
        data=None if body is None else orjson.dumps(body),
        headers={"authorization": f"Bearer {TOKEN}", "content-type": "application/scim+json"},
    )
    with urllib.request.urlopen(request, timeout=10) as got:
        return orjson.loads(got.read())


def until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "the server ended"
        try:
            send(url)
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server did not come up")


@pytest.fixture(scope="module", params=["index", "cursor"])
def scim2(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, str]]]:
    """python-scim/scim2-server: root address, and our ids → its ids."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "scim2-server"), "--port", str(port), "--bearer-token", TOKEN]
    if request.param == "cursor":
        announced = {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
            **{name: {"supported": False} for name in ("patch", "changePassword", "sort", "etag")},
            "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
            "filter": {"supported": True, "maxResults": 50},
            "authenticationSchemes": [],
            "pagination": {"cursor": True, "index": False, "defaultPaginationMethod": "cursor", "maxPageSize": 50},
        }
        file = tmp_path_factory.mktemp("scim2") / "config.json"
        file.write_bytes(orjson.dumps(announced))
        command += ["--service-provider-config", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}/v2"
    try:
        until_up(f"{root}/Users", process)
        ids: dict[str, str] = {}
        for one in USERS:
            wide = {**one, "schemas": [*one["schemas"], ENTERPRISE], ENTERPRISE: {"department": f"D {one['id']}"}}
            del wide["id"]
            ids[one["id"]] = send(f"{root}/Users", {**wide, "title": "Engineer"})["id"]
        for one in GROUPS:
            members = [{**m, "value": ids[m["value"]]} for m in one["members"]]
            body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": one["displayName"]}
            ids[one["id"]] = send(f"{root}/Groups", {**body, "members": members})["id"]
        empty = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "Empty"}
        ids["empty"] = send(f"{root}/Groups", empty)["id"]
        yield root, ids
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("how", ["auto", "list", "get"])
async def test_scim2_server_is_read_whole(scim2: Served, how: str) -> None:
    root, ids = scim2
    department = f"{ENTERPRISE}:department"
    async with source(root, page_size=5, group_page_size=3, group_members=how) as scim:
        users, groups, memberships = await everything(scim, Scope(frozenset({department, "TITLE"})))
        expected = {
            (
                *(ids[f"u{n}"], f"user{n}", f"user{n}@example.com", f"Given{n}", f"Family{n}", f"Given{n} Family{n}"),
                *(n % 7 != 0, orjson.dumps({"TITLE": ["Engineer"], department: [f"D u{n}"]}).decode()),
            )
            for n in range(1, 24)
        }
        assert set(users) == expected
        assert {g[1] for g in groups} == {f"Group {n}" for n in range(1, 8)} | {"Empty"}
        assert memberships == {(ids[g], ids[m], kind) for g, m, kind in MEMBERSHIPS}


async def test_scim2_server_one_person_by_id_and_by_name(scim2: Served) -> None:
    root, ids = scim2
    async with source(root) as scim:
        for key in (ids["u3"], "user3", "USER3"):
            person = await scim.user(key)
            assert person is not None
            assert person.user[:3] == (ids["u3"], "user3", "user3@example.com")
            assert {g[1] for g in person.groups} == {"Group 1", "Group 3", "Group 7"}
            assert set(person.memberships) == {(ids[g], ids["u3"], "user") for g in ("g1", "g3", "g7")}
        for key in ("nobody", 'a"b\\c', "../Groups", "", "ü"):
            assert await scim.user(key) is None


async def test_scim2_server_check_and_wrong_token(scim2: Served) -> None:
    root, _ = scim2
    async with source(root) as scim:
        lines = await scim.check()
        assert lines[1:] == ["users: 23", "groups: 8"]
        assert "paging by" in lines[0]
    async with source(root, token="wr0ng") as scim:
        with pytest.raises(AuthenticationError) as caught:
            await scim.check()
        assert "wr0ng" not in str(caught.value)
    async with source(root + "x") as scim:
        with pytest.raises(ConfigurationError, match="`url`"):
            await scim.check()


@pytest.fixture(scope="module")
def scimmy() -> Iterator[str]:
    """scimmyjs/scimmy-routers, from npm, kept in .cache."""
    place = node_package(HERE / "scimmy" / "package.json")
    port = free_port()
    groups = [*GROUPS, {"id": "g8", "displayName": "Empty"}]
    process = subprocess.Popen(
        ["node", str(HERE / "scimmy" / "server.mjs"), str(port), TOKEN],
        cwd=place,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "NODE_ENV": "test"},
    )
    try:
        assert process.stdin is not None
        process.stdin.write(orjson.dumps({"users": USERS, "groups": groups}))
        process.stdin.close()
        until_up(f"http://127.0.0.1:{port}/scim/Users", process)
        yield f"http://127.0.0.1:{port}/scim"
    finally:
        process.terminate()
        process.wait(10)


async def test_scimmy_is_read_whole(scimmy: str) -> None:
    async with source(scimmy, page_size=5, group_page_size=3) as scim:
        users, groups, memberships = await everything(scim)
        assert {u[0] for u in users} == {u["id"] for u in USERS}
        assert len(groups) == 8
        assert memberships == MEMBERSHIPS
        assert (await scim.check())[1:] == ["users: 23", "groups: 8"]


async def test_a_server_that_ignores_filters_grants_nothing(scimmy: str) -> None:
    """This scimmy answers every filter with all records: believed, one person would be in every group."""
    async with source(scimmy) as scim:
        with pytest.raises(RefusedError, match="one person cannot be read"):
            await scim.user("u3")
        with pytest.raises(IncompleteError):
            await scim.user("nobody")


# --- requests ---


async def test_the_registry_knows_scim() -> None:
    assert SOURCES["scim"] is Scim
    async with source("http://h") as scim:
        assert isinstance(scim, Source)


async def test_requests_are_pages() -> None:
    server = ScimServer(USERS, GROUPS)
    async with server.running(), source(server.url, page_size=5, group_page_size=3) as scim:
        await everything(scim)
        asked = Counter(target.partition("?")[0] for target in server.asked)
        assert asked == {"/ServiceProviderConfig": 1, "/ResourceTypes": 1, "/Users": 6, "/Groups": 3}


async def test_a_server_that_gives_less_than_asked_is_read_whole() -> None:
    async with ScimServer(USERS, GROUPS, cap=4).running() as server, source(server.url) as scim:
        assert len((await everything(scim))[0]) == 23
        assert sum(target.startswith("/Users") for target in server.asked) == 8  # 4, and 3 new ones in each other


async def test_pages_of_changing_length_are_read_one_by_one() -> None:
    server = ScimServer(USERS, GROUPS)

    def shorter(what: str, page: int, body: bytes) -> bytes:
        found = orjson.loads(body)
        if what == "Users" and len(found["Resources"]) > 2 and found["startIndex"] != 1:
            found["Resources"].pop()
        return orjson.dumps(found)

    server.spoil = shorter
    async with server.running(), source(server.url, page_size=6) as scim:
        assert [u[0] for u in await whole(scim.users(Scope()))] == [u["id"] for u in USERS]


async def test_without_discovery_and_without_records() -> None:
    async with ScimServer([], [], discovery=False).running() as server, source(server.url) as scim:
        assert await everything(scim) == ([], [], set())


@pytest.mark.parametrize("how", ["auto", "list", "get"])
async def test_members_that_are_shown_on_request_are_asked_for_by_name(how: str) -> None:
    """RFC 7643 7, `returned`: else every group would be empty, without a word. So it is with Keycloak."""
    server = ScimServer(USERS, GROUPS, members_returned="request", late="/Groups/g1")
    async with server.running(), source(server.url, group_members=how) as scim:
        for _ in range(2):
            assert (await everything(scim))[2] == MEMBERSHIPS
        assert set(await whole(as_pairs(scim.memberships(["g7"])))) == {m for m in MEMBERSHIPS if m[0] == "g7"}
    assert sum(asked.startswith("/Schemas") for asked in server.asked) == 1


@pytest.mark.parametrize("how", ["auto", "list", "get"])
async def test_members_that_are_never_shown_are_not_nobody(how: str) -> None:
    server = ScimServer(USERS, GROUPS, members_returned="never")
    async with server.running(), source(server.url, group_members=how) as scim:
        with pytest.raises(RefusedError, match="never says who is in a group"):
            await everything(scim)


async def test_lists_without_members_are_not_empty_groups() -> None:
    async with ScimServer(USERS, GROUPS, listed_members=False).running() as server, source(server.url) as scim:
        assert (await everything(scim))[2] == MEMBERSHIPS
        assert sum(target.startswith("/Groups/") for target in server.asked) == len(GROUPS)


async def test_one_group_that_lost_its_members_in_the_list_is_looked_up() -> None:
    server = ScimServer(USERS, GROUPS)

    def lose(what: str, page: int, body: bytes) -> bytes:
        if what != "Groups":
            return body
        found = orjson.loads(body)
        for record in found["Resources"]:
            if record["id"] == "g3":
                del record["members"]
        return orjson.dumps(found)

    server.spoil = lose
    async with server.running(), source(server.url) as scim:
        assert (await everything(scim))[2] == MEMBERSHIPS
        assert [target for target in server.asked if target.startswith("/Groups/")] == ["/Groups/g3"]


@pytest.mark.parametrize("cap", [1000, 37])
async def test_pages_of_groups_are_as_long_as_their_members_let_them_be(
    cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few at first; more where they are light, up to what the server gives; fewer where they are heavy."""
    monkeypatch.setattr(paging, "HEAVY", 20_000)
    large = {**group(50, "u1"), "members": [{"value": "u1", "type": "User", "display": "x" * 3000}] * 40}
    groups = [large if n == 50 else group(n, "u1") for n in range(1, 301)]
    async with ScimServer(USERS, groups, cap=cap).running() as server, source(server.url, group_page_size=80) as scim:
        found = await whole(scim.groups(Scope()))
        assert [row[0] for row in found] == [one["id"] for one in groups]
        counts = [int(parse_qs(urlsplit(target).query)["count"][0]) for target in server.asked if "/Groups" in target]
    assert counts[:4] == [5, 10, 20, 40]
    assert max(counts) == (80 if cap == 1000 else 40)
    assert min(counts[4:]) < 37 <= counts[-1]  # after the heavy one, and again at the end


async def test_members_are_read_anew_for_many_groups_without_a_group_read() -> None:
    groups = [group(n, "u1") for n in range(1, 41)]
    async with ScimServer(USERS, groups).running() as server, source(server.url, group_page_size=10) as scim:
        rows = await whole(as_pairs(scim.memberships([g["id"] for g in groups])))
        assert len(rows) == 40
        assert sum(target.startswith("/Groups") for target in server.asked) == 5
        with pytest.raises(IncompleteError, match="gone"):
            await whole(scim.memberships([*(g["id"] for g in groups), "g99"]))
        with pytest.raises(IncompleteError, match="gone"):
            await whole(scim.memberships(["g99"]))


async def test_kinds_of_members() -> None:
    members = [
        {"value": "a", "type": "user"},
        {"value": "b", "type": "GROUP"},
        {"value": "c", "$ref": "https://x/scim/Users/c"},
        {"value": "d", "$ref": "../Groups/d"},
        {"value": "g2"},
        {"value": "e"},
        {"value": "f", "type": "Device"},
        {"value": "h", "$ref": "https://x/scim/Groups/h", "type": "odd"},
    ]
    groups = [{"id": "g1", "displayName": "x", "members": members}, group(2)]
    async with ScimServer([], groups).running() as server, source(server.url) as scim:
        assert {(m, kind) for _, m, kind in (await everything(scim))[2]} == {
            *(
                ("a", "user"),
                ("b", "group"),
                ("c", "user"),
                ("d", "group"),
                ("g2", "group"),
                ("e", "user"),
                ("h", "group"),
            )
        }


async def test_groups_of_a_person_are_the_direct_ones() -> None:
    entries = [{"value": "g1", "type": "direct"}, {"value": "g7", "type": "indirect"}]
    async with ScimServer([user(1, groups=entries)], GROUPS).running() as server, source(server.url) as scim:
        person = await scim.user("u1")
        assert person is not None
        assert [g[:2] for g in person.groups] == [("g1", "Group 1")]
        assert not any("filter" in target for target in server.asked)


async def test_refusals_say_what_the_server_said() -> None:
    error = b'{"status":"403","scimType":"sensitive","detail":"no right to read"}'
    for status, kind in ((403, ForbiddenError), (404, ConfigurationError), (400, IncompleteError)):
        server = ScimServer(USERS, GROUPS)
        said = f"HTTP/1.1 {status} X\r\ncontent-length: {len(error)}\r\n\r\n".encode() + error
        server.spoil = lambda what, page, body, said=said: said if what == "Users" else body
        async with server.running(), source(server.url) as scim:
            with pytest.raises(kind, match=r"sensitive no right to read"):
                await whole(scim.users(Scope()))


# --- records ---

_NO_BOOLEANS: list[Any] = ["yes", 1, 0, [], ""]
FLAWED: list[Any] = [
    *(None, 7, "text", [], {}, {"userName": "a"}, {"id": 7, "userName": "a"}, {"id": "", "userName": "a"}),
    *({"id": "x"}, {"id": "x", "userName": None}, {"id": "x", "userName": ""}, {"id": "x", "userName": ["a"]}),
    *(user(1, active=v) for v in _NO_BOOLEANS),
]


async def test_a_flawed_record_is_held_and_the_others_go_on() -> None:
    for flawed in FLAWED:
        held: list[Held] = []
        async with ScimServer([user(2), flawed, user(3)], []).running() as server, source(server.url) as scim:
            rows = await whole(scim.users(Scope()), held)
        assert [row[0] for row in rows] == ["u2", "u3"], flawed
        assert len(held) == 1, flawed
        assert "the 2. record from index 1" in held[0].reason
        assert held[0].kind == "user"
    for odd in (None, {"id": "g1"}, {"displayName": "x"}, {"id": "g1", "displayName": 7}):
        held = []
        async with ScimServer([], [odd, group(2)]).running() as server, source(server.url) as scim:
            assert [row[0] for row in await whole(scim.groups(Scope()), held)] == ["g2"]
        assert [one.kind for one in held] == ["group"]


@pytest.mark.parametrize(
    ("record", "at", "value"),
    [
        ({"active": "True"}, 6, True),
        ({"active": "false"}, 6, False),
        ({"active": None}, 6, True),
        ({"displayName": "D"}, 5, "D"),
        ({"name": {"formatted": "F"}}, 5, "F"),
        ({"name": {"givenName": "G"}}, 5, "G"),
        ({"name": None}, 5, ""),
        ({"emails": []}, 2, ""),
        ({"emails": [{"type": "home"}]}, 2, ""),
        ({"emails": [{"value": "a"}, {"value": "b", "type": "work"}]}, 2, "b"),
        ({"emails": [{"value": "a"}, {"value": "b", "type": "Work"}, {"value": "c", "primary": True}]}, 2, "c"),
        ({"emails": [{"value": "a"}, {"value": "b"}]}, 2, "a"),
        ({"emails": [{"primary": True}, {"value": "b"}]}, 2, "b"),
        ({"emails": ["a@b", "c@d"]}, 2, "a@b"),
        ({"emails": "a@b"}, 2, "a@b"),
        ({"emails": {"value": "a@b", "type": "home"}}, 2, "a@b"),
        ({"emails": [{"value": "a"}, {"value": "b", "primary": "True"}]}, 2, "b"),
        ({"emails": [{"value": "a", "primary": "false"}, {"value": "b", "type": "WORK"}]}, 2, "b"),
        ({"emails": ["a", {"value": "b", "primary": "true"}]}, 2, "b"),
        ({"emails": [7, None, {}, [], {"value": 7, "primary": True}, {"value": "b"}]}, 2, "b"),
        ({"emails": [" ", "b"]}, 2, "b"),
    ],
)
def test_fields_of_a_user(record: dict[str, Any], at: int, value: Any) -> None:
    held: list[Held] = []
    rows = user_rows(())([{**user(1), **record}], "record", held, held)
    assert not held
    assert rows[0][at] == value


def test_records_that_come_once_only_are_all_looked_at() -> None:
    held: list[Held] = []
    rows = user_rows(())((one for one in (user(1), {"id": "x"}, user(2))), "record", held)
    assert [row[0] for row in rows] == ["u1", "u2"]
    assert [one.id for one in held] == ["x"]


@pytest.mark.parametrize(
    ("active", "away"),
    [
        *((value, "disabled") for value in (False, "false", "False", "FALSE")),
        *((value, "") for value in (True, "true", None, "no", "0", 0, [False], {"value": False}, "inactive", "")),
    ],
)
def test_only_a_certain_word_disables_who_is_held(active: Any, away: str) -> None:
    held: list[Held] = []
    spellings = ({"id": "x", "active": active}, {"ID": "x", "Active": active})
    assert user_rows((), absent_active=False)(spellings, "record", held) == []
    assert [(one.id, one.away) for one in held] == [("x", away)] * 2


def test_a_record_may_be_as_deep_as_it_likes() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [{"x": deep}]
    held: list[Held] = []
    odd = {"ID": "x", "username": "a", "Active": False, "emails": deep, "urn:x": deep, "name": deep}
    assert user_rows(("urn:x.x",))([odd], "", held, held)[0][:7] == ("x", "a", "", "", "", "", False)


def test_absent_active_is_what_the_setting_says_and_names_ignore_case() -> None:
    bare = {"id": "x", "userName": "a"}
    assert user_rows((), True)([bare], "", [])[0][6] is True
    assert user_rows((), False)([bare], "", [])[0][6] is False
    odd = {"ID": "x", "username": "a", "Active": False, "Name": {"givenname": "G"}, "EMAILS": [{"Value": "e"}]}
    assert user_rows(())([odd], "", [])[0] == ("x", "a", "e", "G", "", "G", False, "{}")
    assert user_rows(())([{"id": "x", "userName": "a", "Active": False}], "", [])[0][6] is False


def test_attributes_by_path() -> None:
    wide = user(
        1,
        title="T",
        nickName="",
        roles=[{"value": "r1"}, {"value": "r2"}, {"display": "none"}],
        phoneNumbers=[{"value": "1", "type": "work"}],
        vip=True,
        **{ENTERPRISE: {"department": "D", "manager": {"displayName": "M"}}},
    )
    core = "urn:ietf:params:scim:schemas:core:2.0:User:title"
    paths = ["title", "TITLE", core, "nickName", "roles", "phonenumbers.TYPE", "vip", "none", "name.givenName"]
    paths += [f"{ENTERPRISE}:department", f"{ENTERPRISE.lower()}:manager.displayName"]
    assert orjson.loads(user_rows(paths)([wide], "", [])[0][7]) == {
        "title": ["T"],
        "TITLE": ["T"],
        core: ["T"],
        "roles": ["r1", "r2"],
        "phonenumbers.TYPE": ["work"],
        "vip": ["true"],
        "name.givenName": ["Given1"],
        f"{ENTERPRISE}:department": ["D"],
        f"{ENTERPRISE.lower()}:manager.displayName": ["M"],
    }
    for wrong in ('emails[type eq "work"].value', "", "a..b", "urn:x:"):
        with pytest.raises(ConfigurationError, match="attribute path"):
            user_rows([wrong])


# --- reads that are not whole ---


def close(text: bytes) -> bytes:
    return b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (len(text) + 9) + text


def changed(body: bytes, **keys: Any) -> bytes:
    return orjson.dumps({**orjson.loads(body), **keys})


def items(body: bytes) -> list[Any]:
    return list(orjson.loads(body)["Resources"])


LIST_FAULTS: dict[str, Any] = {
    "Resources twice": lambda body: b'{"Resources":[],' + body[1:],
    "an id twice": lambda body: body.replace(b'"id":', b'"id":"u1","id":', 1),
    "an unreadable page": lambda body: body.replace(b'"Resources":[', b'"Resources":[\xff', 1),
    "a deep page": lambda body: body.replace(b'"Resources":[', b'"Resources":[' + b"[" * 100_000, 1),
    "connection closed": lambda body: None,
    "body cut": lambda body: close(body[: len(body) // 2]),
    "text cut": lambda body: body[:-9],
    "nothing": lambda body: b"",
    "HTML": lambda body: b"<!doctype html><title>Sign in</title>",
    "HTML redirect": lambda body: b"HTTP/1.1 302 X\r\nlocation: https://sso.example/\r\ncontent-length: 0\r\n\r\n",
    "error 500": lambda body: b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
    "error 404": lambda body: b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n",
    "error 403": lambda body: b"HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n",
    "error 429": lambda body: b"HTTP/1.1 429 X\r\nretry-after: 999\r\ncontent-length: 0\r\n\r\n",
    "no content 204": lambda body: b"HTTP/1.1 204 X\r\n\r\n",
    "SCIM error as 200": lambda body: b'{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"status":"500"}',
    "null": lambda body: b"null",
    "list": lambda body: orjson.dumps(items(body)),
    "empty object": lambda body: b"{}",
    "empty page": lambda body: changed(body, Resources=[]),
    "no Resources": lambda body: orjson.dumps({k: v for k, v in orjson.loads(body).items() if k != "Resources"}),
    "Resources is text": lambda body: changed(body, Resources="x"),
    "Resources is an object": lambda body: changed(body, Resources={"a": 1}),
    "record dropped": lambda body: changed(body, Resources=items(body)[1:]),
    "record doubled": lambda body: changed(body, Resources=[*items(body), items(body)[0]]),
    "record replaced by another": lambda body: changed(body, Resources=[items(body)[-1], *items(body)[1:]]),
    "total higher": lambda body: changed(body, totalResults=orjson.loads(body)["totalResults"] + 1),
    "total lower": lambda body: changed(body, totalResults=orjson.loads(body)["totalResults"] - 1),
    "total 0": lambda body: changed(body, totalResults=0),
    "total is text": lambda body: changed(body, totalResults="23"),
    "total is negative": lambda body: changed(body, totalResults=-1),
}
INDEX_FAULTS: dict[str, Any] = {
    "wrong start": lambda body: changed(body, startIndex=orjson.loads(body)["startIndex"] + 1),
    "no total": lambda body: orjson.dumps({k: v for k, v in orjson.loads(body).items() if k != "totalResults"}),
}
CURSOR_FAULTS: dict[str, Any] = {
    "cursor is a number": lambda body: changed(body, nextCursor=7),
    "first page again": lambda body: changed(body, nextCursor="c1"),
    "cursor beyond": lambda body: changed(body, nextCursor="c100"),
}
BLIND_FAULTS = [
    "connection closed",
    "body cut",
    "text cut",
    "nothing",
    "HTML",
    "HTML redirect",
    "error 500",
    "error 404",
]
BLIND_FAULTS += ["error 403", "error 429", "no content 204", "SCIM error as 200", "null", "list", "empty object"]
BLIND_FAULTS += ["empty page", "no Resources", "Resources is text", "Resources is an object", "record doubled"]
SINGLE_FAULTS = [*BLIND_FAULTS[:15], "another record", "members twice"]
UNREADABLE = ["members is an object", "members is an empty object", "member without value", "member is text"]
UNREADABLE += ["value is a number", "value is no UTF-8", "members is deep", "members twice in two spellings"]
ONE: dict[str, Any] = {
    **{name: fault for name, fault in LIST_FAULTS.items() if name != "list"},
    "list": lambda body: b"[" + body + b"]",
    "another record": lambda body: changed(body, id="g99"),
    "members is an object": lambda body: changed(body, members={"value": "u1"}),
    "member without value": lambda body: changed(body, members=[{"type": "User"}]),
    "member is text": lambda body: changed(body, members=["u1"]),
    "members is an empty object": lambda body: changed(body, members={}),
    "value is a number": lambda body: changed(body, members=[{"value": "u1", "type": "User"}, {"value": 7}]),
    "value is no UTF-8": lambda body: twice(body, b'"x":1,').replace(b'"value":"', b'"value":"\xff', 1),
    "members is deep": lambda body: twice(changed(body, members=None), b'"members":' + b"[" * 400 + b"]" * 400 + b","),
    "members twice": lambda body: twice(body, b'"members":[],'),
    "members twice in two spellings": lambda body: twice(body, b'"Members":[],'),
}


def twice(body: bytes, more: bytes) -> bytes:
    """An object with one more field in front."""
    return b"{" + more + body.strip()[1:]


async def refused(server: Any, read: str, what: str, page: int, fault: Any, **settings: Any) -> bool:
    """Whether a read with this one fault ends with an error."""
    met = False

    def spoil(at: str, number: int, body: bytes) -> bytes | None:
        nonlocal met
        if (at, number) != (what, page):
            return body
        met = True
        return fault(body)  # type: ignore[no-any-return]

    server.spoil = spoil
    async with source(server.url, page_size=5, group_page_size=3, **settings) as scim:
        try:
            if read == "users":
                await whole(scim.users(Scope()))
            elif read == "groups":
                await whole(scim.groups(Scope()))
            else:
                await whole(scim.memberships([g["id"] for g in server.records["Groups"]]))
        except CrowdsyncError:
            assert met
            return True
    return False


MANY = [*GROUPS, *(group(n, "u1", "u2") for n in range(8, 24))]


@pytest.mark.parametrize("style", long_after(1, ["index", "cursor", "cursor without totals"]))
async def test_every_page_of_every_list_with_every_fault_is_refused(style: str) -> None:
    faults = LIST_FAULTS | (INDEX_FAULTS if style == "index" else CURSOR_FAULTS)
    blind = style == "cursor without totals"
    if blind:
        faults = {name: faults[name] for name in [*BLIND_FAULTS, *CURSOR_FAULTS] if name != "cursor beyond"}
    through, count = [], 0
    async with ScimServer(USERS, MANY, style=style.split()[0], totals=not blind).running() as server:
        for read, what, pages in (("users", "Users", 5), ("groups", "Groups", 8), ("memberships", "Groups", 8)):
            pages = {"Users": 6, "Groups": 11}[what] if style == "index" else pages
            for name, fault in faults.items():
                for page in range(pages - (name == "cursor beyond")):  # beyond the end, nothing is lost
                    count += 1
                    if not await refused(server, read, what, page, fault):
                        through.append((read, name, page))
    assert not through
    print(f"{count} incomplete reads by {style} refused")


async def test_fresh_cursors_without_end_are_refused() -> None:
    server, turn = ScimServer(USERS, [], style="cursor"), iter(range(1000, 2000))
    server.spoil = lambda what, page, body: changed(body, nextCursor=f"c{next(turn)}") if what == "Users" else body
    async with server.running(), source(server.url) as scim:
        with pytest.raises(IncompleteError, match="empty page"):
            await whole(scim.users(Scope()))


async def test_a_cursor_that_comes_twice_is_refused_even_without_ids_and_totals() -> None:
    cursors = iter(["a", "b", "a"])

    async def fetch(cursor: str) -> Part:
        return Part([None], next=next(cursors, None))

    with pytest.raises(IncompleteError, match="same cursor"):
        [page async for page in by_cursor(fetch, "x")]


async def test_every_group_read_by_itself_with_every_fault_is_refused() -> None:
    through, count = [], 0
    async with ScimServer(USERS, GROUPS).running() as server:
        for name in SINGLE_FAULTS:
            for page in range(len(GROUPS)):
                count += 1
                if not await refused(server, "memberships", "Groups/id", page, ONE[name], group_members="get"):
                    through.append((name, page))
    assert not through
    print(f"{count} incomplete member reads refused")


# --- what cannot be read is held, and the rest goes on ---


@pytest.mark.parametrize("how", ["auto", "get"])
@pytest.mark.parametrize("name", [name for name in UNREADABLE if name != "members is deep"])
async def test_one_member_that_makes_no_sense_holds_its_group(how: str, name: str) -> None:
    """Its memberships are not read, it is named with the reason, and every other group is read."""
    server = ScimServer(USERS, GROUPS)
    if how == "get":
        server.spoil = lambda what, at, body: ONE[name](body) if (what, at) == ("Groups/id", 1) else body
    else:

        def spoil(what: str, page: int, body: bytes) -> bytes:
            if what != "Groups":
                return body
            for second in orjson.loads(body)["Resources"]:
                if second["id"] == "g2":
                    body = body.replace(orjson.dumps(second), ONE[name](orjson.dumps(second)))
            return body

        server.spoil = spoil
    async with server.running(), source(server.url, group_members=how) as scim:
        if name == "members twice in two spellings":
            with pytest.raises(IncompleteError, match=r"'[Mm]embers' twice"):
                await read_source(scim, Scope())
            return
        snapshot = await read_source(scim, Scope())
        (held,) = snapshot.held.itertuples(index=False, name=None)
        assert held[:4] == ("group", "g2", "Group 2", "extract")
        assert "member" in held[4]
        assert set(snapshot.groups["id"]) == {g["id"] for g in GROUPS} - {"g2"}
        found = set(snapshot.memberships.astype("str").itertuples(index=False, name=None))
        assert found == {row for row in MEMBERSHIPS if row[0] != "g2"}


async def test_a_record_that_is_no_utf8_is_held_and_the_rest_goes_on() -> None:
    """It says whether its person is disabled, where that can be read."""
    server = ScimServer(USERS, GROUPS)

    def spoil(what: str, page: int, body: bytes) -> bytes:
        for name in (b"Given3", b"Given7", b"Group 2"):
            body = body.replace(b'"%s"' % name, b'"\xff%s"' % name)
        return body

    server.spoil = spoil
    async with server.running(), source(server.url) as scim:
        snapshot = await read_source(scim, Scope())
        found = snapshot.held[["kind", "id", "name", "away"]].itertuples(index=False, name=None)
        assert set(found) == {("user", "u3", "user3", ""), ("user", "u7", "user7", "disabled"), ("group", "g2", "", "")}
        assert len(snapshot.users) == len(USERS) - 2
        assert set(snapshot.groups["id"]) == {g["id"] for g in GROUPS} - {"g2"}


@pytest.mark.parametrize("more", [b'"value":"u9",', b'"type":"Group",', b'"val\\u0075e":"u9",'])
async def test_a_member_that_says_a_key_twice_is_refused(more: bytes) -> None:
    server = ScimServer(USERS, GROUPS)
    server.spoil = lambda what, page, body: body.replace(b'{"value":"u2",', b'{%s"value":"u2",' % more, 1)
    async with server.running(), source(server.url) as scim:
        with pytest.raises(IncompleteError, match=r"says '(value|type)' twice in one object"):
            await read_source(scim, Scope())


# --- answers that are too large ---


@pytest.mark.parametrize("style", ["index", "cursor"])
async def test_pages_that_are_too_large_are_asked_for_again_in_smaller_ones(style: str) -> None:
    most = len(orjson.dumps(GROUPS[:3])) + 300
    async with (
        ScimServer(USERS, MANY, style=style).running() as server,
        Http(server.url, name="test", bearer=TOKEN, max_bytes=most) as http,
    ):
        scim = Scim(http)
        users, groups, memberships = await everything(scim)
        assert (len(users), len(groups)) == (len(USERS), len(MANY))
        assert memberships == {(g["id"], m["value"], m["type"].lower()) for g in MANY for m in g["members"]}
        assert len(server.asked) < 80


async def test_two_groups_that_are_too_large_for_one_answer_are_read_one_by_one() -> None:
    groups = [group(n, *(f"u{m}" for m in range(1, 24))) for n in range(1, 6)]
    most = 2 * len(orjson.dumps(groups[0])) - 50
    async with (
        ScimServer(USERS, groups).running() as server,
        Http(server.url, name="test", bearer=TOKEN, max_bytes=most) as http,
    ):
        assert len((await everything(Scim(http)))[2]) == 5 * 23
    async with (
        ScimServer(USERS, groups).running() as server,
        Http(server.url, name="test", bearer=TOKEN, max_bytes=most) as http,
    ):
        scim = Scim(http, group_members="list")
        with pytest.raises(TooLargeError, match=r"Set `group_page_size` of this source lower, or its `max_megabytes`"):
            await whole(scim.groups(Scope()))


def test_page_sizes_are_settings() -> None:
    settings = ScimSettings(url="http://h", page_size=7, group_page_size=3, group_members="get", max_megabytes=2)
    scim = Scim.open("acme", settings, {"token": "x"})
    assert (scim._sizes, scim._how, scim.clients[0]._max_bytes) == ({"Users": 7, "Groups": 3}, "get", 2 * 2**20)
