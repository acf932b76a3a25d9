"""An admin at the Prefect UI, in chromium: the preview from its form, its plan, a sync that asks, the decision; and
what follows in real time.

Everything is what `crowdsync up` starts. Run it with `make test-browser`; screenshots are left in `.cache/screenshots`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
CROWDSYNC = Path(sys.executable).with_name("crowdsync")
SCREENSHOTS = ROOT / ".cache" / "screenshots"
PATIENCE = 180_000
"""Milliseconds: a worker needs some ten seconds for each run, and a busy machine more."""


@dataclass(frozen=True, slots=True)
class Place:
    """What `crowdsync up` started."""

    ui: str
    crowd: str
    idp: str
    config: Path

    def api(self, method: str, path: str, body: Any) -> Any:
        """One call of Prefect's API; again where its database is busy (503), as its own clients do."""
        asked = urllib.request.Request(
            f"{self.ui}/api{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        for left in range(20, -1, -1):
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not left:
                    raise
                time.sleep(1)
        raise AssertionError("unreachable")

    def command(self, *words: str) -> str:
        """What a command of `crowdsync` says, as in the terminal that `up` names."""
        env = str(self.config.parent / "env")
        done = subprocess.run(
            ["/bin/sh", "-c", '. "$0"; COLUMNS=200 exec "$@"', env, CROWDSYNC, *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 5), done.stdout + done.stderr  # (5: somebody is held)
        return done.stdout

    def people(self) -> set[str]:
        """The active accounts of Crowd, asked for as an application asks."""
        url = f"{self.crowd}/rest/usermanagement/1/search?entity-type=user&expand=user&max-results=1000"
        login = base64.b64encode(b"crowdsync:sandbox").decode()
        headers = {"Authorization": f"Basic {login}", "Accept": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return {user["name"] for user in json.load(answer)["users"] if user["active"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("up") / "demo"
    with (home.parent / "up.log").open("w+") as log:
        up = subprocess.Popen(
            [CROWDSYNC, "up", "--people", "40", "--home", home, "--port", "4252"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "200"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 240
            said = ""
            while "Ctrl-C" not in said:
                assert up.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.5)
                log.seek(0)
                said = log.read()
            crowd, idp = re.search(r"Crowd +(http\S+)", said), re.search(r"IdP +(http\S+)", said)
            assert crowd is not None
            assert idp is not None
            config = home / "crowdsync.toml"
            always = '\n[sources.acme.policy.approval]\nwhen = "always"\n'
            config.write_text(config.read_text() + always)
            made = Place("http://127.0.0.1:4252", crowd[1], idp[1], config)
            every = made.api("POST", "/deployments/filter", {})
            scheduled = next(deployment for deployment in every if deployment["name"] == "sync-all")
            made.api(
                "PATCH", f"/deployments/{scheduled['id']}", {"paused": True}
            )  # a run of its own would come between
            yield made
        finally:
            up.terminate()
            try:
                up.wait(60)
            except subprocess.TimeoutExpired:
                up.kill()
                up.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "this needs Debian's package chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


def shot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # the graph and the tables draw themselves
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def submit(page: Page, button: Locator, done: Callable[[], bool]) -> None:
    """Presses until it is done, as people do whom the page tells that something went wrong.

    On SQLite, Prefect's server answers a request that another one's transaction met with 503, and its page does not
    ask again.
    """
    deadline = time.monotonic() + PATIENCE / 1000
    while not done():
        assert time.monotonic() < deadline, page.locator("body").inner_text()
        if button.is_visible() and button.is_enabled():
            button.click()
        again = min(time.monotonic() + 15, deadline)
        while not done() and time.monotonic() < again:
            page.wait_for_timeout(300)


def start(page: Page, place: Place, deployment: str, **fields: str) -> None:
    """Fills a deployment's form in, starts the run, and opens its page."""
    page.goto(f"{place.ui}/deployments")
    page.locator(f"a.deployment-list__name[title={deployment}]").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    name = f"{deployment} {time.monotonic_ns()}"
    page.locator("input[type=text]").first.fill(name)
    for label, value in fields.items():
        page.locator(".p-label", has_text=re.compile(f"^{label}")).first.locator("textarea").fill(value)
    shot(page, f"{deployment}-form")
    made: list[Any] = []

    def done() -> bool:
        made[:] = place.api("POST", "/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return bool(made)

    submit(page, page.get_by_role("button", name="Submit"), done)
    page.goto(f"{place.ui}/runs/flow-run/{made[0]['id']}")


def state(page: Page, name: str) -> None:
    expect(page.locator(".page-heading, header").get_by_text(name).first).to_be_visible(timeout=PATIENCE)


def artifact(page: Page, key: str) -> str:
    """The text of one artifact of the run whose page is open."""
    run = page.url
    page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts", exact=True)).first.click()
    page.get_by_text(key).last.click()
    page.wait_for_url(re.compile(r"/artifacts/"))
    shot(page, key)
    text = page.locator("body").inner_text()
    page.goto(run)
    return text


def approve(page: Page, reason: str, picture: str) -> None:
    """Fills the open dialog of a run that asks in, and sends it."""
    dialog = page.get_by_role("dialog")
    for number, words in enumerate(("approve", "Kim Admin", reason)):
        dialog.locator("textarea").nth(number).fill(words)
    shot(page, picture)
    submit(page, dialog.get_by_role("button", name="Submit"), dialog.is_hidden)


def test_an_admin_previews_reads_decides_and_sees_crowd_changed(page: Page, place: Place) -> None:
    start(page, place, "preview")
    state(page, "Completed")
    shot(page, "preview-run")
    plan = artifact(page, "acme-plan")
    for words in ("Plan 1:", "create account", "put into group", "is new in scope", "What it does to people"):
        assert words in plan
    assert not place.people(), "a preview writes nothing"

    start(page, place, "sync")
    state(page, "Suspended")
    shot(page, "sync-suspended")
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("It asks because")
    expect(dialog).to_contain_text("create account")
    box = dialog.locator(".p-modal__card").bounding_box()
    assert box is not None
    assert box["y"] >= 0 and box["y"] + box["height"] <= 1000, "all of it is seen"  # noqa: PT018
    approve(page, "first load, looked at", picture="decision")
    state(page, "Completed")
    shot(page, "sync-done")
    report = artifact(page, "acme-report")
    assert "acme → crowd: applied" in report
    assert "Kim Admin: first load, looked at" in report
    assert len(place.people()) > 20
    said = place.command("decisions")
    assert "Kim Admin" in said
    assert "prefect" in said


def at_the_idp(page: Page, place: Place, row: str, press: str) -> str:
    """Disables or enables the first person of such a row on the page of the sandbox's identity provider: who."""
    page.goto(place.idp)
    found = page.locator(f"tr{row}").filter(has=page.get_by_role("button", name=press)).first
    name = found.locator("td").first.inner_text()
    found.get_by_role("button", name=press).click()
    return name


def followed(place: Place, done: Callable[[set[str]], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done(place.people()):
        assert time.monotonic() < deadline, "Crowd did not follow"
        time.sleep(0.2)


def finished(place: Place, name: str) -> dict[str, Any]:
    """The newest run of which the name begins so, once it is over, or waits for somebody."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        asked = {"flow_runs": {"name": {"like_": name}}, "sort": "START_TIME_DESC", "limit": 1}
        found: list[dict[str, Any]] = place.api("POST", "/flow_runs/filter", asked)
        if found and found[0]["state_type"] in ("COMPLETED", "PAUSED"):
            return found[0]
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_crowd_follows_in_real_time_also_while_a_plan_waits(page: Page, place: Place) -> None:
    always = '\n[sources.acme.policy.approval]\nwhen = "always"\n'
    place.config.write_text(place.config.read_text().replace(always, ""))
    assert "nothing to do" in place.command("sync")  # by the policy that counts from now on

    left = at_the_idp(page, place, "", "disable")
    followed(place, lambda people: left not in people)
    run = finished(place, "acme: ")
    page.goto(f"{place.ui}/runs")
    expect(page.get_by_text(run["name"]).first).to_be_visible(timeout=PATIENCE)
    shot(page, "runs-with-a-batch")
    page.goto(f"{place.ui}/runs/flow-run/{run['id']}")
    state(page, "Completed")
    shot(page, "batch")
    text = artifact(page, "acme-react-news")
    assert left in text

    start(page, place, "mass-leavers")
    state(page, "Completed")
    start(page, place, "sync")
    state(page, "Suspended")
    shot(page, "mass-leavers-suspended")
    suspended, before = page.url, place.people()
    back = at_the_idp(page, place, ".off", "enable")
    followed(place, lambda people: len(people - before) == 1 or back in before)
    page.goto(suspended)
    page.get_by_role("button", name="Resume").click()
    approve(page, "they left", picture="decision-after-others-changed")
    state(page, "Completed")
    shot(page, "mass-leavers-done")
    assert back in place.people()
    assert len(before - place.people()) > 5, "agreement holds though somebody else came back"
