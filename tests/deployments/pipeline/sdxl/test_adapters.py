"""LoRA files for Stable Diffusion XL in every layout: the UNet and both text encoders, against diffusers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save

from core.errors import InvalidRequest
from core.settings import PipelineSettings
from core.specs import AdapterUse
from core.types import SamplerName
from deployments.pipeline.adapter_cache import AdapterCache
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts, load_parts
from deployments.pipeline.text_to_image import TextToImagePipeline
from store.blobs import Blobs
from tests.adapter_files import put
from tests.deployments.pipeline.sdxl.references import generator, pictures, psnr_db, reference
from tests.deployments.pipeline.sdxl.test_equals_diffusers import DRAWN
from tests.replicas import Replicas
from weights.adapters import (
    AdapterWeights,
    check_fits,
    read_adapter,
    text_encoder_factors,
    write_kohya,
    write_peft,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

UNET = LoraConfig(
    r=4, lora_alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "linear_1"]
)
TEXT = LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1"])
NETWORKS = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT}


class Trained:
    """diffusers' pipeline with a random LoRA on all three networks, and what it saves of it."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.pipeline = reference(StableDiffusionXLPipeline, folder, DRAWN.sampler)
        states = {}
        for seed, (name, config) in enumerate(NETWORKS.items()):
            network = getattr(self.pipeline, name)
            network.add_adapter(config)
            noise = torch.Generator().manual_seed(seed)
            for path, parameter in network.named_parameters():
                if "lora_" in path:
                    torch.nn.init.normal_(parameter, std=0.2, generator=noise)
            states[name] = get_peft_model_state_dict(network)
        self.pipeline.save_lora_weights(
            out,
            **{f"{name}_lora_layers": state for name, state in states.items()},
            **_collate_lora_metadata({name: getattr(self.pipeline, name) for name in NETWORKS}),
        )
        self.file = (out / "pytorch_lora_weights.safetensors").read_bytes()

    def picture(self) -> Any:
        return self.pipeline(
            DRAWN.prompt,
            negative_prompt=DRAWN.negative_prompt,
            width=32,
            height=32,
            num_inference_steps=DRAWN.num_inference_steps,
            guidance_scale=DRAWN.guidance_scale,
            generator=generator(DRAWN.seed),
        ).images[0]


@pytest.fixture(scope="module")
def trained(sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(sdxl, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def weights(trained: Trained, sdxl: Path) -> AdapterWeights:
    return check_fits(read_adapter(trained.file), f"path:{sdxl}")


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(f"file://{tmp_path}")


@pytest.fixture
def adapted_parts(sdxl: Path, blobs: Blobs) -> Iterator[PipelineParts]:
    cache = AdapterCache(blobs, 10_000_000, text_encoder_factors)
    loaded = load_parts(f"path:{sdxl}", PipelineSettings(precision="float32"), "cpu", cache)
    yield loaded
    loaded.close()


@pytest.fixture
def adapted_replicas(sdxl: Path, blobs: Blobs) -> Iterator[Replicas]:
    started = Replicas(f"path:{sdxl}", 1, blobs)
    yield started
    started.stop()


def same(one: AdapterWeights, other: AdapterWeights) -> bool:
    return one.parts.keys() == other.parts.keys() and all(
        torch.equal(layer.down, other.parts[part][path].down)
        and torch.equal(layer.up, other.parts[part][path].up)
        and layer.alpha == other.parts[part][path].alpha
        for part, layers in one.parts.items()
        for path, layer in layers.items()
    )


def test_the_file_that_diffusers_saves_is_read_whole(weights: AdapterWeights) -> None:
    assert set(weights.parts) == set(NETWORKS)
    assert {layer.alpha for layer in weights.unet.values()} == {6.0}
    assert {layer.alpha for layer in weights.text_encoder_2.values()} == {5.0}
    assert "encoder.layers.3.self_attn.q_proj" in weights.text_encoder_2
    assert "add_embedding.linear_1" in weights.unet


def test_every_layout_keeps_every_value(weights: AdapterWeights) -> None:
    assert same(read_adapter(write_peft(weights)), weights)
    kohya = write_kohya(weights)
    header = json.loads(kohya[8 : 8 + int.from_bytes(kohya[:8], "little")])
    prefixes = {name.split("_text_model_")[0] for name in header if name.startswith("lora_te")}
    assert prefixes == {"lora_te1", "lora_te2"}
    assert same(read_adapter(kohya), weights)


def test_kohyas_names_of_the_original_code_are_read(weights: AdapterWeights, sdxl: Path) -> None:
    layer = weights.unet["down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"]
    name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
    tensors = {f"{name}.lora_down.weight": layer.down, f"{name}.lora_up.weight": layer.up}
    read = read_adapter(save({**tensors, f"{name}.alpha": torch.tensor(3.0)}))
    assert list(read.unet) == ["down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"]


def test_an_adapter_with_a_second_text_encoder_is_not_for_other_families(weights: AdapterWeights) -> None:
    with pytest.raises(InvalidRequest, match="one for SDXL, which has a second text encoder"):
        check_fits(replace(weights, unet={}, text_encoder={}), "mini")


async def test_the_picture_is_that_of_diffusers(
    adapted_parts: PipelineParts,
    adapted_replicas: Replicas,
    trained: Trained,
    weights: AdapterWeights,
    blobs: Blobs,
) -> None:
    use = AdapterUse(
        adapter_id="adp_1", weight=1.0, sha256=put(blobs, "adp_1", weights), has_text_encoder=True
    )
    drawing = TextToImagePipeline(adapted_parts, Painter(adapted_replicas.denoise))
    (plain,) = await pictures(drawing, DRAWN)
    (picture,) = await pictures(drawing, replace(DRAWN, adapters=(use,)))
    assert psnr_db(picture, trained.picture()) > 45
    assert psnr_db(picture, plain) < 30


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
async def test_each_text_encoder_is_adapted_by_its_own_layers_alone(
    adapted_parts: PipelineParts, weights: AdapterWeights, blobs: Blobs, part: str
) -> None:
    layers: dict[str, Any] = {name: {} for name in NETWORKS}
    alone = AdapterWeights(**{**layers, part: weights.parts[part]})
    use = AdapterUse(adapter_id="adp_2", weight=1.0, sha256=put(blobs, "adp_2", alone), has_text_encoder=True)
    plain = await adapted_parts.embed(DRAWN)
    told = await adapted_parts.embed(replace(DRAWN, adapters=(use,), sampler=SamplerName.EULER))
    first, second = (slice(0, 16), slice(16, None))
    own, other = (first, second) if part == "text_encoder" else (second, first)
    assert not torch.allclose(told.positive[:, own], plain.positive[:, own], atol=1e-3)
    assert torch.equal(told.positive[:, other], plain.positive[:, other])
    assert plain.pooled is not None
    assert torch.equal(told.pooled, plain.pooled) == (part == "text_encoder")  # type: ignore[arg-type]
    adapted_parts.forget("adp_2")
