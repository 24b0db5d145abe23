"""Bad requests: each is a problem that names the field and its limit, none is a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.settings import RequestLimits, RouterSettings
from core.types import SamplerName
from serve_app.members import TextToImageRequest
from serve_app.styles import load_styles
from tests.serve_app.fakes import Service

SIZES = {"minimum": 64, "maximum": 256, "multiple_of": 16}
ABLE = [style.id for style in load_styles() if "mini" in style.families]
PROMPT = "portrait of a man"


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """A whole problem, in RFC 9457's words and in OpenAI's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"/problems/{code}")
    assert body["title"]
    assert body["detail"]
    assert body["instance"].endswith(answer.headers["x-request-id"])
    assert body["error"]["code"] == code
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["param"] == body["field"]
    return body


@pytest.mark.parametrize(
    ("members", "field", "limit"),
    [
        ({"colour": "red"}, "colour", None),
        ({"styles": ["baroque"]}, "styles.0", ABLE),
        ({"styles": ["cartoon", "anime"]}, "styles.1", ABLE),
        ({"styles": ["cartoon"] * 9}, "styles", 8),
        ({"styles": "cartoon"}, "styles", None),
        ({"num_inference_steps": 0}, "num_inference_steps", 1),
        ({"num_inference_steps": 1000}, "num_inference_steps", 150),
        ({"num_inference_steps": True}, "num_inference_steps", None),
        ({"num_inference_steps": 20.5}, "num_inference_steps", None),
        ({"num_inference_steps": 10**30}, "num_inference_steps", 150),
        ({"num_inference_steps": "20"}, "num_inference_steps", None),
        ({"width": 100}, "width", SIZES),
        ({"height": 16}, "height", SIZES),
        ({"width": 4096}, "width", SIZES),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": " \n\t "}, "prompt", None),
        ({"prompt": "x" * 10_000}, "prompt", 2000),
        ({"prompt": "nul\0"}, "prompt", None),
        ({"prompt": None}, "prompt", None),
        ({"negative_prompt": "y" * 2_001}, "negative_prompt", 2000),
        ({"guidance_scale": -0.1}, "guidance_scale", 0.0),
        ({"guidance_scale": 31}, "guidance_scale", 30.0),
        ({"guidance_scale": 10**400}, "guidance_scale", None),
        ({"sampler": "magic"}, "sampler", list(SamplerName)),
        ({"clip_skip": 3}, "clip_skip", 2),
        ({"n": 0}, "n", 1),
        ({"n": 11}, "n", 10),
        ({"seed": -1}, "seed", 0),
        ({"seed": 2**32}, "seed", 2**32 - 1),
        ({"quality": 0}, "quality", 1),
        ({"quality": 101}, "quality", 100),
        ({"output_format": "gif"}, "output_format", ["png", "jpeg", "webp"]),
        ({"model": "dall-e"}, "model", ["mini", "photo"]),
        ({"deadline_s": 0}, "deadline_s", 0.0),
        ({"deadline_s": 601}, "deadline_s", 600.0),
        ({"stream": "yes"}, "stream", None),
        ({"preview_every": 151, "stream": True}, "preview_every", 150),
    ],
)
async def test_a_bad_member_is_named_with_its_limit(members: dict[str, Any], field: str, limit: Any) -> None:
    service = Service()
    body = assert_problem(await service.draw(**members), 422, "invalid_request")
    assert body["field"] == field
    assert body["limit"] == limit
    assert body["errors"][0]["field"] == field
    assert service.pipeline.specs == []


async def test_every_bad_member_is_listed() -> None:
    answer = await Service().draw(n=0, seed=-1, extra=1)
    body = assert_problem(answer, 422, "invalid_request")
    assert {error["field"] for error in body["errors"]} == {"n", "seed", "extra"}
    assert "n: " in body["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_guidance_is_finite(number: str) -> None:
    answer = await Service().post(f'{{"prompt": "a man", "guidance_scale": {number}}}')
    assert assert_problem(answer, 422, "invalid_request")["field"] == "guidance_scale"


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a man"',
        b'{"prompt": "\xff\xfe"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "a man", "seed": ' + b"9" * 5_000 + b"}",
        b"nonsense",
    ],
    ids=["unfinished", "not UTF-8", "deep list", "deep object", "huge integer", "words"],
)
async def test_what_is_not_json_is_malformed(content: bytes) -> None:
    assert_problem(await Service().post(content), 400, "malformed_request")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"a man"', "body"),
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": "a man", "styles": ["\\udfff"]}', "styles.0"),
        (b'{"prompt": "a man", "nested": ' + b"[" * 500 + b"]" * 500 + b"}", "nested"),
    ],
)
async def test_json_of_another_shape_is_invalid(content: bytes, field: str) -> None:
    assert assert_problem(await Service().post(content), 422, "invalid_request")["field"] == field


async def test_a_flood_of_members_is_not_listed() -> None:
    answer = await Service().post(json.dumps({f"member{number}": 1 for number in range(101)}))
    body = assert_problem(answer, 422, "invalid_request")
    assert (body["field"], body["limit"], len(body["errors"])) == ("body", 100, 1)


async def test_member_names_of_any_kind_can_be_reported() -> None:
    answer = await Service().post(b'{"prompt": "a man", "\\ud800": 1, "%s": 2}' % (b"x" * 100_000))
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 5_000


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml", ""]
)
async def test_other_content_types_are_unsupported(content_type: str) -> None:
    answer = await Service().post(b'{"prompt": "a man"}', **{"Content-Type": content_type})
    body = assert_problem(answer, 415, "unsupported_media_type")
    assert (body["field"], body["limit"]) == ("Content-Type", "application/json")


async def test_json_with_a_charset_is_supported() -> None:
    typed = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert (await Service().post(b'{"prompt": "a man"}', **typed)).status_code == 200


async def in_chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 500):
        yield b" " * 500


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused(chunked: bool) -> None:
    service = Service(settings=RouterSettings(limits=RequestLimits(max_body_bytes=2_000)))
    answer = await service.post(in_chunks(2_500) if chunked else b" " * 2_001)
    body = assert_problem(answer, 413, "payload_too_large")
    assert (body["field"], body["limit"]) == ("body", 2_000)


async def test_a_body_at_the_limit_is_read() -> None:
    service = Service(settings=RouterSettings(limits=RequestLimits(max_body_bytes=2_000)))
    assert (await service.post(b'{"prompt": "a man"}'.ljust(2_000))).status_code == 200


async def test_limits_are_the_installation_s() -> None:
    service = Service(settings=RouterSettings(limits=RequestLimits(max_images=2, max_prompt_chars=5)))
    assert (await service.draw(prompt="a man", n=2)).status_code == 200
    assert (await service.draw(prompt="a man", n=3)).json()["limit"] == 2
    assert (await service.draw(prompt="a woman")).json()["limit"] == 5


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
SCALARS = st.integers(-2, 2**33) | st.floats() | st.text(max_size=5)
MEMBERS = st.sampled_from(sorted(TextToImageRequest.model_fields))
# One for all examples: building it takes longer than asking it.
SERVICE = Service()


@settings(max_examples=300, deadline=None)
@given(body=JSON_VALUES | st.dictionaries(MEMBERS | st.text(), JSON_VALUES, max_size=6))
async def test_no_json_value_is_a_500(body: Any) -> None:
    answer = await SERVICE.post(json.dumps(body).encode())
    assert answer.status_code in (200, 400, 422)


@settings(max_examples=150, deadline=None)
@given(members=st.dictionaries(MEMBERS, SCALARS, max_size=4))
async def test_no_value_of_a_member_is_a_500(members: dict[str, Any]) -> None:
    answer = await SERVICE.post(json.dumps({"prompt": PROMPT} | members).encode())
    assert answer.status_code in (200, 422)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
async def test_no_bytes_are_a_500(content: bytes) -> None:
    assert (await SERVICE.post(content)).status_code in (400, 422)
