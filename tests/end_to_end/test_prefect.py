"""What a person sees in Prefect: runs with names, artifacts that can be read, schedules that run, and no secret.

A real Prefect server on a free port with a home of its own; the flow runs in this process, and from a
deployment in a process that serves it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pandas as pd
import pytest

from connectors.errors import AuthenticationError, ConfigurationError, CrowdsyncError
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from tests.support.prefect import PASSWORD, TOKEN, fresh_server, serving, until

WRONG_TOKEN = "expired-token-3Vb"


SERVED = {
    "name": "acme",
    "cron": "* * * * *",
    "parameters": {"request": {"source": "acme", "mode": "preview"}},
    "tags": ["crowdsync"],
}


@dataclass(frozen=True, slots=True)
class Served:
    """A Prefect server with a synced company, seen through its API."""

    api: httpx.Client
    home: Path
    crowd: sandbox_crowd.RunningCrowd

    def list(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        answer = self.api.post(f"/{what}/filter", json=filters)
        answer.raise_for_status()
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def run(self, name: str, state: str) -> dict[str, Any]:
        """The newest flow run whose name begins so, when it has ended so, with all its task runs settled."""

        def ended() -> dict[str, Any] | None:
            runs = self.list("flow_runs", sort="EXPECTED_START_TIME_DESC", flow_runs={"name": {"like_": f"{name}: "}})
            return next((run for run in runs if run["state_type"] == state), None)

        found = until(ended)
        ids = {"flow_runs": {"id": {"any_": [found["id"]]}}}
        until(lambda: {t["state_type"] for t in self.list("task_runs", **ids)} - {"PENDING", "RUNNING"})
        until(lambda: not {t["state_type"] for t in self.list("task_runs", **ids)} & {"PENDING", "RUNNING"})
        if state == "COMPLETED":  # (it is written down some at a time)
            until(lambda: "report" in {t["name"] for t in self.list("task_runs", **ids)})
        return found

    def tasks(self, run: dict[str, Any]) -> dict[str, str]:
        rows = self.list("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
        return {row["name"]: row["state_type"] for row in rows}

    def artifact(self, run: dict[str, Any], key: str) -> dict[str, Any]:
        rows = self.list("artifacts", flow_runs={"id": {"any_": [run["id"]]}})
        return next(row for row in rows if row["key"] == key)


def _sync(mode: str) -> Any:
    from flows.sync import SyncRequest, sync

    async def go() -> Any:
        return await sync(SyncRequest(source="acme", mode=mode))

    return asyncio.run(go())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server, a deployment that is served, and three runs: one that writes, one that fails, one of the deployment."""
    home = tmp_path_factory.mktemp("prefect")
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        server = stack.enter_context(fresh_server(home, "SCHEDULER"))
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        scim = stack.enter_context(
            sandbox_scim.prepared(users=30, groups=5, memberships=90, token=TOKEN, difficult=True)
        )
        config = home / "crowdsync.toml"
        config.write_text(
            f'[store]\nurl = "sqlite:///{home}/crowdsync.db"\n[directory]\nurl = "{crowd.url}"\n'
            f'application = "crowdsync"\n[sources.acme]\nkind = "scim"\nurl = "{scim.url}"\n',
            encoding="utf-8",
        )
        os.environ |= {
            "CROWDSYNC_CONFIG": str(config),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
        }
        from prefect.settings import PREFECT_API_URL, temporary_settings

        server.wait()
        log = stack.enter_context((home / "served.log").open("w"))
        env = {**os.environ, "PREFECT_API_URL": f"{server.url}/api", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        served = serving(SERVED, env=env, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(served.wait, 30)
        stack.callback(served.terminate)
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{server.url}/api"}))
        place = Served(stack.enter_context(httpx.Client(base_url=f"{server.url}/api", timeout=120)), home, crowd)

        _sync("sync")
        os.environ["CROWDSYNC_SOURCE_TOKEN"] = WRONG_TOKEN
        with pytest.raises(AuthenticationError):
            _sync("preview")
        os.environ["CROWDSYNC_SOURCE_TOKEN"] = TOKEN
        yield place
        _drain()


def _drain() -> None:
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    with suppress(Exception):
        APILogWorker.drain_all()
        EventsWorker.drain_all()


def test_a_run_and_its_stages_are_named_for_people(served: Served) -> None:
    run = served.run("acme sync", "COMPLETED")
    assert run["name"].startswith("acme sync: + ")
    tasks = served.tasks(run)
    chunks = [name for name in tasks if name.startswith("apply ")]
    assert {f"apply {number} of {len(chunks)}" for number in range(1, len(chunks) + 1)} == set(chunks)
    assert set(tasks) - set(chunks) == {
        "read by key",
        "extract-acme",
        "extract-crowd",
        "snapshot-source:acme",
        "snapshot-directory:crowd",
        "validate-source:acme",
        "validate-directory:crowd",
        "filter",
        "map",
        "match",
        "plan",
        "impact",
        "guard",
        "report",
    }
    assert set(tasks.values()) == {"COMPLETED"}


def test_the_plan_can_be_read(served: Served) -> None:
    plan = served.artifact(served.run("acme sync", "COMPLETED"), "acme-plan")
    assert plan["type"] == "table"
    assert plan["description"].startswith("**Plan 1: ")
    assert "| + | create account |" in plan["description"]
    rows = json.loads(plan["data"])
    assert 0 < len(rows) <= 200
    assert {"±", "what", "who", "because it"} <= set(rows[0])
    assert all(any(row[column] for row in rows) for column in rows[0]), "no empty columns"
    people = [user for user in served.crowd.state()["users"] if "@" in user["email"].removesuffix(user["name"])]
    assert people
    assert not [user["email"] for user in people if user["email"] in str(rows)], "values only where they are disclosed"


def test_the_report_can_be_read(served: Served) -> None:
    report = served.artifact(served.run("acme sync", "COMPLETED"), "acme-report")
    text = report["data"]
    assert report["description"].startswith("**applied** · + ")
    assert text.startswith("# acme → crowd: applied\n")
    assert "Planned (plan 1): + " in text
    assert "\nWritten: " in text
    assert "## Held (" in text
    assert "what to do" in text
    assert "U+" in text, "lookalike letters are told apart"


def test_progress_is_shown(served: Served) -> None:
    run = served.run("acme sync", "COMPLETED")
    shown = served.list("artifacts", flow_runs={"id": {"any_": [run["id"]]}})
    assert [row["data"] for row in shown if row["type"] == "progress"] == [100.0]


def test_a_failed_run_says_what_where_and_what_to_do(served: Served) -> None:
    run = served.run("acme preview", "FAILED")
    assert run["name"] == "acme preview: credentials not accepted"
    report = served.artifact(run, "acme-report")
    for words in ("sources.acme", "401", "$CROWDSYNC_SOURCE_TOKEN", "crowdsync check"):
        assert words in run["state"]["message"]
        assert words in report["data"]
    assert "Error" not in run["state"]["message"]
    assert report["description"] == "**credentials not accepted**"
    assert "Nothing was written" in report["data"]
    assert served.tasks(run)["extract-acme"] == "FAILED"


def test_one_page_says_how_everything_stands(served: Served) -> None:
    """One artifact, also where runs failed and in whatever process; what somebody deletes is made again."""
    key = {"key": {"any_": ["crowdsync"]}}
    (page,) = served.list("artifacts", artifacts=key)
    assert page["data"].startswith("As of ")
    assert "| crowd | acme |" in page["data"]
    assert "Next: Prefect has no deployment" in page["data"]
    until(lambda: served.api.delete(f"/artifacts/{page['id']}").status_code in (204, 404))  # (503 while it is busy)
    _sync("preview")
    assert len(served.list("artifacts", artifacts=key)) == 1


def test_a_log_has_a_line_for_each_stage_and_no_traceback(served: Served) -> None:
    def lines(run: dict[str, Any]) -> str:
        logs = {"flow_run_id": {"any_": [run["id"]]}}
        return "\n".join(row["message"] for row in served.list("logs", limit=200, logs=logs))

    failed, done = served.run("acme preview", "FAILED"), served.run("acme sync", "COMPLETED")
    until(lambda: "credentials" in lines(failed) and "Applied" in lines(done))
    assert "Traceback" not in lines(failed)
    for words in ("Read ", "Kept as snapshot 1", "Sound: ", "In scope: ", "Wanted in Crowd: ", "Plan: + "):
        assert f"\n{words}" in lines(done), words
    for words in ("get one", "0 people lose all access", "Nothing stands against it"):
        assert words in lines(done)
    people = [user["name"] for user in served.crowd.state()["users"] if len(user["name"]) > 5]
    assert not [name for name in people if name in lines(done)]


def test_a_schedule_makes_runs_and_a_deployment_runs(served: Served) -> None:
    deployment = until(lambda: next(iter(served.list("deployments")), None))
    assert deployment["schedules"][0]["schedule"]["cron"] == "* * * * *"
    made = served.api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"name": "by hand"}).json()

    def scheduled() -> list[dict[str, Any]]:
        rows = served.list("flow_runs", deployments={"id": {"any_": [deployment["id"]]}})
        return [row for row in rows if row["auto_scheduled"]]

    runs = until(lambda: found if len(found := scheduled()) > 1 else None)
    times = sorted(row["expected_start_time"] for row in runs)
    assert all(moment[17:19] == "00" for moment in times), "once a minute"

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = served.api.get(f"/flow_runs/{made['id']}").json()
        return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    run = until(ended, 60)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["name"].startswith("acme preview: ")
    assert run["parameters"]["request"]["source"] == "acme"


def test_secrets_come_from_blocks(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registered, filled in as the UI does it, named in crowdsync.toml; and shown to nobody."""
    from tasks.read.blocks import CrowdCredentials, SourceCredentials, register

    told = asyncio.run(register())
    kinds = {row["name"]: row for row in served.list("block_types")}
    assert set(told) <= set(kinds)
    schemas = served.list("block_schemas", block_schemas={"block_type_id": {"any_": [kinds[told[1]]["id"]]}})
    assert set(schemas[0]["fields"]["secret_fields"]) == {"token", "client_secret", "private_key"}
    SourceCredentials(token=TOKEN).save("acme-idp")
    CrowdCredentials(password=PASSWORD).save("acme-crowd")
    shown = str(served.list("block_documents"))
    assert "acme-idp" in shown
    assert TOKEN not in shown
    assert PASSWORD not in shown

    config = tmp_path / "crowdsync.toml"
    text = (
        (served.home / "crowdsync.toml").read_text().replace("[sources.acme]", 'block = "acme-crowd"\n[sources.acme]')
    )
    config.write_text(text.replace(str(served.home), str(tmp_path)) + 'block = "acme-idp"\n', encoding="utf-8")
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(config))
    for name in ("CROWDSYNC_SOURCE_TOKEN", "CROWDSYNC_CROWD_PASSWORD"):
        monkeypatch.delenv(name)
    assert _sync("preview").status in ("planned", "nothing to do")

    for block, told_of in (('"acme-idp"', "sources.acme.block"), ('"acme-crowd"', "directory.block")):
        config.write_text(config.read_text().replace(block, '"no-such"'), encoding="utf-8")
        with pytest.raises(ConfigurationError, match=f"{told_of}: Prefect has no block 'no-such'"):
            _sync("preview")
        config.write_text(config.read_text().replace('"no-such"', block), encoding="utf-8")
    SourceCredentials(client_secret="other").save("acme-idp", overwrite=True)
    with pytest.raises(ConfigurationError, match="has no token; a scim source needs it"):
        _sync("preview")


async def test_what_was_done_outside_of_prefect_is_shown_there_afterwards(served: Served) -> None:
    from connectors.settings import load
    from connectors.store import Store
    from deployments.react import Reactor
    from deployments.shown import show

    with Store.open(f"sqlite:///{served.home}/crowdsync.db") as store:
        person = store.links("crowd").query("kind == 'user'")["id"].iloc[0]
        (name,) = store.users_now("source:acme", [person])["username"]
        store.accept(
            "crowd", "acme", [("user", person, "webhook"), ("user", "[a](b)", "webhook")], "", datetime.now(UTC)
        )
        assert await Reactor("crowd", store).turn()
        assert await show(store, load(), "crowd") == 1
        assert await show(store, load(), "crowd") == 0, "once"
        (row,) = [one for one in store.runs(5).to_dict("records") if one["mode"] == "react"]
    (run,) = served.list("flow_runs", flow_runs={"name": {"like_": "acme: 2 changes: "}})
    assert (run["id"], run["state_type"]) == (row["flow_run_id"], "COMPLETED")
    news = served.artifact(run, "acme-react-news")
    assert row["status"] in news["description"]
    rows = json.loads(news["data"])
    told = {row["id"]: (row["who"], row["what"], row["by"]) for row in rows}
    assert told[person] == (name, "user", "webhook")
    assert "[a](b)" not in told, "it would be a link on the page"


async def test_the_process_of_react_has_another_one_that_shows(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import get_current_settings

    from connectors.store import Store
    from deployments import watched

    def ours() -> set[str]:
        """Children of this process that show runs."""
        mine = f" {os.getpid()} "
        children = {file.parent for file in Path("/proc").glob("[0-9]*/stat") if mine in _read(file).rpartition(")")[2]}
        return {child.name for child in children if "shown:main" in _read(child / "cmdline")}

    monkeypatch.setenv("PREFECT_API_URL", str(get_current_settings().api.url))
    with Store.open(f"sqlite:///{served.home}/crowdsync.db") as store:
        for name, directory in (("of-crowd", "crowd"), ("elsewhere", "other")):
            now = datetime.now(UTC)
            store.start_run(run=name, source="acme", directory=directory, mode="react", at=now)
            store.finish_run(name, status="nothing to do", summary={"hints": 3}, at=now)
        shown = asyncio.create_task(watched._shown("crowd"))
        try:
            end = time.monotonic() + 60
            while not store.run("of-crowd")["flow_run_id"]:
                assert time.monotonic() < end, "nobody showed it"
                await asyncio.sleep(0.2)
            assert len(ours()) == 1
        finally:
            shown.cancel()
            await asyncio.wait({shown})
        assert not ours(), "it ends with the one that it belongs to"
        assert not store.run("elsewhere")["flow_run_id"], "that directory has a process of its own"
    (run,) = served.list("flow_runs", flow_runs={"name": {"any_": ["acme: 3 changes: nothing to do"]}})
    assert run["state_type"] == "COMPLETED"


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it ended
        return ""


def test_no_secret_anywhere(served: Served) -> None:
    """In the bytes of both databases and of the server's log, which hold logs, parameters, artifacts and results."""
    served.run("acme sync", "COMPLETED")
    assert served.list("logs", limit=200), "there are logs to look into"
    secrets = [PASSWORD, TOKEN, WRONG_TOKEN, base64.b64encode(f"crowdsync:{PASSWORD}".encode()).decode().rstrip("=")]
    files = [file for file in served.home.rglob("*") if file.is_file()]
    assert {"prefect.db", "crowdsync.db"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, file


def test_no_content_in_prefects_logs_of_debugging(served: Served) -> None:
    """In debug mode Prefect writes the text of what every stage returns into its database."""
    from prefect.settings import PREFECT_DEBUG_MODE, temporary_settings

    mails = {user["email"] for user in served.crowd.state()["users"] if "@" in user["email"].removesuffix(user["name"])}
    assert len(mails) > 10
    whole = pd.option_context("display.max_columns", None, "display.width", 1000)  # as on a wide terminal
    with temporary_settings({PREFECT_DEBUG_MODE: True}), whole:
        assert _sync("preview").status in ("planned", "nothing to do")

    def told() -> bool:
        return "SavedSnapshot(" in str(served.list("logs", limit=200, sort="TIMESTAMP_DESC"))

    until(told)
    for file in (served.home / "prefect").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [mail for mail in mails if mail.encode() in content], file


def test_a_chunk_that_fails_for_a_moment_is_tried_again(served: Served, tmp_path: Path) -> None:
    from prefect import Task, flow

    from connectors.contract import Outcome
    from connectors.errors import RetryableError
    from connectors.model import Snapshot, held_frame, users_frame
    from connectors.operations import Kind, Operation
    from connectors.store import Store
    from tasks.decide.plan import COLUMNS
    from tasks.policy import Policy
    from tasks.stages import apply_chunk
    from tasks.tell.page import page
    from tasks.write.chunks import Progress
    from tests import road

    class Faltering:
        tried = 0

        async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
            self.tried += 1
            if self.tried < 3:
                raise RetryableError("Crowd is away")
            return Outcome("done")

    wanted = Snapshot.of(users_frame([("1", "ann", "", "", "", "Ann", True, "{}")]))
    directory = Faltering()

    @flow(name="retry")
    async def retried() -> Any:
        with Store.open(f"sqlite:///{tmp_path}/crowdsync.db") as store:
            run = road.run_of(road.FixedSource(wanted), directory, store, Policy())  # type: ignore[arg-type]
            kept = store.save_snapshot("source:acme", wanted, taken_at=datetime.now(UTC), run="run").id
            number = store.save_plan(
                run="run",
                source="acme",
                directory="crowd",
                digest="",
                source_snapshot=kept,
                directory_snapshot=kept,
                policy="{}",
                operations=pd.DataFrame(
                    [dict.fromkeys(COLUMNS, "") | {"seq": 1, "phase": 1, "kind": Kind.USER_DELETE, "name": "ann"}]
                ),
                held=held_frame(),
                at=datetime.now(UTC),
            )
            shown = page()
            assert shown is not None
            chunk = cast("Task[Any, Any]", shown.task(cast("Any", apply_chunk))).with_options(retry_delay_seconds=0)
            await chunk(run, number, (1, 1), 1, 1, Progress())
            return store.operations(number)["state"].tolist()

    assert asyncio.run(retried()) == ["done"]
    assert directory.tried == 3


def test_a_preview_changes_nothing_that_a_later_run_reads(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan waits; people have left; then previews under another policy, of one person, of that plan, and one that
    fails. Not a row that was there is another one afterwards: only records of the previews were added."""
    from connectors.idp import SOURCES
    from deployments.sandbox import idp as sandbox_idp
    from deployments.sandbox.provider import toml
    from flows.sync import SyncRequest, sync
    from tasks.policy import Policy

    store = tmp_path / "crowdsync.db"

    def go(**request: Any) -> Any:
        async def run() -> Any:
            return await sync(SyncRequest(source="acme", **request))

        return asyncio.run(run())

    def rows(tables: tuple[str, ...] = ()) -> dict[str, set[tuple[Any, ...]]]:
        with closing(sqlite3.connect(store)) as database:
            found = tables or [n for (n,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            return {name: set(database.execute(f'SELECT * FROM "{name}"')) for name in found}

    with (
        sandbox_idp.running("okta", users=30, groups=5, memberships=60) as idp,
        sandbox_crowd.running(applications={"crowdsync": PASSWORD}) as crowd,
    ):
        (tmp_path / "crowdsync.toml").write_text(
            f'[store]\nurl = "sqlite:///{store}"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
            f"[sources.acme]\n{toml(idp.settings)}[sources.acme.policy]\nlimits.user_deactivate.absolute = 0\n",
            encoding="utf-8",
        )
        monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
        fields = SOURCES["okta"].settings.model_fields
        for name, value in idp.secrets.items():
            monkeypatch.setenv(fields[f"{name}_env"].default, value)
        assert go(mode="sync").status == "applied"
        idp.change(seed=3, leavers=3, disabled=2)
        waits = go(mode="sync")
        assert waits.status == "waiting"
        person = next(iter(rows(("departure",))["departure"]))[2]
        before = rows()
        assert before["departure"]
        assert before["mark"]

        # The others' question, scope and rules; a company that moved on; nothing that a run would go by is its.
        trial = Policy.model_validate(
            {
                "scope": {"exclude_users": [f"{letter}*" for letter in "abcdefghijklmn"]},
                "attributes": {"extra": {"department": "department"}},
            }
        )
        assert go(mode="preview", policy=trial).planned["user_deactivate"] > 5
        go(mode="preview", person=person, full=True)
        idp.change(seed=4, joiners=2)
        with pytest.raises(CrowdsyncError, match=f"plan {waits.plan} is no longer true"):
            go(mode="preview", plan=waits.plan)
        idp.faults({"kind": "status", "status": 400, "path": "/api/v1/users", "times": 0})
        with pytest.raises(CrowdsyncError):
            go(mode="preview", full=True)
        idp.faults()
        after = rows()
        history = {"snapshot", "record_key", "user_version", "group_version", "membership_version", "stream"}
        records = {"plan", "operation", "run", "audit", "verdict", "sqlite_sequence"}
        for table in set(before) - history - records:
            assert after[table] == before[table], table
        for table in {*records, "snapshot"} - {"sqlite_sequence"}:
            assert before[table] <= after[table], f"{table}: what was there is another one"

        # A run that writes, for one person: the clocks are everybody's.
        assert go(mode="sync", person=person, force=True).status == "applied"
        assert rows(("departure",))["departure"] == before["departure"]
        # One that writes for everybody goes by what it sees.
        assert go(mode="sync", force=True).status == "applied"
        assert rows(("mark",))["mark"] != before["mark"]
