"""The shapes of every network of the embedded model and its noise schedule.

Knows configurations only; nothing about data, losses or training.
"""

from typing import Final

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

RESOLUTION: Final = 128
VAE_FACTOR: Final = 4
LATENT_CHANNELS: Final = 4
LATENT_SIZE: Final = RESOLUTION // VAE_FACTOR
CONTEXT_TOKENS: Final = 77
CONTEXT_WIDTH: Final = 192
VAE_BLOCKS: Final = (32, 64, 96)
UNET_BLOCKS: Final = (64, 128, 192)


def build_vae(blocks: tuple[int, ...] = VAE_BLOCKS) -> AutoencoderKL:
    """Return an untrained autoencoder: pictures [B, 3, H, W] in [-1, 1] to latents [B, 4, H/4, W/4]."""
    levels = len(blocks)
    return AutoencoderKL(
        block_out_channels=blocks,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
        scaling_factor=1.0,
    )


def build_text_encoder(
    vocab_size: int, bos_token_id: int, eos_token_id: int, width: int = CONTEXT_WIDTH, layers: int = 3
) -> CLIPTextModel:
    """Return an untrained CLIP text tower: token ids [B, 77] to embeddings [B, 77, width]."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 48),
        max_position_embeddings=CONTEXT_TOKENS,
        projection_dim=width,
        hidden_act="gelu",
        bos_token_id=bos_token_id,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )
    return CLIPTextModel(config)


def build_unet(
    blocks: tuple[int, ...] = UNET_BLOCKS, context_width: int = CONTEXT_WIDTH, heads: int = 4
) -> UNet2DConditionModel:
    """Return an untrained UNet predicting v from latents [B, 4, h, w] and a context [B, T, context_width].

    Attention sits on every level but the first, where 1024 positions would dominate the cost.
    """
    inner = len(blocks) - 1
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=blocks,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * inner,
        up_block_types=("CrossAttnUpBlock2D",) * inner + ("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=context_width,
        attention_head_dim=heads,  # diffusers reads this as the number of heads
        norm_num_groups=32,
    )


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule: cosine (Nichol & Dhariwal 2021), zero terminal SNR (Lin et al. 2023)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
