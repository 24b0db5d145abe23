from __future__ import annotations

import asyncio
import io
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import DeadlineExceeded, GenerationFailed, InvalidRequest, QueueFull
from core.specs import AdapterUse, Face, InpaintMode, InpaintSpec, Presentation, Strategy, SwapScope
from core.types import Accepted, Completed, OutputFormat, PipelineEvent, Preview, Progress
from deployments.pipeline.gender_swap.families import facts_of
from deployments.pipeline.gender_swap.pipeline import GenderSwapPipeline
from tests.deployments.pipeline.gender_swap.studio import (
    BACKGROUND,
    BLACK,
    FACE,
    WHITE,
    ScriptedPainter,
    flat,
    found,
    model,
    opened,
    portrait,
    spec_of,
)
from tests.fakes import FakePerception

PERSON = (portrait() != BACKGROUND).any(axis=-1)
MASKS = {"hair, face, clothes": found(PERSON), "background": found(~PERSON)}


def repainted(spec: InpaintSpec) -> Any:
    """White where the mask paints, as an inpainting pipeline does it."""
    assert spec.mask is not None
    pixels = portrait()
    pixels[np.asarray(Image.open(io.BytesIO(spec.mask))) > 0] = WHITE
    return pixels


class Studio:
    """The pipeline and all that it composes."""

    def __init__(self, *scripts: Any, faces: int = 1, family: str = "mini") -> None:
        self.perception = FakePerception(masks=MASKS, faces=[FACE] * faces)
        self.inpaint, self.image_to_image = ScriptedPainter(*scripts), ScriptedPainter(*scripts)
        self.pipeline = GenderSwapPipeline(model(family), self.perception, self.inpaint, self.image_to_image)

    async def events(self, **changes: Any) -> list[PipelineEvent]:
        return [event async for event in self.pipeline.generate(spec_of(**changes))]

    async def completed(self, **changes: Any) -> Completed:
        *_, last = await self.events(**changes)
        assert isinstance(last, Completed)
        return last


async def test_a_portrait_is_inpainted_inside_its_mask() -> None:
    studio = Studio(repainted)
    events = await studio.events(prompt="a hat")
    assert [type(event) for event in events] == [Accepted, Progress, Preview, Progress, Completed]
    (asked,) = studio.inpaint.specs
    assert (asked.mode, asked.strength) == (InpaintMode.REPLACE, facts_of("mini").strength(0.6))
    assert (asked.seed, asked.num_inference_steps) == (7, 30)
    assert asked.prompt.endswith("a hat")
    assert studio.image_to_image.specs == []


async def test_the_background_stays_bit_for_bit() -> None:
    studio = Studio(repainted)
    completed = await studio.completed(target=Presentation.MAN)
    pixels = opened(completed.pictures[0].image)
    assert (pixels[PERSON] == WHITE).all()
    assert (pixels[~PERSON] == BACKGROUND).all()


async def test_a_woman_gets_room_for_hair_and_a_man_does_not() -> None:
    woman, man = Studio(repainted), Studio(repainted)
    await woman.events(target=Presentation.WOMAN)
    await man.events(target=Presentation.MAN)
    painted = [opened(studio.inpaint.specs[0].mask)[..., 0] > 0 for studio in (woman, man)]
    assert (painted[1] == PERSON).all()
    assert painted[0].sum() > painted[1].sum()
    assert painted[0][painted[1]].all()


async def test_the_whole_picture_goes_through_image_to_image() -> None:
    studio = Studio(flat(WHITE))
    completed = await studio.completed(scope=SwapScope.WHOLE, output_format=OutputFormat.JPEG)
    (asked,) = studio.image_to_image.specs
    assert (asked.strategy, asked.max_width, asked.max_height) == (Strategy.RESTYLE, 64, 64)
    assert completed.pictures[0].media_type == "image/jpeg"
    assert "mask" not in studio.perception.asked
    assert studio.inpaint.specs == []


async def test_the_file_is_of_the_format_asked_for_and_says_how_it_was_made() -> None:
    studio = Studio(repainted)
    completed = await studio.completed(output_format=OutputFormat.WEBP)
    assert studio.inpaint.specs[0].output_format is OutputFormat.PNG
    file = Image.open(io.BytesIO(completed.pictures[0].image))
    assert (file.format, completed.pictures[0].media_type) == ("WEBP", "image/webp")
    assert "made from" in str(file.getexif().get_ifd(0x8769)[0x9286].replace(b"\0", b""))


@pytest.mark.parametrize(("num", "words"), [(0, "no face"), (2, "2 faces")])
async def test_exactly_one_face_is_needed(num: int, words: str) -> None:
    studio = Studio(repainted, faces=num)
    with pytest.raises(InvalidRequest, match=words) as caught:
        await studio.events()
    assert caught.value.field == "image"
    assert studio.perception.asked == ["faces"]
    assert studio.inpaint.specs == []


@pytest.mark.parametrize("scope", SwapScope)
async def test_the_members_adapters_go_with_every_run(scope: SwapScope) -> None:
    studio = Studio(flat(BLACK), repainted if scope is SwapScope.PORTRAIT else flat(WHITE))
    use = AdapterUse(adapter_id="adp_1", weight=0.7, sha256="", subject_words="sks man")
    await studio.completed(scope=scope, adapters=(use,))
    composed = studio.inpaint if scope is SwapScope.PORTRAIT else studio.image_to_image
    first, again = composed.specs
    assert first.adapters == again.adapters == (use,)
    assert "portrait of sks woman" in first.prompt


async def test_an_unreadable_picture_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        await Studio(repainted).events(image=b"no picture")


async def test_a_black_picture_is_painted_again_a_tenth_stronger() -> None:
    studio = Studio(flat(BLACK), repainted)
    events = await studio.events(num_images=1)
    kinds = [type(event) for event in events]
    assert kinds == [Accepted, Progress, Preview, Progress, Progress, Preview, Progress, Completed]
    steps = [(event.step, event.num_steps) for event in events if isinstance(event, Progress)]
    assert steps == [(2, 4), (4, 4), (6, 8), (8, 8)]
    first, second = studio.inpaint.specs
    assert second.strength == facts_of("mini").strength(0.7) > first.strength
    assert second.seed == first.seed
    last = events[-1]
    assert isinstance(last, Completed)
    assert last.timings.denoise_s == 2.0
    assert (opened(last.pictures[0].image)[PERSON] == WHITE).all()


async def test_only_the_black_pictures_of_a_request_are_painted_again() -> None:
    turns = iter([repainted, lambda spec: flat(BLACK), repainted, repainted])
    studio = Studio(lambda spec: next(turns)(spec), lambda spec: next(turns)(spec))
    events = await studio.events(num_images=3)
    again = studio.inpaint.specs[1]
    assert (again.num_images, again.seed) == (1, 8)
    last = events[-1]
    assert isinstance(last, Completed)
    assert [(picture.index, picture.seed) for picture in last.pictures] == [(0, 7), (1, 8), (2, 9)]
    assert [event.index for event in events if isinstance(event, Preview)] == [0, 1]


@pytest.mark.parametrize(("strength", "num_runs"), [(0.6, 2), (1.0, 1)])
async def test_a_picture_that_stays_black_is_no_result(strength: float, num_runs: int) -> None:
    studio = Studio(flat(BLACK), flat(BLACK))
    with pytest.raises(GenerationFailed):
        await studio.events(strength=strength)
    assert len(studio.inpaint.specs) == num_runs


async def test_the_painters_errors_are_the_swaps_errors() -> None:
    studio = Studio(QueueFull("full"))
    with pytest.raises(QueueFull):
        await studio.events()
    assert studio.inpaint.num_closed == 1


async def test_closing_the_swap_closes_what_it_started() -> None:
    studio = Studio(None)
    async with aclosing(studio.pipeline.generate(spec_of())) as events:
        assert isinstance(await anext(events), Accepted)
    assert studio.inpaint.num_closed == 1


async def test_cancelling_while_perception_looks_cancels_all_its_questions() -> None:
    studio = Studio(repainted)
    waiting = WaitingPerception()
    pipeline = GenderSwapPipeline(model(), waiting, studio.inpaint, studio.image_to_image)
    task = asyncio.create_task(anext(pipeline.generate(spec_of())))
    await waiting.all_asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.num_cancelled == 3
    assert studio.inpaint.specs == []


async def test_the_time_that_perception_took_counts() -> None:
    studio = Studio(repainted)
    await studio.events(deadline_s=50.0)
    assert 0 < studio.inpaint.specs[0].deadline_s < 50.0
    with pytest.raises(DeadlineExceeded):
        await studio.events(deadline_s=1e-6)


async def test_a_photograph_is_masked_by_what_is_found_alone() -> None:
    studio = Studio(repainted, family="sd15")
    await studio.events(target=Presentation.MAN)
    painted = opened(studio.inpaint.specs[0].mask)[..., 0] > 0
    # FakePerception finds none of the photographs' words: the face is left.
    assert painted.sum() == FACE.box.width * FACE.box.height


class WaitingPerception:
    """Finds one face and answers nothing else."""

    def __init__(self) -> None:
        self.all_asked = asyncio.Event()
        self.num_cancelled = 0
        self._num_asked = 0

    async def faces(self, image: bytes) -> tuple[Face, ...]:
        return (FACE,)

    async def mask(self, spec: Any) -> Any:
        await self._wait()

    async def describe(self, image: bytes, questions: Any) -> Any:
        await self._wait()

    async def _wait(self) -> None:
        self._num_asked += 1
        if self._num_asked == 3:
            self.all_asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
