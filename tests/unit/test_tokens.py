"""`crowdsync tokens`: shown once and kept as a digest, one after another with both alive, and over when revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from connectors.errors import ConfigurationError
from connectors.settings import load
from connectors.store import Store
from deployments import terminal
from deployments.cli import app
from deployments.receiver import receiving

Say = Callable[..., str]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the store that the configuration names."""
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    monkeypatch.setattr(terminal.console, "width", 200)
    (tmp_path / "crowdsync.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path}/store.db"\n'
        '[directory]\nurl = "http://127.0.0.1:1/crowd"\napplication = "x"\n'
        '[sources.okta]\nkind = "push"\nurl = "https://sync.example.org/"\n'
        '[sources.entra]\nkind = "push"\nurl = "https://sync.example.org"\n'
        '[sources.acme]\nkind = "scim"\nurl = "http://127.0.0.1:1"\n',
        encoding="utf-8",
    )
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def say(url: str) -> Say:
    def said(*words: str, code: int = 0) -> str:
        answer = CliRunner().invoke(app, ["tokens", *words])
        assert answer.exit_code == code, (answer.output, answer.exception)
        return answer.output

    return said


def made(text: str) -> tuple[str, str]:
    """What `make` said → the token's id, and the token: the last line, alone."""
    lines = text.splitlines()
    return lines[-2].split()[1], lines[-1]


def test_a_token_is_shown_once_and_kept_as_a_digest(say: Say, url: str, tmp_path: Path) -> None:
    assert "There are none" in say("list")
    said = say("make", "okta", "--days", "9")
    identity, token = made(said)
    assert said.startswith("SCIM address: https://sync.example.org/scim/okta/v2\n")
    assert f"{datetime.now(UTC) + timedelta(days=9):%Y-%m-%d}" in said
    assert len(token) > 50
    assert said.count(token) == 1
    listed = say("list")
    assert identity in listed
    assert "never" in listed
    assert token not in listed
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("store.db*"))
    assert token.encode() not in kept
    assert token.removeprefix("crowdsync_").encode() not in kept
    assert hashlib.sha256(token.encode()).hexdigest().encode() in kept


async def test_one_follows_another_and_a_revoked_one_ends_at_once(say: Say, url: str) -> None:
    old, new, other = (made(say("make", name)) for name in ("okta", "okta", "entra"))
    with Store.open(url) as store:
        async with (
            receiving(load(), store) as gate,
            httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://receiver") as http,
        ):

            async def statuses(source: str = "okta") -> list[int]:
                heads = [{"authorization": f"Bearer {token}"} for _, token in (old, new, other)]
                return [(await http.get(f"/scim/{source}/v2/Users", headers=one)).status_code for one in heads]

            assert await statuses() == [200, 200, 401], "both live, and none of another source"
            assert await statuses("entra") == [401, 401, 200]
            assert await statuses("acme") == [401, 401, 401], "that one pushes nothing"
            assert say("list").count(f"{datetime.now(UTC):%Y-%m-%d}") == 6, "made today, and used"
            assert f"token {old[0]} of okta is revoked" in say("revoke", old[0])
            assert await statuses() == [401, 200, 401]
            (line,) = (line for line in say("list").splitlines() if old[0] in line)
            assert "revoked" in line
            say("revoke", old[0])  # (again: it stays as it was)
            assert await statuses() == [401, 200, 401]


def test_what_cannot_be(say: Say, url: str) -> None:
    for words, says in (
        (("make", "acme"), 'is of kind "scim", which pushes nothing'),
        (("make", "nobody"), "nobody"),
        (("revoke", "12345678"), "no token has the id '12345678'; `crowdsync tokens list` shows them"),
    ):
        answer = CliRunner().invoke(app, ["tokens", *words])
        assert answer.exit_code == 2
        assert says in answer.output, answer.output
    say("make", "okta", "--days", "0", code=2)
    assert "There are none" in say("list")
    with Store.open(url) as store, pytest.raises(ConfigurationError):
        store.revoke_token("x", datetime.now(UTC))


def test_one_that_is_over_is_shown_so(say: Say, url: str) -> None:
    with Store.open(url) as store:
        store.make_token("okta", days=1, now=datetime.now(UTC) - timedelta(days=2))
    assert "(over)" in say("list")
