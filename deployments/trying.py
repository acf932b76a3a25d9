"""The commands that try crowdsync on a company: the sandbox, the demo."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from connectors.errors import ConfigurationError
from connectors.idp import SOURCES
from connectors.spelling import meant
from deployments.terminal import console, explained

sandbox = typer.Typer(help="A company to try crowdsync on.", no_args_is_help=True)


_IDPS = [kind for kind in SOURCES if kind != "push"]  # (what pushes is not emulated)
Idp = Annotated[str, typer.Option(help=f"Which identity provider: {', '.join(_IDPS)}.")]


@sandbox.command()
def crowd(
    application: Annotated[list[str], typer.Option(help="NAME:PASSWORD of an application; may be repeated.")],
    port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    permissions: Annotated[
        str, typer.Option(help="What the applications may write: all, read-only, users or groups.")
    ] = "all",
) -> None:
    """An emulated Crowd, alone and empty, on the loopback address; base path /crowd, nested groups on."""
    from deployments.sandbox.crowd import serve
    from deployments.sandbox.crowd_data import PERMISSION_SETS
    from deployments.sandbox.provider import shell

    known: dict[str, str] = {}
    with explained():
        for pair in application:
            name, colon, password = pair.partition(":")
            if not (name and colon and password):
                raise ConfigurationError("--application: write NAME:PASSWORD, neither of them empty")
            known[name] = password
        if permissions not in PERMISSION_SETS:
            raise ConfigurationError(f"--permissions: {permissions!r} is none of {', '.join(PERMISSION_SETS)}")
        _free(port)
    first = next(iter(known))

    def announce(url: str) -> None:
        settings = f'[directory]\nurl = "{url}"\napplication = "{first}"'
        print(f"listening on {url}\nAn empty Crowd. In crowdsync.toml:\n\n{settings}\n", flush=True)  # noqa: T201
        print(f"And where crowdsync runs:\n{shell({'CROWDSYNC_CROWD_PASSWORD': known[first]})[0]}", flush=True)  # noqa: T201

    serve(port, known, permissions=permissions, announce=announce)


@sandbox.command()
def idp(
    kind: Annotated[str, typer.Argument(help=f"Which one: {', '.join(_IDPS)}.")],
    port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    people: Annotated[int, typer.Option(help="How many people its company has.", min=10, max=1_000_000)] = 150,
    exports: Annotated[
        Path | None, typer.Option(help="A file to write its secrets into, for a shell to read (`. FILE`).")
    ] = None,
) -> None:
    """An emulated identity provider with a company, on the loopback address, until Ctrl-C."""
    from deployments.sandbox.alone import alone

    with explained():
        _free(port)
        alone(_kind(kind, "KIND"), people, port, exports)


def _free(port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"--port: {port} is no port; use 0 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(f"--port: {port} cannot be used ({error.strerror}); choose another") from None


def demo(
    people: Annotated[int, typer.Option(help="How many people the company has.", min=10, max=2000)] = 150,
    home: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path(".crowdsync/demo"),
    idp: Idp = "scim",
) -> None:
    """The whole road on a made-up company: a real SCIM server or an emulated provider, and Crowd, in five scenes."""
    from deployments.demo import demo as run

    with explained():
        run(console, people, home, _kind(idp, "--idp"))


def up(
    people: Annotated[int, typer.Option(help="How many people the company has.", min=10, max=2000)] = 150,
    home: Annotated[Path, typer.Option(help="Where the sandbox keeps its files.")] = Path(".crowdsync/demo"),
    port: Annotated[int, typer.Option(help="Of the Prefect UI.")] = 4200,
    idp: Idp = "scim",
) -> None:
    """The sandbox, the Prefect server with its UI, every deployment and a worker, kept running until Ctrl-C."""
    from deployments.up import up as run

    with explained():
        _free(port)
        run(console, people, home, port, _kind(idp, "--idp"))


def _kind(idp: str, field: str) -> str:
    if idp not in _IDPS:
        raise ConfigurationError(f"{field}: {idp!r} is none of {', '.join(_IDPS)}{meant(idp, _IDPS)}")
    return idp
