"""The faults that the emulator commits when it is told to."""

from __future__ import annotations

import base64
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import BASE, user_body


def test_status_faults(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults(
        [
            {
                "kind": "429",
                "method": "get",
                "path": "/user",
                "nth": [1, 3],
                "retry_after": 2,
                "headers": {"X-RateLimit-Limit": "5"},
            },
            {"kind": "status", "status": 503, "path_regex": "^/group$", "every": 2},
        ]
    )
    answers = [http.get("/user?username=jdoe") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 200, 429, 200]
    assert (answers[0].headers["retry-after"], answers[0].headers["x-ratelimit-limit"]) == ("2", "5")
    assert "X-Embedded-Crowd-Version" in answers[0].headers
    assert [http.get("/group?groupname=devs").status_code for _ in range(4)] == [200, 503, 200, 503]
    assert http.put("/user?username=jdoe", json=user_body("jdoe")).status_code == 204
    assert [fault["fired"] for fault in crowd.counts()["faults"]] == [2, 2]
    crowd.faults([{"kind": 500, "query": "username=asm", "times": 1}])
    assert http.get("/user?username=jdoe").status_code == 200
    assert [http.get("/user?username=asmith").status_code for _ in range(2)] == [500, 200]


def test_probable_faults_are_the_same_in_every_run(crowd: RunningCrowd, http: httpx.Client) -> None:
    runs = []
    for seed in (7, 7, 8):
        crowd.faults([{"kind": 500, "probability": 0.4, "seed": seed}])
        runs.append([http.get("/user?username=jdoe").status_code for _ in range(40)])
    assert runs[0] == runs[1] != runs[2]
    assert 5 < runs[0].count(500) < 30


def test_a_refused_write_is_not_made(crowd: RunningCrowd, http: httpx.Client) -> None:
    before = crowd.digest()
    for rule in ({"kind": 503}, {"kind": "html"}, {"kind": "empty"}):
        crowd.faults([rule])
        http.delete("/user?username=jdoe")
    crowd.faults([{"kind": "reset"}])
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        http.delete("/user?username=jdoe")
    assert crowd.digest() == before


def test_reset_is_a_tcp_reset(crowd: RunningCrowd) -> None:
    crowd.faults([{"kind": "reset"}])
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(
            f"GET /crowd{BASE}/user?username=jdoe HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\r\n".encode()
        )
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)


@pytest.mark.parametrize("kind", ["committed-reset", "committed-silence"])
def test_committed_but_never_answered(crowd: RunningCrowd, http: httpx.Client, kind: str) -> None:
    crowd.faults([{"kind": kind, "method": "DELETE"}])
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout)):
        http.delete("/user?username=jdoe", timeout=0.3)
    assert http.get("/user?username=jdoe").status_code == 404


def test_slow(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults([{"kind": "slow", "delay": 0.3, "times": 1}])
    started = time.monotonic()
    assert http.get("/user?username=jdoe").json()["name"] == "Jdoe"
    assert time.monotonic() - started >= 0.3
    crowd.faults([{"kind": "slow", "delay": 5}])
    with pytest.raises(httpx.ReadTimeout):
        http.get("/user?username=jdoe", timeout=0.2)


@pytest.mark.parametrize("path", ["/search?entity-type=user", "/group/membership"])
def test_truncated_answers_break_the_framing(crowd: RunningCrowd, http: httpx.Client, path: str) -> None:
    crowd.faults([{"kind": "truncated", "fraction": 0.5}])
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(path, headers={"Accept": "application/xml"})
    with http.stream("GET", path, headers={"Accept": "application/xml"}) as answer:
        assert answer.status_code == 200  # the head, and some of the body, do arrive
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


@pytest.mark.parametrize("path", ["/search?entity-type=user", "/group/membership"])
def test_truncated_documents_keep_the_framing(crowd: RunningCrowd, http: httpx.Client, path: str) -> None:
    crowd.faults([{"kind": "truncated-document", "fraction": 0.7}])
    answer = http.get(path, headers={"Accept": "application/xml"})
    assert answer.status_code == 200
    assert answer.content
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(answer.content)


def test_html_and_empty_200(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults([{"kind": "html", "nth": 1}, {"kind": "empty", "nth": 2}])
    page, empty = http.get("/search?entity-type=user"), http.get("/search?entity-type=user")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert (empty.status_code, empty.content, empty.headers["content-type"]) == (200, b"", "application/json")


def test_lying_pages(crowd: RunningCrowd, http: httpx.Client) -> None:
    def names(start: int) -> list[str]:
        listed = http.get(f"/search?entity-type=user&max-results=2&start-index={start}").json()
        return [user["name"] for user in listed["users"]]

    crowd.faults([{"kind": "empty-list"}])
    assert names(0) == []
    crowd.faults([{"kind": "repeated-page", "nth": 2}])
    assert [names(0), names(2)] == [["asmith", "gone"], ["asmith", "gone"]]
    crowd.faults([{"kind": "dropped-items", "drop": 1, "seed": 1}])
    assert len(names(0)) == 1
    crowd.faults([{"kind": "dropped-items", "drop": 1, "path": "/group/membership"}])
    xml = etree.fromstring(http.get("/group/membership", headers={"Accept": "application/xml"}).content)
    assert len(xml) == 3


@pytest.mark.parametrize("rule", [{"kind": "flood"}, {"kind": 500, "metod": "GET"}, {}])
def test_misspelt_rules_are_refused(crowd: RunningCrowd, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refused faults"):
        crowd.faults([rule])


def test_pipelined_requests_are_answered_in_order(crowd: RunningCrowd) -> None:
    crowd.faults([{"kind": "slow", "delay": 0.1, "path": "/group", "times": 1}])
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    asked = ["user?username=jdoe", "group?groupname=devs", "group/membership", "user?username=gone"]
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall("".join(f"GET /crowd{BASE}/{one} {head}\r\n" for one in asked[:-1]).encode())
        connection.sendall(f"GET /crowd{BASE}/{asked[-1]} {head}Connection: close\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    places = [
        received.index(text) for text in (b'"Jdoe" expand', b'"devs" expand', b"</memberships>", b'"gone" expand')
    ]
    assert places == sorted(places)
