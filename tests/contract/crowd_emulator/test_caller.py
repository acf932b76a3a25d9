"""Who is asking: credentials, addresses, versions of the path (sections 1 and 2 of the reference)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import BASE


@pytest.mark.parametrize("credentials", [None, ("app", "wrong"), ("nobody", "app-pw"), ("", ""), ("app", "")])
@pytest.mark.parametrize("path", ["/user?username=jdoe", "/non-existent"])
def test_wrong_credentials_are_401_in_plain_text(crowd: RunningCrowd, credentials: Any, path: str) -> None:
    """2: "401: plain text, exactly `Application failed to authenticate` (not JSON/XML); Basic challenge header"; 3:
    every response carries `X-Embedded-Crowd-Version`.
    """
    answer = httpx.get(crowd.url + BASE + path, auth=credentials)
    assert (answer.status_code, answer.text) == (401, "Application failed to authenticate")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["www-authenticate"].lower().startswith("basic")
    assert "X-Embedded-Crowd-Version" in answer.headers


def test_foreign_address_is_403_in_html(crowd: RunningCrowd, http: httpx.Client) -> None:
    """2: "right credentials, caller's address not in the application's Remote Addresses: 403, HTML error page"; "Crowd
    walks `X-Forwarded-For` from the right over *trusted* proxies and checks the first untrusted address".
    """

    def allow(*addresses: str, proxies: tuple[str, ...] = ()) -> None:
        app = {"name": "app", "password": "app-pw", "remote_addresses": addresses, "trusted_proxies": proxies}
        crowd.configure(directories=[{"name": "d"}], applications=[app])

    allow("10.0.0.0/8")
    answer = http.get("/config/cookie")
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert "127.0.0.1" in answer.text
    assert "is forbidden from making requests to the application, app." in answer.text
    allow("localhost")
    assert http.get("/config/cookie").status_code == 200
    allow("10.0.0.0/8", proxies=("127.0.0.1",))
    seen = {
        "10.1.2.3": 200,
        "10.1.2.3, 11.0.0.1": 403,  # the first untrusted one from the right counts
        "11.0.0.1, 10.1.2.3": 200,
    }
    for forwarded, status in seen.items():
        assert http.get("/config/cookie", headers={"X-Forwarded-For": forwarded}).status_code == status


def test_latest_is_version_1(http: httpx.Client, crowd: RunningCrowd) -> None:
    """1 and 18: "`/latest/` as alias of `/1/`"."""
    latest = http.get(f"{crowd.url}/rest/usermanagement/latest/user?username=jdoe")
    assert latest.json() == http.get("/user?username=jdoe").json()
    assert http.get(f"{crowd.url}/rest/usermanagement/2/user?username=jdoe").status_code == 404
