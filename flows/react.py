"""News of a source or of Crowd → the same road, for the people that it names.

Many at once are one batch: both sides of all of them are read again by key, and what follows is one plan. Where some of
them need more than a few records can tell, the others go on without them, and everybody is to be read because of these.
"""

# No `from __future__ import annotations` here: see flows/sync.py.
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from connectors.contract import Hint
from connectors.operations import kinds
from connectors.settings import Settings
from connectors.store import in_thread
from tasks.decide.names import among, crowd_ids
from tasks.decide.width import beyond
from tasks.policy import policy_of
from tasks.read.known import KnownSides, NotNarrowError, known_sides
from tasks.read.narrow import Few, read_named
from tasks.read.recover import settle_by_key
from tasks.run import Connections, Run, begin, finish
from tasks.stages import carry_out, propose
from tasks.tell.proposal import Basis
from tasks.tell.report import ended
from tasks.tell.stored_plan import store_plan
from tasks.write.approve import asked_already
from tasks.write.lease import turn_of

MOST_PARTS: Final = 16
"""A batch is tried in so many parts, at most, to find those of whom a few records do not tell enough."""
TAKES: Final = [kind.value for kind in kinds(effect="takes")]
"""The kinds of operations that take something from somebody."""


@dataclass(frozen=True, slots=True)
class Part:
    """What became of some hints. `status` as in `Report`, or "wide": everybody is to be read because of them (`why`: in
    words that follow "because")."""

    hints: tuple[Hint, ...]
    status: str
    why: str = ""
    plan: int | None = None
    planned: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    held: int = 0

    @property
    def settled(self) -> bool:
        """Whether Crowd is as the source wants it, as far as the policy and what is held let it be."""
        return self.status in ("nothing to do", "applied")


Gather = Callable[[str], Awaitable[Sequence[Hint]]]
"""The id of a run, which has the right to write by now → what it is about."""


async def react(settings: Settings, source: str, gather: Gather, through: Connections | None = None) -> list[Part]:
    """One batch: what `gather` gives → Crowd. Each hint is in one of the parts. Raises what stops a run; then nothing
    is known to be settled, and what was written stands in the journal."""
    policy = policy_of(settings, source)
    async with begin(settings, source, policy, "react", through=through) as run:
        hints = tuple(dict.fromkeys(await gather(run.id)))
        side, name = run.crowd_side, run.directory_name
        run.lender = await in_thread(run.store.lending_plan, name, turn_of(name))
        await settle_by_key(run.store, name, side.client, side.scope, run.lender)  # (of a run that was killed)
        parts = await in_parts(run, hints, settings.source(source).same_names()) if hints else []
        came = summary(run, parts)
        await in_thread(finish, run, came["status"], came)
        return parts


async def in_parts(run: Run, hints: tuple[Hint, ...], advice: str) -> list[Part]:
    """Hints → what became of each, in as few plans as may be."""
    todo, found = [hints], list[Part]()
    while todo:
        part = todo.pop()
        try:
            base = await in_thread(known_sides, run)
        except NotNarrowError as why:  # the same for all
            return [*found, *(Part(one, "wide", str(why)) for one in (part, *todo))]
        try:
            found.append(await in_one(run, base, part, advice))
        except BeyondError as why:
            found.append(Part(tuple(hint for hint in part if hint not in why.others), "wide", str(why)))
            todo += [why.others] if why.others else []
        except NotNarrowError as why:
            if len(part) == 1 or len(found) + len(todo) >= MOST_PARTS:
                found.append(Part(part, "wide", str(why)))
            else:
                todo += [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


class BeyondError(NotNarrowError):
    """Something stands against a plan, such as a limit; `others`: the hints of people whom that is not about. (In
    halves, it would be carried out as far as the limit lets it.)"""

    def __init__(self, why: str, others: tuple[Hint, ...]) -> None:
        super().__init__(why)
        self.others = others


async def in_one(run: Run, base: KnownSides, hints: tuple[Hint, ...], advice: str) -> Part:
    """Hints → one plan, which is carried out. Raises `NotNarrowError` where a few records do not tell enough."""
    with run.timed("read by key"):
        few = await read_named(run, base, hints)
    with run.timed("plan"):
        basis = Basis(
            few.source, few.crowd, few.links, few.selection, advice,
            totals=few.totals, read=few.words(), recent=few.recent, with_others=few.with_others,
        )  # fmt: skip
        proposal = await propose(run, basis, run.policy)
    plan = proposal.plan
    if why := beyond(plan, proposal.impact, proposal.verdict, run.policy):
        if not proposal.verdict.stops:
            raise NotNarrowError(why)
        takes = plan.operations[plan.operations["kind"].isin(TAKES)]
        raise BeyondError(why, others(few, hints, takes))
    asked, why = await in_thread(asked_already, run, plan.operations)
    if why:
        raise BeyondError(why, others(few, hints, asked))
    stored = await store_plan(run, proposal, replaces=None)
    applied = None
    if stored.ready:
        with run.timed("apply"):
            applied = await carry_out(run, stored)
    ending = await in_thread(ended, run, stored, "react", applied)
    why = ending.why or (f"{len(ending.failed)} of its operations failed" if len(ending.failed) else "")
    return Part(hints, ending.status, why, stored.number, plan.counts(), ending.outcomes, len(plan.held))


def others(few: Few, hints: tuple[Hint, ...], operations: pd.DataFrame) -> tuple[Hint, ...]:
    """The hints of people whom these operations are not about; none, where that would be all of them."""
    owners = few.links[among(crowd_ids(few.links["name"]), crowd_ids(operations["name"]))]["id"]
    rest = few.selection.people - {*operations["source_id"], *owners}
    keep = tuple(hint for hint in hints if hint.kind == "user" and hint.key in rest)
    return keep if len(keep) < len(hints) else ()


WORST: Final = ("stopped", "partly applied", "refused", "waiting", "wide", "applied")
"""What a batch came to is the first of these that one of its parts came to."""


def summary(run: Run, parts: Sequence[Part]) -> dict[str, Any]:
    """What a batch came to, as JSON values: counts and reasons only."""
    counts: dict[str, Counter[str]] = {"planned": Counter(), "outcomes": Counter()}
    for part in parts:
        counts["planned"].update(part.planned)
        counts["outcomes"].update(part.outcomes)
    reached = {part.status for part in parts}
    whys = list(dict.fromkeys(part.why for part in parts if part.why))
    return {
        "status": next((one for one in WORST if one in reached), "nothing to do"),
        "plans": [part.plan for part in parts if part.plan],
        "hints": sum(len(part.hints) for part in parts),
        "held": sum(part.held for part in parts),
        **{name: dict(count) for name, count in counts.items()},
        **({"error": "; ".join(whys)} if whys else {}),
        "seconds": {stage: round(seconds, 3) for stage, seconds in run.seconds.items()},
    }
