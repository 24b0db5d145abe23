"""The three representations of an answer, and what reaches the pipeline."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from core.types import OutputFormat, SamplerName
from tests.serve_app.fakes import Service, events_of


async def test_json_holds_the_pictures_and_all_that_made_them() -> None:
    service = Service()
    answer = await service.draw(seed=7, n=2, sampler="euler_a", width=64, height=96, quality=80)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert [(image["index"], image["seed"], image["media_type"]) for image in body["images"]] == [
        (0, 7, "image/png"),
        (1, 8, "image/png"),
    ]
    picture = Image.open(io.BytesIO(base64.b64decode(body["images"][0]["b64_json"])))
    assert picture.format == "PNG"
    assert body["id"] == answer.headers["limner-request-id"] == service.pipeline.specs[0].request_id
    assert body["model"] == "mini"
    assert body["timings"]["total_s"] == 0.54
    assert body["parameters"] == {
        "model": "mini",
        "prompt": "portrait of a man",
        "negative_prompt": "",
        "styles": [],
        "num_inference_steps": 20,
        "guidance_scale": 4.0,
        "seed": 7,
        "n": 2,
        "width": 64,
        "height": 96,
        "sampler": "euler_a",
        "clip_skip": 0,
        "output_format": "png",
        "quality": 80,
    }


async def test_the_reported_parameters_are_a_request_for_the_same_pictures() -> None:
    service = Service()
    first = await service.draw(styles=["cartoon", "sepia"], negative_prompt="hat")
    again = await service.draw(**first.json()["parameters"])
    assert again.json()["parameters"] == first.json()["parameters"]
    one, two = service.pipeline.specs
    assert (one.prompt, one.negative_prompt, one.seed) == (two.prompt, two.negative_prompt, two.seed)
    assert one.request_id != two.request_id


async def test_a_seed_is_drawn_where_none_is_given() -> None:
    service = Service()
    seeds = {(await service.draw()).json()["parameters"]["seed"] for _ in range(4)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)


async def test_settings_come_from_the_request_then_the_style_then_the_model() -> None:
    service = Service()
    answer = await service.draw(model="photo", styles=["anime"], num_inference_steps=9)
    spec = service.pipeline.specs[0]
    assert spec.num_inference_steps == 9
    assert spec.sampler is SamplerName.EULER_A
    assert (spec.width, spec.height) == (512, 512)
    assert "anime" in spec.prompt
    assert "photograph" in spec.negative_prompt
    assert service.pipelines.asked_for == ["photo"]
    assert answer.json()["prompt"] == spec.prompt
    assert answer.json()["parameters"]["prompt"] == "portrait of a man"


async def test_a_picture_file_carries_its_seed_and_id_in_headers() -> None:
    service = Service()
    answer = await service.draw("image/*", seed=4_000_000_000)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["limner-seed"] == "4000000000"
    assert answer.headers["limner-request-id"] == service.pipeline.specs[0].request_id
    pipeline, _, ours = answer.headers["server-timing"].partition(", router;dur=")
    assert pipeline == (
        "encode;dur=10.0, denoise;dur=500.0, decode;dur=20.0, total;dur=540.0, engine;dur=450.0, file;dur=5.0"
    )
    _, _, predicted_ms = ours.partition(", predicted;dur=")
    # Half a second from its acceptance, and whatever went before that.
    assert float(predicted_ms) >= 500
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"


@pytest.mark.parametrize(
    ("accept", "members", "media_type"),
    [
        ("image/webp", {}, "image/webp"),
        ("image/*", {"output_format": "jpeg"}, "image/jpeg"),
        ("image/avif,image/webp,*/*;q=0.1", {}, "image/webp"),
        ("application/json;q=0.5, image/jpeg", {}, "image/jpeg"),
        ("image/png, */*;q=0.1", {"n": 2}, "application/json"),
        ("text/*", {}, "text/event-stream; charset=utf-8"),
        ("application/json", {"stream": True}, "text/event-stream; charset=utf-8"),
        ("", {}, "application/json"),
    ],
)
async def test_accept_chooses_the_representation(
    accept: str, members: dict[str, Any], media_type: str
) -> None:
    answer = await Service().draw(accept, **members)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type


async def test_the_format_reaches_the_pipeline() -> None:
    service = Service()
    body = (await service.draw(output_format="webp")).json()
    assert body["images"][0]["media_type"] == "image/webp"
    await service.draw("image/jpeg")
    assert [spec.output_format for spec in service.pipeline.specs] == [OutputFormat.WEBP, OutputFormat.JPEG]


async def test_a_file_cannot_hold_several_pictures() -> None:
    answer = await Service().draw("image/png", n=2)
    assert answer.status_code == 422
    assert (answer.json()["field"], answer.json()["limit"]) == ("n", 1)


@pytest.mark.parametrize(
    ("accept", "members"),
    [("text/html", {}), ("image/png", {"output_format": "webp"}), ("image/avif", {"n": 3}), ("*/*;q=0", {})],
)
async def test_what_cannot_be_had_is_not_acceptable(accept: str, members: dict[str, Any]) -> None:
    service = Service()
    answer = await service.draw(accept, **members)
    assert answer.status_code == 406
    assert answer.json()["field"] == "Accept"
    assert service.pipeline.specs == []


async def test_a_stream_tells_the_whole_story() -> None:
    service = Service()
    answer = await service.draw(stream=True, preview_every=1, seed=3)
    names, events = zip(*events_of(answer.text), strict=True)
    assert names == ("accepted", "progress", "preview", "completed")
    accepted, progress, preview, completed = events
    assert accepted["id"] == completed["id"] == service.pipeline.specs[0].request_id
    assert accepted["predicted_finish_s"] == 0.5
    assert accepted["seed"] == 3
    assert progress == {"step": 1, "num_steps": 20, "predicted_finish_s": 0.4}
    assert base64.b64decode(preview["b64_json"]) == b"small"
    assert set(completed) == set((await service.draw()).json())
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("stream", [True, False])
async def test_steps_are_told_to_those_who_follow_alone(stream: bool) -> None:
    service = Service()
    await service.draw(stream=stream)
    (spec,) = service.pipeline.specs
    assert spec.progress is stream


async def test_previews_need_a_stream() -> None:
    answer = await Service().draw(preview_every=1)
    assert answer.status_code == 422
    assert answer.json()["field"] == "preview_every"


async def test_prompt_weights_pass_through() -> None:
    service = Service()
    await service.draw(prompt="a (man)1.3 with a hat++ {prompt}")
    assert service.pipeline.specs[0].prompt == "a (man)1.3 with a hat++ {prompt}"
