"""Names in disguise: letters that look like others, and what cannot be seen."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

LOOKALIKES = dict(zip("aceiopsxyj", "асеіорѕхуј", strict=True)) | {"o": "ο", "v": "ν"}
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\ufe0e\u180e\u2061"
BLANKS = "\u00a0\u2009\u2003\u3000\u202f\u2028\u1680 "


def _insert(name: str, what: str, rng: random.Random) -> str:
    at = rng.randint(1, len(name) - 1)
    return name[:at] + what + name[at:]


def _some(name: str, change: Callable[[str], str], rng: random.Random) -> str:
    """`change` of one letter at least."""
    places = [i for i, letter in enumerate(name) if change(letter) != letter]
    chosen = set(rng.sample(places, rng.randint(1, len(places))))
    return "".join(change(letter) if i in chosen else letter for i, letter in enumerate(name))


def _wide(letter: str) -> str:
    return chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter


DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "case": lambda name, rng: _some(name, str.upper, rng),
    "compatibility form": lambda name, rng: _some(name, _wide, rng),
    "lookalike": lambda name, rng: _some(name, lambda letter: LOOKALIKES.get(letter, letter), rng),
    "zero-width": lambda name, rng: _insert(name, rng.choice(ZERO_WIDTH), rng),
    "blank": lambda name, rng: _insert(name, rng.choice(BLANKS), rng),
    "decomposed": lambda name, rng: unicodedata.normalize("NFD", name),
    "ligature": lambda name, rng: name.replace("fi", "ﬁ").replace("ss", "ß"),
    "several": lambda name, rng: DISGUISES["zero-width"](DISGUISES["lookalike"](name, rng), rng).upper(),
}
