"""Bad pictures on every route, in JSON and in forms: each is a problem that names the member."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.settings import RequestLimits, RouterSettings
from core.uploads import FORMATS
from tests.picture_files import BLUE, RED, oriented, png, saved, scene
from tests.serve_app.edits import EITHER_WAY, EVERY_ROUTE, GOOD, PHOTO
from tests.serve_app.fakes import Service
from tests.serve_app.test_validation import assert_problem


def frames(file_format: str) -> bytes:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE)]
    return saved(pictures[0], file_format, save_all=True, append_images=pictures[1:])


BOMB = png(10_000, 10_000, 1, 0, (b"\0" + bytes(1_250)) * 10_000)
BAD = {
    "empty": (b"", list(FORMATS)),
    "words": (b"this is no picture", list(FORMATS)),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(40), list(FORMATS)),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", list(FORMATS)),
    "header cut": (PHOTO[:20], None),
    "gif": (frames("GIF"), 1),
    "webp": (frames("WebP"), 1),
    "apng": (frames("PNG"), 1),
    "bomb": (BOMB, 50_000_000),
}


# Every kind on every route, in JSON and in a form by turns.
CASES = [
    (kind, noun, bool((row + column) % 2))
    for row, kind in enumerate(BAD)
    for column, noun in enumerate(EVERY_ROUTE)
]


@pytest.mark.parametrize(("kind", "noun", "form"), CASES)
async def test_bad_pictures_never_reach_a_replica(kind: str, noun: str, form: bool) -> None:
    data, limit = BAD[kind]
    service = Service()
    answer = await service.edit(noun, form=form, **GOOD[noun] | {"image": data})
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("image", limit)
    assert service.pipelines.asked_for == []


@pytest.mark.parametrize("kind", BAD)
async def test_bad_masks_are_named_as_masks(kind: str) -> None:
    answer = await Service().edit("inpaint", **GOOD["inpaint"] | {"mask": BAD[kind][0]})
    assert assert_problem(answer, 422, "invalid_request")["field"] == "mask"


@pytest.mark.parametrize("form", EITHER_WAY)
@pytest.mark.parametrize("noun", EVERY_ROUTE)
async def test_what_only_the_replica_sees_is_the_same_problem(noun: str, form: bool) -> None:
    service = Service()
    noise = np.random.default_rng(0).integers(0, 256, (80, 160, 3), np.uint8)
    cut = saved(Image.fromarray(noise), "JPEG")[:-2_000]
    answer = await service.edit(noun, form=form, **GOOD[noun] | {"image": cut})
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"
    assert service.pipelines.asked_for == ["mini"]


def cmyk() -> bytes:
    return saved(scene(160, 80).convert("CMYK"), "JPEG")


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.linspace(0, 65_535, 160 * 80).astype(np.uint16).reshape(80, 160)))


def palette() -> bytes:
    return saved(scene(160, 80).quantize(4), transparency=0)


def turned() -> bytes:
    stored = scene(160, 80).transpose(Image.Transpose.ROTATE_90)
    return saved(stored, "JPEG", exif=oriented(6))


ODD = {"cmyk": cmyk(), "16 bits": sixteen_bits(), "palette": palette(), "turned": turned()}


@pytest.mark.parametrize("noun", EVERY_ROUTE)
@pytest.mark.parametrize("kind", ODD)
async def test_odd_pictures_are_taken(kind: str, noun: str) -> None:
    # The mask of the good inpainting request has the upright size.
    answer = await Service().edit(noun, form=True, **GOOD[noun] | {"image": ODD[kind]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("noun", ["image-to-image", "mask", "gender-swap", "upscale"])
@pytest.mark.parametrize("size", [(1, 1), (5_000, 1), (1, 5_000)])
async def test_small_and_thin_pictures_are_taken(size: tuple[int, int], noun: str) -> None:
    picture = saved(Image.new("RGB", size, RED))
    assert (await Service().edit(noun, **GOOD[noun] | {"image": picture})).status_code == 200


@pytest.mark.parametrize(
    "text", ["%%%", "aGVsbG8", "data:image/png,raw", "data:image/png;base64,%%", "ä" * 10, "=" * 8]
)
async def test_garbage_for_base64_is_refused(text: str) -> None:
    answer = await Service().edit("upscale", image=text, scale=2)
    body = assert_problem(answer, 422, "invalid_request")
    assert body["field"] == "image"
    assert "base64" in body["detail"]


@pytest.mark.parametrize("value", [None, 1, True, [], {}, ["a"]])
async def test_a_picture_is_text_in_json(value: Any) -> None:
    answer = await Service().edit("upscale", image=value, scale=2)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "DATA:;base64,", "data:a/b;name=x;base64,"])
@pytest.mark.parametrize("split", [False, True])
async def test_base64_and_data_urls_are_read(head: str, split: bool) -> None:
    service = Service()
    text = base64.b64encode(PHOTO).decode()
    if split:
        text = "\r\n".join(text[place : place + 76] for place in range(0, len(text), 76))
    assert (await service.edit("upscale", image=head + text, scale=2)).status_code == 200
    assert service.pipeline.specs[0].image == PHOTO


@pytest.mark.parametrize("tail", range(3))
async def test_long_base64_is_read_to_the_last_byte(tail: int) -> None:
    service = Service()
    long = PHOTO + bytes(1_600_000 + tail)
    assert (await service.edit("upscale", image=long, scale=2)).status_code == 200
    assert service.pipeline.specs[0].image == long
    padded_early = base64.b64encode(long[: 3 * 2**18 - 1]) + base64.b64encode(long)
    answer = await service.edit("upscale", image=padded_early.decode(), scale=2)
    assert assert_problem(answer, 422, "invalid_request")["field"] == "image"


@pytest.mark.parametrize("form", EITHER_WAY)
async def test_the_bytes_of_a_picture_are_limited(form: bool) -> None:
    padded = PHOTO + bytes(5_000)
    service = Service(settings=RouterSettings(limits=RequestLimits(max_upload_bytes=len(padded) - 1)))
    answer = await service.edit("upscale", form=form, image=padded, scale=2)
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"]) == ("image", len(padded) - 1)
    assert (await service.edit("upscale", form=form, image=padded[:-1], scale=2)).status_code == 200


async def test_the_pixels_of_a_picture_are_limited() -> None:
    service = Service(settings=RouterSettings(limits=RequestLimits(max_upload_pixels=160 * 80 - 1)))
    answer = await service.edit("upscale", image=PHOTO, scale=2)
    assert assert_problem(answer, 422, "invalid_request")["limit"] == 160 * 80 - 1


async def test_every_bad_member_is_listed_with_the_picture() -> None:
    answer = await Service().edit("upscale", image=b"none", scale=3, colour="red")
    body = assert_problem(answer, 422, "invalid_request")
    assert {error["field"] for error in body["errors"]} == {"image", "scale", "colour"}
    limits = {error["field"]: error["limit"] for error in body["errors"]}
    assert limits["scale"] == [2, 4]


# One for all examples: building it takes longer than asking it.
SERVICE = Service()


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: PHOTO[:60] + tail))
async def test_no_bytes_of_a_picture_are_a_500(data: bytes) -> None:
    for form in EITHER_WAY:
        answer = await SERVICE.edit("upscale", form=form, image=data, scale=2)
        assert answer.status_code == 422
