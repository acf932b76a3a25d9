"""Real time loses nothing: the receiver and the process that reacts are killed again and again while a company changes,
its identity providers tell of it as real ones do (twice, out of order, or not at all), and Prefect is away.

    CROWDSYNC_EVENTS    changes (100); CROWDSYNC_KILLS: SIGKILLs of each of the two processes (2)
"""

from __future__ import annotations

import os
import random
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.model import ID_ATTRIBUTE, crowd_id
from connectors.store import Store
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from deployments.sandbox.organisation import Organisation, changed, organisation
from flows.road import SyncRequest, walk
from tests.support.deliveries import SECRET, with_signature
from tests.support.forked import Forked, Started, forked
from tests.support.organisations import different
from tests.support.scim_push import GROUP, PATCH, USER

EVENTS, KILLS = int(os.environ.get("CROWDSYNC_EVENTS", "100")), int(os.environ.get("CROWDSYNC_KILLS", "2"))
PEOPLE = 60 if EVENTS < 1000 else 150
SIZE: dict[str, Any] = {"users": PEOPLE, "groups": 8, "memberships": PEOPLE * 3}
CHANGES = {"joiners": 12, "leavers": 8, "disabled": 12, "enabled": 12, "renamed": 12, "updated": 20, "moved": 20}
LOST, TWICE, PUSHED, BY_HAND, REGROUPED = 0.1, 0.3, 0.15, 0.03, 0.004
"""Shares of the changes: of which nobody is told, of which more than once, that are pushed by SCIM, that are done in
Crowd by hand, and that rename a group."""
SENDERS = 6
PASSWORD, TOKEN, PING = "pw", "tok", "p" * 20


@dataclass
class Sent:
    """One delivery of the provider's: whom it names, and what became of it."""

    id: str
    ids: tuple[str, ...]
    group: str = ""
    tries: int = 0
    answered: int = 0


@dataclass
class Sender:
    """The identity provider's own queue: whatever was not answered 2xx is sent again, in any order."""

    address: str
    rng: random.Random
    queue: list[Sent] = field(default_factory=list)
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: bool = False

    def put(self, one: Sent, times: int) -> None:
        with self.lock:
            self.queue += [one] * times

    @property
    def idle(self) -> bool:
        with self.lock:
            return not self.queue and not self.under_way

    def work(self) -> None:
        with httpx.Client(timeout=10) as http:
            while not self.ended:
                with self.lock:
                    one = self.queue.pop(self.rng.randrange(len(self.queue))) if self.queue else None
                    self.under_way += one is not None
                if one is None:
                    time.sleep(0.01)
                    continue
                data = {"group": one.group} if one.group else {"users": list(one.ids)}
                made = with_signature({"type": "user.updated", "data": data}, sent=one.id, stamp=str(int(time.time())))
                status = 0
                with suppress(httpx.HTTPError):
                    status = http.post(
                        f"{self.address}/webhooks/acme", content=made.body, headers=dict(made.headers)
                    ).status_code
                with self.lock:
                    self.under_way -= 1
                    one.tries += 1
                    if 200 <= status < 300:
                        one.answered += 1
                    else:
                        assert status in (0, 502, 503, 504), status
                        self.queue.append(one)
                if not status:
                    time.sleep(0.02)


@dataclass
class Pusher:
    """An identity provider that pushes by SCIM, one request after the other: each until it is answered 2xx."""

    address: str
    token: str
    rng: random.Random
    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    """username → what it pushed of them, with their id in the receiver"""
    group: str = ""
    members: set[str] = field(default_factory=set)
    requests: int = 0
    again: int = 0

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        end = time.monotonic() + 120
        while True:
            assert time.monotonic() < end, "the receiver is gone"
            self.requests += 1
            try:
                answer = httpx.request(
                    method, f"{self.address}/scim/hooli/v2{path}", json=body, timeout=10,
                    headers={"authorization": f"Bearer {self.token}", "content-type": "application/scim+json"},
                )  # fmt: skip
            except httpx.HTTPError:
                answer = None
            if answer is not None and answer.status_code < 500:
                return answer
            self.again += 1
            time.sleep(0.02)

    def made(self, kind: str, name: str, body: Any) -> str:
        """A new resource; it may have been made by a request whose answer was lost."""
        answer = self.call("POST", f"/{kind}s", body)
        if answer.status_code == 409:
            what = "userName" if kind == "User" else "displayName"
            found = self.call("GET", f'/{kind}s?filter={what} eq "{name}"').json()["Resources"]
            return str(found[0]["id"])
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def patch(self, at: str, **operation: Any) -> None:
        answer = self.call("PATCH", at, {"schemas": [PATCH], "Operations": [operation]})
        assert answer.status_code in (200, 204), answer.text

    def change(self, number: int) -> None:
        """One change, by lot."""
        rng = self.rng
        if not self.group:
            self.group = self.made("Group", "hooli staff", {"schemas": [GROUP], "displayName": "hooli staff"})
        roll = rng.random() if len(self.people) > 3 else 0.0
        if roll < 0.3:
            name = f"hooli.{number}"
            mail = [{"value": f"{name}@hooli.example", "primary": True, "type": "work"}]
            body = {"schemas": [USER], "userName": name, "active": True, "displayName": name, "emails": mail}
            self.people[name] = {"id": self.made("User", name, body), "display": name, "active": True}
            return
        name = rng.choice(sorted(self.people))
        one = self.people[name]
        path = f"/Users/{one['id']}"
        if roll < 0.5:
            one["active"] = not one["active"]
            self.patch(path, op="replace", path="active", value=one["active"])
        elif roll < 0.65:
            one["display"] = f"{name} {number}"
            self.patch(path, op="replace", path="displayName", value=one["display"])
        elif roll < 0.7:
            assert self.call("DELETE", path).status_code in (204, 404)
            del self.people[name]
            self.members.discard(name)
        elif roll < 0.85:
            self.members.add(name)
            self.patch(f"/Groups/{self.group}", op="add", path="members", value=[{"value": one["id"]}])
        else:
            self.members.discard(name)
            self.patch(f"/Groups/{self.group}", op="remove", path=f'members[value eq "{one["id"]}"]')


@dataclass
class Life:
    """The company and both of its providers, and what runs here for them."""

    home: Path
    crowd: sandbox_crowd.RunningCrowd
    idp: sandbox_scim.RunningScim
    company: Organisation
    sender: Sender
    pusher: Pusher
    here: Forked
    port: int
    rng: random.Random
    running: dict[str, Started] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    deliveries: list[Sent] = field(default_factory=list)
    told: dict[str, bool] = field(default_factory=dict)
    """Person → whether of their last change somebody is told."""
    hands: set[str] = field(default_factory=set)
    """Accounts that were changed by hand."""

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home}/store.db"

    def start(self, what: str) -> None:
        words = ("receive", "--port", str(self.port)) if what == "receive" else ("react",)
        self.running[what] = self.here.start(*words)

    def kill(self, what: str) -> None:
        one = self.running[what]
        assert one.lives, one.said.read_text()[-3000:]
        one.kill()
        self.counts[f"{what} killed"] += 1
        self.start(what)

    def moment(self, what: str) -> None:
        """Until the moment to kill: any, and for the one that writes often in the middle of it."""
        before, some = self.crowd.counts().get("writes", 0), self.rng.randint(1, 12)
        end = time.monotonic() + self.rng.uniform(0, 1 if what == "receive" or self.rng.random() < 0.3 else 10)
        while time.monotonic() < end:
            if what == "react" and self.crowd.counts().get("writes", 0) >= before + some:
                self.counts["killed while it wrote"] += 1
                return
            time.sleep(0.02)

    def event(self, number: int) -> None:
        """One change somewhere."""
        roll = self.rng.random()
        if roll < PUSHED:
            self.pusher.change(number)
            self.counts["pushed"] += 1
        elif roll < PUSHED + BY_HAND:
            self.by_hand()
        else:
            self.in_the_idp(number)

    def in_the_idp(self, number: int) -> None:
        regrouped = self.rng.random() < REGROUPED
        (what,) = ("renamed_groups",) if regrouped else self.rng.choices([*CHANGES], [*CHANGES.values()])
        active = sum(person.active for person in self.company.people)
        if (what == "enabled" and active == len(self.company.people)) or len(self.company.people) < PEOPLE // 2:
            what = "joiners"
        amounts = {"seed": number, what: 1}
        before, self.company = self.company, changed(self.company, **amounts)
        self.idp.change(**amounts)
        self.counts[what] += 1
        lost, times = self.rng.random() < LOST, 1 + (self.rng.random() < TWICE) * self.rng.randint(1, 2)
        if regrouped:
            (group,) = {*self.company.teams} - {*before.teams}
            one = Sent(f"msg_{number}", (), group.id)
            lost = False
        else:
            one = Sent(f"msg_{number}", tuple(sorted(different(before, self.company))))
            self.told |= dict.fromkeys(one.ids, not lost)
        self.counts["lost"] += lost
        if not lost and (one.ids or one.group):
            self.deliveries.append(one)
            self.sender.put(one, times)
            self.counts["deliveries"] += times

    def by_hand(self) -> None:
        """An administrator changes an account in Crowd."""
        base = f"{self.crowd.url}/rest/usermanagement/1"
        person = self.rng.choice(self.company.people)
        name, group = person.username, self.rng.choice(self.company.teams).name
        self.hands.add(crowd_id(name))
        with httpx.Client(auth=("crowdsync", PASSWORD), headers={"accept": "application/json"}) as http:
            found = http.get(f"{base}/user", params={"username": name})
            if found.status_code != 200:
                return
            self.counts["by hand"] += 1
            match self.rng.randrange(3):
                case 0:
                    row = found.json()
                    fields = ("name", "first-name", "last-name", "display-name", "email")
                    body = {key: row[key] for key in fields if key in row} | {"active": not row["active"]}
                    http.put(f"{base}/user", params={"username": name}, json=body)
                case 1:
                    http.post(f"{base}/user/group/direct", params={"username": name}, json={"name": group})
                case 2:
                    http.delete(f"{base}/user/group/direct", params={"username": name, "groupname": group})

    def open_rows(self) -> Any:
        with Store.open(self.store) as store:
            return store.inbox(limit=100_000)

    def settled(self, seconds: float) -> None:
        """Until the inbox has nothing open."""
        end = time.monotonic() + seconds
        while len(rows := self.open_rows()):
            said = self.running["react"].said.read_text()[-2000:]
            assert time.monotonic() < end, f"{rows[['source', 'kind', 'key', 'attempts', 'note']].head(20)}\n{said}"
            assert self.running["react"].lives, said
            time.sleep(0.2)


def configuration(home: Path, crowd: str, idp: str, port: int) -> Path:
    limits = ("user_rename", "user_deactivate", "membership_remove", "group_loss", "nesting_remove", "user_delete")
    policy = "".join(f"{name} = {{}}\n" for name in limits) + "window_hours = 0\nunusual_times = 10000\n"
    home.mkdir(exist_ok=True)
    file = home / "crowdsync.toml"
    file.write_text(
        f'[store]\nurl = "sqlite:///{home}/store.db"\n[directory]\nurl = "{crowd}"\napplication = "crowdsync"\n'
        f'[receiver]\npublic_url = "http://127.0.0.1:{port}"\n'
        f'[sources.acme]\nkind = "scim"\nurl = "{idp}"\n[sources.acme.webhook]\n[sources.acme.policy.limits]\n{policy}'
        f"[sources.acme.policy.approval]\ndangers = []\n"
        f'[sources.hooli]\nkind = "push"\nurl = "http://127.0.0.1:{port}"\n[sources.hooli.policy.limits]\n{policy}'
        f"[sources.hooli.policy.approval]\ndangers = []\n",
        encoding="utf-8",
    )
    return file


def free_port() -> int:
    """One that nobody is given by the system while who listens there begins again."""
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


async def everybody(source: str) -> str:
    return (await walk(SyncRequest(source=source, full=True))).status


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    rng, port = random.Random("life"), free_port()
    with ExitStack() as stack:
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        # (Crowd tells the events of some minutes again and again; of a whole life that would be nearly all of them.)
        crowd.configure(
            directories=[{"name": "people", "events": True}],
            applications=[{"name": "crowdsync", "password": PASSWORD}],
            events={"replay": 1},
        )
        idp = stack.enter_context(sandbox_scim.prepared(**SIZE, token=TOKEN))
        given = {
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
            "CROWDSYNC_WEBHOOK_SECRET": SECRET,
            "CROWDSYNC_CROWD_WEBHOOK_SECRET": PING,
            "CROWDSYNC_CONFIG": str(configuration(tmp_path / "here", crowd.url, idp.url, port)),
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        away = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
        here = stack.enter_context(forked(tmp_path, away))
        with Store.open(f"sqlite:///{tmp_path}/here/store.db") as store:
            _, token = store.make_token("hooli", days=30, now=datetime.now(UTC))
        address = f"http://127.0.0.1:{port}"
        yield Life(
            tmp_path / "here", crowd, idp, organisation(**SIZE), Sender(address, random.Random("sender")),
            Pusher(address, token, random.Random("pusher")), here, port, rng,
        )  # fmt: skip


def alive(life: Life) -> None:
    """All of its events, and the kills among them."""
    life.start("react")
    life.running["react"].until_said("webhook is registered")
    life.settled(120)
    with ThreadPoolExecutor(SENDERS) as pool:
        sending = [pool.submit(life.sender.work) for _ in range(SENDERS)]
        try:
            for part in range(KILLS):
                for number in range(part * EVENTS // KILLS, (part + 1) * EVENTS // KILLS):
                    life.event(number)
                    if life.rng.random() < 0.5 * KILLS / EVENTS:
                        time.sleep(life.rng.uniform(0, 0.5))
                for what in life.rng.sample(("receive", "react"), 2):
                    life.moment(what)
                    life.kill(what)
            while not life.sender.idle:
                time.sleep(0.05)
        finally:
            life.sender.ended = True
        for one in sending:
            one.result()
    life.running["receive"].until_said("listening on")
    # (Crowd tells of what is changed next, where it could not tell of the last change.)
    ping = httpx.post(f"{life.sender.address}/crowd/crowd", headers={"authorization": f"Basic {PING}"}, timeout=30)
    assert ping.status_code == 204
    life.settled(300 + EVENTS / 10)


class Account(dict[str, Any]):
    """An account as it is compared: its fields, and its groups."""


def accounts(state: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> dict[str, Account]:
    """Those of Crowd by name. `renamed`: the names that groups have in the provider by now, by those in Crowd, which
    they keep there."""
    fields = ("name", "first_name", "last_name", "display_name", "email", "active")
    found = {crowd_id(row["name"]): Account({one: row[one] for one in fields}) for row in state["users"]}
    for row in state["users"]:
        marks = row["attributes"].get(ID_ATTRIBUTE, [""])
        found[crowd_id(row["name"])]["mark"] = marks if marks[0].startswith("acme:") else bool(marks[0])
    for user, group in state["memberships"]:
        name = crowd_id(group)
        found[crowd_id(user)].setdefault("groups", []).append((renamed or {}).get(name, name))
    for account in found.values():
        account.get("groups", []).sort()
    return found


def renamed_groups(life: Life) -> dict[str, str]:
    """As `accounts` takes them."""
    with Store.open(life.store) as store:
        links = store.links("crowd")
    links = links[(links["kind"] == "group") & (links["source"] == "acme")]
    teams = {team.id: crowd_id(team.name) for team in life.company.teams}
    return {crowd_id(name): teams[one] for one, name in zip(links["id"], links["name"], strict=True) if one in teams}


async def fresh(life: Life, monkeypatch: pytest.MonkeyPatch) -> dict[str, Account]:
    """What a full sync makes of both providers in a world in which nothing was before."""
    home = life.home.parent / "fresh"
    with (
        sandbox_crowd.running(applications={"crowdsync": PASSWORD}) as crowd,
        monkeypatch.context() as there,
    ):
        port = free_port()
        there.setenv("CROWDSYNC_CONFIG", str(configuration(home, crowd.url, life.idp.url, port)))
        with Store.open(f"sqlite:///{home}/store.db") as store:
            _, token = store.make_token("hooli", days=30, now=datetime.now(UTC))
        with forked(home, os.environ) as here:
            here.start("receive", "--port", str(port)).until_said("listening on")
            again = Pusher(f"http://127.0.0.1:{port}", token, random.Random())
            ids = {}
            for name, one in life.pusher.people.items():
                mail = [{"value": f"{name}@hooli.example", "primary": True, "type": "work"}]
                body = {"schemas": [USER], "userName": name, "displayName": one["display"], "emails": mail}
                ids[name] = again.made("User", name, {**body, "active": one["active"]})
            members = [{"value": ids[name]} for name in sorted(life.pusher.members)]
            again.made("Group", "", {"schemas": [GROUP], "displayName": "hooli staff", "members": members})
        for source in ("acme", "hooli"):
            assert await everybody(source) == "applied"
        return accounts(crowd.state())


def wrong(lived: Mapping[str, Account], wanted: Mapping[str, Account]) -> dict[str, Any]:
    """Accounts that are not as they should be: whoever is nowhere any more is to be shut out."""
    return {
        name: (lived.get(name), wanted.get(name))
        for name in {*lived, *wanted}
        if (lived[name]["active"] if name in lived and name not in wanted else lived.get(name) != wanted.get(name))
    }


def done_twice(store: Store, hands: set[str]) -> list[str]:
    """Operations of the journal that cannot have been done, as those before them were."""
    there: dict[str, bool] = {}
    pairs: set[tuple[str, str]] = set()
    found = []
    last = int(store.plans(limit=1)["id"].iloc[0])
    for number in range(1, last + 1):
        operations = store.operations(number)
        assert not (operations["state"] == "intended").any(), f"plan {number}: what became of it is not known"
        row: Any
        for row in operations[operations["state"] == "done"].itertuples():
            name, target = crowd_id(row.name), crowd_id(row.target)
            pair = name, target
            bad = False
            match row.kind:
                case "user_create":
                    bad, there[name] = name in there, True
                case "user_delete":
                    bad = there.pop(name, None) is None
                case "user_rename":
                    bad = name not in there or (name != target and target in there)
                    there[target] = there.pop(name, True)
                    pairs = {(target if one == name else one, group) for one, group in pairs}
                    if name in hands:
                        hands.add(target)
                case "user_activate" | "user_deactivate":
                    bad = there.get(name) is (row.kind == "user_activate")
                    there[name] = row.kind == "user_activate"
                case "membership_add":
                    bad = pair in pairs
                    pairs.add(pair)
                case "membership_remove":
                    bad = pair not in pairs
                    pairs.discard(pair)
            if bad and name not in hands:
                found.append(f"plan {number}: {row.kind} {row.name} {row.target}")
    return found


@pytest.mark.nightly
async def test_nothing_is_lost_whoever_is_killed(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in ("applied", "nothing to do"):
        assert await everybody("acme") == status
    life.start("receive")
    life.running["receive"].until_said("listening on")
    for number in range(8):
        life.pusher.change(-number)
    for status in ("applied", "nothing to do"):
        assert await everybody("hooli") == status
    alive(life)
    with Store.open(life.store) as store:
        inbox = store.inbox(done_since=datetime(2020, 1, 1, tzinfo=UTC), limit=10_000_000)
        runs = store.runs(1_000_000)
        assert store.verify_audit() is None
    with sqlite3.connect(life.home / "store.db") as file:
        kept = {row[0] for row in file.execute("SELECT delivery FROM delivery")}
    for what in ("receive", "react"):
        life.running[what].kill()
    # Whatever was answered 2xx was kept, and looked at.
    assert all(one.answered for one in life.deliveries)
    assert {one.id for one in life.deliveries} <= kept
    keys = set(zip(inbox["kind"], inbox["key"], strict=True))
    assert {("user", key) for one in life.deliveries for key in one.ids} <= keys
    assert not len(inbox[inbox["status"] != "done"])
    # Before anybody reads everything, all are right of whose last change somebody was told.
    wanted, lived = await fresh(life, monkeypatch), accounts(life.crowd.state(), renamed_groups(life))
    names = {crowd_id(person.username) for person in life.company.people if life.told.get(person.id, True)}
    names |= {crowd_id(name) for name in life.pusher.people}
    not_right = wrong(lived, wanted)
    assert not names & not_right.keys(), {name: not_right[name] for name in names & not_right.keys()}
    early = len(not_right)
    # Then all of it is.
    for source in ("acme", "hooli"):
        assert await everybody(source) in ("applied", "nothing to do")
    assert not wrong(accounts(life.crowd.state(), renamed_groups(life)), wanted)
    life.crowd.reset_counts()
    for source in ("acme", "hooli"):
        assert await everybody(source) == "nothing to do"
    assert life.crowd.counts()["writes"] == 0
    with Store.open(life.store) as store:
        assert store.verify_audit() is None
        assert done_twice(store, life.hands) == []
    sent = sum(one.tries for one in life.deliveries)
    ended = runs["status"].value_counts().to_dict()
    print(f"{dict(life.counts)}; sent {sent}, kept {len(kept)}, inbox {len(inbox)}, runs {ended}")
    print(f"pushed again {life.pusher.again}; of nobody told, and not right before all was read: {early}")
