"""Both releases from disk through text encoders, branch and engine, against plain loops of single rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.specs import Task
from core.types import SamplerName
from deployments.engine.branch import BranchInput
from deployments.engine.brushnet import BrushNet
from deployments.engine.request import DenoiseRequest, noise_for
from deployments.engine.samplers import NoiseSchedule
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.powerpaint.conditioning import BRANCH
from deployments.pipeline.powerpaint.prompts import TaskPrompts
from deployments.pipeline.prompts import PromptEncoder
from tests.deployments.engine.plain_unet import by_plain_loops
from tests.deployments.engine.scenes import engine, psnr_db, run, submitted
from tests.powerpaint_files import build_v1_release, build_v2_release
from tests.tiny_family import LATENT_SIZE
from weights import powerpaint, registry

SHAPE = (4, LATENT_SIZE, LATENT_SIZE)
TASKS = list(Task)
# Rounding of float32 leaves 130 dB; another task's text under 40.
EXACT_DB, DIFFERENT_DB = 100, 50


def schedule_of(model_id: str) -> NoiseSchedule:
    return NoiseSchedule.from_config(registry.scheduler_config(model_id))


def hole(seed: int) -> Tensor:
    mask = np.zeros((1, *SHAPE[1:]), np.float32)
    mask[:, 1 + seed : 5, 2 : 4 + seed] = 1
    return torch.from_numpy(mask)


def asked(task: Task | str, told: Embeds, seed: int, **inputs: object) -> DenoiseRequest:
    return DenoiseRequest(
        request_id=str(task),
        prompt_embeds=told.positive,
        negative_embeds=told.negative,
        noise=noise_for(seed, SHAPE),
        sampler=SamplerName.DPMPP_2M,
        num_inference_steps=3 + seed % 2,
        guidance_scale=10.0,
        seed=seed,
        **inputs,  # type: ignore[arg-type]
    )


async def branch_input(prompts: TaskPrompts, task: Task, seed: int, degree: float = 1.0) -> BranchInput:
    text = await prompts.for_branch(task, fitting_degree=degree)
    return BranchInput(
        name=BRANCH,
        conditioning=torch.cat([noise_for(seed + 100, SHAPE), 1 - hole(seed)]),
        prompt_embeds=text.positive,
        negative_embeds=text.negative,
    )


@pytest.fixture(scope="module")
def v2(tiny_family: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_v2_release(tmp_path_factory.mktemp("release") / "v2", tiny_family)


@pytest.fixture(scope="module")
def branch(v2: Path, tiny_family: Path) -> BrushNet:
    weights = powerpaint.load_brushnet(v2, tiny_family)
    return BrushNet.of_weights(weights.config, weights.tensors)


@pytest.fixture
def prompts(v2: Path, tiny_family: Path, tiny_model_id: str) -> TaskPrompts:
    of_branch = PromptEncoder(*powerpaint.load_v2_text(v2, tiny_family), cache_entries=16)
    return TaskPrompts(PromptEncoder(*registry.load_text(tiny_model_id), cache_entries=16), of_branch)


async def test_v2_tasks_share_a_batch_with_rows_of_the_plain_unet(
    branch: BrushNet, prompts: TaskPrompts, tiny_model_id: str
) -> None:
    schedule = schedule_of(tiny_model_id)
    wanted = []
    for seed, task in enumerate(TASKS):
        told = await prompts.encode(task, "red cat", "dog", fitting_degree=0.4)
        given = await branch_input(prompts, task, seed, degree=0.4)
        wanted.append(asked(task, told, seed, branch=given))
    wanted.append(replace(wanted[0], request_id="plain", branch=None))
    unet = registry.load_unet(tiny_model_id)
    shared = engine(unet, schedule=schedule, branches={BRANCH: branch}, max_rows=10)
    listeners = submitted(shared, *wanted)
    run(shared)
    with torch.inference_mode():
        untouched = registry.load_unet(tiny_model_id)
        for each in wanted:
            expected = by_plain_loops(each, schedule, untouched, branch)
            assert psnr_db(listeners[each.request_id].latents, expected) >= EXACT_DB


async def test_other_tasks_draw_other_pictures_from_one_seed(
    branch: BrushNet, prompts: TaskPrompts, tiny_model_id: str
) -> None:
    schedule = schedule_of(tiny_model_id)
    wanted = []
    for task in TASKS:
        told = await prompts.encode(task, "red cat", "dog")
        given = await branch_input(prompts, task, 1)
        wanted.append(asked(task, told, 1, branch=given))
    shared = engine(registry.load_unet(tiny_model_id), schedule=schedule, branches={BRANCH: branch})
    listeners = submitted(shared, *wanted)
    run(shared)
    text, removal, shape, outpainting = (listeners[task].latents for task in TASKS)
    assert psnr_db(removal, outpainting) >= EXACT_DB
    for other in (text, removal):
        assert psnr_db(shape, other) < DIFFERENT_DB


async def test_v1_tasks_share_a_batch_of_nine_channels(
    tiny_family: Path, tiny_model_id: str, tmp_path: Path
) -> None:
    release = build_v1_release(tmp_path / "v1", tiny_family)
    unet = powerpaint.load_v1_unet(release, tiny_family / "unet")
    prompts = TaskPrompts(PromptEncoder(*powerpaint.load_v1_text(release, tiny_family), cache_entries=16))
    schedule = schedule_of(tiny_model_id)
    wanted = []
    for seed, task in enumerate(TASKS):
        told = await prompts.encode(task, "red cat", "dog", fitting_degree=0.4)
        extra = torch.cat([hole(seed), noise_for(seed + 100, SHAPE)])
        wanted.append(asked(task, told, seed, extra_channels=extra))
    shared = engine(unet, schedule=schedule)
    listeners = submitted(shared, *wanted)
    run(shared)
    with torch.inference_mode():
        for each in wanted:
            expected = by_plain_loops(each, schedule, unet)
            assert psnr_db(listeners[each.request_id].latents, expected) >= EXACT_DB
