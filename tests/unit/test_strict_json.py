"""JSON says one thing only: held against Python's own parser on generated texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.errors import IncompleteError
from connectors.http import Answer
from connectors.strict_json import DoubledKeyError, NotJsonError, fields, listing, loads, records

BS = "\\"
PIECES = ("a", "b", '"', BS, BS + BS, '":', ":", "\n", "\t", "é", "😀", "{", "}", "[", ",", "/", "\u2028", "")


def spelt(text: str, escape: bool) -> str:
    """A JSON string, with every letter escaped or only those that must be."""
    if not escape:
        return json.dumps(text, ensure_ascii=False)
    units = text.encode("utf-16-be")
    return '"' + "".join(f"{BS}u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


strings = st.builds(spelt, st.lists(st.sampled_from(PIECES), max_size=4).map("".join), st.booleans())
blanks = st.sampled_from(("", " ", "\n\t", "\r\n  "))


def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pair = st.builds(lambda k, a, b, v: f"{k}{a}:{b}{v}", strings, blanks, blanks, values)
    pairs = st.lists(pair, max_size=4)
    return st.builds(lambda a, many, b: f"{{{a}{f'{b},{a}'.join(many)}{b}}}", blanks, pairs, blanks)


def lists(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda a, many: f"[{a}{f',{a}'.join(many)}{a}]", blanks, st.lists(values, max_size=4))


texts = st.recursive(
    strings | st.sampled_from(("1", "-2.5e3", "true", "null")), lambda v: objects(v) | lists(v), max_leaves=12
)


def doubled(text: str) -> set[str]:
    """Every key that stands twice in one object, by Python's parser."""
    found: set[str] = set()

    def pairs(listed: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in listed]
        found.update(key for key in keys if keys.count(key) > 1)
        return dict(listed)

    json.loads(text, object_pairs_hook=pairs)
    return found


@given(text=texts, long=st.booleans())
@settings(max_examples=400, deadline=None)
@example(text='{"members":["a"],"members":[]}', long=False)
@example(text='{"a":1,"\\u0061":1}', long=True)
@example(text='{"":"\\\\","":"\\\\\\""}', long=True)
def test_a_doubled_key_is_refused_and_nothing_else(text: str, long: bool) -> None:
    if long:  # (long texts are counted in another way)
        text = f'[{text},"{"x" * 4000}"]'
    twice = doubled(text)
    if not twice:
        assert loads(text.encode()) == json.loads(text)
        return
    with pytest.raises(DoubledKeyError) as caught:
        loads(text.encode())
    assert caught.value.key in twice


@given(text=objects(texts))
@settings(max_examples=200, deadline=None)
def test_an_object_is_taken_apart_by_one_level(text: str) -> None:
    listed: list[tuple[str, Any]] = json.JSONDecoder(object_pairs_hook=list).decode(text)
    keys = [key for key, _ in listed]
    if len(set(keys)) < len(keys):
        with pytest.raises(DoubledKeyError):
            fields(text.encode())
    else:
        found = fields(text.encode())
        assert {key: json.loads(bytes(value)) for key, value in found.items()} == json.loads(text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1}{}',
        b'{"a":"\xff"}',
        b'{"\xff":1}',
        b'"\\ud800"',
        b'{"a":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"1e999",
        b"[" * 300 + b"]" * 300,
        b"[" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: repr(body[:8]),
)
def test_what_is_no_json_is_one_error_of_ours(body: bytes) -> None:
    with pytest.raises(NotJsonError):
        loads(body)
    try:
        for value in fields(body).values():
            loads(bytes(value))
    except NotJsonError:
        pass
    answer = Answer(200, {}, body, "https://idp/x")
    if b"ud800" in body:  # half a character is no reason to refuse a page: it becomes U+FFFD
        assert "\ufffd" in str(answer.json())
        return
    with pytest.raises(IncompleteError, match="GET https://idp/x answered 200"):
        answer.json()


def test_the_key_is_named_and_no_value() -> None:
    body = b'{"Resources":[{"id":"1","members":["ann@corp.example"],"members":[]}]}'
    with pytest.raises(IncompleteError) as caught:
        Answer(200, {}, body, "https://idp/Groups").json()
    assert str(caught.value) == (
        "GET https://idp/Groups answered 200 with JSON that says 'members' twice in one object, so that it cannot be "
        "known which one is meant. Report it to the provider."
    )


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab\u00e9"), st.text('a"\\:é😀')), max_size=3), max_size=4))
def test_a_list_of_objects_is_taken_apart_by_one_level_as_each_of_them(listed: list[list[tuple[str, str]]]) -> None:
    objects = ["{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in one) + "}" for one in listed]
    text = f"[{','.join(objects)}]".encode()
    if any(len({key for key, _ in one}) < len(one) for one in listed):
        with pytest.raises(DoubledKeyError):
            records(text)
    else:
        assert [{k: json.loads(bytes(v)) for k, v in one.items()} for one in records(text)] == json.loads(text)
        assert records(memoryview(text)) == [fields(one.encode()) for one in objects]


@given(
    text=lists(objects(texts)) | texts,
    more=st.lists(st.tuples(st.sampled_from(("total", "next", "list", "\\u006cist")), texts), max_size=3),
    at=st.integers(0, 3),
)
@settings(max_examples=120, deadline=None)
@example(text='[{"a":1,"a":2}]', more=[], at=0)
@example(text="[]", more=[("list", '[{"a":1}]')], at=0)
@example(text='[{"a":{"b":1,"b":"\\""}}]', more=[("total", "1")], at=1)
def test_a_page_and_its_list_at_once_are_what_they_are_one_after_the_other(
    text: str, more: list[tuple[str, str]], at: int
) -> None:
    pairs = [*more[:at], ("list", text), *more[at:]]
    page = ("{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}").encode()

    def apart() -> Any:
        found = fields(page)
        return found, records(memoryview(found.pop("list")))

    def said(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except NotJsonError as error:
            return type(error), str(error)

    assert said(lambda: listing(page, "list")) == said(apart)


def test_a_page_without_its_list_is_none() -> None:
    with pytest.raises(KeyError):
        listing(b'{"total":1}', "list")


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[1]", b'[{"a":1},[]]', b'[{"a":1}', b'[{"\xff":1}]'])
def test_what_is_no_list_of_objects_is_none(body: bytes) -> None:
    with pytest.raises(NotJsonError) as caught:
        records(body)
    assert not isinstance(caught.value, DoubledKeyError)


@pytest.mark.parametrize("word", ["word", 'a "word"', "a \\", "\\\\"])
@pytest.mark.parametrize("at", [0, 1, 15_000, 29_999])
def test_it_is_seen_wherever_in_a_long_text_it_stands(word: str, at: int) -> None:
    """Long texts are counted block by block."""
    objects = [json.dumps({"some key": word, "another": word}) for _ in range(30_000)]
    assert len(loads(f"[{','.join(objects)}]".encode())) == len(records(f"[{','.join(objects)}]".encode())) == 30_000
    objects[at] = '{"a":"","a":"b"}'
    for read in (loads, records):
        with pytest.raises(DoubledKeyError, match="'a' twice"):
            read(f"[{','.join(objects)}]".encode())
    with pytest.raises(DoubledKeyError, match="'a' twice"):
        listing(f'{{"list":[{",".join(objects)}]}}'.encode(), "list")
