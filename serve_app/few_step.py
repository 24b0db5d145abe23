"""Which requests are drawn in few steps, with the model's few-step adapter. Plain data, no HTTP."""

from __future__ import annotations

from core.errors import InvalidRequest
from core.types import FewStep, ModelInfo, SamplerName
from serve_app.members import TextToImageRequest
from serve_app.styles import StyledPrompt


def few_step_of(request: TextToImageRequest, styled: StyledPrompt, model: ModelInfo) -> FewStep | None:
    """How the request is drawn in few steps; None where it is drawn as the model draws otherwise.

    The request's ``few_step`` decides. Without it, naming the adapter's own sampler LCM, which no other
    network can do with, asks for few steps; and a model may draw so by default, but only what says nothing
    that the adapter has settled: steps, sampler, guidance, a negative prompt, a second pass.

    Raises:
        InvalidRequest: if it asks for few steps and the model has no adapter for them.
    """
    few_step = model.few_step
    if few_step is None:
        if request.few_step:
            raise InvalidRequest(
                f"The model {model.model_id} has no few-step adapter.", field="few_step", limit=False
            )
        return None
    if request.few_step is not None:
        return few_step if request.few_step else None
    if request.sampler is SamplerName.LCM and few_step.sampler is SamplerName.LCM:
        return few_step
    return few_step if few_step.default and _settles_nothing(request, styled) else None


def _settles_nothing(request: TextToImageRequest, styled: StyledPrompt) -> bool:
    settled = (
        request.num_inference_steps,
        request.sampler,
        request.guidance_scale,
        request.hires,
        styled.num_inference_steps,
        styled.sampler,
        styled.guidance_scale,
    )
    return not styled.negative_prompt and all(value is None for value in settled)
