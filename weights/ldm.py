"""Key names of single-file checkpoints (the layout of the latent-diffusion code) in diffusers' words.

Knows names alone. The layout numbers a UNet's layers one after another where diffusers nests them in
blocks; a VAE decoder counts its levels the other way round.
"""

from __future__ import annotations

import re

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
# Those of Stable Diffusion XL: CLIP in transformers' words, OpenCLIP in its own.
FIRST_TEXT_PREFIX = "conditioner.embedders.0.transformer."
SECOND_TEXT_PREFIX = "conditioner.embedders.1.model."
# A UNet's key by which such a file is recognised; its second dimension is the number of input channels.
FIRST_CONVOLUTION = f"{UNET_PREFIX}input_blocks.0.0.weight"
# Cross-attention keys, by whose width Stable Diffusion 1.x (768) is told from 2.x (1024) and SDXL (2048),
# which has no attention on its first level.
FIRST_CROSS_ATTENTIONS = tuple(
    f"{UNET_PREFIX}input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight" for block in (1, 4)
)

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# Names that diffusers itself gave these layers until 2023; many published folders still have them.
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_name(key: str, layers_per_block: int) -> str | None:
    """diffusers' name of the UNet parameter ``key`` (without prefix), None where there is none."""
    stem, _, kind = key.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{kind}"
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", stem):
        index, rest = int(match[1]), match[2]
        layer = f"attentions.0.{rest}" if index == 1 else f"resnets.{index // 2}.{_RESNET.get(rest)}"
        return f"mid_block.{layer}.{kind}"
    if match := re.fullmatch(r"input_blocks\.(\d+)\.([01])\.(.+)", stem):
        block, layer_index = divmod(int(match[1]) - 1, layers_per_block + 1)
        return _layer(f"down_blocks.{block}", layer_index, match[2], match[3], kind, "op", "downsamplers")
    if match := re.fullmatch(r"output_blocks\.(\d+)\.([012])\.(.+)", stem):
        block, layer_index = divmod(int(match[1]), layers_per_block + 1)
        return _layer(f"up_blocks.{block}", layer_index, match[2], match[3], kind, "conv", "upsamplers")
    return None


def _layer(block: str, index: int, place: str, rest: str, kind: str, resize: str, sampler: str) -> str | None:
    if rest == resize:
        return f"{block}.{sampler}.0.conv.{kind}"
    if place == "0":
        return f"{block}.resnets.{index}.{_RESNET[rest]}.{kind}" if rest in _RESNET else None
    return f"{block}.attentions.{index}.{rest}.{kind}"


def vae_name(key: str, num_levels: int) -> str | None:
    """diffusers' name of the autoencoder parameter ``key`` (without prefix), None where there is none."""
    stem, _, kind = key.rpartition(".")
    if stem in ("quant_conv", "post_quant_conv"):
        return key
    half, _, rest = stem.partition(".")
    if half not in ("encoder", "decoder"):
        return None
    if rest in ("conv_in", "conv_out"):
        return key
    if rest == "norm_out":
        return f"{half}.conv_norm_out.{kind}"
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", rest):
        return f"{half}.mid_block.resnets.{int(match[1]) - 1}.{match[2]}.{kind}"
    if (match := re.fullmatch(r"mid\.attn_1\.(.+)", rest)) and match[1] in _VAE_ATTENTION:
        return f"{half}.mid_block.attentions.0.{_VAE_ATTENTION[match[1]]}.{kind}"
    if match := re.fullmatch(r"(down|up)\.(\d+)\.(?:block\.(\d+)\.(.+)|(down|up)sample\.conv)", rest):
        level = int(match[2]) if match[1] == "down" else num_levels - 1 - int(match[2])
        block = f"{half}.{match[1]}_blocks.{level}"
        if match[3] is None:
            return f"{block}.{match[1]}samplers.0.conv.{kind}"
        layer = match[4].replace("nin_shortcut", "conv_shortcut")
        return f"{block}.resnets.{match[3]}.{layer}.{kind}"
    return None


def text_name(key: str) -> str:
    """transformers' name of the text encoder parameter ``key`` (without prefix); some lack one level."""
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"


def modern_vae_name(key: str) -> str:
    """The present name of a parameter of a diffusers autoencoder."""
    stem, _, layer_and_kind = key.partition(".mid_block.attentions.0.")
    layer, _, kind = layer_and_kind.partition(".")
    if layer in _OLD_VAE_ATTENTION:
        return f"{stem}.mid_block.attentions.0.{_OLD_VAE_ATTENTION[layer]}.{kind}"
    return key
