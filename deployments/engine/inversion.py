"""DDIM inversion as a table of coefficients: the DDIM trajectory walked from the picture to the noise.

Knows the coefficients of the ordinary DDIM steps; does not know latents, models or requests.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from core.errors import InvalidRequest
from core.types import SamplerName
from deployments.engine.samplers import NoiseSchedule, SamplerTable, sampler_table


@lru_cache(maxsize=512)
def inversion_table(schedule: NoiseSchedule, num_steps: int, start_step: int = 0) -> SamplerTable:
    """The table of a trajectory from noise-free latents up to the noise level of ``start_step``.

    Its row ``i`` calls the model at the noise level of DDIM's step ``num_steps - 1 - (i - start_step)``,
    so the last rows undo the first steps. Raises ``InvalidRequest`` as ``sampler_table`` does, and when a
    step keeps nothing of its latents: one single step from pure noise.

    DDIM takes ``x`` at level ``j`` to ``a x + b m(x, j)`` (Song et al. 2021), which is undone exactly by
    dividing by ``a``, if only ``m`` were known at the unknown ``x``. Evaluating it at the latents before
    (diffusers' ``DDIMInverseScheduler``) errs most where the noise is strongest. Here each row corrects the
    latents that the model has just seen, using what it said there, and predicts those of the next level
    with the same output (predict, evaluate, correct): no more calls, and less than half the error.
    With v-prediction ``a`` is the cosine of the angle between two noise levels, so nothing is divided by
    the signal, which is zero at the last timestep of a zero-terminal-SNR model.
    """
    ddim = sampler_table(SamplerName.DDIM, schedule, num_steps, start_step)
    history = torch.stack([ddim.c, ddim.d, ddim.s]).nan_to_num()
    assert not history.any(), "DDIM steps by the latents and the output of one step alone"
    # From here on in the order of the inversion; rows before start_step stay NaN.
    order = torch.arange(num_steps - 1, start_step - 1, -1)
    undo_x, undo_m = 1 / ddim.a[order], -ddim.b[order] / ddim.a[order]
    if not undo_x.isfinite().all():
        raise InvalidRequest(
            "one step from pure noise keeps nothing that could be inverted",
            field="num_inference_steps",
            limit=2,
        )
    a, b, d = torch.ones_like(undo_x), undo_m.clone(), -undo_m
    # The first row sees the source itself: nothing was predicted that could be corrected.
    a[0], d[0] = undo_x[0], 0.0
    next_x, next_m = undo_x[1:], undo_m[1:]
    b[:-1] = next_x * b[:-1] + next_m
    a[:-1] *= next_x
    d[:-1] *= next_x

    def placed(values: Tensor) -> Tensor:
        return torch.cat([torch.full((start_step,), torch.nan, dtype=torch.float64), values])

    return replace(
        ddim,
        timesteps=placed(ddim.timesteps[order]),
        k=placed(ddim.k[order]),
        a=placed(a),
        b=placed(b),
        d=placed(d),
        signal=placed(ddim.signal[order]),
        noise=placed(ddim.noise[order]),
    )
