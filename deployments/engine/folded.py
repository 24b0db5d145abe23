"""Weights with another set in their place for a while: the same with an adapter merged into them.

Knows two sets of weights and which of them counts; does not know layers, or whose the adapter is.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Fold:
    """Whether calls use the merged weights just now. One for all layers of a network."""

    def __init__(self) -> None:
        self.on = False


class Foldable(Generic[T]):
    """The weights of a layer, in whatever form it multiplies by."""

    def __init__(self, own: T) -> None:
        self._own = self._merged = own
        self._fold = Fold()

    def fold(self, fold: Fold, merged: T) -> None:
        """Have ``merged`` stand in while ``fold`` is on."""
        self._fold, self._merged = fold, merged

    def __deepcopy__(self, memo: dict[int, object]) -> Foldable[T]:
        # Packed weights cannot be copied, and never change.
        copied = Foldable(self._own)
        copied.fold(copy.deepcopy(self._fold, memo), self._merged)
        return copied

    @property
    def is_folded(self) -> bool:
        return self._fold.on

    @property
    def now(self) -> T:
        """The weights that count."""
        return self._merged if self._fold.on else self._own


def merged_weight(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """``weight`` ``[out, in, …]`` plus ``up @ down``, summed in float32 and rounded once.

    ``down`` is ``[rank, in, …]``, ``up`` ``[out, rank, …]``.
    """
    rank = len(down)
    product = up.reshape(len(up), rank).float() @ down.reshape(rank, -1).float()
    layout = torch.channels_last if _is_channels_last(weight) else torch.contiguous_format
    summed = weight.float() + product.view(weight.shape).to(weight.device)
    return summed.to(weight.dtype).contiguous(memory_format=layout)


def _is_channels_last(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
