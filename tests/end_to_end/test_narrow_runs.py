"""A run about one person reads what concerns that person, and one about everybody whom both sides name as changed, on
real servers; both end where a run that reads everything does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from connectors.idp import SOURCES
from connectors.store import Store
from deployments import terminal
from deployments.cli import app
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import idp as sandbox_idp
from deployments.sandbox import scim as sandbox_scim
from deployments.sandbox.organisation import Organisation, changed, organisation
from deployments.sandbox.provider import toml
from deployments.sandbox.server import members_of
from tests import road
from tests.support.long import long_after

PASSWORD, TOKEN = "pw", "tok"
SIZE: dict[str, Any] = {"users": 60, "groups": 8, "memberships": 200, "seed": 1}
CHANGES = {"seed": 5, "joiners": 2, "leavers": 2, "disabled": 2, "renamed": 2, "updated": 3, "moved": 3}
NARROW = "Read again by key: 1 person and 1 account; all else as at"


@dataclass(frozen=True)
class Place:
    home: Path
    crowd: sandbox_crowd.RunningCrowd
    scim: sandbox_scim.RunningScim

    def say(self, *words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["--config", str(self.home / "crowdsync.toml"), *words])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    def policy(self, text: str = "", store: str = "store") -> None:
        (self.home / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{self.home}/{store}.db"\n[directory]\nurl = "{self.crowd.url}"\n'
            f'application = "crowdsync"\n[sources.acme]\nkind = "scim"\nurl = "{self.scim.url}"\n'
            f"[sources.acme.policy]\n{text}\n",
            encoding="utf-8",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("narrow")
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        os.environ.pop("PREFECT_API_URL", None)
        os.environ |= {"CROWDSYNC_CROWD_PASSWORD": PASSWORD, "CROWDSYNC_SOURCE_TOKEN": TOKEN}
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        scim = stack.enter_context(sandbox_scim.prepared(**SIZE, token=TOKEN))
        yield Place(home, crowd, scim)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 300)
    monkeypatch.setenv("COLUMNS", "300")


def company() -> Organisation:
    return organisation(**SIZE)


def test_before_a_wide_run_everything_is_read(place: Place) -> None:
    place.policy()
    said = place.say("sync", "--person", company().people[0].username)
    assert "Everything was read, because no run yet has read both sides whole (one whose " in said
    assert len(place.crowd.state()["users"]) == 1
    place.say("sync")
    place.say("sync")  # now the store knows what the first one made of Crowd


def test_nothing_to_do_for_one_person_is_a_few_requests(place: Place) -> None:
    for one in company().people[:3]:
        for asked in (one.id, one.username.upper(), one.email):
            place.crowd.reset_counts()
            place.scim.reset_counts()
            said = place.say("sync", "--person", asked)
            assert NARROW in said
            assert f"{one.username} is in scope, and the Crowd account {one.username} is as" in said
            counts = place.crowd.counts()
            assert (counts["reads"], counts["writes"]) == (3, 0), counts
            lists = [route for route in place.scim.counts() if route in ("GET /Users", "GET /Groups")]
            assert place.scim.counts().get("GET /Users", 0) == 0, lists


def test_one_after_the_other_they_end_where_a_wide_run_does(place: Place) -> None:
    before = {person.id: person for person in company().people}
    place.scim.change(**CHANGES)
    after = {person.id: person for person in changed(company(), **CHANGES).people}
    widths = []
    groups: dict[tuple[bool, str], set[str]] = {}
    for now, whole in ((False, company()), (True, changed(company(), **CHANGES))):
        for team, members in zip(whole.teams, members_of(whole), strict=True):
            for member in members:
                groups.setdefault((now, member), set()).add(team.id)
    different = {
        key
        for key in {*before, *after}
        if before.get(key) != after.get(key) or groups.get((False, key)) != groups.get((True, key))
    }
    for key in [*sorted(different), *sorted(after)[:5]]:
        place.crowd.reset_counts()
        said = place.say("sync", "--person", key if key in after else before[key].username)
        widths.append("Read again by key" in said)
        if widths[-1]:
            assert place.crowd.counts()["reads"] <= 4, said
        else:
            print(said)
    assert sum(widths) >= len(widths) - 1, widths
    place.crowd.reset_counts()
    assert "nothing to do" in place.say("sync")
    assert place.crowd.counts()["writes"] == 0


def test_by_hand_in_crowd_is_put_right(place: Place) -> None:
    person = changed(company(), **CHANGES).people[5]
    state = road.content(place.crowd)
    spoilt = {**state, "users": [{**u, "active": False} if u["name"] == person.username else u for u in state["users"]]}
    road.reload(place.crowd, spoilt)
    assert NARROW in place.say("sync", "--person", person.id)
    assert road.content(place.crowd) == state


def test_what_cannot_be_told_from_a_few_makes_a_run_wide(place: Place) -> None:
    key = changed(company(), **CHANGES).people[7].id
    for words, why in (
        (("sync", "--person", "nobody-at-all"), "has nobody with the id, username or e-mail address 'nobody-at-all'"),
        (("sync", "--person", key, "--full"), "nothing to do"),
    ):
        place.scim.reset_counts()
        said = place.say(*words, code=0 if "--full" in words else 2)
        assert ("GET /Users" in place.scim.counts()) == ("--full" in words)
        assert why in said
        assert "Read again by key" not in said
    place.policy("limits.user_create.absolute = 100")
    said = place.say("sync", "--person", key)
    assert "Everything was read, because the policy is another one than that of the last wide run." in said
    place.say("sync")
    assert "Read again by key" in place.say("sync", "--person", key)
    with Store.open(f"sqlite:///{place.home}/store.db") as store:
        assert store.verify_audit() is None


def test_limits_count_what_narrow_runs_before_took_away(place: Place) -> None:
    """Two may go in a day, one by one: the third one waits. The store has read them as active, all three."""
    place.policy("limits.user_deactivate.absolute = 2", store="limits")
    place.crowd.clear()
    place.say("sync")
    place.say("sync")
    before = {person.id for person in changed(company(), **CHANGES).people if person.active}
    leaving = {**CHANGES, "disabled": CHANGES["disabled"] + 4}
    place.scim.change(**leaving)
    whole = changed(changed(company(), **CHANGES), **leaving)
    away = sorted(person.id for person in whole.people if person.id in before and not person.active)[:3]
    said = [place.say("sync", "--person", key, code=0 if number < 2 else 3) for number, key in enumerate(away)]
    assert all(NARROW in one for one in said[:2]), said
    active = [int(one.partition("active accounts ")[2].split()[0]) for one in said]
    assert active == [active[0], active[0] - 1, active[0] - 2]
    assert "judged over everybody (user_deactivate: 3 of" in said[2]


# One group


def test_one_group_after_the_other_ends_where_a_wide_run_does(place: Place) -> None:
    """Whoever moved is read again, and who is in a group on one side alone; all others are as the store has them."""
    place.policy(store="groups")
    place.crowd.clear()
    place.say("sync")
    place.say("sync")
    names = [group["name"] for group in place.crowd.state()["groups"]]

    def run(name: str) -> tuple[str, int]:
        place.crowd.reset_counts()
        place.scim.reset_counts()
        said, crowd, scim = place.say("sync", "--group", name), place.crowd.counts(), place.scim.counts()
        narrow = f"Read again by key: who is in {name} on both sides" in said
        assert narrow == ("GET /Users" not in scim), said
        if narrow:  # the group, and where it is nested the one above; and whoever is read again
            moved = sum(crowd["requests"].get(path, 0) for path in ("GET /user", "GET /user/group/direct"))
            assert crowd["reads"] - moved <= 10, crowd
            assert scim["GET /Groups/{id}"] <= 3, scim
            assert moved <= 30, crowd
        return said, crowd["writes"]

    for name in names:
        said, writes = run(name.upper())  # (who is disabled is in no group of Crowd, and read again)
        assert ("nothing to do" in said, "Read again by key" in said, writes) == (True, True, 0), said

    place.scim.change(seed=11, moved=5, renamed=2)
    before, done = road.content(place.crowd), 0
    shown = [place.say("sync", "--group", name, "--dry-run") for name in names]
    assert all("Read again by key" in one for one in shown)
    assert any("take out of group" in one for one in shown)
    assert road.content(place.crowd) == before
    for name in names:
        said, writes = run(name)
        assert "Read again by key" in said
        done += writes
        assert run(name)[1] == 0
    assert done > 5
    assert before["memberships"] != road.content(place.crowd)["memberships"]
    said = place.say("sync")
    assert "rename" in said
    assert "group " not in said.partition("before")[2], said

    place.say("sync")
    right = road.content(place.crowd)
    group = right["memberships"][0][1]
    outsider = next(user["name"] for user in right["users"] if [user["name"], group] not in right["memberships"])
    road.reload(place.crowd, {**right, "memberships": [[outsider, group], *right["memberships"][1:]]})
    said, writes = run(group)
    assert ("Read again by key" in said, writes) == (True, 2), said
    assert road.content(place.crowd) == right


def test_what_a_group_does_not_tell_makes_its_run_wide(place: Place) -> None:
    place.scim.reset_counts()
    said = place.say("sync", "--group", "nobody-at-all", code=2)
    assert "neither Crowd nor the source has a group 'nobody-at-all'" in said
    assert "GET /Groups" in place.scim.counts(), "nobody says so without having looked"
    place.scim.change(seed=12, renamed_groups=8)
    said = place.say("sync", "--group", place.crowd.state()["groups"][0]["name"])
    assert "of acme is gone or changed." in said


# All who changed


DELTA = ("entra", "okta")
"""One whose delta says who joined and left a group, one whose has the members of a group whole."""


@dataclass(frozen=True)
class Company:
    """A source that tells what changed, and a Crowd with events, in step with it."""

    place: Place
    idp: sandbox_idp.RunningIdp

    def run(self, *words: str, code: int = 0) -> tuple[str, dict[str, int]]:
        self.place.crowd.reset_counts()
        return self.place.say("sync", *words, code=code), self.place.crowd.counts()


@contextmanager
def telling(place: Place, kind: str, monkeypatch: pytest.MonkeyPatch, policy: str = "") -> Iterator[Company]:
    place.crowd.configure(
        directories=[{"name": "d", "events": True}],
        applications=[{"name": "crowdsync", "password": PASSWORD}],
        events={"replay": 0},
    )
    with sandbox_idp.running(kind, **SIZE) as idp:
        for name, value in idp.secrets.items():
            monkeypatch.setenv(SOURCES[kind].settings.model_fields[f"{name}_env"].default, value)
        store = f"{kind}{len(policy)}"
        (place.home / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{place.home}/{store}.db"\n[directory]\nurl = "{place.crowd.url}"\n'
            f'application = "crowdsync"\n[sources.acme]\n{toml(idp.settings)}[sources.acme.policy]\n{policy}\n',
            encoding="utf-8",
        )
        yield Company(place, idp)


@pytest.mark.parametrize("kind", long_after(1, DELTA))
def test_who_changed_is_read_again_and_nobody_else(place: Place, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with telling(place, kind, monkeypatch) as company:
        run, idp = company.run, company.idp
        assert "Everything was read, because no run about everybody" in run()[0]
        assert "More was read, because links of groups were made or changed since then" in run()[0]
        idp.reset_counts()
        said, counts = run()
        assert "Neither acme nor Crowd shows anybody who changed since" in said
        assert (counts["reads"], counts["writes"]) == (1, 0), counts
        assert sum(count for route, count in idp.counts().items() if route != "bytes") <= 6, idp.counts()

        idp.change(seed=3, joiners=1, disabled=1, renamed=1, updated=1)
        before = road.content(place.crowd)
        said, counts = run()
        assert "Changed since " in said
        assert "applied" in said
        assert road.content(place.crowd) != before
        assert counts["reads"] < 40, counts
        after = road.content(place.crowd)
        assert "Changed since " in run()[0]  # what that wrote, once more
        assert "nothing to do" in run()[0]  # (there are sources that name the last minutes again)

        name = after["users"][7]["name"]
        spoilt = [{**user, "active": not user["active"]} if user["name"] == name else user for user in after["users"]]
        by_hand(place.crowd, name, next(user for user in spoilt if user["name"] == name))
        said, counts = run()
        whom = "1 person and 1 account" if kind == "entra" else ""  # (Okta names the last minutes again)
        assert f"and read again by key: {whom}" in said
        assert counts["writes"] == 1
        assert road.content(place.crowd) == after
        idp.change(seed=4, disabled=1)
        by_hand(place.crowd, name, next(user for user in spoilt if user["name"] == name))
        said, _ = run("--full")
        assert "that had changed, all had been named as changed." in said
        assert "nothing to do" in run("--full")[0]


@pytest.mark.parametrize("events", [False, True])
def test_where_nobody_can_be_named_everything_is_compared(place: Place, events: bool) -> None:
    """SCIM names nobody, nor does a Crowd without events: what they answer is compared with what they had answered."""
    place.crowd.configure(
        directories=[{"name": "d", "events": events}],
        applications=[{"name": "crowdsync", "password": PASSWORD}],
        events={"replay": 0},
    )
    place.policy(store=f"compared{events}")

    def run(*words: str) -> tuple[str, dict[str, int], int]:
        place.crowd.reset_counts()
        place.scim.reset_counts()
        said = place.say("sync", *words)
        asked = {route: count for route, count in place.scim.counts().items() if route != "bytes"}
        return said, place.crowd.counts(), sum(asked.values())

    assert "Everything was read, because no run about everybody" in run()[0]
    assert "Everything was read, because" in run()[0]
    _, counts, asked = run("--full")
    whole = counts["reads"] - 1  # (such a run asks for Crowd's events besides)
    for _ in range(2):
        said, counts, again = run()
        assert "Neither acme nor Crowd shows anybody who changed since" in said
        assert "nothing to do" in said
        assert (counts["reads"], counts["writes"], again) == (1 if events else whole, 0, asked), counts
    state = road.content(place.crowd)
    name = next(user["name"] for user in state["users"] if user["active"])
    by_hand(place.crowd, name, next({**user, "active": False} for user in state["users"] if user["name"] == name))
    said, counts, again = run()
    assert ("1 person and 1 account" if events else "because Crowd does not answer as it did") in said
    assert road.content(place.crowd) == state
    place.scim.change(seed=7, disabled=1)
    run()
    said, counts, again = run()
    assert "nothing to do" in said
    place.scim.change(seed=8, disabled=1)
    said, counts, again = run()
    assert "and read again by key: 1 person and 1 account" in said
    lists = {route: count for route, count in place.scim.counts().items() if route in ("GET /Users", "GET /Groups")}
    assert sum(lists.values()) <= asked < again, "the list, once, and one by key"
    assert counts["writes"] == 1
    assert not events or counts["reads"] < whole, "nobody else is read of Crowd"
    place.scim.change(seed=9, disabled=1, updated=25)
    said, counts, again = run()
    assert ("more than 20 (reads.by_key_percent)" if events else "because Crowd does not answer") in said
    assert again == asked, "nothing is asked for twice"


def test_what_must_not_be_overlooked_is_said_though_nobody_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People who left and stay by the policy, and people who are held: by every run, not only by one that sees them."""
    policy = 'operations.user_deactivate = "off"\nusernames.rules = [{pattern = "[.@].*$", replacement = ""}]'
    with telling(place, "entra", monkeypatch, policy) as company:
        company.run()
        company.run()
        said, counts = company.run(code=5)
        assert counts["reads"] == 1
        assert "2 records have been held for 3 runs" in said
        company.idp.change(seed=6, disabled=3)
        said, _ = company.run(code=5)
        assert "More was read, because operations that the policy keeps from being done are told of everybody" in said
        stay = "people who left keep their account as it is: operations.user_deactivate is 'off'"
        assert stay in said
        for runs in (5, 6):
            said, counts = company.run(code=5)
            assert "Neither acme nor Crowd shows anybody" in said
            assert counts["reads"] == 1
            assert stay in said
            assert f"2 records have been held for {runs} runs" in said


def by_hand(crowd: sandbox_crowd.RunningCrowd, name: str, wanted: dict[str, Any]) -> None:
    """Somebody changes an account in Crowd."""
    body = {"name": name, "active": wanted["active"], "first-name": wanted["first_name"]}
    body |= {"last-name": wanted["last_name"], "display-name": wanted["display_name"], "email": wanted["email"]}
    answer = httpx.put(
        f"{crowd.url}/rest/usermanagement/1/user", params={"username": name}, json=body, auth=("crowdsync", PASSWORD)
    )
    assert answer.status_code == 204, answer.text
