"""Which stored plans can still be carried out. (It imports nothing: a command asks it before anything else.)"""

from __future__ import annotations

from typing import Final

from connectors.errors import RefusedError

BEFORE: Final = ("planned", "refused", "waiting", "approved")
"""The states of a plan that can be carried out."""


def refuse_unless_open(number: int, status: str) -> None:
    """Raises `RefusedError` where what becomes of a plan is settled."""
    if status not in BEFORE:
        raise RefusedError(f"plan {number} is {status} already; make a new one with `crowdsync plan`")
