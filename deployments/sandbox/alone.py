"""An emulated identity provider alone, as `crowdsync sandbox idp` starts it: it says what to write into
crowdsync.toml."""

from __future__ import annotations

import asyncio
from pathlib import Path

from deployments.sandbox import idp
from deployments.sandbox.organisation import organisation
from deployments.sandbox.provider import TITLES, secret_variables, shell, sizes, toml, write_exports


def alone(kind: str, people: int, port: int, exports: Path | None) -> None:
    """Serves until SIGTERM or SIGINT. The first line is `listening on ADDRESS`. Secrets are written into `exports`, or
    shown."""
    module = idp.module_of(kind)
    options, secrets = module.credentials()
    company = organisation(**sizes(people))
    variables = secret_variables(kind, secrets)

    def announce(base: str) -> None:
        settings = toml({"kind": kind, **module.settings(base)})
        count = f"{len(company.people):,} people, {len(company.teams):,} groups"
        lines = [
            f"listening on {base}",
            f"An emulated {TITLES[kind]} with {count}. In crowdsync.toml:",
            f"\n[sources.acme]\n{settings}",
        ]
        if exports:
            write_exports(exports, variables)
            lines.append(f"And where crowdsync runs:  . {exports}")
        else:
            lines += ["And where crowdsync runs:", *shell(variables)]
        print(*lines, sep="\n", flush=True)  # noqa: T201 (the terminal's part of this command)

    asyncio.run(idp.serve(kind, company, options, port, announce))
