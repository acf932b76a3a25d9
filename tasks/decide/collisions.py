"""When two people, or two groups, get one name in Crowd: whoever owns the Crowd record goes on, newcomers are held.

Names that only look alike are kept apart by Crowd: among owners they are no collision. Where nobody owns the name,
all who want it are held, because nothing says whose it is.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.decide.names import clashes, crowd_ids, spelled

SHOWN = 5
"""How many names a reason shows."""


def collided(names: pd.Series, originals: pd.Series, accounts: np.ndarray, part: np.ndarray, advice: str) -> np.ndarray:
    """Crowd names that records want → why each is held because of another one, "" where it is not (text).

    `originals`: the names in the IdP, for people to read; `accounts`: the Crowd record (its id) that each owns, "" for
    newcomers; `part`: who takes part at all. `advice` ends a reason: a setting that keeps such names apart, or "".
    """
    reasons = np.full(len(names), "", dtype=object)
    chosen = np.flatnonzero(part)
    plain = names.iloc[chosen].reset_index(drop=True)
    label = clashes(plain).where(plain != "", "")
    if not (label != "").any():
        return reasons
    shown = originals.to_numpy(dtype=object)
    for _, index in label[label != ""].groupby(label).groups.items():
        together = chosen[index.to_numpy()]
        ids = crowd_ids(names.iloc[together]).to_numpy(dtype=object)
        owning = accounts[together] != ""
        for at, wish, owns in zip(together, ids, owning, strict=True):
            same = together[(ids == wish) & (together != at)]
            keeps = same[accounts[same] == wish]
            if owns and (accounts[at] == wish or not (accounts[same] != "").any()):
                continue  # the record is its own, or only newcomers want what it will be called
            if owns and len(keeps):
                reasons[at] = f"its new name in Crowd {names.iloc[at]!r} is that of {_listed(shown[keeps])}"
            elif not owns and owning.any():
                others = together[owning]
                exact = others[ids[owning] == wish]
                what = "is the name in Crowd of" if len(exact) else "looks like"
                reasons[at] = f"{_listed(shown[[at]])} {what} {_listed(shown[exact if len(exact) else others])}"
                reasons[at] += ", who has an account there" if len(exact) else ", though Crowd keeps them apart"
            else:
                rivals = same if owns else together[together != at]
                rivals = np.sort(np.append(rivals, at))
                one = pd.Index(ids).has_duplicates
                reasons[at] = f"{_listed(shown[rivals])} " + ("become one name in Crowd" if one else "look alike")
            reasons[at] += f"; rename {'all but one' if not owning.any() else 'it'} in the IdP{advice}"
    return reasons


def _listed(names: np.ndarray) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(spelled(name, repr(name)) for name in names[:SHOWN]) + more
