"""Adapters of random factors, in a store, and networks with such factors added to their weights."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deployments.engine.lora import LoraFactors
from store.blobs import Blobs
from store.keys import adapter_file
from weights.adapters import AdapterWeights, LoraLayer, unet_factors, write_peft

RANK = 4


def random_layers(
    network: nn.Module,
    seed: int,
    scale: float = 0.3,
    of: Callable[[str], bool] = lambda path: ".attn" in path,
) -> dict[str, LoraLayer]:
    """Factors for every Linear and Conv2d of ``network`` whose path is one ``of`` those wanted."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and of(path):
            out, *inner = layer.weight.shape
            down = torch.randn(RANK, *inner, generator=generator) * scale
            up = torch.randn(out, RANK, *(1 for _ in inner[1:]), generator=generator) * scale
            layers[path] = LoraLayer(down, up, alpha=2.0 * RANK)
    assert layers, "no layer of that name"
    return layers


def small_adapter(seed: int = 0, width: int = 8) -> AdapterWeights:
    """One layer of the UNet and one of the text encoder, of ``width``; they need not fit any model."""
    generator = torch.Generator().manual_seed(seed)
    layer = LoraLayer(
        torch.randn(RANK, width, generator=generator), torch.randn(width, RANK, generator=generator), 2.0
    )
    return AdapterWeights({"mid_block.attentions.0.proj_in": layer}, {"encoder.layers.0.mlp.fc1": layer})


def put(blobs: Blobs, adapter_id: str, weights: AdapterWeights) -> str:
    """Store an adapter; the SHA-256 of its file."""
    data = write_peft(weights)
    blobs.write(adapter_file(adapter_id), data)
    return hashlib.sha256(data).hexdigest()


def merge(network: nn.Module, factors: LoraFactors, weight: float = 1.0) -> None:
    """Add ``weight`` times ``factors`` to the network's own weights."""
    with torch.no_grad():
        for path, (down, up) in factors.items():
            layer: Any = network.get_submodule(path)
            layer.weight += weight * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)


def merged_family(family: Path, folder: Path, adapters: Mapping[float, AdapterWeights]) -> Path:
    """A copy of ``family`` in ``folder``, whose UNet has each adapter times its weight in its own weights."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(family, folder)
    unet = UNet2DConditionModel.from_pretrained(family / "unet")
    for weight, adapter in adapters.items():
        merge(unet, unet_factors(adapter), weight)
    unet.save_pretrained(folder / "unet")
    return folder


# Two float32 factors of one layer, 8 wide.
ADAPTER_BYTES = 2 * RANK * 8 * 4
FILES = {name: write_peft(small_adapter(seed)) for seed, name in enumerate("abcdef")}


class GatedStore:
    """Adapters a to f; a read waits for the gate. Once it is ``lost``, nothing can be read."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.lost: Exception | None = None
        self.read_keys: list[str] = []
        self.reading = threading.Event()

    def read(self, key: str) -> bytes:
        self.read_keys.append(key)
        self.reading.set()
        assert self.gate.wait(10)
        if self.lost is not None:
            raise self.lost
        return FILES[key.split("/")[1]]
