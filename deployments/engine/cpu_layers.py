"""Faster bfloat16 layers for UNets and branches on a CPU: the same mathematics by other PyTorch kernels.

Knows which kernels PyTorch 2.13 is slow at; parameters, their names and layouts stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

# PyTorch normalizes channels-last maps below this many positions by a kernel that crawls in bfloat16:
# 128 channels of 16 x 16 take 410 us there, 63 us by way of float32.
_SMALL_MAP = 1024
# Up to this many attention scores, over all rows and heads, their matrix fits the cache and is worth it:
# for 2 rows of 256 positions and 4 heads 587 us against 1077 us of flash attention, for 8 rows no more.
_MAX_SCORES = 2**20


def use_cpu_layers(network: nn.Module) -> None:
    """Switch the group norms and the attention of diffusers blocks in bfloat16, in place."""
    attention = ShortAttention()
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = MixedGroupNorm
        elif isinstance(module, Attention):
            module.set_processor(attention)


class MixedGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that takes small maps ``[batch, channels, h, w]`` through float32."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:].numel() >= _SMALL_MAP:
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


class ShortAttention:
    """An attention processor that spells small score matrices out and leaves others to flash attention."""

    def __init__(self) -> None:
        self._short, self._long = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        num_queries = hidden_states.shape[1] if hidden_states.ndim == 3 else hidden_states[0, 0].numel()
        num_keys = num_queries if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        num_scores = len(hidden_states) * attn.heads * num_queries * num_keys
        processor = self._short if num_scores <= _MAX_SCORES else self._long
        attended: Tensor = processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return attended
