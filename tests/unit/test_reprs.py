"""What is written into logs of what a stage takes and returns: sizes, never content."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Held, Page
from connectors.model import Snapshot, held_frame, users_frame
from connectors.operations import Operation
from tasks.policy import Policy

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "tasks").rglob("*.py")), ROOT / "connectors/model.py", ROOT / "connectors/contract.py"]
MODULES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES if file.stem != "__init__"]
CONTENT = ("DataFrame", "Series", "ndarray", "Snapshot", "Row", "Finding", "Plan", "Policy", "Verdict", "Impact")
MAIL = "ann.secret@corp.example"


@pytest.mark.parametrize("module", MODULES)
def test_every_class_that_holds_people_says_only_how_many(module: str) -> None:
    for name, kind in vars(importlib.import_module(module)).items():
        if name.startswith("_") or not inspect.isclass(kind) or not dataclasses.is_dataclass(kind):
            continue
        if kind.__module__ == module and any(word in str(f.type) for f in dataclasses.fields(kind) for word in CONTENT):
            assert kind.__repr__.__qualname__.startswith("sizes_only"), f"{module}.{name}: put @sizes_only before it"


@pytest.mark.parametrize(
    "value",
    [
        Snapshot.of(users_frame([("u1", MAIL, MAIL, "A", "B", "A B", True, "{}")]), held=held_frame()),
        Page([("u1", MAIL)], last=True),
        Held("user", "1", MAIL, "why"),
        Operation(1, "user_update", MAIL, record={"email": MAIL}),  # type: ignore[arg-type]
        Policy.model_validate({"scope": {"exclude_users": [MAIL]}}),
        [Page([("u1", MAIL)], last=True)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_content(value: Any) -> None:
    for text in (repr(value), str(value), f"{value}"):
        assert "secret" not in text
        assert len(text) < 300
