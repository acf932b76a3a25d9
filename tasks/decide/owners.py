"""Who owns a Crowd record: by its link, and where links are lost by the ownership mark in Crowd.

Directory records and links → the records with their owner in one source, and whether another source owns them or
nothing can decide.
"""

from __future__ import annotations

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from connectors.model import ID_ATTRIBUTE, text_array
from tasks.decide.names import among, arrow_text, crowd_ids, places

_MARK = f'"{ID_ATTRIBUTE}":["'
"""How the id attribute begins in an attributes text."""


def owned(records: pd.DataFrame, links: pd.DataFrame, source: str) -> pd.DataFrame:
    """Directory records + mark, owner, foreign, contested. Where a mark says another thing than the link, neither
    decides: a copy of the database may have been put back, or names exchanged in Crowd by hand."""
    marks, texts = split_mark(records["attributes"])
    at = places(crowd_ids(links["name"]), records["id"])
    there = at >= 0
    at, sources, names = at[there], *(links[side].to_numpy(dtype=object)[there] for side in ("source", "id"))
    ours, mark = sources == source, marks.to_numpy(dtype=object)
    prefix = f"{source}:"
    of_ours = marks.str.startswith(prefix).to_numpy()
    contested = np.zeros(len(records), dtype=bool)
    contested[at[(mark[at] != "") & (mark[at] != sources + ":" + names)]] = True
    tied = np.full(len(records), "", dtype=object)
    tied[at[ours]] = names[ours]
    by_link = (tied != "") & ~contested
    foreign = contested.copy()
    foreign[at[~ours]] = True
    by_mark = ~by_link & ~foreign & (mark != "")
    mine, copied = by_mark & of_ours, np.zeros(len(records), dtype=bool)
    owner, how = np.where(by_link, tied, ""), np.where(by_link, "link", "").astype(object)
    linked, marked = np.full((2, len(records)), "", dtype=object)
    if mine.any() or contested.any():
        ids = marks.str.slice(len(prefix))
        # A copied mark proves nothing: an id that has its link elsewhere, or two marks of one id.
        copied = among(ids, tied[tied != ""])
        copied[mine] |= ids[mine].duplicated(keep=False).to_numpy()
        told, fresh = ids.to_numpy(dtype=object), mine & ~copied
        owner[fresh], how[fresh] = told[fresh], "id"
        linked = np.where(contested, tied, "")
        marked = np.where(contested & of_ours, told, "")
    found = {name: records[name].array for name in records.columns} | {
        "attributes": texts.array,
        "mark": marks.array,
        "owner": text_array(owner),
        "foreign": foreign | by_mark & ~mine,
        "copied": mine & copied,
        "how": text_array(how),
        "contested": contested,
        "linked": text_array(linked),
        "marked": text_array(marked),
    }
    return pd.DataFrame(found, index=records.index)


def split_mark(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Attributes text → (value of the id attribute or "", text without it)."""
    array = arrow_text(texts)
    marked = pc.match_substring(array, _MARK)
    found, without = _cut(array.filter(marked))
    marks = pc.replace_with_mask(pa.repeat(pa.scalar("", array.type), len(array)), marked, found)
    rest = pc.replace_with_mask(array, marked, without)
    return pd.Series(marks, dtype="str", index=texts.index), pd.Series(rest, dtype="str", index=texts.index)


def _cut(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """As `split_mark`, of texts in which the id attribute seems to begin. They are cut at its quotation marks, which is
    five times as fast as a search; what has others of these, or escaped ones, is searched."""
    parts = pc.split_pattern(array, pattern=_MARK).flatten()
    more = pc.split_pattern(parts[1::2], pattern='"]', max_splits=1).flatten()
    if len(parts) != 2 * len(array) or len(more) != 2 * len(array):
        return _searched(array)
    before, marks, after = parts[::2], more[::2], more[1::2]
    rest = pc.binary_join_element_wise(
        pc.if_else(pc.equal(after, "}"), pc.utf8_rtrim(before, characters=","), before),
        pc.utf8_ltrim(after, characters=","),
        pa.scalar("", array.type),
    )
    plain = pc.and_not(
        pc.or_(pc.ends_with(before, "{"), pc.ends_with(before, ",")), pc.match_substring_regex(marks, r'["\\]')
    )
    if not pc.all(plain).as_py():
        odd = pc.invert(plain)
        found, without = _searched(array.filter(odd))
        marks, rest = pc.replace_with_mask(marks, odd, found), pc.replace_with_mask(rest, odd, without)
    return marks, rest


def _searched(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """As `split_mark`, of any texts."""
    member = rf'"{ID_ATTRIBUTE.replace(".", "[.]")}":\["(?P<mark>(?:[^"\\]|\\.)*)"(?:,"(?:[^"\\]|\\.)*")*\]'
    marks = pc.fill_null(pc.struct_field(pc.extract_regex(array, f"[{{,]{member}"), "mark"), "")
    escaped = pc.match_substring(marks, "\\")  # few: what an id has of tabs, quotation marks and their like
    if pc.any(escaped).as_py():
        read = [orjson.loads(f'"{mark}"') for mark in marks.filter(escaped).to_pylist()]
        marks = pc.replace_with_mask(marks, escaped, pa.array(read, marks.type))
    rest = pc.replace_substring_regex(array, rf"([{{,]){member},?", r"\1")
    return marks, pc.replace_substring_regex(rest, r",}\z", "}")
