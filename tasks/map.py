"""What should stand in Crowd: usernames by ordered rules, fields and attributes by a mapping.

Scoped snapshot → desired state: the same ids, Crowd's names and values. Two people whose names
become one are both held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import HELD, MAX_TEXT, Snapshot, attributes_text, held_frame
from tasks.names import arrow_text, clashes, spelled
from tasks.policy import Attributes, Policy, Usernames

FIELDS = ("email", "first_name", "last_name", "display_name")


@dataclass(frozen=True, slots=True)
class Desired:
    """What the source wants in Crowd. `users`, `groups` and `memberships` are as in
    `connectors.model`, with Crowd's usernames and attributes; `held` has its columns too."""

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame
    held: pd.DataFrame


def desired(snapshot: Snapshot, policy: Policy) -> Desired:
    """Scoped source snapshot → desired state, with everything that cannot be mapped held."""
    users = snapshot.users.copy()
    users["username"] = usernames(snapshot.users, policy.usernames)
    for field, source in policy.attributes.fields.items():
        if source in ("id", "username", *FIELDS):
            users[field] = snapshot.users[source]
        else:
            users[field] = _first_value(snapshot.users["attributes"], source)
    users["attributes"] = _renamed(snapshot.users["attributes"], policy.attributes)

    reasons = pd.Series("", index=users.index, dtype="str")
    reasons = _because(reasons, users["username"] == "", "the username rules leave nothing of its username")
    for column in ("username", *FIELDS):
        long = _long(users[column])
        reasons = _because(reasons, long, f"{column} is longer than Crowd's {MAX_TEXT} characters")
    if policy.attributes.extra:
        reasons = _because(reasons, _too_long(users["attributes"]), f"an attribute exceeds {MAX_TEXT} characters")
    reasons = _collisions(reasons, users["username"], snapshot.users["username"])
    group_reasons = pd.Series("", index=snapshot.groups.index, dtype="str")
    long = _long(snapshot.groups["name"])
    group_reasons = _because(group_reasons, long, f"name is longer than Crowd's {MAX_TEXT} characters")
    group_reasons = _collisions(group_reasons, snapshot.groups["name"].str.strip(), snapshot.groups["name"])

    groups = snapshot.groups.copy()
    groups["name"] = groups["name"].str.strip()
    groups["description"] = _fitting(groups["description"])
    held = pd.concat(
        [
            snapshot.held,
            _held("user", snapshot.users.assign(name=snapshot.users["username"]), reasons),
            _held("group", snapshot.groups, group_reasons),
        ],
        ignore_index=True,
    )
    return Desired(
        users[reasons == ""].reset_index(drop=True),
        groups[group_reasons == ""].reset_index(drop=True),
        snapshot.memberships,
        held,
    )


def usernames(users: pd.DataFrame, rules: Usernames) -> pd.Series:
    """Users frame → Crowd usernames, on its index."""
    names = arrow_text(users[rules.source])
    if rules.normalise != "none":
        names = pc.utf8_normalize(names, rules.normalise)
    for rule in rules.rules:
        names = pc.replace_substring_regex(names, rule.pattern, rule.replacement)
    if rules.case == "lower":
        names = pc.utf8_lower(names)
    return pd.Series(pc.utf8_trim_whitespace(names), dtype="str", index=users.index)


def _collisions(reasons: pd.Series, names: pd.Series, originals: pd.Series) -> pd.Series:
    """Adds a reason to every record whose name folds to the same form as another's, naming them all."""
    label = clashes(names)
    found: dict[Any, str] = {}
    for _, index in label[(label != "") & (names != "")].groupby(label).groups.items():
        together = ", ".join(spelled(name, repr(name)) for name in originals[index].head(5))
        more = f" and {len(index) - 5} more" if len(index) > 5 else ""
        found.update(dict.fromkeys(index, f"{together}{more} become one name in Crowd; rename all but one in the IdP"))
    return reasons.where((reasons != "") | ~reasons.index.isin(list(found)), reasons.index.map(found))


def _because(reasons: pd.Series, which: Any, reason: str) -> pd.Series:
    return reasons.where(~np.asarray(which, dtype=bool) | (reasons != ""), reason)


def _held(kind: str, records: pd.DataFrame, reasons: pd.Series) -> pd.DataFrame:
    found = records[reasons != ""]
    if found.empty:
        return held_frame()
    return pd.DataFrame(
        {
            "kind": pd.array([kind] * len(found), dtype="str"),
            "id": found["id"],
            "name": found["name"],
            "stage": pd.array(["map"] * len(found), dtype="str"),
            "reason": reasons[found.index],
        }
    )[list(HELD)]


def _renamed(texts: pd.Series, mapping: Attributes) -> pd.Series:
    """Source attributes → Crowd attributes. Parsed once per distinct text."""
    if not mapping.extra:
        return pd.Series("{}", index=texts.index, dtype="str")
    pairs = sorted(mapping.extra.items())
    cache: dict[str, str] = {}
    for text in texts.unique():
        source = orjson.loads(text)
        cache[text] = attributes_text({crowd: source[name] for crowd, name in pairs if source.get(name)})
    return texts.map(cache).astype("str")


def _first_value(texts: pd.Series, name: str) -> pd.Series:
    cache = {text: (orjson.loads(text).get(name) or [""])[0] for text in texts.unique()}
    return texts.map(cache).astype("str")


def _fitting(texts: pd.Series) -> pd.Series:
    """Texts cut to what Crowd takes; a description is nobody's identity."""
    long = _long(texts)
    if not long.any():
        return texts
    cut = [text.encode("utf-16-le")[: 2 * MAX_TEXT].decode("utf-16-le", "ignore") for text in texts[long]]
    values = texts.to_numpy(dtype=object).copy()
    values[long] = cut
    return pd.Series(values, dtype="str", index=texts.index)


def _long(texts: pd.Series) -> np.ndarray:
    """Which texts are longer than Crowd takes, as its Java counts: in UTF-16 units."""
    array = arrow_text(texts)
    if (pc.max(pc.binary_length(array)).as_py() or 0) <= MAX_TEXT:  # never fewer bytes than units
        return np.zeros(len(texts), dtype=bool)
    astral = pc.count_substring_regex(array, r"[\x{10000}-\x{10FFFF}]")
    units = pc.add(pc.cast(pc.utf8_length(array), "int64"), pc.cast(astral, "int64"))
    return np.asarray(pc.greater(units, MAX_TEXT))


def _too_long(texts: pd.Series) -> pd.Series:
    suspects = _long(texts)
    result = pd.Series(np.zeros(len(texts), dtype=bool), index=texts.index)
    for index in texts.index[suspects]:
        values = orjson.loads(texts[index]).values()
        result[index] = any(len(value.encode("utf-16-le")) > 2 * MAX_TEXT for many in values for value in many)
    return result


@task(name="map", task_run_name="map", cache_policy=NO_CACHE, persist_result=False)
async def map_names(snapshot: Snapshot, policy: Policy) -> Desired:
    """What the source wants in Crowd."""
    return desired(snapshot, policy)
