"""What an adapter is once it has been read: low-rank factors by layer, and a few facts.

Low-rank adaptation (Hu et al. 2022): a layer's weight W becomes W + alpha / rank × up @ down. Knows neither
files nor their key names.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

import torch

from weights.adapters.names import PARTS, SECOND_TEXT_ENCODER

# Module path in a network → (down, up), float32, alpha / rank multiplied into ``up``.
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


Number = TypeVar("Number", int, float)


class Fact(StrEnum):
    """Keys of an adapter's metadata that Limner writes. ``SHA256`` is :func:`tensors_sha256`."""

    BASE_MODEL = "limner.base_model"
    TRIGGER = "limner.trigger"
    SUBJECT = "limner.subject"
    STEPS = "limner.steps"
    RANK = "limner.rank"
    ALPHA = "limner.alpha"
    SHA256 = "limner.sha256"


class LoraLayer(NamedTuple):
    """One adapted layer, as stored: ``down`` ``[rank, in]`` and ``up`` ``[out, rank]``, or for a convolution
    ``[rank, in, kh, kw]`` and ``[out, rank, 1, 1]``, floats of any width on the CPU."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(down, up)`` in float32 with alpha / rank in ``up``: their product is what is added to W."""
        return self.down.float(), self.up.float() * (self.alpha / self.rank)


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """An adapter's layers by module path: the UNet's in diffusers' words, the text encoders' in those of
    transformers 5 (``encoder.layers.0.self_attn.q_proj``). Only models of Stable Diffusion XL have a second
    text encoder. ``metadata`` keys are those of :class:`Fact`."""

    unet: Mapping[str, LoraLayer]
    text_encoder: Mapping[str, LoraLayer]
    metadata: Mapping[str, str] = field(default_factory=dict)
    text_encoder_2: Mapping[str, LoraLayer] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Mapping[str, LoraLayer]]:
        """The layers by network, of those networks that have any."""
        every = {name: getattr(self, name) for name in PARTS}
        return {name: layers for name, layers in every.items() if layers}

    @property
    def rank(self) -> int:
        """The highest of its layers' ranks."""
        return max(layer.rank for layer in self._layers())

    @property
    def alpha(self) -> float:
        """The commonest alpha of the layers that have the highest rank."""
        rank = self.rank
        return commonest(layer.alpha for layer in self._layers() if layer.rank == rank)

    @property
    def num_steps(self) -> int | None:
        """Steps of its training, None where the file does not say."""
        said = self.metadata.get(Fact.STEPS, "")
        return int(said) if said.isascii() and said.isdigit() else None

    @property
    def num_bytes(self) -> int:
        """Size of its tensors in memory."""
        return sum(layer.down.nbytes + layer.up.nbytes for layer in self._layers())

    def _layers(self) -> Iterable[LoraLayer]:
        return tuple(layer for layers in self.parts.values() for layer in layers.values())


def unet_factors(weights: AdapterWeights) -> Factors:
    """The factors of the UNet's layers by module path, see :meth:`LoraLayer.factors`."""
    return {path: layer.factors() for path, layer in weights.unet.items()}


def text_encoder_factors(weights: AdapterWeights) -> Factors:
    """The factors of the text encoder's layers by module path, see :meth:`LoraLayer.factors`.

    Paths in the second text encoder begin with "text_encoder_2.".
    """
    own = {path: layer.factors() for path, layer in weights.text_encoder.items()}
    return own | {
        f"{SECOND_TEXT_ENCODER}.{path}": layer.factors() for path, layer in weights.text_encoder_2.items()
    }


def tensors_sha256(weights: AdapterWeights) -> str:
    """Hash of layer names, alphas and values, in hexadecimal. It stays the same in every layout of files,
    in wider floats, and whether a 1 × 1 convolution is written as such or as a linear layer."""
    digest = hashlib.sha256()
    for part, layers in weights.parts.items():
        for path in sorted(layers):
            layer = layers[path]
            digest.update(f"{part}.{path} {layer.alpha!r}".encode())
            for tensor in (layer.down, layer.up):
                digest.update(str(plain_shape(tensor)).encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def commonest(numbers: Iterable[Number]) -> Number:
    """The one that occurs most often, the greatest of several."""
    counts = Counter(numbers)
    return max(counts, key=lambda number: (counts[number], number))


def plain_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape, without the sides of a 1 × 1 kernel."""
    shape = tuple(tensor.shape)
    return shape[:2] if shape[2:] == (1, 1) else shape
