"""Masks from words over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import pytest
from PIL import Image

from core.errors import MissingPart, QueueFull
from tests.serve_app.edits import EITHER_WAY, PHOTO
from tests.serve_app.fakes import HangingUp, Service, in_base64
from tests.serve_app.test_validation import assert_problem


@pytest.mark.parametrize("form", EITHER_WAY)
async def test_json_holds_the_mask_and_its_coverage(form: bool) -> None:
    service = Service()
    answer = await service.edit("mask", form=form, image=PHOTO, words="hair", model="photo")
    body = answer.json()
    picture = Image.open(io.BytesIO(base64.b64decode(body.pop("b64_json"))))
    assert (picture.mode, picture.size) == ("L", (160, 80))
    spec = service.pipelines.sight.specs[0]
    assert body == {"id": spec.request_id, "coverage": 0.5, "width": 160, "height": 80, "empty": False}
    assert answer.headers["limner-request-id"] == spec.request_id
    assert (spec.words, spec.image) == ("hair", PHOTO)
    assert service.pipelines.asked_for == ["photo"]


@pytest.mark.parametrize("accept", ["image/png", "image/*", "image/webp;q=0.1, image/png"])
async def test_the_mask_itself_may_be_had(accept: str) -> None:
    answer = await Service().edit("mask", accept=accept, image=PHOTO, words="hair")
    assert answer.headers["content-type"] == "image/png"
    assert float(answer.headers["limner-mask-coverage"]) == 0.5
    assert Image.open(io.BytesIO(answer.content)).size == (160, 80)


async def test_an_empty_mask_is_reported_as_such() -> None:
    answer = await Service().edit("mask", image=PHOTO, words="nothing")
    assert answer.status_code == 200
    assert (answer.json()["coverage"], answer.json()["empty"]) == (0.0, True)


@pytest.mark.parametrize("accept", ["image/jpeg", "text/event-stream"])
async def test_other_representations_do_not_exist(accept: str) -> None:
    answer = await Service().edit("mask", accept=accept, image=PHOTO, words="hair")
    assert assert_problem(answer, 406, "not_acceptable")["limit"] == ["application/json", "image/png"]


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"words": ""}, "words", None),
        ({"words": "x" * 201}, "words", 200),
        ({"words": "nul\0"}, "words", None),
        ({"model": "dall-e"}, "model", ["mini", "photo"]),
        ({"prompt": "hair"}, "prompt", None),
    ],
)
async def test_a_bad_member_is_named(members: dict[str, Any], field: str, limit: Any) -> None:
    answer = await Service().edit("mask", **{"image": PHOTO, "words": "hair"} | members)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == (field, limit)


@pytest.mark.parametrize(
    ("error", "status"), [(QueueFull("Full.", retry_after_s=1), 503), (MissingPart("No CLIPSeg."), 409)]
)
async def test_failures_pass_through(error: Exception, status: int) -> None:
    service = Service()
    service.pipelines.sight.error = error
    answer = await service.edit("mask", image=PHOTO, words="hair")
    assert_problem(answer, status, getattr(error, "code", ""))


async def test_hanging_up_stops_the_work() -> None:
    service = Service()
    stopped, started = asyncio.Event(), asyncio.Event()

    async def slow(spec: object) -> Any:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    service.pipelines.sight.mask = slow  # type: ignore[method-assign]
    caller = HangingUp(service.api, in_base64({"image": PHOTO, "words": "hair"}), path="/v1/mask")
    await started.wait()
    caller.hang_up()
    await caller.call
    assert stopped.is_set()
