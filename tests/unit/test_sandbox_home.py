"""The sandbox begins its folder anew each time: it takes no folder that is somebody's."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.errors import ConfigurationError
from deployments.cli import app
from deployments.sandbox import home as sandbox_home


def content(folder: Path) -> dict[str, bytes]:
    """Every file and link below a folder, byte for byte."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def made(folder: Path) -> Path:
    """A folder as an earlier sandbox left it."""
    with sandbox_home.opened(folder) as own:
        own.configure("# of the sandbox\n")
        own.database.write_bytes(b"history")
        own.prefect.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize("command", ["demo", "up"])
@pytest.mark.parametrize(
    "files",
    [
        ("crowdsync.toml", "crowdsync.db"),
        ("crowdsync.db",),
        ("crowdsync.db-wal",),
        ("notes.txt",),
        (".hidden",),
        ("prefect/prefect.db",),
    ],
    ids=" ".join,
)
def test_a_real_folder_is_refused_and_not_touched(
    tmp_path: Path, command: str, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real"
    for name in files:
        (real / name).parent.mkdir(parents=True, exist_ok=True)
        (real / name).write_bytes(b"of a real company")
    before = content(tmp_path)
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(real)
    for home in (".", str(real), str(tmp_path / "link"), str(real / "x" / "..")):
        answer = CliRunner().invoke(app, [command, "--home", home, *(("--port", "0") * (command == "up"))])
        assert answer.exit_code == 2, answer.output
        lines = answer.stderr.splitlines()
        assert len(lines) == 1
        assert f"--home: {real} is not the sandbox's" in lines[0]
        assert files[0].split("/")[0] in lines[0]
        assert "name a new or empty folder" in lines[0]
    (tmp_path / "link").unlink()
    assert content(tmp_path) == before


def test_a_new_folder_an_empty_one_and_its_own_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "new" / "deep")
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty", tmp_path / "link"):
        made(folder)
        (folder / "crowdsync.db-wal").write_bytes(b"history")
        (folder / "crowdsync.db.head").write_bytes(b"how far it was")
        (folder / "crowdsync.db.backup").write_bytes(b"of a person")
        with sandbox_home.opened(folder) as own:
            assert not own.database.exists()
            assert not own.database.with_name("crowdsync.db-wal").exists()
            assert not own.database.with_name("crowdsync.db.head").exists(), "else this one is an older copy of that"
            assert (folder / "crowdsync.db.backup").exists(), "what the sandbox did not make stays"
            own.configure("# anew\n")
        with sandbox_home.opened(folder) as own:
            assert own.config.read_text() == "# anew\n"


def test_a_changed_configuration_makes_the_folder_somebodys(tmp_path: Path) -> None:
    folder = made(tmp_path / "sandbox")
    with (folder / "crowdsync.toml").open("a") as config:
        config.write("# now with our own Crowd\n")
    before = content(folder)
    with (
        pytest.raises(ConfigurationError, match=r"crowdsync\.toml was changed since the sandbox wrote it"),
        sandbox_home.opened(folder),
    ):
        raise AssertionError("taken")
    assert content(folder) == before


@pytest.mark.parametrize("name", ["crowdsync.toml", "crowdsync.db", "prefect", sandbox_home.MARKER])
def test_a_link_in_the_sandbox_is_not_followed(tmp_path: Path, name: str) -> None:
    folder, real = made(tmp_path / "sandbox"), tmp_path / name.strip(".")
    (folder / name).rename(real)
    (folder / name).symlink_to(real)
    before = content(tmp_path)
    with pytest.raises(ConfigurationError, match="is not what the sandbox made"), sandbox_home.opened(folder):
        raise AssertionError("taken")
    assert content(tmp_path) == before


def test_two_sandboxes_do_not_share_a_folder(tmp_path: Path) -> None:
    with sandbox_home.opened(tmp_path) as own:
        own.database.write_bytes(b"in use")
        with pytest.raises(ConfigurationError, match="another sandbox is running"), sandbox_home.opened(tmp_path):
            raise AssertionError("taken")
        assert own.database.read_bytes() == b"in use"


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="cannot be used as a folder"), sandbox_home.opened(tmp_path / "file"):
        raise AssertionError("taken")
