"""Patterns: whatever a policy may hold takes no long time on any text, and what anybody would write is taken."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError

from tasks.policy import (
    MAX_MATCHED,
    MAX_REPLACED,
    MAX_SEARCHED,
    Condition,
    Groups,
    Policy,
    Rule,
    Step,
    matches,
    replaced,
)

SLOW = 0.05
"""Seconds of the processor for one pattern on one text; the clock does not run while others have it."""

LENGTH = 1000


def _random(alphabet: str, seed: int = 1) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(alphabet) for _ in range(LENGTH))


SCRIPTS = "".join(
    map(chr, [*range(97, 123), *range(0x400, 0x500), *range(0x4E00, 0x9000, 7), *range(0x10000, 0x1F000, 31)])
)
TEXTS = [
    "a" * (LENGTH - 1) + "!",
    "a" * LENGTH,
    "ab" * (LENGTH // 2),
    "@" * LENGTH,
    "a@" * (LENGTH // 2),
    "a." * (LENGTH // 2 - 1) + "a!",
    " " * LENGTH,
    "1" * (LENGTH - 1) + "x",
    "x" * LENGTH,
    "𝒳" * LENGTH,
    "é€𝒳я" * (LENGTH // 4),
    "\u212akKſsS" * (LENGTH // 6),
    _random("ab"),
    _random("aé"),
    _random("a𝒳"),
    _random("ab€é𝒳 "),
    _random(SCRIPTS),
]

CLASSIC = [
    *(r"(a+)+$", r"(a|aa)+$", r"(a|a?)+$", r"(.*a){20}", r"(a*)*$", r"(a*)*b", r"(a+)*b", r"(a|b|ab)*c", r"(.*)*x"),
    *(r"([a-zA-Z]+)*$", r"(a|a)*$", r"(\w*)*\W", r"(\d+)*x", r"(x+x+)+y", r"((a+)+)+$", r"(.*?,){25}P", r"(.+)+!"),
    r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}(([a-z]{2,3})|([a-z]{2,3}[.]{1}[a-z]{2,3}))$",
    r"^([a-zA-Z0-9_.\-])+@(([a-zA-Z0-9\-])+\.)+([a-zA-Z0-9]{2,4})+$",
    r"^[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]+$",
    r"(?:[a-z0-9]+(?:\.[a-z0-9]+)*)+@(?:[a-z0-9]+\.)+[a-z]{2,}",
    *(
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r"^(\w+\s?)*$",
        r"\s+$",
        r"^\s+|\s+$",
        r"(\s*\S+\s*)+x",
        r"(?:(?:a?){30}){30}a{30}",
    ),
    *(r"^(?:a?){100}a{100}$", r"(a?){25}a{25}", r"(?:a{0,100}){0,10}b", r"(a{1,30}){1,30}$", r"a*a*a*a*a*a*a*a*a*b"),
    *(
        r"([^a]*a){500}",
        r"(?i)(k+s+)+z",
        r"(?:(a)|(b))*a(?:(a)|(b)){200}c|.",
        r"<a[^>]*>.*<b[^>]*>.*<c",
        r"(?s)(.*\n)*x",
    ),
]
HUGE = [
    *(r"(?:\pL{1,500}){1,2}", r"(.{0,500}x){2}", r"((a{0,30}){0,30})*", r"\pL{1,500}", r"\PL{300}", r"[^\pL\pN]{200}"),
    *(r"(?i)[\pL\pN]{100}", r"(?i)k{1000}", r".{1000}", r".{0,1000}$", r"[\s\S]{1,1000}", r"(?:.{0,31}){0,31}", r"\X"),
    *(
        r"(?:[\pL]{10}){10}",
        r"((\pL{3}){3}){3}",
        r"(((.{9}){9}){9})",
        r"(?:\w{31}){31}",
        r"[[:alpha:]\pL]{1000}",
        r"\C*x",
    ),
    r"\Q" + "a" * 3000,
    r"(?:\Q)\E.{100}){9}",
    r"[]\pL]{99}",
    r"[^]\pL]{99}",
    r"[[:alpha:]\]\pL]{99}",
    r"\x{61}{1000}\x{10FFFF}{1000}",
    "|".join(f"department-{n}" for n in range(3000)),
    "|".join(_random("ab", n)[:8] for n in range(220)),
    "(?i)" + "|".join(_random("ks", n)[:12] for n in range(150)),
    "(" * 900 + "a" + ")" * 900,
    "()" * 900,
    "(?:)*" * 300,
    "a?" * 900 + "a" * 100,
    "[ab]*" * 300,
    ".*a" + "." * 450 + "c|.",
    "[" + "".join(map(chr, range(0x100, 0x3000, 2))) + "]",
    "[" + "".join(map(chr, range(0x100, 0x8000, 17))) + "]{1,20}",
]


def _monsters() -> list[str]:
    """Made from parts that make RE2's programs large, its states many, or a search start again at every letter."""
    rng = random.Random(3)
    heads = [".*", "[ab]*", r"\w*", ".+?", "(?:a|é)*", "", "^", r"(?i)\PN*", "^.*", r"\pL*"]
    atoms = [
        "[ab]",
        ".",
        r"\pL",
        r"[^c]",
        r"\W",
        "(?:a|ab|b)",
        "(?:.?)",
        r"[\pL\pN]",
        "(?:(.)|(b))",
        r"(\pL?)",
        "a?",
        "é",
    ]
    tails = ["!|.", "c|[ab]", "$", "!", r"\z|(.)", "c|a|b", "(x|)", "|."]
    made = [
        f"{head}a?{atom}{{{least},{most}}}{tail}"
        for head, atom, (least, most), tail in (
            (rng.choice(heads), rng.choice(atoms), rng.choice([(0, n), (n, n), (1, n)]), rng.choice(tails))
            for n in (*range(1, 30), *range(30, 100, 5), *range(100, 1000, 50))
            for _ in range(3)
        )
    ]
    while len(made) < 300:
        part = "".join(
            rng.choice(atoms) + rng.choice(["", "*", "+?", "{2}", "{0,5}"]) for _ in range(rng.randint(1, 4))
        )
        made.append(f"{rng.choice(heads)}(?:{part}){{{rng.randint(0, 2)},{rng.randint(2, 40)}}}{rng.choice(tails)}")
    return made


# What was slow under earlier bounds.
FOUND = [
    r"[ab]*(?:(?:(?:\pL){2,4}|[\x{81}-\x{10FFF1}](|[aqsuwy])|((?i))é))\C*\pL",
    r".+?[a-z]((?:[^c])?){30}!|[ab]",
    r"^(?:(?:\pL){20})63",
    r".*\pL.{0,12}!|.",
    r"(?:a.{0,30}b.{0,30}){10}c|.",
    r"a[ab]*a[ab]{200}c|a|b",
    r"[ab]*a" + r"(?:a|ab|b)" * 48 + "c|.",
    r".*\pL\pN?\pM?[^c]{0,16}!|.",
]
EVIL = list(dict.fromkeys([*CLASSIC, *HUGE, *FOUND, *_monsters()]))


def _replace(pattern: str) -> Callable[[pa.Array], object] | None:
    group = re.search(r"(?<!\\)\((?!\?)", pattern) and not pattern.startswith(r"\Q")
    try:
        rule = Rule(pattern=pattern, replacement=r"<\1>" if group else r"<\0>")
    except ValidationError as error:
        _told(error)
        return None
    return lambda texts: replaced(texts, (rule,))


def _match(pattern: str) -> Callable[[pa.Array], object] | None:
    try:
        Policy.model_validate({"scope": {"groups": [f"re:{pattern}"]}})
        Condition(field="x", operator="matches", values=(pattern,))
    except ValidationError as error:
        _told(error)
        return None
    return lambda texts: matches(pd.Series(texts, dtype="str"), [f"re:{pattern}"])


def _told(error: ValidationError) -> None:
    """What is too large says so, with the limit and a way out; what is no RE2 says that."""
    text = str(error)
    assert re.search(r"is too large: .* the limit is [\d,]+; .*several|is longer than|is not an RE2|fits a part", text)
    assert "pattern too large" not in text, "refused by RE2, not by us"


def _seconds(use: Callable[[pa.Array], object], text: str, enough: float) -> float:
    """The best of five; fewer where one is under `enough`."""
    best, texts = 9.0, pa.array([text], pa.large_string())
    for _ in range(5):
        before = time.thread_time()
        use(texts)
        best = min(best, time.thread_time() - before)
        if best < enough:
            break
    return best


@pytest.mark.parametrize("compiled", [_replace, _match], ids=["replaced", "matched"])
def test_no_pattern_takes_long(compiled: Callable[[str], Callable[[pa.Array], object] | None]) -> None:
    refused, times, slow = 0, [], []
    for pattern in EVIL:
        use = compiled(pattern)
        if use is None:
            refused += 1
            continue
        took = max(_seconds(use, text, SLOW / 2) for text in TEXTS)
        times.append(took)
        if took >= SLOW:
            slow.append((round(took * 1000), pattern[:100]))
    times.sort()
    print(
        f"{len(EVIL)} patterns × {len(TEXTS)} texts of {LENGTH:,}: {refused} refused, {len(times)} taken, at most "
        f"{times[-1] * 1000:.1f} ms, half under {times[len(times) // 2] * 1000:.1f} ms"
    )
    assert len(EVIL) >= 300
    assert not slow
    assert refused > 50
    assert len(times) > 50


@pytest.mark.long
def test_of_the_largest_that_are_taken_none_takes_long() -> None:
    """Each kind of part, repeated as often as the bound lets it, in each way of using a pattern."""
    worst = (0.0, "")
    for frame in (
        "{}",
        "^{}",
        "^(?:{})$",
        ".*a{}!|.",
        "[ab]*{}!|[ab]|.",
        "(?i){}",
        "{}|.",
        r".*\pL{}!|.",
        "(?:{})*!|.",
    ):
        for part in (
            ".",
            "[ab]",
            r"\w",
            r"\W",
            r"\pL",
            "[^c]",
            r"[^\pL]",
            "(?:.?)",
            "((?:[^c])?)",
            "(?:a|b)",
            "a?",
            "[k-sé]",
        ):
            for compiled in (_replace, _match):
                low, high = 0, 1000  # the largest count that is taken, by halving
                while low + 1 < high:
                    middle = (low + high) // 2
                    if compiled(frame.format(f"{part}{{0,{middle}}}")) is None:
                        high = middle
                    else:
                        low = middle
                use = compiled(pattern := frame.format(f"{part}{{0,{low}}}"))
                if low and use:
                    worst = max(worst, (max(_seconds(use, text, SLOW / 2) for text in TEXTS), pattern))
    print(f"the slowest of the largest takes {worst[0] * 1000:.1f} ms: {worst[1]}")
    assert worst[0] < SLOW, worst[1]


def test_globs_are_bounded_too() -> None:
    for glob in ("*a" * 180, "?" * 250, "*?" * 120, "a" * 255 + "*", "*" + "é*" * 150, "*" * 250):
        patterns = Policy.model_validate({"scope": {"groups": [glob, "*"]}}).scope.groups
        assert max(_seconds(lambda x, p=patterns: matches(pd.Series(x, dtype="str"), p), t, 0.01) for t in TEXTS) < SLOW  # type: ignore[misc]
    for glob in ("*a" * 500, "?" * 400, "x" * 3000):
        with pytest.raises(ValidationError, match=r"is too large|is longer than"):
            Policy.model_validate({"scope": {"groups": [glob]}})


DEPARTMENTS = "Sales|Legal|Finance|Marketing|Human Resources|Purchasing|Research|Support|Logistics|Security|Facilities"
DEPARTMENTS += "|Engineering|Quality|Operations|Training|Strategy|Compliance|Communication|Treasury|Audit"
REPLACED = [
    *(r"@.*$", r"^.*\\", r"@(?:corp\.)?example\.(?:com|org)$", r"\s+", r"[^a-z0-9._-]+", r"[^\p{L}\p{N}\p{M}._ -]+"),
    *(r"^(\w+)\.(\w+)@.*$", r"^(\p{L}+)\s+(\p{L}+)$", r"(\p{L}+)\s+(\p{L}+)\s+(\p{L}+)", r"\.{2,}", r"^[a-z]{2,4}-"),
    *(r"\d{2,4}$", r"^ACME-", r"(?i)^(?:grp|group|sg)[-_ ]+", r"\s*\((?:ext|extern|external|intern)\)\s*$", r"[-_]+"),
    *(
        r"^(.{0,255}).*$",
        r"^([^@]{1,64})@.*$",
        r"^CN=([^,]+),.*$",
        r",\s*OU=.*$",
        r"^(\w)\w*[ .](\w{1,20}).*$",
        r"\p{M}+",
    ),
    *(r"[A-Z]{2,4}-\d+", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"\b(?:the|of|and)\b\s*"),
    *(rf"^(?:{DEPARTMENTS})-", rf"\s*-\s*({DEPARTMENTS})$", r"([^,]+),\s*([^,]+)", r"(?P<last>\pL+), (?P<first>\pL+)"),
    *(r"\Q(old)\E", r"[[:space:]]+", r"[\w.+-]+@[\w-]+\.[\w.-]+", r"\d{4}-\d{2}-\d{2}", r"(?:\d{1,3}\.){3}\d{1,3}"),
]
MATCHED = [
    *(
        r"app-[a-z0-9-]{2,40}",
        r"\p{L}+",
        r"\p{L}{2,10}",
        r"(?:svc|adm)[-_].*",
        r"[a-z]{1,8}\d{2,4}",
        r".*@example\.(?:com|org)",
    ),
    *(
        DEPARTMENTS,
        rf"(?:{DEPARTMENTS})[-_ ](?:all|admins|users)",
        r"^(?:x|y)$",
        r"[^@]+@(?:[a-z0-9-]{1,63}\.)+[a-z]{2,24}",
    ),
    *(
        r"(?i)team\s\p{Lu}\p{Ll}*",
        r"[A-Z]{3}\d{6}",
        r".{1,255}",
        r"(?:[a-z]+-){0,4}[a-z]+",
        r"\p{Greek}+",
        r"[[:alnum:]]{3,32}",
    ),
]


@pytest.mark.parametrize("pattern", REPLACED)
def test_what_anybody_would_replace_is_taken(pattern: str) -> None:
    use = _replace(pattern)
    assert use, "refused"
    assert Step(function="replace", pattern=pattern, replacement="-")
    assert max(_seconds(use, text, 0.005) for text in TEXTS) < SLOW


@pytest.mark.parametrize("pattern", [*MATCHED, *REPLACED])
def test_what_anybody_would_match_is_taken(pattern: str) -> None:
    use = _match(pattern)
    assert use, "refused"
    assert max(_seconds(use, text, 0.005) for text in TEXTS) < SLOW


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", r"(a)\1", r"(?P<x>a)(?P=x)", r"(?>a+)", "a++"]
)
def test_look_around_and_back_references_are_refused(pattern: str) -> None:
    for policy in (
        {"scope": {"users": [f"re:{pattern}"]}},
        {"scope": {"conditions": [{"all": [{"field": "x", "operator": "matches", "values": [pattern]}]}]}},
        {"usernames": {"rules": [{"pattern": pattern, "replacement": ""}]}},
        {"groups": {"rules": [{"pattern": pattern, "replacement": ""}]}},
        {"attributes": {"extra": {"x": {"sources": ["y"], "steps": [{"function": "replace", "pattern": pattern}]}}}},
    ):
        with pytest.raises(ValidationError, match="is not an RE2 regular expression"):
            Policy.model_validate(policy)


def test_a_size_is_counted_as_re2_reads_an_expression() -> None:
    """A pattern at the limit is taken, and one letter more is refused, whatever could hide a count or a group."""
    for head, tail, most in (
        ("", "", MAX_SEARCHED),
        ("^", "", MAX_MATCHED - 1),
        (r"\A", "", MAX_MATCHED - 2),
        ("^*", "", MAX_SEARCHED - 2),  # fits anywhere
        ("^a|", "", MAX_SEARCHED - 3),
        ("(?m)^", "", MAX_SEARCHED - 4),
        (r"\Q)\E", "", MAX_SEARCHED - 5),
        (r"[(]", "", MAX_SEARCHED - 7),
        (r"[])]", "", MAX_SEARCHED - 7),
        (r"[^])]", "", MAX_SEARCHED - 7),
        (r"[[:digit:](]", "", MAX_SEARCHED - 7),
        (r"[\](]", "", MAX_SEARCHED - 7),
        (r"\(", "", MAX_SEARCHED - 1),
        (r"\x{61}", "", MAX_SEARCHED - 1),
        (r"(?P<n>x{50})", "", MAX_SEARCHED - 51),
        ("(?:x{10}){20}", "", MAX_SEARCHED - 201 - 19),
        ("x{10,}", "", MAX_SEARCHED - 10),
        ("x{,9}", "", MAX_SEARCHED - 5),
        (r"\d{9}", "", MAX_SEARCHED - 63),
        (r"\d{8}", "b+", MAX_SEARCHED - 480 - 2),
        ("(?:b|c){10}", "d*", MAX_SEARCHED - 10 * (3 + 6) - 2),
        (r"\p{Lu}{2}", "", MAX_SEARCHED - 240),
    ):
        Rule(pattern=head + "a" * most + tail, replacement="")
        with pytest.raises(ValidationError, match=r"is too large|is longer than"):
            Rule(pattern=head + "a" * (most + 1) + tail, replacement="")


def test_a_text_too_long_for_any_name_is_not_replaced() -> None:
    rule = Rule(pattern="a", replacement="b")
    texts = pa.array(
        ["a" * MAX_REPLACED, "a" * (MAX_REPLACED + 1), "é" * MAX_REPLACED + "", "a", None], pa.large_string()
    )
    assert replaced(texts, (rule,)).to_pylist() == [
        "b" * MAX_REPLACED,
        "a" * (MAX_REPLACED + 1),
        "é" * MAX_REPLACED,
        "b",
        None,
    ]


def test_rules_that_double_a_name_do_not_fill_the_memory() -> None:
    rules = [{"pattern": "^(.*)$", "replacement": r"\1\1"}] * 60
    groups = Groups.model_validate({"rules": rules})
    assert groups.named(pd.Series(["ab"], dtype="str")).str.len().tolist() == [1024]
    assert Policy.model_validate({"usernames": {"rules": rules}})


def test_half_a_letter_is_never_replaced() -> None:
    """RE2's own way to break a text: what is left is no UTF-8."""
    with pytest.raises(UnicodeDecodeError):
        pc.replace_substring_regex(pa.array(["é"]), r"^\C", "").to_pylist()
    assert _replace(r"^\C") is None
    assert _replace(r"\QC\C\E") is not None
    assert _match(r"\C+") is None
