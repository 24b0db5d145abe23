"""Loading what sees: a model's own CLIPSeg or a clear refusal, and preprocessing in both layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from weights import registry
from weights.errors import BrokenWeights, NotInstalled
from weights.perception import PART, PreprocessFacts, load_perception, preprocess_facts
from weights.recipe.evaluate_perception import found_masks, held_out_samples, iou
from weights.recipe.export_perception import write
from weights.recipe.parts import union
from weights.recipe.perception import build_clipseg
from weights.recipe.queries import Query, present_query
from weights.recipe.scenes import HELD_OUT_SEED
from weights.recipe.tokenizer import build_tokenizer, save_tokenizer, train_merges
from weights.recipe.train_vae import to_tensor

MODEL = """
[models.small]
path = "small"
family = "mini"
description = "For tests"
licence = "MIT"
default_size = 32
min_size = 16
max_size = 64
size_multiple = 8
max_clip_skip = 2
prediction_type = "v_prediction"
default_sampler = "dpmpp_2m"
default_num_inference_steps = 20
default_guidance_scale = 4.0
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    save_tokenizer(build_tokenizer(train_merges(["a red robot"] * 4, 600)), folder / "tokenizer")
    torch.manual_seed(0)
    write(build_clipseg(600, 598, 599, width=64, text_layers=1, layers=2, reduce=32), folder / PART)
    path = tmp_path / "manifest.toml"
    path.write_text(MODEL)
    registry.update("small", path)
    return path


def test_a_model_brings_its_network_tokenizer_and_preprocessing(manifest: Path) -> None:
    tokenizer, network, facts = load_perception("small", manifest)
    assert facts == PreprocessFacts(128, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    ids = tokenizer(["red robot"], return_tensors="pt").input_ids
    assert network(input_ids=ids, pixel_values=torch.zeros(1, 3, 128, 128)).logits.shape[-2:] == (128, 128)


def test_changed_weights_are_refused(manifest: Path) -> None:
    weights = manifest.parent / "small" / PART / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BrokenWeights, match="SHA-256"):
        load_perception("small", manifest)


def test_a_model_without_the_part_is_told_apart(manifest: Path) -> None:
    for path in (manifest.parent / "small" / PART).iterdir():
        path.unlink()
    registry.update("small", manifest)
    with pytest.raises(NotInstalled, match="has no clipseg"):
        load_perception("small", manifest)


@pytest.mark.parametrize("size", [224, {"height": 224, "width": 224}, {"shortest_edge": 224}])
def test_preprocessing_is_read_in_every_layout(tmp_path: Path, size: object) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": size, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}))
    assert preprocess_facts(path) == PreprocessFacts(224, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not json",
        '{"size": 224}',
        '{"size": {"height": 224, "width": 200}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}',
        '{"size": 224, "image_mean": [0], "image_std": [1]}',
    ],
)
def test_preprocessing_that_cannot_be_read_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "preprocessor_config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BrokenWeights):
        preprocess_facts(path)


def test_the_embedded_model_finds_the_parts_of_a_rendering() -> None:
    tokenizer, network, _ = load_perception("mini")
    (sample,) = held_out_samples(1, HELD_OUT_SEED + 5000)
    assert sample.scene.look
    words = [present_query(sample.scene, part) for part in ("face", "clothes", "background")]
    absent = Query("planet", "planet", ())
    (masks,) = found_masks(network, tokenizer, to_tensor(sample.picture[None]), [[*words, absent]])
    assert all(iou(mask, union(sample.bits, q.atoms)) > 0.75 for mask, q in zip(masks, words, strict=False))
    assert masks[-1].mean() < 0.01
