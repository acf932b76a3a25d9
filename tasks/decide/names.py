"""When two names are one: folding and lookalikes.

`fold` is the equality that no two people may share: case, Unicode compatibility forms, blanks and
invisible characters are ignored. `skeleton` goes further and maps lookalike letters of other scripts
to one form (Unicode TR 39); it counts only where one of the names is not plain ASCII, so that
`jon1` and `jonl` stay two people.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Set, Sized
from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from confusable_homoglyphs import confusables

from connectors.model import crowd_id, text_array

FEW: Final = 64
"""So few texts are looked at one by one: to ask Arrow or pandas takes longer."""
_TWICE: Final = "an id stands there twice, so that nobody can say which of both is meant"
_INVISIBLE = r"[\p{Cc}\p{Cf}\p{Z}\x{115F}\x{1160}\x{3164}\x{FFA0}\x{034F}\x{FE00}-\x{FE0F}]+"


def fold(names: Iterable[str]) -> pd.Series:
    """Text → text in the form under which two names are one (vectorised)."""
    array = arrow_text(names)
    # Plain ASCII has capitals and blanks, and no other forms.
    folded = pc.replace_substring_regex(pc.ascii_lower(array), _INVISIBLE, "")
    wide = pc.invert(pc.string_is_ascii(array))
    if pc.any(wide).as_py():
        folded = pc.replace_with_mask(folded, wide, _fold_wide(array.filter(wide)))
    return pd.Series(folded, dtype="str")


def _fold_wide(array: pa.Array) -> pa.Array:
    """Names that are not plain ASCII, as `fold` gives them."""
    # Twice: lower-casing can open new compositions, and compatibility forms can hide capitals (℡).
    for _ in range(2):
        array = pc.utf8_lower(pc.utf8_normalize(array, "NFKC"))
    # İ is i to Arrow, and i with a dot above to Crowd: one name for us.
    array = pc.replace_substring(array, "i\u0307", "i")
    array = pc.replace_substring_regex(array, _INVISIBLE, "")
    wide = pc.invert(pc.string_is_ascii(array))  # Arrow lower-cases; only full case folding knows that ß is SS
    cased = [unicodedata.normalize("NFKC", name.casefold()) for name in array.filter(wide).to_pylist()]
    return pc.replace_with_mask(array, wide, pa.array(cased, array.type))


def crowd_ids(names: pd.Series) -> pd.Series:
    """`connectors.model.crowd_id` of every name. (Arrow's own lower-casing differs: İ, a final Σ.)"""
    if few(names):
        ids = [crowd_id(name) for name in names.tolist()]
        return pd.Series(text_array(ids), index=names.index, copy=False)
    array = arrow_text(names)
    plain = pc.string_is_ascii(array)
    lower = pc.ascii_lower(array)
    if not pc.all(plain).as_py():
        wide = pc.invert(plain)
        others = [crowd_id(name) for name in array.filter(wide).to_pylist()]
        lower = pc.replace_with_mask(lower, wide, pa.array(others, lower.type))
    return pd.Series(text_array(lower), index=names.index, copy=False)


def skeletons(names: pd.Series, folded: pd.Series) -> list[pd.Series]:
    """Names and their folded forms → lookalike forms; names that share either look alike to a person.

    Two, because capitals may look alike (ТЕАМ, TEAM) where small letters do not, and the other way round,
    and because folding turns some letters into such as look different. Accents still count.
    """
    wide = ~ascii_only(names)
    forms = []
    for texts in (folded, names):
        shapes = [_shape(text) for text in texts.to_numpy()[wide]]
        forms.append(_replaced(folded, wide, fold(shapes)))
    return forms


def _shape(name: str) -> str:
    return unicodedata.normalize("NFD", name).translate(_lookalikes())


def _replaced(series: pd.Series, where: np.ndarray, values: Iterable[str]) -> pd.Series:
    texts = pc.replace_with_mask(arrow_text(series), pa.array(where), arrow_text(values))
    return pd.Series(texts, dtype="str", index=series.index)


def clashes(names: pd.Series, against: pd.Series | None = None) -> pd.Series:
    """For each name the label of its clash group, or "" where no other name folds to the same form.

    Without `against`, clashes are sought among `names`. With it, the result says which of `against`
    (the first) a name clashes with, its exact equal left out of account.
    """
    plain = names.reset_index(drop=True)
    folded = fold(plain)
    wide = ~ascii_only(plain)
    if against is None:
        twice = folded.duplicated(keep=False)
        if not wide.any() and not twice.any():
            return pd.Series("", index=names.index, dtype="str")
        forms = [folded.where(twice, "")]
        if wide.any():
            for shape in skeletons(plain, folded):
                # A lookalike needs a name that is not ASCII in its group, and two different folded forms.
                alike = among(shape, shape[wide])
                alike[alike] = folded[alike].groupby(shape[alike]).transform("nunique") > 1
                forms.append(shape.where(alike, ""))
        return _merged(forms).set_axis(names.index)
    other = pd.Series(list(against), dtype="str")
    other_folded, other_wide = fold(other), ~ascii_only(other)
    label = _first_equal(folded, other_folded, other, plain)
    if wide.any() or other_wide.any():
        for shape, other_shape in zip(skeletons(plain, folded), skeletons(other, other_folded), strict=True):
            for found in (
                _first_equal(shape.where(wide, "\0"), other_shape, other, plain),
                _first_equal(shape, other_shape[other_wide], other[other_wide], plain),
            ):
                label = label.where(label != "", found)
    return label.set_axis(names.index)


def _merged(forms: list[pd.Series]) -> pd.Series:
    """Labels by several forms ("" for none) → one label for all that are connected by any of them."""
    clashing = np.logical_or.reduce([(form != "").to_numpy() for form in forms])
    label = np.flatnonzero(clashing)  # few names clash, and only they are looked at
    forms = [form[clashing] for form in forms]
    while True:
        before = label
        for form in forms:
            shared = (form != "").to_numpy()
            least = pd.Series(label[shared]).groupby(form[shared].to_numpy()).transform("min")
            label = label.copy()
            label[shared] = least
        if (label == before).all():
            return _replaced(pd.Series("", index=range(len(clashing)), dtype="str"), clashing, label.astype(str))


def spelled(name: str, shown: str = "") -> str:
    """A name, or how it is `shown`; letters that look like others, or cannot be seen, are written as their numbers."""
    letters = [c for c in name if c.isalpha()]
    strange = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN ")]
    odd = {c for c in name if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp") and c != " "}
    if len(strange) < len(letters):  # mixed with Latin ones; a name in one other script is no riddle
        odd |= set(strange)
    shown = shown or name
    return f"{shown} (with {', '.join(f'U+{ord(c):04X}' for c in sorted(odd))})" if odd else shown


def few(*columns: Sized) -> bool:
    """Whether there are so few of each that they are looked at one by one."""
    return all(len(column) <= FEW for column in columns)


def equal(column: pd.Series, value: str) -> np.ndarray:
    """Which texts are this one: bool."""
    if few(column):
        return np.array([text == value for text in column.tolist()], dtype=bool)
    return np.array(column == value, dtype=bool)


def same(column: pd.Series, other: pd.Series) -> np.ndarray:
    """Which texts of two columns are the same, place by place: bool."""
    if few(column, other):
        return np.array([a == b for a, b in zip(column.tolist(), other.tolist(), strict=True)], dtype=bool)
    return np.array(column.array == other.array, dtype=bool)


def among(values: pd.Series, pool: Iterable[str]) -> np.ndarray:
    """Which values are in the pool: bool."""
    if few(values) and (isinstance(pool, Set) or (isinstance(pool, Sized) and few(pool))):
        known = pool if isinstance(pool, Set) else {*pool}
        return np.array([value in known for value in values.tolist()], dtype=bool)
    if not len(values):
        return np.zeros(0, dtype=bool)
    return np.array(pc.is_in(arrow_text(values), value_set=arrow_text(pool)), dtype=bool)


def places(values: Iterable[str], ids: Iterable[str]) -> np.ndarray:
    """Texts → where each stands among the ids, -1 where it does not. (A pandas index says the same, but makes Python
    objects of all texts first.) Raises `ValueError` where an id stands there twice: it could mean either."""
    if isinstance(values, Sized) and isinstance(ids, Sized) and few(values, ids):
        known = [*ids]
        at = {text: place for place, text in enumerate(known)}
        if len(at) < len(known):
            raise ValueError(_TWICE)
        return np.array([at.get(value, -1) for value in values], dtype=np.int64)
    known = arrow_text(ids)
    in_order = pc.all(pc.less(known.slice(0, max(len(known) - 1, 0)), known.slice(1))).as_py()
    if not in_order and pc.count_distinct(known).as_py() < len(known):
        raise ValueError(_TWICE)
    sought = arrow_text(values)
    found = pc.index_in(sought, value_set=known if len(sought) else known[:0])  # (for nobody no table is made)
    return np.array(pc.fill_null(found, -1), dtype=np.int64)


def _first_equal(key: pd.Series, other_key: pd.Series, other: pd.Series, names: pd.Series) -> pd.Series:
    first = ~other_key.duplicated()
    found = places(key, other_key[first])
    hit = pd.Series(np.where(found >= 0, other[first].to_numpy()[found], ""), dtype="str") if first.any() else None
    if hit is None:
        return pd.Series([""] * len(key), dtype="str")
    same = pd.Series(hit.str.lower().to_numpy() == names.str.lower().to_numpy())
    return hit.where(~same, "")


def ascii_only(names: pd.Series) -> np.ndarray:
    """Which names are plain ASCII: bool."""
    return np.asarray(pc.string_is_ascii(arrow_text(names)).to_numpy(zero_copy_only=False), dtype=bool)


def arrow_text(values: Iterable[str]) -> pa.Array:
    """Text of any container → one Arrow array of large strings."""
    given: Any = values if isinstance(values, (pd.Series, pd.Index)) else list(values)
    if isinstance(given, pd.Series) and isinstance(given.array, pd.arrays.ArrowStringArray):
        given = given.array  # (else Arrow looks for a while at what it was given)
    array = pa.array(given, type=pa.large_string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


@cache
def _lookalikes() -> dict[int, str]:
    # TR 39 names a prototype for each lookalike; the package lists pairs, so the prototype is the
    # ASCII partner where there is one, else the smallest partner.
    table: dict[int, str] = {}
    for char, partners in confusables.confusables_data.items():
        if len(char) != 1:
            continue
        ascii_partners = sorted(p["c"] for p in partners if p["c"].isascii())
        if char.isascii():
            continue
        best = ascii_partners or sorted(p["c"] for p in partners if len(p["c"]) == 1)
        if best:
            shape = min(best, key=lambda c: (not c.isascii(), not c.islower(), len(c), c)).lower()
            # TR 39 has one form for I and l. A capital that looks like them is taken for the capital, an i.
            table[ord(char)] = "i" if shape == "l" and char != char.lower() else shape
    return table
