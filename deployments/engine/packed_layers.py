"""Layers that keep their weights in oneDNN's layout, and add bias, residual and gate in one product.

Knows one layer and its weights, with an adapter merged into them or without; parameters, their names and
layouts stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from deployments.engine.folded import Fold, Foldable

# The layers of a network with more bytes are busy with more than their weights.
_MAX_PACKED_BYTES = 256_000_000


def is_worth_packing(network: nn.Module) -> bool:
    """Whether the weights are few enough for a copy of them, and there is a oneDNN to take it.

    Without AVX-512 it takes none in bfloat16, and none in float16 anywhere.
    """
    num_bytes = sum(parameter.nbytes for parameter in network.parameters())
    dtype = next(network.parameters()).dtype
    takes = torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    return num_bytes <= _MAX_PACKED_BYTES and bool(takes)


def is_packed(network: nn.Module) -> bool:
    """Whether layers of ``network`` have packed weights."""
    return any("packed" in vars(module) for module in network.modules())


def pack_layers(network: nn.Module, map_sizes: dict[nn.Module, tuple[int, int]]) -> None:
    """Reorder the weights of layers once instead of at every call, in place.

    ``map_sizes`` are the ``(h, w)`` of the inputs of convolutions; maps of other sizes go through
    PyTorch's own layer. The reordered weights are a copy.
    """
    gated = {module.proj for module in network.modules() if type(module) is GEGLU}
    with torch.inference_mode():
        for module in list(network.modules()):
            if type(module) is GEGLU and type(module.proj) is nn.Linear and module.proj.bias is not None:
                module.__class__ = PackedGEGLU
                cast("PackedGEGLU", module).pack()
            elif type(module) is nn.Linear and module not in gated:
                module.__class__ = PackedLinear
                cast("PackedLinear", module).pack()
            elif type(module) is nn.Conv2d and module in map_sizes and _is_plain(module):
                module.__class__ = PackedConv2d
                cast("PackedConv2d", module).pack(map_sizes[module])
            if "joint" in vars(module):
                vars(module)["joint"].pack()


def fold_layers(network: nn.Module, merged: Mapping[nn.Module, Tensor]) -> Fold:
    """Have packed layers at hand with ``merged`` weights, of the layers named there, for when it is on."""
    fold = Fold()
    for module in network.modules():
        if isinstance(module, PackedLinear | PackedConv2d | PackedGEGLU):
            module.fold(fold, merged)
        if "joint" in vars(module):
            vars(module)["joint"].fold(fold, merged)
    return fold


def is_adapted(layer: nn.Module, folded: bool) -> bool:
    """Whether rows of the call under way have factors on top of a layer's weight.

    ``folded`` says whether the weight has those of the adapter in it that can be merged.
    """
    adapts = getattr(layer, "adapts", None)
    return adapts is not None and bool(adapts(folded))


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class PackedLinear(nn.Linear):
    """``nn.Linear`` that keeps its weight in oneDNN's layout, and adds bias and residual as it goes."""

    packed: Foldable[Tensor]

    def pack(self) -> None:
        # Not an attribute that ``nn.Module`` would look at: the copy is no part of the model's state.
        self.__dict__["packed"] = Foldable(reordered(self.weight))

    def fold(self, fold: Fold, merged: Mapping[nn.Module, Tensor]) -> None:
        if self in merged:
            self.packed.fold(fold, reordered(merged[self]))

    def forward(self, input: Tensor) -> Tensor:
        return packed_linear(input, self.packed.now, self.bias)

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        """``self(input) + residual``, for a ``residual`` of the output's shape."""
        return _linear_binary(input, residual, self.packed.now, self.bias, "add")


class PackedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with its weight in oneDNN's layout, for maps ``[batch, channels, h, w]`` of one size.

    A kernel of one pixel is a matrix product, which takes any size.
    """

    packed: Foldable[Tensor]
    map_size: tuple[int, int] | None

    def pack(self, map_size: tuple[int, int]) -> None:
        pointwise = self.kernel_size == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        self.__dict__["map_size"] = None if pointwise else map_size
        self.__dict__["packed"] = Foldable(self._reordered(self.weight))

    def fold(self, fold: Fold, merged: Mapping[nn.Module, Tensor]) -> None:
        if self in merged:
            self.packed.fold(fold, self._reordered(merged[self]))

    def takes(self, input: Tensor) -> bool:
        """Whether the packed weight is for maps of this size."""
        return self.map_size is None or input.shape[2:] == self.map_size

    def forward(self, input: Tensor) -> Tensor:
        if self.map_size is None:
            return packed_linear(input.permute(0, 2, 3, 1), self.packed.now, self.bias).permute(0, 3, 1, 2)
        if not self.takes(input):
            return super().forward(input)
        convolve = torch.ops.mkldnn._convolution_pointwise
        output: Tensor = convolve(
            input, self.packed.now, self.bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
        )
        return output

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        """``self(input) + residual``, for a ``residual`` of the output's shape."""
        packed = self.packed.now
        if self.map_size is None:
            positions, others = input.permute(0, 2, 3, 1), residual.permute(0, 2, 3, 1)
            return _linear_binary(positions, others, packed, self.bias, "add").permute(0, 3, 1, 2)
        if not self.takes(input):
            return super().forward(input).add_(residual)
        geometry = (self.padding, self.stride, self.dilation, 1)
        convolve = torch.ops.mkldnn._convolution_pointwise.binary
        output: Tensor = convolve(input, residual, packed, self.bias, *geometry, "add", 1.0, None, [], None)
        return output

    def _reordered(self, weight: Tensor) -> Tensor:
        if self.map_size is None:
            return reordered(weight.flatten(1))
        assert not isinstance(self.padding, str)
        shape = (2, self.in_channels, *self.map_size)
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, shape
        )
        return packed


class PackedGEGLU(GEGLU):  # type: ignore[misc]
    """diffusers' gated unit with its two halves as products of their own, the gate's with GELU in it."""

    # The weights of the value and of the gate.
    halves: Foldable[list[Tensor]]
    biases: tuple[Tensor, Tensor]

    def pack(self) -> None:
        self.__dict__["halves"] = Foldable([reordered(half) for half in self.proj.weight.chunk(2)])
        self.__dict__["biases"] = self.proj.bias.chunk(2)

    def fold(self, fold: Fold, merged: Mapping[nn.Module, Tensor]) -> None:
        if self.proj in merged:
            self.halves.fold(fold, [reordered(half) for half in merged[self.proj].chunk(2)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        # An adapter adds to both halves at once.
        if is_adapted(self.proj, self.halves.is_folded):
            output: Tensor = super().forward(hidden_states)
            return output
        (value, gate), (value_bias, gate_bias) = self.halves.now, self.biases
        gated = packed_linear(hidden_states, gate, gate_bias, "gelu")
        return _linear_binary(hidden_states, gated, value, value_bias, "mul")


def reordered(weight: Tensor) -> Tensor:
    """A weight ``[out, in]`` in oneDNN's layout, which is the same for any number of positions."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 512)
    return packed


def packed_linear(input: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """``F.linear`` of a :func:`reordered` weight, and then perhaps "gelu"."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, activation, [], "none")
    return output


def _linear_binary(
    input: Tensor, other: Tensor, packed: Tensor, bias: Tensor | None, operation: str
) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(input, other, packed, bias, operation)
    return output
