"""Plans for requests with a task, and for all others: what an inpainting pipeline makes its plans with.

Knows words and numbers; nothing of masks, latents or the Denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from core.specs import InpaintMode, InpaintSpec
from deployments.pipeline.captions import Description
from deployments.pipeline.inpainting.conditioning import Conditioning
from deployments.pipeline.inpainting.plan import InpaintPlan, plan_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.powerpaint.conditioning import conditioning_of
from deployments.pipeline.powerpaint.presets import PRESETS, Preset
from deployments.pipeline.powerpaint.prompts import TaskPrompts


@dataclass(frozen=True, slots=True, eq=False)
class Planner:
    """Makes the plan of a request. ``prompts`` are None in a family without learned tokens.

    ``conditioning`` is for requests without a task and for families without tokens.
    """

    parts: PipelineParts
    conditioning: Conditioning
    prompts: TaskPrompts | None = None

    def __call__(self, spec: InpaintSpec, description: Description | None, scale: float) -> InpaintPlan:
        """The plan of ``spec``; ``scale`` is how many pixels of the picture the model sees as one."""
        task = spec.task
        if task is None:
            return self._plain(spec, description, scale)
        preset = PRESETS[task]
        if preset.uses_fitting_degree and spec.mask_grow is None:
            # The outline is what such a task is about.
            spec = replace(spec, mask_grow=0)
        if self.prompts is None:
            plan = self._plain(spec, description, scale)
            degree = spec.fitting_degree if preset.uses_fitting_degree else 1.0
            return replace(plan, fitting_degree=degree)
        conditioning = conditioning_of(self.parts, self.prompts, task, spec.fitting_degree)
        plan = plan_of(
            _with_tokens(spec, preset), description, conditioning, family=self.parts.info.family, scale=scale
        )
        if spec.mode is InpaintMode.REMOVE:
            # A prompt over a drawn mask names what goes; what comes instead, the tokens know.
            plan = replace(plan, prompt=spec.prompt if spec.mask_prompt else "")
        return plan

    def _plain(self, spec: InpaintSpec, description: Description | None, scale: float) -> InpaintPlan:
        return plan_of(spec, description, self.conditioning, family=self.parts.info.family, scale=scale)


def _with_tokens(spec: InpaintSpec, preset: Preset) -> InpaintSpec:
    """``spec`` with the guidance and the strength that learned tokens were trained for."""
    guidance = spec.guidance_scale
    if guidance > 1:  # less means none at all, for models distilled to do without
        guidance = max(guidance, preset.min_guidance_scale)
    # What was in the hole is hidden from the model.
    return replace(spec, guidance_scale=guidance, strength=1.0 if spec.strength is None else spec.strength)
