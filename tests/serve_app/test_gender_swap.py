"""Gender swap over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidRequest
from core.specs import GenderSwapSpec, Hires, Presentation, SwapScope
from tests.serve_app.edits import EITHER_WAY, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem

HIRES = {"scale": 2, "strength": 0.3}


async def test_the_defaults_are_those_of_a_portrait() -> None:
    service = Service()
    await service.edit("gender-swap", image=PHOTO)
    spec: GenderSwapSpec = service.pipeline.specs[0]
    assert (spec.target, spec.scope, spec.strength) == (Presentation.AUTO, SwapScope.PORTRAIT, 0.6)
    assert (spec.num_inference_steps, spec.guidance_scale, spec.prompt) == (30, 4.0, "")
    assert spec.hires is None


@pytest.mark.parametrize("form", EITHER_WAY)
async def test_every_choice_reaches_the_pipeline(form: bool) -> None:
    service = Service()
    answer = await service.edit(
        "gender-swap",
        form=form,
        image=PHOTO,
        target="boy",
        scope="whole",
        strength=0.8,
        guidance_scale=5.5,
        num_inference_steps=12,
        prompt="red hair",
        negative_prompt="hat",
        hires=HIRES,
        n=3,
    )
    spec: GenderSwapSpec = service.pipeline.specs[0]
    assert (spec.target, spec.scope, spec.strength) == ("boy", "whole", 0.8)
    assert (spec.guidance_scale, spec.num_inference_steps, spec.num_images) == (5.5, 12, 3)
    assert (spec.prompt, spec.negative_prompt) == ("red hair", "hat")
    assert spec.hires == Hires(scale=2, strength=0.3)
    assert answer.json()["parameters"]["target"] == "boy"


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"target": "cat"}, "target", list(Presentation)),
        ({"scope": "half"}, "scope", list(SwapScope)),
        ({"strength": 0}, "strength", 0.0),
        ({"hires": HIRES}, "hires", "whole"),
        ({"styles": ["cartoon"]}, "styles", None),
        ({"num_inference_steps": 151}, "num_inference_steps", 150),
    ],
)
async def test_a_bad_member_is_named(members: dict[str, Any], field: str, limit: Any) -> None:
    body = assert_problem(await Service().edit("gender-swap", image=PHOTO, **members), 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)


async def test_a_portrait_is_answered_at_its_own_size() -> None:
    service = Service(settings=Service.settings_with(max_output_pixels=160 * 80 - 1))
    answer = await service.edit("gender-swap", image=PHOTO)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"


async def test_the_number_of_faces_is_the_pipeline_s_to_judge() -> None:
    service = Service(InvalidRequest("There are 2 faces.", field="image", limit=1))
    body = assert_problem(await service.edit("gender-swap", image=PHOTO), 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("image", 1)
