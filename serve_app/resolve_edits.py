"""From the requests that bring a picture along to their specs. Every refusal names the field."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from core.errors import InvalidRequest
from core.fitting import size_for
from core.specs import GenderSwapSpec, ImageToImageSpec, MaskSpec, Strategy, SwapScope, UpscaleSpec
from core.types import ModelInfo, OutputFormat
from serve_app.answer_schemas import GenderSwapParameters, ImageToImageParameters, UpscaleParameters
from serve_app.edit_requests import GenderSwapRequest, ImageToImageRequest, MaskRequest, UpscaleRequest
from serve_app.offer import Offer, find_model
from serve_app.resolve import (
    Resolved,
    at_most,
    check_output,
    check_rules,
    reported,
    resolve_common,
    resolve_hires,
)

# How much each strategy draws anew where neither the request nor the model says.
STRENGTHS: Mapping[Strategy, float] = {
    Strategy.RESTYLE: 0.6,
    Strategy.VARIATION: 0.35,
    Strategy.PRESERVE: 0.8,
    Strategy.STRUCTURE: 1.0,
}
UPSCALE_STRENGTH = 0.3


def resolve_image_to_image(
    request: ImageToImageRequest, offer: Offer, output_format: OutputFormat
) -> Resolved[ImageToImageSpec]:
    """The size reported is the one drawn, so that the answer's parameters ask for it again.

    Raises:
        InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    common = resolve_common(request, offer, output_format)
    if request.strategy is not Strategy.VARIATION:
        need_prompt(request.prompt, f"the strategy {request.strategy}")
    for field in ("width", "height"):
        at_most(field, getattr(request, field), common.model.max_size)
    width, height = size_for(*request.image.size, common.model, request.width, request.height)
    hires = resolve_hires(request.hires, width, height, offer.limits)
    strength = request.strength or common.model.strengths.get(request.strategy, STRENGTHS[request.strategy])
    spec = ImageToImageSpec(
        image=request.image.data,
        strength=strength,
        strategy=request.strategy,
        max_width=width,
        max_height=height,
        hires=hires,
        **common.spec,
    )
    parameters = ImageToImageParameters(
        strategy=request.strategy,
        strength=strength,
        width=width,
        height=height,
        hires=reported(hires),
        **common.parameters,
    )
    return Resolved(spec, parameters)


def resolve_mask(request: MaskRequest, offer: Offer) -> tuple[MaskSpec, ModelInfo]:
    """The spec, and the model whose perception is asked.

    Raises:
        InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    model = find_model(request.model, offer.models)
    check_rules("words", request.words, model, offer)
    check_output(*request.image.size, offer.limits, "image")
    return MaskSpec(request_id=uuid.uuid4().hex, image=request.image.data, words=request.words), model


def resolve_gender_swap(
    request: GenderSwapRequest, offer: Offer, output_format: OutputFormat
) -> Resolved[GenderSwapSpec]:
    """Raises:
    InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    common = resolve_common(request, offer, output_format)
    hires = None
    if request.scope is SwapScope.WHOLE:
        size = size_for(*request.image.size, common.model, None, None)
        hires = resolve_hires(request.hires, *size, offer.limits)
    else:
        check_output(*request.image.size, offer.limits, "image")
        if request.hires is not None:
            raise InvalidRequest(
                "A second pass would change the background, which the scope portrait keeps.",
                field="hires",
                limit=SwapScope.WHOLE,
            )
    choices: dict[str, Any] = {"target": request.target, "scope": request.scope, "strength": request.strength}
    return Resolved(
        GenderSwapSpec(image=request.image.data, hires=hires, **choices, **common.spec),
        GenderSwapParameters(hires=reported(hires), **choices, **common.parameters),
    )


def resolve_upscale(
    request: UpscaleRequest, offer: Offer, output_format: OutputFormat
) -> Resolved[UpscaleSpec]:
    """Raises:
    InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    common = resolve_common(request, offer, output_format)
    width, height = request.image.size
    check_output(width * request.scale, height * request.scale, offer.limits, "scale")
    strength = request.strength or common.model.strengths.get("upscale", UPSCALE_STRENGTH)
    return Resolved(
        UpscaleSpec(image=request.image.data, scale=request.scale, strength=strength, **common.spec),
        UpscaleParameters(scale=request.scale, strength=strength, **common.parameters),
    )


def need_prompt(prompt: str, what: str) -> None:
    """Raises:
    InvalidRequest: if there is no prompt, which ``what`` needs.
    """
    if not prompt.strip():
        raise InvalidRequest(f"A prompt is needed for {what}.", field="prompt")
