"""Long runs of generated cases: the first few stand in `make test`, all of them in CI (`make test-long`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def long_after(few: int, cases: Iterable[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: the cases, of which those after the first few are marked `long`."""
    return [
        case if number < few else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.long)
        for number, case in enumerate(cases)
    ]
