"""A complete Stable Diffusion family with random weights, small enough to build in a test.

Same classes and folder layout as a real one; its pictures are noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT_WIDTH = 32
LATENT_SIZE = 8
VAE_FACTOR = 4
MODEL_MAX_LENGTH = 77

_PUNCTUATION = ",.;:+-()!?'\""
_WORDS = ("red", "hair", "man", "cat", "dog", "blue", "portrait", "of")


def build_tiny_family(folder: Path, *, prediction_type: str = "v_prediction", seed: int = 0) -> Path:
    """Write the family to ``folder`` in diffusers layout; returns ``folder``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        StableDiffusionPipeline(
            vae=_vae(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=_unet(),
            scheduler=DDIMScheduler(
                prediction_type=prediction_type,
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                timestep_spacing="trailing",
                rescale_betas_zero_snr=prediction_type == "v_prediction",
                clip_sample=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def tiny_tokenizer(**options: str) -> CLIPTokenizer:
    """Byte-pair encoding of single letters, a few whole words, and punctuation."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789" + _PUNCTUATION)
    symbols = letters + [f"{letter}</w>" for letter in letters]
    merges: list[str] = []
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            symbols.append(parts[0])
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    pairs = [(left, right) for left, right in (merge.split() for merge in dict.fromkeys(merges))]
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=MODEL_MAX_LENGTH, **options)


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=CONTEXT_WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=MODEL_MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=LATENT_SIZE * VAE_FACTOR,
        scaling_factor=0.5,
    ).eval()


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
