"""The impact of a plan in plain words, the most dangerous first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from tasks.decide.impact.model import Impact

NAMES: Final = 10
"""Names in one line for people, at most."""


def lines(impact: Impact) -> list[str]:
    """The impact in plain words, the most dangerous first."""
    power = impact.privileged
    said = [
        f"{group} loses its last administrator{'' if len(who) == 1 else 's'} ({_some(who)})"
        for group, who in _by_group(power[power["group"].isin(impact.administrators_lost) & (power["what"] == "loses")])
    ]
    said += _power_lines(power[power["what"] == "gains"], "gains")
    said += [f"{u.what}: {u.now:,}, at most {u.most_before:,} in the {u.runs} runs before" for u in impact.unusual]
    if count := len(impact.shut_out):
        whom = "1 person loses" if count == 1 else f"{count:,} people lose"
        said.append(f"{whom} all access: {_some(impact.shut_out)}")
    if count := len(impact.emptied):
        what = "1 group is" if count == 1 else f"{count:,} groups are"
        said.append(f"{what} emptied: {_some(impact.emptied)}")
    rest = ~power["group"].isin(impact.administrators_lost) & (power["what"] == "loses")
    said += _power_lines(power[rest], "loses")
    if impact.active_before != impact.active_after:
        said.append(f"active accounts {impact.active_before:,} → {impact.active_after:,}")
    if impact.seats_before is not None and impact.seats_after is not None and impact.seats_before != impact.seats_after:
        said.append(f"licence seats {impact.seats_before:,} → {impact.seats_after:,}")
    return said


def _some(names: Sequence[str]) -> str:
    """At most ten names, and how many more there are."""
    shown = ", ".join(names[:NAMES])
    return f"{shown} … and {len(names) - NAMES:,} more" if len(names) > NAMES else shown


def _by_group(rows: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    for group, who in rows.groupby("group", sort=True)["who"]:
        yield str(group), who.tolist()


def _power_lines(rows: pd.DataFrame, verb: str) -> list[str]:
    said = [f"privileged: {group} {verb} {_some(who)}" for group, who in _by_group(rows)]
    if len(said) > NAMES:
        said[NAMES:] = [f"privileged: {len(said) - NAMES:,} more groups {verb.removesuffix('s')} members too"]
    return said
