"""Faster bfloat16 layers for UNets and branches on a CPU: the same mathematics by other PyTorch kernels.

Knows which kernels PyTorch 2.13 is slow at; parameters, their names and layouts stay as they are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

# PyTorch normalizes channels-last maps below this many positions by a kernel that crawls in bfloat16:
# 128 channels of 16 x 16 take 410 us there, 63 us by way of float32.
_SMALL_MAP = 1024
# A matrix of attention scores of one head up to this size is spelled out; longer sequences are left to
# flash attention.
_MAX_SCORES = 2**17
# So many scores at a time stay in the cache: eight rows of 256 positions and 4 heads take 2.0 ms so,
# 3.2 ms at once, and 2.5 ms in flash attention.
_SCORES_AT_ONCE = 2**19
# Softmax over other than a multiple of these many bfloat16 values falls back to one value at a time.
_VECTOR = 16
# The layers of a network with more bytes are busy with more than their weights.
_MAX_PACKED_BYTES = 256_000_000


def use_cpu_layers(network: nn.Module) -> None:
    """Switch the group norms and the attention of diffusers blocks in bfloat16, in place."""
    attention = ShortAttention()
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = MixedGroupNorm
        elif isinstance(module, Attention):
            module.set_processor(attention)


def is_worth_packing(network: nn.Module) -> bool:
    """Whether the weights are few enough for a copy of them, and there is oneDNN to take it."""
    num_bytes = sum(parameter.nbytes for parameter in network.parameters())
    return num_bytes <= _MAX_PACKED_BYTES and torch.backends.mkldnn.is_available()


def pack_layers(network: nn.Module, map_sizes: dict[nn.Module, tuple[int, int]]) -> None:
    """Reorder the weights of layers in bfloat16 once instead of at every call, in place.

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


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class PackedLinear(nn.Linear):
    """``nn.Linear`` that keeps its weight in oneDNN's layout, and adds bias and residual as it goes."""

    packed: Tensor

    def pack(self) -> None:
        # Not an attribute that ``nn.Module`` would look at: the copy is no part of the model's state.
        self.__dict__["packed"] = _packed(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return _linear(input, self.packed, self.bias)

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        """``self(input) + residual``, for a ``residual`` of the output's shape."""
        return _linear_binary(input, residual, self.packed, self.bias, "add")


class PackedConv2d(nn.Conv2d):
    """``nn.Conv2d`` with its weight in oneDNN's layout, for maps ``[batch, channels, h, w]`` of one size.

    A kernel of one pixel is a matrix product, which takes any size.
    """

    packed: Tensor
    map_size: tuple[int, int] | None

    def pack(self, map_size: tuple[int, int]) -> None:
        pointwise = self.kernel_size == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        if pointwise:
            packed, size = _packed(self.weight.flatten(1).contiguous()), None
        else:
            assert not isinstance(self.padding, str)
            shape = (2, self.in_channels, *map_size)
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, shape
            )
            size = map_size
        self.__dict__.update(packed=packed, map_size=size)

    def forward(self, input: Tensor) -> Tensor:
        if self.map_size is None:
            return _linear(input.permute(0, 2, 3, 1), self.packed, self.bias).permute(0, 3, 1, 2)
        if input.shape[2:] != self.map_size:
            return super().forward(input)
        convolve = torch.ops.mkldnn._convolution_pointwise
        output: Tensor = convolve(
            input, self.packed, self.bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
        )
        return output

    def plus(self, input: Tensor, residual: Tensor) -> Tensor:
        """``self(input) + residual``, for a ``residual`` of the output's shape."""
        if self.map_size is None:
            positions, others = input.permute(0, 2, 3, 1), residual.permute(0, 2, 3, 1)
            return _linear_binary(positions, others, self.packed, self.bias, "add").permute(0, 3, 1, 2)
        if input.shape[2:] != self.map_size:
            return super().forward(input).add_(residual)
        geometry = (self.padding, self.stride, self.dilation, 1)
        convolve = torch.ops.mkldnn._convolution_pointwise.binary
        output: Tensor = convolve(
            input, residual, self.packed, self.bias, *geometry, "add", 1.0, None, [], None
        )
        return output


class PackedGEGLU(GEGLU):  # type: ignore[misc]
    """diffusers' gated unit with its two halves as products of their own, the gate's with GELU in it."""

    halves: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

    def pack(self) -> None:
        weights, biases = self.proj.weight.chunk(2), self.proj.bias.chunk(2)
        value, gate = ((_packed(w), b.contiguous()) for w, b in zip(weights, biases, strict=True))
        self.__dict__["halves"] = (value, gate)

    def forward(self, hidden_states: Tensor) -> Tensor:
        # An adapter adds to both halves at once.
        if getattr(self.proj, "is_adapted", False):
            output: Tensor = super().forward(hidden_states)
            return output
        value, gate = self.halves
        return _linear_binary(hidden_states, _linear(hidden_states, *gate, "gelu"), *value, "mul")


class MixedGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that takes small maps ``[batch, channels, h, w]`` through float32."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:].numel() >= _SMALL_MAP:
            return super().forward(input)
        return self._by_way_of_float32(input).to(input.dtype)

    def activated(self, input: Tensor) -> Tensor:
        """``F.silu(self(input))``."""
        if input.shape[2:].numel() >= _SMALL_MAP:
            return F.silu(super().forward(input), inplace=True)
        return F.silu(self._by_way_of_float32(input), inplace=True).to(input.dtype)

    def _by_way_of_float32(self, input: Tensor) -> Tensor:
        return F.group_norm(input.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)


class ShortAttention:
    """An attention processor that spells small score matrices out and leaves others to flash attention."""

    def __init__(self) -> None:
        self._other = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if hidden_states.ndim != 3 or attention_mask is not None or not is_plain(attn):
            attended: Tensor = self._other(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return attended
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        attended = attn.to_out[0](attend(query, key, value, attn.heads, attn.scale))
        return attended + hidden_states if attn.residual_connection else attended


def is_plain(attn: Any) -> bool:
    """Whether a diffusers ``Attention`` does nothing but project, attend and project."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.add_k_proj)
    return not any(each is not None and each is not False for each in extras) and (
        attn.rescale_output_factor == 1 and not attn.upcast_attention and not attn.upcast_softmax
    )


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """Attention of ``heads`` heads without a mask: ``[rows, queries, width]`` of ``[rows, keys, width]``."""
    rows, num_queries, width = query.shape
    num_keys, depth = key.shape[1], width // heads
    q, k, v = (each.view(rows, -1, heads, depth).transpose(1, 2) for each in (query, key, value))
    num_scores = num_queries * num_keys
    if query.dtype != torch.bfloat16 or query.is_cuda or num_scores > _MAX_SCORES:
        attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    else:
        q, k, v = (each.reshape(rows * heads, -1, depth) for each in (q, k, v))
        at_once = max(1, _SCORES_AT_ONCE // num_scores)
        batches = zip(q.split(at_once), k.split(at_once), v.split(at_once), strict=True)
        parts = [_spelled(*batch, scale) for batch in batches]
        attended = (parts[0] if len(parts) == 1 else torch.cat(parts)).view(rows, heads, num_queries, depth)
    return attended.transpose(1, 2).reshape(rows, num_queries, width)


def _spelled(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    scores = torch.baddbmm(
        query.new_empty(len(query), query.shape[1], key.shape[1]), query, key.mT, beta=0, alpha=scale
    )
    if key.shape[1] % _VECTOR:
        return torch.bmm(scores.float().softmax(-1).to(query.dtype), value)
    return torch.bmm(scores.softmax(-1), value)


def _packed(weight: Tensor) -> Tensor:
    """A weight ``[out, in]`` in oneDNN's layout, which is the same for any number of positions."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 512)
    return packed


def _linear(input: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(input, packed, bias, activation, [], "none")
    return output


def _linear_binary(
    input: Tensor, other: Tensor, packed: Tensor, bias: Tensor | None, operation: str
) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise.binary(input, other, packed, bias, operation)
    return output
