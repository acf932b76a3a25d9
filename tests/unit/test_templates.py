"""Templates: no name becomes markup in any of them, an admin's take the place of ours one by one, and a broken one
loses nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from connectors.model import held_frame
from connectors.store.overview import DirectoryState, LastRun, OpenPlan, Overview, Pause, SourceState
from tasks.decide.guard import Finding, Verdict
from tasks.tell import dashboard, render, templates
from tasks.tell.events import tame
from tasks.tell.report import Report

NAMES = (
    "[x](http://h)",
    "![x](http://h/p.png)",
    "<img src=x onerror=alert(1)>",
    "<!channel>",
    "a|b",
    "|",
    "**x**",
    "__x__",
    "~x~",
    "~~x~~",
    "`x`",
    "```",
    "# x",
    "- x",
    "1. x",
    "> x",
    "---",
    "a\n\n# b",
    "a\n| b | c |",
    "www.h.example",
    "https://h.example/x",
    "kim@h.example",
    "<https://h>",
    "&lt;b&gt;",
    "\\",
    "{{ 7 * 7 }}",
    "{% raw %}",
)
MARKDOWN = MarkdownIt("commonmark").enable("strikethrough").enable("table")
OPERATION = {"seq": 1, "kind": "membership_add", "record": "{}", "before": "{}", "state": "failed"}


def report(name: str) -> Report:
    """One with this name wherever a name may stand."""
    rows = held_frame([("user", "1", name, name, name, "disabled"), ("user", "2", name, name, name, "")])
    operations = pd.DataFrame([OPERATION | dict.fromkeys(("name", "target", "reason", "note"), name)] * 2)
    words: dict[str, Any] = dict.fromkeys(("read", "why", "standing"), name)
    words |= dict.fromkeys(("impact", "refusals", "asks", "agreed", "forced", "loud", "remarks"), (name, name))
    return Report(
        *("run", name, name, name, 7),
        **words,
        planned={"user_create": 1},
        held=rows,
        warnings=rows,
        shielded=rows.assign(account=name),
        lasting=rows.assign(runs=4, since=pd.Timestamp("2026-11-23T12:00Z")),
        failed=operations,
        reported=operations,
        sizes={name: (1, 2, 3)},
        seconds={name: 1.0},
        orphans=3,
    )


def standing(name: str) -> Overview:
    """Everything, with this name wherever one may stand, and something to see to."""
    now = datetime(2026, 11, 30, tzinfo=UTC)
    last = LastRun("failed", now, now, name, (name,), "")
    pause = Pause(3, now, now, name)
    source = SourceState(name, last=last, plans=(OpenPlan(7, "waiting", name, now),), quarantine=pause)
    return Overview(now, (DirectoryState(name, (source,)),))


def pages(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every template for pages, with this name wherever a name may stand."""
    monkeypatch.setattr(render, "impact_lines", lambda _: [name] * 5)
    plan: Any = SimpleNamespace(
        operations=pd.DataFrame({"kind": ["user_create"] * 300}),
        digest="abc",
        withheld={"user_delete": 1},
        counts=lambda: {"user_create": 2, "user_deactivate": 1},
    )
    verdict = Verdict((name,), (Finding(name), Finding(name)))
    stored: Any = SimpleNamespace(number=7, plan=plan, verdict=verdict, impact=None, link="/artifacts/artifact/1")
    impact: Any = SimpleNamespace(past={"user_create": (2, 3)})
    rows = [{"source": name, "what": name, "why": "everybody is read"}, {"source": name, "what": "missing", "why": ""}]
    return {
        "report.md": render.report_markdown(report(name), folder),
        "card.md": render.report_card(report(name), folder),
        "plan.md": render.plan_markdown(plan, 7, verdict, impact, folder),
        "question.md": render.question_markdown(stored, 24, folder),
        "failed.md": render.failure_markdown(name, name, name, "do", wrote=True, folder=folder),
        "react.md": render.batch_markdown(name, {"error": name, "held": 3, "outcomes": {"done": 1}}, folder),
        "subscriptions.md": render.subscriptions_markdown(rows, folder),
        "started.md": render.started_markdown([{"what": "started"}], folder),
        "status.md": dashboard.markdown(standing(name), name, folder),
        "link.md": render.link_markdown(name, "http://ui/runs"),
        "broken.md": templates.render("broken.md", dict.fromkeys(("name", "folder", "why"), name)),
    }


def structure(markdown: str) -> list[str]:
    """The tags of a page, in their order."""
    return re.findall(r"</?\w+", MARKDOWN.render(markdown))


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_markup_in_any_template(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, made = pages("x", "", monkeypatch), pages(name, "", monkeypatch)
    assert set(made) | {"impact.md"} == {one for one in templates.NAMES if one.endswith(".md")}
    for template, text in made.items():
        assert structure(text) == structure(plain[template]), template
        assert len(re.findall(r"(?<!\\)\|", text)) == len(re.findall(r"(?<!\\)\|", plain[template])), template
        # (In Prefect's page, an address becomes a link by itself.)
        assert not re.search(r"(?<!\\)://h|www\.h|[\w]@h", text.replace("](http://ui", "")), template


def test_ours_are_taken_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = pages("ann", "", monkeypatch)
    (tmp_path / "report.md").write_text("## {{ source }}\n{% for line in impact %}{{ line }};{% endfor %}")
    (tmp_path / "impact.md").write_text("see our wiki")
    made = pages("ann|b", str(tmp_path), monkeypatch)
    assert made["report.md"] == "## ann\\|b\nann\\|b;ann\\|b;"
    assert "see our wiki" in made["plan.md"]
    assert pages("ann", str(tmp_path), monkeypatch)["failed.md"] == ours["failed.md"]
    (tmp_path / "report.md").write_text("changed")
    assert render.report_markdown(report("ann"), str(tmp_path)) == "changed", "without a restart"


BROKEN = {
    "{% if %}": "line 1",
    "\n{{ nobody }}": "'nobody' is undefined",
    "{{ held.rows[0].reason.__class__ }}": "unsafe",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ source|safe|urlize }}{{ 1 / 0 }}": "division by zero",
    "{% include 'nothing.md' %}": "nothing.md",
    "{% include 'report.md' %}": "recursion",
    "{{ range(10000000) | list }}": "Range too big",
    "{{ impact.append(source) }}": "unsafe",
    "\udcff": "utf-8",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_template_loses_nothing_and_is_named(text: str, tmp_path: Path) -> None:
    whole = report("ann")
    (tmp_path / "report.md").write_bytes(text.encode("utf-8", "surrogateescape"))
    made = render.report_markdown(whole, str(tmp_path))
    ours, _, note = made.rpartition("\n\n")
    assert ours == render.report_markdown(whole)
    assert "report.md" in note
    assert BROKEN[text] in note.replace("\\", "")


def test_what_a_filter_calls_safe_is_not(tmp_path: Path) -> None:
    for text in ("{{ why|safe }}", "{{ why|e }}", "{{ why|urlize }}", "{% set x %}{{ why }}{% endset %}{{ x }}"):
        (tmp_path / "report.md").write_text(text)
        made = render.report_markdown(replace(report("x"), why="[a](http://h) <b>"), str(tmp_path))
        assert structure(made) == ["<p", "</p"], made


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "is not there" in render.report_markdown(report("ann"), str(tmp_path / "none"))
    assert "is not there" in templates.faults(str(tmp_path / "none"))[0]


def test_what_is_wrong_shows_before(tmp_path: Path) -> None:
    assert templates.faults("") == templates.faults(str(tmp_path)) == []
    (tmp_path / "reprot.md").write_text("x")
    (tmp_path / "plan.md").write_text("{% for %}")
    (tmp_path / "card.md").write_text("{{ status }}")
    found = templates.faults(str(tmp_path))
    assert [Path(one.partition(":")[0]).name for one in found] == ["plan.md", "reprot.md"]


MESSAGES = [name for name in templates.NAMES if name.endswith(".txt")]


@pytest.mark.parametrize("template", MESSAGES)
def test_messages_say_what_happened_and_hold_no_markup_of_others(template: str, tmp_path: Path) -> None:
    from prefect.server.utilities.user_templates import render_user_template_sync, validate_user_template

    payload = {"plan": 7, "asks": list(NAMES), "refusals": list(NAMES), "headlines": list(NAMES), "error": NAMES[2]}
    context = {
        "event": {"payload": {"source": "acme", **tame(payload)}},
        "flow_run": {"name": "acme sync", "state": {"name": "Failed", "message": "see [x](http://h) <b>"}},
    }
    subject, body, fault = templates.message(template, str(tmp_path), validate_user_template)
    assert not fault
    text = render_user_template_sync(subject, context) + render_user_template_sync(
        body.replace("flow_run|ui_url", "'http://ui'"), context
    )
    assert text.startswith("crowdsync: ")
    assert not re.search(r"[<>]|\]\(", text)

    (tmp_path / template).write_text("ours\n{{ event.payload.source }}")
    assert templates.message(template, str(tmp_path), validate_user_template)[0] == "ours"
    for broken in ("only a subject", "a\n{% for %}", ""):
        (tmp_path / template).write_text(broken)
        again, _, fault = templates.message(template, str(tmp_path), validate_user_template)
        assert again == subject
        assert template in fault
