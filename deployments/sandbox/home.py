"""The sandbox's folder: it begins anew each time, so what stands in it must be the sandbox's own.

A folder is the sandbox's where the sandbox made it, or found it empty, and left its marker there. The marker knows the
configuration that was written beside it: once somebody has changed that, the folder is somebody's.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from connectors.errors import ConfigurationError

MARKER: Final = ".crowdsync-sandbox"
CONFIG: Final = "crowdsync.toml"
DATABASE: Final = "crowdsync.db"
PREFECT: Final = "prefect"
_DATABASE_FILES: Final = tuple(DATABASE + end for end in ("", "-wal", "-shm", "-journal", ".head"))
_WAY: Final = "name a new or empty folder with --home"


@dataclass(frozen=True, slots=True)
class Home:
    """A folder that is the sandbox's, as long as it is open."""

    folder: Path
    marker: TextIO

    @property
    def config(self) -> Path:
        """Where the configuration stands."""
        return self.folder / CONFIG

    @property
    def database(self) -> Path:
        """Where crowdsync's database stands."""
        return self.folder / DATABASE

    @property
    def prefect(self) -> Path:
        """Where Prefect's server keeps its files."""
        return self.folder / PREFECT

    def configure(self, text: str) -> None:
        """Writes the configuration, and into the marker what was written."""
        content = text.encode()
        self.config.unlink(missing_ok=True)  # killed in between, there is none, rather than one that seems changed
        self.marker.seek(0)
        self.marker.truncate()
        self.marker.write(f"{hashlib.sha256(content).hexdigest()}\n")
        self.marker.flush()
        self.config.write_bytes(content)


@contextmanager
def opened(home: Path) -> Iterator[Home]:
    """The sandbox's folder without the database of the last time; one sandbox at a time has it.

    Raises `ConfigurationError`, and changes nothing, for a folder with anything in it that is not the sandbox's.
    """
    with ExitStack() as stack:
        try:
            own = _taken(home, stack)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise ConfigurationError(f"--home: {home} cannot be used as a folder ({reason}); {_WAY}") from None
        yield own


def _taken(home: Path, stack: ExitStack) -> Home:
    folder = home.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(folder)
    # Opened to append: a marker that is not there yet is made, one that is there keeps its text.
    marker = stack.enter_context((folder / MARKER).open("a+", encoding="ascii"))
    try:
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(f"--home: another sandbox is running in {folder}; end it, or {_WAY}") from None
    marker.seek(0)
    _refuse_changed(folder, marker.read().strip())
    for name in _DATABASE_FILES:  # the sandbox's Crowd starts empty, so its history does too
        (folder / name).unlink(missing_ok=True)
    return Home(folder, marker)


def _refuse_foreign(folder: Path) -> None:
    """Raises `ConfigurationError` for a folder that is neither empty nor the sandbox's."""
    found = sorted(entry.name for entry in folder.iterdir())
    if found and MARKER not in found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ConfigurationError(
            f"--home: {folder} is not the sandbox's: it holds {', '.join(found[:3])}{more}, which the sandbox would "
            f"overwrite or delete; nothing was touched: {_WAY}"
        )
    for name in (MARKER, CONFIG, PREFECT, *_DATABASE_FILES):
        path = folder / name
        if path.is_symlink() or (path.exists() and path.is_dir() != (name == PREFECT)):
            raise ConfigurationError(
                f"--home: {path} is not what the sandbox made; nothing was touched: move it away, or {_WAY}"
            )


def _refuse_changed(folder: Path, written: str) -> None:
    """Raises `ConfigurationError` where somebody changed the configuration that the sandbox wrote."""
    config = folder / CONFIG
    if config.exists() and hashlib.sha256(config.read_bytes()).hexdigest() != written:
        raise ConfigurationError(
            f"--home: {config} was changed since the sandbox wrote it, and the folder may be in use; nothing was "
            f"touched: move what you keep of it away and remove the rest, or {_WAY}"
        )
