"""Files of the real libraries are read right, and ours are loaded right by them."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load, save

from tests.weights.adapters.lora_scene import LoraScene
from weights.adapters import AdapterWeights, check_fits, read_adapter, write_kohya, write_peft
from weights.adapters.reading import SETTINGS_KEY


def assert_same(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for output, wanted in zip(outputs, expected, strict=True):
        assert (output - wanted).abs().max() <= 1e-5


def test_the_adapter_of_the_scene_changes_both_networks(scene: LoraScene) -> None:
    plain, adapted = scene.outputs(scene.plain()), scene.outputs(scene.pipeline)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(plain, adapted, strict=True))


@pytest.mark.parametrize("layout", ["peft", "old diffusers", "kohya"])
def test_a_file_of_the_libraries_acts_as_it_does_there(scene: LoraScene, layout: str) -> None:
    files = {"peft": scene.file, "old diffusers": scene.old_diffusers_file(), "kohya": scene.kohya_file()}
    weights = read_adapter(files[layout])
    check_fits(weights, f"path:{scene.family}")
    assert_same(scene.outputs(scene.merged(weights)), scene.outputs(scene.pipeline))


@pytest.mark.parametrize("layout", ["peft", "old diffusers", "kohya"])
def test_every_value_and_alpha_is_read_as_it_is(scene: LoraScene, layout: str) -> None:
    files = {"peft": scene.file, "old diffusers": scene.old_diffusers_file(), "kohya": scene.kohya_file()}
    weights = read_adapter(files[layout])
    for part, layers, state in (
        ("unet", weights.unet, scene.unet_state),
        ("text_encoder", weights.text_encoder, scene.text_state),
    ):
        assert {path: layer.alpha for path, layer in layers.items()} == (
            pytest.approx(scene.alphas(part)) if layout == "kohya" else scene.alphas(part)
        )
        assert len(state) == 2 * len(layers)
        for path, layer in layers.items():
            assert torch.equal(layer.down, state[f"{path}.lora_A.weight"])
            assert torch.equal(layer.up, state[f"{path}.lora_B.weight"])


def test_a_peft_file_of_ours_is_loaded_by_diffusers(scene: LoraScene) -> None:
    data = write_peft(read_adapter(scene.file))
    assert_same(scene.outputs(scene.loaded(data)), scene.outputs(scene.pipeline))


def test_the_tensors_of_a_peft_file_stay_as_they_were(scene: LoraScene) -> None:
    before, after = load(scene.file), load(write_peft(read_adapter(scene.file)))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_peft_file_of_ours_is_loaded_by_peft_itself(scene: LoraScene) -> None:
    weights = read_adapter(scene.file)
    data = write_peft(weights)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    settings = json.loads(header["__metadata__"][SETTINGS_KEY])
    pipeline = scene.plain()
    for part, network in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder)):
        own = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(part)}
        inject_adapter_in_model(LoraConfig(**own), network)
        state = {k.removeprefix(f"{part}."): v for k, v in load(data).items() if k.startswith(part)}
        assert not set_peft_model_state_dict(network, state).unexpected_keys
    assert_same(scene.outputs(pipeline), scene.outputs(scene.pipeline))


def test_a_kohya_file_of_ours_is_loaded_by_diffusers(scene: LoraScene) -> None:
    """With one alpha for all: of kohya files, diffusers drops those of single attention layers."""
    weights = read_adapter(scene.file)
    unet, text = (
        {path: layer._replace(alpha=5.0) for path, layer in layers.items()}
        for layers in (weights.unet, weights.text_encoder)
    )
    alike = AdapterWeights(unet, text)
    assert_same(scene.outputs(scene.loaded(write_kohya(alike))), scene.outputs(scene.merged(alike)))


def test_without_an_alpha_it_is_the_rank_as_in_diffusers(scene: LoraScene) -> None:
    bare = save(load(scene.file))
    assert_same(scene.outputs(scene.merged(read_adapter(bare))), scene.outputs(scene.loaded(bare)))
