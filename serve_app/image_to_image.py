"""``POST /v1/image-to-image``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.adapters_in_use import for_member
from serve_app.answer_schemas import ImageToImageResponse
from serve_app.answers import answer, choose_representation
from serve_app.caller import Caller
from serve_app.edit_examples import IMAGE_TO_IMAGE
from serve_app.edit_requests import ImageToImageRequest
from serve_app.examples import EDIT_RESPONSES
from serve_app.offer import Offer
from serve_app.openapi import request_body
from serve_app.pipelines import Pipelines
from serve_app.records import Records
from serve_app.request_body import read_body
from serve_app.resolve_edits import resolve_image_to_image


def build_router(pipelines: Pipelines, offer: Offer, records: Records) -> APIRouter:
    """The route, over the pipelines of the models on offer; ``records`` knows members' adapters."""
    router = APIRouter(tags=["edit"])

    @router.post(
        "/v1/image-to-image",
        operation_id="image_to_image",
        summary="Draw pictures from a picture",
        response_model=ImageToImageResponse,
        responses=EDIT_RESPONSES,
        openapi_extra=request_body(ImageToImageRequest, IMAGE_TO_IMAGE),
    )
    async def image_to_image(request: Request, caller: Caller) -> Response:
        """The result has the picture's aspect ratio and fits `width` × `height`; nothing is distorted.

        `structure` needs a ControlNet for edges; 409 `missing_part` where the model has none. Answers are
        represented as those of `POST /v1/text-to-image` are.
        """
        body = await read_body(request, ImageToImageRequest, offer.limits)
        representation = choose_representation(body, request.headers.get("accept"))
        resolved = resolve_image_to_image(body, offer, representation.output_format)
        resolved = await for_member(caller, body.adapters, resolved, records)
        pipeline = pipelines.image_to_image(resolved.parameters.model)
        return await answer(request, representation, resolved, pipeline, ImageToImageResponse)

    return router
