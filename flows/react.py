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
from connectors.operations import Kind, kinds
from connectors.settings import Settings
from connectors.store import in_thread
from tasks.decide.beside import owners_by_name, people_in
from tasks.decide.names import among, crowd_ids
from tasks.decide.width import beyond
from tasks.policy import policy_of
from tasks.read.known import KnownSides, NotNarrowError, known_sides
from tasks.read.narrow import Few, read_named
from tasks.read.recover import settle_by_key
from tasks.run import Connections, Run, begin, finish
from tasks.stages import carry_out, propose
from tasks.tell.proposal import Basis, Proposal
from tasks.tell.report import ended
from tasks.tell.stored_plan import store_plan
from tasks.write.approve import Against, asked_already
from tasks.write.lease import turn_of

MOST_PARTS: Final = 16
"""A batch is tried in so many parts, at most, to find those of whom a few records do not tell enough."""
TAKES: Final = [kind.value for kind in kinds(effect="takes")]
"""The kinds of operations that take something from somebody."""
SHUTS_OUT: Final = [kind.value for kind in kinds(shuts_out=True)]
"""Those of them by which somebody cannot sign in any more."""


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
            tried = {hint for some in why.parts for hint in some}
            if left := tuple(hint for hint in part if hint not in tried):
                found.append(Part(left, "wide", str(why)))
            todo += why.parts
        except NotNarrowError as why:
            if len(part) == 1 or len(found) + len(todo) >= MOST_PARTS:
                found.append(Part(part, "wide", str(why)))
            else:
                todo += [part[: len(part) // 2], part[len(part) // 2 :]]
    return found


class BeyondError(NotNarrowError):
    """Something stands against a plan, such as a limit; `parts`: the hints of people whom that is not about, and of the
    rest those about whom something may be done all the same. (In halves, it would be carried out as far as the limit
    lets it.)"""

    def __init__(self, why: str, *parts: tuple[Hint, ...]) -> None:
        super().__init__(why)
        self.parts = [part for part in parts if part]


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
    against = await what_stands_against(run, few, proposal)
    if against is not None:
        proposal = await the_rest(run, few, hints, proposal, against)
    plan = proposal.plan
    stored = await store_plan(run, proposal, replaces=None)
    applied = None
    if stored.ready:
        with run.timed("apply"):
            applied = await carry_out(run, stored)
    ending = await in_thread(ended, run, stored, "react", applied)
    status, why = ending.status, ending.why
    why = why or (f"{len(ending.failed)} of its operations failed" if len(ending.failed) else "")
    if against is not None and status == "applied":
        status, why = "wide", f"{against.why}; what else there is to do is done (plan {stored.number})"
    return Part(hints, status, why, stored.number, plan.counts(), ending.outcomes, len(plan.held))


async def what_stands_against(run: Run, few: Few, proposal: Proposal) -> Against | None:
    """Why a plan is not carried out as it is. Raises `NotNarrowError` where everybody has to be looked at before."""
    verdict, operations = proposal.verdict, proposal.plan.operations
    if why := beyond(proposal.plan, proposal.impact, verdict, proposal.policy):
        if not verdict.stops:
            raise NotNarrowError(why)
        # Who leaves is shut out, though they lose more besides than may be lost without agreement.
        leaves = operations["kind"].isin(SHUTS_OUT) & ~operations["kind"].isin(verdict.dangerous)
        fresh = operations[leaves] if not verdict.refusals else operations[:0]
        return Against(why, operations[operations["kind"].isin(TAKES)], verdict.dangerous, fresh)
    return await in_thread(asked_already, run, operations, few.links)


async def the_rest(run: Run, few: Few, hints: tuple[Hint, ...], proposal: Proposal, against: Against) -> Proposal:
    """A plan that something stands against → what of it may be done at once, where it is about one hint, or about those
    only who are to be shut out. Raises `BeyondError` where that is nothing, or where it is about others, too."""
    rest = others(few, hints, against.operations)
    leaving, more = of_fresh(few, hints, rest, against.fresh)
    at_once = len(against.fresh) > 0 and not {*SHUTS_OUT} & {*against.kinds}
    if len(hints) > 1 and not (at_once and len(leaving) == len(hints)):
        raise BeyondError(against.why, rest, *([leaving] if at_once else each(leaving)), *each(more))
    without, now = set[Kind](), against
    while not without.issuperset(now.kinds) and len(now.fresh):
        without |= {*now.kinds}
        with run.timed("plan"):
            smaller = await propose(run, proposal.basis, run.policy.without(without))
        if not len(smaller.plan.operations):
            break
        if (again := await what_stands_against(run, few, smaller)) is None:
            return smaller
        now = again
    raise BeyondError(against.why, *(each(hints) if len(hints) > 1 else ()))


def of_fresh(
    few: Few, hints: tuple[Hint, ...], rest: tuple[Hint, ...], fresh: pd.DataFrame
) -> tuple[tuple[Hint, ...], tuple[Hint, ...]]:
    """Of the hints but for `rest`, those of people whom fresh operations shut out; and those that another one may be
    about, so many as parts are tried. (Of a hint that is no id it is not known whom it is about.)"""
    if not len(fresh):
        return (), ()
    shut_out = fresh[fresh["kind"].isin(SHUTS_OUT)]
    leaving, people = (_owners(few, some) & few.selection.people for some in (shut_out, fresh))
    by_id = {hint for hint in hints if hint.kind == "user" and hint.key in few.selection.people}
    first = tuple(hint for hint in hints if hint in by_id.difference(rest) and hint.key in leaving)
    other = {*rest, *first}
    more = tuple(hint for hint in hints if hint not in other and (hint not in by_id or hint.key in people))
    return first, more[:MOST_PARTS]


def each(hints: Sequence[Hint]) -> list[tuple[Hint, ...]]:
    """Each of them a part of its own."""
    return [(hint,) for hint in hints]


def others(few: Few, hints: tuple[Hint, ...], operations: pd.DataFrame) -> tuple[Hint, ...]:
    """The hints of people whom these operations are not about; none, where that would be all of them."""
    rest = few.selection.people - _owners(few, operations)
    keep = tuple(hint for hint in hints if hint.kind == "user" and hint.key in rest)
    return keep if len(keep) < len(hints) else ()


def _owners(few: Few, operations: pd.DataFrame) -> set[str]:
    """The people whom operations are about: their ids; also who has, or gets, the account of another one by them."""
    had = few.links[among(crowd_ids(few.links["name"]), crowd_ids(operations["name"]))]["id"]
    return {*operations["source_id"], *had, *people_in(operations, owners_by_name(few.links, few.source.name))}


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
