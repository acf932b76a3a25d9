"""Agreement of people to plans: runs of a deployment on a real Prefect server, which are suspended and go on.

The source is an emulated SCIM server, Crowd an emulated one; the deployment is served by a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from connectors.store import Store
from deployments import terminal
from deployments.cli import app
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from deployments.server import PrefectServer, say_goodbye
from tests.support.prefect import PASSWORD, TOKEN, fresh_server, serving, until

WAIT = 180

SERVED = {"name": "sync", "parameters": {"request": {"source": "acme", "mode": "sync"}}}


@dataclass(slots=True)
class Desk:
    """A served deployment, and the company that it syncs."""

    api: httpx.Client
    home: Path
    crowd: sandbox_crowd.RunningCrowd
    idp: sandbox_scim.RunningScim
    server: PrefectServer
    environment: dict[str, str]
    serving: subprocess.Popen[bytes]
    seed: int = 0

    def serve(self) -> None:
        log = (self.home / "served.log").open("a")
        self.serving = serving(SERVED, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def start(self, **request: Any) -> str:
        def deployed() -> dict[str, Any] | None:
            rows: list[dict[str, Any]] = self.post("/deployments/filter", {}).json()
            return next(iter(rows), None)

        deployment = until(deployed, WAIT)
        asked = {"parameters": {"request": {"source": "acme", "mode": "sync", **request}}}
        return str(self.post(f"/deployments/{deployment['id']}/create_flow_run", asked).json()["id"])

    def suspended(self) -> str:
        """A run that waits for a person by now."""
        run = self.start()
        self.state(run, "PAUSED")
        return run

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Prefect's server on SQLite says 503 while it is busy."""

        def answered() -> httpx.Response | None:
            answer = self.api.post(path, json=body)
            return None if answer.status_code == 503 else answer

        return until(answered, WAIT)

    def state(self, run: str, *wanted: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            answer = self.api.get(f"/flow_runs/{run}")
            if answer.status_code == 503:
                return None
            found: dict[str, Any] = answer.json()
            if found["state_type"] in ("FAILED", "CRASHED") and found["state_type"] not in wanted:
                raise AssertionError(found["state"]["message"])
            seen.append(found["state_type"])
            return found if found["state_type"] in wanted else None

        seen: list[str] = []
        try:
            return until(reached, WAIT)
        except AssertionError as error:
            raise AssertionError(f"wanted {wanted}, was {seen[-1:]}: {error}") from None

    def decide(self, run: str, decision: str, **more: str) -> httpx.Response:
        answer = {"decision": decision, "name": "Kim Admin", "reason": "they left", **more}

        def answered() -> (
            httpx.Response | None
        ):  # (Prefect says that a run is paused just before it stores the question)
            given = self.post(f"/flow_runs/{run}/resume", {"run_input": answer})
            return None if "schema not found" in given.text else given

        return until(answered, WAIT)

    def question(self, run: str) -> str:
        keys = self.state(run, "PAUSED")["state"]["state_details"]["run_input_keyset"]

        def asked() -> str:  # (Prefect says that a run is paused just before it stores the question)
            answer = self.api.get(f"/flow_runs/{run}/input/{keys['description']}")
            return answer.text if answer.is_success else ""

        text = until(asked, WAIT)
        return str(orjson.loads(text)) if text.startswith('"') else text

    def plan(self) -> tuple[int, str]:
        with Store.open(f"sqlite:///{self.home}/crowdsync.db") as store:
            newest = store.plans(1).iloc[0]
        return int(newest["id"]), str(newest["status"])

    def active(self) -> set[str]:
        return {user["name"] for user in self.crowd.state()["users"] if user["active"]}

    def change(self, **amounts: int) -> None:
        self.seed += 1
        self.idp.change(seed=self.seed, **amounts)

    def command(self, *words: str) -> Result:
        """`crowdsync` in this process, on the same server."""
        return CliRunner().invoke(app, words, env={"COLUMNS": "200"})

    def store(self) -> Store:
        return Store.open(f"sqlite:///{self.home}/crowdsync.db")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("approval")
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        os.environ["PREFECT_RUNNER_POLL_FREQUENCY"] = "1"
        server = stack.enter_context(fresh_server(home, "PAUSE_EXPIRATIONS"))
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(sandbox_scim.prepared(users=80, groups=6, memberships=200, token=TOKEN))
        config = home / "crowdsync.toml"
        config.write_text(
            f'[store]\nurl = "sqlite:///{home}/crowdsync.db"\n[directory]\nurl = "{crowd.url}"\n'
            f'application = "crowdsync"\n[sources.acme]\nkind = "scim"\nurl = "{idp.url}"\n',
            encoding="utf-8",
        )
        os.environ |= {
            "CROWDSYNC_CONFIG": str(config),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_SOURCE_TOKEN": TOKEN,
        }
        from prefect.settings import PREFECT_API_URL, temporary_settings

        server.wait()
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"{server.url}/api"}))
        environment = {**os.environ, "PREFECT_API_URL": f"{server.url}/api"}
        api = stack.enter_context(httpx.Client(base_url=f"{server.url}/api", timeout=120))
        made = Desk(api, home, crowd, idp, server, environment, None)  # type: ignore[arg-type]
        made.serve()
        stack.callback(lambda: made.serving.wait(30))
        stack.callback(lambda: made.serving.terminate())
        made.state(made.start(), "COMPLETED")
        assert len(made.active()) > 50
        yield made
        say_goodbye()


def test_what_is_above_a_limit_waits_and_is_done_when_a_person_agrees(desk: Desk) -> None:
    before = desk.active()
    desk.change(disabled=12)
    run = desk.suspended()
    number, status = desk.plan()
    assert status == "waiting"
    assert desk.active() == before, "nothing is written before somebody agrees"
    question = desk.question(run)
    for words in (f"[Plan {number}](/artifacts/artifact/", "user_deactivate: 12 of ", "limits.user_deactivate (10 %)"):
        assert words in question
    assert question.startswith("- **12 people lose all access: "), "what it does to people stands first"
    assert "dangerous" not in question, "there is nothing else in it"
    name = desk.state(run, "PAUSED")["name"]
    assert name.startswith(f"acme sync: plan {number} waits for agreement: - 12 deactivate")
    for word in ("", "yes", "approve the rest"):
        assert desk.decide(run, word).json()["status"] == "REJECT"
    assert desk.decide(run, "approve", reason="").status_code != 201 or desk.state(run, "PAUSED"), "a reason is needed"

    # Its worker may end, and so may the server's other clients; the next one takes the run up.
    desk.serving.terminate()
    desk.serving.wait(30)
    desk.serve()
    desk.decide(run, "approve").raise_for_status()
    desk.state(run, "COMPLETED")
    assert len(before - desk.active()) == 12
    assert desk.plan() == (number, "applied")
    with desk.store() as store:
        decision = store.decisions(1).iloc[0]
        rows = store.audit_log(200)
    assert (decision["actor"], decision["decision"], decision["reason"]) == ("Kim Admin", "approve", "they left")
    approval = rows[rows["event"] == "approval"].iloc[0]
    assert (approval["actor"], approval["subject"]) == ("Kim Admin", f"plan {number}")


def test_agreement_holds_where_somebody_else_changed_meanwhile(desk: Desk) -> None:
    before = desk.active()
    desk.change(disabled=9)
    run = desk.suspended()
    first, _ = desk.plan()
    desk.change(updated=2, joiners=1)
    desk.decide(run, "approve").raise_for_status()
    desk.state(run, "COMPLETED")
    assert len(before - desk.active()) == 9
    assert len(desk.active() - before) == 1
    second, status = desk.plan()
    assert (second > first, status) == (True, "applied")
    with desk.store() as store:
        assert store.load_plan(first).status == "superseded"
        of_second, of_first = (store.decision(number, now=datetime.now(UTC)) for number in (second, first))
    assert of_first is not None
    assert of_second is not None
    assert (of_second.actor, of_second.expires_at) == ("Kim Admin", of_first.expires_at)
    assert f"said of plan {first}" in of_second.reason


def test_agreement_to_a_plan_that_is_no_longer_true_counts_for_nothing(desk: Desk) -> None:
    before = desk.active()
    desk.change(disabled=10)
    run = desk.suspended()
    first, _ = desk.plan()
    desk.change(disabled=11)  # another ten, or eleven: the source moved
    desk.decide(run, "approve").raise_for_status()
    until(lambda: desk.plan()[0] > first, WAIT)
    desk.state(run, "PAUSED")
    second, status = desk.plan()
    assert status == "waiting"
    assert desk.active() == before
    with desk.store() as store:
        assert store.load_plan(first).status == "superseded"

    # Meanwhile another run does not ask the same people a second time.
    other = desk.start()
    desk.state(other, "COMPLETED")
    assert desk.plan()[0] in (second, second + 1)
    desk.decide(run, "reject").raise_for_status()
    desk.state(run, "COMPLETED")
    assert desk.active() == before
    with desk.store() as store:
        assert store.load_plan(second).status == "rejected"


def test_the_dangerous_part_can_be_left_out(desk: Desk) -> None:
    before = desk.active()
    desk.change(disabled=0, joiners=3)
    run = desk.suspended()  # the people of the test before are still to be shut out
    assert "The dangerous part: deactivate." in desk.question(run)
    desk.decide(run, "approve the rest").raise_for_status()
    desk.state(run, "COMPLETED")
    after = desk.active()
    assert not before - after, "nobody was shut out"
    assert len(after - before) == 3, "everything else was done"


def test_the_command_line_lets_a_run_go_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 200)
    before = desk.active()
    assert desk.command("sync").exit_code == 3
    made = desk.plan()
    run = desk.suspended()
    number, _ = desk.plan()
    assert (number, "waiting") == made, "it asks about a plan that another run made"

    blank = desk.command("approve", str(number), "--reason", " ")
    assert blank.exit_code == 2, blank.stderr
    done = desk.command("approve", str(number), "--by", "Robin", "--reason", "checked with HR")
    assert done.exit_code == 0, done.stderr
    assert "its run in Prefect goes on" in done.stdout
    desk.state(run, "COMPLETED")
    assert len(before - desk.active()) >= 10
    shown = desk.command("decisions").stdout
    assert "Robin" in shown
    assert "checked with HR" in shown
    twice = desk.command("approve", str(number), "--reason", "again")
    assert twice.exit_code == 2
    assert "no longer open to a decision" in twice.stderr


def test_the_command_line_turns_down_what_a_run_asks_about(desk: Desk) -> None:
    before = desk.active()
    for joiners in (0, 2):  # the same plan still, and another one that asks the same
        desk.change(disabled=12, joiners=joiners)
        run = desk.suspended()
        number, _ = desk.plan()
        if joiners:
            desk.change(updated=1)
        done = desk.command("reject", str(number), "--by", "Robin", "--reason", "the source is wrong")
        assert done.exit_code == 0, done.stderr
        assert "its run in Prefect goes on" in done.stdout
        desk.state(run, "COMPLETED")
        last, status = desk.plan()
        assert (last - number, status) == (1 if joiners else 0, "rejected")
        with desk.store() as store:
            assert store.load_plan(number).status == "rejected"
    assert not before - desk.active()


def test_an_agreement_ends(desk: Desk) -> None:
    desk.change(disabled=9)
    policy = {"approval": {"expires_hours": 3 / 3600}}
    run = desk.start(policy=policy)
    desk.state(run, "PAUSED")
    time.sleep(3)
    before = desk.active()
    late = desk.decide(run, "approve")
    if late.status_code < 300:  # the server may take it, but nothing is done: the plan is asked about anew, or failed
        until(lambda: desk.api.get(f"/flow_runs/{run}").json()["state_type"] in ("FAILED", "PAUSED", "COMPLETED"), WAIT)
    assert desk.active() == before
    with desk.store() as store:
        assert store.decision(desk.plan()[0], now=datetime.now(UTC)) is None


def test_without_a_deployment_nobody_can_be_asked_so_the_plan_waits(desk: Desk) -> None:
    run = desk.command("sync")
    number, status = desk.plan()
    assert run.exit_code == 3, run.stderr
    assert "needs agreement" in run.stdout + run.stderr
    assert status == "waiting"

    # A deployment asks about the plan that another run made, one at a time; and the answer holds for what became of it.
    asks = desk.suspended()
    desk.state(desk.start(), "COMPLETED")
    assert desk.plan() == (number, "waiting")
    desk.change(updated=1)
    desk.decide(asks, "reject").raise_for_status()
    desk.state(asks, "COMPLETED")
    last, status = desk.plan()
    assert (last > number, status) == (True, "rejected")

    # And where a plan that nobody is asked about asks all that the new one would.
    desk.command("sync")
    number, status = desk.plan()
    assert (number > last, status) == (True, "waiting")
    desk.change(updated=1)
    asks = desk.suspended()
    last, status = desk.plan()
    assert (last > number, status) == (True, "waiting")
    desk.decide(asks, "reject").raise_for_status()
    desk.state(asks, "COMPLETED")
    desk.command("sync")
    number, status = desk.plan()
    assert (number > last, status) == (True, "waiting")
    said = desk.command("approve", str(number), "--by", "Robin", "--reason", "agreed")
    assert f"crowdsync apply {number}" in said.stdout, said.stderr
    before = desk.active()
    done = desk.command("apply", str(number))
    assert done.exit_code == 0, done.stderr
    assert len(before - desk.active()) >= 9
    assert "agreed" in done.stdout


def test_everything_is_in_the_audit_and_the_chain_holds(desk: Desk) -> None:
    with desk.store() as store:
        assert store.verify_audit() is None
        decisions = store.decisions(100)
    assert set(decisions["decision"]) == {"approve", "approve_without", "reject"}
