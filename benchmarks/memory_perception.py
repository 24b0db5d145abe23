"""Perception at full size with random weights, for ``benchmarks.memory``: its networks, and a batch of work.

Sizes are those of the published checkpoints: CIDAS/clipseg-rd64-refined (Lüddecke & Ecker 2022) and
the Stable Diffusion safety checker, a CLIP ViT-L/14.
"""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

from PIL import Image

_SIDE = 512


def add_perception(folder: Path) -> None:
    """Put a CLIPSeg and a safety checker into the model's ``folder``, unless they are there."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPSegConfig, CLIPSegForImageSegmentation

    if (folder / "safety_checker").exists():
        return
    sizes = {"image_size": 224, "patch_size": 16}
    segments = CLIPSegConfig(vision_config=sizes, reduce_dim=64, extract_layers=[3, 6, 9])
    CLIPSegForImageSegmentation(segments).save_pretrained(folder / "clipseg")
    facts = {"size": 352, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "clipseg" / "preprocessor_config.json").write_text(json.dumps(facts))
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=768))
    checker.save_pretrained(folder / "safety_checker")


class Work:
    """A model's Perception with a full batch of everything it is asked."""

    def __init__(self, model_id: str) -> None:
        from core.settings import PerceptionSettings, SafetySettings
        from deployments.pipeline.perception.loading import load_parts
        from deployments.pipeline.perception.perceiver import Perceiver

        settings = PerceptionSettings()
        self._num = settings.max_batch
        self._perceiver = Perceiver(load_parts(model_id, settings, SafetySettings(enabled=True), "cpu"))

    def do(self) -> None:
        """Masks for as many pictures as share a pass, and a verdict on each."""
        from core.specs import MaskSpec

        file = io.BytesIO()
        Image.effect_noise((_SIDE, _SIDE), 80).convert("RGB").save(file, "PNG")
        picture = file.getvalue()

        async def answers() -> None:
            asked = [
                self._perceiver.mask(MaskSpec(request_id=f"r{number}", image=picture, words="hair"))
                for number in range(self._num)
            ]
            await asyncio.gather(*asked, self._perceiver.moderate((picture,) * self._num))

        asyncio.run(answers())
        self._perceiver.close()
