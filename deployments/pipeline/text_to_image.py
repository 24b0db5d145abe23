"""Text to image: the life of one request, from its prompt to its picture files.

Knows the order of things; the text encoder, the VAE and the Denoiser are given to it. No ray, no HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from core import images
from core.errors import RequestCancelled
from core.types import (
    Accepted,
    Completed,
    OutputFormat,
    Picture,
    PipelineEvent,
    Preview,
    Progress,
    SamplerName,
    TextToImageSpec,
    Timings,
)
from deployments.engine import request as engine
from deployments.pipeline.decoder import PictureDecoder
from deployments.pipeline.denoising import Denoise, denoise_to_the_end
from deployments.pipeline.prompts import PromptEncoder

# The names that the A1111 web UI and the tools around it know.
_SAMPLER_LABELS = {
    SamplerName.DDIM: "DDIM",
    SamplerName.EULER: "Euler",
    SamplerName.EULER_A: "Euler a",
    SamplerName.DPMPP_2M: "DPM++ 2M",
    SamplerName.DPMPP_2M_KARRAS: "DPM++ 2M Karras",
    SamplerName.LCM: "LCM",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Denoised:
    """Picture ``index`` has left the Denoiser."""

    index: int
    at: float


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """An engine event of picture ``index``."""

    index: int
    event: engine.Accepted | engine.Progressed


_Message = _Told | _Denoised | Preview | Picture | BaseException


@dataclass(slots=True)
class _Tally:
    """How far the pictures of one request are, together. Times are those of ``time.monotonic``."""

    num_steps: int
    steps: list[int]
    finish_at: list[float | None]
    decode_s: float

    @classmethod
    def of(cls, spec: TextToImageSpec, decode_s: float) -> _Tally:
        return cls(
            num_steps=spec.num_inference_steps * spec.num_images,
            steps=[0] * spec.num_images,
            finish_at=[None] * spec.num_images,
            decode_s=decode_s,
        )

    def note(self, told: _Told, now: float) -> None:
        self.finish_at[told.index] = now + told.event.predicted_finish_s
        if isinstance(told.event, engine.Progressed):
            # A picture that starts over on another replica does not go back in the client's eyes.
            self.steps[told.index] = max(self.steps[told.index], told.event.step)

    @property
    def accepted(self) -> bool:
        return None not in self.finish_at

    def predicted_finish_s(self, now: float) -> float:
        latest = max(at for at in self.finish_at if at is not None)
        return max(0.0, latest - now) + self.decode_s

    def progress(self, now: float) -> Progress:
        return Progress(sum(self.steps), self.num_steps, self.predicted_finish_s(now))


class TextToImagePipeline:
    """Draws the pictures of a request, all of them at once in the Denoiser's running batch."""

    def __init__(
        self,
        model_id: str,
        prompts: PromptEncoder,
        decoder: PictureDecoder,
        denoise: Denoise,
        *,
        preview_size: int = 128,
    ) -> None:
        self._model_id = model_id
        self._prompts = prompts
        self._decoder = decoder
        self._denoise = denoise
        self._preview_size = preview_size

    async def generate(self, spec: TextToImageSpec) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last, progress and previews between them.

        Raises the first ``LimnerError`` of any picture, after cancelling the others. Closing the
        generator, or cancelling its task, cancels every picture.
        """
        began = time.monotonic()
        positive, negative = await self._prompts.encode_pair(
            spec.prompt, spec.negative_prompt if spec.guidance_scale > 1 else None, spec.clip_skip
        )
        encoded = time.monotonic()
        told: asyncio.Queue[_Message] = asyncio.Queue()
        # A request that its client repeats must not meet its former self in a Denoiser.
        request_id = f"{spec.request_id}/{secrets.token_hex(4)}"
        drawing = []
        for index in range(spec.num_images):
            request = self._request(spec, f"{request_id}/{index}", index, positive, negative)
            task = asyncio.create_task(self._draw(spec, request, index, told))
            task.add_done_callback(lambda done: _tell_failure(done, told))
            drawing.append(task)
        try:
            tally = _Tally.of(spec, self._decoder.estimate_s(spec.width, spec.height))
            pictures: dict[int, Picture] = {}
            denoised = encoded
            announced = False
            while len(pictures) < spec.num_images:
                message = await told.get()
                match message:
                    case BaseException():
                        raise message
                    case Picture():
                        pictures[message.index] = message
                    case Preview() if announced:
                        yield message
                    case _Denoised():
                        denoised = max(denoised, message.at)
                    case _Told():
                        now = time.monotonic()
                        tally.note(message, now)
                        if not announced and tally.accepted:
                            announced = True
                            yield Accepted(spec.request_id, tally.predicted_finish_s(now))
                        elif announced and isinstance(message.event, engine.Progressed) and told.empty():
                            yield tally.progress(now)
            ended = time.monotonic()
            timings = Timings(encoded - began, denoised - encoded, ended - denoised, ended - began)
            yield Completed(tuple(pictures[index] for index in range(spec.num_images)), timings)
        finally:
            for task in drawing:
                task.cancel()
            await asyncio.gather(*drawing, return_exceptions=True)

    def _request(
        self,
        spec: TextToImageSpec,
        request_id: str,
        index: int,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
    ) -> engine.DenoiseRequest:
        seed = _seed(spec, index)
        shape = (
            self._decoder.latent_channels,
            spec.height // self._decoder.factor,
            spec.width // self._decoder.factor,
        )
        return engine.DenoiseRequest(
            request_id=request_id,
            user_id=spec.user_id,
            prompt_embeds=positive,
            negative_embeds=negative,
            noise=engine.noise_for(seed, shape),
            sampler=spec.sampler,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            seed=seed,
            priority=spec.priority,
            deadline_s=spec.deadline_s,
            preview_every=spec.preview_every,
        )

    async def _draw(
        self,
        spec: TextToImageSpec,
        request: engine.DenoiseRequest,
        index: int,
        told: asyncio.Queue[_Message],
    ) -> None:
        """One picture; what happens to it goes to ``told``."""
        async with aclosing(denoise_to_the_end(self._denoise, request)) as events:
            async for event in events:
                match event:
                    case engine.Accepted() | engine.Progressed():
                        told.put_nowait(_Told(index, event))
                    case engine.Previewed(step=step, rgb=rgb):
                        small = await asyncio.to_thread(_preview_png, rgb, self._preview_size)
                        told.put_nowait(Preview(index, step, small))
                    case engine.Done(latents=latents):
                        told.put_nowait(_Denoised(index, time.monotonic()))
                        told.put_nowait(await self._finish(spec, index, latents))

    async def _finish(self, spec: TextToImageSpec, index: int, latents: torch.Tensor) -> Picture:
        pixels = await self._decoder.decode(latents)
        seed = _seed(spec, index)
        text = images.parameters_text(spec.prompt, spec.negative_prompt, self._parameters(spec, seed))
        image = await asyncio.to_thread(
            images.encode, pixels, spec.output_format, quality=spec.quality, parameters=text
        )
        return Picture(index, seed, image, spec.output_format.media_type)

    def _parameters(self, spec: TextToImageSpec, seed: int) -> dict[str, object]:
        parameters: dict[str, object] = {
            "Steps": spec.num_inference_steps,
            "Sampler": _SAMPLER_LABELS[spec.sampler],
            "CFG scale": spec.guidance_scale,
            "Seed": seed,
            "Size": f"{spec.width}x{spec.height}",
            "Model": self._model_id,
        }
        if spec.clip_skip:
            # A1111 counts from 1 for none.
            parameters["Clip skip"] = spec.clip_skip + 1
        return {**parameters, **spec.parameters}


def _tell_failure(drawn: asyncio.Task[None], told: asyncio.Queue[_Message]) -> None:
    if drawn.cancelled():
        told.put_nowait(RequestCancelled("The request was cancelled."))
    elif error := drawn.exception():
        told.put_nowait(error)


def _seed(spec: TextToImageSpec, index: int) -> int:
    return (spec.seed + index) % 2**32


def _preview_png(rgb: npt.NDArray[np.uint8], longest_side: int) -> bytes:
    height, width = rgb.shape[:2]
    scale = longest_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    larger = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
    return images.encode(np.asarray(larger), OutputFormat.PNG)
