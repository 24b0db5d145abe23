"""Weights from a folder straight into a network: tensor by tensor, at once in precision and on the device.

While it is loaded a network takes its own size in memory and one tensor more, whatever the file's precision.
Knows diffusers' and transformers' folders; nothing of models and hashes. The loaders import what is heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from weights import convert, ldm
from weights.describe import read_config
from weights.errors import BrokenWeights, RefusedWeights
from weights.tensor_file import Tensor, read_tensors

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import nn
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

Network = TypeVar("Network", bound="nn.Module")
_NUM_NAMED = 3


def load_unet(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> UNet2DConditionModel:
    """The UNet in ``folder``, ready for inference. On the device "meta" it has shapes and no values.

    Raises :class:`BrokenWeights` where files and network do not fit; so does every loader here.
    """
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        empty = UNet2DConditionModel.from_config(read_config(folder / "config.json"))
    loaded: UNet2DConditionModel = _filled(empty, "unet", folder, dtype, device)
    return loaded


def load_vae(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> AutoencoderKL:
    """The autoencoder in ``folder``, ready for inference."""
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        empty = AutoencoderKL.from_config(read_config(folder / "config.json"))
    loaded: AutoencoderKL = _filled(empty, "vae", folder, dtype, device)
    return loaded


def load_text_encoder(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> CLIPTextModel:
    """The text encoder in ``folder``, ready for inference."""
    from transformers import CLIPTextModel

    return _filled(_empty_text_encoder(CLIPTextModel, folder, device), "text_encoder", folder, dtype, device)


def load_second_text_encoder(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> CLIPTextModelWithProjection:
    """The second text encoder of Stable Diffusion XL, in ``folder``, ready for inference."""
    from transformers import CLIPTextModelWithProjection

    empty = _empty_text_encoder(CLIPTextModelWithProjection, folder, device)
    return _filled(empty, "text_encoder_2", folder, dtype, device)


def _empty_text_encoder(kind: Any, folder: Path, device: torch.device | str) -> Any:
    import torch
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        empty = kind(CLIPTextConfig(**read_config(folder / "config.json")))
    # A buffer that no file has.
    embeddings = getattr(empty, "text_model", empty).embeddings
    embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings, device=device)[None]
    return empty


def _filled(
    network: Network, part: str, folder: Path, dtype: torch.dtype, device: torch.device | str
) -> Network:
    import torch

    network.eval().requires_grad_(False)
    if torch.device(device).type == "meta":
        return network.to(dtype)
    state = network.state_dict()
    places = {_stored_name(part, name): name for name in state}
    tensors = _tensors(part, folder)
    _check(
        f"{part} in {folder}", {name: tuple(state[place].shape) for name, place in places.items()}, tensors
    )
    # What is to be converted or to go elsewhere passes through one buffer, the size of the largest tensor.
    passing = torch.empty(
        max((each.stop - each.start for each in tensors.values()), default=0), dtype=torch.uint8
    )
    # In the order of the file, which is read but once.
    for name in sorted(tensors, key=lambda key: (str(tensors[key].path), tensors[key].start)):
        path, _, leaf = places[name].rpartition(".")
        owner = network.get_submodule(path)
        value = _read(tensors[name], dtype, torch.device(device), passing)
        value = value.reshape(state[places[name]].shape)
        owner._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    return network


def _read(tensor: Tensor, dtype: torch.dtype, device: torch.device, passing: torch.Tensor) -> torch.Tensor:
    """The tensor as ``dtype`` on ``device``. Read, not mapped: mapped pages would be in memory beside it."""
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if tensor.dtype not in kinds:
        raise BrokenWeights(f"{tensor.path} has values of type {tensor.dtype}.")
    stored, num_bytes = kinds[tensor.dtype], tensor.stop - tensor.start
    stays = stored == dtype and device.type == "cpu"
    room = torch.empty(num_bytes, dtype=torch.uint8) if stays else passing[:num_bytes]
    flat: Any = room.numpy()
    with tensor.path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        left = memoryview(flat)
        while left:
            num_read = file.readinto(left)
            if not num_read:
                raise BrokenWeights(f"{tensor.path} is truncated.")
            left = left[num_read:]
    value = room.view(stored).reshape(tensor.shape)
    return value if stays else value.to(device=device, dtype=dtype, copy=True)


def _stored_name(part: str, name: str) -> str:
    return ldm.text_name(name) if part.startswith("text_encoder") else name


def _tensors(part: str, folder: Path) -> dict[str, Tensor]:
    """The parameters by their present names, out of one file or several."""
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    try:
        if index is not None:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            found = {key: value for name in names for key, value in read_tensors(folder / name).items()}
        else:
            file = convert.weight_file(folder.parent, folder.name)
            if file is None:
                raise BrokenWeights(f"There are no weights in {folder}.")
            found = read_tensors(file)
    except RefusedWeights as error:
        raise BrokenWeights(error.message) from error
    return convert.modern_names(part, found)


def _check(what: str, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    misshapen = {
        name
        for name in shapes.keys() & tensors
        # Older autoencoders have their attention as 1 × 1 convolutions.
        if tensors[name].shape not in (shapes[name], (*shapes[name], 1, 1))
    }
    faults = {
        "lacks": shapes.keys() - tensors,
        "has no place for": tensors.keys() - shapes,
        "has another shape for": misshapen,
    }
    for fault, names in faults.items():
        if names:
            listed = ", ".join(sorted(names)[:_NUM_NAMED]) + (", …" if len(names) > _NUM_NAMED else "")
            raise BrokenWeights(f"The {what} {fault} {len(names)} of {len(shapes)} parameters: {listed}.")
