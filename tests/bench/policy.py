"""A realistic policy of twenty rules against the plain difference of the same tables, in memory.

`python -m tests.bench.policy --size small|large`: the stages from filter to guard, whose sum is set beside the floor:
both sides' tables compared field by field and key by key, without policy, ownership or reasons.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from connectors.model import ID_ATTRIBUTE, Snapshot, attributes_text, crowd_id, memberships_from_codes
from deployments.sandbox.organisation import Organisation, organisation
from tasks.decide.filter import in_scope
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import plan
from tasks.policy import Policy
from tests.bench import floors

SIZES = {"small": (10_000, 1_000, 200_000), "large": (100_000, 2_000, 1_000_000)}
TARGET = 2.0

POLICY = {
    "scope": {
        "exclude_groups": ["Secret *", "re:tmp-.*"],
        "exclude_users": ["svc-*", "test-*"],
        "conditions": [
            {"all": [{"field": "department", "operator": "is_present"}, {"field": "active", "operator": "is_true"}]},
            {"all": [{"field": "username", "operator": "not_equals", "values": ["nobody"]}]},
        ],
    },
    "usernames": {
        "rules": [
            {"pattern": r"@acme\.example$", "replacement": ""},
            {"pattern": r"^ext-(.+)$", "replacement": r"\1-ext"},
        ],
        "deny": ["root", "administrator"],
    },
    "groups": {
        "rules": [{"pattern": "^Team ", "replacement": "team-"}, {"pattern": " ", "replacement": "-"}],
        "deny": ["re:.*-archived"],
        "everyone": ["jira-users"],
    },
    "attributes": {
        "fields": {
            "display_name": {
                "sources": ["first_name", "last_name"],
                "combine": "join",
                "steps": [{"function": "trim"}],
            },
            "email": {"sources": ["email"], "steps": [{"function": "lower"}]},
        },
        "extra": {
            "department": {
                "sources": ["department"],
                "steps": [
                    {"function": "lookup", "table": {"engineering": "R&D", "sales": "Commercial"}},
                    {"function": "default", "value": "unknown"},
                ],
            },
            "title": {
                "sources": ["title"],
                "steps": [{"function": "replace", "pattern": "^Senior ", "replacement": "Sr. "}],
            },
        },
    },
    "limits": {"group_membership_remove": {"percent": 50}, "seat_groups": ["jira-users"], "seats": 10_000_000},
}


def rules(policy: dict[str, Any]) -> int:
    """How many rules a policy states: each pattern, condition, replacement, step, name and limit."""
    if isinstance(policy, dict):
        leaf = {"pattern", "operator", "function", "percent"} & set(policy)
        return 1 if leaf else sum(rules(value) for value in policy.values())
    if isinstance(policy, list):
        return sum(rules(value) for value in policy) if policy and isinstance(policy[0], dict) else len(policy)
    return 1 if isinstance(policy, int) else 0


def tables(company: Organisation) -> Snapshot:
    """A company as a source gives it."""
    people = company.people
    users = pd.DataFrame(
        {
            "id": pd.array([p.id for p in people], dtype="str"),
            "username": pd.array([p.username for p in people], dtype="str"),
            "email": pd.array([p.email for p in people], dtype="str"),
            "first_name": pd.array([p.first_name for p in people], dtype="str"),
            "last_name": pd.array([p.last_name for p in people], dtype="str"),
            "display_name": pd.array([p.display_name for p in people], dtype="str"),
            "active": np.array([p.active for p in people], dtype=bool),
            "attributes": pd.array(
                [attributes_text({"department": [p.department], "title": [p.title]}) for p in people], dtype="str"
            ),
        }
    )
    groups = pd.DataFrame(
        {
            "id": pd.array([t.id for t in company.teams], dtype="str"),
            "name": pd.array([t.name for t in company.teams], dtype="str"),
            "description": pd.array([t.about for t in company.teams], dtype="str"),
            "attributes": pd.array(["{}"] * len(company.teams), dtype="str"),
        }
    )
    return Snapshot.of(users, groups, _memberships(company))


def _memberships(company: Organisation) -> pd.DataFrame:
    people, teams = [p.id for p in company.people], [t.id for t in company.teams]
    members = np.concatenate([company.member_person, len(people) + company.nest_child])
    parents = np.concatenate([company.member_team, company.nest_parent])
    kinds = np.concatenate([np.ones(len(company.member_person)), np.zeros(len(company.nest_child))])
    return memberships_from_codes(teams, [*people, *teams], parents, members, kinds)


def synced(source: Snapshot, policy: Policy) -> Snapshot:
    """The Crowd of this source and policy, but for one record and one membership in a hundred."""
    wanted = desired(in_scope(source, policy).snapshot, policy)
    users = wanted.users[wanted.users["active"].to_numpy(dtype=bool)].reset_index(drop=True)
    names = dict(zip(users["id"], users["username"].map(crowd_id), strict=True))
    names |= dict(zip(wanted.groups["id"], wanted.groups["name"].map(crowd_id), strict=True))

    def marked(frame: pd.DataFrame) -> list[str]:
        ends = [("," if text != "{}" else "") + text[1:] for text in frame["attributes"]]
        return [f'{{"{ID_ATTRIBUTE}":["acme:{i}"]{end}' for i, end in zip(frame["id"], ends, strict=True)]

    accounts = users.assign(id=users["username"].map(crowd_id).astype("str"), attributes=marked(users))
    odd = np.arange(len(accounts)) % 100 == 0
    accounts["display_name"] = accounts["display_name"].where(~odd, "somebody else").astype("str")
    groups = wanted.groups.assign(
        id=wanted.groups["name"].map(crowd_id).astype("str"), attributes=marked(wanted.groups)
    )
    inside = wanted.memberships.astype("str")
    known = inside["group_id"].isin(names) & inside["member_id"].isin(names)
    inside = inside[known & (np.arange(len(inside)) % 100 != 0)]
    return Snapshot.of(
        accounts,
        groups,
        pd.DataFrame(
            {
                "group_id": pd.Categorical(inside["group_id"].map(names).astype("str")),
                "member_id": pd.Categorical(inside["member_id"].map(names).astype("str")),
                "member_kind": pd.Categorical(inside["member_kind"]),
            }
        ),
    )


def stages(source: Snapshot, directory: Snapshot, policy: Policy) -> tuple[dict[str, float], int]:
    """Seconds of each stage from filter to guard, and how many operations the plan has."""
    links = pd.DataFrame({name: pd.array([], dtype="str") for name in ("source", "kind", "id", "name", "how")})
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = work(*arguments)
        seconds[stage] = time.perf_counter() - start
        return result

    scoped = timed("filter", in_scope, source, policy)
    wanted = timed("map", desired, scoped.snapshot, policy)
    matched = timed("match", match, wanted, directory, links, policy, "acme")
    made = timed("plan", plan, matched, source, directory, policy, "acme", ("", ""))
    reach = timed("impact", impact, made.operations, directory, policy)
    timed("guard", judge, made, policy, reach)
    return seconds, len(made.operations)


def main() -> None:
    """Prints each stage, its seconds, and the whole beside its floor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="small")
    size = parser.parse_args().size
    people, teams, memberships = SIZES[size]
    source = tables(organisation(users=people, groups=teams, memberships=memberships, seed=1))
    console = Console()
    # Where names are as in the source, so that the plain difference finds its pairs.
    floors.sides.source, floors.sides.directory = source, synced(source, Policy())
    for title, given in (("the default policy", {}), (f"a policy of {rules(POLICY)} rules", POLICY)):
        policy = Policy.model_validate(given)
        directory = synced(source, policy)
        best: dict[str, float] = {}
        floor, changes = float("inf"), 0
        for _ in range(3):
            gc.collect()
            floor = min(floor, floors.diff())
            seconds, changes = stages(source, directory, policy)
            best = {stage: min(best.get(stage, 1e9), value) for stage, value in seconds.items()}
        table = Table(title=f"{size}: {title}, {changes:,} operations", title_justify="left")
        for column in ("stage", "seconds", "x the plain difference"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage, value in best.items():
            table.add_row(stage, f"{value:.2f}", f"{value / floor:.2f}")
        whole = sum(best.values())
        table.add_row("[bold]all of it", f"{whole:.2f}", f"[bold]{whole / floor:.2f}[/] (target {TARGET:g})")
        table.add_row("the plain difference", f"{floor:.2f}", "1")
        console.print(table)


if __name__ == "__main__":
    main()
