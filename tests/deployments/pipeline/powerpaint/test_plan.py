from __future__ import annotations

from dataclasses import replace

import pytest

from core.specs import InpaintMode, InpaintSpec, Task
from core.types import SamplerName
from deployments.pipeline.inpainting.conditioning import LatentBlending
from deployments.pipeline.inpainting.plan import plan_of
from deployments.pipeline.parts import PipelineParts
from deployments.pipeline.powerpaint.conditioning import BranchConditioning, TokenConditioning
from deployments.pipeline.powerpaint.plan import Planner
from deployments.pipeline.powerpaint.presets import PRESETS
from deployments.pipeline.powerpaint.prompts import TaskPrompts
from deployments.pipeline.prompts import PromptEncoder
from weights.powerpaint import TASK_TOKENS

SPEC = InpaintSpec(
    request_id="r",
    prompt="cat",
    negative_prompt="dog",
    num_inference_steps=4,
    guidance_scale=5.0,
    seed=0,
    num_images=1,
    sampler=SamplerName.DDIM,
    image=b"",
    mask=b"",
    mode=InpaintMode.REPLACE,
)
REMOVAL = replace(SPEC, mode=InpaintMode.REMOVE, task=Task.OBJECT_REMOVAL)
SHAPED = replace(SPEC, task=Task.SHAPE_GUIDED, fitting_degree=0.3)


@pytest.fixture
def plain(tiny_parts: PipelineParts) -> Planner:
    return Planner(tiny_parts, LatentBlending(tiny_parts))


@pytest.fixture
def v1(plain: Planner) -> Planner:
    own = plain.parts.prompts
    assert isinstance(own, PromptEncoder)
    return replace(plain, prompts=TaskPrompts(own))


@pytest.fixture
def v2(plain: Planner) -> Planner:
    own = plain.parts.prompts
    assert isinstance(own, PromptEncoder)
    return replace(plain, prompts=TaskPrompts(own, own))


def test_every_task_has_a_preset_of_learned_tokens() -> None:
    assert set(PRESETS) == set(Task)
    for preset in PRESETS.values():
        tokens = {preset.token, preset.loose_token, preset.negative_token, preset.loose_negative_token}
        assert tokens <= set(TASK_TOKENS)
    assert [task for task, preset in PRESETS.items() if preset.uses_fitting_degree] == [Task.SHAPE_GUIDED]


@pytest.mark.parametrize(
    ("task", "given", "used"),
    [
        (Task.OBJECT_REMOVAL, 5.0, 10.0),
        (Task.OUTPAINTING, 9.9, 10.0),
        (Task.OBJECT_REMOVAL, 14.0, 14.0),
        (Task.OBJECT_REMOVAL, 1.0, 1.0),
        (Task.TEXT_GUIDED, 5.0, 5.0),
        (Task.SHAPE_GUIDED, 5.0, 5.0),
    ],
)
def test_guidance_is_raised_to_what_the_tokens_need(
    v1: Planner, v2: Planner, plain: Planner, task: Task, given: float, used: float
) -> None:
    spec = replace(SPEC, task=task, guidance_scale=given)
    assert v1(spec, None, 1.0).guidance_scale == used
    assert v2(spec, None, 1.0).guidance_scale == used
    assert plain(spec, None, 1.0).guidance_scale == given


def test_learned_tokens_draw_from_noise_unless_told_otherwise(v2: Planner, plain: Planner) -> None:
    assert v2(REMOVAL, None, 1.0).strength == 1.0
    assert v2(replace(REMOVAL, strength=0.4), None, 1.0).strength == 0.4
    assert plain(REMOVAL, None, 1.0).strength < 1.0


def test_each_layout_has_its_conditioning(v1: Planner, v2: Planner) -> None:
    by_words, by_branch = v1(REMOVAL, None, 1.0).conditioning, v2(REMOVAL, None, 1.0).conditioning
    assert isinstance(by_words, TokenConditioning)
    assert by_words.num_extra_channels == 5
    assert isinstance(by_branch, BranchConditioning)
    assert by_branch.num_extra_channels == 0


def test_what_goes_is_not_asked_for(v2: Planner) -> None:
    drawn = v2(replace(REMOVAL, prompt="hat"), None, 1.0)
    assert drawn.prompt == ""
    assert "hat" in drawn.negative_prompt
    assert "dog" in drawn.negative_prompt
    found = v2(replace(REMOVAL, prompt="meadow", mask=None, mask_prompt="hat"), None, 1.0)
    assert found.prompt == "meadow"
    assert "hat" in found.negative_prompt


def test_without_a_task_every_family_plans_alike(v2: Planner, plain: Planner) -> None:
    expected = plan_of(SPEC, None, plain.conditioning, family=plain.parts.info.family, scale=2.0)
    assert plain(SPEC, None, 2.0) == expected
    assert v2(SPEC, None, 2.0) == expected


def test_without_tokens_a_task_is_its_mode(plain: Planner) -> None:
    for task, mode in (
        (Task.TEXT_GUIDED, InpaintMode.REPLACE),
        (Task.OBJECT_REMOVAL, InpaintMode.REMOVE),
        (Task.OUTPAINTING, InpaintMode.OUTPAINT),
    ):
        spec = replace(SPEC, mode=mode, fitting_degree=0.5)
        assert plain(replace(spec, task=task), None, 1.0) == plain(spec, None, 1.0)


def test_a_shape_is_followed_by_tokens_or_by_the_mask(plain: Planner, v1: Planner, v2: Planner) -> None:
    for planner, degree in ((plain, 0.3), (v1, 1.0), (v2, 1.0)):
        plan = planner(SHAPED, None, 1.0)
        assert plan.fitting_degree == degree
        assert plan.mask_grow == 0
        assert planner(replace(SHAPED, mask_grow=4), None, 1.0).mask_grow == 4
