from __future__ import annotations

from pathlib import Path

import pytest

from core.machine import Gpu, Machine
from core.settings import AppSettings, DenoiserSettings
from tests.tiny_sdxl import build_tiny_sdxl
from weights import footprint, registry
from weights.footprint import Need, needs_of, num_parameters

GIGABYTE = 1_000_000_000
MACHINE = Machine(2, 24 * GIGABYTE, 20 * GIGABYTE, bfloat16=True)


def by_name(needs: tuple[Need, ...]) -> dict[str, Need]:
    return {need.deployment: need for need in needs}


def test_parameters_are_those_of_the_networks() -> None:
    folder = registry.folder_of("mini")
    unet = registry.load_unet("mini")
    assert num_parameters(folder, "unet") == sum(parameter.numel() for parameter in unet.parameters())
    assert num_parameters(folder, "text_encoder_2") == 0


def test_the_embedded_model_fits_a_laptop() -> None:
    needs = by_name(needs_of("mini", AppSettings(), MACHINE))
    assert set(needs) == {
        "Denoiser", "TextToImage", "ImageToImage", "Inpaint", "Perception", "Router", "GenderSwap", "Trainer"
    }  # fmt: skip
    assert 0.5 * GIGABYTE < needs["Denoiser"].host_bytes < 1.5 * GIGABYTE
    host_bytes, gpu_bytes = footprint.total(tuple(needs.values()))
    assert 4 * GIGABYTE < host_bytes < 10 * GIGABYTE
    assert gpu_bytes == 0


def test_precision_and_rows_count() -> None:
    def denoiser(machine: Machine = MACHINE, **changes: object) -> int:
        settings = AppSettings(denoiser=DenoiserSettings.model_validate(changes))
        return by_name(needs_of("mini", settings, machine))["Denoiser"].host_bytes

    old = Machine(2, 24 * GIGABYTE, 20 * GIGABYTE, bfloat16=False)
    assert denoiser(precision="float32") == denoiser(old) > denoiser()
    assert denoiser(max_rows=32) > denoiser(max_rows=16)


def test_on_a_gpu_the_weights_are_there(tmp_path: Path) -> None:
    settings = AppSettings(use_gpu=True)
    machine = Machine(8, 64 * GIGABYTE, 60 * GIGABYTE, True, (Gpu("one", 24 * GIGABYTE, 23 * GIGABYTE, 8.6),))
    model_id = f"path:{build_tiny_sdxl(tmp_path)}"
    needs = by_name(needs_of(model_id, settings, machine))
    assert needs["Denoiser"].gpu_bytes > 0
    assert needs["Denoiser"].host_bytes == needs["Perception"].host_bytes
    assert needs["Router"].gpu_bytes == 0


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_every_part_of_two_encoders_counts(part: str, tmp_path: Path) -> None:
    assert num_parameters(build_tiny_sdxl(tmp_path), part) > 1_000
