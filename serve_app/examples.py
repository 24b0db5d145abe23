"""What the OpenAPI document shows: requests to try for ``POST /v1/text-to-image``, answers of all routes."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example

from core.errors import (
    Conflict,
    DeadlineExceeded,
    DeadlineUnmeetable,
    GenerationFailed,
    InvalidRequest,
    LimnerError,
    MalformedRequest,
    MissingPart,
    ModerationBlocked,
    NotAcceptable,
    NotFound,
    NotReady,
    PayloadTooLarge,
    QueueFull,
    RequestCancelled,
    ShuttingDown,
    UnsupportedMediaType,
)
from core.types import OutputFormat
from serve_app.negotiation import EVENT_STREAM
from serve_app.openapi import problem_responses

ADAPTER_ID = "adp_2f6b7c0e9d1a4f58b3c6d7e8f9a0b1c2"
REQUESTS: dict[str, Example] = {
    "shortest": {"summary": "Only a prompt", "value": {"prompt": "portrait of a smiling woman"}},
    "settings": {
        "summary": "Every setting spelled out",
        "value": {
            "prompt": "portrait of a man with spiky brown hair and a (beard)1.3, yellow background",
            "negative_prompt": "glasses",
            "num_inference_steps": 20,
            "guidance_scale": 4.0,
            "seed": 7,
            "n": 2,
            "width": 128,
            "height": 128,
            "sampler": "dpmpp_2m",
            "output_format": "webp",
            "quality": 85,
        },
    },
    "styles": {
        "summary": "Two styles, one on top of the other",
        "value": {"prompt": "portrait of a man wearing a hat", "styles": ["cartoon", "black-and-white"]},
    },
    "adapter": {
        "summary": "With an adapter of your own, at 0.8 of what it was trained to do",
        "value": {
            "prompt": "cartoon portrait of zvokip man, wearing a navy t-shirt",
            "adapters": [{"id": ADAPTER_ID, "weight": 0.8}],
        },
    },
    "stream": {
        "summary": "Progress and previews while it is being drawn",
        "value": {"prompt": "a purple monster with three eyes", "stream": True, "preview_every": 1},
    },
}

_EVENTS = """event: accepted
data: {"id":"0b7e…","predicted_finish_s":0.9,"seed":7,"parameters":{…}}

event: progress
data: {"step":5,"num_steps":20,"predicted_finish_s":0.7}

event: preview
data: {"index":0,"step":5,"media_type":"image/png","b64_json":"iVBORw0…"}

event: completed
data: {"id":"0b7e…","images":[…],"parameters":{…},"timings":{…}}

"""


def header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_HEADERS = {
    "Limner-Request-Id": header("The `id` of the answer."),
    "Limner-Seed": header("The seed of a picture file.", "integer"),
    "Server-Timing": header(
        "Milliseconds spent in each stage: `engine` is a part of `denoise`, `file` of `decode`; `router` is "
        "on top of `total`; `predicted` is what the whole was foretold to take. Not sent with streams."
    ),
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
# What may go wrong on every route that makes something.
_PROBLEMS: tuple[type[LimnerError], ...] = (
    MalformedRequest,
    ModerationBlocked,
    NotAcceptable,
    PayloadTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    RequestCancelled,
    GenerationFailed,
    LimnerError,
    QueueFull,
    NotReady,
    DeadlineUnmeetable,
    ShuttingDown,
    DeadlineExceeded,
)

# And on those that draw with members' adapters.
_DRAWING_PROBLEMS = (*_PROBLEMS, NotFound, Conflict)
# On those that show a member what is the member's own.
OWN_PROBLEMS: tuple[type[LimnerError], ...] = (MalformedRequest, NotFound, InvalidRequest, LimnerError)

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures, in the representation that `Accept` and `stream` ask for.",
        "headers": _HEADERS,
        "content": {
            **{file_format.media_type: BINARY for file_format in OutputFormat},
            EVENT_STREAM: {"schema": {"type": "string"}, "example": _EVENTS},
        },
    },
    **problem_responses(*_DRAWING_PROBLEMS),
}
EDIT_RESPONSES: dict[int | str, dict[str, Any]] = RESPONSES | problem_responses(
    *_DRAWING_PROBLEMS, MissingPart
)
MASK_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The mask, in the representation that `Accept` asks for.",
        "headers": {
            "Limner-Request-Id": _HEADERS["Limner-Request-Id"],
            "Limner-Mask-Coverage": header("The share of the picture that the mask covers.", "number"),
        },
        "content": {OutputFormat.PNG.media_type: BINARY},
    },
    **problem_responses(*_PROBLEMS, MissingPart),
}
