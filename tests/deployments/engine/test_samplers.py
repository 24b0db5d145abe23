"""Every sampler table against the diffusers scheduler it was read off, step by step."""

import itertools
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.samplers import (
    MAX_RESIDUAL,
    NoiseSchedule,
    PredictionType,
    SamplerMismatch,
    SamplerTable,
    Scheduler,
    TimestepSpacing,
    probe,
    sampler_table,
    scheduler_for,
    set_timesteps,
)

# diffusers hands torch tensors to numpy 2 in a way that numpy deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (1, 4, 8, 8)
PREDICTIONS: tuple[PredictionType, ...] = ("epsilon", "v_prediction")
SPACINGS: tuple[tuple[TimestepSpacing, int], ...] = (("leading", 1), ("trailing", 0), ("linspace", 0))
SCHEDULES = [
    NoiseSchedule(prediction_type=p, timestep_spacing=s, rescale_betas_zero_snr=z, steps_offset=o)
    for p, (s, o), z in itertools.product(PREDICTIONS, SPACINGS, (False, True))
]
# That of the embedded model.
SCHEDULES.append(replace(SCHEDULES[-3], beta_schedule="squaredcos_cap_v2"))


def schedule_id(schedule: NoiseSchedule) -> str:
    end = "zero_snr" if schedule.rescale_betas_zero_snr else "plain"
    betas = "-cosine" if schedule.beta_schedule == "squaredcos_cap_v2" else ""
    return f"{schedule.prediction_type}-{schedule.timestep_spacing}-{end}{betas}"


def model(x: Tensor, timestep: float) -> Tensor:
    """A nonlinear stand-in for a UNet that mixes neighbouring latents and depends on the timestep."""
    return torch.tanh(0.7 * x - 0.4 * x.roll(1, -1) + timestep / 1000) + 0.2 * x.roll(1, -2)


def run_table(table: SamplerTable, x: Tensor, generator: torch.Generator, start: int = 0) -> list[Tensor]:
    """Latents after each step, by the table alone."""
    steps, x_prev, m_prev = [], torch.zeros_like(x), torch.zeros_like(x)
    columns = (table.timesteps, table.k, table.a, table.b, table.c, table.d, table.s)
    for t, k, a, b, c, d, s in torch.stack(columns, 1)[start:].tolist():
        m = model(k * x, t)
        noise = torch.randn(x.shape, generator=generator) if s else torch.zeros_like(x)
        x, x_prev, m_prev = a * x + b * m + c * x_prev + d * m_prev + s * noise, x, m
        steps.append(x)
    return steps


def run_scheduler(
    scheduler: Scheduler, x: Tensor, generator: torch.Generator, start: int = 0
) -> list[Tensor]:
    """Latents after each step, as a diffusers pipeline computes them."""
    steps = []
    # Else a first timestep that occurs twice (Karras at zero SNR) would be taken for the second one.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    for t in scheduler.timesteps[start:]:
        m = model(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(m, t, x, generator=generator, return_dict=False)[0]
        steps.append(x)
    return steps


def assert_same(start: Tensor, steps: list[Tensor], expected: list[Tensor]) -> None:
    """Relative error of at most 1e-4 after every step.

    On top of it goes what the schedulers themselves lose: they compute in float32, and from zero SNR a
    step can take latents of 4096 to latents of 1.
    """
    assert len(steps) == len(expected)
    for i, (x, reference) in enumerate(zip(steps, expected, strict=True)):
        assert reference.isfinite().all()
        rounding = torch.finfo(torch.float32).eps * start.norm()
        assert (x - reference).norm() <= 1e-4 * reference.norm() + rounding, f"step {i} of {len(steps)}"


def standard_normal(seed: int = 0) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator), generator


def starts_without_signal(name: SamplerName, schedule: NoiseSchedule, num_steps: int) -> bool:
    """Whether the trajectory divides by a signal of exactly zero: from pure noise, epsilon says nothing."""
    if name not in (SamplerName.DDIM, SamplerName.LCM) or schedule.prediction_type != "epsilon":
        return False
    scheduler = scheduler_for(name, schedule)
    set_timesteps(scheduler, num_steps)
    return schedule.rescale_betas_zero_snr and bool(scheduler.timesteps[0] == 999)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=schedule_id)
@pytest.mark.parametrize("name", SamplerName)
def test_follows_its_scheduler_at_every_step(
    name: SamplerName, schedule: NoiseSchedule, num_steps: int
) -> None:
    if starts_without_signal(name, schedule, num_steps):
        with pytest.raises(InvalidRequest) as refusal:
            sampler_table(name, schedule, num_steps)
        assert refusal.value.field == "sampler"
        return
    table = sampler_table(name, schedule, num_steps)
    scheduler = scheduler_for(name, schedule)
    scheduler.set_timesteps(num_steps)
    assert table.timesteps.tolist() == scheduler.timesteps.tolist()
    (noise, generator), (_, same_generator) = standard_normal(), standard_normal()
    x = noise * scheduler.init_noise_sigma
    torch.testing.assert_close(table.init_noise_sigma * noise, x)
    assert_same(x, run_table(table, x, generator), run_scheduler(scheduler, x, same_generator))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_follows_its_scheduler_for_any_step_count_and_start(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SamplerName))
    schedule = data.draw(
        st.sampled_from([s for s in SCHEDULES if s.prediction_type == "v_prediction"]).filter(
            lambda s: s.timestep_spacing != "linspace"
        )
    )
    num_steps = data.draw(st.integers(1, 50 if name is SamplerName.LCM else 150))
    start = data.draw(st.integers(0, num_steps - 1))
    table = sampler_table(name, schedule, num_steps, start)
    scheduler = scheduler_for(name, schedule)
    set_timesteps(scheduler, num_steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    (noise, generator), (_, same_generator) = standard_normal(), standard_normal()
    source = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    started = scheduler.add_noise(source, noise, scheduler.timesteps[start : start + 1])
    x = float(table.signal[start]) * source + float(table.noise[start]) * noise
    torch.testing.assert_close(x, started, rtol=1e-5, atol=1e-5)
    ours = run_table(table, started, generator, start)
    assert_same(started, ours, run_scheduler(scheduler, started, same_generator, start))


@pytest.mark.parametrize("name", SamplerName)
def test_inpainting_noise_of_a_running_trajectory(name: SamplerName) -> None:
    """Pipelines noise the source anew at every step, after the scheduler has moved on."""
    table = sampler_table(name, NoiseSchedule(), 10)
    scheduler = scheduler_for(name, NoiseSchedule())
    scheduler.set_timesteps(10)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    source, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    for i, t in enumerate(scheduler.timesteps[:-1]):
        scheduler.scale_model_input(source, t)
        scheduler.step(noise, t, source, generator=torch.Generator())
        expected = scheduler.add_noise(source, noise, scheduler.timesteps[i + 1 : i + 2])
        actual = float(table.signal[i + 1]) * source + float(table.noise[i + 1]) * noise
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SamplerName)
def test_only_ancestral_and_consistency_samplers_draw_noise(name: SamplerName) -> None:
    table = sampler_table(name, NoiseSchedule(), 5)
    assert table.stochastic is (name in (SamplerName.EULER_A, SamplerName.LCM))
    assert table.s[-1] == 0


def test_first_step_of_a_multistep_sampler_has_no_history() -> None:
    whole = sampler_table(SamplerName.DPMPP_2M, NoiseSchedule(), 20)
    joined = sampler_table(SamplerName.DPMPP_2M, NoiseSchedule(), 20, 7)
    assert whole.d[7] != 0
    assert joined.c[7] == joined.d[7] == 0
    assert joined.a[:7].isnan().all()
    torch.testing.assert_close(joined.d[8:], whole.d[8:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_steps", [61, 103, 121])
@pytest.mark.parametrize("name", [n for n in SamplerName if n is not SamplerName.LCM])
def test_trailing_spacing_has_no_surplus_step(name: SamplerName, num_steps: int) -> None:
    """diffusers adds a step at timestep -1 to these counts."""
    table = sampler_table(name, NoiseSchedule(timestep_spacing="trailing"), num_steps)
    assert len(table.timesteps) == len(table.a) == num_steps
    assert table.timesteps.min() >= 0


@pytest.mark.parametrize("num_steps", [20, 61])
@pytest.mark.parametrize("name", [n for n in SamplerName if n is not SamplerName.LCM])
def test_a_perfect_model_ends_at_the_source(name: SamplerName, num_steps: int) -> None:
    schedule = NoiseSchedule(prediction_type="v_prediction", timestep_spacing="trailing")
    table = sampler_table(name, schedule, num_steps)
    alphas = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    source, x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x, x_prev, m_prev = table.init_noise_sigma * x, torch.zeros_like(x), torch.zeros_like(x)
    for i, t in enumerate(table.timesteps.long()):
        m = (alphas[t].sqrt() * table.k[i] * x - source) / (1 - alphas[t]).sqrt()
        history = table.c[i] * x_prev + table.d[i] * m_prev
        x, x_prev, m_prev = table.a[i] * x + table.b[i] * m + history, x, m
    torch.testing.assert_close(x, source, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(),
        DPMSolverMultistepScheduler(solver_order=3),
        DDIMScheduler(clip_sample=True),
        DDIMScheduler(thresholding=True, clip_sample=False),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_refuses_what_two_steps_cannot_express(scheduler: Scheduler) -> None:
    with pytest.raises(SamplerMismatch, match="wanted"):
        probe(scheduler, 20, name="wanted")


@pytest.mark.parametrize(
    ("name", "num_steps", "limit"),
    [(SamplerName.LCM, 51, 50), (SamplerName.EULER, 0, 999), (SamplerName.DDIM, 1000, 999)],
)
def test_refuses_step_counts_by_field_and_limit(name: SamplerName, num_steps: int, limit: int) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sampler_table(name, NoiseSchedule(), num_steps)
    assert (refusal.value.field, refusal.value.limit) == ("num_inference_steps", limit)


@pytest.mark.parametrize("start", [-1, 5])
def test_refuses_a_start_outside_the_trajectory(start: int) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sampler_table(SamplerName.DDIM, NoiseSchedule(), 5, start)
    assert (refusal.value.field, refusal.value.limit) == ("start_step", 4)


def test_tables_are_probed_once() -> None:
    table = sampler_table(SamplerName.EULER, NoiseSchedule(), 9)
    assert sampler_table(SamplerName.EULER, NoiseSchedule(), 9) is table
    assert table.residual <= MAX_RESIDUAL


@pytest.mark.parametrize("name", SamplerName)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=schedule_id)
def test_schedule_survives_a_scheduler_configuration(name: SamplerName, schedule: NoiseSchedule) -> None:
    assert NoiseSchedule.from_config(scheduler_for(name, schedule).config) == schedule


@pytest.mark.parametrize(
    "option",
    [
        {"clip_sample": True},
        {"thresholding": True},
        {"trained_betas": [0.1, 0.2]},
        {"prediction_type": "sample"},
        {"timestep_spacing": "log"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_refuses_configurations_it_cannot_honour(option: dict[str, object]) -> None:
    with pytest.raises(SamplerMismatch) as refusal:
        NoiseSchedule.from_config(option)
    assert refusal.value.field == next(iter(option))
