"""Bodies for Crowd's REST API, a small company to load into its emulator, and the base of its paths."""

from __future__ import annotations

from typing import Any

import httpx

BASE = "/rest/usermanagement/1"
DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
COMPANY: dict[str, Any] = {
    "users": [
        ["Jdoe", "John", "Doe", "John Doe", "jdoe@example.org", True, {"team": ["red", "blue"]}],
        ["asmith", "Ann", "Smith", "Ann Smith", "ann@example.org", True],
        ["gone", "Gone", "Away", "Gone Away", "gone@example.org", False],
        ["mailless", "No", "Mail", "No Mail", "", True],
    ],
    "groups": [["Staff", "Everybody", {"floor": "3"}], ["devs", ""], ["leads"], ["empty"]],
    "memberships": [["jdoe", "staff"], ["asmith", "devs"], ["gone", "staff"], ["asmith", "leads"]],
    "nestings": [["devs", "staff"], ["leads", "devs"]],
}
PASSWORD = "correct horse"


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


def user_body(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "first-name": "F",
        "last-name": "L",
        "display-name": "F L",
        "email": "f@example.org",
        "active": True,
        **more,
    }


def new_user(name: str, **more: Any) -> dict[str, Any]:
    return user_body(name, **{"password": {"value": "pw"}, **more})


def group_body(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "type": "GROUP", "active": True, **more}


def attributes(name: str, *values: Any) -> dict[str, Any]:
    return {"attributes": [{"name": name, "values": list(values)}]}


def restriction(name: str, value: Any, mode: str = "EXACTLY_MATCHES", kind: str = "STRING") -> dict[str, Any]:
    return {
        "restriction-type": "property-search-restriction",
        "property": {"name": name, "type": kind},
        "match-mode": mode,
        "value": value,
    }


def set_password(http: httpx.Client, name: str) -> None:
    http.put("/user/password", params={"username": name}, json={"value": PASSWORD}).raise_for_status()
