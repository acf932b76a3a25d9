"""A newcomer who reads the README, and nothing else, comes from the sandbox's commands to a first sync of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from deployments.process import ending
from deployments.server import free_port

ROOT = Path(__file__).parents[2]


def blocks() -> list[tuple[str, str]]:
    """The blocks of the README's section, in order: language and text. Its ports may be taken here."""
    manual = (ROOT / "README.md").read_text(encoding="utf-8")
    section = manual.split("## A first sync of your own\n")[1].split("\n## ")[0]
    for port in ("8095", "8096"):
        assert port in section
        section = section.replace(port, str(free_port()))
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_readme_leads_to_a_first_sync(tmp_path: Path) -> None:
    (_, crowd), (_, idp), (language, config), (_, words) = blocks()
    assert language == "toml"
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CROWDSYNC_", "PREFECT_"))}
    path = f"{Path(sys.executable).parent}:{ours['PATH']}"
    env = {**ours, "PATH": path, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    with ExitStack() as stack:
        for number, command in enumerate((crowd, idp)):
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(ending(server))
            assert server.stdout is not None
            assert server.stdout.readline().startswith("listening on "), number
            while not (line := server.stdout.readline()).startswith("And where crowdsync runs"):
                assert line, "it says what belongs into crowdsync.toml"
                assert line.strip() in config or not re.match(r"\w+ = ", line), line
        (tmp_path / "crowdsync.toml").write_text(config, encoding="utf-8")
        ran = subprocess.run(
            ["bash", "-ec", words], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    assert ran.returncode == 0, ran.stdout
    checked, _, rest = ran.stdout.partition("plan 1")
    assert "✓" in checked
    assert "applied" in rest
    assert rest.count("nothing to do") == 1, "the last command finds nothing to do"
