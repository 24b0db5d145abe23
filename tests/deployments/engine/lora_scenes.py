"""Adapters in few words, shared by the tests of the slots, and PEFT's own answer to hold them against."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYTHING = (
    *ATTENTION,
    "ff.net.0.proj",
    "ff.net.2",
    "proj_in",
    "proj_out",
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "conv_in",
    "conv",
    "linear_1",
)


def peft_unet(unet: Any, configs: Mapping[str, LoraConfig], seed: int = 0) -> Any:
    """A copy of ``unet`` in which PEFT has put adapters of these names, with random factors."""
    wrapped = copy.deepcopy(unet)
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, config in configs.items():
            wrapped.add_adapter(config, adapter_name=name)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return wrapped.eval().requires_grad_(False)


def factors_of(wrapped: nn.Module, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors that PEFT has put into ``wrapped``, as the slots take them."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for path, module in wrapped.named_modules():
        if name in getattr(module, "lora_A", {}):
            layer: Any = module
            found[path] = (layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name])
    return found


def merged(wrapped: Any, stack: Sequence[tuple[str, float]]) -> Any:
    """A copy of ``wrapped`` with the stack's adapters merged into its weights by PEFT itself."""
    own = copy.deepcopy(wrapped)
    if not stack:
        own.disable_adapters()
        return own
    own.set_adapters([name for name, _ in stack], [weight for _, weight in stack])
    own.fuse_lora()
    return own


def random_factors(
    network: nn.Module, rank: int, seed: int, targets: Sequence[str] = ATTENTION, size: float = 0.3
) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors for every layer of ``network`` whose path ends with one of ``targets``."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and f".{path}".endswith(
            tuple(f".{each}" for each in targets)
        ):
            down = torch.randn(rank, *module.weight.shape[1:], generator=generator)
            up = torch.randn(len(module.weight), rank, *[1] * (module.weight.ndim - 2), generator=generator)
            found[path] = (size * down, size * up)
    return found


def relative_error(got: Tensor, expected: Tensor) -> float:
    """The largest error of any row, relative to the norm of what is expected there."""
    errors = (got.double() - expected.double()).flatten(1).norm(dim=1) / expected.double().flatten(1).norm(
        dim=1
    )
    return float(errors.max())
