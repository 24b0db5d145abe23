"""Faster bfloat16 layers for UNets and branches on a CPU: the same mathematics by other PyTorch kernels.

Knows which kernels PyTorch 2.13 is slow at; parameters, their names and layouts stay as they are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
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


def use_cpu_layers(network: nn.Module) -> None:
    """Switch the group norms and the attention of diffusers blocks in bfloat16, in place."""
    attention = ShortAttention()
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = MixedGroupNorm
            cast("MixedGroupNorm", module).widen()
        elif isinstance(module, Attention):
            module.set_processor(attention)


class MixedGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that takes small maps ``[batch, channels, h, w]`` through float32."""

    wide: tuple[Tensor, Tensor]

    def widen(self) -> None:
        """Keep weight and bias in float32, too."""
        self.__dict__["wide"] = (self.weight.detach().float(), self.bias.detach().float())

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
        return torch.group_norm(input.float(), self.num_groups, *self.wide, self.eps)


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
    return attend_by_head(query, by_head(key, heads), by_head(value, heads), scale)


def by_head(tokens: Tensor, heads: int) -> Tensor:
    """``[rows, heads, tokens, depth]`` of ``[rows, tokens, heads * depth]``, a view."""
    rows, num_tokens, width = tokens.shape
    return tokens.view(rows, num_tokens, heads, width // heads).transpose(1, 2)


def attend_by_head(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """:func:`attend` with keys and values that are :func:`by_head` already."""
    rows, num_queries, width = query.shape
    heads, num_keys, depth = key.shape[1:]
    num_scores = num_queries * num_keys
    if query.dtype != torch.bfloat16 or query.is_cuda or num_scores > _MAX_SCORES:
        attended = F.scaled_dot_product_attention(by_head(query, heads), key, value, scale=scale)
    else:
        # Scores that are scaled as they are multiplied take up to four times as long.
        scaled = by_head(query * scale, heads)
        batch = [each.reshape(rows * heads, -1, depth) for each in (scaled, key, value)]
        if rows * heads * num_scores <= _SCORES_AT_ONCE:
            attended = _spelled(*batch)
        else:
            at_once = max(1, _SCORES_AT_ONCE // num_scores)
            parts = zip(*(each.split(at_once) for each in batch), strict=True)
            attended = torch.cat([_spelled(*part) for part in parts])
        attended = attended.view(rows, heads, num_queries, depth)
    return attended.transpose(1, 2).reshape(rows, num_queries, width)


def _spelled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.bmm(query, key.mT)
    if key.shape[1] % _VECTOR:
        return torch.bmm(scores.float().softmax(-1).to(query.dtype), value)
    return torch.bmm(scores.softmax(-1), value)
