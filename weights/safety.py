"""The Stable Diffusion safety checker: where a model has it, and how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weights import registry
from weights.perception import PreprocessFacts

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

PART = "safety_checker"
# Those of OpenAI's CLIP, whose vision tower every such checker has.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def load_safety(
    model_id: str, manifest: Path = registry.MANIFEST
) -> tuple[StableDiffusionSafetyChecker, PreprocessFacts] | None:
    """The checker of ``model_id`` or of its family, float32 on the CPU, in evaluation mode; None without one.

    Raises :class:`weights.errors.BrokenWeights` when its files are not the listed ones.
    """
    if not registry.has_part(model_id, PART, manifest):
        return None
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker = StableDiffusionSafetyChecker.from_pretrained(
        registry.part_folder(model_id, PART, manifest), dtype=torch.float32, local_files_only=True
    )
    facts = PreprocessFacts(int(checker.config.vision_config.image_size), _MEAN, _STD)
    return checker.eval().requires_grad_(False), facts
