"""Whether an adapter is for a model, told from the headers of the model's files. No network is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.errors import InvalidRequest
from weights import registry
from weights.adapters.container import refusal, shown
from weights.adapters.layers import AdapterWeights, LoraLayer, plain_shape
from weights.adapters.names import SECOND_TEXT_ENCODER, TEXT_LEVEL, UNET
from weights.tensor_file import read_tensors

Shapes = Mapping[str, tuple[int, ...]]
Layers = Mapping[str, LoraLayer]
# Width of the context that cross-attention reads, by which families are told apart.
_FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_CONTEXT_READER = "attn2.to_k"
# Tables of vectors, whose weights look like those of linear layers.
_TABLES = ("token_embedding", "position_embedding")


def check_fits(weights: AdapterWeights, model_id: str, manifest: Path = registry.MANIFEST) -> AdapterWeights:
    """The adapter as ``model_id`` takes it: 1 × 1 convolutions and linear layers as the model has them.

    Raises :class:`InvalidRequest` (field "file") for an adapter of another base model, naming the first layer
    that does not fit and its shape, and what the registry raises.
    """
    fitted: dict[str, dict[str, LoraLayer]] = {}
    for part, layers in weights.parts.items():
        if part == SECOND_TEXT_ENCODER and not registry.has_part(model_id, part, manifest):
            raise refusal(
                f"The adapter is not for the model {model_id}: it is one for SDXL, which has a second text "
                "encoder.",
                limit=model_id,
            )
        shapes = layer_shapes(model_id, part, manifest)
        fitted[part] = {path: _fitted(part, path, layers, shapes, model_id) for path in layers}
    every: dict[str, Any] = {**fitted}
    return replace(weights, **every)


def layer_shapes(model_id: str, part: str, manifest: Path = registry.MANIFEST) -> Shapes:
    """Shapes of the weights of a network's linear and convolution layers, by module path."""
    folder = registry.verified_part(model_id, part, manifest)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in read_tensors(file).items():
            path = name.removesuffix(".weight").removeprefix("" if part == UNET else TEXT_LEVEL)
            is_layer = len(tensor.shape) in (2, 4) and path.rpartition(".")[2] not in _TABLES
            if name.endswith(".weight") and is_layer:
                shapes[path] = tensor.shape
    return shapes


def _fitted(part: str, path: str, layers: Layers, shapes: Shapes, model_id: str) -> LoraLayer:
    layer, own = layers[path], shapes.get(path)
    out, into = len(layer.up), list(layer.down.shape[1:])
    change = [out, *plain_shape(layer.down)[1:]]
    about = f"its layer {shown(f'{part}.{path}')} changes weights of shape {change}"
    if own is None:
        raise _misfit(f"{about}, and the model has no such layer", layers, model_id)
    plain = own[:2] if own[2:] == (1, 1) else own
    if change != list(plain):
        raise _misfit(f"{about}, where the model's has {list(plain)}", layers, model_id)
    if into == list(own[1:]):
        return layer
    ones = [1] * (len(own) - 2)
    return LoraLayer(_reshaped(layer.down, ones), _reshaped(layer.up, ones), layer.alpha)


def _reshaped(factor: torch.Tensor, ones: list[int]) -> torch.Tensor:
    return factor.reshape(*factor.shape[:2], *ones)


def _misfit(what: str, layers: Layers, model_id: str) -> InvalidRequest:
    widths = {layer.down.shape[1] for path, layer in layers.items() if path.endswith(_CONTEXT_READER)}
    family = _FAMILIES.get(widths.pop()) if len(widths) == 1 else None
    made_for = f" It looks like one for {family}." if family else ""
    return refusal(f"The adapter is not for the model {model_id}: {what}.{made_for}", limit=model_id)
