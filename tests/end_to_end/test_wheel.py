"""What is installed is whole: the wheel, built without the network and installed where there is no checkout, has the
commands, every module, the migrations of the store and the deployments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("connectors", "tasks", "flows", "deployments")

LOADED = """
import importlib, json, pkgutil, sys
import yaml
from connectors.store import Store
from deployments import serving

found = {}
for package in sys.argv[1:]:
    top = importlib.import_module(package)
    found[package] = top.__file__
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if ".versions." not in module.name and not module.name.endswith("migrations.env"):  # (Alembic's to import)
            found[module.name] = importlib.import_module(module.name).__file__
_, schema = Store.upgrade("sqlite:///made.db")
with Store.open("sqlite:///made.db") as store:
    runs = len(store.runs(1))
entrypoints = [one["entrypoint"] for one in yaml.safe_load(serving.FILE.read_text())["deployments"]]
for entrypoint in entrypoints:
    module, _, flow = entrypoint.rpartition(".")
    getattr(importlib.import_module(module), flow)
print(json.dumps({"modules": found, "schema": schema, "runs": runs, "entrypoints": entrypoints}))
"""


@dataclass(frozen=True)
class Installed:
    """The wheel, where it was installed, and a folder to work in."""

    wheel: Path
    venv: Path
    home: Path

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program of the environment, run outside of the checkout; it must end well."""
        ended = subprocess.run(
            [self.venv / "bin" / program, *arguments], cwd=self.home, env=_environment(), capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def _environment() -> dict[str, str]:
    """Ours without what would lead Python back to the checkout, or crowdsync to a configuration or server."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CROWDSYNC_"))}
    ours.pop("PREFECT_API_URL", None)
    return ours | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}


def _sources() -> set[str]:
    """Every file of the packages that a program may import or load, by its path in the checkout."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file())
    return {
        file.relative_to(ROOT).as_posix()
        for file in files
        # (Documentation is read on the web.)
        if "__pycache__" not in file.parts and (file.suffix not in (".md", ".pyc") or "templates" in file.parts)
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of this checkout in an environment of its own.

    It is built of a copy, so that no earlier `build/` lends it files and the checkout stays clean. Its dependencies are
    those of the environment that runs the tests, reached by a path: of a folder that is named so, Python does not read
    the `.pth` files, by which the checkout is installed there.
    """
    home = tmp_path_factory.mktemp("wheel")
    copy = home / "copy"
    skip = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input"]
    _done([*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(home), str(copy)], home)
    (wheel,) = home.glob("*.whl")
    _done([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], home)
    python = home / "venv" / "bin" / "python"
    _done([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], home)
    (site,) = (home / "venv" / "lib").glob("python*/site-packages")
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n", encoding="utf-8")
    shutil.rmtree(copy)
    (home / "elsewhere").mkdir()
    return Installed(wheel, home / "venv", home / "elsewhere")


def _done(command: list[str], home: Path) -> None:
    ended = subprocess.run(command, cwd=home, env=_environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_file_is_in_the_wheel_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    missing, extra = sorted(_sources() - packed), sorted(packed - _sources())
    assert not missing, f"{missing}: not in the wheel; see [tool.setuptools…] in pyproject.toml, and `__init__.py`"
    assert not extra, f"{extra}: in the wheel, and not in the checkout"


def test_its_commands_run(installed: Installed) -> None:
    assert "Keeps Atlassian Crowd in step" in installed.run("crowdsync", "--help")
    schema = json.loads(installed.run("crowdsync", "policy", "schema"))
    assert "scope" in schema["properties"]


def test_every_module_the_migrations_and_the_deployments_load_from_it(installed: Installed) -> None:
    loaded = json.loads(installed.run("python", "-c", LOADED, *PACKAGES).splitlines()[-1])
    elsewhere = {
        name: file for name, file in loaded["modules"].items() if not Path(file).is_relative_to(installed.venv)
    }
    assert not elsewhere
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in _sources()}
    assert {"connectors.store", "tasks.read", "tasks.decide.plan", "flows.sync"} <= set(loaded["modules"])
    assert set(loaded["modules"]) <= modules
    assert loaded["schema"]
    assert loaded["runs"] == 0
    assert "flows.sync.sync" in loaded["entrypoints"]
