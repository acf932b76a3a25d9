"""The keys under which the store finds people of a source and accounts of Crowd: made of what it has, as it changes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import text_array
from connectors.store import IndexState
from tasks.decide.neighbourhood import EMAIL, NAME, OWNER, account_keys, person_keys
from tasks.read import validate
from tasks.run import Run


@dataclass(slots=True)
class Keys:
    """The keys of both sides as their newest snapshots are (the store's numbers of these), to find records by. They
    are made when they are first asked for, which a run in which nobody changed never does."""

    run: Run
    source_snapshot: int
    crowd_snapshot: int
    _renewed: bool = False

    def renew(self) -> None:
        """Makes them, where nobody did."""
        if not self._renewed:
            self._renew()
            self._renewed = True

    def people(self, keys: Collection[str]) -> set[str]:
        """The people (ids) who have one of the keys."""
        return self._having("people", keys)

    def accounts(self, keys: Collection[str]) -> set[str]:
        """The accounts (names) that have one of the keys, but for the keys that are plain names."""
        return self._having("accounts", keys)

    def _having(self, whose: str, keys: Collection[str]) -> set[str]:
        if not keys:
            return set()
        self.renew()
        return self.run.store.having(self._space(whose), keys)

    def _space(self, whose: str) -> str:
        return f"{self.run.directory_name} {self.run.source_name} {whose}"

    def _renew(self) -> None:
        """Brings the keys in the store up to date: all of them where the policy is another one since, else those of
        what changed."""
        run, store, digest = self.run, self.run.store, self.run.policy.digest()
        # (An address that the policy makes of something else may change with anything.)
        told = () if EMAIL in run.policy.attributes.fields else ("username", "email", "attributes")
        for whose, stream, newest in (
            ("people", run.source_side.stream, self.source_snapshot),
            ("accounts", run.crowd_side.stream, self.crowd_snapshot),
        ):
            space = self._space(whose)
            state = store.index_state(space)
            anew = state is None or state.digest != digest
            since = state if state is not None and not anew else IndexState(digest, 0, 0)
            users = store.users_since(stream, since.snapshot, told)
            links, event = store.linked_since(run.directory_name, since.event) if whose == "accounts" else (None, 0)
            behind = newest - since.snapshot > 50  # (each run adds snapshots, most of which change nothing)
            if anew or behind or len(users) or (links is not None and len(links)):
                keys = _people_keys(run, users) if links is None else _accounts_keys(run, users, links)
                store.index(space, keys, IndexState(digest, newest, event), anew=anew)


def _people_keys(run: Run, users: pd.DataFrame) -> pd.DataFrame:
    """Users of the source → the keys (value, id) under which the store finds them; their username and address as they
    stand there, too, which people ask for."""
    users = validate.without_blanks(users)
    keys = person_keys(users, run.policy)
    parts = [keys.loc[~keys["key"].str.startswith(f"{OWNER}:"), ["id", "key"]].to_numpy(dtype=object)]
    for column in ("username", "email"):
        there = (users[column] != "").to_numpy()
        asked = ("asked:" + users[column].str.lower())[there]
        parts.append(np.stack([users["id"].to_numpy(dtype=object)[there], asked.to_numpy(dtype=object)], axis=1))
    ids, values = np.concatenate(parts).T
    return pd.DataFrame({"id": text_array(ids), "value": text_array(values)}, copy=False)


def _accounts_keys(run: Run, users: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """Crowd's users, and links → the keys (value, id) under which the store finds them, but for their plain names."""
    keys = account_keys(users, links, run.policy, run.source_name)
    plain = f"{NAME}:" + keys["id"]
    return keys[(keys["key"] != plain).to_numpy()].rename(columns={"key": "value"})
