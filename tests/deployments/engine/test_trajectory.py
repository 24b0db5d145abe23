"""The coefficients of a trajectory and its state between batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.types import SamplerName
from deployments.engine.request import DenoiseRequest, noise_for
from deployments.engine.samplers import NoiseSchedule, SamplerTable, sampler_table, scheduler_for
from deployments.engine.trajectory import Column, Trajectory
from tests.deployments.engine.scenes import SCHEDULE, SHAPE, request

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

V_PREDICTION = NoiseSchedule(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)


def table_of(wanted: DenoiseRequest, schedule: NoiseSchedule = SCHEDULE) -> SamplerTable:
    return sampler_table(wanted.sampler, schedule, wanted.num_inference_steps, wanted.start_step)


def trajectory(wanted: DenoiseRequest, schedule: NoiseSchedule = SCHEDULE) -> Trajectory:
    return Trajectory(wanted, table_of(wanted, schedule), schedule)


@pytest.mark.parametrize("name", [SamplerName.DDIM, SamplerName.EULER])
@pytest.mark.parametrize("schedule", [SCHEDULE, V_PREDICTION], ids=["epsilon", "v-prediction"])
def test_the_origin_is_what_the_scheduler_predicts(name: SamplerName, schedule: NoiseSchedule) -> None:
    wanted = request(sampler=name, num_inference_steps=6)
    scheduler: Any = scheduler_for(name, schedule)
    scheduler.set_timesteps(6)
    x, m = noise_for(1, SHAPE), noise_for(2, SHAPE)
    rows = trajectory(wanted, schedule).coefficients
    for step in range(1, 6):
        expected = scheduler.step(m, scheduler.timesteps[step], x).pred_original_sample
        origin = rows[step, Column.ORIGIN_X] * x + rows[step, Column.ORIGIN_M] * m
        torch.testing.assert_close(origin, expected, rtol=1e-4, atol=1e-4)
        if name is SamplerName.EULER:
            scheduler._step_index = step + 1


def test_guidance_scale_is_one_outside_the_interval() -> None:
    wanted = request(num_inference_steps=4, guidance_scale=7.0, guidance_interval=(0.25, 0.75))
    assert trajectory(wanted).coefficients[:, Column.SCALE].tolist() == [1.0, 7.0, 7.0, 1.0]


def test_outside_a_mask_the_last_step_restores_the_source_itself() -> None:
    wanted = request(num_inference_steps=5)
    rows, table = trajectory(wanted).coefficients, table_of(wanted)
    assert rows[-1, Column.KEEP] == 1.0
    assert rows[-1, Column.RENOISE] == 0.0
    torch.testing.assert_close(rows[:-1, Column.KEEP], table.signal[1:].float())
    torch.testing.assert_close(rows[:-1, Column.RENOISE], table.noise[1:].float())


def test_starts() -> None:
    source, mask = noise_for(9, SHAPE), torch.ones(1, 8, 8)
    text = request(sampler=SamplerName.EULER, num_inference_steps=6)
    table = table_of(text)
    pure = text.noise * table.init_noise_sigma
    assert torch.equal(trajectory(text).state[0], pure)
    assert torch.equal(trajectory(replace(text, source=source, mask=mask)).state[0], pure)
    noised = source * float(table.signal[2]) + text.noise * float(table.noise[2])
    from_image = trajectory(replace(text, source=source, start_step=2))
    torch.testing.assert_close(from_image.state[0], noised)
    assert (from_image.step, from_image.started) == (2, False)


def test_step_noise_continues_the_generator_that_drew_the_start() -> None:
    wanted = request(sampler=SamplerName.EULER_A, seed=11, num_inference_steps=3)
    moving = trajectory(wanted)
    generator = torch.Generator().manual_seed(11)
    drawn = [torch.randn(SHAPE, generator=generator) for _ in range(3)]
    assert torch.equal(wanted.noise, drawn[0])
    for expected in drawn[1:]:
        noise = moving.step_noise()
        assert noise is not None
        assert torch.equal(noise, expected)
        moving.step += 1
    assert moving.step_noise() is None
    assert trajectory(request()).step_noise() is None


def test_a_snapshot_is_independent_of_what_follows() -> None:
    moving = trajectory(request(sampler=SamplerName.LCM))
    moving.step = 1
    snapshot = moving.snapshot()
    before = moving.state[0].clone()
    moving.state[0].zero_()
    moving.step_noise()
    assert torch.equal(snapshot.latents, before)
    again = trajectory(replace(moving.request, snapshot=snapshot))
    fresh = trajectory(moving.request)
    fresh.step = 1
    left, right = again.step_noise(), fresh.step_noise()
    assert left is not None
    assert right is not None
    assert torch.equal(left, right)
