"""A network is loaded once: no second copy of it is ever in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from tests.tiny_family import build_tiny_family
from weights import convert, loading
from weights.errors import BrokenWeights

_LARGE: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "block_out_channels": [320, 640],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 1024,
    "attention_head_dim": 8,
}


def write_large_unet(folder: Path) -> int:
    """A UNet of some hundred megabytes in float16, its values normal; returns their bytes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_LARGE))
    shapes = convert.expected_shapes("unet", _LARGE)
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    some = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32).astype(np.float16).tobytes()
    with (folder / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for first in range(0, offset, len(some)):
            file.write(some[: offset - first])
    return offset


def test_no_second_copy_is_made_whatever_the_precision(tmp_path: Path) -> None:
    num_bytes = write_large_unet(tmp_path / "unet")
    assert num_bytes > 150_000_000
    ran = subprocess.run(
        [sys.executable, "-m", "tests.weights.loading_memory", str(tmp_path / "unet")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    peaks = json.loads(ran.stdout.splitlines()[-1])
    for name in ("float16", "bfloat16"):
        assert peaks[name] < 1.4 * num_bytes, peaks
    # What would be seen of a second copy.
    assert peaks["float16 by way of float32"] > 2 * num_bytes, peaks


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("tiny"))


def test_the_network_is_the_one_that_diffusers_loads(tiny: Path) -> None:
    expected = UNet2DConditionModel.from_pretrained(tiny / "unet").eval()
    loaded = loading.load_unet(tiny / "unet", torch.float32)
    sample, context = torch.ones(2, 4, 8, 8), torch.ones(2, 5, 32)
    with torch.no_grad():
        assert torch.equal(loaded(sample, 3, context).sample, expected(sample, 3, context).sample)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_without_a_device_there_are_shapes_alone(tiny: Path) -> None:
    empty = loading.load_unet(tiny / "unet", torch.bfloat16, "meta")
    assert {(each.device.type, each.dtype) for each in empty.parameters()} == {("meta", torch.bfloat16)}


def test_weights_in_several_files_are_read(tiny: Path, tmp_path: Path) -> None:
    network = UNet2DConditionModel.from_pretrained(tiny / "unet")
    network.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    loaded = loading.load_unet(tmp_path / "unet", torch.float32).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("drop", "The unet in .* lacks 1 of"),
        ("add", "has no place for 1 of"),
        ("reshape", "has another shape for 1 of"),
        ("cast", "has values of type I64"),
        ("remove", "There are no weights in"),
        ("cut", "is truncated"),
    ],
)
def test_files_that_do_not_fit_are_refused(change: str, message: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    UNet2DConditionModel.from_pretrained(tiny / "unet").save_pretrained(folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    if change == "drop":
        del tensors["conv_in.bias"]
    elif change == "add":
        tensors["conv_in.scale"] = torch.zeros(3)
    elif change == "reshape":
        tensors["conv_in.bias"] = torch.zeros(3)
    elif change == "cast":
        tensors["conv_in.bias"] = tensors["conv_in.bias"].long()
    save_file(tensors, path)
    if change == "remove":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BrokenWeights, match=message):
        loading.load_unet(folder, torch.float32)
