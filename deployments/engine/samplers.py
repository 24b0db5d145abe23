"""Samplers as tables of coefficients, read off the diffusers schedulers by probing them once.

Knows: which scheduler a sampler name means, and how its trajectory follows from a noise schedule.
Does not know: latents, requests, batches or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from inspect import signature
from typing import Any, Literal, Protocol, Self, get_args

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from core.errors import InvalidRequest, LimnerError
from core.types import SamplerName

PredictionType = Literal["epsilon", "v_prediction"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]

MAX_RESIDUAL = 1e-5
"""Largest accepted misfit, relative to the step's result. The schedulers compute in float32: 1e-7 to
1e-6 is their rounding; a scheduler with a longer history misses by 1e-3 and more."""


class SamplerMismatch(LimnerError):
    """A scheduler does something that the table of its sampler cannot express."""

    status, code, title = 500, "sampler_mismatch", "Sampler does not fit its scheduler"


class Scheduler(Protocol):
    """The part of a diffusers scheduler that the pipelines use."""

    timesteps: Tensor
    init_noise_sigma: float | Tensor
    config: Any

    def set_timesteps(self, num_inference_steps: int) -> None: ...
    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...
    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any: ...
    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class NoiseSchedule:
    """How a model was trained to see noise. Fields as in a diffusers ``scheduler_config.json``."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: PredictionType = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a diffusers scheduler configuration; members that belong to one solver are ignored.

        Raises ``SamplerMismatch`` for a configuration that would draw other pictures than these
        fields say: trained betas, clipped or thresholded predictions, another prediction type.
        """
        for key in ("trained_betas", "clip_sample", "thresholding"):
            if config.get(key):
                raise SamplerMismatch(f"scheduler option {key} is not supported", field=key)
        schedule = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
        for key, allowed in (("prediction_type", PredictionType), ("timestep_spacing", TimestepSpacing)):
            if getattr(schedule, key) not in get_args(allowed):
                raise SamplerMismatch(
                    f"scheduler {key} {config[key]!r} is not supported", field=key, limit=get_args(allowed)
                )
        return schedule


@dataclass(frozen=True)
class SamplerTable:
    """One trajectory, step ``i`` of ``num_steps``; tensors are float64 ``[num_steps]`` on the CPU, read-only.

    The model sees ``k * x`` at ``timesteps``; with its output ``m``, and ``x_prev``, ``m_prev`` of the step
    before (zeros at first): ``x' = a * x + b * m + c * x_prev + d * m_prev + s * noise``.
    Text-to-image starts from ``init_noise_sigma * e`` with ``e`` standard normal, image-to-image at step
    ``i`` from ``signal[i] * source + noise[i] * e``. Rows before the start step are NaN in ``k`` to ``s``.
    ``residual`` is the misfit on vectors that the fit has not seen, relative to each step's result.
    """

    timesteps: Tensor
    k: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    s: Tensor
    signal: Tensor
    noise: Tensor
    init_noise_sigma: float
    residual: float

    @property
    def stochastic(self) -> bool:
        """Whether some step draws noise."""
        return bool((self.s.nan_to_num() != 0).any())


def scheduler_for(name: SamplerName, schedule: NoiseSchedule) -> Scheduler:
    """The diffusers scheduler that defines the sampler."""
    config = {f.name: getattr(schedule, f.name) for f in fields(schedule)}
    last_alpha = {"set_alpha_to_one": config.pop("set_alpha_to_one")}
    scheduler: Scheduler
    match name:
        case SamplerName.DDIM:
            scheduler = DDIMScheduler(**config, **last_alpha, clip_sample=False)
        case SamplerName.EULER:
            scheduler = EulerDiscreteScheduler(**config)
        case SamplerName.EULER_A:
            scheduler = EulerAncestralDiscreteScheduler(**config)
        case SamplerName.DPMPP_2M:
            scheduler = DPMSolverMultistepScheduler(**config)
        case SamplerName.DPMPP_2M_KARRAS:
            scheduler = DPMSolverMultistepScheduler(**config, use_karras_sigmas=True)
        case SamplerName.LCM:
            scheduler = LCMScheduler(**config, **last_alpha)
    return scheduler


@lru_cache(maxsize=512)
def sampler_table(
    name: SamplerName, schedule: NoiseSchedule, num_steps: int, start_step: int = 0
) -> SamplerTable:
    """The table of a sampler, probed on first use and cached.

    ``start_step`` is the first step that runs (image-to-image): a multistep solver has no history there.
    Raises ``InvalidRequest`` for step counts that the sampler has no schedule for and for a sampler that
    the model's schedule has no finite step for, ``SamplerMismatch`` when the fit is not faithful.
    """
    scheduler = scheduler_for(name, schedule)
    limit = schedule.num_train_timesteps - 1
    if isinstance(scheduler, LCMScheduler):
        limit = min(limit, scheduler.config.original_inference_steps)
    if not 1 <= num_steps <= limit:
        raise InvalidRequest(
            f"{name} takes 1 to {limit} steps, not {num_steps}", field="num_inference_steps", limit=limit
        )
    if not 0 <= start_step < num_steps:
        raise InvalidRequest(
            f"start step {start_step} is not within {num_steps} steps",
            field="start_step",
            limit=num_steps - 1,
        )
    return probe(scheduler, num_steps, start_step, name=name)


def probe(scheduler: Scheduler, num_steps: int, start_step: int = 0, *, name: str) -> SamplerTable:
    """Read the table of any diffusers scheduler off its behaviour; ``name`` is for the error messages.

    Raises ``InvalidRequest`` when a step is not finite, ``SamplerMismatch`` when the fit is not faithful.
    """
    set_timesteps(scheduler, num_steps)
    timesteps = scheduler.timesteps
    starts = torch.stack([_probe_start(scheduler, i) for i in range(num_steps)])
    _set_begin_index(scheduler, start_step)
    rows = torch.full((num_steps, 6), torch.nan, dtype=torch.float64)
    misfits = torch.zeros(num_steps, dtype=torch.float64)
    prober = _StepProber(scheduler)
    for i in range(start_step, num_steps):
        rows[i], misfits[i] = prober.probe(timesteps[i])
    residual = float(misfits.max())
    if not (rows[start_step:].isfinite().all() and starts.isfinite().all()):
        raise InvalidRequest(
            f"{name} has no finite step from pure noise for this model's prediction type", field="sampler"
        )
    # Written so that a NaN is refused as well.
    if not residual <= MAX_RESIDUAL:
        raise SamplerMismatch(
            f"{name} is not linear in the latents and outputs of two steps: misfit {residual:.1e}",
            field="sampler",
        )
    k, a, b, c, d, s = rows.unbind(1)
    signal, noise = starts.unbind(1)
    return SamplerTable(
        timesteps.double(), k, a, b, c, d, s, signal, noise, float(scheduler.init_noise_sigma), residual
    )


def set_timesteps(scheduler: Scheduler, num_steps: int) -> None:
    """``scheduler.set_timesteps`` with exactly ``num_steps`` steps.

    For some counts (61, 103, 121, ...) float rounding lets trailing spacing end with a surplus step at
    timestep -1, where nothing was trained; it is taken off.
    """
    scheduler.set_timesteps(num_steps)
    if len(scheduler.timesteps) == num_steps:
        return
    scheduler.timesteps = scheduler.timesteps[:num_steps]
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        scheduler.sigmas = torch.cat([sigmas[:num_steps], sigmas[-1:]])  # type: ignore[attr-defined]


def _set_begin_index(scheduler: Scheduler, step: int) -> None:
    """As the pipelines do; DDIM goes by timestep alone."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)


def _probe_start(scheduler: Scheduler, step: int) -> Tensor:
    """``[signal, noise]`` of the latents that a trajectory joined at ``step`` starts from."""
    _set_begin_index(scheduler, step)
    signal, noise = torch.eye(2, dtype=torch.float64)
    return scheduler.add_noise(signal[None], noise[None], scheduler.timesteps[step : step + 1])[0]


_ROLE, _FRESH = 16, 64


class _StepProber:
    """Steps a scheduler along independent random vectors and solves for each step's coefficients.

    Every role (x, m, x_prev, m_prev, noise) has entries of its own on which the others are zero, so the
    least squares fall apart into one ratio per role and absent terms come out as exact zeros. All roles
    are non-zero on the remaining entries; these are the fresh vectors that the fit is judged on.
    Values are float32, since the schedulers cast latents to that.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._draws = "generator" in signature(scheduler.step).parameters
        self._values = torch.Generator().manual_seed(0)
        self._step_noise = torch.Generator()
        self._size = 5 * _ROLE + _FRESH
        x, m, x_prev, m_prev, self._idle = (slice(i * _ROLE, (i + 1) * _ROLE) for i in range(5))
        # Swapped after each step, so that x and x_prev never share entries.
        self._now, self._before = (x, m), (x_prev, m_prev)
        self._x_prev = self._m_prev = torch.zeros(self._size, dtype=torch.float64)

    def _vector(self, entries: slice) -> Tensor:
        full = torch.randn(self._size, generator=self._values).double()
        vector = torch.zeros_like(full)
        vector[entries] = full[entries]
        vector[-_FRESH:] = full[-_FRESH:]
        return vector

    def probe(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step; returns ``[k, a, b, c, d, s]`` and the relative misfit on the fresh entries."""
        x, m = self._vector(self._now[0]), self._vector(self._now[1])
        noise = torch.randn(self._size, generator=self._step_noise.manual_seed(1), dtype=torch.float64)
        k = _ratio(self._scheduler.scale_model_input(x, timestep), x)
        drawn = {"generator": self._step_noise.manual_seed(1)} if self._draws else {}
        as_latents = (1, 1, self._size)
        (result, *_) = self._scheduler.step(
            m.view(as_latents), timestep, x.view(as_latents), **drawn, return_dict=False
        )
        result = result.view(-1).double()
        s = _ratio(result[self._idle], noise[self._idle])
        drift = result - s * noise
        a, b = (_ratio(drift[e], v[e]) for e, v in zip(self._now, (x, m), strict=True))
        history = (self._x_prev, self._m_prev)
        c, d = (_ratio(drift[e], v[e]) for e, v in zip(self._before, history, strict=True))
        error = drift - a * x - b * m - c * self._x_prev - d * self._m_prev
        misfit = error[-_FRESH:].abs().max() / result[-_FRESH:].square().mean().sqrt()
        self._x_prev, self._m_prev = x, m
        self._now, self._before = self._before, self._now
        return torch.stack([k, a, b, c, d, s]), misfit


def _ratio(image: Tensor, vector: Tensor) -> Tensor:
    """Least-squares factor from ``vector`` to ``image``; 0 where there is no vector."""
    square = vector @ vector
    return image @ vector / square if square > 0 else square
