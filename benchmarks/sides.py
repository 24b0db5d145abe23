"""The two systems that the benchmarks compare, behind one interface of three stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.settings import Precision
from core.types import SamplerName
from deployments.engine.cost import CostModel
from deployments.engine.engine import Engine
from deployments.engine.request import DenoiseRequest, Done, noise_for
from deployments.engine.samplers import NoiseSchedule, scheduler_for
from deployments.engine.unet import fast_unet
from deployments.pipeline.decoder import PictureDecoder
from deployments.pipeline.prompts import PromptEncoder
from deployments.pipeline.text import Prompt
from weights import registry

Clock = Callable[[], float]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Workload:
    """What both sides are asked for. ``size`` is the side of the pictures in pixels."""

    model: Path
    steps: int
    sampler: SamplerName
    guidance_scale: float
    requests: tuple[int, ...]
    repeats: int
    num_threads: int
    precision: Precision
    clock: Clock


class Side(Protocol):
    """One of the systems compared. ``encode`` gives what its own ``denoise`` takes."""

    def encode(self, prompts: Sequence[str]) -> Any: ...
    def denoise(self, embeddings: Any, seeds: Sequence[int]) -> Any: ...
    def decode(self, latents: Any) -> Sequence[Pixels]: ...


class TimedUNet:
    """The UNet, with the time spent in it."""

    def __init__(self, unet: Any, clock: Clock) -> None:
        self._unet, self._clock = unet, clock
        self.config = unet.config
        self.spent_s = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = self._clock()
        output = self._unet(*args, **kwargs)
        self.spent_s += self._clock() - began
        return output


class LimnerSide:
    """Limner's own parts as its replicas use them, without Ray between them and without a prompt cache."""

    def __init__(self, work: Workload) -> None:
        model_id = f"{registry.PATH_PREFIX}{work.model}"
        unet, dtype = fast_unet(registry.load_unet(model_id), work.precision, "cpu", work.num_threads)
        self.dtype = str(dtype).removeprefix("torch.")
        self.unet = TimedUNet(unet, work.clock)
        self._work = work
        schedule = NoiseSchedule.from_config(registry.scheduler_config(model_id))
        self._engine = Engine(
            self.unet,
            schedule,
            dtype=dtype,
            device="cpu",
            max_rows=16,
            max_queued_requests=64,
            cost=CostModel(),
        )
        self._encoder = PromptEncoder(*registry.load_text(model_id), cache_entries=0)
        self._decoder = PictureDecoder(registry.load_vae(model_id), precision=work.precision)
        size = int(unet.config.sample_size)  # type: ignore[union-attr,arg-type]
        self._shape = (self._decoder.latent_channels, size, size)

    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        return self._encoder.encode_batch([Prompt(text) for text in (*prompts, "")])

    def denoise(self, embeddings: list[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        *positive, negative = embeddings
        latents: dict[str, Tensor] = {}

        def on_event(event: object) -> None:
            if isinstance(event, Done):
                latents[event.request_id] = event.latents

        for seed, embedding in zip(seeds, positive, strict=True):
            request = DenoiseRequest(
                request_id=str(seed),
                prompt_embeds=embedding,
                negative_embeds=negative,
                noise=noise_for(seed, self._shape),
                sampler=self._work.sampler,
                num_inference_steps=self._work.steps,
                guidance_scale=self._work.guidance_scale,
                seed=seed,
            )
            self._engine.submit(request, on_event)
        while self._engine.step():
            pass
        return [latents[str(seed)] for seed in seeds]

    def decode(self, latents: list[Tensor]) -> Sequence[Pixels]:
        return self._decoder.decode_batch(latents)


class PipelineSide:
    """``StableDiffusionPipeline``, all of it in ``dtype``; in channels_last where that is not float32."""

    def __init__(self, work: Workload, dtype: torch.dtype) -> None:
        from diffusers import StableDiffusionPipeline

        self._work = work
        self._pipe = StableDiffusionPipeline.from_pretrained(work.model, dtype=dtype, local_files_only=True)
        self._pipe.set_progress_bar_config(disable=True)
        schedule = NoiseSchedule.from_config(self._pipe.scheduler.config)
        self._pipe.scheduler = scheduler_for(work.sampler, schedule)
        if dtype != torch.float32:
            for part in (self._pipe.unet, self._pipe.vae):
                part.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        positive, negative = self._pipe.encode_prompt(
            list(prompts), "cpu", 1, True, negative_prompt=[""] * len(prompts)
        )
        return positive, negative

    def denoise(self, embeddings: tuple[Tensor, Tensor], seeds: Sequence[int]) -> Tensor:
        positive, negative = embeddings
        latents: Tensor = self._pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=self._work.steps,
            guidance_scale=self._work.guidance_scale,
            output_type="latent",
        ).images
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Sequence[Pixels]:
        vae = self._pipe.vae
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        pictures = self._pipe.image_processor.postprocess(decoded, output_type="np")
        return list((pictures * 255).round().astype(np.uint8))
