"""Pages, expansion, and both languages of search (section 9 of the reference)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.sandbox.crowd import RunningCrowd
from deployments.sandbox.crowd_cql import from_cql
from deployments.sandbox.crowd_data import Refusal
from tests.support.crowd_bodies import restriction


def test_paging(crowd: RunningCrowd, http: httpx.Client) -> None:
    """9: "Default `max-results` 1000"; "`-1` = all"; "Page past the end: empty list, 200"; "Order: by name in
    practice"; "Empty or absent `restriction` = everything".
    """
    crowd.load(users=[[f"u{i:04}", "", "", "", "", True] for i in range(1100)])

    def names(query: str) -> list[str]:
        return [one["name"] for one in http.get(f"/search?entity-type=user{query}").json()["users"]]

    everybody = names("&max-results=-1")
    assert everybody == sorted(everybody, key=str.lower)
    assert len(everybody) == 1104
    assert names("") == everybody[:1000]
    assert names("&start-index=1000") == everybody[1000:]
    assert names("&start-index=7&max-results=3") == everybody[7:10]
    assert names("&start-index=5000") == []
    assert names("&max-results=99999&restriction=") == everybody
    assert names("&restriction=name%3Du*&start-index=2&max-results=2") == ["u0002", "u0003"]
    members = "/group/user/nested?groupname=staff&start-index=1&max-results=1"
    assert [u["name"] for u in http.get(members).json()["users"]] == ["gone"]


def test_expand(http: httpx.Client) -> None:
    """9: "`expand=user` / `expand=group` turns name+link into full entities; `expand=user,attributes` adds
    attributes"; 4.1: the minimal form.
    """

    def first(expand: str) -> dict[str, Any]:
        listed = http.get("/search", params={"entity-type": "user", "expand": expand, "start-index": 2}).json()
        assert listed["expand"] == "user"
        found: dict[str, Any] = listed["users"][0]
        return found

    assert first("").keys() == {"name", "link"}
    assert first("user")["attributes"]["attributes"] == []
    assert first("user,attributes")["attributes"]["attributes"][0]["name"] == "team"
    group = http.get("/search?entity-type=group&expand=group,attributes&start-index=3").json()["groups"][0]
    assert (group["name"], group["attributes"]["attributes"][0]["values"]) == ("Staff", ["3"])


@pytest.mark.parametrize(
    ("cql", "names"),
    [
        ("name = jdoe", ["Jdoe"]),
        ('name="JDOE"', ["Jdoe"]),
        ("name = j*", ["Jdoe"]),
        ("name = *smith", ["asmith"]),
        ("displayName = *o*", ["gone", "Jdoe", "mailless"]),
        ('displayName = "Ann Smith"', ["asmith"]),
        ("firstName=John or lastName=smith", ["asmith", "Jdoe"]),
        ("active = false", ["gone"]),
        ("active=true and (name=gone or name=jdoe)", ["Jdoe"]),
        ("name=gone or name=jdoe and active=false", ["gone"]),
        ("team = RED", ["Jdoe"]),
        ("email = *@example.org AND active = true", ["asmith", "Jdoe"]),
        ("createdDate > 2020-01-01", ["asmith", "gone", "Jdoe", "mailless"]),
        ("updatedDate < 2020-01-01", []),
    ],
)
def test_cql(http: httpx.Client, cql: str, names: list[str]) -> None:
    """9: "operators `=`, `<`, `>`; `and`, `or`, parentheses … `*` at start and/or end of a value"; "Any other name is
    taken as a custom attribute"; "Matching is case-insensitive".
    """
    found = http.get("/search", params={"entity-type": "user", "restriction": cql}).json()
    assert [user["name"] for user in found["users"]] == names


@pytest.mark.parametrize("cql", ["name =", "= x", "name = a b", "(name = a", "name ~ a", "not name = a", 'n="'])
def test_bad_cql(cql: str) -> None:
    """9: "A bad restriction: 400 ILLEGAL_ARGUMENT"; "no negation"."""
    with pytest.raises(Refusal):
        from_cql("user", cql)


def test_search_trees(http: httpx.Client) -> None:
    """9: "POST `/search` … with a restriction tree", in JSON; 4.6: "emulator: accept both" `match-mode` and
    `matchMode`.
    """

    def names(tree: dict[str, Any], kind: str = "user") -> list[str]:
        found = http.post("/search", params={"entity-type": kind}, json=tree)
        return [one["name"] for one in found.json()[f"{kind}s"]]

    assert names(restriction("email", "EXAMPLE", "CONTAINS")) == ["asmith", "gone", "Jdoe"]
    assert names(restriction("email", None, "NULL")) == ["mailless"]
    assert names(restriction("active", False, kind="BOOLEAN")) == ["gone"]
    assert names(restriction("team", "blue")) == ["Jdoe"]
    assert names(restriction("name", "s", "STARTS_WITH"), "group") == ["Staff"]
    older = restriction("name", "jdoe")
    older["matchMode"] = older.pop("match-mode")
    assert names(older) == ["Jdoe"]
    both = {
        "restriction-type": "boolean-search-restriction",
        "boolean-logic": "and",
        "restrictions": [restriction("name", "e", "CONTAINS"), restriction("active", "true", kind="BOOLEAN")],
    }
    assert names(both) == ["Jdoe", "mailless"]
    assert len(names({"restriction-type": "null-search-restriction"})) == 4
