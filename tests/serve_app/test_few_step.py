"""Who gets pictures in few steps, and how an answer tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.types import FewStep, ModelInfo, SamplerName
from tests.picture_files import saved, scene
from tests.serve_app.fakes import MINI, PHOTO, Service

OWN = FewStep(SamplerName.DDIM, 4, 1.0, default=True)
LCM = FewStep(SamplerName.LCM, 6, 1.5)
FAST_MINI, FAST_PHOTO = replace(MINI, few_step=OWN), replace(PHOTO, few_step=LCM)


def service(*models: ModelInfo) -> Service:
    return Service(models=models or (FAST_MINI, FAST_PHOTO))


async def sampling(members: dict[str, Any], *models: ModelInfo) -> tuple[bool, int, float, str]:
    asked = service(*models)
    answer = await asked.draw(**members)
    assert answer.status_code == 200, answer.text
    (spec,) = asked.pipeline.specs
    return spec.few_step, spec.num_inference_steps, spec.guidance_scale, spec.sampler.value


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, (True, 4, 1.0, "ddim")),
        ({"styles": ["cartoon"], "n": 2, "seed": 3}, (True, 4, 1.0, "ddim")),
        ({"few_step": True, "num_inference_steps": 8}, (True, 8, 1.0, "ddim")),
        ({"few_step": True, "guidance_scale": 1.5, "negative_prompt": "hat"}, (True, 4, 1.5, "ddim")),
        ({"few_step": False}, (False, 20, 4.0, "dpmpp_2m")),
        ({"num_inference_steps": 20}, (False, 20, 4.0, "dpmpp_2m")),
        ({"num_inference_steps": 4}, (False, 4, 4.0, "dpmpp_2m")),
        ({"sampler": "ddim"}, (False, 20, 4.0, "ddim")),
        ({"guidance_scale": 1.0}, (False, 20, 1.0, "dpmpp_2m")),
        ({"negative_prompt": "hat"}, (False, 20, 4.0, "dpmpp_2m")),
        ({"hires": {"scale": 2.0, "strength": 0.3}}, (False, 20, 4.0, "dpmpp_2m")),
        ({"model": "photo"}, (False, 25, 7.5, "euler")),
        ({"model": "photo", "few_step": True}, (True, 6, 1.5, "lcm")),
        ({"model": "photo", "sampler": "lcm"}, (True, 6, 1.5, "lcm")),
        ({"model": "photo", "sampler": "lcm", "num_inference_steps": 4}, (True, 4, 1.5, "lcm")),
        ({"model": "photo", "sampler": "lcm", "few_step": False}, (False, 25, 7.5, "lcm")),
        ({"model": "photo", "styles": ["anime"], "few_step": True}, (True, 6, 1.5, "lcm")),
    ],
)
async def test_few_steps_are_for_those_who_ask_or_leave_all_of_it_to_the_model(
    members: dict[str, Any], expected: tuple[bool, int, float, str]
) -> None:
    assert await sampling(members) == expected


async def test_a_model_without_an_adapter_refuses_and_otherwise_draws_as_ever() -> None:
    answer = await service(MINI, PHOTO).draw(few_step=True)
    assert answer.status_code == 422
    assert (answer.json()["field"], answer.json()["limit"]) == ("few_step", False)
    assert await sampling({"sampler": "lcm"}, MINI, PHOTO) == (False, 20, 4.0, "lcm")
    assert await sampling({"few_step": False}, MINI, PHOTO) == (False, 20, 4.0, "dpmpp_2m")


async def test_the_answer_says_how_it_was_drawn_and_draws_the_same_again() -> None:
    asked = service()
    cases: list[tuple[dict[str, Any], bool]] = [({}, True), ({"num_inference_steps": 12}, False)]
    for members, few_step in cases:
        told = (await asked.draw(**members)).json()["parameters"]
        assert told["few_step"] is few_step
        assert (await asked.draw(**told)).json()["parameters"] == told
    assert [spec.few_step for spec in asked.pipeline.specs] == [True, True, False, False]


async def test_without_an_adapter_the_answer_does_not_speak_of_it() -> None:
    assert "few_step" not in (await service(MINI).draw()).json()["parameters"]


async def test_the_catalogue_shows_what_few_steps_are() -> None:
    models = (await service(FAST_MINI, FAST_PHOTO, MINI).client.get("/v1/models")).json()["data"]
    assert [model["few_step"] for model in models] == [
        {"default": True, "sampler": "ddim", "num_inference_steps": 4, "guidance_scale": 1.0},
        {"default": False, "sampler": "lcm", "num_inference_steps": 6, "guidance_scale": 1.5},
        None,
    ]


async def test_only_pictures_from_words_are_drawn_so() -> None:
    asked = service()
    answer = await asked.edit("upscale", image=saved(scene()), scale=2, few_step=True)
    assert answer.status_code == 422
    assert answer.json()["field"] == "few_step"
    assert asked.pipeline.specs == []
