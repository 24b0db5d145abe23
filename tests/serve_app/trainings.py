"""Good requests for adapters, and how they are sent."""

from __future__ import annotations

from typing import Any

import httpx

from serve_app.caller import USER_HEADER
from tests.serve_app.edits import MASK, PHOTO
from tests.serve_app.fakes import Service, as_parts
from tests.serve_app.small_trainer import FILE

TRAINING: dict[str, Any] = {
    "photos": [PHOTO, MASK, PHOTO],
    "name": "Anton",
    "subject": "man",
    "consent": True,
}
IMPORT: dict[str, Any] = {
    "file": FILE,
    "name": "Anton",
    "subject": "man",
    "trigger": "ohwx",
    "consent": True,
}


async def train(service: Service, user: str = "local", **members: Any) -> httpx.Response:
    """Send a training, good unless ``members`` say otherwise; None leaves a member out."""
    return await service.client.post(
        "/v1/adapters", files=as_parts(TRAINING | members), headers={USER_HEADER: user}
    )


async def bring(service: Service, user: str = "local", **members: Any) -> httpx.Response:
    """Send an adapter file, good unless ``members`` say otherwise; None leaves a member out."""
    return await service.client.post(
        "/v1/adapters/import", files=as_parts(IMPORT | members), headers={USER_HEADER: user}
    )


def as_user(user: str) -> dict[str, str]:
    """The headers of a request of that member."""
    return {USER_HEADER: user}


def without_instance(answer: httpx.Response) -> dict[str, Any]:
    """A problem, but for the id of its request."""
    body: dict[str, Any] = answer.json()
    del body["instance"]
    return body
