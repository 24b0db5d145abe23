"""Single-file checkpoints with every key of Stable Diffusion 1.x or XL, of networks a thousandth as large.

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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from weights.convert import SD15, SDXL

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
_SMALL_XL: dict[str, dict[str, Any]] = {
    "unet": {
        "block_out_channels": [8, 16, 16],
        "norm_num_groups": 4,
        "cross_attention_dim": 16 + 24,
        "attention_head_dim": [1, 2, 2],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 20,
        "sample_size": 8,
    },
    "vae": _SMALL["vae"],
    "text_encoder": _SMALL["text_encoder"] | {"num_hidden_layers": 3},
    "text_encoder_2": {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "projection_dim": 20,
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
    return _shrunk(SD15, folder, _SMALL)


def small_sdxl_family(folder: Path) -> Path:
    """As :func:`small_family`, of Stable Diffusion XL."""
    return _shrunk(SDXL, folder, _SMALL_XL)


def _shrunk(family: Path, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> Path:
    shutil.copytree(family, folder)
    for part, own in changes.items():
        path = folder / part / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    return folder


def networks(family: Path, *, in_channels: int = 4, seed: int = 0) -> dict[str, Any]:
    """The networks that the configs of ``family`` describe, with random weights."""
    configs = {path.parent.name: json.loads(path.read_text()) for path in family.glob("*/config.json")}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = {
            "unet": UNet2DConditionModel.from_config({**configs["unet"], "in_channels": in_channels}).eval(),
            "vae": AutoencoderKL.from_config(configs["vae"]).eval(),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).eval(),
        }
        if "text_encoder_2" in configs:
            config = CLIPTextConfig(**configs["text_encoder_2"])
            made["text_encoder_2"] = CLIPTextModelWithProjection(config).eval()
        return made


def checkpoint(
    parts: Mapping[str, Any], *, vae: bool = True, vae_prefix: str = "first_stage_model.", ema: bool = False
) -> dict[str, Tensor]:
    """``parts`` under LDM keys, with the buffers that such files carry."""
    is_xl = "text_encoder_2" in parts
    unet = {
        f"model.diffusion_model.{ldm_unet(key, attention_above=is_xl)}": value
        for key, value in _state(parts["unet"]).items()
    }
    tensors = dict(unet)
    if vae:
        for key, value in _state(parts["vae"]).items():
            # Attention was a 1 × 1 convolution.
            conv = ".attentions.0.to_" in key and value.ndim == 2
            tensors[vae_prefix + ldm_vae(key)] = value[..., None, None] if conv else value
    text = "conditioner.embedders.0.transformer" if is_xl else "cond_stage_model.transformer"
    for key, value in _state(parts["text_encoder"]).items():
        tensors[f"{text}.text_model.{key.removeprefix('text_model.')}"] = value
    tensors[f"{text}.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if is_xl:
        for key, value in open_clip(_state(parts["text_encoder_2"])).items():
            tensors[f"conditioner.embedders.1.model.{key}"] = value
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
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


def open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ``CLIPTextModelWithProjection`` in OpenCLIP's layout."""
    ends = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    layers = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    named = {"text_projection": state["text_projection.weight"].T}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        if name in ends:
            named[ends[name]] = value
        elif name.startswith("final_layer_norm."):
            named[name.replace("final_layer_norm", "ln_final")] = value
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            block, layer, kind = f"transformer.resblocks.{match[1]}", match[2], match[3]
            if layer in layers:
                named[f"{block}.{layers[layer]}.{kind}"] = value
            elif layer == "self_attn.q_proj":
                every = [state[key.replace("q_proj", f"{place}_proj")] for place in "qkv"]
                named[f"{block}.attn.in_proj_{kind}"] = torch.cat(every)
    return named


def ldm_unet(key: str, *, attention_above: bool = False) -> str:
    """``attention_above`` is whether the first of the up blocks has attention, as in Stable Diffusion XL."""
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
        # Without attention in its block, an upsampler stands one place earlier.
        return f"output_blocks.{3 * block + 2}.{2 if block or attention_above else 1}.conv.{kind}"
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
