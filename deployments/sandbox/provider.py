"""The identity provider of the demo and of `up`: a SCIM server that we did not write, or an emulated provider, with a
made-up company that moves on when it is told to."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.idp import SOURCES
from deployments.sandbox import idp, scim
from deployments.sandbox.organisation import Organisation, changed, difficult, organisation

TITLES: Final = {
    "scim": "SCIM server",
    "okta": "Okta",
    "entra": "Microsoft Entra ID",
    "onelogin": "OneLogin",
    "keycloak": "Keycloak",
    "google": "Google Workspace",
    "idcs": "Oracle identity domain",
}
LATER: Final = {"joiners": 3, "leavers": 3, "disabled": 2, "renamed": 2, "updated": 4, "moved": 6, "new_groups": 1}
"""What happens to a company in some days (`organisation.changed`)."""
_FIRST: Final = 11  # seed of the first change; each has one of its own


@dataclass(frozen=True, slots=True)
class RealTime:
    """Where news come in, and the secret that proves them."""

    port: int
    secret: str

    @property
    def url(self) -> str:
        """Of `crowdsync receive`."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Provider:
    """A running identity provider: `title` for people, `settings` for crowdsync.toml, `secrets` for the environment.
    `change` moves its company on by these numbers (`organisation.changed`), `undo` takes the last of these back
    (`ValueError` where there are not so many people, or nothing to take back); `page`, where it has one, is for people
    to change it."""

    title: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    change: Callable[[Mapping[str, int]], object]
    undo: Callable[[], object]
    page: str = ""


def provider(kind: str, people: int, told: RealTime | None = None) -> AbstractContextManager[Provider]:
    """A foreign server for SCIM, an emulator for the others. (Those tell nothing by themselves.)"""
    return _scim_server(people, told) if kind == "scim" else _emulated(kind, people)


def sizes(people: int) -> dict[str, Any]:
    """How large a company of so many people is, as `organisation` takes it."""
    return {"users": people, "groups": max(people // 6, 8), "memberships": people * 5, "seed": 7}


def _company_of(people: int) -> Organisation:
    """A made-up company with a few people whose names collide."""
    company = organisation(**sizes(people))
    awkward = [case for case in difficult() if "full-width" in case.why or "Cyrillic" in case.why][:2]
    return company.including(people=[person for case in awkward for person in case.people])


@contextmanager
def _scim_server(people: int, told: RealTime | None) -> Iterator[Provider]:
    """A SCIM server that we did not write, filled through SCIM."""
    company = _company_of(people)
    tell = (f"{told.url}/webhooks/acme", told.secret) if told else None
    with scim.scim2_server(tell=tell) as server:
        ids = scim.fill(server.url, server.token, company)
        seeds, before = count(_FIRST), list[Organisation]()

        def become(after: Organisation) -> None:
            nonlocal company, ids
            ids = scim.apply_change(server.url, server.token, company, after, ids)
            company = after

        def change(amounts: Mapping[str, int]) -> None:
            after = changed(company, seed=next(seeds), **amounts)
            before.append(company)
            become(after)

        def undo() -> None:
            if not before:
                raise ValueError("nothing was changed")
            become(before.pop())

        page = server.url.removesuffix("v2") if told else ""
        settings, known = {"kind": "scim", "url": server.url}, {"token": server.token}
        yield Provider("scim2-server", settings, known, change, undo, page)


@contextmanager
def _emulated(kind: str, people: int) -> Iterator[Provider]:
    """An emulated provider of this kind."""
    with idp.running(kind, **sizes(people)) as running:
        seeds = count(_FIRST)
        yield Provider(
            f"an emulated {TITLES[kind]}",
            running.settings,
            running.secrets,
            lambda amounts: running.change(seed=next(seeds), **amounts),
            running.undo,
        )


def secret_variables(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """Secrets by name → by the environment variable that a source of this kind reads when crowdsync.toml names none."""
    fields = SOURCES[kind].settings.model_fields
    return {fields[f"{name}_env"].default: value for name, value in given.items()}


def toml(settings: Mapping[str, Any]) -> str:
    """Texts, numbers and truth values as lines of TOML: what JSON writes of them, TOML reads."""
    return "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in settings.items())


def shell(variables: Mapping[str, str]) -> list[str]:
    """Lines of a shell that set these."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def write_exports(file: Path, variables: Mapping[str, str]) -> None:
    """What a shell needs so that `crowdsync` finds this sandbox, as a file for its owner alone; and where `crowdsync`
    itself is."""
    lines = shell(variables)
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write("\n".join(lines) + "\n")
