from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import InvalidRequest
from tests.weights.adapters.lora_scene import LoraScene
from weights import registry
from weights.adapters import AdapterWeights, LoraLayer, check_fits, read_adapter
from weights.adapters.fitting import layer_shapes

CROSS_KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def layer(out: int, into: int, *kernel: int) -> LoraLayer:
    return LoraLayer(torch.ones(4, into, *kernel), torch.ones(out, 4, *(1 for _ in kernel)), 4.0)


def of_every_layer(model_id: str) -> AdapterWeights:
    def layers(part: str) -> dict[str, LoraLayer]:
        return {path: layer(*shape) for path, shape in layer_shapes(model_id, part).items()}

    return AdapterWeights(layers("unet"), layers("text_encoder"))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_headers_tell_the_layers_of_the_network(part: str) -> None:
    network = registry.load_unet("mini") if part == "unet" else registry.load_text("mini")[1]
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    expected = {
        path: tuple(module.weight.shape)
        for path, module in network.named_modules()
        if isinstance(module, kinds)
    }
    assert layer_shapes("mini", part) == expected


def test_an_adapter_of_every_layer_fits_its_model_alone(tiny_family: Path) -> None:
    weights = of_every_layer("mini")
    fitted = check_fits(weights, "mini")
    assert (fitted.unet, fitted.text_encoder) == (weights.unet, weights.text_encoder)
    with pytest.raises(InvalidRequest) as refused:
        check_fits(weights, f"path:{tiny_family}")
    assert refused.value.field == "file"


def test_an_adapter_of_another_base_names_the_layer_its_shape_and_the_model(scene: LoraScene) -> None:
    weights = read_adapter(scene.file)
    text_only = replace(weights, unet={})
    with pytest.raises(InvalidRequest) as refused:
        check_fits(text_only, "mini")
    message = refused.value.message
    for word in ("text_encoder.encoder.layers.0.mlp.fc1", "[64, 32]", "[768, 192]", "model mini"):
        assert word in message
    assert (refused.value.field, refused.value.limit) == ("file", "mini")


@pytest.mark.parametrize(
    ("width", "family"), [(768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (2048, "SDXL")]
)
def test_known_families_are_recognised(width: int, family: str) -> None:
    with pytest.raises(InvalidRequest, match=f"It looks like one for {family}"):
        check_fits(AdapterWeights({CROSS_KEY: layer(128, width)}, {}), "mini")


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("unet", "down_blocks.9.attentions.0.proj_in"),
        ("unet", "conv_norm_out"),
        ("text_encoder", "embeddings.token_embedding"),
    ],
)
def test_a_layer_that_the_model_lacks_is_named(part: str, path: str) -> None:
    wrong = {path: layer(8, 8)}
    weights = AdapterWeights(wrong, {}) if part == "unet" else AdapterWeights({}, wrong)
    with pytest.raises(InvalidRequest, match=f"{part}.{path}.* no such layer"):
        check_fits(weights, "mini")


def test_a_kernel_of_another_size_does_not_fit() -> None:
    with pytest.raises(InvalidRequest, match=r"\[64, 4, 1, 1\]|\[64, 4\]"):
        check_fits(AdapterWeights({"conv_in": layer(64, 4, 1, 1)}, {}), "mini")


def test_linear_layers_and_pointwise_convolutions_are_one(tiny_family: Path) -> None:
    convolution = "down_blocks.1.attentions.0.proj_in"
    as_linear = AdapterWeights({convolution: layer(16, 16)}, {})
    as_convolution = AdapterWeights({f"{CROSS_KEY}": layer(16, 32, 1, 1)}, {})
    fitted = check_fits(as_linear, f"path:{tiny_family}").unet[convolution]
    assert (fitted.down.shape, fitted.up.shape) == ((4, 16, 1, 1), (16, 4, 1, 1))
    fitted = check_fits(as_convolution, f"path:{tiny_family}").unet[CROSS_KEY]
    assert (fitted.down.shape, fitted.up.shape) == ((4, 32), (16, 4))
