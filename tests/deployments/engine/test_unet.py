"""Precision and layout of the UNet that the engine runs."""

from __future__ import annotations

import os

import pytest
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import Attention
from torch import nn

from core.settings import Precision
from deployments.engine import unet as unet_module
from deployments.engine.branch import ControlNetBranch
from deployments.engine.brushnet import BrushNet
from deployments.engine.cpu_layers import MixedGroupNorm, ShortAttention
from deployments.engine.unet import fast_branch, fast_unet, load_fast_unet
from tests.deployments.engine.scenes import small_unet


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> object:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_chosen_precision_is_kept(precision: Precision, dtype: torch.dtype) -> None:
    unet, chosen = fast_unet(small_unet(), precision, "cpu", 1)
    assert chosen == dtype
    assert {parameter.dtype for parameter in unet.parameters()} == {dtype}


def test_auto_returns_a_unet_of_the_precision_it_names() -> None:
    unet, chosen = fast_unet(small_unet(), "auto", "cpu", 1)
    assert chosen in (torch.float32, torch.bfloat16)
    assert {parameter.dtype for parameter in unet.parameters()} == {chosen}


class Loads:
    """Loads the small UNet, and keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[torch.dtype, str]] = []

    def __call__(self, dtype: torch.dtype, device: torch.device) -> nn.Module:
        self.asked.append((dtype, device.type))
        unet: nn.Module = small_unet().to(device, dtype)
        return unet


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_unet_is_loaded_once_in_the_precision_it_is_run_in(
    precision: Precision, dtype: torch.dtype
) -> None:
    load = Loads()
    unet, chosen = load_fast_unet(load, precision, "cpu", 1)
    assert chosen == dtype
    assert load.asked == [(torch.float32, "meta"), (dtype, "cpu")]
    assert {parameter.dtype for parameter in unet.parameters()} == {dtype}


def test_the_precision_of_a_large_unet_is_measured_on_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet_module, "_FEW_PARAMETERS", 1_000)
    load = Loads()
    unet, chosen = load_fast_unet(load, "auto", "cpu", 1)
    assert chosen in (torch.float32, torch.bfloat16)
    assert load.asked == [(torch.float32, "meta"), (chosen, "cpu")]
    assert {parameter.dtype for parameter in unet.parameters()} == {chosen}


def test_all_of_a_small_unet_is_measured() -> None:
    load = Loads()
    load_fast_unet(load, "auto", "cpu", 1)
    assert load.asked == [(torch.float32, "meta"), (torch.float32, "cpu")]


def test_ready_for_inference_in_channels_last() -> None:
    unet, _ = fast_unet(small_unet().train(), "float32", "cpu", 1)
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    kernels = [parameter for parameter in unet.parameters() if parameter.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_zero_threads_means_every_core_of_the_process() -> None:
    fast_unet(small_unet(), "float32", "cpu", 0)
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


def test_bfloat16_predicts_what_float32_does() -> None:
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8)
    outputs = []
    with torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            unet, dtype = fast_unet(small_unet(), precision, "cpu", 1)
            outputs.append(unet(x.to(dtype), torch.tensor([10.0, 900.0]), context.to(dtype))[0].float())
    error = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    assert error < 0.03


@pytest.mark.parametrize(
    "branch",
    [ControlNetBranch(ControlNetModel.from_unet(small_unet())), BrushNet.from_unet(small_unet())],
    ids=["ControlNet", "BrushNet"],
)
def test_a_branch_is_made_as_fast_as_its_unet(branch: nn.Module) -> None:
    fast = fast_branch(branch.train(), torch.bfloat16, "cpu")
    assert not fast.training
    assert {(parameter.dtype, parameter.requires_grad) for parameter in fast.parameters()} == {
        (torch.bfloat16, False)
    }
    kernels = [parameter for parameter in fast.parameters() if parameter.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    modules = list(fast.modules())
    assert any(isinstance(module, MixedGroupNorm) for module in modules)
    attentions = [module for module in modules if isinstance(module, Attention)]
    assert attentions
    assert all(isinstance(attention.processor, ShortAttention) for attention in attentions)
