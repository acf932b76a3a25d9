"""Each mistake of the first hour has one message, which names the field, the place and the next step, word for word."""

# ruff: noqa: E501  (a message stands in one piece)

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.errors import ConfigurationError
from connectors.settings import load
from connectors.spelling import nearest
from deployments import terminal
from deployments.cli import app
from tasks.policy import policy_of

GOOD = """
[store]
url = "sqlite:///crowdsync.db"
[directories.people]
url = "https://crowd.example.org/crowd"
application = "crowdsync"
[sources.acme]
kind = "scim"
url = "https://idp.example.org/scim/v2"
directory = "people"
"""
KINDS = "entra, google, idcs, keycloak, okta, onelogin, push, scim"
FILE = "crowdsync.toml"
SECRET = "a secret never stands in this file; put it into an environment variable and write "

CONFIGURATION: dict[str, tuple[str, str, str]] = {
    "a setting": ("url = \"https://idp", "ulr = \"https://idp", "sources.acme.url: is missing; add it (Base of the SCIM endpoint, e.g. https://idp.example.org/scim/v2); sources.acme.ulr: there is no such setting; did you mean 'url'?"),
    "a section": ("[sources.acme]", "[source.acme]", "sources: is missing; add it; source: there is no such setting; did you mean 'sources'?"),
    "a kind": ('"scim"', '"octa"', f"sources.acme: kind: 'octa' is no kind of provider; did you mean 'okta'? There are {KINDS}"),
    "another name of a kind": ('"scim"', '"azure"', f"sources.acme: kind: 'azure' is no kind of provider; did you mean 'entra'? There are {KINDS}"),
    "no kind": ('kind = "scim"', "", f"sources.acme: kind is missing, which says which provider this is; set it to one of {KINDS}"),
    "a directory": ('directory = "people"', 'directory = "peple"', "sources.acme.directory: is none of people; did you mean 'people'?"),
    "a password": ('application = "crowdsync"', 'application = "x"\npassword = "hunter2"', f'directories.people.password: {SECRET}password_env = "THE_VARIABLE", or into a file and write password_file = "its path"'),
    "a token": ('kind = "scim"', 'kind = "scim"\ntoken = "hunter2"', f'sources.acme.token: {SECRET}token_env = "THE_VARIABLE", or into a file and write token_file = "its path"'),
    "a secret": ('kind = "scim"', 'kind = "scim"\nsecret = "hunter2"', f'sources.acme.secret: {SECRET}token_env = "THE_VARIABLE", or into a file and write token_file = "its path"'),
    "a number in words": ('application = "crowdsync"', 'application = "x"\npage_size = "many"', "directories.people.page_size: must be a whole number"),
    "a number that is too large": ('application = "crowdsync"', 'application = "x"\nconcurrency = 900', "directories.people.concurrency: must be at most 64"),
    "a choice": ('application = "crowdsync"', 'application = "x"\nbusy = "skipp"', "directories.people.busy: must be 'wait' or 'skip'; did you mean 'skip'?"),
    "no quotes": ('kind = "scim"', "kind = scim", "is not TOML: Invalid value (at line 7, column 8); correct it there"),
    "a bracket": ("[sources.acme]", "[sources.acme", "is not TOML: Expected ']' at the end of a table declaration (at line 6, column 14); correct it there"),
}  # fmt: skip
POLICY: dict[str, tuple[str, str]] = {
    "a section": ("usernamse.case = 'keep'", "usernamse: there is no such setting; did you mean 'usernames'?"),
    "a field": ("usernames.kase = 'keep'", "usernames.kase: there is no such setting; did you mean 'case'?"),
    "a field of another section": ("percent = 5", "percent: there is no such setting; check its spelling, or remove it"),
    "a field one section up": ("exclude_groups = ['x']", "exclude_groups: there is no such setting here; did you mean scope.exclude_groups?"),
    "a value": ("leavers.deleted = 'deactivat'", "leavers.deleted: must be 'deactivate', 'take_groups', 'deactivate_and_take_groups', 'delete' or 'nothing'; did you mean 'deactivate'?"),
    "a list": ("scope.groups = 'jira-*'", "scope.groups: must be a list"),
    "yes": ("scope.members_only = 'perhaps'", "scope.members_only: must be true or false"),
}  # fmt: skip
TYPED: dict[str, tuple[str, str]] = {
    "a command": ("pln", "crowdsync has no command 'pln'; did you mean 'plan'?"),
    "another word": ("preview", "crowdsync has no command 'preview'; did you mean 'plan'?"),
    "nothing like it": ("zzz", "crowdsync has no command 'zzz'; see crowdsync --help"),
    "a command of a group": ("links sho acme", "crowdsync links has no command 'sho'; did you mean 'show'?"),
    "an option": ("sync --dry-rum", "crowdsync sync has no option --dry-rum; did you mean '--dry-run'?"),
    "an option of the program": ("--versio", "crowdsync has no option --versio; did you mean '--version'?"),
    "no such option": ("sync --idp okta", "crowdsync sync has no option --idp; see crowdsync sync --help"),
    "no number": ("apply seven", "crowdsync apply: PLAN: 'seven' is no whole number; write one"),
    "an option's number": ("runs --limit x", "crowdsync runs: --limit, -n: 'x' is no whole number; write one"),
    "out of bounds": ("demo --people 3", "crowdsync demo: --people: 3 must be at least 10"),
    "nothing": ("apply", "crowdsync apply: the argument PLAN is missing; see crowdsync apply --help"),
    "no reason": ("approve 3", "crowdsync approve: the option --reason is missing; see crowdsync approve --help"),
    "one word too many": ("plan acme typo", "crowdsync plan: 'typo' is one word too many; leave it out, or see crowdsync plan --help"),
    "both forms": ("runs --json --csv", "--json and --csv exclude each other; keep one"),
    "a form of a plan that is made": ("plan --json", "--json and --csv go with --show, which shows a stored plan; add its number"),
    "a source": ("plan acmee", f"{FILE}: no source is called 'acmee'; [sources] has acme; did you mean 'acme'?"),
    "a source that is nothing like it": ("check okta", f"{FILE}: no source is called 'okta'; [sources] has acme: name one of these, or add it"),
    "a directory": ("react peple", "'peple' is none of the directories people; did you mean 'people'?"),
    "links of no source": ("links show okta", f"{FILE}: no source is called 'okta'; [sources] has acme: name one of these, or add it"),
    "snapshots": ("snapshots --of acme", "--of: 'acme' is none of source:acme, directory:people; did you mean 'source:acme'?"),
    "a plan that is not there": ("plan --show 77", "There is no plan 77; `crowdsync plans` lists them."),
    "to carry it out": ("apply 77", "There is no plan 77; `crowdsync plans` lists them."),
    "a kind": ("links show acme --kind users", "--kind: 'users' is neither user nor group; did you mean 'user'?"),
    "a provider": ("demo --idp octa", "--idp: 'octa' is none of entra, google, idcs, keycloak, okta, onelogin, scim; did you mean 'okta'?"),
    "no password": ("sync", "directory.password: the environment variable CROWDSYNC_CROWD_PASSWORD is not set; set it to the secret"),
    "never read": ("explain acme ann", "acme was never read: run `crowdsync plan acme` first"),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("CROWDSYNC_CONFIG", "CROWDSYNC_CROWD_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CROWDSYNC_SOURCE_TOKEN", "x")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    return tmp_path


def test_the_good_one_is_good(here: Path) -> None:
    (here / FILE).write_text(GOOD, encoding="utf-8")
    assert policy_of(load(), "acme")


@pytest.mark.parametrize("name", CONFIGURATION)
def test_in_the_configuration(here: Path, name: str) -> None:
    before, after, says = CONFIGURATION[name]
    assert GOOD.count(before) == 1
    (here / FILE).write_text(GOOD.replace(before, after).lstrip("\n"), encoding="utf-8")
    with pytest.raises(ConfigurationError) as told:
        load()
    assert re.sub(r"^crowdsync.toml:? ", "", str(told.value)) == says
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("name", POLICY)
def test_in_the_policy(here: Path, name: str) -> None:
    text, says = POLICY[name]
    (here / FILE).write_text(f"{GOOD}[sources.acme.policy]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as told:
        policy_of(load(), "acme")
    assert str(told.value) == f"{FILE}: sources.acme.policy.{says}"


@pytest.mark.parametrize("name", TYPED)
def test_on_the_command_line(here: Path, name: str) -> None:
    (here / FILE).write_text(GOOD, encoding="utf-8")
    line, says = TYPED[name]
    answer = CliRunner().invoke(app, line.split())
    assert answer.stderr.splitlines() == [f"error  {says}"]
    assert answer.exit_code == terminal.WRONG
    assert not answer.stdout


def test_in_the_wrong_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = "it with --config or $CROWDSYNC_CONFIG, or write one (see the README)"
    below = here / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    with pytest.raises(ConfigurationError) as told:
        load()
    assert str(told.value) == f"{FILE} does not exist in {below}; go to the folder that has it, or name {says}"
    (here / FILE).write_text(GOOD, encoding="utf-8")
    with pytest.raises(ConfigurationError) as told:
        load()
    assert str(told.value) == f"{FILE} does not exist in {below}; there is {here / FILE}: go there, or name {says}"


def test_a_secret_in_place_of_the_variables_name_is_not_repeated(here: Path) -> None:
    text = GOOD.replace('application = "crowdsync"', 'application = "x"\npassword_env = "hunter-2!"')
    (here / FILE).write_text(text, encoding="utf-8")
    answer = CliRunner().invoke(app, ["sync"])
    assert answer.stderr == (
        "error  directory.password: password_env holds no name of an environment variable; write the variable's name "
        "there, and the secret into the variable\n"
    )


def test_who_is_meant_is_found_fast_among_many() -> None:
    known = [f"person.{n}" for n in range(30_000)]
    assert nearest("person.299990", known)[0] == "person.29999"
    assert nearest("PERSON.7", known[:100], 1) == ["person.7"]
    assert nearest("zzz", known) == []
