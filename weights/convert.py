"""Stable Diffusion checkpoints of any published layout to one layout: diffusers folders in float16.

Reads diffusers folders; single files are for ``single_file``. Every tensor must have a place in the networks
that the configs describe, and every place a tensor. Knows nothing of sources and hashes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weights import clip_bpe, ldm
from weights.errors import RefusedWeights
from weights.tensor_file import Tensor, read_tensors, write_float16

SD15, SDXL = (Path(__file__).with_name("families") / name for name in ("sd15", "sdxl"))
# Where diffusers and transformers look for the weights of a part.
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
_TEXTS = ("text_encoder", "text_encoder_2")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
# What a model_index.json says besides naming classes.
_OPTIONS = ("force_zeros_for_empty_prompt",)
# Not parameters: buffers and heads that older versions saved along.
_NOT_TEXT = {
    f"text_model.{name}" for name in ("embeddings.position_ids", "text_projection.weight", "logit_scale")
}
_PICKLES = ("bin", "ckpt", "pt", "pth")
_NUM_NAMED = 3


@dataclass(frozen=True)
class Checkpoint:
    """What a source holds, in diffusers' names. ``configs`` maps parts to their configs.

    ``tokenizers`` are the source's own folders; ``options`` of its ``model_index.json`` replace the family's.
    """

    parts: Mapping[str, Mapping[str, Tensor]]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_channels(self) -> int:
        """4, or 9 for inpainting: latents, mask and masked picture."""
        return int(self.configs["unet"]["in_channels"])


def read_folder(folder: Path, family: Path = SD15) -> Checkpoint:
    """A folder in diffusers layout, with its own configs; the family's where it has none.

    Of float32 and float16 files the smaller is read. Raises :class:`RefusedWeights` where a part is there
    as a pickle only.
    """
    parts, configs = {}, {}
    for part, config in family_configs(family).items():
        path = weight_file(folder, part)
        if path is None and part == "vae":
            continue
        if path is None:
            raise RefusedWeights(f"{folder} is refused: there are no weights in {folder / part}.")
        own = folder / part / "config.json"
        configs[part] = _read_json(own) if own.exists() else config
        parts[part] = modern_names(part, read_tensors(path))
    own_scheduler = folder / "scheduler" / "scheduler_config.json"
    tokenizers = {name: folder / name for name in _TOKENIZERS if (folder / name).is_dir()}
    scheduler = _read_json(
        own_scheduler if own_scheduler.exists() else family / "scheduler" / "scheduler_config.json"
    )
    index = folder / "model_index.json"
    said = _read_json(index) if index.exists() else {}
    options = {name: said[name] for name in _OPTIONS if name in said}
    return Checkpoint(parts, {**family_configs(family), **configs}, scheduler, tokenizers, options)


def weight_file(folder: Path, part: str) -> Path | None:
    """The safetensors file of ``part``; None where there is nothing, refused where there is only a pickle."""
    name = Path(WEIGHT_FILES[part])
    for file in (f"{name.stem}.fp16{name.suffix}", name.name):
        if (folder / part / file).is_file():
            return folder / part / file
    if sharded := sorted((folder / part).glob("*.safetensors.index.json")):
        raise RefusedWeights(f"{sharded[0]} is refused: weights in several files are not read.")
    pickles = [path for kind in _PICKLES for path in (folder / part).glob(f"*.{kind}")]
    if pickles:
        raise RefusedWeights(
            f"{pickles[0]} is refused: a pickle can run code when it is opened. Look for a .safetensors file "
            f"of {part}, or convert it on a machine that holds nothing of value."
        )
    return None


def read_vae(path: Path, family: Path = SD15) -> Mapping[str, Tensor]:
    """An autoencoder alone, in diffusers or LDM names, with or without ``first_stage_model.``"""
    tensors = read_tensors(path)
    num_levels = len(family_configs(family)["vae"]["block_out_channels"])
    if any(".down_blocks." in key for key in tensors):
        return modern_names("vae", tensors)
    bare = {key.removeprefix(ldm.VAE_PREFIX): tensor for key, tensor in tensors.items()}
    halves = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    kept = {key: tensor for key, tensor in bare.items() if key.startswith(halves)}
    return {ldm.vae_name(key, num_levels) or key: tensor for key, tensor in kept.items()}


def write_model(checkpoint: Checkpoint, target: Path, family: Path = SD15) -> None:
    """Write ``checkpoint`` to the new folder ``target`` in diffusers layout, floats as float16.

    Raises :class:`RefusedWeights` where tensors and networks do not fit each other.
    """
    for part, tensors in checkpoint.parts.items():
        config = dict(checkpoint.configs[part])
        shapes = expected_shapes(part, config)
        placed = _placed(part, tensors, shapes)
        (target / part).mkdir(parents=True)
        write_float16(target / part / WEIGHT_FILES[part], placed, shapes)
        _write_json(target / part / "config.json", config)
    (target / "scheduler").mkdir()
    _write_json(target / "scheduler" / "scheduler_config.json", checkpoint.scheduler)
    for name in (name for name in _TOKENIZERS if (family / name).is_dir()):
        _write_tokenizer(checkpoint.tokenizers.get(name), target / name, family / name)
    index = _read_json(family / "model_index.json")
    _write_json(target / "model_index.json", {**index, **checkpoint.options})
    width = family_configs(family)["unet"]["cross_attention_dim"]
    if checkpoint.configs["unet"]["cross_attention_dim"] == width:
        shutil.copyfile(family / "preview.json", target / "preview.json")


def _write_tokenizer(own: Path | None, target: Path, family: Path) -> None:
    if own is None:
        clip_bpe.write_tokenizer(target, family / "tokenizer_config.json")
        return
    target.mkdir()
    for path in own.iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copyfile(path, target / path.name)


def expected_shapes(part: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the network that ``config`` describes; nothing is allocated."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        if part in _TEXTS:
            kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
            network: torch.nn.Module = kind(CLIPTextConfig(**config))
        else:
            network = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(dict(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if part not in _TEXTS:
        return shapes
    return {ldm.text_name(name): shape for name, shape in shapes.items()}


def _placed(
    part: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Exactly the tensors of ``shapes``. A linear layer may come as a 1 × 1 convolution."""
    left_over = [name for name in tensors if name not in shapes]
    missing = [name for name in shapes if name not in tensors]
    misshapen = [
        name
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape not in (shape, (*shape, 1, 1))
    ]
    faults = {"lacks": missing, "has no place for": left_over, "has another shape for": misshapen}
    for what, names in faults.items():
        if names:
            listed = ", ".join(names[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")
            raise RefusedWeights(f"The {part} {what} {len(names)} of {len(shapes)} parameters: {listed}.")
    return {name: tensors[name] for name in shapes}


def modern_names(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``part`` by their present names, without what is no parameter of it."""
    if part == "vae":
        return {ldm.modern_vae_name(key): tensor for key, tensor in tensors.items()}
    if part in _TEXTS:
        named = {ldm.text_name(key): tensor for key, tensor in tensors.items()}
        unused = _NOT_TEXT if part == "text_encoder_2" else {*_NOT_TEXT, "text_projection.weight"}
        return {key: tensor for key, tensor in named.items() if key not in unused}
    return dict(tensors)


def family_configs(family: Path) -> dict[str, dict[str, Any]]:
    """The configs of the parts that a family has."""
    return {
        part: _read_json(family / part / "config.json") for part in WEIGHT_FILES if (family / part).is_dir()
    }


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
