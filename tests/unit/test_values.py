"""How values are made: every step, and hundreds of random values against slow, obvious Python."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson
import pandas as pd
import pytest

from connectors.model import attributes_text, users_frame
from tasks.decide import values
from tasks.decide.values import attribute_texts, field_value, traced
from tasks.policy import PLAIN, Step, Value, as_value
from tests.support.frames import person
from tests.support.generated import NAMES, TEXTS, any_value, step, value
from tests.support.long import long_after


def made(given: dict[str, list[str]], value: str | Value) -> list[str]:
    """The values that somebody with these attributes gets."""
    users = users_frame([person("1", "ann", "Ann@X.org", attributes=given)])
    text = attribute_texts(users, {"made": value}).iloc[0]
    result: list[str] = orjson.loads(text).get("made", [])
    assert text == attributes_text({"made": result} if result else {})
    assert field_value(users, value).iloc[0] == (result or [""])[0]
    assert traced(users, value)[-1][1] == result
    return result


@pytest.mark.parametrize(
    ("steps", "given", "expected"),
    [
        ((step("lower"),), ["ÀB", "c"], ["àb", "c"]),
        ((step("upper"),), ["àb"], ["ÀB"]),
        ((step("trim"),), ["  a b\u00a0", " \t"], ["a b"]),
        ((step("replace", pattern="[0-9]+", replacement="#"),), ["a1b22", "x"], ["a#b#", "x"]),
        ((step("replace", pattern=r"(\w+) (\w+)", replacement=r"\2, \1"),), ["ann lee"], ["lee, ann"]),
        ((step("replace", pattern="x.*"),), ["x1", "ax2"], ["a"]),
        ((step("split", separator=","),), ["a,b", ",c,,", ""], ["a", "b", "c"]),
        ((step("split", separator=".*"),), ["a.*b.c"], ["a", "b.c"]),
        ((step("split", separator=",", part=1),), ["a,b", ",c", "d"], ["a", "d"]),
        ((step("split", separator=",", part=2),), ["a,b", "c", "d,,e"], ["b"]),
        ((step("split", separator=",", part=-1),), ["a,b", "c", "d,"], ["b", "c"]),
        ((step("split", separator=",", part=-2),), ["a,b,c", "c", "d,"], ["b", "d"]),
        ((step("lookup", table={"DE": "Germany", "x": ""}),), ["de", "X", "fr"], ["Germany", "fr"]),
        ((step("lookup", table={"de": "Germany"}, otherwise="empty"),), ["De", "fr"], ["Germany"]),
        ((step("default", value="none"),), ["", ""], ["none"]),
        ((step("default", value="none"),), [], ["none"]),
        ((step("default", value="none"),), ["", "a"], ["a"]),
        ((step("trim"), step("default", value="none"), step("upper")), [" "], ["NONE"]),
        ((step("default", value="a,b"), step("split", separator=",")), [], ["a", "b"]),
        ((step("default", value="de"), step("lookup", table={"de": "Germany"})), [], ["Germany"]),
        ((), ['"q" \\ \n \x01 😀 é'], ['"q" \\ \n \x01 😀 é']),
    ],
)
def test_steps(steps: tuple[dict[str, Any], ...], given: list[str], expected: list[str]) -> None:
    assert made({"x": given} if given else {}, value("x", steps=steps)) == expected


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ("b", ["b1", "b2"]),
        ("email", ["Ann@X.org"]),
        ("active", ["attribute"]),
        ("nothing", []),
        (value("a", "b"), ["a1"]),
        (value("e", "b", "a"), ["b1", "b2"]),
        (value("nothing", "e"), []),
        (value("nothing", "username", "b"), ["ann"]),
        (value("b", "a", combine="join"), ["b1 a1"]),
        (value("e", "b", "nothing", "email", combine="join", separator=" · "), ["b1 · Ann@X.org"]),
        (value("b", "a", combine="join", separator=""), ["b1a1"]),
        (value("b", combine="join"), ["b1"]),
        (value("e", "nothing", combine="join"), []),
        (value(steps=(step("default", value="fixed"),)), ["fixed"]),
    ],
)
def test_sources(one: str | Value, expected: list[str]) -> None:
    given = {"a": ["a1"], "b": ["b1", "b2"], "e": [""], "active": ["attribute"]}
    assert made(given, one) == expected


def test_each_rule_is_told_with_the_values_after_it() -> None:
    users = users_frame([person("1", "ann", attributes={"role": ["Engineer, senior", "x"]})])
    rules = (
        step("replace", pattern="Eng.*r,", replacement="E"),
        step("split", separator=" ", part=1),
        step("lookup", table={"e": "Eng"}, otherwise="empty"),
        step("upper"),
        step("default", value="?"),
    )
    assert traced(users, value("title", "role", steps=rules)) == [
        ("first of title, role", ["Engineer, senior", "x"]),
        ("replace 'Eng.*r,' by 'E'", ["E senior", "x"]),
        ("split at ' ', part 1", ["E", "x"]),
        ("lookup in a table of 1, others are left out", ["Eng"]),
        ("upper", ["ENG"]),
        ("'?' where there is none", ["ENG"]),
    ]
    assert traced(users, value("username", "role", combine="join", separator="/")) == [
        ("username, role joined by '/'", ["ann/Engineer, senior"])
    ]
    assert traced(users, "role") == [("from role", ["Engineer, senior", "x"])]
    assert traced(users, value(steps=(step("default", value="f"),))) == [
        ("no source", []),
        ("'f' where there is none", ["f"]),
    ]


def test_attributes_are_in_canonical_order_and_none_is_empty() -> None:
    users = users_frame(
        [person("1", "ann", attributes={"t": ["1"], "u": ["2", "3"]}), person("2", "bob"), person("3", "cy")]
    )
    texts = attribute_texts(users, {'z"': "t", "a": "u", "Ä": "username", "m": "none"})
    assert texts.iloc[0] == attributes_text({'z"': ["1"], "a": ["2", "3"], "Ä": ["ann"]})
    assert texts.iloc[1] == '{"Ä":["bob"]}'
    assert list(attribute_texts(users, {})) == ["{}"] * 3
    assert list(attribute_texts(users, {"m": "none"})) == ["{}"] * 3


def test_nobody_has_no_values() -> None:
    users = users_frame()
    for one in ("x", "email", value("x", "email"), value(steps=(step("default", value="f"),))):
        assert field_value(users, one).empty
        assert attribute_texts(users, {"a": one}).empty


def test_the_index_of_the_users_is_kept() -> None:
    users = users_frame([person(str(n), f"u{n}", attributes={"x": [str(n)]}) for n in range(4)]).iloc[[3, 1]]
    for texts in (field_value(users, "x"), field_value(users, "username"), attribute_texts(users, {"a": "x"})):
        assert list(texts.index) == [3, 1]
        assert "3" in texts.iloc[0]
        assert texts.dtype == users["username"].dtype


def test_each_distinct_text_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Counting:
        dumps = staticmethod(orjson.dumps)

        @staticmethod
        def loads(text: str) -> Any:
            seen.append(text)
            return orjson.loads(text)

    monkeypatch.setattr(values, "orjson", Counting)
    users = users_frame([person(str(n), f"u{n}", attributes={"x": [str(n % 3)], "y": ["1"]}) for n in range(50)])
    sources = values.Sources(users, {"x", "y", "username"})
    for one in ("x", value("y", "username"), value("x", "y", combine="join")):
        assert len(field_value(sources, one)) == 50
    attribute_texts(sources, {"a": "x", "b": value("y", steps=(step("upper"),))})
    assert len(seen) == len(set(seen)) == 3


# ── against slow Python ─────────────────────────────────────────────────────────────────────────


def any_users(rng: random.Random, count: int) -> pd.DataFrame:
    return users_frame(
        [
            person(
                str(n),
                rng.choice(TEXTS),
                rng.choice(TEXTS),
                last_name=rng.choice(TEXTS),
                attributes={name: rng.choices(TEXTS, k=rng.randint(0, 3)) for name in "xyz" if rng.random() < 0.7},
            )
            for n in range(count)
        ]
    )


def slow_step(found: list[str], one: Step) -> list[str]:
    result: list[str] = []
    for text in found:
        match one.function:
            case "lower":
                result.append(text.lower())
            case "upper":
                result.append(text.upper())
            case "trim":
                result.append(text.strip())
            case "replace":
                result.append(re.sub(one.pattern, one.replacement, text, flags=re.ASCII))
            case "split":
                parts = text.split(one.separator)
                if one.part is None:
                    result += parts
                elif one.part > 0:
                    result += parts[one.part - 1 : one.part]
                elif -one.part <= len(parts):
                    result.append(parts[one.part])
            case "lookup":
                table = {key.lower(): other for key, other in one.table.items()}
                result.append(table.get(text.lower(), text if one.otherwise == "keep" else ""))
            case "default":
                result.append(text)
    result = [text for text in result if text]
    return result or [one.value] if one.function == "default" else result


def slow(row: dict[Any, Any], one: str | Value) -> list[str]:
    one = as_value(one)
    given = []
    for name in one.sources:
        found = [row[name]] if name in PLAIN else orjson.loads(row["attributes"]).get(name, [])
        given.append([text for text in found if text])
    if one.combine == "first":
        found = next((texts for texts in given if texts), [])
    else:
        found = [text for text in [one.separator.join(texts[0] for texts in given if texts)] if text]
    for each in one.steps:
        found = slow_step(found, each)
    return found


@pytest.mark.parametrize("part", long_after(1, range(4)))
def test_values_are_as_slow_python_says(part: int) -> None:
    several = none = 0
    for seed in range(part, 500, 8):
        rng = random.Random(seed)
        users = any_users(rng, 30)
        rows = users.to_dict("records")
        # Attributes alone are made by distinct text, with fields by person: both ways.
        names = NAMES if rng.random() < 0.5 else NAMES[:3]
        extra = {name: any_value(rng, names) for name in rng.sample(("b", "a", "Ä", 'q"'), rng.randint(1, 4))}
        expected = [{name: found for name, one in extra.items() if (found := slow(row, one))} for row in rows]
        assert list(attribute_texts(users, extra)) == [attributes_text(each) for each in expected], (seed, extra)
        for one in extra.values():
            by_row = [slow(row, one) for row in rows]
            assert list(field_value(users, one)) == [(found or [""])[0] for found in by_row], (seed, one)
            for at in (0, 7):
                assert traced(users.iloc[[at]], one)[-1][1] == by_row[at], (seed, one)
            several += sum(len(found) > 1 for found in by_row)
            none += sum(not found for found in by_row)
    assert several > 250
    assert none > 250
