"""Commands for those who answer for it: policies, agreement to plans, links, the audit."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import pandas as pd
import typer
from rich.markup import escape

from connectors.contract import Kind, Operation
from connectors.errors import ConfigurationError, RecordError
from connectors.model import ID_ATTRIBUTE, crowd_id
from connectors.settings import Settings, load
from deployments import show
from deployments.terminal import REFUSED, console, explained, opened_store, prefect_explained, quiet_prefect

Person = Annotated[str, typer.Argument(help="Id, username or e-mail address in the IdP.")]
Source = Annotated[str, typer.Argument(help="A source of crowdsync.toml.")]
Plan = Annotated[int, typer.Argument(help="The plan's number.", metavar="PLAN")]
By = Annotated[
    str, typer.Option("--by", help="Who decides; it stands in the audit, beside the login name. Default: that.")
]
Why = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit.")]
Side = Annotated[str, typer.Option("--kind", help="user or group.")]
Many = Annotated[int, typer.Option("--limit", "-n", help="How many rows, newest first.")]

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
    import yaml

    from tasks.policy import policy_of

    with explained():
        whole = policy_of(load(), source).model_dump(mode="json")
        sys.stdout.write(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


@policy.command("schema")
def policy_schema() -> None:
    """Print the JSON schema of policies, for editors."""
    from tasks.policy import schema

    sys.stdout.write(orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode() + "\n")


def explain(source: Source, person: Person) -> None:
    """Say why a person is as they are in Crowd: scope, username and every value, rule by rule. From the last read."""
    from tasks.explain import explain as explained_rows
    from tasks.policy import policy_of
    from tasks.validate import trimmed

    with opened_store() as store:
        settings = load()
        rules = policy_of(settings, source)
        latest = store.snapshots(f"source:{source}", 1)
        if latest.empty:
            raise ConfigurationError(f"{source} was never read: run `crowdsync plan {source}` first")
        read = trimmed(store.load_snapshot(int(latest["id"].iloc[0])))
        rows = explained_rows(read, rules, person)
        show.explained(console, source, person, rows, latest["taken_at"].iloc[0])


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
        try:
            flow_run_id = store.run(plan.run)["flow_run_id"]
        except RecordError:
            flow_run_id = ""
    console.print(f"[green]✓[/] plan {number}: {decision.replace('_', ' ')} by {escape(actor)}", highlight=False)
    quiet_prefect()
    with explained(), prefect_explained():
        if flow_run_id and asyncio.run(_resumed(flow_run_id, decision, actor, reason)):
            console.print("  its run in Prefect goes on")
        elif decision != "reject":
            console.print(f"  carry it out with: crowdsync apply {number}")


async def _resumed(flow_run_id: str, decision: str, actor: str, reason: str) -> bool:
    """Lets a suspended run go on; whether there was one."""
    from uuid import UUID

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
        answer = {"approve": decision != "reject", "without": decision == "approve_without"}
        await client.resume_flow_run(UUID(flow_run_id), run_input={**answer, "name": actor, "reason": reason})
    return True


def decisions(limit: Many = 20) -> None:
    """Who agreed to which plan, or did not, and why."""
    with opened_store() as store:
        show.decisions(console, store.decisions(limit))


def audit(limit: Many = 50) -> None:
    """The audit chain, newest first, and whether it holds."""
    with opened_store() as store:
        broken = store.verify_audit()
        show.audit(console, store.audit_log(limit))
        if broken is not None:
            console.print(
                f"[bold red]the chain is broken at row {broken}[/]: someone changed it; keep a copy and ask who"
            )
            raise typer.Exit(REFUSED)


# Links


@links.command("show")
def links_show(
    source: Source,
    name: Annotated[str, typer.Option("--name", help="Only this Crowd name, or this id in the IdP.")] = "",
    kind: Side = "user",
    limit: Many = 50,
) -> None:
    """Which Crowd names belong to which ids of a source."""
    with opened_store() as store:
        directory = load().directory_of(source).name
        frame = store.links(directory, source)
        frame = frame[frame["kind"] == _kind(kind)]
        if name:
            frame = frame[(frame["id"] == name) | (frame["name"].map(crowd_id) == crowd_id(name))]
        show.links(console, frame, limit)


@links.command("make")
def links_make(
    source: Source,
    identity: Annotated[str, typer.Argument(help="The id in the IdP.", metavar="ID")],
    name: Annotated[str, typer.Argument(help="The name in Crowd.", metavar="NAME")],
    reason: Why,
    kind: Side = "user",
    by: By = "",
) -> None:
    """Say by hand that a Crowd account or group belongs to an id of a source; the next run marks it."""
    with opened_store() as store:
        directory = load().directory_of(source).name
        known = store.links(directory)
        same = known[(known["kind"] == _kind(kind)) & (known["name"].map(crowd_id) == crowd_id(name))]
        other = same[(same["source"] != source) | (same["id"] != identity)]
        if len(other):
            owner = f"{other['source'].iloc[0]}:{other['id'].iloc[0]}"
            raise ConfigurationError(f"{name!r} belongs to {owner}; cut that link first")
        row = pd.DataFrame(
            [{"source": source, "kind": kind, "id": identity, "name": name, "how": "by hand"}], dtype="str"
        )
        _changed(store, "link made by hand", by, reason, {"source": source, "kind": kind, "id": identity, "name": name})
        store.save_links(directory, row, at=datetime.now(UTC), run="by hand", actor=by or _login())
    console.print(f"[green]✓[/] {escape(name)} belongs to {escape(source)}:{escape(identity)}", highlight=False)


@links.command("cut")
def links_cut(
    source: Source,
    identity: Annotated[str, typer.Argument(help="The id in the IdP.", metavar="ID")],
    reason: Why,
    kind: Side = "user",
    by: By = "",
) -> None:
    """End a link by hand, and take the mark off in Crowd: the account or group is nobody's then."""
    with opened_store() as store:
        directory = load().directory_of(source).name
        row = pd.DataFrame([{"source": source, "kind": _kind(kind), "id": identity}], dtype="str")
        known = store.links(directory, source)
        known = known[(known["kind"] == kind) & (known["id"] == identity)]
        if known.empty:
            raise ConfigurationError(
                f"{source} has no link of the {kind} {identity!r}; `crowdsync links show {source}`"
            )
        name = str(known["name"].iloc[0])
        _changed(store, "link cut by hand", by, reason, {"source": source, "kind": kind, "id": identity, "name": name})
        asyncio.run(_unmarked(load(), source, kind, name))
        store.drop_links(directory, row, at=datetime.now(UTC), run="by hand", actor=by or _login())
    console.print(
        f"[green]✓[/] {escape(name)} no longer belongs to {escape(source)}:{escape(identity)}", highlight=False
    )


@links.command("orphans")
def links_orphans(source: Source, limit: Many = 200) -> None:
    """What stands in Crowd and belongs to no source, as last read."""
    from tasks.match import ownerless
    from tasks.policy import policy_of

    with opened_store() as store:
        settings = load()
        directory = settings.directory_of(source).name
        latest = store.snapshots(f"directory:{directory}", 1)
        if latest.empty:
            raise ConfigurationError(f"{directory} was never read: run `crowdsync plan {source}` first")
        snapshot = store.load_snapshot(int(latest["id"].iloc[0]))
        frame = ownerless(snapshot, store.links(directory), policy_of(settings, source), source)
        show.orphans(console, frame, limit)


async def _unmarked(settings: Settings, source: str, kind: str, name: str) -> None:
    """Takes the mark of ownership off, by which the next run would find the owner again."""
    from tasks.run import open_directory

    what = Kind.USER_ATTRIBUTES if kind == "user" else Kind.GROUP_ATTRIBUTES
    record: dict[str, Any] = {"attributes": {ID_ATTRIBUTE: []}}
    async with open_directory(settings.directory_of(source)) as (directory, _):
        with suppress(RecordError):  # it is gone: so is its mark
            await directory.write(Operation(1, what, name, record=record))


def _changed(store: Any, event: str, by: str, reason: str, details: dict[str, str]) -> None:
    if not reason.strip():
        raise ConfigurationError("--reason: say why; it stands in the audit")
    details = {**details, "reason": reason, "login": _login()}
    subject = f"{details['source']}:{details['id']}"
    store.audit(event=event, actor=by or _login(), subject=subject, details=details, at=datetime.now(UTC))


def _login() -> str:
    """The login name that this process runs under. (The environment can say anything; --by is what may.)"""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user, who has no name
        return f"uid {os.getuid()}"


def _kind(kind: str) -> str:
    if kind not in ("user", "group"):
        raise ConfigurationError(f"--kind: {kind!r} is neither user nor group")
    return kind
