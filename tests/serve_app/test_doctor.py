"""``limner doctor``: what it says of machines, and which models fit them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from core.machine import Gpu, Machine
from core.settings import AppSettings, PipelineSettings
from serve_app import doctor
from serve_app.cli import main
from tests.tiny_sdxl import build_tiny_sdxl

GIGABYTE = 1_000_000_000
LAPTOP = Machine(2, 24 * GIGABYTE, 20 * GIGABYTE, bfloat16=True)
OLD = Machine(1, 4 * GIGABYTE, 3 * GIGABYTE, bfloat16=False)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("LIMNER_MODEL", raising=False)


def told(
    machine: Machine, capsys: pytest.CaptureFixture[str], settings: AppSettings | None = None, **options: Any
) -> tuple[int, str]:
    asked = argparse.Namespace(**{"model": None, "json": False, **options})
    status = doctor.run(asked, settings or AppSettings(), machine)
    return status, capsys.readouterr().out


def test_a_machine_on_which_the_embedded_model_fits(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = told(LAPTOP, capsys)
    assert status == 0
    assert "2 cores, which compute in bfloat16" in said
    assert "24.0 GB, 20.0 GB free" in said
    assert "GPU        none" in said
    (row,) = [line for line in said.splitlines() if line.startswith("mini")]
    assert row.endswith("yes")
    (header,) = [line for line in said.splitlines() if line.startswith("MODEL")]
    for column in ("Denoiser", "TextToImage", "ImageToImage", "Inpaint", "Perception", "TOTAL"):
        assert column in header


def test_a_machine_that_is_too_small_is_told_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = told(OLD, capsys)
    assert status == 1
    assert "1 core, which do not compute in bfloat16" in said
    (row,) = [line for line in said.splitlines() if line.startswith("mini")]
    assert "no: lacks" in row
    assert row.endswith("GB of memory")


def test_every_model_is_judged_and_the_chosen_one_decides(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = f"path:{build_tiny_sdxl(tmp_path / 'tiny')}"
    status, said = told(LAPTOP, capsys, model=model, json=True)
    assert status == 0
    found = json.loads(said)
    assert [verdict["model"] for verdict in found["models"]] == ["mini", model]
    assert found["machine"]["num_cores"] == 2
    for verdict in found["models"]:
        assert verdict["fits"]
        total = sum(each["count"] * each["host_bytes"] for each in verdict["deployments"])
        assert 0 < total < verdict["host_bytes"]


def test_replicas_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    many = AppSettings(text_to_image=PipelineSettings(num_replicas=40))
    status, _ = told(LAPTOP, capsys, many)
    assert status == 1


@pytest.mark.parametrize(
    ("free", "fits"),
    [((24,), True), ((3.0, 3.0), True), ((0.6, 0.6), False), ((0.4, 0.4, 0.4, 24), True), ((), False)],
)
def test_a_replica_is_on_one_gpu(free: tuple[float, ...], fits: bool) -> None:
    cards = tuple(Gpu("card", 24 * GIGABYTE, round(room * GIGABYTE), 8.6) for room in free)
    verdict = doctor.judge(
        "mini", AppSettings(use_gpu=True), Machine(8, 64 * GIGABYTE, 60 * GIGABYTE, True, cards)
    )
    assert verdict["fits"] is fits, verdict
    assert bool(verdict["lacks"]) is not fits


def test_a_gpu_without_bfloat16_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    card = Gpu("Tesla T4", 16 * GIGABYTE, 15 * GIGABYTE, 7.5)
    _, said = told(Machine(4, 32 * GIGABYTE, 30 * GIGABYTE, True, (card,)), capsys, AppSettings(use_gpu=True))
    assert "Tesla T4, 16.0 GB, 15.0 GB free, float16 only" in said
    assert "GPU memory by deployment, use_gpu: true" in said


def test_a_model_that_is_not_there_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(argparse.Namespace(model="sdxl-base", json=False), AppSettings(), LAPTOP) == 1
    assert "Run `limner weights pull sdxl-base`" in capsys.readouterr().err


def test_the_command_looks_at_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    (mini,) = found["models"]
    assert status == (0 if mini["fits"] else 1)
    assert found["machine"]["total_bytes"] > GIGABYTE
