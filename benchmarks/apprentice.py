"""Adapters of characters, trained and used in this process through the service's own parts.

Knows the training, the store and the pipelines; not what pictures should show.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.characters import Character, Wear
from benchmarks.in_process import InProcess
from benchmarks.swaps import Pixels
from core.errors import InvalidRequest
from core.specs import (
    AdapterUse,
    GenderSwapSpec,
    InpaintMode,
    InpaintSpec,
    Presentation,
    SwapScope,
    TextToImageSpec,
)
from core.training import Progress, TrainingOptions
from core.types import Completed, PipelineEvent
from deployments.training import families
from deployments.training.run import TrainingInputs, train
from store import keys
from store.blobs import Blobs

SUBJECT, TRIGGER = "person", "sks"
_SWAP_STEPS, _SWAP_STRENGTH = 30, 0.6


class Stopwatch:
    """A reporter that keeps nothing but where the time went: seconds by stage, and of samples."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.losses: list[float] = []
        self._stage, self._since = "", time.perf_counter()

    def stage(self, words: str) -> None:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = words, now

    def progress(self, progress: Progress) -> None:
        if progress.loss is not None:
            self.losses.append(progress.loss)

    def sample(self, step: int, png: bytes) -> None:
        """Nobody looks at it here."""

    def checkpoint(self, data: bytes) -> None:
        """Nothing is killed here."""


class Apprentice:
    """Trains characters' adapters and draws with them; pictures are ``[128, 128, 3]``."""

    def __init__(self, pipelines: InProcess, blobs: Blobs) -> None:
        self._pipelines, self._blobs = pipelines, blobs
        self._info = pipelines.info

    async def class_pictures(self, num: int) -> list[bytes]:
        """What the service draws anybody of the subject's class as."""
        prompt = families.class_prompt(self._info.family, SUBJECT)
        return await asyncio.gather(*(self._file(self._spec(prompt, seed)) for seed in range(num)))

    def learn(
        self, character: Character, wears: Sequence[Wear], others: Sequence[bytes], options: TrainingOptions
    ) -> tuple[AdapterUse, Stopwatch]:
        """The adapter of a character, trained on pictures in so many clothes, and where the time went."""
        watch = Stopwatch()
        data = train(
            TrainingInputs(
                model_id=self._info.model_id,
                subject=SUBJECT,
                trigger=TRIGGER,
                photos=[character.picture(wear) for wear in wears],
                class_pictures=others,
                options=options,
            ),
            watch,
        )
        watch.stage("done")
        adapter_id = keys.new_id("adp")
        self._blobs.write(keys.adapter_file(adapter_id), data)
        use = AdapterUse(
            adapter_id=adapter_id,
            weight=1.0,
            sha256=hashlib.sha256(data).hexdigest(),
            subject_words=f"{TRIGGER} {SUBJECT}",
            has_text_encoder=options.train_text_encoder,
        )
        return use, watch

    async def draw(
        self, prompts: Sequence[str], adapter: AdapterUse | None, *, few_step: bool = False
    ) -> list[Pixels]:
        """A picture of each prompt, all of them in one running batch."""
        specs = [self._spec(prompt, seed, adapter) for seed, prompt in enumerate(prompts)]
        if few_step:
            specs = [self._in_few_steps(spec) for spec in specs]
        return [pixels_of(file) for file in await asyncio.gather(*map(self._file, specs))]

    async def inpaint(
        self, images: Sequence[bytes], words: str, prompts: Sequence[str], adapter: AdapterUse | None
    ) -> list[Pixels]:
        """Each picture with what ``words`` name in it painted anew; one that is refused stays as it was."""
        specs = [
            self._of(
                InpaintSpec, prompt, seed, adapter, image=image, mode=InpaintMode.REPLACE, mask_prompt=words
            )
            for seed, (image, prompt) in enumerate(zip(images, prompts, strict=True))
        ]
        return await asyncio.gather(*(_changed(spec.image, self._pipelines.inpaint(spec)) for spec in specs))

    async def swap(
        self, images: Sequence[bytes], target: Presentation, adapter: AdapterUse | None
    ) -> list[Pixels]:
        """Gender swaps of portraits; one that is refused stays as it was."""
        specs = [
            replace(
                self._of(
                    GenderSwapSpec,
                    "",
                    seed,
                    adapter,
                    image=image,
                    target=target,
                    scope=SwapScope.PORTRAIT,
                    strength=_SWAP_STRENGTH,
                ),
                num_inference_steps=_SWAP_STEPS,
            )
            for seed, image in enumerate(images)
        ]
        swap = self._pipelines.gender_swap.generate
        return await asyncio.gather(*(_changed(spec.image, swap(spec)) for spec in specs))

    async def _file(self, spec: TextToImageSpec) -> bytes:
        return (await _last(self._pipelines.text_to_image.generate(spec))).pictures[0].image

    def _spec(self, prompt: str, seed: int, adapter: AdapterUse | None = None) -> TextToImageSpec:
        side = self._info.default_size
        spec: TextToImageSpec = self._of(TextToImageSpec, prompt, seed, adapter, width=side, height=side)
        return spec

    def _in_few_steps(self, spec: TextToImageSpec) -> TextToImageSpec:
        settings = self._info.few_step
        assert settings is not None, "the embedded model has a few-step adapter"
        return replace(
            spec,
            few_step=True,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            sampler=settings.sampler,
        )

    def _of(self, kind: Any, prompt: str, seed: int, adapter: AdapterUse | None, **own: Any) -> Any:
        info = self._info
        return kind(
            request_id=f"{kind.__name__}-{seed}",
            prompt=prompt,
            negative_prompt="",
            num_inference_steps=info.default_num_inference_steps,
            guidance_scale=info.default_guidance_scale,
            seed=seed,
            num_images=1,
            sampler=info.default_sampler,
            adapters=() if adapter is None else (adapter,),
            **own,
        )


async def _changed(image: bytes, events: AsyncGenerator[PipelineEvent, None]) -> Pixels:
    try:
        return pixels_of((await _last(events)).pictures[0].image)
    except InvalidRequest as refusal:
        print(f"refused: {refusal}", flush=True)
        return pixels_of(image)


async def _last(events: AsyncGenerator[PipelineEvent, None]) -> Completed:
    *_, last = [event async for event in events]
    assert isinstance(last, Completed), "a stream that raises nothing ends with Completed"
    return last


def pixels_of(file: bytes) -> Pixels:
    """The pixels of a picture file, ``[h, w, 3]``."""
    with Image.open(io.BytesIO(file)) as opened:
        return np.asarray(opened.convert("RGB"))
