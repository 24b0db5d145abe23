"""Single-file checkpoints with every key of Stable Diffusion 1.x, of a network a thousandth of its size.

Names go from diffusers' to the layout of the latent-diffusion code here; the product goes the other way.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from weights.convert import SD15

CONTEXT_WIDTH = 16
_SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [8, 16, 16, 16],
        "norm_num_groups": 4,
        "cross_attention_dim": CONTEXT_WIDTH,
        "attention_head_dim": 2,
        "sample_size": 8,
    },
    "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64},
    "text_encoder": {
        "hidden_size": CONTEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": CONTEXT_WIDTH,
    },
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def small_family(folder: Path) -> Path:
    """A copy of the family's files whose configs describe the same layers with few channels."""
    shutil.copytree(SD15, folder)
    for part, changes in _SMALL.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def networks(family: Path, *, in_channels: int = 4, seed: int = 0) -> dict[str, Any]:
    """The networks that the configs of ``family`` describe, with random weights."""
    configs = {part: json.loads((family / part / "config.json").read_text()) for part in _SMALL}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            "unet": UNet2DConditionModel.from_config({**configs["unet"], "in_channels": in_channels}).eval(),
            "vae": AutoencoderKL.from_config(configs["vae"]).eval(),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).eval(),
        }


def checkpoint(
    parts: Mapping[str, Any], *, vae: bool = True, vae_prefix: str = "first_stage_model.", ema: bool = False
) -> dict[str, Tensor]:
    """``parts`` under LDM keys, with the buffers that such files carry."""
    unet = {f"model.diffusion_model.{ldm_unet(key)}": value for key, value in _state(parts["unet"]).items()}
    tensors = dict(unet)
    if vae:
        for key, value in _state(parts["vae"]).items():
            # Attention was a 1 × 1 convolution.
            conv = ".attentions.0.to_" in key and value.ndim == 2
            tensors[vae_prefix + ldm_vae(key)] = value[..., None, None] if conv else value
    for key, value in _state(parts["text_encoder"]).items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    ids = torch.arange(77)[None]
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = ids
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    if ema:
        flat = {f"model_ema.{key.replace('.', '')}": -value for key, value in unet.items()}
        tensors |= flat | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    return {key: value.contiguous() for key, value in tensors.items()}


def save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write ``tensors``, floats as ``dtype``."""
    cast = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(cast, path)
    return path


def _state(network: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = network.state_dict()
    return state


def ldm_unet(key: str) -> str:
    stem, _, kind = key.rpartition(".")
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{kind}"
    match = re.fullmatch(
        r"(down|up|mid)_block(?:s\.(\d))?\.(resnets|attentions|\w+samplers)\.(\d)\.(.+)", stem
    )
    assert match is not None, key
    where, block, layer, rest = match[1], int(match[2] or 0), int(match[4]), match[5]
    if match[3] == "resnets":
        rest = _RESNET[rest]
    if where == "mid":
        return f"middle_block.{1 if match[3] == 'attentions' else 2 * layer}.{rest}.{kind}"
    if match[3] == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op.{kind}"
    if match[3] == "upsamplers":
        # The first up block has no attention, so its upsampler stands one place earlier.
        return f"output_blocks.{3 * block + 2}.{2 if block else 1}.conv.{kind}"
    place = 0 if match[3] == "resnets" else 1
    number = 3 * block + layer + (1 if where == "down" else 0)
    return f"{'input' if where == 'down' else 'output'}_blocks.{number}.{place}.{rest}.{kind}"


def ldm_vae(key: str) -> str:
    stem, _, kind = key.rpartition(".")
    half, _, rest = stem.partition(".")
    if rest == "conv_norm_out":
        return f"{half}.norm_out.{kind}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", rest):
        return f"{half}.mid.block_{int(match[1]) + 1}.{match[2]}.{kind}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", rest):
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[match[1]]}.{kind}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d)\.(?:resnets\.(\d)\.(.+)|(\w+)samplers\.0\.conv)", rest):
        level = int(match[2]) if match[1] == "down" else 3 - int(match[2])
        if match[3] is None:
            return f"{half}.{match[1]}.{level}.{match[5]}sample.conv.{kind}"
        layer = match[4].replace("conv_shortcut", "nin_shortcut")
        return f"{half}.{match[1]}.{level}.block.{match[3]}.{layer}.{kind}"
    return key
