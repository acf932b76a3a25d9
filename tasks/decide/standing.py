"""How one person stands, in a sentence: for a run about them that finds nothing to do."""

from __future__ import annotations

from connectors.model import Snapshot
from tasks.decide.filter import Scoped
from tasks.decide.match import Matched


def standing(person: str, source: Snapshot, scoped: Scoped, matched: Matched) -> str:
    """A person (id), the source, who is in scope of it, and who was matched → a sentence that says why nothing is to be
    done for them."""
    listed = source.users[(source.users["id"] == person).to_numpy()]
    name = str(listed["username"].iloc[0]) if len(listed) else person
    mine = matched.users[(matched.users["id"] == person).to_numpy()]
    accounts = matched.accounts
    if len(mine) and mine["account"].iloc[0]:
        account = accounts.loc[(accounts["id"] == mine["account"].iloc[0]).to_numpy(), "username"].iloc[0]
        state = "in scope" if mine["active"].iloc[0] else "disabled in the source"
        return f"{name} is {state}, and the Crowd account {account} is as the policy wants it"
    owned = accounts[(accounts["owner"] == person).to_numpy()]
    left = (
        f"the Crowd account {owned['username'].iloc[0]} is as the policy wants it"
        if len(owned)
        else "there is no account"
    )
    if len(mine):
        state = "is in scope" if mine["active"].iloc[0] else "is disabled in the source"
    elif person in scoped.users_out:
        state = "is out of scope"
    elif len(listed):
        state = "is held"
    else:
        state = "is not in the source"
    return f"{name} {state}; {left}"
