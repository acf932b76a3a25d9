"""One page says how everything stands: last good runs, what waits for whom, held records, quarantine, the news; for
people, for programs, and by an exit code. It needs neither pandas nor Prefect."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

from connectors.outline import outline
from connectors.settings import load
from connectors.store import LastInStep, StepCursors, Store
from connectors.store.overview import Overview, SourceState
from deployments.cli import app
from tasks.tell import dashboard
from tests.support.stored import plan

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OF = {"crowd": ("acme", "beta")}
CONFIG = """
[store]
url = "sqlite:///{file}"
[directory]
url = "https://crowd.example.org/crowd"
application = "crowdsync"
[sources.acme]
kind = "scim"
url = "https://idp.example.org"
[sources.beta]
kind = "scim"
url = "https://idp.example.org"
directory = "crowd"
"""


def in_step(store: Store, source: str, at: datetime) -> None:
    store.save_in_step("crowd", source, LastInStep("p", "r", StepCursors("c", "t", 1, at, at), 1))


def ran(store: Store, source: str, status: str, at: datetime, mode: str = "sync", **summary: Any) -> None:
    run = f"{source} {mode} {at}"
    store.start_run(run=run, source=source, directory="crowd", mode=mode, at=at)
    store.finish_run(run, status=status, summary=summary, at=at)


def of(found: Overview, source: str) -> SourceState:
    return next(one for one in found.directories[0].sources if one.source == source)


def whats(found: Overview, **more: Any) -> list[str]:
    return [f"{one.source}: {one.what}" for one in dashboard.concerns(found, **more)]


def well(store: Store) -> None:
    for source in OF["crowd"]:
        in_step(store, source, NOW - 10 * MINUTE)
        ran(store, source, "nothing to do", NOW - 9 * MINUTE)


def test_all_is_well(store: Store) -> None:
    assert whats(store.overview(OF, NOW)) == ["acme: never brought in step", "beta: never brought in step"]
    well(store)
    found = store.overview(OF, NOW)
    assert whats(found) == []
    assert of(found, "acme").in_step == NOW - 10 * MINUTE
    assert whats(found, overdue=5 * MINUTE) == [
        "acme: last good run 10 minutes ago",
        "beta: last good run 10 minutes ago",
    ]
    assert "**All is well.**" in dashboard.markdown(found, "sync-all at noon")
    assert dashboard.markdown(found, "sync-all at noon").endswith("|\n\nNext: sync-all at noon")


def test_what_waits_for_whom(store: Store) -> None:
    well(store)
    ran(store, "acme", "refused", NOW - MINUTE, refusals=["too many leave"], loud=["1 person is in"])
    ran(store, "acme", "applied", NOW, about="person:7")  # says nothing of the others
    ran(store, "acme", "failed", NOW, mode="preview")
    ran(store, "acme", "failed", NOW, mode="react")
    number = plan(store)
    store.set_plan_status(number, "waiting", at=NOW - 5 * MINUTE)
    store.set_plan_status(plan(store, source="beta", about="group:staff"), "approved", at=NOW)
    store.failed("beta", "401 from the token address", at=NOW)
    held = pd.DataFrame({"kind": ["user", "user", "group"], "id": ["1", "2", "3"], "reason": "why"}, dtype="str")
    store.save_held("crowd", "acme", held, run="r", at=NOW - 2 * MINUTE)
    store.accept("crowd", "acme", [("user", "1", "webhook"), ("user", "2", "webhook")], "", NOW - 20 * MINUTE)
    store.accept("crowd", "", [("crowd", "", "webhook")], "", NOW - MINUTE)
    (hint, _) = store.due("crowd", NOW, source="acme")
    store.settle([hint.id], "held", "it failed too often", NOW)
    store.note_put_back([("crowd", "beta")], head=None, actor="kim", why="", at=NOW)
    store.set_plan_status(number, "waiting", at=NOW - 5 * MINUTE)  # (which that ended)
    in_step(store, "acme", NOW - MINUTE)

    found = store.overview(OF, NOW)
    acme, beta = of(found, "acme"), of(found, "beta")
    assert acme.held == {"group": 1, "user": 2}
    assert acme.held_since == NOW - 2 * MINUTE
    assert (acme.inbox.waiting, acme.inbox.held, found.directories[0].inbox.waiting) == (1, 1, 1)
    assert acme.last is not None
    assert (acme.last.status, acme.last.error) == ("refused", "too many leave")
    assert beta.in_step is None
    assert whats(found) == [
        f"acme: plan {number} waits for agreement since 2026-11-30 11:55 UTC",
        "acme: the last run, at 2026-11-30 11:59 UTC, ended refused",
        "acme: 1 person is in",
        "acme: 1 piece of news held",
        "acme: 1 piece of news waiting, the oldest for 20 minutes",
        "beta: an older copy of the database was put back (known since 2026-11-30 12:00 UTC)",
        "beta: in quarantine (until 2026-11-30 12:05 UTC), 1 failure since 2026-11-30 12:00 UTC",
        "beta: never brought in step",
    ]
    page = dashboard.markdown(found, "next")
    assert "**8 things to see to**" in page
    assert "- acme: 1 piece of news held; crowdsync inbox\n- acme: 1 piece of news waiting" in page
    assert "| crowd | acme | 2026-11-30 11:59 |" in page


def test_a_few_look_ups_by_index(store: Store) -> None:
    """No table that grows is gone through."""
    asked: list[tuple[str, Any]] = []
    if not store._db.sqlite:
        return
    event.listen(store._db.engine, "before_cursor_execute", lambda *got: asked.append((got[2], got[3])))
    store.overview({"crowd": tuple("abcdefghij")}, NOW)
    assert len(asked) < 30
    with store._db.engine.connect() as connection:
        for statement, values in [*asked]:
            if not statement.startswith("SELECT"):
                continue
            steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            for step in steps:
                said = str(step[-1])
                growing = any(f"SCAN {table}" in said for table in ("run", "plan", "operation", "inbox", "audit"))
                assert not growing or " INDEX " in said, f"{statement}: {said}"


@pytest.fixture
def home(tmp_path: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "store.db").write_bytes(schema.read_bytes())
    (tmp_path / "crowdsync.toml").write_text(CONFIG.format(file=tmp_path / "store.db"), encoding="utf-8")
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def test_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = CliRunner()
    said = run.invoke(app, ["status"])
    assert said.exit_code == 5
    assert "crowdsync sync acme" in said.output
    assert "no Prefect server is named" in said.output
    with Store.open(load().store_url()) as store:
        for source in OF["crowd"]:
            in_step(store, source, datetime.now(UTC))
    said = run.invoke(app, ["status"])
    assert said.exit_code == 0, said.output
    assert "all is well" in said.output
    assert max(len(line) for line in said.output.splitlines() if line.startswith(("acme", "source"))) <= 80
    told = orjson.loads(run.invoke(app, ["status", "--json"]).output)
    assert told["well"]
    assert told["concerns"] == []
    assert [one["source"] for one in told["directories"][0]["sources"]] == ["acme", "beta"]
    head, acme, beta = run.invoke(app, ["status", "--csv"]).output.splitlines()
    assert head.startswith("directory,source,in_step,")
    assert acme.startswith(f"crowd,acme,{datetime.now(UTC):%Y-%m-%dT}")
    assert beta.endswith(",{},0,0,,[]")
    assert "exclude each other" in run.invoke(app, ["status", "--csv", "--json"]).output
    assert run.invoke(app, ["status", "--overdue", "0.01"]).exit_code == 0
    (home / "crowdsync.toml").write_text("[store]\n", encoding="utf-8")
    said = run.invoke(app, ["status"])
    assert said.exit_code == 2


def test_the_outline_is_what_the_settings_say(home: Path) -> None:
    found, whole = outline(), load()
    assert found is not None
    assert (found.store_url, found.busy) == (whole.store_url(), whole.store.busy)
    assert found.sources == {"crowd": tuple(whole.sources_of("crowd"))}
    text = (home / "crowdsync.toml").read_text(encoding="utf-8")
    for wrong in (text.replace("[directory]", "[directry]"), text.replace('"crowd"\n', '"other"\n'), "[", ""):
        (home / "crowdsync.toml").write_text(wrong, encoding="utf-8")
        assert outline() is None, wrong


def test_neither_pandas_nor_prefect_is_imported(home: Path) -> None:
    script = (
        "import sys; sys.argv[1:] = ['status']\n"
        "from deployments import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "sys.exit(', '.join({'pandas', 'prefect', 'httpx', 'alembic', 'numpy'} & set(sys.modules)) or 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "never brought in step" in done.stdout


def test_what_is_long_ago_is_said_in_its_unit() -> None:
    spans = [timedelta(minutes=1), timedelta(minutes=119), timedelta(hours=2), timedelta(hours=47), timedelta(days=3)]
    assert [*map(dashboard.ago, spans)] == ["1 minute", "119 minutes", "2 hours", "47 hours", "3 days"]
