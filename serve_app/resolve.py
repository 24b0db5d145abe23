"""From a request to a ``TextToImageSpec``: styles applied, defaults filled in, the model's limits kept.

Knows no HTTP. Every refusal names the field and its limit.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import InvalidRequest
from core.settings import RequestLimits
from core.types import ModelInfo, OutputFormat, TextToImageSpec
from serve_app.schemas import Parameters, TextToImageRequest
from serve_app.styles import Style, StyleRecipe, apply


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request as it will be carried out, and as it is reported."""

    spec: TextToImageSpec
    parameters: Parameters

    @property
    def model_id(self) -> str:
        return self.parameters.model


def resolve(
    request: TextToImageRequest,
    models: Sequence[ModelInfo],
    styles: Sequence[Style],
    limits: RequestLimits,
    output_format: OutputFormat,
) -> Resolved:
    """Settings come from the request, else its styles, else the model.

    Raises:
        InvalidRequest: for the first value that breaks a limit.
    """
    _check_limits(request, limits)
    model = find_model(request.model, models)
    recipes = _recipes(request.styles, model, styles)
    styled = apply(recipes, request.prompt, request.negative_prompt)
    _at_most("clip_skip", request.clip_skip, model.max_clip_skip)
    parameters = Parameters(
        model=model.model_id,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        styles=request.styles,
        num_inference_steps=_first(
            request.num_inference_steps, styled.num_inference_steps, model.default_num_inference_steps
        ),
        guidance_scale=_first(request.guidance_scale, styled.guidance_scale, model.default_guidance_scale),
        seed=_first(request.seed, secrets.randbits(32)),
        n=request.n,
        width=_side("width", request.width, model),
        height=_side("height", request.height, model),
        sampler=_first(request.sampler, styled.sampler, model.default_sampler),
        clip_skip=request.clip_skip,
        output_format=output_format,
        quality=request.quality,
    )
    spec = TextToImageSpec(
        request_id=uuid.uuid4().hex,
        prompt=styled.prompt,
        negative_prompt=styled.negative_prompt,
        num_images=parameters.n,
        preview_every=request.preview_every,
        deadline_s=request.deadline_s,
        parameters={"Styles": ", ".join(request.styles)} if request.styles else {},
        **parameters.model_dump(exclude={"model", "prompt", "negative_prompt", "styles", "n"}),
    )
    return Resolved(spec, parameters)


def find_model(model_id: str | None, models: Sequence[ModelInfo]) -> ModelInfo:
    """The model with that id; the first one for None.

    Raises:
        InvalidRequest: if there is none.
    """
    if model_id is None:
        return models[0]
    for model in models:
        if model.model_id == model_id:
            return model
    known = [model.model_id for model in models]
    raise InvalidRequest(f"Unknown model. One of: {', '.join(known)}.", field="model", limit=known)


def _recipes(style_ids: Sequence[str], model: ModelInfo, styles: Sequence[Style]) -> list[StyleRecipe]:
    known = {style.id: style for style in styles}
    found = []
    for place, style_id in enumerate(style_ids):
        recipe = known[style_id].families.get(model.family) if style_id in known else None
        if recipe is None:
            able = [style.id for style in styles if model.family in style.families]
            why = (
                f"The model {model.model_id} cannot draw this style" if style_id in known else "Unknown style"
            )
            raise InvalidRequest(f"{why}. Any of: {', '.join(able)}.", field=f"styles.{place}", limit=able)
        found.append(recipe)
    return found


def _check_limits(request: TextToImageRequest, limits: RequestLimits) -> None:
    for field in ("prompt", "negative_prompt"):
        if len(getattr(request, field)) > limits.max_prompt_chars:
            raise InvalidRequest(
                f"A prompt may have {limits.max_prompt_chars} characters.",
                field=field,
                limit=limits.max_prompt_chars,
            )
    _at_most("num_inference_steps", request.num_inference_steps, limits.max_num_inference_steps)
    _at_most("guidance_scale", request.guidance_scale, limits.max_guidance_scale)
    _at_most("n", request.n, limits.max_images)
    _at_most("deadline_s", request.deadline_s, limits.max_deadline_s)
    _at_most("preview_every", request.preview_every, limits.max_num_inference_steps)


def _at_most(field: str, value: float | None, limit: float) -> None:
    if value is not None and value > limit:
        raise InvalidRequest(f"At most {limit}.", field=field, limit=limit)


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
