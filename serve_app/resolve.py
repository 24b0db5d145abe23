"""What the requests of all routes have in common, resolved: styles applied, defaults filled in, limits kept.

Knows no HTTP. Every refusal names the field and its limit. The order of the checks is that of the answer:
limits, model, rules, styles.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.specs import GenerationSpec, Hires, TextToImageSpec
from core.types import FewStep, ModelInfo, OutputFormat
from serve_app.answer_schemas import DrawingParameters, HiresParameters, Parameters
from serve_app.few_step import few_step_of
from serve_app.members import DrawingRequest, HiresMembers, StyledRequest, TextToImageRequest
from serve_app.offer import Offer, find_model, find_recipes
from serve_app.styles import StyledPrompt, apply

S = TypeVar("S", bound=GenerationSpec)


@dataclass(frozen=True, slots=True)
class Resolved(Generic[S]):
    """A request as it will be carried out, and as it is reported."""

    spec: S
    parameters: DrawingParameters


@dataclass(frozen=True, slots=True)
class Common:
    """The part of a request that all routes share: keyword arguments of its spec and of its parameters."""

    model: ModelInfo
    spec: dict[str, Any]
    parameters: dict[str, Any]
    few_step: bool = False


def resolve_text_to_image(
    request: TextToImageRequest, offer: Offer, output_format: OutputFormat
) -> Resolved[TextToImageSpec]:
    """Raises:
    InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule.
    """
    common = resolve_common(request, offer, output_format)
    width = _side("width", request.width, common.model)
    height = _side("height", request.height, common.model)
    hires = resolve_hires(request.hires, width, height, offer.limits)
    return Resolved(
        TextToImageSpec(width=width, height=height, hires=hires, few_step=common.few_step, **common.spec),
        Parameters(
            width=width,
            height=height,
            hires=reported(hires),
            few_step=common.few_step if common.model.few_step else None,
            **common.parameters,
        ),
    )


def resolve_common(request: DrawingRequest, offer: Offer, output_format: OutputFormat) -> Common:
    """Settings come from the request, else its styles, else the model.

    Raises:
        InvalidRequest: for the first value that breaks a limit.
        ModerationBlocked: for a prompt that breaks a rule.
    """
    _check_limits(request, offer.limits)
    model = find_model(request.model, offer.models)
    check_rules("prompt", request.prompt, model, offer)
    style_ids = request.styles if isinstance(request, StyledRequest) else []
    styled = apply(find_recipes(style_ids, model, offer.styles), request.prompt, request.negative_prompt)
    at_most("clip_skip", request.clip_skip, model.max_clip_skip)
    few_step = few_step_of(request, styled, model) if isinstance(request, TextToImageRequest) else None
    settings = _sampling(request, styled, model, few_step) | {
        "seed": _first(request.seed, secrets.randbits(32)),
        "clip_skip": request.clip_skip,
        "output_format": output_format,
        "quality": request.quality,
    }
    spec = settings | {
        "request_id": uuid.uuid4().hex,
        # A template around nothing begins or ends with a comma.
        "prompt": styled.prompt if request.prompt.strip() else styled.prompt.strip(" ,"),
        "negative_prompt": styled.negative_prompt,
        "num_images": request.n,
        "preview_every": request.preview_every,
        "deadline_s": request.deadline_s,
        "parameters": {"Styles": ", ".join(style_ids)} if style_ids else {},
    }
    parameters = settings | {
        "model": model.model_id,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "n": request.n,
    }
    if isinstance(request, StyledRequest):
        parameters["styles"] = style_ids
    return Common(model, spec, parameters, few_step is not None)


def resolve_hires(hires: HiresMembers | None, width: int, height: int, limits: RequestLimits) -> Hires | None:
    """The second pass over a picture of that size.

    Raises:
        InvalidRequest: if its result would be too large.
    """
    if hires is None:
        return None
    check_output(width * hires.scale, height * hires.scale, limits, "hires.scale")
    return Hires(scale=hires.scale, strength=hires.strength)


def reported(hires: Hires | None) -> HiresParameters | None:
    """``hires`` as an answer reports it."""
    return HiresParameters(scale=hires.scale, strength=hires.strength) if hires else None


def check_output(width: float, height: float, limits: RequestLimits, field: str) -> None:
    """Raises:
    InvalidRequest: naming ``field``, if a picture of that size is more than this installation makes.
    """
    if width * height > limits.max_output_pixels:
        raise InvalidRequest(
            f"The result would have {round(width)} × {round(height)} pixels, "
            f"of at most {limits.max_output_pixels} in all.",
            field=field,
            limit=limits.max_output_pixels,
        )


def check_rules(field: str, words: str, model: ModelInfo, offer: Offer) -> None:
    """Raises:
    ModerationBlocked: if this installation has rules and ``words`` break one.
    """
    if offer.rules is not None:
        offer.rules.check(field, words, model.family)


def at_most(field: str, value: float | None, limit: float) -> None:
    """Raises:
    InvalidRequest: if ``value`` is given and above ``limit``.
    """
    if value is not None and value > limit:
        raise InvalidRequest(f"At most {limit}.", field=field, limit=limit)


def _sampling(
    request: DrawingRequest, styled: StyledPrompt, model: ModelInfo, few_step: FewStep | None
) -> dict[str, Any]:
    """Steps, guidance and sampler. A style's are for drawing without the few-step adapter."""
    if few_step is not None:
        return {
            "num_inference_steps": _first(request.num_inference_steps, few_step.num_inference_steps),
            "guidance_scale": _first(request.guidance_scale, few_step.guidance_scale),
            "sampler": _first(request.sampler, few_step.sampler),
        }
    return {
        "num_inference_steps": _first(
            request.num_inference_steps, styled.num_inference_steps, model.default_num_inference_steps
        ),
        "guidance_scale": _first(request.guidance_scale, styled.guidance_scale, model.default_guidance_scale),
        "sampler": _first(request.sampler, styled.sampler, model.default_sampler),
    }


def _check_limits(request: DrawingRequest, limits: RequestLimits) -> None:
    for field in ("prompt", "negative_prompt"):
        if len(getattr(request, field)) > limits.max_prompt_chars:
            raise InvalidRequest(
                f"A prompt may have {limits.max_prompt_chars} characters.",
                field=field,
                limit=limits.max_prompt_chars,
            )
    at_most("num_inference_steps", request.num_inference_steps, limits.max_num_inference_steps)
    at_most("guidance_scale", request.guidance_scale, limits.max_guidance_scale)
    at_most("n", request.n, limits.max_images)
    at_most("deadline_s", request.deadline_s, limits.max_deadline_s)
    at_most("preview_every", request.preview_every, limits.max_num_inference_steps)


def _side(field: str, value: int | None, model: ModelInfo) -> int:
    if value is None:
        return model.default_size
    if not model.min_size <= value <= model.max_size or value % model.size_multiple:
        raise InvalidRequest(
            f"From {model.min_size} to {model.max_size} pixels, in multiples of {model.size_multiple}.",
            field=field,
            limit={"minimum": model.min_size, "maximum": model.max_size, "multiple_of": model.size_multiple},
        )
    return value


def _first(*values: Any) -> Any:
    """The first of ``values`` that is given."""
    return next(value for value in values if value is not None)
