"""The `crowdsync` command as people meet it: what goes wrong says what, where and what to do; what goes well shows it.

Every case runs the real command line against a SCIM server and an emulated Crowd. Most run in this process; where the
process itself matters (its exit code, its two streams, how it ends), it is one of its own. With a Prefect server the
same commands are in test_approval.py and test_prefect.py.
"""

from __future__ import annotations

import http.server
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

import connectors.http
from deployments import terminal
from deployments.cli import app
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim

PASSWORD, TOKEN = "pass-of-crowd-7Qz", "token-of-acme-9Xk"
SECRETS = {"CROWDSYNC_CROWD_PASSWORD": PASSWORD, "CROWDSYNC_SOURCE_TOKEN": TOKEN}
FAILED, WRONG, REFUSED, PARTLY, UNHEEDED = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed (both streams, its lines), and its exit code."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def errors(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error")]


@dataclass(slots=True)
class Place:
    """A company and a Crowd, and the configurations that point at them."""

    home: Path
    crowd: sandbox_crowd.RunningCrowd
    scim: sandbox_scim.RunningScim
    page: str
    tls: str
    files: int = 0

    def config(self, change: str = "", *, policy: str = "", **settings: str) -> Path:
        """A configuration with a database of its own; `settings` replace store, crowd, scim, ca or secret names."""
        self.files += 1
        values = {
            "store": f"sqlite:///{self.home}/{self.files}.db",
            "crowd": self.crowd.url,
            "scim": self.scim.url,
            "more_crowd": "",
            "more_scim": "",
        } | settings
        text = (
            '[store]\nurl = "{store}"\nbusy = 0.3\n\n'
            '[directory]\nurl = "{crowd}"\napplication = "crowdsync"\n{more_crowd}\n\n'
            '[sources.acme]\nkind = "scim"\nurl = "{scim}"\n{more_scim}\n\n'
        ).format(**values)
        file = self.home / f"{self.files}.toml"
        file.write_text(change or f"{text}[sources.acme.policy]\n{policy}\n", encoding="utf-8")
        return file

    def run(self, config: Path | str, *arguments: str, width: int = 400, **environment: str | None) -> Answer:
        """One command, in this process."""
        terminal.console.width = width
        env: dict[str, str | None] = {**SECRETS, "COLUMNS": str(width), "CROWDSYNC_CONFIG": None, **environment}
        result = CliRunner().invoke(app, ["--config", str(config), *arguments], env=env, catch_exceptions=False)
        return Answer(result.exit_code, result.stdout, result.stderr)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """One command, in a process of its own."""
        env = {**os.environ, **SECRETS, **environment}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("crowdsync")), *arguments],
            env={name: value for name, value in env.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def ended(process: subprocess.Popen[str]) -> Answer:
    """What a process printed until it ended."""
    out, err = process.communicate(timeout=90)
    return Answer(process.returncode, out, err)


@contextmanager
def web_page(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that is no API: it answers everything with a page for people."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>Welcome</title><p>It works!</p>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Page)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once; how long they wait is tested elsewhere."""
    monkeypatch.setattr(connectors.http, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(connectors.http, "HIGHEST_WAIT", 0.01)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("commands")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)
        os.environ.pop("PREFECT_API_URL", None)
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        scim = stack.enter_context(sandbox_scim.prepared(users=40, groups=6, memberships=120, token=TOKEN))
        page = stack.enter_context(web_page())
        yield Place(home, crowd, scim, page, stack.enter_context(web_page(context)))


# --- what goes wrong --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrong:
    """A mistake: the configuration or environment that holds it, and what its message must say."""

    code: int
    says: tuple[str, ...]
    change: str = ""
    policy: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    arguments: tuple[str, ...] = ()


SETTINGS = {
    "unknown policy field": Wrong(
        WRONG,
        ("sources.acme.policy.usernames.kase", "no such setting", "did you mean 'case'"),
        policy='usernames.kase = "keep"',
    ),
    "impossible rules": Wrong(
        WRONG,
        ("sources.acme.policy", "leavers.deleted", "operations.user_delete"),
        policy='leavers.deleted = "delete"',
    ),
    "a privileged group that is none": Wrong(
        WRONG, ("protection.privileged_allowed", "'Staff'"), policy='protection.privileged_allowed = ["Staff"]'
    ),
    "a limit of nonsense": Wrong(
        WRONG, ("policy.limits.user_delete.percent", "100"), policy="limits.user_delete.percent = 250"
    ),
    "bad regular expression": Wrong(
        WRONG,
        ("usernames.rules.0.pattern", "'(a' is not an RE2 regular expression", "missing )", "correct it"),
        policy='usernames.rules = [{pattern = "(a", replacement = ""}]',
    ),
    "look-around": Wrong(WRONG, ("scope.groups.0", "RE2", "look-around"), policy='scope.groups = ["re:(?=x)y"]'),
    "unknown setting": Wrong(WRONG, ("directory.pasword", "no such"), settings=(("more_crowd", 'pasword = "x"'),)),
    "no directory": Wrong(
        WRONG, ("directory: is missing",), change='[sources.acme]\nkind = "scim"\nurl = "http://x"\n'
    ),
    "broken TOML": Wrong(WRONG, ("is not TOML", "line 2"), change="[store]\nurl = \n"),
    "an address that is none": Wrong(
        WRONG, ("sources.acme", "http:// or https://"), settings=(("scim", "idp.example.org/v2"),)
    ),
    "missing CA file": Wrong(
        WRONG,
        ("directory", "ca_file", "/nope.pem"),
        settings=(("crowd", "https://localhost:1/crowd"), ("more_crowd", 'ca_file = "/nope.pem"')),
    ),
    "no token": Wrong(
        WRONG,
        ("sources.acme.token", "CROWDSYNC_SOURCE_TOKEN", "set it"),
        environment=(("CROWDSYNC_SOURCE_TOKEN", None),),
    ),
    "no password": Wrong(
        WRONG, ("directory.password", "CROWDSYNC_CROWD_PASSWORD"), environment=(("CROWDSYNC_CROWD_PASSWORD", None),)
    ),
    "missing secret file": Wrong(
        WRONG, ("directory.password", "/nope/secret"), settings=(("more_crowd", 'password_file = "/nope/secret"'),)
    ),
    "unknown source": Wrong(WRONG, ("'nobody'", "[sources] has acme"), arguments=("nobody",)),
    "no folder for the database": Wrong(
        WRONG, ("/nope/x.db", "folder exists"), settings=(("store", "sqlite:////nope/x.db"),)
    ),
    "no PostgreSQL there": Wrong(
        WRONG,
        ("127.0.0.1:1/x", "refused", "server runs"),
        settings=(("store", "postgresql://me:geheim@127.0.0.1:1/x"),),
    ),
}
"""Seen before Prefect is started and before any call."""

TOKEN_WRONG, PASSWORD_WRONG = (("CROWDSYNC_SOURCE_TOKEN", "geheim"),), (("CROWDSYNC_CROWD_PASSWORD", "geheim"),)
SIDES = {
    "unreachable source": Wrong(
        FAILED,
        ("sources.acme", "127.0.0.1:{port}", "refuses connections", "server runs"),
        settings=(("scim", "{down}"),),
    ),
    "unreachable Crowd": Wrong(
        FAILED, ("directory", "127.0.0.1:{port}", "refuses connections"), settings=(("crowd", "{down}/crowd"),)
    ),
    "unknown host": Wrong(
        FAILED, ("directory", "crowd.invalid is not known", "DNS"), settings=(("crowd", "http://crowd.invalid/crowd"),)
    ),
    "wrong token": Wrong(WRONG, ("sources.acme", "{scim}", "401", "$CROWDSYNC_SOURCE_TOKEN"), environment=TOKEN_WRONG),
    "wrong password": Wrong(
        WRONG,
        ("{crowd}", "does not accept this application and password", "'crowdsync'", "$CROWDSYNC_CROWD_PASSWORD"),
        environment=PASSWORD_WRONG,
    ),
    "wrong base path of the source": Wrong(
        WRONG, ("sources.acme", "404", "SCIM root"), settings=(("scim", "{scim}/nothere"),)
    ),
    "wrong base path of Crowd": Wrong(WRONG, ("/jira/", "404", "context path"), settings=(("crowd", "{root}/jira"),)),
    "not Crowd": Wrong(WRONG, ("{page}", "not Crowd", "context path"), settings=(("crowd", "{page}/crowd"),)),
    "not SCIM": Wrong(
        WRONG, ("sources.acme.url", "{page}", "text/html", "leads to the API"), settings=(("scim", "{page}/scim"),)
    ),
    "certificate of Crowd": Wrong(
        WRONG, ("directory", "{tls}", "not trusted", "ca_file"), settings=(("crowd", "{tls}/crowd"),)
    ),
    "certificate of the source": Wrong(
        WRONG, ("sources.acme", "{tls}", "not trusted", "ca_file"), settings=(("scim", "{tls}"),)
    ),
    "no TLS there": Wrong(WRONG, ("does not speak TLS", "http://"), settings=(("crowd", "{https}/crowd"),)),
}
"""Seen when a side is called: by `check`, and by `sync` in the same words."""


def told(place: Place, command: str, wrong: Wrong) -> Answer:
    """Makes the mistake, and checks what every message about one must be."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    known = {
        "port": port,
        "down": f"http://127.0.0.1:{port}",
        "scim": place.scim.url,
        "crowd": place.crowd.url,
        "root": place.crowd.url.removesuffix("/crowd"),
        "https": place.crowd.url.removesuffix("/crowd").replace("http:", "https:"),
        "page": place.page,
        "tls": place.tls,
    }
    settings = {name: value.format(**known) for name, value in wrong.settings}
    config = place.config(wrong.change, policy=wrong.policy, **settings)
    place.crowd.reset_counts()
    environment: dict[str, Any] = dict(wrong.environment)
    answer = place.run(config, command, *wrong.arguments, **environment)
    print(f"{command}: exit {answer.code}: {answer.text}")
    assert answer.code == wrong.code, answer.text
    for words in wrong.says:
        assert words.format(**known) in answer.text
    clean(answer)
    assert place.crowd.counts()["writes"] == 0
    if command != "check":
        assert len(answer.errors) == 1
        assert not answer.out
    return answer


def clean(answer: Answer) -> None:
    """Neither a traceback nor a secret."""
    for never in ("Traceback", "stamina", PASSWORD, TOKEN, "geheim"):
        assert never not in answer.text


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_is_told_before_anything_starts(place: Place, name: str) -> None:
    answer = told(place, "sync", SETTINGS[name])
    if SETTINGS[name].code == WRONG and "{" not in str(SETTINGS[name].says) and "policy" in str(SETTINGS[name].says):
        assert f"/{place.files}.toml" in answer.text, "which file"


@pytest.mark.parametrize("name", SIDES)
def test_a_side_that_cannot_be_read_is_told_in_one_line(place: Place, name: str) -> None:
    told(place, "sync", SIDES[name])
    told(place, "check", SIDES[name])


def test_a_missing_configuration_is_told(place: Place) -> None:
    answer = place.run("/nope/crowdsync.toml", "sync")
    assert answer.code == WRONG
    assert "/nope/crowdsync.toml does not exist" in answer.errors[0]
    assert "--config" in answer.errors[0]


def test_a_token_that_expires_in_the_middle_is_told(place: Place) -> None:
    place.scim.faults({"kind": "status", "status": 401, "path": "/Groups", "times": 0})
    try:
        told(place, "sync", Wrong(WRONG, ("sources.acme", "401", "$CROWDSYNC_SOURCE_TOKEN")))
    finally:
        place.scim.faults()


@pytest.mark.parametrize("how", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_locked_database_is_told(place: Place, how: str) -> None:
    config = place.config()
    assert place.run(config, "runs").code == 0
    with sqlite3.connect(config.with_suffix(".db"), isolation_level=None) as holder:
        if how == "BEGIN EXCLUSIVE":
            holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute(how)
        answer = place.run(config, "sync")
    holder.close()
    assert answer.code == FAILED
    assert len(answer.errors) == 1
    assert config.with_suffix(".db").name in answer.errors[0]
    assert "try again" in answer.errors[0]
    clean(answer)
    assert place.run(config, "runs").code == 0


def test_a_database_of_another_version_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    config = place.config()
    assert place.run(config, "runs").code == 0
    from connectors.store import database

    real = database.revisions()
    monkeypatch.setattr(database, "revisions", lambda: [*real, "9000"])
    older = place.run(config, "sync")
    monkeypatch.undo()
    assert older.code == WRONG
    assert "this program wants 9000" in older.errors[0]
    assert "crowdsync database upgrade" in older.errors[0]
    with sqlite3.connect(config.with_suffix(".db")) as connection:
        connection.execute("UPDATE crowdsync_revision SET version_num = '9999'")
    connection.close()
    for command in (["sync"], ["runs"], ["database", "upgrade"]):
        unknown = place.run(config, *command)
        assert unknown.code == WRONG
        assert len(unknown.errors) == 1
        assert "which this program" in unknown.errors[0]


def test_what_is_asked_for_and_not_there_is_told(place: Place) -> None:
    config = place.config()
    for arguments in (["apply", "77"], ["plan", "--show", "77"], ["diff", "77", "78"]):
        answer = place.run(config, *arguments)
        assert answer.code == WRONG
        assert len(answer.errors) == 1
        assert "77" in answer.errors[0]
        assert "`crowdsync " in answer.errors[0], "where to look"


def test_prefect_that_does_not_answer_is_told(place: Place) -> None:
    """In processes of their own: Prefect reads its address when it is imported."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    cases = [
        place.start("-c", str(place.config()), "sync", PREFECT_API_URL=nobody, PREFECT_CLIENT_MAX_RETRIES="0"),
        place.start("-c", str(place.config(crowd=place.page)), "check"),
    ]
    prefect, check = map(ended, cases)
    assert prefect.code == FAILED, prefect.text
    assert len(prefect.errors) == 1
    assert nobody in prefect.errors[0]
    assert check.code == WRONG
    assert "✓ source acme" in check.out
    assert "✗ directory crowd" in check.out
    for answer in (prefect, check):
        clean(answer)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_run_that_is_killed_leaves_no_process_behind(place: Place, tmp_path: Path) -> None:
    """Without a Prefect server, and in the middle of writing; the next run says so."""
    place.crowd.clear()
    config = place.config(more_crowd="requests_per_second = 5\nconcurrency = 1")
    own = {"PREFECT_API_URL": "", "PREFECT_SERVER_DATABASE_CONNECTION_URL": "", "PREFECT_HOME": str(tmp_path)}

    def there() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(tmp_path).encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    killed = place.start("-c", str(config), "sync", **own)
    deadline = time.monotonic() + 120
    place.crowd.reset_counts()
    while not place.crowd.counts()["writes"]:
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline, there()
        time.sleep(0.1)
    assert len(there()) == 1, "it started no other process, such as a Prefect server"
    killed.kill()
    killed.communicate()
    while there():
        assert time.monotonic() < deadline, there()
        time.sleep(0.1)
    assert "running" in place.run(config, "runs").out
    assert place.run(config, "plan").code == 0
    said = place.run(config, "runs").out
    assert "running" not in said
    assert "interrupted" in said
    assert "was killed" in said
    place.crowd.clear()


# --- what goes well ---------------------------------------------------------------------------------


def test_the_good_ways(place: Place) -> None:
    """dry run, plan, apply, refused where a side moved, sync, and everything that looks back."""
    place.crowd.clear()
    config = place.config()

    def good(*arguments: str, code: int = 0, width: int = 80) -> Answer:
        place.crowd.reset_counts()
        answer = place.run(config, *arguments, width=width)
        print(answer.text)
        assert answer.code == code, answer.text
        long = [line for line in answer.out.splitlines() if len(line) > width]
        assert [line for line in long if not line.startswith("  crowdsync -c ")] == [], "but a command to be copied"
        clean(answer)
        return answer

    def writes() -> int:
        return int(place.crowd.counts()["writes"])

    assert "no runs yet" in good("runs").out
    checked = good("check").out
    assert "not tested" in checked
    assert "acme was never synced" in checked
    dry = good("sync", "--dry-run")
    assert "planned · plan 1" in dry.out
    assert "create account" in dry.out
    assert writes() == 0
    assert "plan 2" in good("plan").out
    assert writes() == 0
    assert "put into group" in good("plan", "--show", "2").out
    assert "written: " in good("apply", "2").out
    assert writes() > 100
    again = good("apply", "2", code=REFUSED)
    assert "applied already" in again.errors[0]
    assert writes() == 0
    moved = good("apply", "1", code=REFUSED)
    assert "no longer true" in moved.errors[0]
    assert "nothing is left to do" in moved.errors[0]
    assert writes() == 0
    assert "nothing to do" in good("sync").out
    assert writes() == 0
    assert "UTC: nothing to do" in good("check").out
    assert " apply 2" not in good("plan", "--show", "2").out

    place.scim.change(seed=1, joiners=2, leavers=1)
    assert "plan 3" in good("plan").out
    place.scim.change(seed=2, joiners=1)
    stale = good("apply", "3", code=REFUSED)
    assert "plan 4 takes its place" in stale.errors[0]
    assert writes() == 0
    assert "applied" in good("apply", "4").out
    assert writes() > 0

    assert len(good("plans").out.splitlines()) == 2 + 4
    runs = good("runs").out
    assert runs.count("  applied  ") == 2
    assert "applied already" not in runs, "it was refused before a run began"
    assert "no longer true" in " ".join(runs.split())
    taken = good("snapshots").out
    assert "source:acme" in taken
    assert "directory:crowd" in taken
    assert "users" in good("diff", "1", "15").out
    assert "the same" in good("diff", "1", "3").out


def test_limits_refuse_and_force_goes_past_them(place: Place) -> None:
    place.crowd.clear()
    place.crowd.load(users=[["vera", "V", "A", "Vera", "vera@x", True, {"crowdsync.id": ["okta:1"]}]], groups=[])
    config = place.config(policy="limits.user_create.absolute = 5")
    place.crowd.reset_counts()
    refused = place.run(config, "sync")
    assert refused.code == REFUSED
    assert "more than the 5 that limits.user_create" in refused.out
    assert "crowdsync approve" in refused.err
    assert place.crowd.counts()["writes"] == 0
    never = place.run(place.config(policy='limits.user_create.absolute = 5\napproval.when = "never"'), "sync")
    assert never.code == REFUSED
    assert "more than the 5 that limits.user_create" in never.errors[0]
    assert "--force" in never.errors[0]
    forced = place.run(config, "sync", "--force")
    assert forced.code == UNHEEDED, "vera is nobody's"
    assert "forced past" in forced.out
    assert "'okta' owns 1 accounts and 0 groups of crowd and is no source of it any more" in forced.out
    assert "crowdsync links move okta acme --by username" in forced.out


def test_who_is_held_for_long_is_told_and_ends_in_an_exit_code_of_its_own(place: Place) -> None:
    """Nothing is left to do, and yet not all is well; a preview counts no run, and says the same."""
    place.crowd.clear()
    config = place.config(policy="limits.held_runs = 2\nprotection.users = ['admin', 'a*']")
    assert place.run(config, "sync").code == 0
    for _ in range(2):
        assert place.run(config, "plan").code == 0, "it was held in one run that counts"
    again = place.run(config, "sync")
    assert again.code == UNHEEDED
    assert "nothing to do" in again.out
    assert "been held for 2 runs (since " in again.out
    assert " runs " in again.out
    assert "not all is well" in again.err
    assert place.run(config, "plan").code == UNHEEDED
    assert "been held for 2 runs" in place.run(config, "runs").out


def test_limits_count_what_runs_before_took_away(place: Place) -> None:
    """Two may go in a day: the third one waits, unless a person says so, and then the count begins anew."""
    place.crowd.clear()
    config = place.config(policy="limits.user_deactivate.absolute = 2\nlimits.held_runs = 99")
    assert place.run(config, "sync").code == 0
    place.scim.change(seed=3, leavers=2)
    assert place.run(config, "sync").code == 0
    place.scim.change(seed=4, leavers=1)
    waits = place.run(config, "sync")
    assert waits.code == REFUSED
    assert "(2 of them in the 24 hours before) is more than the 2 that limits.user_deactivate" in waits.out
    assert place.run(config, "sync", "--force").code == 0
    place.scim.change(seed=5, leavers=1)
    assert place.run(config, "sync").code == 0


def test_a_run_that_is_stopped_says_how_far_it_came(place: Place) -> None:
    """The right to add groups is missing in Crowd: seen when the first one is written."""
    try:
        place.crowd.configure(
            directories=[{"name": "people"}],
            applications=[
                {
                    "name": "crowdsync",
                    "password": PASSWORD,
                    "directories": [{"name": "people", "permissions": ["add-user", "modify-user"]}],
                }
            ],
        )
        config = place.config()
        stopped = place.run(config, "sync")
        print(stopped.text)
        assert stopped.code == PARTLY
        assert "stopped" in stopped.out
        assert len(stopped.errors) == 1
        assert "Grant" in stopped.errors[0]
        assert "run again" in stopped.errors[0]
        clean(stopped)
        assert "stopped" in place.run(config, "runs").out
    finally:
        place.crowd.configure(
            directories=[{"name": "people"}], applications=[{"name": "crowdsync", "password": PASSWORD}]
        )
