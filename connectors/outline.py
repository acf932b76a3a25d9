"""The outline of crowdsync.toml: where the database is, and which source goes into which directory.

What providers may say in it takes a second to import (`connectors.settings`), and is not looked at here.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Outline:
    """`store_url` may hold a password. `sources`: directories with the names of their sources."""

    store_url: str
    busy: float
    sources: Mapping[str, tuple[str, ...]]


def outline(default: str = "crowdsync.toml") -> Outline | None:
    """The outline of the configuration ($CROWDSYNC_CONFIG, or the one here); None where it is not as simple as that,
    and `connectors.settings.load` must say what is wrong."""
    file = Path(os.environ.get("CROWDSYNC_CONFIG") or default)
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        store = data.get("store", {})
        url = os.environ[store["url_env"]] if store.get("url_env") else store.get("url", "sqlite:///crowdsync.db")
        names = [data["directory"].get("name", "crowd")] if "directory" in data else []
        names += data.get("directories", {})
        into: dict[str, list[str]] = {name: [] for name in names}
        for source, settings in data["sources"].items():
            into[settings.get("directory") or names[0]].append(source)
        return Outline(str(url), float(store.get("busy", 30)), {name: tuple(of) for name, of in into.items()})
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None
