"""A command imports and starts only what it needs: whether a Prefect server is named is found out without Prefect, what
has become of a plan without the store; and outside of flow runs a stage is tried again without Prefect."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stamina

from connectors.errors import RefusedError, RetryableError
from connectors.glance import plan_status
from connectors.store import Store
from tasks.stage import task
from tests.support.stored import AT, plan

_NAMED = """
import os, sys
from pathlib import Path
from deployments.server import server_named
import deployments.react, deployments.syncing

def told(env="", value="", file="", text=""):
    if env: os.environ[env] = value
    if file: Path(file).write_text(text)
    named = server_named()
    if env: del os.environ[env]
    if file: Path(file).unlink()
    return named

assert not told()
assert not told("PREFECT_API_URL", "")
assert not told("PREFECT_LOGGING_LEVEL", "INFO")
assert not told(file="pyproject.toml", text="[project]\\ndependencies = ['prefect']\\n")
assert not told(file=".env", text="CROWD=1\\n")
assert not told(file="home/profiles.toml", text="active = 'one'\\n[profiles.one]\\nPREFECT_LOGGING_LEVEL = 'INFO'\\n")
assert not {"prefect", "great_expectations", "fastapi"} & {*sys.modules}, "imported without need"
profiles = "active = 'one'\\n[profiles.one]\\nPREFECT_API_URL = 'http://127.0.0.1:1/api'\\n[profiles.two]\\n"
assert told(file="home/profiles.toml", text=profiles)
assert "prefect" in sys.modules
"""


def test_whether_a_server_is_named_is_found_out_without_prefect(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "PREFECT_HOME": str(tmp_path / "home"), "PATH": ""}
    subprocess.run([sys.executable, "-c", _NAMED], cwd=tmp_path, env=environment, check=True)


def test_what_has_become_of_a_plan_is_seen_at_a_glance(
    schema: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = tmp_path / "crowdsync.toml", Path(shutil.copy(schema, tmp_path))
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(config))
    store = Store.open(f"sqlite:///{file}")
    number = plan(store)
    assert plan_status(number) == "", "there is no configuration"
    config.write_text(f'[store]\nurl = "sqlite:///{file}"\n')
    assert plan_status(number) == "planned"
    store.set_plan_status(number, "rejected", at=AT)
    assert plan_status(number) == "rejected"
    assert plan_status(number + 1) == "", "the store says that there is none"
    config.write_text('[store]\nurl_env = "OF_THE_STORE"\n')
    assert plan_status(number) == "", "it is not set"
    monkeypatch.setenv("OF_THE_STORE", f"sqlite:///{file}")
    assert plan_status(number) == "rejected"
    for other in ("postgresql://me@127.0.0.1:1/x", "sqlite://", "nonsense", f"sqlite:///{file}x"):
        monkeypatch.setenv("OF_THE_STORE", other)
        assert plan_status(number) == "", other
    monkeypatch.setenv("OF_THE_STORE", f"sqlite:///{file}")
    monkeypatch.setattr("connectors.glance._VERSIONS", tmp_path)
    (tmp_path / "9000_later.py").touch()
    assert plan_status(number) == "", "another revision may mean something else by it"
    store.close()


async def test_a_stage_is_tried_again_without_prefect() -> None:
    tried: list[int] = []

    @task(name="part", run_name="part", retries=3)
    async def falters(error: type[Exception], times: int) -> str:
        tried.append(times)
        if len(tried) <= times:
            raise error("away")
        return "done"

    with stamina.set_testing(True, attempts=10, cap=True):
        assert await falters(RetryableError, 3) == "done"
        tried.clear()
        with pytest.raises(RetryableError):
            await falters(RetryableError, 4)
        assert len(tried) == 4
        tried.clear()
        with pytest.raises(RefusedError):
            await falters(RefusedError, 1)
    assert len(tried) == 1
