"""``POST /v1/upscale``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.adapters_in_use import for_member
from serve_app.answer_schemas import UpscaleResponse
from serve_app.answers import answer, choose_representation
from serve_app.caller import Caller
from serve_app.edit_examples import UPSCALE
from serve_app.edit_requests import UpscaleRequest
from serve_app.examples import EDIT_RESPONSES
from serve_app.offer import Offer
from serve_app.openapi import request_body
from serve_app.pipelines import Pipelines
from serve_app.records import Records
from serve_app.request_body import read_body
from serve_app.resolve_edits import resolve_upscale


def build_router(pipelines: Pipelines, offer: Offer, records: Records) -> APIRouter:
    """The route, over the pipelines of the models on offer; ``records`` knows members' adapters."""
    router = APIRouter(tags=["edit"])

    @router.post(
        "/v1/upscale",
        operation_id="upscale",
        summary="Enlarge a picture",
        response_model=UpscaleResponse,
        responses=EDIT_RESPONSES,
        openapi_extra=request_body(UpscaleRequest, UPSCALE),
    )
    async def upscale(request: Request, caller: Caller) -> Response:
        """The picture is enlarged by interpolation, then its details are drawn anew, tile by tile.

        Answers are represented as those of `POST /v1/text-to-image` are.
        """
        body = await read_body(request, UpscaleRequest, offer.limits)
        representation = choose_representation(body, request.headers.get("accept"))
        resolved = resolve_upscale(body, offer, representation.output_format)
        resolved = await for_member(caller, body.adapters, resolved, records)
        pipeline = pipelines.upscale(resolved.parameters.model)
        return await answer(request, representation, resolved, pipeline, UpscaleResponse)

    return router
