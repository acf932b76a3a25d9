"""Commands for those who answer for it: policies, agreement to plans, links, the audit."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import orjson
import typer
import yaml
from rich.markup import escape

# (What is imported inside functions: see deployments/cli.py.)
from connectors.errors import ConfigurationError, RefusedError
from connectors.model import crowd_id
from connectors.settings import load
from connectors.spelling import meant
from deployments import show
from deployments.listing import AsCsv, AsJson, Form
from deployments.opened import opened_store
from deployments.server import prefect_explained, quiet_prefect
from deployments.terminal import (
    PARTLY,
    REFUSED,
    Many,
    Most,
    console,
    errors,
    explained,
    printable,
    told,
)
from tasks.read.validate import trimmed

if TYPE_CHECKING:
    from tasks.decide.ownership import ByHand
    from tasks.write.links import Done

Person = Annotated[str, typer.Argument(help="Id, username or e-mail address in the IdP.")]
Source = Annotated[str, typer.Argument(help="A source of crowdsync.toml.")]
Plan = Annotated[int, typer.Argument(help="The plan's number.", metavar="PLAN")]
By = Annotated[
    str, typer.Option("--by", help="Who decides; it stands in the audit, beside the login name. Default: that.")
]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit.")]
Side = Annotated[str, typer.Option("--kind", help="user or group.")]
Force = Annotated[bool, typer.Option("--force", help="Also where the command says what speaks against it.")]

policy = typer.Typer(help="Policies: check a file, show one, its schema for editors.", no_args_is_help=True)
links = typer.Typer(help="Which account belongs to whom.", no_args_is_help=True)


# Policies


@policy.command("check")
def policy_check(file: Annotated[Path, typer.Argument(help="A YAML or TOML file with a policy.")]) -> None:
    """Say whether a policy file is sound, without reading anything else."""
    from tasks.policy import read_policy

    with explained():
        read = read_policy(file)
        console.print(f"[green]✓[/] {escape(str(file))}: sound; digest {read.digest()[:12]}", highlight=False)


@policy.command("show")
def policy_show(source: Source) -> None:
    """Print the whole policy of a source as YAML, with everything that it leaves to the defaults."""
    from tasks.policy import policy_of

    with explained():
        whole = policy_of(load(), source).model_dump(mode="json")
        sys.stdout.write(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


@policy.command("schema")
def policy_schema() -> None:
    """Print the JSON schema of policies, for editors."""
    from tasks.policy import schema

    sys.stdout.write(orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode() + "\n")


def explain(source: Source, person: Person, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Say why a person is as they are on both sides, rule by rule, and what a run would do. From the last read."""
    from tasks.decide.explain import Known
    from tasks.decide.explain import explain as explained_rows
    from tasks.decide.plan import Departures
    from tasks.decide.sides import explain_sides
    from tasks.policy import policy_of

    with opened_store() as store:
        form, settings = Form.of(as_json, as_csv), load()
        rules = policy_of(settings, source)
        latest = store.snapshots(f"source:{source}", 1)
        if latest.empty:
            raise ConfigurationError(f"{source} was never read: run `crowdsync plan {source}` first")
        read = trimmed(store.load_snapshot(int(latest["id"].iloc[0])))
        directory = settings.directory_of(source).name
        there = store.latest_snapshot(f"directory:{directory}")
        if there is None:
            rows = explained_rows(read, rules, person)
        else:
            departures = Departures(store.departures(directory, source), datetime.now(UTC))
            crowd = Known(store.load_snapshot(there.id), store.links(directory), source, departures)
            rows = explain_sides(read, rules, person, crowd)
        show.explained(console, source, person, rows, latest["taken_at"].iloc[0], form)


# Agreement


def approve(
    number: Plan,
    reason: Why,
    by: By = "",
    without: Annotated[
        list[str] | None, typer.Option("--without", help="A kind of operation to leave out; may be repeated.")
    ] = None,
) -> None:
    """Agree to a plan that waits. A run that is suspended in Prefect goes on; else `crowdsync apply` carries it out."""
    _decide(number, "approve_without" if without else "approve", by, reason, tuple(without or ()))


def reject(number: Plan, reason: Why, by: By = "") -> None:
    """Turn a plan that waits down."""
    _decide(number, "reject", by, reason, ())


def _decide(number: int, decision: str, by: str, reason: str, without: tuple[str, ...]) -> None:
    with opened_store() as store:
        plan = store.load_plan(number)
        hours = orjson.loads(plan.policy).get("approval", {}).get("expires_hours", 24)
        now, login = datetime.now(UTC), _login()
        actor = by or login
        store.decide(
            number,
            digest=plan.digest,
            decision=decision,
            actor=actor,
            reason=reason,
            without=without,
            expires_at=now + timedelta(hours=hours),
            via="command line",
            at=now,
            login=login,
        )
        asking = store.runs_asking(plan.source, plan.directory, number)
    console.print(f"[green]✓[/] plan {number}: {decision.replace('_', ' ')} by {escape(actor)}", highlight=False)
    quiet_prefect()
    with explained(), prefect_explained():
        if any(asyncio.run(_resumed(one, decision, actor, reason)) for one in asking.values() if one):
            console.print("  its run in Prefect goes on")
        elif decision != "reject":
            console.print(f"  carry it out with: crowdsync apply {number}")


async def _resumed(flow_run_id: str, decision: str, actor: str, reason: str) -> bool:
    """Lets a suspended run go on; whether there was one."""
    from prefect import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return False
    async with get_client() as client:
        try:
            state = (await client.read_flow_run(UUID(flow_run_id))).state
        except ObjectNotFound:
            return False
        if state is None or not state.is_paused():
            return False
        # (What counts is what stands in the store by now; this only has to be an answer.)
        answer = {"decision": "reject" if decision == "reject" else "approve", "name": actor, "reason": reason}
        await client.resume_flow_run(UUID(flow_run_id), run_input=answer)
    return True


def decisions(limit: Many = 20, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """Who agreed to which plan, or did not, and why."""
    with opened_store() as store:
        show.decisions(console, store.decisions(limit), Form.of(as_json, as_csv))


def audit(limit: Many = 50, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """The audit chain, newest first, and whether it holds."""
    with opened_store() as store:
        broken = store.verify_audit()
        form = Form.of(as_json, as_csv)
        found = store.audit_log(limit)
        # (Runs are listed by when they began; the chain has them by when they ended, such as after a day of waiting.)
        runs = {str(run["run"]): run for run in store.runs(limit + 1000).to_dict("records")}
        show.audit(console, found, runs, form)
        if broken is not None:
            told(f"[bold red]the chain is broken at row {broken}[/]: someone changed it; keep a copy and ask who")
            raise typer.Exit(REFUSED)


# Links


@links.command("show")
def links_show(
    source: Source,
    name: Annotated[str, typer.Option("--name", help="Only this Crowd name, or this id in the IdP.")] = "",
    kind: Side = "user",
    limit: Most = 50,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Which Crowd names belong to which ids of a source."""
    with opened_store() as store:
        from tasks.write.links import directory_with

        form, settings = Form.of(as_json, as_csv), load()
        frame = store.links(directory_with(settings, store, source).name, source)
        if frame.empty:
            settings.source(source)  # a name that is neither configured nor owns anything is a mistake
        frame = frame[frame["kind"] == _kind(kind)]
        if name:
            frame = frame[(frame["id"] == name) | (frame["name"].map(crowd_id) == crowd_id(name))]
        show.links(console, frame, limit, form)


@links.command("make")
def links_make(
    source: Source,
    identity: Annotated[str, typer.Argument(help="The id in the IdP.", metavar="ID")],
    name: Annotated[str, typer.Argument(help="The name in Crowd.", metavar="NAME")],
    reason: Why,
    kind: Side = "user",
    by: By = "",
    force: Force = False,
) -> None:
    """Say by hand that a Crowd account or group, which is nobody's, belongs to an id of a source."""
    done = _by_hand("make", "link made by hand", source, kind, identity, name, by, reason, force)
    _told(done, f"{name} belongs to {source}:{identity}", done.plan is None)


@links.command("cut")
def links_cut(
    source: Source,
    identity: Annotated[str, typer.Argument(help="The id in the IdP.", metavar="ID")],
    reason: Why,
    kind: Side = "user",
    by: By = "",
    name: Annotated[str, typer.Option("--name", help="Which Crowd record, where several carry the mark of ID.")] = "",
) -> None:
    """End a link by hand, and take the mark off in Crowd: the account or group is nobody's then."""
    done = _by_hand("cut", "link cut by hand", source, kind, identity, name, by, reason, force=False)
    _told(done, f"{', '.join(done.names)} no longer belongs to {source}:{identity}")


@links.command("hand-over")
def links_hand_over(
    source: Source,
    old: Annotated[str, typer.Argument(help="The id in the IdP that it belongs to.", metavar="OLD_ID")],
    new: Annotated[str, typer.Argument(help="The id of the same source that gets it.", metavar="NEW_ID")],
    reason: Why,
    kind: Side = "user",
    by: By = "",
    force: Force = False,
) -> None:
    """Give what belongs to one id of a source to another: a person or group that was made again in the IdP."""
    done = _by_hand("hand over", "link handed over by hand", source, kind, old, new, by, reason, force)
    _told(done, f"{', '.join(done.names)} belongs to {source}:{new}, and no longer to {source}:{old}")


@links.command("move")
def links_move(
    old: Annotated[str, typer.Argument(help="The source that owns the accounts, configured or not.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="The source of crowdsync.toml that gets them.", metavar="NEW")],
    by: Annotated[
        str, typer.Option("--by", help="username, email, or a CSV file with the columns old_id and new_id.")
    ] = "username",
    kind: Annotated[str, typer.Option("--kind", help="user, group or both.")] = "both",
    yes: Annotated[bool, typer.Option("--yes", help="Move what the preview showed.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="With --yes: why; it stands in the audit.")] = "",
    decided_by: Annotated[str, typer.Option("--decided-by", help="With --yes: who. Default: the login name.")] = "",
) -> None:
    """Move everything that one source owns to another, as when the IdP is replaced. Shows it first; --yes does it."""
    with explained():
        from tasks.decide.ownership import KINDS
        from tasks.write.links import move

        kinds = KINDS if kind == "both" else (_kind(kind),)
        decision = _decision("links moved by hand", decided_by, reason) if yes else None
        moving = asyncio.run(move(load(), old, new, by, kinds, decision))
        show.moving(console, moving, old, new)
        again = f"crowdsync links move {old} {new} --by {by}{'' if kind == 'both' else f' --kind {kind}'}"
        if moving.moved_on:
            raise RefusedError(
                f"this is not what was shown in the last hours, and nothing was written; look at it, then: {again} "
                "--yes --reason TEXT"
            )
        if moving.done is not None:
            _told(moving.done, f"{len(moving.done.names):,} links moved from {old} to {new}", moving.done.plan is None)
        elif moving.plan is not None:
            way = f"Nothing was written. To move them: {again} --yes --reason TEXT"
            console.print(escape(way), soft_wrap=True, highlight=False)


@links.command("orphans")
def links_orphans(source: Source, limit: Most = 200, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """What stands in Crowd and belongs to no source, as last read."""
    from tasks.decide.match import ownerless
    from tasks.policy import policy_of

    with opened_store() as store:
        settings = load()
        directory = settings.directory_of(source).name
        latest = store.snapshots(f"directory:{directory}", 1)
        if latest.empty:
            raise ConfigurationError(f"{directory} was never read: run `crowdsync plan {source}` first")
        snapshot = store.load_snapshot(int(latest["id"].iloc[0]))
        frame = ownerless(snapshot, store.links(directory), policy_of(settings, source), source)
        show.orphans(console, frame, limit, Form.of(as_json, as_csv))


def _by_hand(
    what: str, event: str, source: str, kind: str, identity: str, other: str, by: str, reason: str, force: bool
) -> Done:
    with explained():
        from tasks.write.links import change_one

        decision = _decision(event, by, reason)
        return asyncio.run(change_one(load(), what, source, _kind(kind), identity, other, decision, force=force))


def _decision(event: str, by: str, reason: str) -> ByHand:
    """Who decides, and why. The login name stands beside whatever name was given."""
    from tasks.decide.ownership import ByHand

    if not reason.strip():
        raise ConfigurationError("--reason: say why; it stands in the audit")
    login = _login()
    return ByHand(event, by or login, login, reason)


def _login() -> str:
    """The login name that this process runs under. (The environment can say anything; --by is what may.)"""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user, who has no name
        return f"uid {os.getuid()}"


def _told(done: Done, line: str, already: bool = False) -> None:
    """What a change by hand came to; one that failed ends with its exit code."""
    for past in done.forced:
        console.print(f"[yellow]forced past[/]  {escape(printable(past))}", soft_wrap=True, highlight=False)
    for name, note in done.failed:
        errors.print(f"[bold red]failed[/]  {escape(printable(f'{name}: {note}'))}", soft_wrap=True, highlight=False)
    if done.names or already:
        rest = " already" if already else f" (plan {done.plan})"
        console.print(f"[green]✓[/] {escape(printable(line))}{rest}", soft_wrap=True, highlight=False)
    if done.failed:
        raise typer.Exit(PARTLY)


def _kind(kind: str) -> str:
    if kind not in ("user", "group"):
        raise ConfigurationError(f"--kind: {kind!r} is neither user nor group{meant(kind, ('user', 'group'))}")
    return kind
