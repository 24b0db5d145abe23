"""DDIM inversion: undone by diffusers' own steps, back to the source, and a row like any other."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from core.errors import InvalidRequest
from deployments.engine.inversion import inversion_table
from deployments.engine.network import Network
from deployments.engine.request import DenoiseRequest, HandedBack, Progressed, noise_for
from deployments.engine.rows import RunningBatch
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from deployments.engine.trajectory import Trajectory, table_of
from tests.deployments.engine.references import ZERO_SNR
from tests.deployments.engine.scenes import (
    SCHEDULE,
    SHAPE,
    alone,
    engine,
    psnr_db,
    request,
    run,
    small_unet,
    submitted,
)

NUM_STEPS = 10
UNET = small_unet()
SOURCE = noise_for(99, SHAPE)
SCHEDULES = pytest.mark.parametrize("schedule", [SCHEDULE, ZERO_SNR], ids=["epsilon", "v-prediction"])


def inversion(request_id: str = "r", **changes: Any) -> DenoiseRequest:
    """At guidance 1, with the prompt that the tests also walk back with."""
    values: dict[str, Any] = {
        "invert": True,
        "source": SOURCE,
        "num_inference_steps": NUM_STEPS,
        "guidance_scale": 1.0,
    }
    return request(request_id, **{**values, **changes})


def model_output(x: Tensor, timestep: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = UNET(x[None], timestep[None], request().prompt_embeds[None], return_dict=False)[0]
    return output[0]


def visited(schedule: NoiseSchedule) -> list[Tensor]:
    """The latents that the model sees in each step of an inversion."""
    wanted = inversion()
    batch = RunningBatch(Network(UNET), torch.float32, torch.device("cpu"))
    batch.pack([Trajectory(wanted, table_of(wanted, schedule), schedule)])
    seen = []
    with torch.inference_mode():
        for _ in range(NUM_STEPS):
            seen.append(batch.x[0])
            batch.step()
    return seen


def test_with_epsilon_it_steps_as_the_inverse_scheduler_of_diffusers() -> None:
    """The scheduler's step, given what the model says at the predicted latents, corrects and predicts."""
    scheduler = DDIMInverseScheduler.from_config(scheduler_for(request().sampler, SCHEDULE).config)
    scheduler.set_timesteps(NUM_STEPS)
    latents = predicted = SOURCE
    upward = [*scheduler.timesteps, None]
    seen = visited(SCHEDULE)
    for step, (now, following) in enumerate(pairwise(upward)):
        torch.testing.assert_close(seen[step], predicted, atol=1e-4, rtol=0)
        m = model_output(predicted, now)
        latents = scheduler.step(m, now, latents, return_dict=False)[0]
        reached = alone(inversion(start_step=NUM_STEPS - 1 - step), UNET)
        torch.testing.assert_close(reached, latents, atol=1e-4, rtol=0)
        if following is not None:
            predicted = scheduler.step(m, following, latents, return_dict=False)[0]


@SCHEDULES
def test_each_step_is_undone_by_the_step_of_diffusers(schedule: NoiseSchedule) -> None:
    scheduler = scheduler_for(request().sampler, schedule)
    assert isinstance(scheduler, DDIMScheduler)
    scheduler.set_timesteps(NUM_STEPS)
    before = SOURCE
    for step, seen in enumerate(visited(schedule)):
        level = NUM_STEPS - 1 - step
        timestep = scheduler.timesteps[level]
        reached = alone(inversion(start_step=level), UNET, schedule=schedule)
        m = model_output(seen, timestep)
        undone = scheduler.step(m, int(timestep), reached, return_dict=False)[0]
        torch.testing.assert_close(undone, before, atol=1e-4, rtol=0)
        before = reached


@SCHEDULES
@pytest.mark.parametrize(("start_step", "least_db"), [(0, 25), (3, 40), (9, 45)])
def test_there_and_back_again(schedule: NoiseSchedule, start_step: int, least_db: float) -> None:
    """A random network changes its mind at every level, and the more the noisier; a trained one less."""
    there = inversion(start_step=start_step, num_inference_steps=20)
    noised = alone(there, UNET, schedule=schedule)
    back = replace(there, invert=False, source=None, start_latents=noised)
    assert psnr_db(alone(back, UNET, schedule=schedule), SOURCE) >= least_db


def test_with_a_mask_the_source_stays_outside_of_it() -> None:
    noised = alone(inversion(start_step=5), UNET)
    mask = torch.zeros(1, *SHAPE[1:])
    mask[:, :4] = 1.0
    wanted = request(start_step=5, num_inference_steps=NUM_STEPS, start_latents=noised)
    masked = alone(replace(wanted, source=SOURCE, mask=mask), UNET)
    assert torch.equal(masked[:, 4:], SOURCE[:, 4:])
    assert not torch.allclose(masked[:, :4], SOURCE[:, :4], atol=0.1)


@pytest.mark.parametrize("num_steps", [2, 3, 7, 20, 30, 61])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_signal_of_zero_is_never_divided_by(num_steps: int, spacing: str) -> None:
    schedule = replace(ZERO_SNR, timestep_spacing=spacing)  # type: ignore[arg-type]
    table = inversion_table(schedule, num_steps)
    assert all(getattr(table, name).isfinite().all() for name in "abcd")
    assert table.timesteps.diff().gt(0).all()
    assert not table.stochastic


def test_one_step_from_pure_noise_cannot_be_inverted() -> None:
    with pytest.raises(InvalidRequest) as refused:
        inversion_table(ZERO_SNR, 1)
    assert (refused.value.field, refused.value.limit) == ("num_inference_steps", 2)


def test_an_inversion_shares_its_batch_and_reports_upwards() -> None:
    wanted = [inversion("up", start_step=4), request("down", seed=2), request("guided", seed=3)]
    wanted[2] = replace(wanted[0], request_id="guided", guidance_scale=3.0)
    shared = engine(UNET)
    heard = submitted(shared, *wanted)
    run(shared)
    for each in wanted:
        assert psnr_db(heard[each.request_id].latents, alone(each, UNET)) >= 90
    progress = [each for each in heard["up"].events if isinstance(each, Progressed)]
    assert [(each.step, each.num_steps) for each in progress] == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("num_done", [1, 4])
def test_handed_back_and_resumed(num_done: int) -> None:
    wanted = inversion(start_step=3)
    first = engine(UNET)
    heard = submitted(first, wanted)["r"]
    run(first, until=lambda: len(heard.events) == num_done)
    first.hand_back()
    run(first)
    (end,) = heard.ends
    assert isinstance(end, HandedBack)
    assert end.snapshot is not None
    assert end.snapshot.step == 3 + num_done
    assert torch.equal(alone(replace(wanted, snapshot=end.snapshot), UNET), alone(wanted, UNET))
