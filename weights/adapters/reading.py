"""Adapter files to layers, whatever their layout. Knows what a LoRA may be; not which model it is for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from core.training import MAX_RANK
from weights.adapters.container import read_container, refusal, shown
from weights.adapters.layers import AdapterWeights, Fact, LoraLayer
from weights.adapters.names import PARTS, TEXT_LEVEL, Key, key_of

# The whole of Stable Diffusion XL, convolutions and both text encoders, has 1 100.
MAX_LAYERS = 1_500
MAX_ALPHA = 65_504.0
# diffusers' and PEFT's own settings of the LoRA, as JSON.
SETTINGS_KEY = "lora_adapter_metadata"
_MAX_FACT_CHARS = 200
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# What cannot be told from the tensors' names, in the settings.
_FOREIGN_SETTINGS = {
    "use_dora": "a DoRA, whose weights have a magnitude of their own",
    "lora_bias": "a LoRA with biases",
    "fan_in_fan_out": "a LoRA of transposed layers",
    "modules_to_save": "an adapter with whole layers beside its factors",
}

Sides = dict[str, torch.Tensor]


def read_adapter(data: bytes) -> AdapterWeights:
    """The adapter in a safetensors file of PEFT, diffusers or kohya layout, values as they are stored.

    Without an alpha in the file, alpha is the rank, as in diffusers. Raises :class:`InvalidRequest` (field
    "file") that says what the file is where it is anything but a LoRA of a UNet and its text encoders, is
    broken, or is over a limit. Nothing of it is ever executed.
    """
    tensors, metadata = read_container(data)
    layers = _sorted(tensors)
    if not layers:
        raise refusal("The file has no layers of a LoRA.")
    if len(layers) > MAX_LAYERS:
        raise refusal(f"The file has {len(layers)} layers; at most {MAX_LAYERS} are taken.", limit=MAX_LAYERS)
    settings = _Settings.of(metadata)
    read: dict[str, dict[str, LoraLayer]] = {part: {} for part in PARTS}
    for (part, path), sides in layers.items():
        read[part][path] = _layer(f"{part}.{path}", sides, settings[part], path)
    return AdapterWeights(**read, metadata=_facts(metadata))


def _sorted(tensors: Mapping[str, torch.Tensor]) -> dict[tuple[str, str], Sides]:
    """The tensors by part and path, then by side."""
    layers: dict[tuple[str, str], Sides] = {}
    for name, tensor in tensors.items():
        key: Key = key_of(name)
        sides = layers.setdefault((key.part, key.path), {})
        if key.side in sides:
            raise refusal(f"The file has {key.side} of {shown(key.path)} twice, once as {shown(name)}.")
        sides[key.side] = tensor
    return layers


def _layer(name: str, sides: Sides, settings: _Settings, path: str) -> LoraLayer:
    missing = [side for side in ("down", "up") if side not in sides]
    if missing:
        raise refusal(f"The file is incomplete: {shown(name)} lacks its {' and '.join(missing)} tensor.")
    down, up = sides["down"], sides["up"]
    for tensor in (down, up):
        if tensor.dtype not in _FLOATS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise refusal(f"{shown(name)} is {dtype}; adapters are float32, float16 or bfloat16.")
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[2:].numel() != 1:
        raise _misshapen(name, down, up)
    # A linear factor may be written as a 1 × 1 convolution beside one that is not.
    up = up.reshape(*up.shape[:2], *[1] * (down.ndim - 2))
    rank = len(down)
    if rank != up.shape[1]:
        raise _misshapen(name, down, up)
    if rank > MAX_RANK:
        raise refusal(f"{shown(name)} has rank {rank}; ranks up to {MAX_RANK} are taken.", limit=MAX_RANK)
    alpha = _alpha(name, sides["alpha"]) if "alpha" in sides else settings.alpha(path, rank)
    if not 0 < alpha <= MAX_ALPHA:
        raise refusal(f"{shown(name)} has alpha {alpha}; it has to be in (0, {MAX_ALPHA}].", limit=MAX_ALPHA)
    return LoraLayer(down, up, alpha)


def _alpha(name: str, tensor: torch.Tensor) -> float:
    if tensor.numel() != 1:
        raise refusal(f"{shown(name)} has {tensor.numel()} values for alpha.")
    return float(tensor.item())


def _misshapen(name: str, down: torch.Tensor, up: torch.Tensor) -> Exception:
    return refusal(f"{shown(name)} is no LoRA: its factors are {list(down.shape)} and {list(up.shape)}.")


class _Settings:
    """What PEFT's settings say of the alphas of one part."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name, what in _FOREIGN_SETTINGS.items():
            if values.get(name):
                raise refusal(f"The file is {what}. Only plain LoRA files are taken.")
        pattern = values.get("alpha_pattern") or {}
        if not isinstance(pattern, dict) or len(pattern) > MAX_LAYERS:
            raise refusal("The file's alpha_pattern cannot be read.")
        self._default = _number("lora_alpha", values["lora_alpha"]) if "lora_alpha" in values else None
        self._pattern = {_literal(key): _number(key, alpha) for key, alpha in pattern.items()}
        self._by_root = bool(values.get("use_rslora"))

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> dict[str, _Settings]:
        """The settings of each part. Raises :class:`InvalidRequest` where they cannot be read."""
        try:
            values = json.loads(metadata.get(SETTINGS_KEY, "{}"))
        except (ValueError, RecursionError) as error:
            raise refusal(f"The file's {SETTINGS_KEY} cannot be read.") from error
        if not isinstance(values, dict):
            raise refusal(f"The file's {SETTINGS_KEY} cannot be read.")
        return {part: cls(_under(part, values)) for part in PARTS}

    def alpha(self, path: str, rank: int) -> float:
        """By the first pattern that ends the layer's path, as PEFT does; the rank where nothing is said."""
        matching = (alpha for key, alpha in self._pattern.items() if f".{path}".endswith(f".{key}"))
        alpha = next(matching, self._default)
        if alpha is None:
            return float(rank)
        # Rank-stabilised LoRA (Kalajdzievski 2023) divides by the root of the rank.
        return alpha * math.sqrt(rank) if self._by_root else alpha


def _under(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{part}."
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def _literal(key: str) -> str:
    """A pattern's layer. PEFT takes regular expressions; those of a stranger are not run."""
    plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".").removeprefix(TEXT_LEVEL)
    if not plain.replace(".", "").replace("_", "").isalnum():
        raise refusal(
            f"The file's alpha_pattern has a regular expression, {shown(key)}; name the layers instead."
        )
    return plain


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"The file's alpha for {shown(name)} is not a number.")
    # A whole number too large for a float becomes one that is refused as such.
    return float(value) if abs(value) <= MAX_ALPHA else math.inf


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """What Limner wrote, and a kohya file's steps. Notes of other trainers, even captions, are left out."""
    known = set(Fact) - {Fact.SHA256}
    facts = {key: value for key, value in metadata.items() if key in known and len(value) <= _MAX_FACT_CHARS}
    steps = metadata.get("ss_steps", "")
    if steps.isascii() and steps.isdigit() and len(steps) <= 9:
        facts.setdefault(Fact.STEPS, steps)
    return facts
