"""`crowdsync apply`: answered at once where what becomes of the plan is settled, and else carried out."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from connectors.glance import plan_status
from deployments.terminal import explained
from tasks.write.open import refuse_unless_open


def apply(
    number: Annotated[int, typer.Argument(help="The number that `crowdsync plan` shows.", metavar="PLAN")],
    force: Annotated[bool, typer.Option("--force", help="Go past the policy's limits.")] = False,
) -> None:
    """Carry out a stored plan, if it is still true: both sides are read again and must give the same plan, or, where
    somebody agreed to it, one that asks nothing else."""
    with explained():
        if status := plan_status(number):
            refuse_unless_open(number, status)
    importlib.import_module("deployments.syncing").carry_out(number, force)  # (its imports take two seconds)
