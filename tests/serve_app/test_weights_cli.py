"""The ``limner weights`` commands as a user runs them: what they print and what they return."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from serve_app import weights_cli
from serve_app.cli import main
from tests.tiny_family import build_tiny_family
from weights.catalogue import read_manifest


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("LIMNER_MODEL", raising=False)
    read_manifest.cache_clear()
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


def states(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["weights", "list", "--json"]) == 0
    return {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}


def test_list_shows_state_size_licence_and_place(capsys: pytest.CaptureFixture[str], weights: Path) -> None:
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line}
    assert "embedded" in rows["mini"]
    assert "Apache-2.0" in rows["mini"]
    vision = rows["realistic-vision-v6"]
    assert "available" in vision
    assert "2,130 MB" in vision
    assert "CreativeML-OpenRAIL-M" in vision
    assert "SG161222/Realistic_Vision_V6.0_B1_noVAE" in vision
    assert "refused" in rows["powerpaint-v2-1"]
    assert str(weights) in printed


def test_a_folder_is_imported_verified_listed_and_removed(
    tiny: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "import", str(tiny), "--name", "tiny"]) == 0
    assert f"tiny: a base of family custom, installed in {weights / 'tiny'}" in capsys.readouterr().out
    assert states(capsys)["tiny"] == "installed"
    assert main(["weights", "verify", "tiny"]) == 0
    assert "files are as listed" in capsys.readouterr().out
    assert main(["weights", "remove", "tiny"]) == 0
    capsys.readouterr()
    assert "tiny" not in states(capsys)


def test_verify_without_names_checks_all_and_fails_for_one(
    tiny: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["weights", "import", str(tiny), "--name", "tiny"])
    (weights / "tiny" / "unet" / "config.json").write_text("{}")
    capsys.readouterr()
    assert main(["weights", "verify"]) == 1
    captured = capsys.readouterr()
    assert "mini: " in captured.out
    assert "unet/config.json has 2 bytes" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pull", "nothing"], "There is no model nothing to pull"),
        (["pull", "powerpaint-v2-1"], "published as a pickle only"),
        (["pull", "lcm-lora"], "HF_HUB_OFFLINE is set"),
        (["import", "/nowhere.safetensors"], "There is nothing at /nowhere.safetensors"),
        (["remove", "realistic-vision-v6"], "realistic-vision-v6 is not installed"),
        (["verify", "realistic-vision-v6"], "realistic-vision-v6 is not installed"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("limner: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_serve_says_what_to_run_for_a_model_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMNER_MODEL", "realistic-vision-v6")
    assert main(["serve"]) == 1
    assert "Run `limner weights pull realistic-vision-v6`" in capsys.readouterr().err


def test_serve_refuses_an_unknown_model_and_lists_the_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMNER_MODEL", "nothing")
    assert main(["serve"]) == 1
    assert "There is no model nothing. Known: mini" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "pulled"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_on_a_terminal_serve_offers_to_pull(
    answer: str, pulled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stdout", Terminal())
    assert not weights_cli.ensure_installed("lcm-lora")
    # There is no way to the hub in a test, so agreeing is seen by the attempt.
    assert ("HF_HUB_OFFLINE is set" in capsys.readouterr().err) == pulled


def test_the_embedded_model_is_always_there() -> None:
    assert weights_cli.ensure_installed("mini")


def test_a_model_for_inpainting_alone_is_not_served(
    tiny: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["weights", "import", str(tiny), "--name", "tiny"])
    description = weights / "tiny" / "model.json"
    description.write_text(description.read_text().replace('"role": "base"', '"role": "inpaint"'))
    assert not weights_cli.ensure_installed("tiny")
    assert "tiny completes other models (inpaint)" in capsys.readouterr().err
