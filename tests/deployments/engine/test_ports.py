"""Residuals in the stream of a UNet, against the UNet's forward pass written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deployments.engine.branch import Residuals
from deployments.engine.brushnet import BrushNet
from deployments.engine.ports import ResidualPorts
from deployments.engine.request import noise_for
from tests.deployments.engine.scenes import CONTEXT_DIM, SHAPE, small_unet

ROWS = 3
SAMPLE = noise_for(1, (ROWS, *SHAPE))
CONTEXT = noise_for(2, (ROWS, 5, CONTEXT_DIM))
TIMESTEP = torch.tensor([1.0, 400.0, 999.0])


def attended(block: Any, index: int, x: Tensor) -> Tensor:
    if not getattr(block, "attentions", None):
        return x
    output: Tensor = block.attentions[index](x, encoder_hidden_states=CONTEXT, return_dict=False)[0]
    return output


def plain(unet: Any, residuals: Residuals) -> Tensor:
    """The UNet's output with the residuals added where the contract says, one after the other."""
    down, up = iter(residuals.down), iter(residuals.up)
    embedded = unet.time_embedding(unet.time_proj(TIMESTEP))
    x = unet.conv_in(SAMPLE)
    skips = [x]
    x = x + next(down)
    for block in unet.down_blocks:
        for index, resnet in enumerate(block.resnets):
            x = attended(block, index, resnet(x, embedded)) + next(down)
            skips.append(x)
        for sampler in block.downsamplers or ():
            x = sampler(x) + next(down)
            skips.append(x)
    x = unet.mid_block(x, embedded, encoder_hidden_states=CONTEXT) + residuals.mid
    for block in unet.up_blocks:
        for index, resnet in enumerate(block.resnets):
            x = attended(block, index, resnet(torch.cat([x, skips.pop()], 1), embedded)) + next(up)
        for sampler in block.upsamplers or ():
            x = sampler(x) + next(up)
    assert next(down, None) is next(up, None) is None
    output: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return output


def residuals_for(unet: Any, scale: float) -> Residuals:
    """Random ones, of the shapes that a BrushNet made from this UNet gives."""
    with torch.no_grad():
        shapes = BrushNet.from_unet(unet)(SAMPLE, TIMESTEP, CONTEXT, torch.zeros(ROWS, 5, *SHAPE[1:]))

    def drawn(like: Tensor) -> Tensor:
        return scale * noise_for(like.numel(), tuple(like.shape))

    return Residuals(tuple(map(drawn, shapes.down)), drawn(shapes.mid), tuple(map(drawn, shapes.up)))


def output_of(unet: Any) -> Tensor:
    with torch.no_grad():
        output: Tensor = unet(SAMPLE, TIMESTEP, CONTEXT, return_dict=False)[0]
    return output


def test_random_residuals_equal_the_forward_pass_written_out() -> None:
    unet = small_unet()
    residuals = residuals_for(unet, 0.3)
    with ResidualPorts(unet).adding(residuals), torch.no_grad():
        carried = output_of(unet)
        expected = plain(small_unet(), residuals)
    torch.testing.assert_close(carried, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(carried, output_of(unet), atol=1e-2)


def test_without_residuals_and_with_zeros_it_is_the_same_unet() -> None:
    unet = small_unet()
    ports = ResidualPorts(unet)
    bare = output_of(small_unet())
    assert torch.equal(output_of(unet), bare)
    with ports.adding(None):
        assert torch.equal(output_of(unet), bare)
    with ports.adding(residuals_for(small_unet(), 0.0)):
        assert torch.equal(output_of(unet), bare)


def test_nothing_is_carried_on_after_a_call_that_failed() -> None:
    unet = small_unet()
    ports = ResidualPorts(unet)
    with pytest.raises(ZeroDivisionError), ports.adding(residuals_for(small_unet(), 1.0)):
        raise ZeroDivisionError
    assert torch.equal(output_of(unet), output_of(small_unet()))


def test_residuals_of_another_network_are_refused() -> None:
    residuals = residuals_for(small_unet(), 1.0)
    fewer = Residuals(residuals.down, residuals.mid, residuals.up[:-1])
    with pytest.raises(ValueError, match="residuals for"), ResidualPorts(small_unet()).adding(fewer):
        pass
