"""Inpainting in one process: real text encoder, VAE, engine and UNet of the tiny family."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.errors import InvalidRequest, MissingPart
from core.specs import Box, FoundMask, InpaintMode, InpaintSpec, Margins, MaskSpec
from core.types import Accepted, Completed, Progress
from deployments.pipeline.inpainting.conditioning import conditioning_for
from deployments.pipeline.inpainting.pipeline import InpaintPipeline
from deployments.pipeline.painting import Painter
from deployments.pipeline.parts import PipelineParts
from tests.deployments.pipeline.inpainting.pictures import (
    MASK,
    PICTURE,
    SPEC,
    box_mask,
    noise_picture,
    painted,
    planning,
    png,
)
from tests.replicas import Replicas


def pipeline(parts: PipelineParts, replicas: Replicas) -> InpaintPipeline:
    return InpaintPipeline(parts, Painter(replicas.denoise), planning(conditioning_for(parts, 4)))


@pytest.fixture
def inpaint(tiny_parts: PipelineParts, replicas: Replicas) -> InpaintPipeline:
    return pipeline(tiny_parts, replicas)


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize(("width", "height"), [(50, 37), (32, 32), (200, 20), (1, 1)])
async def test_outside_the_mask_every_pixel_of_every_picture_is_kept(
    inpaint: InpaintPipeline, width: int, height: int, only_masked: bool
) -> None:
    picture = noise_picture(width, height)
    mask = box_mask(width, height, width // 3, height // 4, width // 3 + 9, height // 4 + 7)
    spec = replace(
        SPEC,
        image=png(picture),
        mask=png(mask),
        mask_grow=2,
        mask_feather=1,
        num_images=2,
        only_masked=only_masked,
        only_masked_padding=3,
    )
    results, _ = await painted(inpaint, spec)
    grown = (
        box_mask(
            width, height, max(0, width // 3 - 2), max(0, height // 4 - 2), width // 3 + 11, height // 4 + 9
        )
        > 0
    )
    for result in results:
        assert result.shape == picture.shape
        assert np.array_equal(result[~grown], picture[~grown])
        assert (result != picture).any()
    assert (results[0] != results[1]).any()


async def test_a_full_mask_paints_everything(inpaint: InpaintPipeline) -> None:
    whole = replace(SPEC, mask=png(np.full((32, 32), 255, np.uint8)))
    (first,), _ = await painted(inpaint, whole)
    (other,), _ = await painted(inpaint, replace(whole, image=png(255 - PICTURE)))
    # At full strength nothing of the picture is left.
    assert np.array_equal(first, other)


async def test_events_tell_of_the_steps_that_strength_leaves(inpaint: InpaintPipeline) -> None:
    _, events = await painted(inpaint, replace(SPEC, strength=0.5))
    assert isinstance(events[0], Accepted)
    assert {event.num_steps for event in events if isinstance(event, Progress)} == {4}


async def test_a_box_is_painted_and_named_when_it_lies_outside(inpaint: InpaintPipeline) -> None:
    boxed = replace(SPEC, mask=None, box=Box(left=8, top=4, width=16, height=24), mode=InpaintMode.ADD)
    (by_box,), _ = await painted(inpaint, boxed)
    (by_mask,), _ = await painted(inpaint, SPEC)
    assert np.array_equal(by_box, by_mask)
    with pytest.raises(InvalidRequest) as refusal:
        await painted(inpaint, replace(boxed, box=Box(left=40, top=0, width=5, height=5)))
    assert refusal.value.field == "box"


async def test_words_find_the_mask_and_a_caption_completes_the_prompt(
    tiny_parts: PipelineParts, replicas: Replicas
) -> None:
    asked: list[MaskSpec] = []

    async def find_mask(spec: MaskSpec) -> FoundMask:
        asked.append(spec)
        # Doubt around the thing is not painted.
        soft = np.maximum(MASK, 100)
        return FoundMask(mask=png(soft), coverage=0.4, width=32, height=32)

    async def describe(
        image: bytes, questions: Mapping[str, tuple[str, ...]]
    ) -> Mapping[str, Mapping[str, float]]:
        assert image == SPEC.image
        return {
            name: {phrase: float(phrase == phrases[0]) for phrase in phrases}
            for name, phrases in questions.items()
        }

    parts = replace(tiny_parts, info=replace(tiny_parts.info, family="mini"))
    inpaint = InpaintPipeline(
        parts,
        Painter(replicas.denoise),
        planning(conditioning_for(parts, 4), "mini"),
        find_mask=find_mask,
        describe=describe,
    )
    spec = replace(SPEC, mask=None, mask_prompt="hair", prompt="blue hair")
    events = [event async for event in inpaint.generate(spec)]
    assert [(each.words, each.image) for each in asked] == [("hair", SPEC.image)]
    assert isinstance(events[-1], Completed)
    picture = Image.open(io.BytesIO(events[-1].pictures[0].image))
    caption = "cartoon portrait of a man, light skin, bald, red clothes, white background, blue hair"
    assert picture.info["parameters"].splitlines()[0] == caption
    kept = MASK == 0
    assert np.array_equal(np.asarray(picture)[kept], PICTURE[kept])


async def test_words_that_match_nothing_are_refused(tiny_parts: PipelineParts, replicas: Replicas) -> None:
    async def find_mask(spec: MaskSpec) -> FoundMask:
        return FoundMask(mask=png(np.zeros((32, 32), np.uint8)), coverage=0.0, width=32, height=32)

    nothing = InpaintPipeline(
        tiny_parts, Painter(replicas.denoise), planning(conditioning_for(tiny_parts, 4)), find_mask=find_mask
    )
    by_words = replace(SPEC, mask=None, mask_prompt="unicorn")
    with pytest.raises(InvalidRequest) as refusal:
        await painted(nothing, by_words)
    assert refusal.value.field == "mask_prompt"
    with pytest.raises(MissingPart):
        await painted(pipeline(tiny_parts, replicas), by_words)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mask": png(np.zeros((32, 32), np.uint8))}, "mask"),
        ({"mask": png(np.full((16, 16), 255, np.uint8))}, "mask"),
        ({"mask": None}, "mask"),
        ({"mask": b"no picture"}, "mask"),
        ({"image": b"no picture"}, "image"),
        ({"mode": InpaintMode.OUTPAINT}, "margins"),
        ({"mode": InpaintMode.OUTPAINT, "margins": Margins()}, "margins"),
    ],
)
async def test_what_cannot_be_painted_is_refused_by_name(
    inpaint: InpaintPipeline, change: Mapping[str, object], field: str
) -> None:
    spec: InpaintSpec = replace(SPEC, **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refusal:
        await painted(inpaint, spec)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("margins", "num_passes"),
    [(Margins(left=8, top=5, right=3, bottom=1), 1), (Margins(right=40), 3)],
)
async def test_outpainting_enlarges_the_picture_and_keeps_it(
    inpaint: InpaintPipeline, margins: Margins, num_passes: int
) -> None:
    spec = replace(SPEC, mode=InpaintMode.OUTPAINT, mask=None, margins=margins, mask_feather=2)
    (result,), events = await painted(inpaint, spec)
    top, left = margins.top, margins.left
    assert result.shape == (32 + top + margins.bottom, 32 + left + margins.right, 3)
    assert np.array_equal(result[top : top + 32, left : left + 32], PICTURE)
    assert {event.num_steps for event in events if isinstance(event, Progress)} == {8 * num_passes}
    edge = np.pad(PICTURE, ((top, margins.bottom), (left, margins.right), (0, 0)), mode="edge")
    assert (result != edge).any()


async def test_removal_does_not_see_what_it_removes(inpaint: InpaintPipeline) -> None:
    spec = replace(SPEC, mode=InpaintMode.REMOVE, strength=0.6)
    changed = PICTURE.copy()
    changed[MASK > 0] = 0
    (first,), _ = await painted(inpaint, spec)
    (other,), _ = await painted(inpaint, replace(spec, image=png(changed)))
    assert np.array_equal(first, other)
