"""Inpainting against diffusers' pipeline: latents blended at every step, and UNets of nine channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.network import native_key
from deployments.engine.request import DenoiseRequest, HandedBack, noise_for
from tests.deployments.engine.references import ZERO_SNR, drawn_from, pipeline_of, square_mask
from tests.deployments.engine.scenes import (
    SCHEDULE,
    SHAPE,
    alone,
    engine,
    request,
    run,
    small_unet,
    submitted,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SAMPLERS = [SamplerName.DDIM, SamplerName.EULER, SamplerName.EULER_A, SamplerName.DPMPP_2M_KARRAS]
UNET, WIDE = small_unet(), small_unet(in_channels=9)
MASK, SOURCE, MASKED = square_mask(), noise_for(99, SHAPE), noise_for(98, SHAPE)
WIDE_INPUT = torch.cat([MASK, MASKED])


def by_diffusers(unet: Any, wanted: DenoiseRequest, **inputs: Any) -> Tensor:
    schedule = inputs.pop("schedule", SCHEDULE)
    pipeline = pipeline_of(StableDiffusionInpaintPipeline, unet, wanted.sampler, schedule)
    return drawn_from(SOURCE, pipeline, wanted, mask_image=MASK[None], height=8, width=8, **inputs)


def wide_request(request_id: str = "r", **changes: Any) -> DenoiseRequest:
    return request(request_id, extra_channels=WIDE_INPUT, num_inference_steps=8, **changes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start_step", [0, 3])
def test_blended_latents(name: SamplerName, start_step: int) -> None:
    wanted = request(
        seed=5, sampler=name, num_inference_steps=8, start_step=start_step, source=SOURCE, mask=MASK
    )
    drawn = alone(wanted, UNET)
    torch.testing.assert_close(drawn, by_diffusers(UNET, wanted), atol=1e-4, rtol=0)
    assert torch.equal(drawn * (1 - MASK), SOURCE * (1 - MASK))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start_step", [0, 3])
def test_nine_channels(name: SamplerName, start_step: int) -> None:
    source = SOURCE if start_step else None
    wanted = wide_request(seed=5, sampler=name, start_step=start_step, source=source)
    expected = by_diffusers(WIDE, wanted, masked_image_latents=MASKED[None])
    torch.testing.assert_close(alone(wanted, WIDE), expected, atol=1e-4, rtol=0)


def test_nine_channels_with_v_prediction() -> None:
    wanted = wide_request(seed=7)
    expected = by_diffusers(WIDE, wanted, masked_image_latents=MASKED[None], schedule=ZERO_SNR)
    torch.testing.assert_close(alone(wanted, WIDE, schedule=ZERO_SNR), expected, atol=1e-4, rtol=0)


def test_each_row_of_a_batch_has_its_own_extra_channels() -> None:
    other = replace(
        wide_request("other", seed=2, guidance_scale=1.0), extra_channels=noise_for(3, (5, *SHAPE[1:]))
    )
    wanted = [wide_request(seed=1), other]
    shared = engine(WIDE)
    heard = submitted(shared, *wanted)
    run(shared)
    for each in wanted:
        torch.testing.assert_close(heard[each.request_id].latents, alone(each, WIDE), atol=1e-4, rtol=0)
    assert not torch.allclose(alone(replace(other, extra_channels=WIDE_INPUT), WIDE), heard["other"].latents)


def test_handed_back_and_resumed_with_extra_channels() -> None:
    wanted = wide_request(seed=6, sampler=SamplerName.EULER_A)
    first = engine(WIDE)
    heard = submitted(first, wanted)["r"]
    run(first, until=lambda: len(heard.events) == 3)
    first.hand_back()
    run(first)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    assert torch.equal(alone(replace(wanted, snapshot=end.snapshot), WIDE), alone(wanted, WIDE))


def test_a_wide_engine_warms_up_and_needs_its_extra_channels() -> None:
    cost = CostModel()
    own = engine(WIDE, cost=cost, max_rows=2)
    own.warm_up()
    key = native_key(WIDE.config)
    assert key.channels == 9 == wide_request().key.channels
    assert cost.step_ms(key, 2) != CostModel().step_ms(key, 2)
    with pytest.raises(InvalidRequest) as refused:
        own.submit(request(), print)
    assert (refused.value.field, refused.value.limit) == ("extra_channels", [5, 8, 8])
    with pytest.raises(InvalidRequest) as refused:
        engine(UNET).submit(wide_request(), print)
    assert refused.value.field == "extra_channels"
