"""Whom a plan about one person or one group must know: everybody whose name, address or ownership meets theirs.

People of the source and accounts of Crowd have *keys*: every form under which their name is compared, their e-mail
address where it correlates them, and the id in the source that owns them. Two records can only have to do with each
other if they share a key, so what is connected to the selection by keys, however far, is all that its plan depends on;
groups, nestings and what is held on either side are few, and known whole. The same pure stages then decide on these
fewer rows what they would decide on all, but for what only everybody together can tell (`tasks.decide.width`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from connectors.model import text_array
from tasks.decide.map import usernames
from tasks.decide.names import among, ascii_only, crowd_ids, few, fold, skeletons
from tasks.decide.owners import split_mark
from tasks.decide.values import Sources, field_value
from tasks.policy import Policy

NAME: Final = "name"
EMAIL: Final = "email"
OWNER: Final = "owner"

_Keyed = tuple[np.ndarray, np.ndarray]
"""Ids, and a key of each."""


def person_keys(users: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Users of a source → their keys under a policy: id, key. Whoever is out of scope has them too."""
    parts = [_keyed(users["id"], OWNER, users["id"]), *_named(users["id"], usernames(users, policy.usernames))]
    if EMAIL in policy.matching.users:
        address = policy.attributes.fields.get(EMAIL)
        emails = users[EMAIL]
        if address is not None:
            emails = field_value(Sources(users, policy.attributes.wanted()), address)
        parts.append(_keyed(users["id"], EMAIL, emails.str.lower()))
    return _together(parts)


def account_keys(accounts: pd.DataFrame, links: pd.DataFrame, policy: Policy, source: str) -> pd.DataFrame:
    """Crowd's users, and the links of users in this directory → their keys: id (Crowd id), key."""
    prefix = f"{source}:"
    marks, _ = split_mark(accounts["attributes"])
    ours = links[links["source"] == source]
    names = pd.concat([accounts["username"], links["name"]], ignore_index=True).astype("str")
    ids = crowd_ids(names)
    parts = [
        *_named(ids, names),
        _keyed(accounts["id"], OWNER, marks.where(marks.str.startswith(prefix), "").str.slice(len(prefix))),
        _keyed(crowd_ids(ours["name"]), OWNER, ours["id"]),
    ]
    if EMAIL in policy.matching.users:
        parts.append(_keyed(accounts["id"], EMAIL, accounts[EMAIL].str.lower()))
    return _together(parts)


def teams_of(
    group: str, teams: pd.DataFrame, groups: pd.DataFrame, links: pd.DataFrame, policy: Policy, source: str
) -> set[str]:
    """A group of Crowd (id) → the groups of a source (ids) that it is made of: of these `teams` (id, name) those that
    get its name, and those that own it by its link or its mark. `groups`: Crowd's groups."""
    marks, _ = split_mark(groups["attributes"][(groups["id"] == group).to_numpy()])
    tied = links[(links["kind"] == "group") & (links["source"] == source) & (crowd_ids(links["name"]) == group)]
    owners = {*tied["id"], *(mark.removeprefix(f"{source}:") for mark in marks if mark.startswith(f"{source}:"))}
    named = (crowd_ids(policy.groups.named(teams["name"])) == group).to_numpy()
    return set(teams["id"][named | among(teams["id"], owners)])


def _named(ids: pd.Series, names: pd.Series) -> list[_Keyed]:
    """Every form under which names are compared, as keys. (Plain ones have but one.)"""
    names = names.reset_index(drop=True)
    lower = crowd_ids(names)
    parts = [_keyed(ids, NAME, lower)]
    odd = (lower != (folded := fold(names))).to_numpy() | ~ascii_only(names)
    if odd.any():
        some, plain = names[odd].reset_index(drop=True), folded[odd].reset_index(drop=True)
        whose = pd.Series(ids.to_numpy(dtype=object)[odd], dtype="str")
        parts += [_keyed(whose, NAME, form) for form in (plain, *skeletons(some, plain))]
    return parts


def _keyed(ids: pd.Series, kind: str, values: pd.Series) -> _Keyed:
    """Ids and their values → keys; an empty value is none."""
    texts = values.to_numpy(dtype=object)
    there = texts != ""
    return ids.to_numpy(dtype=object)[there], f"{kind}:" + texts[there]


def _together(parts: list[_Keyed]) -> pd.DataFrame:
    ids, keys = (np.concatenate(side) for side in zip(*parts, strict=True))
    if few(ids):
        once = [*dict.fromkeys(zip(ids, keys, strict=True))]
        found = {"id": text_array([one for one, _ in once]), "key": text_array([key for _, key in once])}
        return pd.DataFrame(found, copy=False)
    return pd.DataFrame({"id": text_array(ids), "key": text_array(keys)}, copy=False).drop_duplicates(ignore_index=True)
