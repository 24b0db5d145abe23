"""Makes a UNet fast on the device it is given: layout, precision, threads. Knows no requests."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from core.settings import Precision
from core.telemetry import log, logger
from deployments.engine.cpu_layers import use_cpu_layers
from deployments.engine.lean_unet import as_published, make_lean
from deployments.engine.network import measure_step_ms, native_key
from deployments.engine.packed_layers import is_worth_packing, pack_layers

_LOG = logger(__name__)
Module = TypeVar("Module", bound=nn.Module)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Lower precision has to earn its rounding errors: at most this share of float32's time.
_WORTH_IT = 0.9
_NUM_ROUNDS = 4
_CPU = torch.device("cpu")
# Up to so many parameters two copies of a UNet are nothing, and all of it is measured.
_FEW_PARAMETERS = 100_000_000
# Rows and latent side at which layers of a larger one are measured.
_PROBE_ROWS, _PROBE_SIDE = 2, 16

# Makes a network in this precision on this device; on "meta" without any values.
Load = Callable[[torch.dtype, torch.device], Any]


def load_fast_unet(
    load: Load, precision: Precision, device: torch.device | str, num_threads: int
) -> tuple[nn.Module, torch.dtype]:
    """As :func:`fast_unet`, of a UNet that is loaded in the precision that it is run in.

    So it is in memory once. For that, "auto" measures layers of a large UNet instead of all of it.
    """
    device = torch.device(device)
    empty = load(torch.float32, torch.device("meta"))
    num_parameters = sum(parameter.numel() for parameter in empty.parameters())
    if precision == "auto" and device.type != "cpu":
        precision = "bfloat16"
    elif precision == "auto" and num_parameters > _FEW_PARAMETERS:
        torch.set_num_threads(num_threads or len(os.sched_getaffinity(0)))
        precision = "bfloat16" if _half_is_faster(max(empty.config.block_out_channels)) else "float32"
    del empty
    dtype = torch.float32 if precision == "auto" else _DTYPES[precision]
    return fast_unet(load(dtype, device), precision, device, num_threads)


def fast_unet(
    unet: nn.Module, precision: Precision, device: torch.device | str, num_threads: int
) -> tuple[nn.Module, torch.dtype]:
    """``unet`` ready for inference on ``device``, and the dtype of its weights.

    "auto" takes bfloat16 on a GPU; on a CPU it measures float32 against bfloat16 with one row and two
    and takes the faster. ``num_threads`` 0 uses every core that the process may run on.
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
    """``unet`` called layer by layer; in bfloat16, or where that is faster, with packed weights."""
    dtype = next(unet.parameters()).dtype
    is_small = is_worth_packing(unet)
    # Without AVX-512 some packed layers take twice as long in float32.
    other = copy.deepcopy(unet) if is_small and dtype == torch.float32 else None
    if not make_lean(unet, split_rows=is_small) or not is_small:
        return unet
    if other is None:
        _pack(unet)
        return unet
    make_lean(other, split_rows=True)
    _pack(other)
    plain_ms, packed_ms = _step_ms((unet, other))
    log(_LOG, logging.INFO, "packing measured", plain_ms=round(plain_ms, 1), packed_ms=round(packed_ms, 1))
    return other if packed_ms < plain_ms else unet


def _pack(unet: nn.Module) -> None:
    """Pack the weights for maps of the native size, in place."""
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[layer] = (inputs[0].shape[2], inputs[0].shape[3])

    convolutions = [module for module in unet.modules() if isinstance(module, nn.Conv2d)]
    noting = [layer.register_forward_pre_hook(note) for layer in convolutions]
    with as_published(unet):
        measure_step_ms(unet, native_key(unet.config), 1, next(unet.parameters()).dtype, _CPU, repeats=0)
    for handle in noting:
        handle.remove()
    pack_layers(unet, sizes)


def _half_is_faster(channels: int) -> bool:
    """Whether bfloat16 is worth it, by the kinds of layers that take most of a UNet's time."""
    full = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.Flatten(2),
        _Transposed(),
        nn.Linear(channels, 4 * channels),
    ).requires_grad_(False)
    full.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = _in_precision(copy.deepcopy(full), torch.bfloat16)
    sample = torch.zeros(_PROBE_ROWS, channels, _PROBE_SIDE, _PROBE_SIDE)
    inputs = {
        each: sample.to(dtype, memory_format=torch.channels_last)
        for each, dtype in ((full, torch.float32), (half, torch.bfloat16))
    }
    taken_ms = dict.fromkeys(inputs, math.inf)
    for _ in range(_NUM_ROUNDS):
        for network, own in inputs.items():
            taken_ms[network] = min(taken_ms[network], _call_ms(network, own))
    log(
        _LOG,
        logging.INFO,
        "precision measured on layers",
        float32_ms=round(taken_ms[full], 1),
        bfloat16_ms=round(taken_ms[half], 1),
    )
    return taken_ms[half] <= _WORTH_IT * taken_ms[full]


class _Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def _call_ms(network: nn.Module, sample: torch.Tensor) -> float:
    with torch.inference_mode():
        began = time.perf_counter()
        network(sample)
    return (time.perf_counter() - began) * 1_000


def _faster(unet: nn.Module) -> tuple[nn.Module, torch.dtype]:
    """Processors without bfloat16 instructions emulate them slowly, so only a measurement tells."""
    half = _lean(_in_precision(copy.deepcopy(unet), torch.bfloat16))
    unet = _lean(unet)
    full_ms, half_ms = _step_ms((unet, half))
    chosen = (half, torch.bfloat16) if half_ms <= _WORTH_IT * full_ms else (unet, torch.float32)
    measured = {"float32_ms": round(full_ms, 1), "bfloat16_ms": round(half_ms, 1)}
    log(_LOG, logging.INFO, "precision measured", chosen=str(chosen[1]), **measured)
    return chosen


def _step_ms(unets: Sequence[nn.Module]) -> list[float]:
    """Milliseconds of a call of one row and one of two, of each."""
    taken_ms = {(index, rows): math.inf for index in range(len(unets)) for rows in (1, 2)}
    # In turns, so that other load on the machine hits all alike.
    for _ in range(_NUM_ROUNDS):
        for index, rows in taken_ms:
            unet = unets[index]
            key, dtype = native_key(unet.config), next(unet.parameters()).dtype
            ms = measure_step_ms(unet, key, rows, dtype, _CPU, repeats=1)
            taken_ms[index, rows] = min(taken_ms[index, rows], ms)
    return [taken_ms[index, 1] + taken_ms[index, 2] for index in range(len(unets))]
