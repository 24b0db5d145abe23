"""What every pipeline shares: a request's pictures painted side by side, and told as one stream of events.

Knows events, tallies, previews and cancellation; not how a picture comes about. No ray, no HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from core import images
from core.errors import DeadlineExceeded, ModerationBlocked, RequestCancelled
from core.specs import GenerationSpec
from core.types import Accepted, Completed, OutputFormat, Picture, PipelineEvent, Preview, Progress, Timings
from deployments.engine import request as engine
from deployments.pipeline.denoising import Denoise, denoise_to_the_end
from deployments.pipeline.embeds import Embeds
from deployments.pipeline.tally import Tally

# How far one picture moves the estimate of what follows decoding.
_LEARN = 0.2

# Raises ModerationBlocked when one of the picture files must not be shown, and MissingPart, even for none
# of them, when nothing can check any.
Moderate = Callable[[Sequence[bytes]], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """An engine event of pass ``number`` of picture ``index``; the pass has ``num_steps``."""

    index: int
    number: int
    num_steps: int
    event: engine.Accepted | engine.Progressed


_Message = _Told | Preview | Picture | BaseException


@dataclass(slots=True, eq=False)
class Stroke:
    """One picture of a request while it is painted: its place, its seed, its way to the Denoiser."""

    index: int
    seed: int
    _denoise: Denoise
    _told: asyncio.Queue[_Message]
    _request_id: str
    _preview_size: int
    _deadline: float | None
    denoised_at: float = 0.0
    painted_at: float = 0.0
    engine_s: float = 0.0
    _num_passes: int = field(default=0, init=False)

    async def denoise(self, request: engine.DenoiseRequest) -> torch.Tensor:
        """The denoised latents ``[channels, h, w]``; several passes may run at the same time.

        Id and deadline of ``request`` are set here. Raises the ``LimnerError`` that ended it.
        """
        number = self._num_passes
        self._num_passes += 1
        request = replace(request, request_id=f"{self._request_id}.{number}", deadline_s=self._time_left())
        num_steps = request.num_inference_steps - request.first_step
        latents: torch.Tensor | None = None
        async with aclosing(denoise_to_the_end(self._denoise, request)) as events:
            async for event in events:
                match event:
                    case engine.Accepted() | engine.Progressed():
                        self._told.put_nowait(_Told(self.index, number, num_steps, event))
                    case engine.Previewed(step=step, rgb=rgb):
                        small = await asyncio.to_thread(_preview_png, rgb, self._preview_size)
                        self._told.put_nowait(Preview(self.index, step, small))
                    case engine.Done():
                        latents = event.latents
                        self.engine_s += event.queued_s + event.denoise_s
        assert latents is not None, "a stream that raises nothing ends with Done"
        self.denoised_at = time.monotonic()
        return latents

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("The deadline passed before the picture was done.")
        return left_s


PaintOne = Callable[[Stroke], Awaitable[Picture]]


class Painter:
    """Paints the pictures of a request, all of them at once in the Denoiser's running batch."""

    def __init__(
        self, denoise: Denoise, *, preview_size: int = 128, moderate: Moderate | None = None
    ) -> None:
        self._denoise = denoise
        self._preview_size = preview_size
        self._moderate = moderate
        # What follows the steps beside decoding: waiting for others' pictures, files, checks.
        self._after_s = 0.0

    async def paint(
        self, spec: GenerationSpec, paint_one: PaintOne, *, num_steps: int, decode_s: float, began: float
    ) -> AsyncGenerator[PipelineEvent, None]:
        """Yield ``Accepted`` first, ``Completed`` last, progress and previews between them.

        ``num_steps`` is that of one picture over all its passes, ``decode_s`` what follows them, ``began``
        the ``time.monotonic`` at which the request came. Raises the first error of any picture, after
        cancelling the others. Closing the generator, or cancelling its task, cancels every picture.
        """
        if self._moderate is not None:
            # Better no picture than one that nothing could check at the end.
            await self._moderate([])
        encoded = time.monotonic()
        told: asyncio.Queue[_Message] = asyncio.Queue()
        # What comes before and after denoising is part of the time that the client gives.
        after_s = decode_s + self._after_s
        deadline = None if spec.deadline_s is None else began + spec.deadline_s - after_s
        strokes = self._strokes(spec, told, encoded, deadline)
        painting = [asyncio.create_task(_paint(paint_one, stroke, told)) for stroke in strokes]
        for task in painting:
            task.add_done_callback(lambda done: _tell_failure(done, told))
        try:
            tally = Tally(spec.num_images, num_steps, after_s)
            pictures: dict[int, Picture] = {}
            announced = False
            while len(pictures) < spec.num_images:
                message = await told.get()
                match message:
                    case BaseException():
                        raise message
                    case Picture():
                        pictures[message.index] = message
                    case Preview() if announced and await self._may_show(message):
                        yield message
                    case _Told():
                        now = time.monotonic()
                        tally.note(message.index, message.number, message.num_steps, message.event, now)
                        if not announced and tally.accepted:
                            announced = True
                            yield Accepted(spec.request_id, tally.predicted_finish_s(now))
                        elif announced and isinstance(message.event, engine.Progressed) and told.empty():
                            yield Progress(tally.step, tally.num_steps, tally.predicted_finish_s(now))
            finished = tuple(pictures[index] for index in range(spec.num_images))
            if self._moderate is not None:
                await self._moderate([picture.image for picture in finished])
            timings = _timings(strokes, began, encoded, time.monotonic())
            self._after_s += _LEARN * (max(timings.decode_s - decode_s, 0.0) - self._after_s)
            yield Completed(finished, timings)
        finally:
            for task in painting:
                task.cancel()
            await asyncio.gather(*painting, return_exceptions=True)

    def _strokes(
        self, spec: GenerationSpec, told: asyncio.Queue[_Message], now: float, deadline: float | None
    ) -> list[Stroke]:
        # A request that its client repeats must not meet its former self in a Denoiser.
        request_id = f"{spec.request_id}/{secrets.token_hex(4)}"
        return [
            Stroke(
                index,
                (spec.seed + index) % 2**32,
                self._denoise,
                told,
                f"{request_id}/{index}",
                self._preview_size,
                deadline,
                denoised_at=now,
                painted_at=now,
            )
            for index in range(spec.num_images)
        ]

    async def _may_show(self, preview: Preview) -> bool:
        if self._moderate is None:
            return True
        try:
            await self._moderate([preview.image])
        except ModerationBlocked:
            return False
        return True


def _timings(strokes: Sequence[Stroke], began: float, encoded: float, ended: float) -> Timings:
    """Where the time went; passes that ran side by side were in the engine at the same time."""
    denoised, painted = (
        max(getattr(each, name) for each in strokes) for name in ("denoised_at", "painted_at")
    )
    return Timings(
        encode_s=encoded - began,
        denoise_s=denoised - encoded,
        decode_s=ended - denoised,
        total_s=ended - began,
        engine_s=min(max(each.engine_s for each in strokes), denoised - encoded),
        file_s=ended - max(painted, denoised),
    )


def request_of(
    spec: GenerationSpec,
    stroke: Stroke,
    embeds: Embeds,
    noise: torch.Tensor,
    factor: int,
) -> engine.DenoiseRequest:
    """What ``spec`` says of every pass: ``dataclasses.replace`` adds a source, a mask and the like.

    ``factor`` is how many pixels a latent of the model stands for, along each side.
    """
    height, width = (side * factor for side in noise.shape[1:])
    added = embeds.added_conditions(width, height)
    return engine.DenoiseRequest(
        request_id="",
        user_id=spec.user_id,
        prompt_embeds=embeds.positive,
        negative_embeds=embeds.negative,
        added_conditions=added.own,
        negative_added_conditions=added.negative,
        noise=noise,
        sampler=spec.sampler,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        seed=stroke.seed,
        priority=spec.priority,
        preview_every=spec.preview_every,
        progress=spec.progress,
        traceparent=spec.traceparent,
        adapters=tuple(
            engine.AdapterInput(adapter_id=use.adapter_id, weight=use.weight, sha256=use.sha256)
            for use in spec.adapters
        ),
        few_step=spec.few_step,
    )


async def _paint(paint_one: PaintOne, stroke: Stroke, told: asyncio.Queue[_Message]) -> None:
    told.put_nowait(await paint_one(stroke))


def _tell_failure(painted: asyncio.Task[None], told: asyncio.Queue[_Message]) -> None:
    if painted.cancelled():
        told.put_nowait(RequestCancelled("The request was cancelled."))
    elif error := painted.exception():
        told.put_nowait(error)


def _preview_png(rgb: npt.NDArray[np.uint8], longest_side: int) -> bytes:
    height, width = rgb.shape[:2]
    scale = longest_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    larger = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
    return images.encode(np.asarray(larger), OutputFormat.PNG)
