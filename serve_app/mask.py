"""``POST /v1/mask``: where in a picture words are."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from core.types import OutputFormat
from serve_app.answer_schemas import MaskResponse
from serve_app.answers import to_base64
from serve_app.caller import CallingMember
from serve_app.disconnect import unless_disconnected
from serve_app.edit_examples import MASK
from serve_app.edit_requests import MaskRequest
from serve_app.examples import MASK_RESPONSES
from serve_app.negotiation import JSON, preferred
from serve_app.offer import Offer
from serve_app.openapi import request_body
from serve_app.pipelines import Pipelines
from serve_app.request_body import read_body
from serve_app.resolve_edits import resolve_mask


def build_router(pipelines: Pipelines, offer: Offer) -> APIRouter:
    """The route, over the perception of the models on offer."""
    router = APIRouter(tags=["edit"])

    @router.post(
        "/v1/mask",
        operation_id="find_mask",
        summary="Find what words name in a picture",
        response_model=MaskResponse,
        responses=MASK_RESPONSES,
        openapi_extra=request_body(MaskRequest, MASK),
        dependencies=[CallingMember],
    )
    async def find_mask(request: Request) -> Response:
        """A soft mask, as large as the upright picture and white where the words are.

        `POST /v1/inpaint` takes it as it is.

        Words that match nothing give an empty mask, and `empty` says so.

        * `Accept: application/json` (or none): the mask in base64, with its coverage.
        * `Accept: image/png` or `image/*`: the mask itself, with its coverage in `Limner-Mask-Coverage`.
        """
        body = await read_body(request, MaskRequest, offer.limits)
        png = OutputFormat.PNG.media_type
        media_type = preferred(request.headers.get("accept"), [JSON, png])
        spec, model = resolve_mask(body, offer)
        found = await unless_disconnected(request, pipelines.perception(model.model_id).mask(spec))
        headers = {
            "Limner-Request-Id": spec.request_id,
            "Limner-Mask-Coverage": f"{found.coverage:.6f}",
            "Cache-Control": "no-store",
            "Vary": "Accept",
        }
        if media_type == png:
            return Response(found.mask, headers=headers, media_type=png)
        told = MaskResponse(
            id=spec.request_id,
            coverage=found.coverage,
            width=found.width,
            height=found.height,
            empty=found.coverage == 0,
            b64_json=to_base64(found.mask),
        )
        return Response(told.model_dump_json(), headers=headers, media_type=JSON)

    return router
