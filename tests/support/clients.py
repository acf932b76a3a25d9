"""Clients that we did not write, each with its dependencies in a directory of its own under `.cache/clients`.

They are fetched once; after that nothing needs the network. `drive` runs a script with them on its path.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def client_package(*requirements: str) -> Path:
    """Packages from PyPI, such as `okta==3.4.6`, and where they are."""
    place = ROOT / ".cache" / "clients" / re.sub(r"[^\w.-]+", "-", "+".join(requirements))
    if not place.exists():
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(fresh), *requirements]
        made = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if made.returncode:
            pytest.skip(f"{requirements} are not cached and cannot be fetched: {made.stderr.strip()[-200:]}")
        _put(fresh, place)
    return place


def drive(script: Path, *arguments: str, package: Path, environment: Mapping[str, str] | None = None) -> Any:
    """Runs a driver with the client on its path; what it prints is JSON."""
    run = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(package), "NO_PROXY": "*", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


def node_package(manifest: Path) -> Path:
    """What a package.json names, from npm, in `.cache` under the name of its directory."""
    place = ROOT / ".cache" / manifest.parent.name
    wanted, kept = manifest.read_bytes(), place / "package.json"
    if kept.exists() and kept.read_bytes() != wanted:
        shutil.rmtree(place)
    if not (place / "node_modules").exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        fresh.mkdir(parents=True)
        (fresh / "package.json").write_bytes(wanted)
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
        made = subprocess.run(install, cwd=fresh, capture_output=True, text=True, timeout=600)
        if made.returncode:
            pytest.skip(f"{manifest} is not cached and cannot be fetched: {made.stderr.strip()[-200:]}")
        _put(fresh, place)
    return place


def _put(fresh: Path, place: Path) -> None:
    """What was fetched goes where it belongs, unless another process was faster."""
    try:
        fresh.rename(place)
    except OSError:
        shutil.rmtree(fresh)
