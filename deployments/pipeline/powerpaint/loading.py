"""PowerPaint from the weights registry: the task prompts of a model, and the networks that go with them.

Knows which files belong to which replica; nothing of requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deployments.engine.brushnet import BrushNet
from deployments.pipeline.powerpaint.prompts import Layout, TaskPrompts
from deployments.pipeline.prompts import PromptEncoder, Prompts
from weights import powerpaint, registry

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# Parts that complete a model: a release as it was published, or an inpainting model in diffusers layout.
RELEASE, INPAINT = "powerpaint", "inpaint"


def layout_of(model_id: str) -> Layout | None:
    """How ``model_id`` has learned tokens: of its own, by a release, by an inpainting model; or None."""
    if _knows_tokens(_base(model_id)):
        return Layout.V1
    if registry.has_part(model_id, RELEASE):
        return Layout.V2 if powerpaint.is_v2(registry.part_folder(model_id, RELEASE)) else Layout.V1
    if registry.has_part(model_id, INPAINT) and _knows_tokens(registry.part_folder(model_id, INPAINT)):
        return Layout.V1
    return None


def load_task_prompts(
    model_id: str, prompts: Prompts, *, device: str, cache_entries: int
) -> TaskPrompts | None:
    """The task prompts of ``model_id``, whose own text encoder ``prompts`` uses; None without tokens."""
    layout, base = layout_of(model_id), _base(model_id)
    if layout is None or not isinstance(prompts, PromptEncoder):
        # There is no PowerPaint for families with two text encoders.
        return None
    if _knows_tokens(base):
        return TaskPrompts(prompts)
    if not registry.has_part(model_id, RELEASE):
        tokenizer, encoder = powerpaint.load_extended_text(registry.part_folder(model_id, INPAINT))
    elif layout is Layout.V2:
        tokenizer, encoder = powerpaint.load_v2_text(registry.part_folder(model_id, RELEASE), base)
    else:
        tokenizer, encoder = powerpaint.load_v1_text(registry.part_folder(model_id, RELEASE), base)
    learned = PromptEncoder(tokenizer, encoder.to(device), cache_entries=cache_entries)
    return TaskPrompts(prompts, learned) if layout is Layout.V2 else TaskPrompts(learned)


def load_branch(model_id: str) -> BrushNet | None:
    """The branch for the Denoiser of ``model_id``, float32 on the CPU; None without a v2 release."""
    if layout_of(model_id) is not Layout.V2:
        return None
    weights = powerpaint.load_brushnet(registry.part_folder(model_id, RELEASE), _base(model_id))
    return BrushNet.of_weights(weights.config, weights.tensors).float()


def load_v1_unet(model_id: str) -> UNet2DConditionModel | None:
    """The 9-channel UNet of an installed v1 release, for a Denoiser of its own; None without one."""
    if layout_of(model_id) is not Layout.V1 or not registry.has_part(model_id, RELEASE):
        return None
    return powerpaint.load_v1_unet(registry.part_folder(model_id, RELEASE), _base(model_id) / "unet")


def _base(model_id: str) -> Path:
    return registry.verified_part(model_id, "tokenizer").parent


def _knows_tokens(folder: Path) -> bool:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    return powerpaint.has_task_tokens(tokenizer)
