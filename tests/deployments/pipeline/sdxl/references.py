"""diffusers' pipelines of Stable Diffusion XL over a folder, and how far pictures are from theirs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from core.types import Completed, PipelineEvent, SamplerName
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from weights import registry

Pixels = npt.NDArray[np.uint8]


def reference(kind: Any, folder: Path, sampler: SamplerName) -> Any:
    """A pipeline of ``kind`` in float32, with Limner's scheduler for ``sampler``."""
    pipeline = kind.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    schedule = NoiseSchedule.from_config(registry.scheduler_config(f"path:{folder}"))
    pipeline.scheduler = scheduler_for(sampler, schedule)
    return pipeline


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


async def pictures(drawing: Any, spec: Any) -> list[Pixels]:
    """The pictures that a pipeline of Limner's draws of ``spec``."""
    events: list[PipelineEvent] = [event async for event in drawing.generate(spec)]
    done = events[-1]
    assert isinstance(done, Completed)
    return [np.asarray(Image.open(io.BytesIO(each.image))) for each in done.pictures]


def psnr_db(one: Any, other: Any) -> float:
    error = np.square(np.asarray(one, float) - np.asarray(other, float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
