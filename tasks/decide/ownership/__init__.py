"""Who owns what in Crowd, and how that is changed by hand: made, cut, handed over, moved to another source.

Pure functions of tables; `tasks/write/links.py` carries out what they say. An owner is the text `<source>:<id>`, as it
stands in the mark; a change of ownership is an operation on the mark, and the link follows it in the journal. Nobody
gets an account by a guess: a pair that is not unique on both sides, or where anything speaks against it, is left out.
"""

from tasks.decide.ownership.by_hand import BY_HAND, ByHand, ended_links, made_links, of_link_alone, operations
from tasks.decide.ownership.changes import CHANGES, Changed, cut, hand_over, make
from tasks.decide.ownership.pairing import Key, Pairing, moves, pair
from tasks.decide.ownership.records import KINDS, Wanted, abandoned, crowd_records, owners, wanted

__all__ = [
    "BY_HAND", "CHANGES", "KINDS", "ByHand", "Changed", "Key", "Pairing", "Wanted",
    "abandoned", "crowd_records", "cut", "ended_links", "hand_over", "made_links", "make", "moves", "of_link_alone",
    "operations", "owners", "pair", "wanted",
]  # fmt: skip
