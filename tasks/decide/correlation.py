"""What the steps of matching work on: desired records of one kind, those of Crowd, and what has been found so far."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import Snapshot, sizes_only
from tasks.decide.names import crowd_ids
from tasks.policy import Policy


@sizes_only
@dataclass(frozen=True, slots=True)
class Surroundings:
    """What both kinds of record share: the directory, all links whose Crowd record is not there (`absent`), the policy,
    the source's name, and its advice for groups of one name."""

    directory: Snapshot
    absent: pd.DataFrame
    policy: Policy
    source: str
    advice: str


@sizes_only
@dataclass(frozen=True, slots=True)
class Correlation:
    """Desired records of one kind (`wanted`) beside those of Crowd (`existing`, with their owners), and what has been
    found for each desired record so far. Every step fills in the three last arrays, which it never replaces.

    `names`: the Crowd ids that the desired names have; `active`: who takes part (groups do). `account`: the id of the
    Crowd record that is theirs, or ""; `how` it was found, or ""; `reason`: why the record is held, or "".
    """

    kind: str
    wanted: pd.DataFrame
    existing: pd.DataFrame
    names: pd.Series
    active: np.ndarray
    account: np.ndarray
    how: np.ndarray
    reason: np.ndarray

    @classmethod
    def of(cls, kind: str, wanted: pd.DataFrame, existing: pd.DataFrame) -> Correlation:
        """Nothing found yet."""
        count = len(wanted)
        return cls(
            kind,
            wanted,
            existing,
            crowd_ids(wanted["username" if kind == "user" else "name"]),
            wanted["active"].to_numpy(dtype=bool) if kind == "user" else np.ones(count, dtype=bool),
            *(np.full(count, "", dtype=object) for _ in range(3)),
        )

    @property
    def name(self) -> str:
        """The column that has the records' names."""
        return "username" if self.kind == "user" else "name"

    @property
    def open(self) -> np.ndarray:
        """Which desired records have neither a Crowd record nor a reason to be held: bool."""
        return np.asarray((self.account == "") & (self.reason == ""))
