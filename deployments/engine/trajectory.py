"""One request's path through its steps: every scalar of it as a table, and the state it has reached.

Knows a request and its sampler table; does not know the batch, the UNet or the order of service.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

import torch
from torch import Tensor

from deployments.engine.inversion import inversion_table
from deployments.engine.lora import LoraFactors
from deployments.engine.request import DenoiseRequest, Snapshot
from deployments.engine.samplers import NoiseSchedule, SamplerTable, sampler_table

_NONE: Mapping[str, LoraFactors] = MappingProxyType({})


class Column(IntEnum):
    """The per-step scalars of a trajectory, as columns of its coefficients ``[num_steps, 12]``.

    ``SCALE`` is the guidance scale, 1 outside the guidance interval. ``ORIGIN_X`` and ``ORIGIN_M`` give
    the predicted noise-free latents from x and m. ``KEEP`` and ``RENOISE`` give, from source and noise,
    the latents that belong outside a mask after the step.
    """

    TIMESTEP = 0
    K = 1
    A = 2
    B = 3
    C = 4
    D = 5
    S = 6
    SCALE = 7
    ORIGIN_X = 8
    ORIGIN_M = 9
    KEEP = 10
    RENOISE = 11


def table_of(request: DenoiseRequest, schedule: NoiseSchedule) -> SamplerTable:
    """The table that the request walks. Raises as ``sampler_table`` and ``inversion_table`` do."""
    if request.invert:
        return inversion_table(schedule, request.num_inference_steps, request.start_step)
    return sampler_table(request.sampler, schedule, request.num_inference_steps, request.start_step)


def coefficients(request: DenoiseRequest, table: SamplerTable, schedule: NoiseSchedule) -> Tensor:
    """Everything scalar about the request's trajectory, float32 ``[num_steps, len(Column)]``."""
    signal, noise = table.signal, table.noise
    size_sq = signal.square() + noise.square()
    if schedule.prediction_type == "v_prediction":
        # x / size has unit variance; origin = alpha * x / size - sigma * v (Salimans & Ho 2022).
        origin_x, origin_m = signal / size_sq, -noise / size_sq.sqrt()
    else:
        origin_x, origin_m = 1 / signal, -noise / signal
    steps = range(request.num_inference_steps)
    scale = [request.guidance_scale if request.guided(step) else 1.0 for step in steps]
    keep, renoise = torch.ones_like(signal), torch.zeros_like(noise)
    keep[:-1], renoise[:-1] = signal[1:], noise[1:]
    columns = {
        Column.TIMESTEP: table.timesteps,
        Column.K: table.k,
        Column.A: table.a,
        Column.B: table.b,
        Column.C: table.c,
        Column.D: table.d,
        Column.S: table.s,
        Column.SCALE: torch.tensor(scale, dtype=torch.float64),
        Column.ORIGIN_X: origin_x,
        Column.ORIGIN_M: origin_m,
        Column.KEEP: keep,
        Column.RENOISE: renoise,
    }
    return torch.stack([columns[column] for column in Column], dim=1).float()


class Trajectory:
    """One request on its way: its coefficients, the step it has reached, its step noise.

    ``state`` holds x, x_prev and m_prev while the request is not in a running batch. ``adapters`` are the
    factors of the request's adapters, by id.
    """

    def __init__(
        self,
        request: DenoiseRequest,
        table: SamplerTable,
        schedule: NoiseSchedule,
        adapters: Mapping[str, LoraFactors] = _NONE,
    ) -> None:
        self.request = request
        self.adapters = adapters
        self.coefficients = coefficients(request, table, schedule)
        self.step = request.first_step
        self.generator = _step_noise(request) if table.stochastic else None
        self._noisy = table.s.nan_to_num().ne(0).tolist()
        snapshot = request.snapshot
        if snapshot is None:
            latents = _start(request, table)
            self.state = (latents, torch.zeros_like(latents), torch.zeros_like(latents))
        else:
            self.state = (snapshot.latents.float(), snapshot.x_prev.float(), snapshot.m_prev.float())

    @property
    def finished(self) -> bool:
        return self.step == self.request.num_inference_steps

    @property
    def started(self) -> bool:
        return self.step > self.request.start_step

    def step_noise(self) -> Tensor | None:
        """The noise of the coming step, None where the sampler adds none."""
        if self.generator is None or not self._noisy[self.step]:
            return None
        return torch.randn(self.request.noise.shape, generator=self.generator)

    def snapshot(self) -> Snapshot:
        """Where the trajectory stands; it must have left its running batch."""
        latents, x_prev, m_prev = (part.to("cpu", copy=True) for part in self.state)
        generator_state = self.generator.get_state() if self.generator is not None else None
        return Snapshot(
            latents=latents, x_prev=x_prev, m_prev=m_prev, step=self.step, generator_state=generator_state
        )


def _start(request: DenoiseRequest, table: SamplerTable) -> Tensor:
    if request.start_latents is not None:
        return request.start_latents.float()
    if request.invert:
        assert request.source is not None
        return request.source.float()
    noise = request.noise.float()
    # diffusers' inpainting at full strength starts from pure noise, its image-to-image does not.
    if request.source is None or (request.mask is not None and request.start_step == 0):
        return noise * table.init_noise_sigma
    signal, level = float(table.signal[request.start_step]), float(table.noise[request.start_step])
    return request.source.float() * signal + noise * level


def _step_noise(request: DenoiseRequest) -> torch.Generator:
    """A diffusers pipeline draws the start latents and the step noise from one generator: so skip a draw."""
    generator = torch.Generator().manual_seed(request.seed)
    if request.snapshot is not None and request.snapshot.generator_state is not None:
        generator.set_state(request.snapshot.generator_state)
    else:
        torch.randn(request.noise.shape, generator=generator)
    return generator
