"""JSON and XML: what is asked for, what goes in, what comes out (sections 3 and 4 of the reference)."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import (
    BASE,
    DECLARATION,
    attributes,
    group_body,
    named,
    new_user,
    user_body,
)


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (None, 200, "application/xml"),
        ("*/*", 200, "application/xml"),
        ("application/json", 200, "application/json"),
        ("application/xml", 200, "application/xml"),
        ("application/json, */*", 200, "application/json"),
        ("application/json;q=0.5, application/xml", 200, "application/xml"),
        ("text/html", 406, "text/html;charset=utf-8"),
    ],
)
def test_accept_decides_the_form(crowd: RunningCrowd, accept: str | None, status: int, kind: str) -> None:
    """3: "Both `application/json` and `application/xml` in and out … No Accept means XML"; "`Content-Type:
    application/json` without a charset".
    """
    with httpx.Client(auth=("app", "app-pw")) as client:
        del client.headers["accept"]
        answer = client.get(
            f"{crowd.url}{BASE}/user?username=jdoe", headers={"Accept": accept} if accept is not None else {}
        )
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)


def test_user_in_json(http: httpx.Client, crowd: RunningCrowd) -> None:
    """4.1: the user in JSON, member by member; "`name`: kept in the case it was created with"; 6: "either username or
    key".
    """
    before = int(time.time() * 1000)
    user = http.get("/user?username=JDOE").json()
    link = f"{crowd.url}{BASE}/user"
    key, created, updated = user.pop("key"), user.pop("created-date"), user.pop("updated-date")
    assert key.startswith("32769:")
    assert before - 60_000 < created == updated <= before
    assert user == {
        "expand": "attributes",
        "link": {"href": f"{link}?username=Jdoe", "rel": "self"},
        "name": "Jdoe",
        "first-name": "John",
        "last-name": "Doe",
        "display-name": "John Doe",
        "email": "jdoe@example.org",
        "password": {"link": {"href": f"{link}/password?username=Jdoe", "rel": "edit"}},
        "active": True,
        "attributes": {
            "attributes": [],
            "link": {"href": f"{link}/attribute?username=Jdoe", "rel": "self"},
        },
    }
    by_key = http.get("/user", params={"key": key, "expand": "attributes"}).json()
    assert by_key["name"] == "Jdoe"
    assert [(a["name"], a["values"]) for a in by_key["attributes"]["attributes"]] == [("team", ["red", "blue"])]


def test_user_and_group_in_xml(http: httpx.Client) -> None:
    """4.5: the user and the group in XML; "`name` is an XML attribute"."""
    http.headers["Accept"] = "application/xml"
    answer = http.get("/user?username=jdoe&expand=attributes")
    assert answer.text.startswith(DECLARATION)
    user = etree.fromstring(answer.content)
    assert (user.tag, user.get("name"), user.get("expand")) == ("user", "Jdoe", "attributes")
    assert (user.findtext("first-name"), user.findtext("active")) == ("John", "true")
    assert [value.text for value in user.iterfind("attributes/attribute/values/value")] == ["red", "blue"]
    assert user.find("password/link") is not None
    group = etree.fromstring(http.get("/group?groupname=devs").content)
    assert (group.get("name"), group.findtext("type"), group.findtext("active")) == ("devs", "GROUP", "true")
    assert group.findtext("description") == ""


def test_description_is_missing_when_null_and_empty_when_empty(http: httpx.Client) -> None:
    """4.2: "`description` is missing when null, `""` when empty"."""
    assert http.get("/group?groupname=staff").json()["description"] == "Everybody"
    assert http.get("/group?groupname=devs").json()["description"] == ""
    assert "description" not in http.get("/group?groupname=leads").json()


def test_empty_list_in_xml_is_exact(http: httpx.Client) -> None:
    """4.4: "empty list exactly `<users expand="user"/>`"."""
    http.headers["Accept"] = "application/xml"
    assert http.get("/group/user/direct?groupname=empty").text == f'{DECLARATION}<users expand="user"/>'
    assert http.get("/user/group/direct?username=mailless").text == f'{DECLARATION}<groups expand="group"/>'


def test_hostile_text_survives_both_forms(http: httpx.Client) -> None:
    """3: "names can hold spaces, `&`, `+`, non-ASCII"; "`Content-Length` in bytes, UTF-8"."""
    name, text = 'a&b <c> "d" é 名+%/?#', "x < y & z > \"q\" 'r' \t\n ]]> \U0001f600"
    http.post("/user", json=new_user(name, **{"display-name": text})).raise_for_status()
    http.post("/group", json=group_body(name, description=text)).raise_for_status()
    http.post("/user/group/direct", params={"username": name}, json=named(name)).raise_for_status()
    user = http.get("/user", params={"username": name}).json()
    assert (user["name"], user["display-name"]) == (name, text)
    assert httpx.get(user["link"]["href"], auth=("app", "app-pw")).status_code == 200
    xml = {"Accept": "application/xml"}
    in_xml = etree.fromstring(http.get("/user", params={"username": name}, headers=xml).content)
    assert (in_xml.get("name"), in_xml.findtext("display-name")) == (name, text)
    memberships = etree.fromstring(http.get("/group/membership", headers=xml).content)
    found = {m.get("group"): [u.get("name") for u in m.iterfind("users/user")] for m in memberships}
    assert found[name] == [name]


def test_xml_goes_in(http: httpx.Client, crowd: RunningCrowd) -> None:
    """3: "Request and response formats are independent (XML in, JSON out …)"; the XML forms of 4.5, 9 and 10."""

    def send(method: str, path: str, text: str) -> httpx.Response:
        answer = http.request(
            method, path, content=text.encode(), headers={"Content-Type": "application/xml; charset=utf-8"}
        )
        assert answer.is_success, answer.text
        return answer

    made = send(
        "POST",
        "/user",
        "<user name='new'><first-name>N</first-name><last-name>U</last-name><display-name>N U</display-name>"
        "<email>n@u</email><password><value>pw</value></password><active>true</active>"
        "<attributes><attribute name='a'><values><value>1</value></values></attribute></attributes></user>",
    )
    assert made.json()["name"] == "new"  # XML in, JSON out
    send("POST", "/authentication?username=new", "<password><value>pw</value></password>")
    send("PUT", "/user/password?username=new", "<password><value>pw2</value></password>")
    send(
        "POST",
        "/user/attribute?username=new",
        "<attributes><attribute name='b'><values><value>x</value><value>y</value></values></attribute></attributes>",
    )
    send("POST", "/group", "<group name='g'><description/><type>GROUP</type><active>true</active></group>")
    send("POST", "/user/group/direct?username=new", "<group name='g'/>")
    send("POST", "/group/user/direct?groupname=g", "<user name='jdoe'/>")
    send("POST", "/group/child-group/direct?groupname=g", "<group name='staff'/>")
    send("POST", "/user/rename?username=new", "<rename><new-name>newer</new-name></rename>")
    session = send(
        "POST",
        "/session",
        "<authentication-context><username>newer</username><password>pw2</password><validation-factors>"
        "<validation-factor><name>remote_address</name><value>1.2.3.4</value></validation-factor>"
        "</validation-factors></authentication-context>",
    ).json()
    send(
        "POST",
        f"/session/{session['token']}",
        "<validation-factors><validation-factor><name>remote_address</name><value>1.2.3.4</value>"
        "</validation-factor></validation-factors>",
    )
    found = send(
        "POST",
        "/search?entity-type=user",
        "<boolean-search-restriction boolean-logic='or'><restrictions><property-search-restriction><property>"
        "<name>name</name><type>STRING</type></property><match-mode>STARTS_WITH</match-mode><value>NEW</value>"
        "</property-search-restriction><property-search-restriction><property><name>active</name>"
        "<type>BOOLEAN</type></property><match-mode>EXACTLY_MATCHES</match-mode><value>false</value>"
        "</property-search-restriction></restrictions></boolean-search-restriction>",
    )
    assert [user["name"] for user in found.json()["users"]] == ["gone", "newer"]
    everyone = send("POST", "/search?entity-type=user", "<null-search-restriction/>").json()["users"]
    assert len(everyone) == 5
    state = crowd.state()
    new = next(user for user in state["users"] if user["name"] == "newer")
    assert (new["attributes"]["a"], new["attributes"]["b"]) == (["1"], ["x", "y"])
    assert ["newer", "g"] in state["memberships"]
    assert ["Staff", "g"] in state["nestings"]


@pytest.mark.parametrize(
    ("kind", "text", "status"),
    [
        ("application/xml", "<user", 400),
        ("application/xml", "<group name='x'/>", 400),
        ("application/xml", "<!DOCTYPE user [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><user name='&e;'/>", 400),
        ("application/json", "{", 400),
        ("application/json", "", 400),
        ("application/json; charset=utf-8", json.dumps(new_user("new")), 201),
        ("application/x-www-form-urlencoded", "name=x", 415),
        (None, json.dumps(new_user("new")), 415),
    ],
)
def test_bodies_are_read_strictly(http: httpx.Client, kind: str | None, text: str, status: int) -> None:
    """3: `Content-Type` chooses the form; an unreadable body is 400, and another form 415 (not in the reference: the
    stricter reading).
    """
    headers = {} if kind is None else {"Content-Type": kind}
    assert http.post("/user", content=text.encode(), headers=headers).status_code == status


def test_memberships_are_streamed_with_every_group(http: httpx.Client) -> None:
    """4.5: "every group appears, with both `users` and `groups` present (possibly empty); direct members only"; 3:
    "XML-only".
    """
    answer = http.get("/group/membership", headers={"Accept": "application/xml"})
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == (
        f'{DECLARATION}<memberships><membership group="devs"><users><user name="asmith"/></users>'
        '<groups><group name="leads"/></groups></membership>'
        '<membership group="empty"><users/><groups/></membership>'
        '<membership group="leads"><users><user name="asmith"/></users><groups/></membership>'
        '<membership group="Staff"><users><user name="gone"/><user name="Jdoe"/></users>'
        '<groups><group name="devs"/></groups></membership></memberships>'
    )
    assert http.get("/group/membership").status_code == 406  # asked for JSON only


def test_a_long_stream_arrives_whole(crowd: RunningCrowd, http: httpx.Client) -> None:
    """17: "one `GET /group/membership` (streamed XML) instead of N calls"."""
    names = [f"member-{i:05}" for i in range(5000)]
    crowd.load(
        users=[[name, "", "", "", "", True] for name in names],
        groups=[[f"big-{i}"] for i in range(5)],
        members={f"big-{i}": names for i in range(5)},
    )
    with http.stream("GET", "/group/membership", headers={"Accept": "application/xml"}) as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            if len(pieces) == 2:  # others are served meanwhile, also by a server that waits for this reader
                alone = httpx.get(f"{crowd.url}{BASE}/config/cookie", auth=("app", "app-pw"), timeout=5)
                assert alone.status_code == 200
    listed: Any = etree.fromstring(b"".join(pieces))
    assert [len(m.find("users")) for m in listed if m.get("group").startswith("big-")] == [5000] * 5
    assert listed[0].findall("users/user")[4999].get("name") == names[4999]


def test_head_is_refused_and_leaves_no_broken_connection(http: httpx.Client) -> None:
    assert http.head("/user?username=jdoe").status_code == 405
    assert http.get("/user?username=jdoe").status_code == 200


def test_rendered_forms_follow_every_change(http: httpx.Client) -> None:
    def memberships() -> str:
        return http.get("/group/membership", headers={"Accept": "application/xml"}).text

    def page() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get("/search?entity-type=user&expand=user,attributes&restriction=").json()[
            "users"
        ]
        return found

    memberships(), page()
    http.post("/user/rename?username=jdoe", json={"new-name": "zoe"})
    assert 'user name="zoe"' in memberships()
    assert "Jdoe" not in memberships()
    assert [user["name"] for user in page()] == ["asmith", "gone", "mailless", "zoe"]
    http.put("/user?username=zoe", json=user_body("zoe", email="z@z"))
    assert page()[3]["email"] == "z@z"
    http.post("/user/attribute?username=zoe", json=attributes("team", "green"))
    assert page()[3]["attributes"]["attributes"][0]["values"] == ["green"]
    http.delete("/group/user/direct?groupname=staff&username=zoe")
    assert "zoe" not in memberships()
    http.post("/group/user/direct?groupname=staff", json=named("zoe"))
    http.delete("/user?username=zoe")
    assert "zoe" not in memberships()
    http.delete("/group/child-group/direct?groupname=staff&child-groupname=devs")
    assert 'group name="devs"' not in memberships()
    http.delete("/group?groupname=leads")
    assert "leads" not in memberships()
    assert http.get("/user/group/direct?username=asmith").json()["groups"][0]["name"] == "devs"
