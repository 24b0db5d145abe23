"""Linear layers of the same input as one product.

Knows layers and their weights; does not know what their outputs mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engine.folded import Fold, Foldable
from deployments.engine.packed_layers import is_adapted, packed_linear, reordered


class Joint:
    """The outputs of several ``nn.Linear`` of the same input, in their order.

    The weights of the layers become views of one, so they are in memory once. While adapters act on one
    of the layers, each is called on its own.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers = list(layers)
        self._sizes = [layer.out_features for layer in layers]
        self._weight = torch.cat([layer.weight.data for layer in layers])
        biases = [layer.bias.data for layer in layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        for layer, weight in zip(layers, self._weight.split(self._sizes), strict=True):
            layer.weight.data = weight
        if self._bias is not None:
            for layer, bias in zip(layers, self._bias.split(self._sizes), strict=True):
                layer.bias.data = bias
        self._packed: Foldable[Tensor] | None = None

    @property
    def is_folded(self) -> bool:
        """Whether an adapter is merged into the weights just now."""
        return self._packed is not None and self._packed.is_folded

    @property
    def is_adapted(self) -> bool:
        """Whether rows of the call under way have factors on top of the weights."""
        folded = self.is_folded
        return any(is_adapted(layer, folded) for layer in self._layers)

    def __call__(self, input: Tensor) -> Sequence[Tensor]:
        if self.is_adapted:
            return [layer.forward(input) for layer in self._layers]
        if self._packed is None:
            output = F.linear(input, self._weight, self._bias)
        else:
            output = packed_linear(input, self._packed.now, self._bias)
        return output.split_with_sizes(self._sizes, -1)

    def pack(self) -> None:
        """Multiply by a copy of the weights in oneDNN's layout."""
        self._packed = Foldable(reordered(self._weight))

    def fold(self, fold: Fold, merged: Mapping[nn.Module, Tensor]) -> None:
        """Use the ``merged`` weights of the layers while ``fold`` is on, where it is packed."""
        if self._packed is not None and not merged.keys().isdisjoint(self._layers):
            weights = [merged.get(layer, layer.weight) for layer in self._layers]
            self._packed.fold(fold, reordered(torch.cat(weights)))
