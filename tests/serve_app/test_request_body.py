"""JSON and forms say the same, are bounded alike, and are refused alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.settings import RequestLimits, RouterSettings
from core.specs import GenerationSpec
from serve_app.edit_requests import InpaintRequest
from tests.serve_app.edits import EITHER_WAY, EVERY_ROUTE, GOOD, MASK, PHOTO, PROMPT
from tests.serve_app.fakes import HangingUp, Service
from tests.serve_app.test_validation import assert_problem

FULL: dict[str, dict[str, Any]] = {
    "image-to-image": GOOD["image-to-image"]
    | {
        "styles": ["cartoon", "sepia"],
        "strength": 0.5,
        "seed": 7,
        "n": 2,
        "strategy": "preserve",
        "width": 100,
        "hires": {"scale": 2, "strength": 0.25},
        "deadline_s": 30.5,
        "guidance_scale": 3,
    },
    "mask": GOOD["mask"],
    "inpaint": {
        "image": PHOTO,
        "mode": "outpaint",
        "margins": {"left": 8, "bottom": 16},
        "only_masked": True,
        "mask_feather": 3,
        "output_format": "webp",
        "negative_prompt": "hat",
        "seed": 1,
    },
    "gender-swap": {"image": PHOTO, "target": "girl", "scope": "whole", "seed": 3, "strength": 0.7},
    "upscale": GOOD["upscale"] | {"scale": 4, "seed": 4_000_000_000, "prompt": "1"},
}


@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_a_form_means_what_json_means(noun: str) -> None:
    service = Service()
    answers = [await service.edit(noun, form=form, **FULL[noun]) for form in EITHER_WAY]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    specs = service.pipeline.specs or service.pipelines.sight.specs
    one, two = (replace(spec, request_id="") for spec in specs)
    assert one == two
    assert one.image == PHOTO


async def test_a_box_may_come_in_a_form() -> None:
    service = Service()
    box = {"left": 1, "top": 2, "width": 30, "height": 40}
    await service.edit("inpaint", form=True, image=PHOTO, prompt=PROMPT, box=box)
    assert service.pipeline.specs[0].box.height == 40


@pytest.mark.parametrize("text", ["True", "true", "TRUE"])
async def test_booleans_are_spelled_as_clients_do(text: str) -> None:
    service = Service()
    await service.edit("inpaint", form=True, **GOOD["inpaint"], only_masked=text)
    assert service.pipeline.specs[0].only_masked is True


async def test_an_empty_field_is_a_member_left_out() -> None:
    service = Service()
    answer = await service.edit(
        "inpaint", form=True, **GOOD["inpaint"], seed="", task="", box="", only_masked=""
    )
    assert answer.status_code == 200
    assert service.pipeline.specs[0].task is None


async def test_a_file_that_was_not_chosen_is_a_member_left_out() -> None:
    boundary, service = "x", Service()
    parts = ""
    for name, value in (("mask", ""), ("image", PHOTO.decode("latin-1"))):
        named = f'name="{name}"; filename="{"a.png" if value else ""}"'
        parts += f"--{boundary}\r\nContent-Disposition: form-data; {named}\r\n\r\n{value}\r\n"
    parts += f'--{boundary}\r\nContent-Disposition: form-data; name="mask_prompt"\r\n\r\nhair\r\n'
    parts += f'--{boundary}\r\nContent-Disposition: form-data; name="mode"\r\n\r\nremove\r\n--{boundary}--'
    answer = await service.client.post(
        "/v1/inpaint",
        content=parts.encode("latin-1"),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    assert answer.status_code == 200
    assert service.pipeline.specs[0].mask is None


@pytest.mark.parametrize("form", EITHER_WAY)
@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_unknown_members_are_refused(noun: str, form: bool) -> None:
    answer = await Service().edit(noun, form=form, **GOOD[noun], colour="red")
    assert assert_problem(answer, 422, "invalid_request")["field"] == "colour"


@pytest.mark.parametrize("form", EITHER_WAY)
@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_a_picture_is_needed(noun: str, form: bool) -> None:
    members = {name: value for name, value in GOOD[noun].items() if name != "image"} | {"model": "mini"}
    answer = await Service().edit(noun, form=form, **members)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"


@pytest.mark.parametrize("name", ["image", "prompt", "seed"])
async def test_a_field_sent_twice_is_refused(name: str) -> None:
    parts: list[Any] = [("image", ("a", PHOTO)), ("prompt", (None, PROMPT)), ("seed", (None, "1"))]
    parts.append(next(part for part in parts if part[0] == name))
    answer = await Service().client.post("/v1/image-to-image", files=parts)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == (name, 1)


async def test_a_file_where_text_belongs_is_refused() -> None:
    parts = [("image", ("a", PHOTO)), ("prompt", ("a.txt", b"a man"))]
    answer = await Service().client.post("/v1/image-to-image", files=parts)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "prompt"


@pytest.mark.parametrize("noun", EVERY_ROUTE)
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_other_content_types_are_unsupported(content_type: str, noun: str) -> None:
    answer = await Service().client.post(
        f"/v1/{noun}", content=b"image=1", headers={"Content-Type": content_type}
    )
    body = assert_problem(answer, 415, "unsupported_media_type")
    assert body["limit"] == ["application/json", "multipart/form-data"]


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b"[" * 100_000, 400),
        ("application/json", b'{"n": ' + b"9" * 5_000 + b"}", 400),
        ("application/json", b"", 422),
        ("application/json", b"[]", 422),
        ("multipart/form-data", b"--x--", 400),
        ("multipart/form-data; boundary=x", b"nonsense", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 422),
    ],
)
async def test_broken_bodies_are_refused(content_type: str, content: bytes, status: int) -> None:
    answer = await Service().client.post(
        "/v1/upscale", content=content, headers={"Content-Type": content_type}
    )
    assert_problem(answer, status, "malformed_request" if status == 400 else "invalid_request")


@pytest.mark.parametrize("form", EITHER_WAY)
async def test_a_flood_of_members_is_refused(form: bool) -> None:
    many = {f"member{number}": "1" for number in range(101)}
    answer = await Service().edit("upscale", form=form, **many)
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 2_000


async def test_a_flood_of_files_is_refused() -> None:
    answer = await Service().client.post("/v1/upscale", files=[("image", ("a", PHOTO))] * 20)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("image", 8)


SMALL = RouterSettings(limits=RequestLimits(max_body_bytes=2_000, max_upload_body_bytes=20_000))


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for place in range(0, len(content), 512):
        yield content[place : place + 512]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_bodies_with_pictures_may_be_larger_and_are_limited(noun: str, chunked: bool) -> None:
    service = Service(settings=SMALL)
    for padding, status in ((17_000, 422), (21_000, 413)):
        content = json.dumps({"colour": "x" * padding}).encode()
        answer = await service.client.post(
            f"/v1/{noun}",
            content=in_chunks(content) if chunked else content,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == status
    assert (answer.json()["field"], answer.json()["limit"]) == ("body", 20_000)
    assert (await service.draw(prompt="x" * 2_000)).status_code == 413


@pytest.mark.parametrize("chunked", [False, True])
async def test_forms_are_limited_too(chunked: bool) -> None:
    service = Service(settings=SMALL)
    request = service.client.build_request("POST", "/v1/upscale", files=[("image", ("a", bytes(21_000)))])
    content = b"".join([part async for part in request.stream])  # type: ignore[union-attr]
    answer = await service.client.post(
        "/v1/upscale",
        content=in_chunks(content) if chunked else content,
        headers={"Content-Type": request.headers["content-type"]},
    )
    assert_problem(answer, 413, "payload_too_large")


async def test_a_hundred_uploads_at_once_are_all_answered() -> None:
    service = Service()
    answers = await asyncio.gather(
        *(
            service.edit("image-to-image", form=bool(seed % 2), **FULL["image-to-image"] | {"seed": seed})
            for seed in range(100)
        )
    )
    assert [answer.json()["parameters"]["seed"] for answer in answers] == list(range(100))


async def test_hanging_up_while_uploading_asks_no_pipeline() -> None:
    service = Service()
    caller = HangingUp(service.api, {"image": "aaaa"}, path="/v1/upscale", more_body=True)
    caller.hang_up()
    await caller.call
    assert service.pipelines.asked_for == []


MEMBERS = sorted(set(InpaintRequest.model_fields) - {"image", "mask", "styles"})
VALUES = (
    st.integers(-3, 2**33)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.booleans()
    | st.sampled_from(["replace", "remove", "outpaint", "shape_guided", "hair", "png", "mini", "euler"])
    | st.fixed_dictionaries({"left": st.integers(-1, 300)}, optional={"top": st.integers(0, 90)})
)
# One for all examples: building it takes longer than asking it.
SERVICE = Service()
TEXTS = {"prompt", "negative_prompt", "mask_prompt", "model"}


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=5))
async def test_forms_and_json_are_validated_alike(members: dict[str, Any]) -> None:
    # In a form everything is text, so a number is a good prompt there.
    members = {name: value for name, value in members.items() if name not in TEXTS or isinstance(value, str)}
    members = {"image": PHOTO, "mask": MASK, "prompt": PROMPT} | members
    one, two = [await SERVICE.edit("inpaint", form=form, **members) for form in EITHER_WAY]
    assert one.status_code == two.status_code
    assert one.status_code in (200, 422)
    if one.status_code == 422:
        fields = [{error["field"] for error in answer.json()["errors"]} for answer in (one, two)]
        assert fields[0] == fields[1]
    else:
        specs: list[GenerationSpec] = [
            replace(spec, request_id="", seed=0) for spec in SERVICE.pipeline.specs[-2:]
        ]
        assert specs[0] == specs[1]
