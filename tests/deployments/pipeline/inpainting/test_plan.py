"""Plans: what a request says counts, and the family's data where it says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.specs import InpaintMode
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.plan import InpaintPlan, Prefill, plan_of
from deployments.pipeline.parts import PipelineParts
from tests.deployments.pipeline.inpainting.pictures import SPEC

OPEN = replace(SPEC, mask_grow=None, mask_feather=None, strength=None)


def plan(parts: PipelineParts, mode: InpaintMode, *, family: str, channels: int = 4) -> InpaintPlan:
    spec = replace(OPEN, mode=mode)
    return plan_of(spec, None, conditioning_for(parts, channels), family=family, scale=2.5)


def test_what_the_request_says_counts(tiny_parts: PipelineParts) -> None:
    spec = replace(SPEC, mask_grow=0, mask_feather=7, strength=0.3, mode=InpaintMode.REMOVE)
    made = plan_of(spec, None, conditioning_for(tiny_parts, 4), family="mini", scale=9.0)
    assert (made.mask_grow, made.mask_feather, made.strength) == (0, 7, 0.3)


def test_pixels_of_the_data_are_those_that_the_model_sees(tiny_parts: PipelineParts) -> None:
    made = plan(tiny_parts, InpaintMode.REMOVE, family="sd15")
    assert (made.mask_grow, made.mask_feather) == (30, 20)
    assert made.prefill is Prefill.SURROUNDINGS


@pytest.mark.parametrize(("channels", "below_one"), [(4, True), (9, False)])
def test_only_a_unet_that_sees_no_mask_starts_a_removal_from_the_fill(
    tiny_parts: PipelineParts, channels: int, below_one: bool
) -> None:
    assert (plan(tiny_parts, InpaintMode.REMOVE, family="sd15", channels=channels).strength < 1) is below_one


@pytest.mark.parametrize("family", ["mini", "sd15"])
@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("mode", InpaintMode)
def test_every_mode_has_a_plan(
    tiny_parts: PipelineParts, mode: InpaintMode, channels: int, family: str
) -> None:
    made = plan(tiny_parts, mode, family=family, channels=channels)
    assert 0 < made.strength <= 1
    assert 0 < made.reach.step <= 1 <= made.reach.area
    assert made.guidance_scale == SPEC.guidance_scale
    assert made.mask_grow >= 0
    assert made.mask_feather >= 0
