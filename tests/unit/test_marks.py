"""Ownership marks are read as they were written, whatever stands in an id or beside it."""

from __future__ import annotations

import orjson
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.model import ID_ATTRIBUTE, Snapshot, attributes_text, groups_frame, memberships_frame, users_frame
from connectors.operations import Kind, Operation, sets_mark
from tasks.decide.match import LINKS
from tasks.decide.owners import owned, split_mark
from tasks.decide.selection import Selection

PIECES = (
    *("a", "\t", "\n", "\r", "\b", "\f", "\0", "\x1f", "\x7f", '"', "\\", "\\\\", "/", "\\u0041", "\\t", '":["', '"]'),
    *("}", "{", ",", ",}", ":", "\u2028", "é", "😀", " ", f'"{ID_ATTRIBUTE}":["x"]', f',"{ID_ATTRIBUTE}":["x"],', "%"),
)
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
names = st.sampled_from(("a", "crowdsync-id", "crowdsync.i", "crowdsyncxid", "crowdsync.id2", "zz", '"', "\\", "\n"))
others = st.dictionaries(names, st.lists(texts, min_size=1, max_size=3), max_size=3)


@given(rows=st.lists(st.tuples(others, st.none() | st.lists(texts.filter(bool), min_size=1, max_size=3)), max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_mark_comes_back_as_it_was_written(rows: list[tuple[dict[str, list[str]], list[str] | None]]) -> None:
    written = [attributes_text({**more, **({ID_ATTRIBUTE: mark} if mark else {})}) for more, mark in rows]
    index = pd.Index(range(7, 7 + len(rows)))
    marks, rest = split_mark(pd.Series(written, dtype="str", index=index))
    assert list(marks) == [mark[0] if mark else "" for _, mark in rows]
    assert list(rest) == [attributes_text(more) for more, _ in rows]
    assert marks.index.equals(index)
    assert rest.index.equals(index)


def test_an_id_with_any_character_owns_its_account_without_the_database() -> None:
    odd = [chr(code) for code in (*range(1, 128), 0x85, 0x2028, 0x202E, 0xFEFF, 0x1F600)] + ["\\u0009", "\\", '\\"']
    ids = [f"i{text}{at}" for at, text in enumerate(odd)]
    rows = [
        (f"u{at}", f"u{at}", "", "", "", "", True, attributes_text({ID_ATTRIBUTE: [f"acme:{one}"], "x": ["\t"]}))
        for at, one in enumerate(ids)
    ]
    crowd = Snapshot.of(users_frame(rows), groups_frame(), memberships_frame())
    found = owned(crowd.users, pd.DataFrame(columns=list(LINKS), dtype="str"), "acme")
    assert dict(zip(found["id"], found["owner"], strict=True)) == {f"u{at}": one for at, one in enumerate(ids)}
    assert not found["copied"].any()


def test_nobody_whose_link_is_contested_gets_another_account_by_a_mark() -> None:
    """The link says that ann is 1, the mark on it says otherwise, and bob bears a mark that says 1: neither is 1's."""
    rows = [
        (name, name, "", "", "", "", True, attributes_text({ID_ATTRIBUTE: [mark]}))
        for name, mark in (("ann", "okta:9"), ("bob", "acme:1"))
    ]
    crowd = Snapshot.of(users_frame(rows), groups_frame(), memberships_frame())
    links = pd.DataFrame([("acme", "user", "1", "ann", "created", "")], columns=list(LINKS), dtype="str")
    found = owned(crowd.users, links, "acme")
    assert list(found["owner"]) == ["", ""]
    assert list(found["contested"]) == [True, False]
    assert list(found["copied"]) == [False, True]


def test_only_a_write_of_the_mark_is_one() -> None:
    """A display name that says what the mark is called is not the mark."""
    record = orjson.dumps({"display_name": f'{ID_ATTRIBUTE} "{ID_ATTRIBUTE}":["x"]'}).decode()
    mark = orjson.dumps({"attributes": {ID_ATTRIBUTE: ["acme:1"]}}).decode()
    operations = pd.DataFrame(
        {
            "kind": [Kind.USER_UPDATE, Kind.USER_ATTRIBUTES, Kind.MEMBERSHIP_ADD],
            "name": ["ann", "ann", "ann"],
            "target": ["", "", "staff"],
            "source_id": ["1", "1", "1"],
            "record": [record, mark, ""],
        },
        dtype="str",
    ).assign(
        marks=[
            sets_mark(Operation(0, Kind.USER_UPDATE, "ann", "", orjson.loads(one or "{}")))
            for one in (record, mark, "")
        ]
    )
    assert list(Selection(group="staff").of(operations)["kind"]) == [Kind.USER_ATTRIBUTES, Kind.MEMBERSHIP_ADD]
