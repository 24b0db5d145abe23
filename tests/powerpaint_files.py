"""PowerPaint releases with random weights for the tiny family, in the layouts and names of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from deployments.engine.brushnet import BrushNet
from weights.powerpaint import TASK_TOKENS

EMBEDDING = "text_model.embeddings.token_embedding"


def build_v1_release(folder: Path, base: Path, *, seed: int = 1) -> Path:
    """``unet/unet.safetensors`` and ``text_encoder/text_encoder.safetensors``, no configurations."""
    generator = torch.Generator().manual_seed(seed)
    config = {**UNet2DConditionModel.load_config(base / "unet"), "in_channels": 9}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(config)
    for part in ("unet", "text_encoder"):
        (folder / part).mkdir(parents=True)
    save_file(unet.state_dict(), folder / "unet/unet.safetensors")
    save_file(task_text_tensors(base, generator), folder / "text_encoder/text_encoder.safetensors")
    return folder


def build_v2_release(folder: Path, base: Path, *, seed: int = 2) -> Path:
    """The branch and, converted from its pickle, the branch's text encoder; no configurations."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    unet = UNet2DConditionModel.from_pretrained(base / "unet", local_files_only=True)
    save_file(random_branch(unet, seed).state_dict(), folder / "diffusion_pytorch_model.safetensors")
    save_file(task_text_tensors(base, generator), folder / "text_encoder.safetensors")
    return folder


def random_branch(unet: Any, seed: int = 2) -> BrushNet:
    """A branch of ``unet`` with weights of its own, whose residuals are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branch = BrushNet.from_unet(unet)
        # Large enough for the branch's text to show in its residuals.
        for parameter in branch.parameters():
            torch.nn.init.normal_(parameter.detach(), std=0.25)
    return branch.eval().requires_grad_(False)


def task_text_tensors(base: Path, generator: torch.Generator) -> dict[str, Tensor]:
    """The family's text encoder with learned vectors, by the names that the releases use."""
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder", local_files_only=True)
    tensors = {f"text_model.{name}": value.clone() for name, value in encoder.state_dict().items()}
    vocabulary = tensors.pop(f"{EMBEDDING}.weight")
    tensors[f"{EMBEDDING}.wrapped.weight"] = vocabulary
    for token in TASK_TOKENS:
        vectors = torch.randn(10, vocabulary.shape[1], generator=generator)
        tensors[f"{EMBEDDING}.trainable_embeddings.{token}"] = vectors
    positions = encoder.config.max_position_embeddings
    tensors["text_model.embeddings.position_ids"] = torch.arange(positions)[None]
    return tensors


def rewrite(path: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Replace tensors of a safetensors file; None leaves one out."""
    # Copies: tensors read from a file are a map of it.
    tensors = {name: value.clone() for name, value in load_file(path).items()} | dict(changes)
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
