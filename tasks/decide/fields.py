"""What Crowd has a place for: which texts it takes in a field, an attribute or a description.

Texts → the texts that can be written, and why something was left out, by row ("" for nothing).
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from connectors.model import MAX_TEXT
from tasks.decide.names import arrow_text

FIELDS = ("email", "first_name", "last_name", "display_name")
"""The fields of a user that may be empty in Crowd."""

_CONTROL: Final = r"[\x00-\x1f\x7f]"
CONTROL_IN_TEXT: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
"""The same of texts that may have lines and tabs."""
_CONTROL_IN_JSON: Final = r"\\(?:u00|[bf])|\x7f"
"""How such a character looks in JSON, and sometimes others."""
NO_ADDRESS: Final = r"^[^@]+\z|^@|@.*@|@\z|[\s\p{Z}]"


def readable(texts: pd.Series, column: str) -> tuple[pd.Series, pd.Series]:
    """What stands in one of `FIELDS` → "" for what Crowd has no place for; and why, "" for nothing."""
    reasons = nothing_wrong(len(texts))
    rules = [(_CONTROL, "has control characters")] if _any_control(texts) else []
    rules += [(NO_ADDRESS, "is no address")] if column == "email" else []
    for pattern, words in rules:
        texts, why = without(texts, pattern, f"{column} {words}")
        reasons = why.where(why != "", reasons)
    if (long := too_long(texts)).any():
        texts = texts.where(~long, "")
        reasons = reasons.where(~long | (reasons != ""), f"{column} is longer than Crowd's {MAX_TEXT} characters")
    return texts, reasons


def readable_attributes(texts: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Attributes texts → with null for the values of those that Crowd has no place for; and why, "" for nothing."""
    suspects = np.flatnonzero(_which(texts, _CONTROL_IN_JSON) | _long_values(texts))
    if not len(suspects):
        return texts, nothing_wrong(len(texts))
    after, why = texts.to_numpy(dtype=object).copy(), np.full(len(texts), "", dtype=object)
    for at in suspects:
        read, faults = orjson.loads(after[at]), dict[str, str]()
        for name, values in read.items():
            if any(map(re.compile(CONTROL_IN_TEXT).search, values)):
                faults[name] = "has control characters"
            elif any(len(value.encode("utf-16-le")) > 2 * MAX_TEXT for value in values):
                faults[name] = f"is longer than Crowd's {MAX_TEXT} characters"
        after[at] = orjson.dumps({name: None if name in faults else values for name, values in read.items()}).decode()
        why[at] = "; ".join(f"the attribute {name} {words}" for name, words in faults.items())
    return pd.Series(after, dtype="str", index=texts.index), pd.Series(why, dtype="str")


def without(texts: pd.Series, pattern: str, words: str) -> tuple[pd.Series, pd.Series]:
    """Texts → "" for those in which the pattern is found; and for these the words, "" for the others."""
    wrong, reasons = _which(texts, pattern), nothing_wrong(len(texts))
    return (texts.where(~wrong, ""), reasons.where(~wrong, words)) if wrong.any() else (texts, reasons)


def nothing_wrong(count: int) -> pd.Series:
    """As many empty reasons."""
    return pd.Series(pa.repeat(pa.scalar("", pa.large_string()), count), dtype="str")


def shortened(texts: pd.Series) -> pd.Series:
    """Texts cut to what Crowd takes; a description is nobody's identity."""
    long = too_long(texts)
    if not long.any():
        return texts
    cut = [text.encode("utf-16-le")[: 2 * MAX_TEXT].decode("utf-16-le", "ignore") for text in texts[long]]
    values = texts.to_numpy(dtype=object).copy()
    values[long] = cut
    return pd.Series(values, dtype="str", index=texts.index)


def too_long(texts: pd.Series) -> np.ndarray:
    """Which texts are longer than Crowd takes, as its Java counts: in UTF-16 units."""
    array = arrow_text(texts)
    if (pc.max(pc.binary_length(array)).as_py() or 0) <= MAX_TEXT:  # never fewer bytes than units
        return np.zeros(len(texts), dtype=bool)
    astral = pc.count_substring_regex(array, r"[\x{10000}-\x{10FFFF}]")
    units = pc.add(pc.cast(pc.utf8_length(array), "int64"), pc.cast(astral, "int64"))
    return np.asarray(pc.greater(units, MAX_TEXT))


def _long_values(texts: pd.Series) -> np.ndarray:
    """Which attributes texts hold a value that is longer than Crowd takes."""
    suspects = too_long(texts).copy()
    if suspects.any():  # in a text without quotes there is one character a unit, or half of one
        array = arrow_text(texts[suspects])
        least = pc.if_else(
            pc.string_is_ascii(array),
            pc.match_substring_regex(array, rf'(?:[^"\\]|\\.){{{MAX_TEXT + 1}}}'),
            pc.match_substring_regex(array, rf'(?:[^"\\]|\\.){{{(MAX_TEXT + 1) // 2}}}'),
        )
        suspects[suspects] = least.to_numpy(zero_copy_only=False)
        suspects[suspects] = [
            any(len(value.encode("utf-16-le")) > 2 * MAX_TEXT for many in orjson.loads(text).values() for value in many)
            for text in texts[suspects]
        ]
    return suspects


def _any_control(texts: pd.Series) -> bool:
    """Whether there may be control characters in any of the texts. (They are single bytes, in UTF-8 too, so that one
    look at the bytes of all texts saves one at each.)"""
    *_, data = arrow_text(texts).buffers()
    letters = np.frombuffer(data or b"", dtype=np.uint8)
    return bool(((letters < 0x20) | (letters == 0x7F)).any())


def _which(texts: pd.Series, pattern: str) -> np.ndarray:
    """In which texts the pattern is found: bool."""
    found = pc.match_substring_regex(arrow_text(texts), pattern)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
