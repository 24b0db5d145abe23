"""Image to image over HTTP: strategies, sizes, and the representations that every pipeline has."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from core.errors import MissingPart
from core.specs import Hires, Strategy
from tests.picture_files import saved, scene
from tests.serve_app.edits import DRAWING, EITHER_WAY, GOOD, PHOTO, PROMPT
from tests.serve_app.fakes import Service, events_of
from tests.serve_app.test_validation import assert_problem


async def edit(service: Service, **members: Any) -> Any:
    return await service.edit("image-to-image", **{"image": PHOTO, "prompt": PROMPT} | members)


@pytest.mark.parametrize(
    ("strategy", "strength"), [("restyle", 0.6), ("variation", 0.35), ("preserve", 0.8), ("structure", 1.0)]
)
async def test_each_strategy_has_a_strength_of_its_own(strategy: str, strength: float) -> None:
    service = Service()
    answer = await edit(service, strategy=strategy)
    assert (service.pipeline.specs[0].strategy, service.pipeline.specs[0].strength) == (strategy, strength)
    assert answer.json()["parameters"]["strength"] == strength


async def test_a_model_may_have_strengths_of_its_own() -> None:
    service = Service()
    await edit(service, strategy="variation", model="photo")
    await edit(service, strategy="preserve", model="photo")
    await service.edit("upscale", image=PHOTO, scale=2, model="photo")
    assert [spec.strength for spec in service.pipeline.specs] == [0.25, 0.8, 0.2]


async def test_restyling_is_the_default() -> None:
    service = Service()
    await edit(service, strength=0.5)
    assert service.pipeline.specs[0].strategy is Strategy.RESTYLE
    assert service.pipeline.specs[0].strength == 0.5
    assert service.pipeline.specs[0].image == PHOTO


@pytest.mark.parametrize("form", EITHER_WAY)
@pytest.mark.parametrize("strategy", list(Strategy))
async def test_only_variations_need_no_prompt(strategy: Strategy, form: bool) -> None:
    service = Service()
    answer = await service.edit("image-to-image", form=form, image=PHOTO, strategy=strategy.value)
    if strategy is Strategy.VARIATION:
        assert answer.status_code == 200
        assert service.pipeline.specs[0].prompt == ""
    else:
        assert assert_problem(answer, 422, "invalid_request")["field"] == "prompt"


async def test_a_style_around_no_prompt_is_words_alone() -> None:
    service = Service()
    await service.edit("image-to-image", image=PHOTO, strategy="variation", styles=["sepia"])
    assert service.pipeline.specs[0].prompt
    assert not service.pipeline.specs[0].prompt.startswith((",", " "))


@pytest.mark.parametrize(
    ("size", "members", "expected"),
    [
        ((160, 80), {}, (180, 90)),
        ((160, 80), {"width": 100}, (100, 50)),
        ((160, 80), {"height": 100}, (200, 100)),
        ((160, 80), {"width": 64, "height": 64}, (64, 32)),
        ((64, 64), {}, (128, 128)),
        ((64, 64), {"width": 256, "height": 256}, (256, 256)),
        ((5_000, 1), {}, (256, 1)),
        ((1, 1), {}, (128, 128)),
    ],
)
async def test_the_aspect_ratio_is_kept_within_the_bounds(
    size: tuple[int, int], members: dict[str, int], expected: tuple[int, int]
) -> None:
    service = Service()
    answer = await edit(service, image=saved(scene(*size)), **members)
    spec = service.pipeline.specs[0]
    assert (spec.max_width, spec.max_height) == expected
    parameters = answer.json()["parameters"]
    assert (parameters["width"], parameters["height"]) == expected


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"strength": 0}, "strength", 0.0),
        ({"strength": 2}, "strength", 1.0),
        ({"strength": -0.5}, "strength", 0.0),
        ({"strategy": "magic"}, "strategy", list(Strategy)),
        ({"width": 257}, "width", 256),
        ({"height": 0}, "height", 1),
        ({"styles": ["anime"]}, "styles.0", None),
        ({"hires": {"scale": 1, "strength": 0.5}}, "hires.scale", 1.0),
        ({"hires": {"scale": 4.1, "strength": 0.5}}, "hires.scale", 4.0),
        ({"hires": {"scale": 2, "strength": 0}}, "hires.strength", 0.0),
        ({"hires": {"scale": 2}}, "hires.strength", None),
        ({"hires": {"scale": 2, "strength": 1, "x": 1}}, "hires.x", None),
        ({"hires": "twice"}, "hires", None),
        ({"mask": PHOTO}, "mask", None),
    ],
)
@pytest.mark.parametrize("form", EITHER_WAY)
async def test_a_bad_member_is_named(members: dict[str, Any], field: str, limit: Any, form: bool) -> None:
    service = Service()
    answer = await service.edit("image-to-image", form=form, **GOOD["image-to-image"] | members)
    body = assert_problem(answer, 422, "invalid_request")
    assert body["field"] == field
    assert limit is None or body["limit"] == limit
    assert service.pipelines.asked_for == []


async def test_a_second_pass_is_bounded_by_its_result() -> None:
    service = Service()
    big = saved(scene(512, 512))
    hires = {"scale": 4, "strength": 0.3}
    answer = await edit(service, image=big, model="photo", width=1024, height=1024, hires=hires)
    assert answer.status_code == 200
    assert service.pipeline.specs[0].hires == Hires(scale=4, strength=0.3)
    service = Service(settings=Service.settings_with(max_output_pixels=4096**2 - 1))
    answer = await edit(service, image=big, model="photo", width=1024, height=1024, hires=hires)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("hires.scale", 4096**2 - 1)


async def test_text_to_image_has_a_second_pass_too() -> None:
    service = Service()
    answer = await service.draw(hires={"scale": 1.5, "strength": 0.4})
    assert service.pipeline.specs[0].hires == Hires(scale=1.5, strength=0.4)
    again = await service.draw(**answer.json()["parameters"])
    assert again.json()["parameters"] == answer.json()["parameters"]


async def test_what_the_model_lacks_is_a_conflict() -> None:
    service = Service(MissingPart("The model mini has no ControlNet.", field="strategy"))
    body = assert_problem(await edit(service, strategy="structure"), 409, "missing_part")
    assert body["field"] == "strategy"
    assert body["retryable"] is False


@pytest.mark.parametrize("noun", DRAWING)
async def test_the_reported_parameters_are_a_request_for_the_same_pictures(noun: str) -> None:
    service = Service()
    first = (await service.edit(noun, **GOOD[noun] | {"n": 2})).json()
    assert not {"image", "mask"} & set(first["parameters"])
    pictures = {name: value for name, value in GOOD[noun].items() if isinstance(value, bytes)}
    again = (await service.edit(noun, **pictures | first["parameters"])).json()
    assert again["parameters"] == first["parameters"]
    assert (first["images"][0]["width"], first["images"][0]["height"]) == (8, 8)


@pytest.mark.parametrize("noun", DRAWING)
async def test_every_pipeline_answers_with_a_picture_file(noun: str) -> None:
    answer = await Service().edit(noun, accept="image/webp", form=True, **GOOD[noun] | {"seed": 5})
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["limner-seed"] == "5"
    assert answer.content[8:12] == b"WEBP"


@pytest.mark.parametrize("noun", DRAWING)
async def test_every_pipeline_streams(noun: str) -> None:
    members = GOOD[noun] | {"stream": True, "preview_every": 1}
    answer = await Service().edit(noun, form=True, **members)
    names, events = zip(*events_of(answer.text), strict=True)
    assert names == ("accepted", "progress", "preview", "completed")
    assert events[0]["parameters"] == events[-1]["parameters"]
    assert base64.b64decode(events[-1]["images"][0]["b64_json"]).startswith(b"\x89PNG")
