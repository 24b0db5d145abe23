"""What the OpenAPI document shows of adapters and jobs. Files are cut short."""

from __future__ import annotations

from typing import Any

from core.errors import (
    Conflict,
    GenerationFailed,
    InsufficientStorage,
    InvalidRequest,
    LimnerError,
    MalformedRequest,
    ModerationBlocked,
    NotFound,
    NotReady,
    PayloadTooLarge,
    QueueFull,
    RequestCancelled,
    UnsupportedMediaType,
    UploadTooSlow,
)
from serve_app.edit_examples import PICTURE, Examples
from serve_app.examples import BINARY, OWN_PROBLEMS, header
from serve_app.negotiation import EVENT_STREAM
from serve_app.openapi import problem_responses

_Responses = dict[int | str, dict[str, Any]]

TRAINING: Examples = {
    "shortest": (
        "Three photos of a man",
        {"photos": [PICTURE] * 3, "name": "Anton", "subject": "man", "consent": True},
    ),
    "settings": (
        "A robot, with settings spelled out",
        {
            "photos": [PICTURE] * 5,
            "name": "The robot of the blue team",
            "subject": "robot",
            "trigger": "zvokip",
            "consent": True,
            "model": "mini",
            "num_steps": 120,
            "rank": 8,
            "learning_rate": 0.0005,
            "prior_weight": 0.5,
            "num_class_pictures": 8,
            "sample_every": 40,
            "seed": 7,
        },
    ),
}
IMPORT: Examples = {
    "shortest": (
        "A file trained elsewhere",
        {"file": "…", "name": "Anton", "subject": "man", "trigger": "ohwx", "consent": True},
    )
}
_FOLLOWED = """id: 1
event: queued
data: {"job_id":"job_5d…","at":"2026-11-22T10:00:00+00:00"}

id: 5
event: progress
data: {"job_id":"job_5d…","at":"2026-11-22T10:00:09+00:00","step":1,"num_steps":100,"loss":0.21}

id: 56
event: sample
data: {"job_id":"job_5d…","at":"2026-11-22T10:00:48+00:00","number":1,"url":"/v1/adapters/adp_2f…/samples/1"}

id: 108
event: succeeded
data: {"job_id":"job_5d…","at":"2026-11-22T10:01:30+00:00","adapter_id":"adp_2f…"}

"""
# What may go wrong where a form is read and the Trainer is asked.
_MAKING: tuple[type[LimnerError], ...] = (
    MalformedRequest,
    ModerationBlocked,
    UploadTooSlow,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    InvalidRequest,
    RequestCancelled,
    GenerationFailed,
    LimnerError,
    QueueFull,
    NotReady,
    InsufficientStorage,
)
_CHANGING = (*OWN_PROBLEMS, GenerationFailed, QueueFull, NotReady)

TRAINING_RESPONSES: _Responses = {
    202: {"description": "The job.", "headers": {"Location": header("The job's address.")}},
    **problem_responses(*_MAKING),
}
IMPORT_RESPONSES: _Responses = {
    201: {"description": "The adapter.", "headers": {"Location": header("The adapter's address.")}},
    **problem_responses(*_MAKING),
}
CANCEL_RESPONSES: _Responses = problem_responses(*_CHANGING)
DELETE_RESPONSES: _Responses = problem_responses(*_CHANGING, Conflict)
FILE_RESPONSES: _Responses = {
    200: {
        "description": "The file.",
        "headers": {
            "ETag": header("Of PEFT's layout, the `sha256` of the file in quotes."),
            "Content-Disposition": header("A name for the file."),
        },
        "content": {"application/octet-stream": BINARY},
    },
    304: {"description": "The file is the one of `If-None-Match`."},
    **problem_responses(*_CHANGING, Conflict),
}
SAMPLE_RESPONSES: _Responses = {
    200: {"description": "The picture.", "content": {"image/png": BINARY}},
    **problem_responses(MalformedRequest, NotFound, InvalidRequest, LimnerError),
}
EVENTS_RESPONSES: _Responses = {
    200: {
        "description": "The job's events, ending with `succeeded`, `failed` or `canceled`.",
        "content": {EVENT_STREAM: {"schema": {"type": "string"}, "example": _FOLLOWED}},
    },
    204: {"description": "The job has ended, and every event was received."},
    **problem_responses(MalformedRequest, NotFound, InvalidRequest, LimnerError),
}
