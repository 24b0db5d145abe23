"""A complete Stable Diffusion XL family with random weights, small enough to build in a test.

Same classes, folders and two text encoders as a real one; its pictures are noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.tiny_family import MODEL_MAX_LENGTH, tiny_tokenizer

WIDTHS, POOLED_WIDTH = (16, 24), 20
LATENT_SIZE = 8
VAE_FACTOR = 4


def build_tiny_sdxl(
    folder: Path, *, in_channels: int = 4, zero_empty: bool = True, force_upcast: bool = True, seed: int = 0
) -> Path:
    """Write the family to ``folder`` in diffusers layout; returns ``folder``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, other = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
        StableDiffusionXLPipeline(
            vae=_vae(force_upcast),
            text_encoder=_text_encoder(CLIPTextModel, tokenizer, WIDTHS[0], "quick_gelu", num_layers=3),
            text_encoder_2=_text_encoder(CLIPTextModelWithProjection, other, WIDTHS[1], "gelu", num_layers=4),
            tokenizer=tokenizer,
            tokenizer_2=other,
            unet=small_sdxl_unet(in_channels),
            scheduler=EulerDiscreteScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                timestep_spacing="leading",
                steps_offset=1,
            ),
            force_zeros_for_empty_prompt=zero_empty,
            add_watermarker=False,
        ).save_pretrained(folder)
    return folder


def small_sdxl_unet(in_channels: int = 4) -> UNet2DConditionModel:
    """Of two levels, with the added conditions of Stable Diffusion XL; latents of 8 × 8."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=in_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=sum(WIDTHS),
        attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + POOLED_WIDTH,
    ).eval()


def _text_encoder(kind: Any, tokenizer: CLIPTokenizer, width: int, activation: str, num_layers: int) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            hidden_act=activation,
            max_position_embeddings=MODEL_MAX_LENGTH,
            projection_dim=POOLED_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _vae(force_upcast: bool) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=LATENT_SIZE * VAE_FACTOR,
        scaling_factor=0.4,
        force_upcast=force_upcast,
    ).eval()
