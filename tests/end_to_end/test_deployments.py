"""Deployments on a real Prefect server: what `crowdsync deploy` makes, and what a worker elsewhere does with it.

The worker runs in a virtual environment that has crowdsync installed and no checkout, in a directory and with a
Prefect home of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from connectors.store import Store, in_thread
from deployments import buttons, serving
from deployments.buttons import Buttons
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from deployments.sandbox.organisation import organisation
from deployments.server import say_goodbye
from tasks.process import _began, here
from tests.support.prefect import fresh_server

PASSWORD, TOKEN = "pass-of-crowd", "token-of-acme"
ROOT = Path(__file__).parents[2]
COMPANY: dict[str, Any] = {"users": 30, "groups": 5, "memberships": 90}
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Found = TypeVar("Found")


class Patient(httpx.Client):
    """Asks again where Prefect's SQLite is locked for a moment, as Prefect's own client does."""

    def request(self, *args: Any, **kwargs: Any) -> httpx.Response:
        for _ in range(20):
            answer = super().request(*args, **kwargs)
            if answer.status_code != 503:
                break
            time.sleep(0.5)
        return answer


@dataclass(frozen=True, slots=True)
class Place:
    """A Prefect server with every deployment, a worker elsewhere, and two companies of which one is in Crowd."""

    api: httpx.Client
    elsewhere: Path
    crowd: sandbox_crowd.RunningCrowd
    other: sandbox_crowd.RunningCrowd
    worker: subprocess.Popen[bytes]

    def deployment(self, name: str) -> dict[str, Any]:
        answer = self.api.get(f"/deployments/name/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def rows(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        answer = self.api.post(f"/{what}/filter", json=filters)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        flow, _, name = deployment.partition("/")
        return self.rows("flow_runs", flows={"name": {"any_": [flow]}}, deployments={"name": {"any_": [name]}})

    def start(self, deployment: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
        ident = self.deployment(deployment)["id"]
        answer = self.api.post(f"/deployments/{ident}/create_flow_run", json={"parameters": parameters, **more})
        answer.raise_for_status()
        run: dict[str, Any] = answer.json()
        return run

    def ended(self, run: dict[str, Any], state: str = "COMPLETED") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            now: dict[str, Any] = self.api.get(f"/flow_runs/{run['id']}").json()
            return now if now["state_type"] in ENDED else None

        found = until(look, 150)
        assert found["state_type"] == state, found["state"]["message"]
        return found

    def table(self, run: dict[str, Any]) -> dict[str, dict[str, str]]:
        rows = self.rows(
            "artifacts", flow_runs={"id": {"any_": [run["id"]]}}, artifacts={"key": {"any_": ["sync-all"]}}
        )
        return {row["source"]: row for row in json.loads(rows[0]["data"])}


def until(look: Callable[[], Found | None], seconds: float = 60) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.25)
    return found


def installed(home: Path) -> Path:
    """The Python of an environment with crowdsync installed: its dependencies are those of this one, its code is a
    copy, and the checkout is on no path (a .pth file in a folder that a .pth file names is not read)."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    packages = next(home.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    for package in ("connectors", "tasks", "flows", "deployments"):
        shutil.copytree(ROOT / package, packages / package)
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("deployments")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        server = stack.enter_context(fresh_server(home, "SCHEDULER"))
        crowds = [stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD})) for _ in range(2)]
        scim = stack.enter_context(sandbox_scim.prepared(**COMPANY, token=TOKEN))
        source = f'[sources.{{}}]\nkind = "scim"\nurl = "{scim.url}"\ndirectory = "{{}}"\n'
        (elsewhere / "crowdsync.toml").write_text(
            '[store]\nurl = "sqlite:///crowdsync.db"\n'
            + "".join(
                f'[directories.{name}]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
                for name, crowd in zip(("one", "two"), crowds, strict=True)
            )
            + source.format("acme", "one")
            + source.format("busy", "two")
            + source.format("gone", "two"),
            encoding="utf-8",
        )
        secrets = {"CROWDSYNC_CROWD_PASSWORD": PASSWORD, "CROWDSYNC_SOURCE_TOKEN": TOKEN}
        os.environ |= secrets
        os.environ.pop(serving.DEFAULT_SOURCE, None)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        python = installed(home / "venv")
        server.wait()
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{server.url}/api"}))
        quarter = 15 * 60 - time.time() % (15 * 60)
        if quarter < 90:  # the schedule would start a sync before a test has taken it out
            time.sleep(quarter + 1)
        asyncio.run(serving.deploy())
        log = stack.enter_context((home / "worker.log").open("w"))
        worker = subprocess.Popen(
            [python, "-m", "prefect", "worker", "start", "--pool", serving.POOL],
            cwd=elsewhere,
            env={
                "PATH": "/usr/bin:/bin",
                "PREFECT_API_URL": f"{server.url}/api",
                "PREFECT_HOME": str(home / "other"),
                "PREFECT_WORKER_QUERY_SECONDS": "2",
                **secrets,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            # A worker ends by SIGINT, whatever it is sent; a script's `&` would have it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        stack.callback(worker.wait, 60)
        stack.callback(worker.terminate)
        api = stack.enter_context(Patient(base_url=f"{server.url}/api", timeout=120))
        yield Place(api, elsewhere, crowds[0], crowds[1], worker)
        say_goodbye()


def test_every_flow_is_a_deployment(place: Place) -> None:
    file = {one["name"]: one for one in yaml.safe_load(serving.FILE.read_text())["deployments"]}
    assert set(file) == {"sync", "preview", "sync-person", "sync-group", "full-read", "sync-all", "subscriptions"}
    for name, described in file.items():
        made = place.deployment(f"{name}/{name}")
        assert made["entrypoint"] == described["entrypoint"]
        assert ":" not in made["entrypoint"], "a module, wherever it is installed"
        assert (made["pull_steps"], made["path"]) == ([], None)
        assert made["tags"] == ["crowdsync"]
        assert made["work_pool_name"] == "crowdsync"
        assert made["description"] == described["description"]
        assert made["enforce_parameter_schema"]
        fields = made["parameter_openapi_schema"]["properties"]
        assert all(field.get("description") for field in fields.values() if "$ref" not in field), (
            "help under each field"
        )
    assert place.deployment("sync-person/sync-person")["parameters"] == {"source": ""}, (
        "several sources: none is chosen"
    )
    limits = {name: place.deployment(f"{name}/{name}")["global_concurrency_limit"] for name in file}
    assert {name for name, limit in limits.items() if limit} == {"sync-all"}
    assert limits["sync-all"]["limit"] == 1
    assert place.deployment("sync-all/sync-all")["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


def test_the_schedule_makes_runs(place: Place) -> None:
    def scheduled() -> list[dict[str, Any]] | None:
        runs = [run for run in place.runs("sync-all/sync-all") if run["auto_scheduled"]]
        return runs if len(runs) > 1 else None

    times = sorted(datetime.fromisoformat(run["expected_start_time"]) for run in until(scheduled))
    assert {(moment.minute % 15, moment.second) for moment in times} == {(0, 0)}


def test_deploying_again_changes_nothing_that_people_set(place: Place) -> None:
    before = place.deployment("sync-all/sync-all")
    schedule = before["schedules"][0]
    assert (schedule["slug"], schedule["active"]) == ("every-15-minutes", True)
    address = f"/deployments/{before['id']}/schedules/"
    place.api.patch(address + schedule["id"], json={"active": False}).raise_for_status()
    asyncio.run(serving.deploy())
    after = place.deployment("sync-all/sync-all")
    assert after["id"] == before["id"]
    assert [one["active"] for one in after["schedules"]] == [False]
    assert len(place.rows("deployments")) == 7
    assert {"Crowd credentials", "Identity provider credentials"} <= {row["name"] for row in place.rows("block_types")}
    assert len(place.rows("automations")) == 1
    assert len(place.rows("work_pools")) == 1


def test_prefects_own_command_deploys_the_same(place: Place) -> None:
    """`prefect deploy --all` with the same file; by it, an admin can deploy some of it, or a copy that was changed."""
    fields = ("id", "entrypoint", "pull_steps", "path", "tags", "parameters", "description", "job_variables")
    more = ("parameter_openapi_schema", "enforce_parameter_schema", "concurrency_options", "work_pool_name")

    def known() -> dict[str, Any]:
        return {row["name"]: [row[name] for name in fields + more] for row in place.rows("deployments")}

    before = known()
    url = str(place.api.base_url).rstrip("/")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(serving.FILE)]
    kept = {name: value for name, value in os.environ.items() if name != serving.DEFAULT_SOURCE}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**kept, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert known() == before


def test_a_worker_elsewhere_runs_what_a_schedule_starts(place: Place) -> None:
    """Nothing of it is known there but the package and crowdsync.toml; the database is the one beside that."""
    preview = place.deployment("preview/preview")
    schedule = {"schedule": {"interval": 20}, "parameters": {"source": "acme"}}
    made = place.api.post(f"/deployments/{preview['id']}/schedules", json=[schedule]).json()

    def taken() -> dict[str, Any] | None:
        runs = [run for run in place.runs("preview/preview") if run["auto_scheduled"]]
        return next((run for run in runs if run["state_type"] != "SCHEDULED"), None)

    first = until(taken, 120)
    place.api.delete(f"/deployments/{preview['id']}/schedules/{made[0]['id']}").raise_for_status()
    done = place.ended(first)
    assert done["name"].startswith("acme preview: plan 1: + ")
    assert (place.elsewhere / "crowdsync.db").exists()
    assert not place.crowd.state()["users"]


def test_sync_all(place: Place) -> None:
    """One run for each source; not for one in quarantine, nor for one whose last run is not over."""
    with Store.open(f"sqlite:///{place.elsewhere}/crowdsync.db") as store:
        store.failed("gone", "no such server", at=datetime.now(UTC))
    request = {"request": {"source": "busy", "mode": "sync"}}
    # Runs that do not count: a preview, one of one person, one in the future.
    for other in ({"mode": "preview"}, {"person": "ann"}):
        given = {"request": {"source": "acme", **other}}
        place.start("sync/sync", given, state={"type": "PAUSED", "name": "Suspended"})
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    place.start("sync/sync", {"request": {"source": "acme"}}, state=later)
    busy = place.start("sync/sync", request, state={"type": "PENDING"})
    place.api.post(f"/flow_runs/{busy['id']}/set_state", json={"state": {"type": "RUNNING"}, "force": True})
    known = {run["id"] for run in place.runs("sync/sync")}

    run = place.ended(place.start("sync-all/sync-all", {"sources": ["acme", "busy", "gone"]}))
    rows = place.table(run)
    assert {name: row["what"] for name, row in rows.items()} == {
        "acme": "started",
        "busy": "skipped",
        "gone": "skipped",
    }
    assert "still running" in rows["busy"]["why"]
    assert "in quarantine until" in rows["gone"]["why"]
    assert busy["id"] in rows["busy"]["run"]
    made = [run for run in place.runs("sync/sync") if run["id"] not in known]
    assert len(made) == 1
    assert made[0]["parameters"] == {"request": {"source": "acme", "mode": "sync", "unattended": True}}
    assert set(made[0]["tags"]) == {"crowdsync", "source:acme"}
    assert made[0]["id"] in rows["acme"]["run"]
    assert made[0]["parent_task_run_id"] is None
    assert place.ended(made[0])["name"].startswith("acme sync: + ")
    assert run["name"] == "acme, busy, gone: 1 started, 2 skipped"
    assert place.crowd.state()["users"]
    assert not place.other.state()["users"]


def test_sources_are_a_choice_where_they_are_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that joins crowdsync.toml later is started all the same: its form learns of it first."""
    from flows.forms import offer

    def choices(name: str) -> Any:
        schema = place.deployment(f"{name}/{name}")["parameter_openapi_schema"]
        request = schema["definitions"]["SyncRequest"]["properties"] if name == "sync" else schema["properties"]
        return (request.get("source") or request["sources"]["items"]).get("enum")

    assert choices("sync") is None
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(place.elsewhere / "crowdsync.toml"))
    try:
        asyncio.run(serving.deploy())
        assert choices("sync") == choices("sync-person") == choices("sync-all") == ["acme", "busy", "gone"]
        assert "source" not in place.deployment("sync-person/sync-person")["parameters"]
        ident = place.deployment("sync-person/sync-person")["id"]
        given = {"parameters": {"source": "later", "person": "ann"}, "state": {"type": "CANCELLED"}}
        assert place.api.post(f"/deployments/{ident}/create_flow_run", json=given).status_code == 409
        asyncio.run(offer(["acme", "later"]))
        assert choices("sync") == choices("sync-person") == ["acme", "busy", "gone", "later"]
        assert place.api.post(f"/deployments/{ident}/create_flow_run", json=given).is_success
    finally:
        monkeypatch.delenv("CROWDSYNC_CONFIG")
        os.environ.pop(serving.DEFAULT_SOURCE, None)
        asyncio.run(serving.deploy())
    assert choices("sync") is None


def test_a_source_that_cannot_be_started_keeps_no_other_from_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.errors import RetryableError
    from flows.sync_all import sync_all

    monkeypatch.setenv("CROWDSYNC_CONFIG", str(place.elsewhere / "crowdsync.toml"))
    monkeypatch.chdir(place.elsewhere)
    known = {run["id"] for run in place.runs("sync/sync")}
    with pytest.raises(RetryableError, match=r"not started: nobody: .*no source is called 'nobody'"):
        asyncio.run(called(sync_all(["nobody", "acme"])))
    made = [run for run in place.runs("sync/sync") if run["id"] not in known]
    assert [run["parameters"]["request"]["source"] for run in made] == ["acme"]
    place.ended(made[0])


async def called(flow: Any) -> Any:
    return await flow


@pytest.mark.parametrize("empty", ["", "   "])
def test_a_button_without_its_person_is_refused(place: Place, empty: str) -> None:
    """It would be a sync of everybody."""
    from prefect.exceptions import ParameterTypeError

    from flows.buttons import sync_group, sync_person

    ident = place.deployment("sync-person/sync-person")["id"]
    given = {"parameters": {"source": "acme", "person": empty, "preview": False}}
    assert place.api.post(f"/deployments/{ident}/create_flow_run", json=given).status_code == 409
    for button in (sync_person, sync_group):
        with pytest.raises(ParameterTypeError):
            asyncio.run(called(button("acme", empty, False)))


def test_buttons_touch_only_whom_they_name(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.buttons import full_read, sync_group, sync_person

    config = tmp_path / "crowdsync.toml"
    text = (place.elsewhere / "crowdsync.toml").read_text()
    config.write_text(text.replace("sqlite:///crowdsync.db", f"sqlite:///{tmp_path}/crowdsync.db"), encoding="utf-8")
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(config))
    state = place.crowd.state()
    people = {user["name"] for user in state["users"]}
    crowd = place.other

    def reached() -> tuple[set[str], set[str]]:
        now = crowd.state()
        return {user["name"] for user in now["users"]}, {group["name"] for group in now["groups"]}

    assert crowd is not place.crowd
    one = sorted(people)[3]
    asyncio.run(called(sync_person("busy", one)))
    assert reached() == (set(), set()), "it previews unless told otherwise"
    asyncio.run(called(sync_person("busy", one, preview=False)))
    users, groups = reached()
    assert users == {one}
    assert groups == {group for group, member in memberships(state) if member == one}

    other = next(group for group in sorted({group for group, _ in memberships(state)}) if group not in groups)
    asyncio.run(called(sync_group("busy", other, preview=False)))
    members = {member for group, member in memberships(state) if group == other}
    assert reached() == (users | members, groups | {other})

    asyncio.run(called(full_read("busy")))
    assert reached()[0] == people
    names = {run["name"] for run in place.rows("flow_runs", sort="START_TIME_DESC", limit=20)}
    for begins in (f"preview of {one}: plan 1: + ", f"sync of {one}: + ", f"sync of {other}: + ", "full read: + "):
        assert [name for name in names if name.startswith(f"busy {begins}")]


def memberships(state: dict[str, Any]) -> set[tuple[str, str]]:
    """Group and member of every direct membership."""
    return {(group, member) for member, group in state["memberships"]}


@dataclass(frozen=True, slots=True)
class Warm:
    """What `crowdsync react` has for the buttons, without the rest of it: its store, and an empty Crowd."""

    place: Place
    crowd: sandbox_crowd.RunningCrowd
    store: Store

    def press(self, **given: Any) -> dict[str, Any]:
        return self.place.start("sync-person/sync-person", {"source": "busy", **given})

    def now(self, run: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.place.api.get(f"/flow_runs/{run['id']}").json()
        return found

    def put(self, run: dict[str, Any], state: str, **more: str) -> None:
        body = {"state": {"type": state, **more}, "force": True}
        self.place.api.post(f"/flow_runs/{run['id']}/set_state", json=body).raise_for_status()

    async def served(self, *waits: tuple[dict[str, Any], str]) -> Buttons:
        """Buttons are answered until these runs are in these states, one after the other."""
        answering = Buttons("two", self.store, asyncio.Lock())
        task = asyncio.create_task(answering.serve())
        try:
            for run, state in waits:
                deadline = time.monotonic() + 90
                while (found := await in_thread(self.now, run))["state_type"] != state:
                    assert time.monotonic() < deadline, found["state"]
                    await asyncio.sleep(0.1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return answering


@pytest.fixture
def warm(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Warm]:
    """Inside, the worker stands still."""
    config = tmp_path / "crowdsync.toml"
    url = f"sqlite:///{tmp_path}/crowdsync.db"
    with (
        sandbox_crowd.running(applications={"crowdsync": PASSWORD}) as crowd,
        Store.open(url) as store,
    ):
        text = (place.elsewhere / "crowdsync.toml").read_text().replace("sqlite:///crowdsync.db", url)
        always = '[sources.busy.policy.approval]\nwhen = "always"\n'
        config.write_text(text.replace(place.other.url, crowd.url) + always, encoding="utf-8")
        monkeypatch.setenv("CROWDSYNC_CONFIG", str(config))
        os.kill(place.worker.pid, signal.SIGSTOP)
        try:
            yield Warm(place, crowd, store)
        finally:
            os.kill(place.worker.pid, signal.SIGCONT)


async def test_a_press_is_answered_here_and_waits_for_agreement_without_holding_anything(warm: Warm) -> None:
    from flows.road import SyncRequest, walk

    assert (await walk(SyncRequest(source="busy"))).status == "waiting"  # (from here on, few are read)
    run = warm.press(person="ann", preview=True)
    who = next(person.username for person in organisation(**COMPANY).people if person.active).lower()
    asking = warm.press(person=who, preview=False)
    answering = await warm.served((run, "FAILED"), (asking, "PAUSED"))
    assert "ann" in warm.now(run)["state"]["message"]
    assert not answering.turns.locked()
    assert warm.store.lease("two") is None, "batches go on"
    assert not answering.taken
    given = {"decision": "approve", "name": "Kim Admin", "reason": "looked at"}
    until(lambda: warm.place.api.post(f"/flow_runs/{asking['id']}/resume", json={"run_input": given}).is_success)
    await warm.served((asking, "COMPLETED"))
    assert {user["name"] for user in warm.crowd.state()["users"]} >= {who}
    states = warm.place.api.get("/flow_run_states/", params={"flow_run_id": asking["id"]}).json()
    taken = [state["message"] for state in states if state["type"] == "PENDING"]
    assert taken == [f"{buttons.TAKEN}{here()}"] * 2
    logs = {row["message"] for row in warm.place.rows("logs", logs={"flow_run_id": {"any_": [asking["id"]]}})}
    assert any("Finished in state Completed" in line for line in logs)
    keys = {row["key"] for row in warm.place.rows("artifacts", flow_runs={"id": {"any_": [asking["id"]]}})}
    assert {"busy-plan", "busy-report"} <= keys


async def later(value: Found) -> Found:
    return value


async def test_a_run_is_taken_once_and_what_a_killed_process_had_taken_is_seen_to(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    gone = f"{here().rpartition('/')[0]}/1"
    pid = warm.place.worker.pid
    lives = f"{here().rsplit('/', 2)[0]}/{pid}/{_began(pid)}"
    cases = [("PENDING", gone), ("PENDING", lives), ("RUNNING", gone), ("RUNNING", lives), ("CANCELLING", gone)]
    runs = []
    for state, process in cases:
        runs.append(warm.press(person="nobody", preview=True))
        warm.put(runs[-1], "PENDING", message=f"{buttons.TAKEN}{process}")
        if state != "PENDING":
            warm.put(runs[-1], state)
    async with get_client() as client:
        answering = Buttons("two", warm.store, asyncio.Lock())
        for name, flow in buttons.FLOWS.items():
            answering.flows[(await client.read_deployment_by_name(name)).id] = flow
        await answering.put_back(client)
        after = [warm.now(run)["state_type"] for run in runs]
        assert after == ["SCHEDULED", "PENDING", "CRASHED", "RUNNING", "CANCELLED"]
        found = await asyncio.gather(*(buttons.claimed(client, runs[0]["id"]) for _ in range(5)))
        assert sorted(found) == [False] * 4 + [True]
        # Whoever saw it in the queue too, and comes when it is over.
        read = client.read_flow_run
        stale = [await read(runs[0]["id"])]
        stale[0].state = Scheduled()
        for state in ("RUNNING", "COMPLETED"):
            warm.put(runs[0], state)
        assert not await buttons.claimed(client, runs[0]["id"])
        monkeypatch.setattr(client, "read_flow_run", lambda key: later(stale.pop()) if stale else read(key))
        assert not await buttons.claimed(client, runs[0]["id"])
        assert warm.now(runs[0])["state_type"] == "COMPLETED"
    for run in runs:
        warm.put(run, "CANCELLED")


async def test_a_button_waits_for_whoever_writes_and_may_be_cancelled(warm: Warm) -> None:
    lease = warm.store.take_lease("two", "another run", seconds=600)
    assert lease is not None
    first = warm.press(person="nobody", preview=False)

    async def then() -> None:
        while warm.now(first)["state_type"] != "RUNNING":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        warm.put(first, "CANCELLING")

    cancelling = asyncio.create_task(then())
    answering = await warm.served((first, "CANCELLED"))
    await cancelling
    assert not answering.turns.locked()
    held = warm.store.lease("two")
    assert held is not None
    assert held.holder == "another run"


@pytest.mark.nightly
def test_where_nothing_reacts_a_worker_answers(place: Place) -> None:
    run = place.start("sync-person/sync-person", {"source": "acme", "person": "nobody"})
    assert "nobody" in place.ended(run, "FAILED")["state"]["message"]


def test_a_new_sandbox_waits_for_no_run_of_the_last_one(place: Place) -> None:
    """It would keep its source from being synced for ever; what is yet to come stays."""
    request = {"request": {"source": "acme"}}
    old = place.start("sync/sync", request, state={"type": "PAUSED", "name": "Suspended"})
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    to_come = place.start("sync/sync", request, state=later)
    asyncio.run(serving._abandon())
    states = {run["id"]: run["state_type"] for run in place.runs("sync/sync")}
    assert states[old["id"]] == "CANCELLED"
    assert states[to_come["id"]] == "SCHEDULED"


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT])
def test_up_serves_everything_and_ends_with_all_its_children(tmp_path: Path, how: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).with_name("crowdsync"))
    command = [program, "up", "--people", "60", "--port", str(port), "--home", str(tmp_path / "demo")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "CROWDSYNC"))}
    up = subprocess.Popen(
        command,
        cwd=ROOT,
        env=kept,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert up.stdout is not None
    shown = []
    for line in up.stdout:
        shown.append(line)
        if "Ctrl-C" in line:
            break
    assert up.poll() is None, "".join(shown)
    children = ps("--ppid", str(up.pid))
    assert len(children) == 5, "Prefect's server, Crowd, the provider, receive, react"
    said = dict(re.findall(r"^(Prefect UI|Crowd|IdP) +(\S+)$", "".join(shown), re.MULTILINE))
    with Patient(base_url=f"http://127.0.0.1:{port}/api", timeout=120) as api:
        rows = api.post("/deployments/filter", json={}).json()
        assert len(rows) == 9
        prefilled = {row["name"]: row["parameters"] for row in rows}
        assert prefilled["sync"] == {"request": {"source": "acme"}}
        assert prefilled["sync-person"] == {"source": "acme"}
        until(lambda: api.post("/work_pools/crowdsync/workers/filter", json={}).json())
        ident = next(row["id"] for row in rows if row["name"] == "sync-all")
        made = api.post(f"/deployments/{ident}/create_flow_run", json={}).json()["id"]
        until(lambda: api.get(f"/flow_runs/{made}").json()["state_type"] == "COMPLETED", 120)
        filters = {"deployments": {"name": {"any_": ["sync"]}}}
        until(
            lambda: {run["state_type"] for run in api.post("/flow_runs/filter", json=filters).json()} == {"COMPLETED"}
        )
        page, crowd = said["IdP"], said["Crowd"]
        people = re.findall(r'<td>(.+?)<td>.*?\n<button name="disable" value="(.+?)"', httpx.get(page).text)
        who, key = next(pair for pair in people if pair[0] in active(crowd))
        assert httpx.post(page, data={"disable": key}).status_code == 303
        until(lambda: who not in active(crowd), 120)
        ident = next(row["id"] for row in rows if row["name"] == "sync-person")
        given = {"parameters": {"source": "acme", "person": who}}
        made = api.post(f"/deployments/{ident}/create_flow_run", json=given).json()["id"]
        until(lambda: api.get(f"/flow_runs/{made}").json()["state_type"] == "COMPLETED", 60)
        # Somebody makes a mistake in the provider: it tells of people one by one, and the limit of a day (10 %) is kept
        # by real time, with the one of before; another terminal is told.
        before, off = active(crowd), httpx.get(page).text.count(">enable<")
        ident = next(row["id"] for row in rows if row["name"] == "mass-leavers")
        made = api.post(f"/deployments/{ident}/create_flow_run", json={}).json()["id"]
        until(lambda: api.get(f"/flow_runs/{made}").json()["state_type"] == "COMPLETED", 60)
        assert httpx.get(page).text.count(">enable<") == off + 24
        shell = subprocess.run(
            ["bash", "-ec", f". {tmp_path}/demo/env; crowdsync sync acme"], env=kept, capture_output=True, text=True
        )
        assert shell.returncode == 3, shell.stdout + shell.stderr
        assert "waiting" in shell.stdout + shell.stderr
        after = active(crowd)
        assert after <= before
        assert 1 + len(before - after) <= (len(before) + 1) / 10
    family = [*children, *ps("--ppid", ",".join(children))]
    assert len(family) > 5, "react has a process that shows its runs"
    os.killpg(up.pid, how)
    assert up.wait(60) == 0
    until(lambda: not ps("--pid", ",".join(family)), 20)


def active(crowd: str) -> set[str]:
    """The active accounts of a Crowd, as an application sees them."""
    query = {"entity-type": "user", "expand": "user", "max-results": "1000"}
    answer = httpx.get(
        f"{crowd}/rest/usermanagement/1/search",
        params=query,
        auth=("crowdsync", "sandbox"),
        headers={"accept": "application/json"},
    )
    return {user["name"] for user in answer.json()["users"] if user["active"]}


def ps(*which: str) -> list[str]:
    """The ids of these processes, without those that are gone and only wait to be noticed."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", *which], capture_output=True, text=True, check=False)
    pairs = [line.split() for line in found.stdout.splitlines()]
    return [pid for pid, state in pairs if not state.startswith("Z")]
