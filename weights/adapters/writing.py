"""Layers to adapter files: PEFT layout for diffusers and PEFT, kohya's for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from weights.adapters.container import write_container
from weights.adapters.layers import AdapterWeights, Fact, LoraLayer, commonest, tensors_sha256
from weights.adapters.names import kohya_name
from weights.adapters.reading import SETTINGS_KEY

_CONTEXT_READER, _SDXL_CONTEXT = "attn2.to_k", 2048


def write_peft(weights: AdapterWeights) -> bytes:
    """A file that diffusers' ``load_lora_weights`` and PEFT load, values and dtypes as they are here.

    Its settings name every layer with its own rank and alpha: left to itself, diffusers takes alpha for the
    rank. The same adapter makes the same bytes.
    """
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for part, layers in weights.parts.items():
        for path, layer in layers.items():
            tensors[f"{part}.{path}.lora_A.weight"] = layer.down
            tensors[f"{part}.{path}.lora_B.weight"] = layer.up
        settings |= {f"{part}.{key}": value for key, value in _settings(layers).items()}
    described = json.dumps(settings, indent=2, sort_keys=True)
    return write_container(tensors, {**_facts(weights), SETTINGS_KEY: described})


def write_kohya(weights: AdapterWeights) -> bytes:
    """A file in the layout of kohya's sd-scripts, each layer with its own alpha, block names of diffusers."""
    tensors: dict[str, torch.Tensor] = {}
    for part, layers in weights.parts.items():
        for path, layer in layers.items():
            name = kohya_name(part, path, counted=_is_sdxl(weights))
            tensors[f"{name}.lora_down.weight"] = layer.down
            tensors[f"{name}.lora_up.weight"] = layer.up
            tensors[f"{name}.alpha"] = _scalar(layer.alpha)
    facts = _facts(weights)
    told = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": facts[Fact.RANK],
        "ss_network_alpha": facts[Fact.ALPHA],
    }
    if Fact.TRIGGER in facts:
        told["modelspec.trigger_phrase"] = f"{facts[Fact.TRIGGER]} {facts.get(Fact.SUBJECT, '')}".strip()
    if Fact.STEPS in facts:
        told["ss_steps"] = facts[Fact.STEPS]
    return write_container(tensors, {**facts, **told})


def _is_sdxl(weights: AdapterWeights) -> bool:
    """Whether it is for a model with two text encoders, by the layers that it has."""
    widths = (layer.down.shape[1] for path, layer in weights.unet.items() if path.endswith(_CONTEXT_READER))
    return bool(weights.text_encoder_2) or _SDXL_CONTEXT in widths


def _settings(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Arguments of ``peft.LoraConfig``: the commonest rank and alpha, and every layer that has others."""
    rank = commonest(layer.rank for layer in layers.values())
    alpha = commonest(layer.alpha for layer in layers.values())
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {path: layer.rank for path, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {path: layer.alpha for path, layer in layers.items() if layer.alpha != alpha},
        "target_modules": sorted(layers),
    }


def _facts(weights: AdapterWeights) -> dict[str, str]:
    """The metadata, with what follows from the tensors brought up to date."""
    return {
        **weights.metadata,
        Fact.RANK: str(weights.rank),
        Fact.ALPHA: f"{weights.alpha:g}",
        Fact.SHA256: tensors_sha256(weights),
    }


def _scalar(alpha: float) -> torch.Tensor:
    """``alpha`` in float32 where that is exact, as other programs write it."""
    single = torch.tensor(alpha, dtype=torch.float32)
    return single if single.item() == alpha else torch.tensor(alpha, dtype=torch.float64)
