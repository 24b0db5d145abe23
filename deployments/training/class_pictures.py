"""Pictures of a subject's class, drawn by the service itself and kept for every training of that class.

They keep a training from turning every person into this one (prior preservation, Ruiz et al. 2023). Knows the
text-to-image pipeline and the blobs; not jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from core.errors import GenerationFailed, LimnerError, ModerationBlocked
from core.specs import TextToImageSpec
from core.telemetry import log, logger
from core.training import TrainingSpec
from core.types import Completed, ModelInfo, PipelineEvent, Priority
from deployments.training.families import class_prompt
from store import keys
from store.blobs import Blobs

_LOG = logger(__name__)

Generate = Callable[[TextToImageSpec], AsyncGenerator[PipelineEvent, None]]

_BATCH = 4
# Replicas that are starting need a minute.
_NUM_TRIES, _PAUSE_S = 30, 5.0
_NUM_OTHERS = 5
# Seeds of pictures that take the place of blocked ones lie this far beyond.
_OTHER_SEEDS = 100_000


class ClassPictures:
    """Makes what is missing. Two trainings of one class make its pictures once."""

    def __init__(self, blobs: Blobs, generate: Generate, model: ModelInfo) -> None:
        self._blobs = blobs
        self._generate = generate
        self._model = model
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def missing(self, spec: TrainingSpec) -> list[int]:
        """Numbers of the pictures that ``spec`` asks for and nobody has made yet. Reads the store."""
        wanted = range(1, spec.options.num_class_pictures + 1) if spec.options.prior_weight else ()
        there = set(self._blobs.keys(keys.class_pictures(spec.model_id, spec.subject)))
        return [each for each in wanted if keys.class_picture(spec.model_id, spec.subject, each) not in there]

    async def complete(self, spec: TrainingSpec) -> None:
        """Draw the missing pictures at background priority and keep them.

        One that the safety check blocks again and again is left out. Raises the ``LimnerError`` of a
        pipeline that does not recover.
        """
        async with self._locks[keys.class_pictures(spec.model_id, spec.subject)]:
            missing = await asyncio.to_thread(self.missing, spec)
            for start in range(0, len(missing), _BATCH):
                for numbers in _runs(missing[start : start + _BATCH]):
                    await self._draw(spec, numbers)

    async def _draw(self, spec: TrainingSpec, numbers: Sequence[int]) -> None:
        """Consecutive numbers, whose seeds are the same for ever."""
        try:
            pictures = await self._patiently(spec, numbers[0], len(numbers))
        except ModerationBlocked:
            for number in numbers:
                await self._draw_other(spec, number)
            return
        for number, picture in zip(numbers, pictures, strict=True):
            await self._keep(spec, number, picture)

    async def _draw_other(self, spec: TrainingSpec, number: int) -> None:
        for attempt in range(1, _NUM_OTHERS + 1):
            try:
                (picture,) = await self._patiently(spec, number + attempt * _OTHER_SEEDS, 1)
            except ModerationBlocked:
                continue
            await self._keep(spec, number, picture)
            return
        log(_LOG, logging.WARNING, "class picture blocked", number=number)

    async def _patiently(self, spec: TrainingSpec, seed: int, num: int) -> list[bytes]:
        for _ in range(_NUM_TRIES - 1):
            try:
                return await self._pictures(spec, seed, num)
            except LimnerError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(error.retry_after_s or _PAUSE_S)
        return await self._pictures(spec, seed, num)

    async def _pictures(self, spec: TrainingSpec, seed: int, num: int) -> list[bytes]:
        model = self._model
        asked = TextToImageSpec(
            request_id=spec.request_id,
            prompt=class_prompt(model.family, spec.subject),
            negative_prompt="",
            num_inference_steps=model.default_num_inference_steps,
            guidance_scale=model.default_guidance_scale,
            seed=seed,
            num_images=num,
            sampler=model.default_sampler,
            user_id=spec.user_id,
            priority=Priority.BACKGROUND,
            width=model.default_size,
            height=model.default_size,
        )
        async with aclosing(self._generate(asked)) as events:
            async for event in events:
                if isinstance(event, Completed):
                    return [picture.image for picture in event.pictures]
        raise GenerationFailed("The class pictures' stream ended without them.")

    async def _keep(self, spec: TrainingSpec, number: int, picture: bytes) -> None:
        key = keys.class_picture(spec.model_id, spec.subject, number)
        await asyncio.to_thread(self._blobs.write, key, picture)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """``numbers``, ascending, cut where one is left out."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
