"""Makes a UNet fast on the device it is given: layout, precision, threads. Knows no requests."""

from __future__ import annotations

import copy
import logging
import math
import os
from typing import TypeVar

import torch
from torch import Tensor, nn

from core.settings import Precision
from core.telemetry import log, logger
from deployments.engine.cpu_layers import pack_layers, use_cpu_layers
from deployments.engine.lean_unet import as_published, make_lean
from deployments.engine.network import measure_step_ms, native_key

_LOG = logger(__name__)
Module = TypeVar("Module", bound=nn.Module)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Lower precision has to earn its rounding errors: at most this share of float32's time.
_WORTH_IT = 0.9
_NUM_ROUNDS = 4
_CPU = torch.device("cpu")


def fast_unet(
    unet: nn.Module, precision: Precision, device: torch.device | str, num_threads: int
) -> tuple[nn.Module, torch.dtype]:
    """``unet`` ready for inference on ``device``, and the dtype of its weights.

    "auto" takes bfloat16 on a GPU; on a CPU it measures float32 against bfloat16 with two rows and
    takes the faster. ``num_threads`` 0 uses every core that the process may run on.
    """
    device = torch.device(device)
    unet = unet.eval().requires_grad_(False).to(device)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type != "cpu":
        dtype = torch.bfloat16 if precision == "auto" else _DTYPES[precision]
        unet = unet.to(dtype)
        make_lean(unet)
        return unet, dtype
    torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
    if precision == "auto":
        return _faster(unet)
    return _lean(_in_precision(unet, _DTYPES[precision])), _DTYPES[precision]


def fast_branch(module: Module, dtype: torch.dtype, device: torch.device | str) -> Module:
    """``module``, a branch, ready for inference beside a UNet that :func:`fast_unet` made of this dtype."""
    module = module.eval().requires_grad_(False).to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _in_precision(module, dtype) if torch.device(device).type == "cpu" else module.to(dtype)


def _in_precision(module: Module, dtype: torch.dtype) -> Module:
    module = module.to(dtype)
    if dtype == torch.bfloat16:
        use_cpu_layers(module)
    return module


def _lean(unet: nn.Module) -> nn.Module:
    """``unet`` called layer by layer, in bfloat16 with packed weights for maps of its native size."""
    dtype = next(unet.parameters()).dtype
    if make_lean(unet) and dtype == torch.bfloat16:
        sizes: dict[nn.Module, tuple[int, int]] = {}

        def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sizes[layer] = (inputs[0].shape[2], inputs[0].shape[3])

        convolutions = [module for module in unet.modules() if isinstance(module, nn.Conv2d)]
        noting = [layer.register_forward_pre_hook(note) for layer in convolutions]
        with as_published(unet):
            measure_step_ms(unet, native_key(unet.config), 1, dtype, _CPU, repeats=0)
        for handle in noting:
            handle.remove()
        pack_layers(unet, sizes)
    return unet


def _faster(unet: nn.Module) -> tuple[nn.Module, torch.dtype]:
    """Processors without bfloat16 instructions emulate them slowly, so only a measurement tells."""
    key = native_key(unet.config)
    half = _lean(_in_precision(copy.deepcopy(unet), torch.bfloat16))
    unet = _lean(unet)
    half_ms = full_ms = math.inf
    # In turns, so that other load on the machine hits both alike.
    for _ in range(_NUM_ROUNDS):
        full_ms = min(full_ms, measure_step_ms(unet, key, 2, torch.float32, _CPU, repeats=1))
        half_ms = min(half_ms, measure_step_ms(half, key, 2, torch.bfloat16, _CPU, repeats=1))
    chosen = (half, torch.bfloat16) if half_ms <= _WORTH_IT * full_ms else (unet, torch.float32)
    measured = {"float32_ms": round(full_ms, 1), "bfloat16_ms": round(half_ms, 1)}
    log(_LOG, logging.INFO, "precision measured", chosen=str(chosen[1]), **measured)
    return chosen
