"""How much memory a model's replicas take at their peak, told from the headers of its files and its configs.

Weights are exact; what a step, a decoded picture and a process take besides was measured (docs/memory.md).
Loads nothing and imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.machine import Machine
from core.settings import AppSettings, Precision
from weights import convert, registry
from weights.catalogue import Entry, entries
from weights.describe import read_config
from weights.errors import RefusedWeights
from weights.tensor_file import Tensor, read_tensors

GIGABYTE = 1_000_000_000
# A process with torch, diffusers and Ray; one with Ray alone; Ray's own and the proxy's.
_TORCH_BYTES, _PLAIN_BYTES, RAY_BYTES = 600_000_000, 200_000_000, 1_000_000_000
# What main memory has beside weights: other layouts of some, and what the allocator keeps for later.
_HOST_SLACK = 1.25
# CUDA's context and libraries, per process.
_CUDA_BYTES = 600_000_000
# Values alive at once, in feature maps of the level with the most pixels: of a UNet step per row, of a VAE's
# decoding per picture.
_STEP_MAPS, _DECODE_MAPS = 24.0, 8.0
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Ranks up to this one have room in a slot; most adapters are for these layers.
_MAX_RANK = 64
_ADAPTED = tuple(f".{name}.weight" for name in ("to_q", "to_k", "to_v", "to_out.0"))
_TEXTS = ("text_encoder", "text_encoder_2")
_MAX_DECODED_PIXELS = 1024 * 1024
# What a full batch takes beside the weights, as a share of them, as measured for CLIPSeg and the checker.
_LOOKING = 1 / 8
_PERCEPTION_PARTS = ("clipseg", "clip", "safety_checker")


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica takes at its peak, of main memory and of a GPU. ``count`` replicas are configured."""

    deployment: str
    count: int
    host_bytes: int
    gpu_bytes: int = 0


def needs_of(model_id: str, settings: AppSettings, machine: Machine) -> tuple[Need, ...]:
    """What each deployment takes to serve ``model_id`` on ``machine``, on its GPU if ``settings`` say so.

    For pictures of the model's default size. Raises what the registry raises for an unknown model.
    """
    model = _Model.of(model_id)
    pipelines = {
        "TextToImage": settings.text_to_image,
        "ImageToImage": settings.image_to_image,
        "Inpaint": settings.inpaint,
    }
    denoisers = {"Denoiser": model.unet + model.controlnet}
    if model.inpainting_unet:
        denoisers["InpaintDenoiser"] = model.inpainting_unet
    use_gpu, found = settings.use_gpu, []
    for name, parameters in denoisers.items():
        own = settings.denoiser
        item = _unet_item_bytes(own.precision, use_gpu, machine)
        busy = own.max_rows * model.row_bytes(item)
        if use_gpu:
            # Main memory is taken by the slots in use alone.
            busy += (own.adapter_slots + 1) * _MAX_RANK * model.rank_values * item
        found.append(_need(name, own.num_replicas, parameters * item, busy, use_gpu))
    for name, pipeline in pipelines.items():
        item = 2 if use_gpu and model.is_sdxl and pipeline.precision != "float32" else 4
        busy = model.picture_bytes(4, pipeline.max_decode_batch)
        found.append(_need(name, pipeline.num_replicas, model.text * item + model.vae * 4, busy, use_gpu))
    perception = settings.perception
    seen = model.perception * 4
    found.append(_need("Perception", perception.num_replicas, seen, int(_LOOKING * seen), use_gpu))
    plain = {
        "Router": settings.router.num_replicas,
        "GenderSwap": settings.gender_swap.num_replicas,
        "Trainer": 1,
    }
    found += [Need(name, count, _PLAIN_BYTES) for name, count in plain.items()]
    return tuple(found)


def total(needs: tuple[Need, ...]) -> tuple[int, int]:
    """Bytes of main memory and of GPUs that all replicas take together, Ray's own included."""
    return (
        RAY_BYTES + sum(need.count * need.host_bytes for need in needs),
        sum(need.count * need.gpu_bytes for need in needs),
    )


def num_parameters(folder: Path, part: str) -> int:
    """Parameters of ``part`` in a model's ``folder``, by the headers of its files; 0 where it has none."""
    return sum(math.prod(tensor.shape) for tensor in _tensors(folder, part).values())


def _tensors(folder: Path, part: str) -> dict[str, Tensor]:
    try:
        file = convert.weight_file(folder, part)
        files = [] if file is None else [file]
    except RefusedWeights:
        files = sorted((folder / part).glob("*.safetensors"))
    return {name: tensor for path in files for name, tensor in read_tensors(path).items()}


@dataclass(frozen=True, slots=True)
class _Model:
    """Parameters of a model's networks, and the shapes that its pictures pass through them in.

    ``rank_values`` are those of an adapter of rank 1 for the UNet's attention layers.
    """

    unet: int
    text: int
    vae: int
    rank_values: int
    inpainting_unet: int
    controlnet: int
    perception: int
    is_sdxl: bool
    unet_config: Mapping[str, Any]
    vae_config: Mapping[str, Any]

    @classmethod
    def of(cls, model_id: str) -> _Model:
        folder, attached = registry.folder_of(model_id), _attached(model_id)
        inpainting = attached.get("inpaint")
        own = sum(_all_parameters(folder / part) for part in _PERCEPTION_PARTS)
        others = sum(_all_parameters(attached[part]) for part in _PERCEPTION_PARTS if part in attached)
        return cls(
            unet=num_parameters(folder, "unet"),
            text=sum(num_parameters(folder, part) for part in _TEXTS),
            vae=num_parameters(folder, "vae"),
            rank_values=sum(
                sum(tensor.shape)
                for name, tensor in _tensors(folder, "unet").items()
                if name.endswith(_ADAPTED) and len(tensor.shape) == 2
            ),
            inpainting_unet=0 if inpainting is None else num_parameters(inpainting, "unet"),
            controlnet=_all_parameters(attached["controlnet"]) if "controlnet" in attached else 0,
            perception=own + others,
            is_sdxl=(folder / "text_encoder_2").is_dir(),
            unet_config=read_config(folder / "unet" / "config.json"),
            vae_config=read_config(folder / "vae" / "config.json"),
        )

    def row_bytes(self, item_bytes: int) -> int:
        """What a UNet step takes for each row beside the weights, at the default size."""
        area = int(self.unet_config["sample_size"]) ** 2
        return round(_STEP_MAPS * area * int(self.unet_config["block_out_channels"][0]) * item_bytes)

    def picture_bytes(self, item_bytes: int, max_batch: int) -> int:
        """What decoding takes beside the weights, of as many default pictures as are decoded together."""
        channels = [int(width) for width in self.vae_config["block_out_channels"]]
        side = int(self.unet_config["sample_size"]) << len(channels) - 1
        pixels = side * side
        together = pixels * max(1, min(max_batch, _MAX_DECODED_PIXELS // pixels))
        return round(_DECODE_MAPS * together * channels[0] * item_bytes)


def _need(name: str, count: int, weight_bytes: int, busy_bytes: int, use_gpu: bool) -> Need:
    if use_gpu:
        return Need(name, count, _TORCH_BYTES, weight_bytes + busy_bytes + _CUDA_BYTES)
    return Need(name, count, _TORCH_BYTES + round(_HOST_SLACK * weight_bytes) + busy_bytes)


def _unet_item_bytes(precision: Precision, use_gpu: bool, machine: Machine) -> int:
    if precision != "auto":
        return _ITEM_BYTES[precision]
    return 2 if use_gpu or machine.bfloat16 else 4


def _attached(model_id: str) -> dict[str, Path]:
    """The folders of what completes a model, by part."""
    known = entries()
    found: dict[str, Entry] = {part: known[name] for part, name in registry.companions(model_id).items()}
    return {part: entry.folder for part, entry in found.items() if entry.folder is not None}


def _all_parameters(folder: Path) -> int:
    return sum(
        math.prod(tensor.shape)
        for path in folder.glob("*.safetensors")
        for tensor in read_tensors(path).values()
    )
