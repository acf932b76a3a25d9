"""One flow for each thing that people often do by hand: few fields, and each walks the road of `flows.road`."""

# No `from __future__ import annotations` here: see flows/sync.py.
from typing import Annotated, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import StringConstraints

from connectors.settings import load
from flows.road import SyncRequest, walk
from tasks.tell.failure import explained
from tasks.tell.report import Report

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"\S")]
"""Never empty: a sync without a person or group is one of everybody."""


def _name() -> str:
    """What a run about one person or group is called: `acme preview of ann`, as a sync of the same."""
    given = flow_run.parameters
    return f"{given['source']} {_mode(given.get('preview', True))} of {given.get('person') or given['group']}"


def _source(source: str, *_: object, **__: object) -> str:
    return source


def _templates() -> str:
    return load().templates


# The road is called, not run as a flow of its own: only a deployment's run itself can wait for agreement.


@flow(name="preview", flow_run_name="{source} preview", persist_result=False)
@explained(_source, _templates)
async def preview(source: str) -> Report:
    """Show what a sync would do. Nothing is written to Crowd.

    The plan is an artifact of the run; `sync` with its number carries it out, if it is still true by then.

    Args:
        source: The source's name in crowdsync.toml.
    """
    return await walk(SyncRequest(source=source, mode="preview"))


@flow(name="sync-person", flow_run_name=_name, persist_result=False)
@explained(_source, _templates)
async def sync_person(source: str, person: Name, preview: bool = True) -> Report:
    """Bring one person in step: the account, and the groups it is in. Nobody else is touched.

    Args:
        source: The source's name in crowdsync.toml.
        person: Id, username or e-mail address in the identity provider.
        preview: Only show what would be done; off: do it.
    """
    return await walk(SyncRequest(source=source, mode=_mode(preview), person=person))


@flow(name="sync-group", flow_run_name=_name, persist_result=False)
@explained(_source, _templates)
async def sync_group(source: str, group: Name, preview: bool = True) -> Report:
    """Bring one group in step: the group, who is in it, and the accounts of those. No other group is touched.

    Args:
        source: The source's name in crowdsync.toml.
        group: The group's name in Crowd.
        preview: Only show what would be done; off: do it.
    """
    return await walk(SyncRequest(source=source, mode=_mode(preview), group=group))


@flow(name="full-read", flow_run_name="{source} full read", persist_result=False)
@explained(_source, _templates)
async def full_read(source: str) -> Report:
    """Sync after reading everything from the identity provider, not only what changed since last time.

    Args:
        source: The source's name in crowdsync.toml.
    """
    return await walk(SyncRequest(source=source, mode="sync", full=True))


def _mode(preview: bool) -> Literal["preview", "sync"]:
    return "preview" if preview else "sync"
