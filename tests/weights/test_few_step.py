"""Few-step adapters among the models: the model's own, and LCM-LoRA as it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file

from core.types import FewStep, SamplerName
from deployments.engine.samplers import NoiseSchedule
from tests.deployments.engine.scenes import Listener, engine, request, run
from tests.tiny_family import CONTEXT_WIDTH, build_tiny_family
from weights import registry
from weights.catalogue import Entry, entries, read_manifest, write_description
from weights.describe import facts_of
from weights.errors import BrokenWeights
from weights.recipe.low_rank import targets
from weights.tensor_file import sha256_of

FILE = "pytorch_lora_weights.safetensors"
MANIFEST = """
[models.lcm]
family = "custom"
role = "adapter"
part = "few_step"
layout = "files"

[models.lcm.few_step]
sampler = "lcm"
num_inference_steps = 6
guidance_scale = 1.5
"""


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("base"), prediction_type="epsilon")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    read_manifest.cache_clear()
    return path


def published(unet: Any) -> dict[str, torch.Tensor]:
    """The tensors of an LCM-LoRA for ``unet``: kohya's names with the blocks of diffusers, float16, an
    alpha below the rank, convolutions and time projections among the layers. Nothing for the embedding of
    the guidance scale (``time_cond_proj``), which only fully distilled LCM networks have."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for path, layer in targets(unet):
        name, weight = f"lora_unet_{path.replace('.', '_')}", layer.weight
        rank = min(4, len(weight))
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.1
        up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=generator) * 0.1
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down.half(), up.half()
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2).half()
    return tensors


def installed(weights: Path, manifest: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder = weights / "lcm"
    folder.mkdir(parents=True)
    save_file(tensors, folder / FILE)
    facts = {FILE: {"bytes": (folder / FILE).stat().st_size, "sha256": sha256_of(folder / FILE)}}
    write_description(folder, entries(manifest)["lcm"], facts)


def test_a_model_draws_in_few_steps_once_an_adapter_is_installed(
    base: Path, weights: Path, manifest: Path
) -> None:
    model_id = f"path:{base}"
    assert registry.info(model_id, manifest).few_step is None
    assert registry.load_few_step(model_id, manifest) is None
    unet = registry.load_unet(model_id)
    installed(weights, manifest, published(unet))
    assert registry.info(model_id, manifest).few_step == FewStep(SamplerName.LCM, 6, 1.5, default=False)
    factors = registry.load_few_step(model_id, manifest)
    assert factors is not None
    assert set(factors) == {path for path, _ in targets(unet)}
    down, up = factors["mid_block.attentions.0.proj_in"]
    assert (down.dtype, up.shape[1]) == (torch.float32, len(down))


def test_a_model_whose_own_adapter_is_not_there_does_not_offer_it(base: Path, manifest: Path) -> None:
    settings = "default = true, sampler = 'ddim', num_inference_steps = 4, guidance_scale = 1.0"
    facts = "\n".join(f"{name} = {value!r}" for name, value in facts_of(base).items())
    listed = f'\n[models.own]\npath = "{base}"\nfamily = "own"\nfew_step = {{ {settings} }}\n{facts}\n'
    manifest.write_text(MANIFEST + listed)
    read_manifest.cache_clear()
    assert registry.info("own", manifest).few_step is None
    file = '"few_step/pytorch_lora_weights.safetensors" = { bytes = 1, sha256 = "" }'
    manifest.write_text(f"{MANIFEST}{listed}[models.own.files]\n{file}\n")
    read_manifest.cache_clear()
    assert registry.info("own", manifest).few_step == FewStep(SamplerName.DDIM, 4, 1.0, default=True)


def test_a_corrupt_file_is_not_loaded(base: Path, weights: Path, manifest: Path) -> None:
    installed(weights, manifest, published(registry.load_unet(f"path:{base}")))
    (weights / "lcm" / FILE).write_bytes(b"corrupt")
    with pytest.raises(BrokenWeights):
        registry.load_few_step(f"path:{base}", manifest)


# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_a_picture_is_that_of_diffusers_with_the_file_loaded(
    base: Path, weights: Path, manifest: Path, guidance_scale: float
) -> None:
    unet = registry.load_unet(f"path:{base}")
    installed(weights, manifest, published(unet))
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(weights / "lcm", weight_name=FILE)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.time_cond_proj_dim is None
    drawn = torch.Generator().manual_seed(8)
    context, negative = torch.randn(2, 77, CONTEXT_WIDTH, generator=drawn)
    wanted = request(
        sampler=SamplerName.LCM,
        guidance_scale=guidance_scale,
        few_step=True,
        prompt_embeds=context,
        negative_embeds=negative,
    )
    expected = pipeline(
        prompt_embeds=context[None],
        negative_prompt_embeds=negative[None],
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed),
        output_type="latent",
        height=32,
        width=32,
    ).images[0]
    schedule = NoiseSchedule.from_config(registry.scheduler_config(f"path:{base}"))
    factors = registry.load_few_step(f"path:{base}", manifest)
    own, heard = engine(unet, schedule=schedule, few_step=factors), Listener()
    own.submit(wanted, heard)
    run(own)
    torch.testing.assert_close(heard.latents, expected, atol=2e-3, rtol=2e-3)


def test_the_published_adapter_completes_the_family_of_its_size() -> None:
    entry = entries()["lcm-lora"]
    assert (entry.family, entry.part) == ("sd15", registry.FEW_STEP)
    assert entry.few_step == FewStep(SamplerName.LCM, 6, 1.5, default=False)
    assert Entry(model_id="none", family="sd15").few_step is None
