"""A stored plan of a few operations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from connectors.model import held_frame
from connectors.store import Store

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def operations(*kinds: str) -> pd.DataFrame:
    frame = pd.DataFrame({"seq": range(len(kinds)), "phase": 1, "kind": list(kinds)})
    for name in ("name", "target", "source_id", "record", "before", "reason"):
        frame[name] = ""
    return frame


def plan(store: Store, *kinds: str, **changed: Any) -> int:
    values: dict[str, Any] = {
        "run": "r1",
        "source": "acme",
        "directory": "crowd",
        "digest": "d1",
        "source_snapshot": 1,
        "directory_snapshot": 2,
        "policy": "{}",
        "at": AT,
        "operations": operations(*(kinds or ("user_create",) * 3)),
        "held": held_frame(),
    }
    return store.save_plan(**values | changed)
