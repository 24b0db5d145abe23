"""What the README tells people to type exists; the curl commands themselves run in tests/e2e."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from serve_app.members import TextToImageRequest
from tests.readme import ROOT, commands, curls

README = (ROOT / "README.md").read_text("utf-8")


def test_a_newcomer_sees_a_picture_command_early() -> None:
    head = "\n".join(README.splitlines()[:30])
    assert "make serve" in head
    assert "curl" in head
    assert "![" in head
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [line for line in commands() if " -m " in line])
def test_modules_exist(command: str) -> None:
    found = re.search(r"-m ([\w.]+)", command)
    assert found is not None
    path = ROOT / found[1].replace(".", "/")
    assert path.with_suffix(".py").exists() or path.is_dir() or found[1] == "venv"


def bodies() -> list[str]:
    return [arguments[arguments.index("-d") + 1] for arguments in curls() if "-d" in arguments]


@pytest.mark.parametrize("body", bodies())
def test_request_bodies_are_valid(body: str) -> None:
    TextToImageRequest.model_validate(json.loads(body))


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
