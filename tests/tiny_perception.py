"""A CLIPSeg and a safety checker with random weights, small enough to build in a test.

Same classes and folder layout as real ones; what they see means nothing, but differs from picture to picture.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

from weights.perception import PreprocessFacts

FACTS = PreprocessFacts(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}


def build_clipseg(tokenizer: Any) -> Any:
    """For 32 pixels square; its masks differ from word to word and from place to place."""
    config = CLIPSegConfig(
        text_config={
            **_TOWER,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**_TOWER, "image_size": FACTS.size, "patch_size": 8},
        projection_dim=16,
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        extract_layers=[0, 1, 2],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPSegForImageSegmentation(config)
        for name, parameter in model.named_parameters():
            if name != "clip.logit_scale":
                parameter.data.mul_(2)
    return model.eval().requires_grad_(False)


def build_checker() -> Any:
    """For 32 pixels square; it blocks some pictures of noise and lets others pass."""
    config = CLIPConfig(
        text_config={**_TOWER, "vocab_size": 8},
        vision_config={**_TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = StableDiffusionSafetyChecker(config)
        for name, parameter in model.named_parameters():
            if name.endswith("_embeds"):
                parameter.data.normal_()
            elif not name.endswith("_embeds_weights"):
                parameter.data.mul_(3)
        model.concept_embeds_weights.data.uniform_(0.4, 0.7)
        model.special_care_embeds_weights.data.fill_(0.3)
    return model.eval().requires_grad_(False)


def build_perceptive_family(tiny_family: Path, folder: Path) -> Path:
    """A copy of the tiny family with both, in ``folder``; returns it."""
    shutil.copytree(tiny_family, folder)
    build_clipseg(CLIPTokenizer.from_pretrained(tiny_family / "tokenizer")).save_pretrained(
        folder / "clipseg"
    )
    build_checker().save_pretrained(folder / "safety_checker")
    facts = {"size": FACTS.size, "image_mean": FACTS.mean, "image_std": FACTS.std}
    (folder / "clipseg" / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder
