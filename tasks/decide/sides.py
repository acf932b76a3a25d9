"""How one person stands on both sides, and what a run would do about them; also of those who have left the source.

From what both sides had when they were read last. It is made by the planner itself, so that it cannot say anything
else than a run would.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from connectors.errors import ConfigurationError
from connectors.model import Snapshot, crowd_id
from connectors.operations import KINDS, Kind
from tasks.decide.explain import Explained, Known, explain, nobody, row_of
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.names import crowd_ids
from tasks.decide.plan import plan
from tasks.decide.selection import Selection
from tasks.decide.standing import standing
from tasks.policy import Policy


def explain_sides(source: Snapshot, policy: Policy, key: str, crowd: Known) -> list[Explained]:
    """As `explain`, by whatever name of either side: first how the person stands in the source and in Crowd, then rule
    by rule, then what a run would do.

    Raises `RecordError` where nobody on either side, or more than one person, has this key.
    """
    at = row_of(source, key)
    identity = _identity(source, key, at, crowd)
    if not identity:
        account = _account_named(crowd, key)
        if account is None:
            raise nobody(source, key)
        why = "nobody in the source has this id, username or e-mail address"
        return [Explained("source", "person", (), why, ("nobody",)), *_account(crowd, account, _owner(crowd, account))]
    rows = [_person(source, policy, identity, crowd)]
    try:
        scoped = in_scope(source, policy)
        matched = match(desired(scoped.snapshot, policy), crowd.directory, crowd.links, policy, crowd.source, source)
    except ConfigurationError:  # nobody comes to Crowd then; which the rules say
        return rows + (explain(source, policy, key, crowd) if at is not None else [])
    mine = matched.accounts[(matched.accounts["owner"] == identity).to_numpy()]
    for account in mine.to_dict("records"):
        rows += _account(crowd, account, f"it belongs to {crowd.source}:{identity}")
    if mine.empty:
        rows.append(Explained("crowd", "account", (), "no account belongs to them", ()))
    rows += explain(source, policy, key, crowd) if at is not None else []
    made = plan(
        matched,
        *(source, crowd.directory, policy, crowd.source, ("", "")),
        departures=crowd.departures,
        selection=Selection(person=identity),
    )
    held = made.held["reason"].tolist()
    rows += [Explained("plan", "held", (), why, ()) for why in held if why not in {row.rule for row in rows}]
    todo = list(_operations(made.operations))
    if not todo and not any(row.what == "held" for row in rows):
        todo = [Explained("plan", "next run", (), standing(identity, source, scoped, matched), ("nothing to do",))]
    return rows + todo


def _identity(source: Snapshot, key: str, at: int | list[Explained] | None, crowd: Known) -> str:
    """The id of a person by a key of either side, "" where it is nobody's."""
    if isinstance(at, int):
        return str(source.users["id"].iloc[at])
    if at is not None:
        held = source.held[(source.held["kind"] == "user").to_numpy()]
        fits = (held["id"] == key) | (held["name"].str.lower() == key.lower())
        return str(held.loc[fits, "id"].iloc[0] or key)
    links = crowd.links[((crowd.links["source"] == crowd.source) & (crowd.links["kind"] == "user")).to_numpy()]
    fits = (links["id"] == key) | (crowd_ids(links["name"]) == crowd_id(key))
    if fits.any():
        return str(links.loc[fits, "id"].iloc[0])
    since = None if crowd.departures is None else crowd.departures.since
    return key if since is not None and (since["id"] == key).any() else ""


def _person(source: Snapshot, policy: Policy, identity: str, crowd: Known) -> Explained:
    """How the person stands in the source, and since when they count as having left."""
    listed = source.users[(source.users["id"] == identity).to_numpy()]
    since = ""
    if crowd.departures is not None:
        left = crowd.departures.since[(crowd.departures.since["id"] == identity).to_numpy()]
        since = f", and counts as having left since {left['since'].iloc[0]:%Y-%m-%d %H:%M} UTC" if len(left) else ""
    if listed.empty:
        held = ((source.held["kind"] == "user") & (source.held["id"] == identity)).any()
        if held:
            return Explained("source", "person", (), f"{identity} cannot be read{since}", ("held",))
        why = f"{identity} is not in the source any more{since} ({_leaving(policy, 'deleted')})"
        return Explained("source", "person", (), why, ("gone",))
    one = listed.iloc[0]
    if one["active"]:
        return Explained("source", "person", (), f"is active in the source{since}", (str(one["username"]),))
    why = f"is disabled in the source{since} ({_leaving(policy, 'disabled')})"
    return Explained("source", "person", (), why, (str(one["username"]), "disabled"))


def _leaving(policy: Policy, how: str) -> str:
    days = policy.leavers.delete_after_days
    return f"leavers.{how}: {getattr(policy.leavers, how)}{f', and deletion after {days} days' if days else ''}"


def _account_named(crowd: Known, name: str) -> Mapping[Hashable, Any] | None:
    users = crowd.directory.users
    found = users[(crowd_ids(users["username"]) == crowd_id(name)).to_numpy()]
    return None if found.empty else found.to_dict("records")[0]


def _owner(crowd: Known, account: Mapping[Hashable, Any]) -> str:
    """Whose an account is that belongs to nobody of this source."""
    links = crowd.links[(crowd.links["kind"] == "user").to_numpy()]
    of = links[(crowd_ids(links["name"]) == crowd_id(str(account["username"]))).to_numpy()]
    return f"it belongs to {of['source'].iloc[0]}:{of['id'].iloc[0]}" if len(of) else "it belongs to no source"


def _account(crowd: Known, account: Mapping[Hashable, Any], whose: str) -> list[Explained]:
    """An account as it was read last, and its groups."""
    state = "active" if account["active"] else "inactive"
    memberships = crowd.directory.memberships
    code = memberships["member_id"].cat.categories.get_indexer(pd.Index([str(account["id"])]))[0]
    of = (memberships["member_id"].cat.codes == code) & (memberships["member_kind"] == "user")
    inside = set(memberships.loc[of, "group_id"].astype("str")) if code >= 0 else set()
    groups = crowd.directory.groups
    names = sorted(groups.loc[groups["id"].isin(inside), "name"].tolist())
    return [
        Explained("crowd", "account", (), whose, (str(account["username"]), state)),
        Explained("crowd", "in groups", (), ", ".join(names) or "in none", (f"{len(names):,}",)),
    ]


def _operations(operations: pd.DataFrame) -> Iterator[Explained]:
    for row in operations.itertuples():
        what = f"{KINDS[Kind(str(row.kind))].words} {str(row.target) or str(row.name)}"
        yield Explained("plan", "next run", (), str(row.reason), (what,))
