"""Inpainting over HTTP: modes, kinds of mask, tasks, and what contradicts what."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import InvalidRequest
from core.specs import Box, InpaintMode, InpaintSpec, Margins
from tests.picture_files import saved, scene
from tests.serve_app.edits import EITHER_WAY, MASK, PHOTO, PROMPT
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem

BOX = {"left": 10, "top": 0, "width": 150, "height": 80}
OUT = {"mode": "outpaint", "margins": {"left": 8}}


async def spec_of(**members: Any) -> InpaintSpec:
    service = Service()
    answer = await service.edit("inpaint", **{"image": PHOTO} | members)
    assert answer.status_code == 200, answer.text
    spec: InpaintSpec = service.pipeline.specs[0]
    return spec


async def test_the_defaults_replace_what_a_mask_covers() -> None:
    spec = await spec_of(mask=MASK, prompt=PROMPT)
    assert spec.mode is InpaintMode.REPLACE
    assert spec.mask == MASK
    assert (spec.mask_prompt, spec.box, spec.margins, spec.task) == (None, None, None, None)
    assert (spec.mask_grow, spec.mask_feather, spec.strength) == (None, None, None)
    assert (spec.only_masked, spec.only_masked_padding, spec.fitting_degree) == (False, 32, 1.0)


async def test_each_kind_of_mask_reaches_the_pipeline() -> None:
    assert (await spec_of(mask_prompt="hair", prompt=PROMPT)).mask_prompt == "hair"
    assert (await spec_of(mode="add", box=BOX, prompt=PROMPT)).box == Box(**BOX)
    assert (await spec_of(**OUT)).margins == Margins(left=8)


@pytest.mark.parametrize("members", [{"mode": "remove", "mask": MASK}, OUT])
async def test_removing_and_outpainting_need_no_prompt(members: dict[str, Any]) -> None:
    assert (await spec_of(**members)).prompt == ""
    assert (await spec_of(**members, prompt="a hat")).prompt == "a hat"


async def test_how_a_mask_is_used_may_be_said() -> None:
    spec = await spec_of(mode="remove", mask=MASK, mask_grow=0, mask_feather=256, strength=0.5)
    assert (spec.mask_grow, spec.mask_feather, spec.strength) == (0, 256, 0.5)


@pytest.mark.parametrize(
    ("task", "mode", "members"),
    [
        ("text_guided", "replace", {"mask": MASK, "prompt": PROMPT}),
        ("text_guided", "add", {"mask": MASK, "prompt": PROMPT, "mode": "add"}),
        ("object_removal", "remove", {"mask": MASK}),
        ("shape_guided", "replace", {"mask": MASK, "prompt": PROMPT, "fitting_degree": 0.5}),
        ("outpainting", "outpaint", {"margins": {"top": 1}}),
    ],
)
async def test_a_task_implies_its_mode(task: str, mode: str, members: dict[str, Any]) -> None:
    spec = await spec_of(task=task, **members)
    assert (spec.task, spec.mode) == (task, mode)
    assert spec.fitting_degree == members.get("fitting_degree", 1.0)


ONE_OF = ["mask", "mask_prompt", "box"]


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({}, "mask", ONE_OF),
        ({"mask": MASK, "mask_prompt": "hair"}, "mask_prompt", ONE_OF),
        ({"mask": MASK, "box": BOX}, "box", ONE_OF),
        ({"mask_prompt": "hair", "box": BOX}, "box", ONE_OF),
        ({"mask": MASK, "prompt": ""}, "prompt", None),
        ({"mode": "add", "mask": MASK, "prompt": " "}, "prompt", None),
        ({"mode": "outpaint"}, "margins", 1),
        ({"mode": "outpaint", "margins": {"left": 0}}, "margins", 1),
        ({"mode": "outpaint", "margins": {"left": -1}}, "margins.left", 0),
        ({**OUT, "mask": MASK}, "mask", "margins"),
        ({**OUT, "box": BOX}, "box", "margins"),
        ({"mask": MASK, "margins": {"left": 8}}, "margins", "outpaint"),
        ({"mode": "outpaint", "margins": {"left": 60_000, "top": 60_000}}, "margins", 16_777_216),
        ({"mask": saved(scene(80, 160))}, "mask", {"width": 160, "height": 80}),
        ({"box": BOX | {"left": 11}}, "box", {"width": 160, "height": 80}),
        ({"box": BOX | {"top": 1}}, "box", {"width": 160, "height": 80}),
        ({"box": BOX | {"width": 0}}, "box.width", 1),
        ({"box": {"left": 1}}, "box.top", None),
        ({"task": "object_removal", "mode": "replace", "mask": MASK}, "mode", ["remove"]),
        ({"task": "outpainting", "mask": MASK}, "mask", "margins"),
        ({"mask": MASK, "fitting_degree": 0.5}, "fitting_degree", "shape_guided"),
        ({"mask": MASK, "task": "shape_guided", "fitting_degree": 1.5}, "fitting_degree", 1.0),
        ({"mask": MASK, "strength": 0}, "strength", 0.0),
        ({"mask": MASK, "strength": 2}, "strength", 1.0),
        ({"mask": MASK, "mask_grow": 257}, "mask_grow", 256),
        ({"mask": MASK, "mask_feather": -1}, "mask_feather", 0),
        ({"mask_prompt": ""}, "mask_prompt", None),
        ({"mask_prompt": "x" * 201}, "mask_prompt", 200),
        ({"mask": MASK, "hires": {"scale": 2, "strength": 0.5}}, "hires", None),
        ({"mask": MASK, "object": "hat"}, "object", None),
        ({"mask": MASK, "width": 64}, "width", None),
    ],
)
@pytest.mark.parametrize("form", EITHER_WAY)
async def test_contradictions_are_named(members: dict[str, Any], field: str, limit: Any, form: bool) -> None:
    service = Service()
    answer = await service.edit("inpaint", form=form, **{"image": PHOTO, "prompt": PROMPT} | members)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)
    assert service.pipelines.asked_for == []


async def test_a_picture_that_could_not_be_answered_with_is_refused() -> None:
    service = Service(settings=Service.settings_with(max_output_pixels=160 * 80 - 1))
    answer = await service.edit("inpaint", image=PHOTO, mask=MASK, prompt=PROMPT)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"


async def test_words_that_match_nothing_are_the_pipeline_s_to_refuse() -> None:
    service = Service(InvalidRequest("The words match nothing.", field="mask_prompt"))
    answer = await service.edit("inpaint", image=PHOTO, mask_prompt="unicorn", prompt=PROMPT)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "mask_prompt"


async def test_the_mask_is_compared_with_the_upright_picture() -> None:
    answer = await Service().edit("inpaint", image=PHOTO, mask=saved(scene(160, 81)), prompt=PROMPT)
    assert "160 × 81" in answer.json()["detail"]
    assert "160 × 80" in answer.json()["detail"]


async def test_all_choices_are_reported() -> None:
    answer = await Service().edit(
        "inpaint", image=PHOTO, task="shape_guided", box=BOX, prompt=PROMPT, mask_feather=3, seed=9
    )
    assert answer.json()["parameters"] | {"prompt": PROMPT} == {
        "model": "mini",
        "prompt": PROMPT,
        "negative_prompt": "",
        "styles": [],
        "num_inference_steps": 20,
        "guidance_scale": 4.0,
        "seed": 9,
        "n": 1,
        "sampler": "dpmpp_2m",
        "clip_skip": 0,
        "output_format": "png",
        "quality": 90,
        "mode": "replace",
        "mask_prompt": None,
        "box": BOX,
        "margins": None,
        "mask_grow": None,
        "mask_feather": 3,
        "strength": None,
        "only_masked": False,
        "only_masked_padding": 32,
        "task": "shape_guided",
        "fitting_degree": 1.0,
    }
