"""The connections of a run: a source and a directory, opened with their secrets, and their own checks."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from connectors.contract import Directory, Source
from connectors.crowd import Crowd
from connectors.errors import AuthenticationError, ConfigurationError, IncompleteError
from connectors.http import Http
from connectors.idp import SOURCES
from connectors.idp.push import Push, PushSettings
from connectors.settings import DirectorySettings, Settings
from connectors.source import SourceSettings, secret, secrets_of
from connectors.store import Store, in_thread
from tasks.policy import Policy


@asynccontextmanager
async def open_source(name: str, settings: SourceSettings) -> AsyncIterator[Source]:
    """One source, its clients closed at the end. Raises `ConfigurationError`; nothing is called yet.

    What one that pushes gave us is in the store, which is opened for it."""
    if isinstance(settings, PushSettings):
        url, busy = settings.database()
        with await in_thread(Store.open, url, busy=busy) as store:
            yield Push(name, lambda: store.mirror(name), page_size=settings.page_size)
        return
    secrets = await _blocks().source_secrets(name, settings) if settings.block else secrets_of(name, settings)
    source = SOURCES[settings.kind].open(name, settings, secrets)
    try:
        yield source
    finally:
        await asyncio.gather(*(client.aclose() for client in source.clients))


@asynccontextmanager
async def open_directory(settings: DirectorySettings) -> AsyncIterator[tuple[Crowd, Http]]:
    """Crowd and its client. Raises `ConfigurationError`; nothing is called yet."""
    if settings.block:
        password: str = await _blocks().directory_secret(settings)
    else:
        password = secret("directory.password", settings.password_env, settings.password_file)
    async with directory_http(settings, password) as client:
        yield Crowd(client, page_size=settings.page_size), client


def _blocks() -> Any:
    """`tasks.read.blocks`: only where one is named, because Prefect takes a second to be imported."""
    return importlib.import_module("tasks.read.blocks")


def directory_http(settings: DirectorySettings, password: str) -> Http:
    """The client of Crowd. Raises `ConfigurationError`."""
    return Http(
        settings.url,
        name="directory",
        basic=(settings.application, password),
        rate=settings.requests_per_second,
        concurrency=settings.concurrency,
        timeout=settings.timeout,
        verify=settings.ca_file or True,
    )


_HOW: Final = {
    "policy",
    "policy_file",
    "webhook",
    "events",
    "polling",
    "sign_in_minutes",
    "directory",
    "block",
    "concurrency",
    "requests_per_second",
    "timeout",
    "page_size",
    "group_page_size",
    "max_megabytes",
    "run_hours",
    "ca_file",
}
"""Settings that say how a source is asked, and not for what."""


def request_digest(settings: SourceSettings, policy: Policy) -> str:
    """Digest of what is requested of a source: its settings, but for how it is asked, and the attributes' names."""
    requested = [settings.model_dump(exclude=_HOW), policy.wanted()]
    # Sets are sorted: their own order is another one in every process.
    return hashlib.sha256(orjson.dumps(requested, default=sorted, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def diagnosed(
    settings: Settings, name: str, source: Source, directory: Directory, error: BaseException
) -> BaseException:
    """What stopped a run, in better words where one side does not pass its own check (wrong address or secret)."""
    if not isinstance(error, (AuthenticationError, IncompleteError)):
        return error
    sides = (
        check_source(name, settings.source(name), source),
        check_directory(settings.directory_of(name), directory),
    )
    found = await asyncio.gather(*sides, return_exceptions=True)
    return next((why for why in found if isinstance(why, (AuthenticationError, ConfigurationError))), error)


async def check_source(name: str, settings: SourceSettings, source: Source) -> Sequence[str]:
    """`Source.check`, and where the settings stand that it finds wrong."""
    places = ", ".join(f"{secret} from {settings.place(secret)}" for secret in settings.secrets())
    return await _checked(source.check(), f"sources.{name}", f"{settings.url}, {places}")


async def check_directory(settings: DirectorySettings, directory: Directory) -> Sequence[str]:
    """`Directory.check`, and where the settings stand that it finds wrong."""
    place = f"the Prefect block {settings.block}" if settings.block else ""
    place = place or settings.password_file or f"${settings.password_env}"
    used = f"{settings.url}, application {settings.application!r}, password from {place}"
    return await _checked(directory.check(), "directory", used)


async def _checked(check: Awaitable[Sequence[str]], field: str, used: str) -> Sequence[str]:
    try:
        return await check
    except AuthenticationError as error:
        raise AuthenticationError(f"{error} (Used: {used}.)") from None
    except IncompleteError as error:
        raise ConfigurationError(f"{field}.url: {error}") from None
