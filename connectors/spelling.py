"""What somebody may have meant who wrote a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Final

FEW: Final = 100
"""Of so many words, those that a program knows, less alike is alike enough than among the names of a company."""
MANY: Final = 20_000
"""Of so many words only those are looked at that begin alike: comparing all of 300,000 would take seconds."""


def nearest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Of the words that are known those most like this one, the likeliest first; none where none is like it."""
    by_fold: dict[str, str] = {}
    for one in known:
        by_fold.setdefault(one.casefold(), one)
    folded = word.casefold()
    if len(by_fold) > MANY:
        by_fold = {fold: one for fold, one in by_fold.items() if fold[:1] == folded[:1]}
    found = get_close_matches(folded, by_fold, most, 0.65 if len(by_fold) <= FEW else 0.75)
    alike = [SequenceMatcher(None, one, folded).ratio() for one in found]
    return [by_fold[one] for one, ratio in zip(found, alike, strict=True) if ratio > alike[0] - 0.1]


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'acme' or 'acme-2'?`, or "" where nothing that is known is like it."""
    found = [repr(one) for one in nearest(word, known)]
    return f"; did you mean {' or '.join(found)}?" if found else ""
