"""``POST /v1/gender-swap``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.adapters_in_use import for_member
from serve_app.answer_schemas import GenderSwapResponse
from serve_app.answers import answer, choose_representation
from serve_app.caller import Caller
from serve_app.edit_examples import GENDER_SWAP
from serve_app.edit_requests import GenderSwapRequest
from serve_app.examples import EDIT_RESPONSES
from serve_app.offer import Offer
from serve_app.openapi import request_body
from serve_app.pipelines import Pipelines
from serve_app.records import Records
from serve_app.request_body import read_body
from serve_app.resolve_edits import resolve_gender_swap


def build_router(pipelines: Pipelines, offer: Offer, records: Records) -> APIRouter:
    """The route, over the pipelines of the models on offer; ``records`` knows members' adapters."""
    router = APIRouter(tags=["edit"])

    @router.post(
        "/v1/gender-swap",
        operation_id="gender_swap",
        summary="Swap the gender of a portrait",
        response_model=GenderSwapResponse,
        responses=EDIT_RESPONSES,
        openapi_extra=request_body(GenderSwapRequest, GENDER_SWAP),
    )
    async def gender_swap(request: Request, caller: Caller) -> Response:
        """Exactly one face is needed: none or several are refused with 422, saying how many there are.

        Answers are represented as those of `POST /v1/text-to-image` are.
        """
        body = await read_body(request, GenderSwapRequest, offer.limits)
        representation = choose_representation(body, request.headers.get("accept"))
        resolved = resolve_gender_swap(body, offer, representation.output_format)
        resolved = await for_member(caller, body.adapters, resolved, records)
        pipeline = pipelines.gender_swap(resolved.parameters.model)
        return await answer(request, representation, resolved, pipeline, GenderSwapResponse)

    return router
