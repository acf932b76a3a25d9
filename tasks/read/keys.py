"""The keys under which the store finds people of a source and accounts of Crowd: made of what it has, as it changes."""

from __future__ import annotations

import pandas as pd

from connectors.model import Snapshot
from connectors.store import IndexState
from tasks.decide.neighbourhood import NAME, OWNER, account_keys, person_keys
from tasks.read import validate
from tasks.run import Run


def spaces(run: Run) -> tuple[str, str]:
    """The names under which the store has the keys of people, and of accounts."""
    of = f"{run.directory_name} {run.source_name}"
    return f"{of} people", f"{of} accounts"


def renew(run: Run, source_snapshot: int, crowd_snapshot: int) -> None:
    """Brings the keys of both sides in the store up to date with their newest snapshots: all of them where the policy
    is another one since, else those of what changed."""
    source, crowd = run.source_side.stream, run.crowd_side.stream
    of_people, of_accounts = spaces(run)
    digest, store = run.policy.digest(), run.store
    for space, stream, newest in ((of_people, source, source_snapshot), (of_accounts, crowd, crowd_snapshot)):
        state = store.index_state(space)
        anew = state is None or state.digest != digest
        since = state if state is not None and not anew else IndexState(digest, 0, 0)
        users = store.users_since(stream, since.snapshot)
        links, event = store.linked_since(run.directory_name, since.event) if space == of_accounts else (None, 0)
        behind = newest - since.snapshot > 50  # (each run adds snapshots, most of which change nothing)
        if anew or behind or len(users) or (links is not None and len(links)):
            keys = _people_keys(run, users) if links is None else _accounts_keys(run, users, links)
            store.index(space, keys, IndexState(digest, newest, event), anew=anew)


def _people_keys(run: Run, users: pd.DataFrame) -> pd.DataFrame:
    """Users of the source → the keys (value, id) under which the store finds them; their username and address as they
    stand there, too, which people ask for."""
    users = validate.trimmed(Snapshot.of(users)).users
    keys = person_keys(users, run.policy)
    keys = keys[~keys["key"].str.startswith(f"{OWNER}:")]
    asked = [
        pd.DataFrame({"id": users["id"], "key": "asked:" + users[column].str.lower()})[users[column] != ""]
        for column in ("username", "email")
    ]
    return pd.concat([keys, *asked], ignore_index=True).rename(columns={"key": "value"})


def _accounts_keys(run: Run, users: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """Crowd's users, and links → the keys (value, id) under which the store finds them, but for their plain names."""
    keys = account_keys(users, links, run.policy, run.source_name)
    plain = f"{NAME}:" + keys["id"]
    return keys[(keys["key"] != plain).to_numpy()].rename(columns={"key": "value"})
