"""``POST /v1/text-to-image``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from starlette.responses import Response

from serve_app.adapters_in_use import for_member
from serve_app.answer_schemas import TextToImageResponse
from serve_app.answers import answer, choose_representation
from serve_app.body_limit import require_json
from serve_app.caller import Caller
from serve_app.examples import REQUESTS, RESPONSES
from serve_app.members import TextToImageRequest
from serve_app.offer import Offer
from serve_app.pipelines import Pipelines
from serve_app.records import Records
from serve_app.resolve import resolve_text_to_image


def build_router(pipelines: Pipelines, offer: Offer, records: Records) -> APIRouter:
    """The route, over the pipelines of the models on offer; ``records`` knows members' adapters."""
    router = APIRouter(tags=["generate"])

    @router.post(
        "/v1/text-to-image",
        operation_id="text_to_image",
        summary="Draw pictures from a prompt",
        dependencies=[Depends(require_json)],
        response_model=TextToImageResponse,
        responses=RESPONSES,
    )
    async def text_to_image(
        request: Request, caller: Caller, body: Annotated[TextToImageRequest, Body(openapi_examples=REQUESTS)]
    ) -> Response:
        """Disconnecting cancels the work. The same seed and settings draw the same picture.

        * `Accept: application/json` (or none): the pictures in base64, with everything that made them.
        * `Accept: image/png`, `image/jpeg`, `image/webp` or `image/*`: the picture file itself, for `n` 1.
        * `"stream": true` or `Accept: text/event-stream`: the events `accepted`, `progress`, `preview`, and
          at the end either `completed` (the JSON answer) or `error` (a problem). What is refused before the
          first event is an ordinary HTTP error.
        """
        representation = choose_representation(body, request.headers.get("accept"))
        resolved = resolve_text_to_image(body, offer, representation.output_format)
        resolved = await for_member(caller, body.adapters, resolved, records)
        pipeline = pipelines.text_to_image(resolved.parameters.model)
        return await answer(request, representation, resolved, pipeline, TextToImageResponse)

    return router
