"""The store of the configuration, for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from connectors.errors import ConfigurationError, RecordError, RefusedError, RetryableError
from connectors.settings import Settings, load
from connectors.store import Store
from deployments.terminal import explained


def blocks_named(settings: Settings) -> bool:
    """Whether some of the credentials are Prefect's blocks."""
    sources = any(settings.source(name).block for name in settings.sources)
    return sources or any(directory.block for directory in settings.all_directories())


@contextmanager
def settings_store(settings: Settings) -> Iterator[Store]:
    """The store of the configuration, open."""
    try:
        opened = Store.open(settings.store_url(), busy=settings.store.busy)
    except ConfigurationError as error:
        if isinstance(error.__cause__, RetryableError):  # held by another process: that is no setting
            raise RetryableError(str(error)) from None
        raise
    with opened as store:
        yield store


@contextmanager
def opened_store() -> Iterator[Store]:
    """The store, to look up what the command names; what is not there is the call's fault."""
    with explained(), settings_store(load()) as store:
        try:
            yield store
        except (RecordError, RefusedError) as error:
            if error.__cause__ is not None:  # the database itself
                raise
            raise ConfigurationError(str(error)) from None
