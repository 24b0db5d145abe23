"""``POST /v1/inpaint``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from serve_app.adapters_in_use import for_member
from serve_app.answer_schemas import InpaintResponse
from serve_app.answers import answer, choose_representation
from serve_app.caller import Caller
from serve_app.edit_examples import INPAINT
from serve_app.edit_requests import InpaintRequest
from serve_app.examples import EDIT_RESPONSES
from serve_app.offer import Offer
from serve_app.openapi import request_body
from serve_app.pipelines import Pipelines
from serve_app.records import Records
from serve_app.request_body import read_body
from serve_app.resolve_inpaint import resolve_inpaint


def build_router(pipelines: Pipelines, offer: Offer, records: Records) -> APIRouter:
    """The route, over the pipelines of the models on offer; ``records`` knows members' adapters."""
    router = APIRouter(tags=["edit"])

    @router.post(
        "/v1/inpaint",
        operation_id="inpaint",
        summary="Paint a part of a picture anew",
        response_model=InpaintResponse,
        responses=EDIT_RESPONSES,
        openapi_extra=request_body(InpaintRequest, INPAINT),
    )
    async def inpaint(request: Request, caller: Caller) -> Response:
        """Every pixel outside the feathered mask stays as it was, bit for bit, at the size of the input.

        To `replace`, `remove` and `add`, send exactly one of `mask`, `mask_prompt` and `box`; to `outpaint`,
        `margins`. `replace` and `add` need a prompt. There is no second pass (`hires`) here, which would
        change what is to be kept. Words that match nothing are refused with 422. Answers are represented
        as those of `POST /v1/text-to-image` are.
        """
        body = await read_body(request, InpaintRequest, offer.limits)
        representation = choose_representation(body, request.headers.get("accept"))
        resolved = resolve_inpaint(body, offer, representation.output_format)
        resolved = await for_member(caller, body.adapters, resolved, records)
        pipeline = pipelines.inpaint(resolved.parameters.model)
        return await answer(request, representation, resolved, pipeline, InpaintResponse)

    return router
