"""UNets of every family that the engine calls layer by layer, small, and what they are given."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

ROWS, TOKENS, WIDTH = 3, 5, 24
SD1: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "SD 1": SD1,
    "SD 2": {**SD1, "use_linear_projection": True, "attention_head_dim": (2, 4)},
    "SD XL": {
        **SD1,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 8,
    },
    "inpainting": {**SD1, "in_channels": 9, "out_channels": 4},
    "one layer": {**SD1, "layers_per_block": 1},
}


def built(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def inputs(unet: UNet2DConditionModel, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(ROWS, *shape, generator=generator)

    given: dict[str, Any] = {
        "sample": drawn(unet.config.in_channels, height, width),
        "timestep": torch.tensor([1.0, 500.0, 999.0]),
        "encoder_hidden_states": drawn(TOKENS, WIDTH),
        "return_dict": False,
    }
    if unet.config.addition_embed_type:
        given["added_cond_kwargs"] = {"text_embeds": drawn(8), "time_ids": 100 * drawn(6)}
    return given
