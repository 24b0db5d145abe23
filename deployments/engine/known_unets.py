"""Which diffusers UNets the short way through a UNet computes. Knows configurations; computes nothing."""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from deployments.engine.cpu_layers import is_plain


def is_known(unet: UNet2DConditionModel) -> bool:
    """Whether ``lean_unet`` computes the same as ``unet.forward``."""
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    plain_blocks = (DownBlock2D, CrossAttnDownBlock2D, UNetMidBlock2DCrossAttn, UpBlock2D, CrossAttnUpBlock2D)
    return bool(
        all(type(block) in plain_blocks for block in blocks)
        and all(_knows_part(module) for block in blocks for module in block.modules())
        and isinstance(unet.conv_norm_out, nn.GroupNorm)
        and isinstance(unet.conv_act, nn.SiLU)
        and unet.config.addition_embed_type in (None, "text_time")
        and not unet.config.center_input_sample
        and all(each is None for each in (unet.time_embed_act, unet.class_embedding, unet.encoder_hid_proj))
        and unet.time_embedding.cond_proj is None
    )


def _knows_part(module: Any) -> bool:
    match module:
        case ResnetBlock2D():
            return bool(
                module.time_embedding_norm == "default"
                and not module.skip_time_act
                and module.upsample is None
                and module.downsample is None
                and module.output_scale_factor == 1
                and isinstance(module.nonlinearity, nn.SiLU)
                and module.time_emb_proj is not None
            )
        case Transformer2DModel():
            return bool(module.is_input_continuous and module.config.norm_type == "layer_norm")
        case BasicTransformerBlock():
            return bool(
                not module.only_cross_attention
                and module.pos_embed is None
                and module.attn2 is not None
                and is_plain(module.attn1)
                and is_plain(module.attn2)
                and len(module.ff.net) == 3
                and isinstance(module.ff.net[0], GEGLU)
            )
        case Downsample2D() | Upsample2D():
            return bool(module.norm is None)
    return True
