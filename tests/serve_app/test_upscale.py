"""Upscaling over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve_app.edits import EITHER_WAY, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem


@pytest.mark.parametrize("form", EITHER_WAY)
async def test_scale_and_strength_reach_the_pipeline(form: bool) -> None:
    service = Service()
    await service.edit("upscale", form=form, image=PHOTO, scale=4, prompt="a man", styles=["cartoon"])
    spec = service.pipeline.specs[0]
    assert (spec.scale, spec.strength, spec.image) == (4, 0.3, PHOTO)
    assert "a man" in spec.prompt
    assert spec.prompt != "a man"


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({}, "scale", None),
        ({"scale": 3}, "scale", [2, 4]),
        ({"scale": 2.5}, "scale", None),
        ({"scale": 2, "strength": 2}, "strength", 1.0),
        ({"scale": 2, "width": 64}, "width", None),
    ],
)
async def test_a_bad_member_is_named(members: dict[str, Any], field: str, limit: Any) -> None:
    body = assert_problem(await Service().edit("upscale", image=PHOTO, **members), 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)


async def test_the_result_is_bounded() -> None:
    pixels = 160 * 80 * 16
    able = Service(settings=Service.settings_with(max_output_pixels=pixels))
    assert (await able.edit("upscale", image=PHOTO, scale=4)).status_code == 200
    unable = Service(settings=Service.settings_with(max_output_pixels=pixels - 1))
    body = assert_problem(await unable.edit("upscale", image=PHOTO, scale=4), 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("scale", pixels - 1)
    assert (await unable.edit("upscale", image=PHOTO, scale=2)).status_code == 200
